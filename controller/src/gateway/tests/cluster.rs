//! Two gateways of one cluster in one process, with one catalog: redirects, addresses, enrolment on any of them, and what one
//! revokes or disables while the device is at the other.

use flotilla_cluster::{Leader, Member, View, Views};
use flotilla_protocol::wire::{Hello, Up};
use tokio::sync::watch;

use super::client::{LinkClient, hello};
use super::*;

struct Node {
    name: NodeName,
    notes: Arc<Notes>,
    parts: Parts,
    gateway: GatewayHandle,
}

impl Node {
    fn address(&self) -> SocketAddr {
        self.gateway.local_addr()
    }

    fn member(&self) -> Member {
        Member {
            name: self.name.clone(),
            peer: String::new(),
            quic: vec![self.address().to_string()],
            version: String::new(),
            since_ms: 0,
            draining: false,
        }
    }
}

/// Node `a` has the catalog's first CA; `b` finds it there.
struct Pair {
    dir: TempDir,
    clock: Arc<ShiftedClock>,
    tenant: TenantId,
    views: watch::Sender<Arc<View>>,
    a: Node,
    b: Node,
}

impl Pair {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (parts, clock, _, tenant) = World::parts(&dir).await;
        let (views, known) = watch::channel(Arc::default());
        let a = Self::node(&dir, &parts, "a", &known).await;
        let b = Self::node(&dir, &parts, "b", &known).await;
        let pair = Self { dir, clock, tenant, views, a, b };
        pair.led_by(Some(&pair.a));
        pair
    }

    /// A controller of its own, but for the catalog. Its addresses are known once it listens, so its view has them.
    async fn node(dir: &TempDir, base: &Parts, name: &str, views: &Views) -> Node {
        let name = NodeName::parse(name).unwrap();
        let notes = Arc::new(Notes::default());
        let secrets = ClusterKeys::read(&dir.path().join("cluster.key")).unwrap();
        let now_s = base.clock.now().unix_ms / 1000;
        let domain = TrustDomain::parse("test.flotilla").unwrap();
        let ca = Arc::new(Ca::open(base.catalog.clone(), secrets, domain, None, now_s).await.unwrap());
        let deny = DenyList::load(&*base.catalog, now_s).await.unwrap();
        let own: Arc<[String]> = Arc::from([format!("{name}.example:1")]);
        let controllers = Controllers::new(name.clone(), own, views.clone());
        let parts = Parts {
            shards: Arc::new(Finder(notes.clone())),
            enrollments: Enrollments::new(base.catalog.clone(), ca.clone(), controllers.clone()),
            controllers,
            devices: Devices::new(base.catalog.clone(), deny.clone()),
            ca,
            deny,
            events: notes.clone(),
            ..base.clone()
        };
        let folder = dir.path().join(name.as_str());
        let config = GatewayConfig { dir: folder, ..World::config(dir, 0, Limits::default()) };
        let gateway = start(config, parts.clone()).await.unwrap();
        Node { name, notes, parts, gateway }
    }

    /// The view of both, and what each of them leads.
    fn led_by(&self, leader: Option<&Node>) {
        for node in [&self.a, &self.b] {
            *node.notes.leaderless.lock() = leader.is_none_or(|leader| leader.name != node.name);
        }
        self.show(leader, vec![self.a.member(), self.b.member()]);
    }

    fn show(&self, leader: Option<&Node>, members: Vec<Member>) {
        let leader = leader.map(|leader| Leader { node: leader.name.clone(), epoch: EPOCH });
        self.views.send_replace(Arc::new(View { members, leaders: vec![leader], pins: vec![], fresh: true }));
    }

    /// Invited by `a`, enrolled over the door of `b`.
    async fn device(&self) -> Identity {
        let new = NewEnrollment { tenant: self.tenant, ttl_s: None, device_name: String::new(), actor: "test".into() };
        let now_ms = self.clock.now().unix_ms;
        let (_, code) = self.a.parts.enrollments.create(new, now_ms).await.unwrap();
        assert_eq!(code.controllers, ["a.example:1".to_owned(), self.b.address().to_string()]);
        let key = KeyPair::generate().unwrap();
        let issued = enrolment::issued(
            client::ask(self.b.address(), &self.b.parts.ca.roots_der(), &enrolment::redeem(&code, &key)).await,
        );
        assert_eq!(issued.controllers, ["b.example:1".to_owned(), self.a.address().to_string()]);
        enrolment::identity(issued, key)
    }
}

#[tokio::test]
async fn a_code_of_one_controller_is_good_at_the_other_and_only_once() {
    let pair = Pair::new().await;
    assert_eq!(pair.a.parts.ca.pins(), pair.b.parts.ca.pins());
    let device = pair.device().await;
    let (mut link, welcome) = LinkClient::up(pair.a.address(), &device).await;
    link.ping(1).await;
    assert_eq!(welcome.controllers, ["a.example:1".to_owned(), pair.b.address().to_string()]);
    assert!(pair.dir.path().join("a").is_dir());
}

#[tokio::test]
async fn whoever_does_not_lead_names_the_leader() {
    let pair = Pair::new().await;
    let device = pair.device().await;
    let (mut link, first) = LinkClient::start(pair.b.address(), &device, hello()).await;
    assert_eq!(first, Down::Redirect { controllers: vec![pair.a.address().to_string()] });
    assert!(link.hear().await.is_none(), "nothing comes after it");

    // Nobody leads, as far as they know; or the view is older than the shard.
    pair.led_by(None);
    assert_eq!(LinkClient::refused(pair.b.address(), &device, hello()).await, Refusal::Busy);
    pair.show(Some(&pair.b), vec![pair.a.member(), pair.b.member()]);
    assert_eq!(LinkClient::refused(pair.b.address(), &device, hello()).await, Refusal::Busy);
}

