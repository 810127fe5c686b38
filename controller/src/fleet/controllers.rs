//! Which addresses devices are told: those of this controller and of the others in the present view of the cluster.
//!
//! A device tries addresses in the order of its list. So the one that is meant comes first, and the others begin at a different
//! place for each device: when a controller dies, its devices do not all go to the same next one.

use std::sync::Arc;

use flotilla_cluster::{Member, NodeName, View, Views};
use flotilla_protocol::id::{DeviceId, ShardId, TenantId};
use tokio::sync::watch;

/// What a device keeps.
pub const ADDRESSES_MAX: usize = 32;

/// Cheap to clone.
#[derive(Clone)]
pub struct Controllers {
    own: NodeName,
    own_addresses: Arc<[String]>,
    views: Views,
}

impl Controllers {
    /// `own_addresses` are `host:port`, as devices reach this controller.
    pub fn new(own: NodeName, own_addresses: Arc<[String]>, views: Views) -> Self {
        Self { own, own_addresses, views }
    }

    /// For a controller without a cluster: there is no other one, ever.
    pub fn alone(own: NodeName, own_addresses: Arc<[String]>) -> Self {
        // The sender may go: a receiver keeps the last value.
        let (_, views) = watch::channel(Arc::default());
        Self { own, own_addresses, views }
    }

    pub fn own(&self) -> &NodeName {
        &self.own
    }

    /// Every controller, this one first. `spread` is any number of the device's own.
    pub fn all(&self, spread: u64) -> Vec<String> {
        let view = self.views.borrow();
        let others = others(&view, &self.own, &self.own, spread);
        bounded(self.own_addresses.iter().chain(rounds(&others)), ADDRESSES_MAX)
    }

    /// For an enrolment code: one address of each controller before the second of any, this one's first.
    pub fn for_code(&self, spread: u64, addresses_max: usize) -> Vec<String> {
        let view = self.views.borrow();
        let mut all = others(&view, &self.own, &self.own, spread);
        all.insert(0, &self.own_addresses);
        bounded(rounds(&all), addresses_max)
    }

    /// The controllers without this one; empty while it is alone.
    pub fn others(&self, spread: u64) -> Vec<String> {
        let view = self.views.borrow();
        bounded(rounds(&others(&view, &self.own, &self.own, spread)), ADDRESSES_MAX)
    }

    /// The leader of a tenant's shard, then the others, if another node than this one is known to lead it.
    pub fn leader_elsewhere(&self, tenant: TenantId, spread: u64) -> Option<Vec<String>> {
        let view = self.views.borrow();
        let shards = u16::try_from(view.leaders.len()).ok().filter(|shards| *shards > 0)?;
        let (leader, _) = view.leader(ShardId::of(tenant, shards))?;
        if leader.name == self.own || leader.quic.is_empty() {
            return None;
        }
        let others = others(&view, &self.own, &leader.name, spread);
        Some(bounded(leader.quic.iter().chain(rounds(&others)), ADDRESSES_MAX))
    }

    /// Whether the view is of this moment, and not as old as the last contact with its source.
    pub fn is_fresh(&self) -> bool {
        self.views.borrow().fresh
    }

    pub fn views(&self) -> Views {
        self.views.clone()
    }
}

/// A device's own number for [`Controllers`], the same each time, so that what it is told does not change without a reason.
pub fn spread_of(device: DeviceId) -> u64 {
    let [.., a, b, c, d] = device.to_bytes();
    u64::from(u32::from_le_bytes([a, b, c, d]))
}

/// The addresses of each live member but two; those that are about to go come last.
fn others<'a>(view: &'a View, own: &NodeName, first: &NodeName, spread: u64) -> Vec<&'a [String]> {
    let mut members: Vec<&Member> =
        view.members.iter().filter(|member| member.name != *own && member.name != *first).collect();
    if !members.is_empty() {
        let by = (spread % members.len() as u64) as usize;
        members.rotate_left(by);
    }
    members.sort_by_key(|member| member.draining);
    members.iter().map(|member| member.quic.as_slice()).collect()
}

