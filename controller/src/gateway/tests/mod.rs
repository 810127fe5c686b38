//! The gateway over real QUIC and TCP on loopback, with a real catalog and CA, and a shard that only takes notes.

/// A test for each transport of a function that takes one.
macro_rules! over_both {
    ($($test:ident)*) => {
        mod quic {
            $(#[tokio::test] async fn $test() { super::$test(super::Transport::Quic).await; })*
        }
        mod tcp {
            $(#[tokio::test] async fn $test() { super::$test(super::Transport::Tcp).await; })*
        }
    };
}

pub(crate) mod client;
mod cluster;
mod enrolment;
mod links;
mod load;
mod restart;
mod silence;
mod tcp;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_cluster::NodeName;
use flotilla_protocol::id::{Epoch, TenantId};
use flotilla_protocol::wire::{Held, Report, Telemetry};
use rcgen::KeyPair;
use tempfile::TempDir;
use tokio::sync::Notify;

use super::*;
use crate::ca::{DeviceKey, TrustDomain};
use crate::clock::SystemClock;
use crate::domain::Now;
use crate::fleet::audit::By;
use crate::fleet::enrollments::{NewEnrollment, Redemption};
use crate::fleet::sims::HoldNewSims;
use crate::fleet::tenants::{self, Tenant};
use crate::secrets::ClusterKeys;
use crate::shard::{DeviceSink, Link, RouteSim};
use crate::store::testing::new_stores;
use client::{At, Identity};

/// Nothing in these tests takes nearly as long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The machine's clocks, with a wall clock that tests can set forward.
#[derive(Default)]
struct ShiftedClock {
    ahead_ms: AtomicU64,
}

impl Clock for ShiftedClock {
    fn now(&self) -> Now {
        let now = SystemClock.now();
        Now { unix_ms: now.unix_ms + self.ahead_ms.load(Ordering::Relaxed), ..now }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Note {
    Up(Link),
    Changed { device: DeviceId, session: u64, sims: Vec<RouteSim>, accepts_work: bool },
    Down { device: DeviceId, session: u64 },
    Telemetry { device: DeviceId, session: u64, sims: usize },
    Reports { device: DeviceId, session: u64, positions: Vec<u64> },
    Held { device: DeviceId, session: u64, held: usize, last: bool },
    Event(FleetEvent),
}

/// Writes down what it is told, in order; shard and watchers in one.
#[derive(Default)]
struct Notes {
    notes: Mutex<Vec<Note>>,
    sinks: Mutex<Vec<(u64, Arc<dyn DeviceSink>)>>,
    changed: Notify,
    /// `held` of this device panics, as a bug in the reader's path would.
    panics_in_reader: Mutex<Option<DeviceId>>,
    /// The `Online` of this device panics, as a bug in the session would.
    panics_in_session: Mutex<Option<DeviceId>>,
    leaderless: Mutex<bool>,
    /// How often the shard was lost and won back.
    terms: AtomicU64,
}

const EPOCH: Epoch = Epoch(7);

impl Notes {
    fn take(&self, note: Note) {
        self.notes.lock().push(note);
        self.changed.notify_waiters();
    }

    /// Waits until a note fits, and gives it.
    async fn wait<T>(&self, find: impl Fn(&Note) -> Option<T>) -> T {
        let found = async {
            loop {
                let changed = self.changed.notified();
                if let Some(found) = self.notes.lock().iter().find_map(&find) {
                    return found;
                }
                changed.await;
            }
        };
        match timeout(PATIENCE, found).await {
            Ok(found) => found,
            Err(_) => panic!("not among the notes: {:#?}", self.notes.lock()),
        }
    }

    fn count(&self, fits: impl Fn(&Note) -> bool) -> usize {
        self.notes.lock().iter().filter(|note| fits(note)).count()
    }

    fn sink(&self, session: u64) -> Arc<dyn DeviceSink> {
        let sinks = self.sinks.lock();
        sinks.iter().find(|(number, _)| *number == session).map(|(_, sink)| sink.clone()).unwrap()
    }
}

impl ShardDoor for Notes {
    fn epoch(&self) -> Epoch {
        Epoch(EPOCH.0 + self.terms.load(Ordering::Relaxed))
    }

    fn device_up(&self, link: Link, sink: Arc<dyn DeviceSink>) {
        self.sinks.lock().push((link.session, sink));
        self.take(Note::Up(link));
    }

    fn device_changed(&self, device: DeviceId, session: u64, sims: Vec<RouteSim>, accepts_work: bool) {
        self.take(Note::Changed { device, session, sims, accepts_work });
    }

    fn device_down(&self, device: DeviceId, session: u64) {
        self.sinks.lock().retain(|(number, _)| *number != session);
        self.take(Note::Down { device, session });
    }

    fn telemetry(&self, device: DeviceId, session: u64, telemetry: Telemetry) {
        self.take(Note::Telemetry { device, session, sims: telemetry.sims.len() });
    }

    fn reports(&self, device: DeviceId, session: u64, reports: Vec<Report>) {
        let positions = reports.iter().map(|report| report.position).collect();
        self.take(Note::Reports { device, session, positions });
    }

    fn held(&self, device: DeviceId, session: u64, held: Vec<Held>, last: bool) {
        assert_ne!(*self.panics_in_reader.lock(), Some(device), "the test asked for it");
        self.take(Note::Held { device, session, held: held.len(), last });
    }
}

/// The trait wants an `Arc` of the door, so the finder holds one.
struct Finder(Arc<Notes>);

impl ShardDoors for Finder {
    fn of(&self, _tenant: TenantId) -> Option<Arc<dyn ShardDoor>> {
        (!*self.0.leaderless.lock()).then(|| self.0.clone() as Arc<dyn ShardDoor>)
    }
}

impl FleetEvents for Notes {
    fn publish(&self, _tenant: TenantId, event: FleetEvent) {
        if let FleetEvent::Online { device, .. } = &event {
            assert_ne!(*self.panics_in_session.lock(), Some(*device), "the test asked for it");
        }
        self.take(Note::Event(event));
    }
}

struct World {
    _dir: TempDir,
    parts: Parts,
    clock: Arc<ShiftedClock>,
    notes: Arc<Notes>,
    tenant: TenantId,
    gateway: GatewayHandle,
    over: Transport,
}

impl World {
    async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    async fn with(limits: Limits) -> Self {
        Self::over(Transport::Quic, limits).await
    }

    /// Whose devices come over this transport.
    async fn over(over: Transport, limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (parts, clock, notes, tenant) = Self::parts(&dir).await;
        let gateway = start(Self::config(&dir, 0, limits), parts.clone()).await.unwrap();
        Self { _dir: dir, parts, clock, notes, tenant, gateway, over }
    }

    async fn parts(dir: &TempDir) -> (Parts, Arc<ShiftedClock>, Arc<Notes>, TenantId) {
        let stores = new_stores(&dir.path().join("data"));
        let clock = Arc::new(ShiftedClock::default());
        let now = clock.now();
        let domain = TrustDomain::parse("test.flotilla").unwrap();
        let secrets = ClusterKeys::read_or_create(&dir.path().join("cluster.key")).unwrap();
        let ca = Ca::open(stores.catalog.clone(), secrets, domain, None, now.unix_ms / 1000).await.unwrap();
        let ca = Arc::new(ca);
        let tenant = TenantId::new(now.unix_ms, [7; 10]);
        let new = Tenant { id: tenant, name: "Clinic".into(), disabled: false, created_ms: now.unix_ms };
        tenants::create(&*stores.catalog, By { actor: "test".into(), at_ms: now.unix_ms }, new).await.unwrap();
        let deny = DenyList::load(&*stores.catalog, now.unix_ms / 1000).await.unwrap();
        let notes = Arc::new(Notes::default());
        let known = Controllers::alone(NodeName::parse("test").unwrap(), controllers());
        let parts = Parts {
            shards: Arc::new(Finder(notes.clone())),
            enrollments: Enrollments::new(stores.catalog.clone(), ca.clone(), known.clone()),
            controllers: known,
            devices: Devices::new(stores.catalog.clone(), deny.clone()),
            catalog: stores.catalog,
            ca,
            deny,
            events: notes.clone(),
            clock: clock.clone(),
        };
        (parts, clock, notes, tenant)
    }

    fn config(dir: &TempDir, port: u16, limits: Limits) -> GatewayConfig {
        GatewayConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            tcp: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            name: "test".into(),
            dir: dir.path().join("gateway"),
            settings: Settings::default(),
            recoveries_max: 2,
            hold_new_sims: HoldNewSims::Changed,
            limits,
        }
    }

    fn address(&self) -> SocketAddr {
        self.gateway.local_addr()
    }

    fn tcp(&self) -> At {
        At::Tcp(self.gateway.tcp_addr().unwrap())
    }

    fn at(&self) -> At {
        match self.over {
            Transport::Quic => At::Quic(self.address()),
            Transport::Tcp => self.tcp(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.clock.now().unix_ms
    }

    async fn code(&self) -> flotilla_protocol::enroll_code::EnrollCode {
        let new = NewEnrollment { tenant: self.tenant, ttl_s: None, device_name: "van 3".into(), actor: "test".into() };
        self.parts.enrollments.create(new, self.now_ms()).await.unwrap().1
    }

    /// An enrolled device, without going over the network.
    async fn device(&self) -> Identity {
        let code = self.code().await;
        let key = KeyPair::generate().unwrap();
        let redemption =
            Redemption { token: code.token, secret: code.secret, csr_der: client::csr(&key), info: Default::default() };
        let issued = self.parts.enrollments.redeem(redemption, self.now_ms()).await.unwrap();
        Identity {
            device: issued.device,
            tenant: issued.tenant,
            key,
            chain_der: issued.chain_der,
            roots_der: issued.roots_der,
        }
    }

    /// A certificate of our CA that the catalog does not know, for whomever.
    fn forged(&self, tenant: TenantId, device: DeviceId) -> Identity {
        let key = KeyPair::generate().unwrap();
        let public = DeviceKey::from_csr(&client::csr(&key)).unwrap();
        let certificate = self.parts.ca.issue_device(&public, tenant, device, self.now_ms() / 1000).unwrap();
        Identity { device, tenant, key, chain_der: certificate.chain_der, roots_der: self.parts.ca.roots_der() }
    }
}

fn controllers() -> Arc<[String]> {
    Arc::from(["sms.example.org:7443".to_owned()])
}
