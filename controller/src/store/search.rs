//! What rows are found by, and whether one fits: the same for every engine that looks rows up by hashes of their properties.

use flotilla_protocol::address::Address;
use flotilla_protocol::id::TenantId;

use super::rows::{InboundFilter, MessageFilter};
use crate::domain::event::Inbound;
use crate::domain::message::{MessageState, Priority};
use crate::domain::record::MessageRecord;

pub(super) const HASH_BITS: u32 = 24;

/// A property of a row of a tenant, as 24 bits. The numbers and the hash are on disk and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Property(pub(super) u32);

impl Property {
    fn of(tenant: TenantId, kind: u8, value: &[u8]) -> Self {
        // FNV-1a (64 bits), then the SplitMix64 finaliser, since only a part of the bits is taken.
        let mut x: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in tenant.to_bytes().iter().chain([&kind]).chain(value) {
            x = (x ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        Self((x >> (64 - HASH_BITS)) as u32)
    }

    pub(super) fn tenant(tenant: TenantId) -> Self {
        Self::of(tenant, 0, &[])
    }

    pub(super) fn to(tenant: TenantId, number: u64) -> Self {
        Self::of(tenant, 1, &number.to_be_bytes())
    }

    pub(super) fn sim(tenant: TenantId, sim: [u8; 16]) -> Self {
        Self::of(tenant, 2, &sim)
    }

    pub(super) fn device(tenant: TenantId, device: [u8; 16]) -> Self {
        Self::of(tenant, 3, &device)
    }

    pub(super) fn campaign(tenant: TenantId, campaign: &str) -> Self {
        Self::of(tenant, 4, campaign.as_bytes())
    }

    pub(super) fn tag(tenant: TenantId, tag: &str) -> Self {
        Self::of(tenant, 5, tag.as_bytes())
    }

    pub(super) fn client_ref(tenant: TenantId, client_ref: &str) -> Self {
        Self::of(tenant, 6, client_ref.as_bytes())
    }

    /// Ends other than `delivered`, which are looked for and few. `delivered` is found by reading on.
    pub(super) fn end(tenant: TenantId, state: MessageState) -> Option<Self> {
        use MessageState::{Cancelled, Expired, Failed};
        matches!(state, Failed | Expired | Cancelled).then(|| Self::of(tenant, 7, &[state.code()]))
    }

    pub(super) fn from(tenant: TenantId, from: &Address) -> Self {
        Self::of(tenant, 8, from.to_string().as_bytes())
    }
}

/// The terms of a message that never change.
pub(super) fn of_new_message(record: &MessageRecord) -> impl Iterator<Item = Property> + '_ {
    let submission = &record.submission;
    let tenant = submission.tenant;
    let fixed = [Property::tenant(tenant), Property::to(tenant, submission.to.as_u64())];
    let campaign = Some(&submission.campaign).filter(|campaign| !campaign.is_empty());
    fixed
        .into_iter()
        .chain(campaign.map(|campaign| Property::campaign(tenant, campaign)))
        .chain(submission.client_ref.as_ref().map(|client_ref| Property::client_ref(tenant, client_ref)))
        .chain(submission.tags.iter().map(move |tag| Property::tag(tenant, tag)))
}

/// The terms that come in the course of its life. Those of former routes stay, and mislead nobody.
pub(super) fn of_any_message(record: &MessageRecord) -> impl Iterator<Item = Property> + '_ {
    let tenant = record.submission.tenant;
    let route = record
        .route
        .map(|route| [Property::sim(tenant, route.sim.to_bytes()), Property::device(tenant, route.device.to_bytes())]);
    route.into_iter().flatten().chain(Property::end(tenant, record.state))
}

pub(super) fn of_inbound(inbound: &Inbound) -> [Property; 4] {
    let tenant = inbound.tenant;
    [
        Property::tenant(tenant),
        Property::device(tenant, inbound.device.to_bytes()),
        Property::sim(tenant, inbound.sim.to_bytes()),
        Property::from(tenant, &inbound.from),
    ]
}