/// The first address of each node, then the second ones, and so on.
fn rounds<'a>(nodes: &[&'a [String]]) -> impl Iterator<Item = &'a String> {
    let longest = nodes.iter().map(|addresses| addresses.len()).max().unwrap_or(0);
    let nodes = nodes.to_vec();
    (0..longest).flat_map(move |round| nodes.clone().into_iter().filter_map(move |addresses| addresses.get(round)))
}

fn bounded<'a>(addresses: impl Iterator<Item = &'a String>, max: usize) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for address in addresses {
        if kept.len() < max && !kept.contains(address) {
            kept.push(address.clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use flotilla_cluster::Leader;
    use flotilla_protocol::id::Epoch;

    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::parse(text).unwrap()
    }

    fn member(text: &str, quic: &[&str]) -> Member {
        Member {
            name: name(text),
            peer: String::new(),
            quic: quic.iter().map(|address| (*address).to_owned()).collect(),
            version: String::new(),
            since_ms: 0,
            draining: false,
        }
    }

    fn controllers(members: Vec<Member>, leader: Option<&str>) -> Controllers {
        let leader = leader.map(|text| Leader { node: name(text), epoch: Epoch(1) });
        let view = View { members, leaders: vec![leader], pins: vec![], fresh: true };
        let (_, views) = watch::channel(Arc::new(view));
        Controllers::new(name("a"), Arc::from(["a:1".to_owned(), "a:2".to_owned()]), views)
    }

    fn three() -> Vec<Member> {
        vec![member("a", &["old:1"]), member("b", &["b:1", "b:2"]), member("c", &["c:1"])]
    }

    fn tenant() -> TenantId {
        TenantId::new(1, [1; 10])
    }

    #[test]
    fn own_addresses_come_first_and_the_others_begin_anywhere() {
        let known = controllers(three(), None);
        assert_eq!(known.all(0), ["a:1", "a:2", "b:1", "c:1", "b:2"]);
        assert_eq!(known.all(1), ["a:1", "a:2", "c:1", "b:1", "b:2"]);
        assert_eq!(known.for_code(0, 3), ["a:1", "b:1", "c:1"]);
        assert_eq!(known.others(2), ["b:1", "c:1", "b:2"]);
        let mut leaving = three();
        leaving[1].draining = true;
        assert_eq!(controllers(leaving, None).others(0), ["c:1", "b:1", "b:2"]);
    }

    #[test]
    fn a_leader_elsewhere_comes_first_and_this_node_not_at_all() {
        assert_eq!(controllers(three(), Some("b")).leader_elsewhere(tenant(), 0).unwrap(), ["b:1", "b:2", "c:1"]);
        assert_eq!(controllers(three(), Some("a")).leader_elsewhere(tenant(), 0), None);
        assert_eq!(controllers(three(), None).leader_elsewhere(tenant(), 0), None);
        let gone = vec![member("a", &[]), member("c", &["c:1"])];
        assert_eq!(controllers(gone, Some("b")).leader_elsewhere(tenant(), 0), None);
    }

    #[test]
    fn alone_there_is_only_this_one() {
        let alone = Controllers::alone(name("a"), Arc::from(["a:1".to_owned()]));
        assert_eq!((alone.all(7), alone.for_code(7, 8)), (vec!["a:1".to_owned()], vec!["a:1".to_owned()]));
        assert!(alone.others(0).is_empty() && alone.leader_elsewhere(tenant(), 0).is_none());
    }

    #[test]
    fn lists_are_bounded_and_say_nothing_twice() {
        let many: Vec<Member> = (0..40).map(|n| member(&format!("n{n}"), &["same:1", &format!("n{n}:1")])).collect();
        let all = controllers(many, None).all(3);
        assert_eq!(all.len(), ADDRESSES_MAX);
        assert_eq!(all.iter().filter(|address| *address == "same:1").count(), 1);
    }
}