#[tokio::test]
async fn links_follow_their_shard_to_its_new_leader() {
    let pair = Pair::new().await;
    let (new, old) = (pair.device().await, pair.device().await);
    let (mut link, _) = LinkClient::up(pair.a.address(), &new).await;
    let (mut first_release, welcome) =
        LinkClient::start(pair.a.address(), &old, Hello { protocol: 1, ..hello() }).await;
    assert!(matches!(welcome, Down::Welcome(_)));

    // Given up, and nobody leads yet: the links stay.
    pair.led_by(None);
    link.ping(1).await;
    pair.led_by(Some(&pair.b));
    assert_eq!(link.redirection().await, [pair.b.address().to_string()]);
    assert_eq!(first_release.refusal().await, Refusal::ShuttingDown, "it knows no redirect on a link that is up");
    let (mut link, _) = LinkClient::up(pair.b.address(), &new).await;
    link.ping(2).await;
    assert_eq!(pair.a.gateway.connected(), 0);
}

#[tokio::test]
async fn a_shard_that_was_won_back_gets_its_links_anew() {
    let pair = Pair::new().await;
    let device = pair.device().await;
    let (mut link, _) = LinkClient::up(pair.a.address(), &device).await;
    pair.a.notes.terms.fetch_add(1, Ordering::Relaxed);
    pair.led_by(Some(&pair.a));
    assert_eq!(link.redirection().await, ["a.example:1".to_owned(), pair.b.address().to_string()]);
    let (_link, welcome) = LinkClient::up(pair.a.address(), &device).await;
    assert_eq!(welcome.epoch, Epoch(EPOCH.0 + 1));
}

#[tokio::test]
async fn live_links_hear_of_new_addresses() {
    let pair = Pair::new().await;
    let device = pair.device().await;
    let (mut link, _) = LinkClient::up(pair.a.address(), &device).await;
    let third = Member { name: NodeName::parse("c").unwrap(), quic: vec!["c.example:1".into()], ..pair.a.member() };
    pair.show(Some(&pair.a), vec![pair.a.member(), pair.b.member(), third]);
    let controllers = loop {
        match link.hear().await {
            Some(Down::Controllers { controllers }) if controllers.len() == 3 => break controllers,
            Some(_) => {}
            None => panic!("the link has ended"),
        }
    };
    assert_eq!(controllers[0], "a.example:1");
    assert!(controllers.contains(&"c.example:1".to_owned()));
}

#[tokio::test]
async fn what_another_controller_revokes_or_disables_ends_live_links() {
    let pair = Pair::new().await;
    let (lost, kept) = (pair.device().await, pair.device().await);
    let (mut lost_link, _) = LinkClient::up(pair.a.address(), &lost).await;
    let (mut kept_link, _) = LinkClient::up(pair.a.address(), &kept).await;
    let now_ms = pair.clock.now().unix_ms;
    pair.b.parts.devices.revoke(pair.tenant, lost.device, "test".into(), now_ms).await.unwrap();
    assert_eq!(lost_link.refusal().await, Refusal::Revoked);
    kept_link.ping(1).await;

    let set = |disabled| {
        let by = By { actor: "test".into(), at_ms: now_ms };
        let catalog = pair.b.parts.catalog.clone();
        async move { tenants::set_disabled(&*catalog, by, pair.tenant, disabled).await.unwrap() }
    };
    assert!(set(true).await);
    assert_eq!(kept_link.refusal().await, Refusal::Busy, "it shall come back");
    assert_eq!(LinkClient::refused(pair.a.address(), &kept, hello()).await, Refusal::Busy);
    assert!(set(false).await);
    let (mut link, _) = LinkClient::up(pair.a.address(), &kept).await;
    link.ping(2).await;
}

#[tokio::test]
async fn a_rotation_elsewhere_reaches_this_controllers_door() {
    let pair = Pair::new().await;
    let device = pair.device().await;
    let now_s = pair.clock.now().unix_ms / 1000;
    pair.b.parts.ca.rotate_prepare(now_s).await.unwrap();
    pair.b.parts.ca.rotate_activate(now_s).await.unwrap();
    let (mut link, _) = LinkClient::up(pair.a.address(), &device).await;
    // Asked for at once it may be refused, until `a` has looked: it never issues from keys that are not the present ones.
    let renewed = async {
        loop {
            link.say(Up::Renew { csr_der: client::csr(&KeyPair::generate().unwrap()) }).await;
            match link.hear().await.expect("the link has ended") {
                Down::Certificate { roots_der, .. } => return roots_der,
                Down::RenewRefused { .. } => tokio::time::sleep(Duration::from_millis(100)).await,
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(timeout(PATIENCE, renewed).await.unwrap(), pair.b.parts.ca.roots_der());
}

#[tokio::test]
async fn a_controller_that_stops_names_the_others() {
    let pair = Pair::new().await;
    let device = pair.device().await;
    let (mut link, _) = LinkClient::up(pair.a.address(), &device).await;
    let (controllers, ()) = tokio::join!(link.redirection(), pair.a.gateway.shutdown());
    assert_eq!(controllers, [pair.b.address().to_string()]);
}