/// The rarest property of a filter; several when any of them will do.
pub(super) fn message_properties(tenant: TenantId, filter: &MessageFilter) -> Vec<Property> {
    let client_ref = filter.client_ref.as_ref().map(|client_ref| Property::client_ref(tenant, client_ref));
    let to = filter.to.map(|to| Property::to(tenant, to.as_u64()));
    let tag = filter.tag.as_ref().map(|tag| Property::tag(tenant, tag));
    let ends: Option<Vec<Property>> = filter.states.iter().map(|state| Property::end(tenant, *state)).collect();
    let ends = ends.filter(|ends| !ends.is_empty());
    let campaign =
        filter.campaign.as_ref().filter(|name| !name.is_empty()).map(|name| Property::campaign(tenant, name));
    let sim = filter.sim.map(|sim| Property::sim(tenant, sim.to_bytes()));
    let device = filter.device.map(|device| Property::device(tenant, device.to_bytes()));
    let one = |property: Property| vec![property];
    client_ref
        .or(to)
        .or(tag)
        .map(one)
        .or(ends)
        .or_else(|| campaign.or(sim).or(device).map(one))
        .unwrap_or_else(|| one(Property::tenant(tenant)))
}

pub(super) fn matches(record: &MessageRecord, filter: &MessageFilter) -> bool {
    let submission = &record.submission;
    (filter.states.is_empty() || filter.states.contains(&record.state))
        && filter.to.is_none_or(|to| to == submission.to)
        && filter.sim.is_none_or(|sim| record.route.is_some_and(|route| route.sim == sim))
        && filter.device.is_none_or(|device| record.route.is_some_and(|route| route.device == device))
        && filter.campaign.as_ref().is_none_or(|campaign| *campaign == submission.campaign)
        && filter.tag.as_ref().is_none_or(|tag| submission.tags.contains(tag))
        && filter.client_ref.as_ref().is_none_or(|wanted| submission.client_ref.as_ref() == Some(wanted))
        && filter.priority.is_none_or(|priority| priority == submission.priority)
        && within(submission.accepted_ms, filter.from_ms, filter.until_ms)
}

/// The rarest property of a filter of inbound messages.
pub(super) fn inbound_property(tenant: TenantId, filter: &InboundFilter) -> Property {
    let sender = filter.from.as_ref().map(|from| Property::from(tenant, from));
    let sim = filter.sim.map(|sim| Property::sim(tenant, sim.to_bytes()));
    let device = filter.device.map(|device| Property::device(tenant, device.to_bytes()));
    sender.or(sim).or(device).unwrap_or(Property::tenant(tenant))
}

pub(super) fn inbound_matches(inbound: &Inbound, filter: &InboundFilter) -> bool {
    filter.device.is_none_or(|device| device == inbound.device)
        && filter.sim.is_none_or(|sim| sim == inbound.sim)
        && filter.from.as_ref().is_none_or(|from| *from == inbound.from)
        && within(inbound.received_ms, filter.from_ms, filter.until_ms)
}

fn within(at_ms: u64, from_ms: Option<u64>, until_ms: Option<u64>) -> bool {
    from_ms.is_none_or(|from| from <= at_ms) && until_ms.is_none_or(|until| at_ms < until)
}

/// The class in rows; never reused.
pub(super) fn class_code(class: Priority) -> u8 {
    use Priority::{Bulk, High, Normal, Urgent};
    match class {
        Urgent => 1,
        High => 2,
        Normal => 3,
        Bulk => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_on_disk_never_changes() {
        let tenant = TenantId::from_bytes([7; 16]);
        let hashes = [
            Property::tenant(tenant),
            Property::to(tenant, 255_712_345_678),
            Property::campaign(tenant, "spring"),
            Property::from(tenant, &Address::Short("15001".into())),
        ];
        assert_eq!(hashes.map(|property| property.0), GOLDEN);
        assert_eq!(Property::end(tenant, MessageState::Delivered), None);
    }

    const GOLDEN: [u32; 4] = [11_513_646, 6_816_640, 12_375_066, 12_221_482];
}
