//! A session before a shard that acknowledges when the test says so: what callbacks may cost, and what they wait for.

use flotilla_protocol::id::MessageId;
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{Attempt, Body, Dispatch, Held, Report, Telemetry, TextEncoding};
use flotilla_providers::ReceiptState;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::account::{Sender, Settings};
use super::super::accounts::NewProvider;
use super::super::agent::{Batch, REPORTS_MAX};
use super::super::line::Told;
use super::super::tests::service::{Mood, Service};
use super::*;
use crate::clock::SystemClock;
use crate::domain::message::SEGMENTS_MAX;
use crate::fleet::audit::By;
use crate::fleet::tenants::{self, Tenant};
use crate::net_guard::NetGuard;
use crate::secrets::ClusterKey;
use crate::shard::RouteSim;
use crate::store::testing::new_stores;

const PATIENCE: Duration = Duration::from_secs(30);
const NOW_MS: u64 = 1_763_640_000_000;
const EPOCH: Epoch = Epoch(1);

#[derive(Clone, Copy, Default)]
struct Heard {
    reports: usize,
    last: u64,
    unacknowledged: usize,
    /// So many at most were not acknowledged at a time.
    most: usize,
}

/// The shard.
#[derive(Default)]
struct Door {
    up: Mutex<Option<(Link, Arc<dyn DeviceSink>)>>,
    heard: watch::Sender<Heard>,
}

impl ShardDoor for Door {
    fn epoch(&self) -> Epoch {
        EPOCH
    }

    fn device_up(&self, link: Link, sink: Arc<dyn DeviceSink>) {
        *self.up.lock() = Some((link, sink));
    }

    fn reports(&self, _: DeviceId, _: u64, reports: Vec<Report>) {
        self.heard.send_modify(|heard| {
            heard.reports += reports.len();
            heard.unacknowledged += reports.len();
            heard.most = heard.most.max(heard.unacknowledged);
            heard.last = reports.last().unwrap().position;
        });
    }

    fn device_changed(&self, _: DeviceId, _: u64, _: Vec<RouteSim>, _: bool) {}
    fn device_down(&self, _: DeviceId, _: u64) {}
    fn telemetry(&self, _: DeviceId, _: u64, _: Telemetry) {}
    fn held(&self, _: DeviceId, _: u64, _: Vec<Held>, _: bool) {}
}

impl FleetEvents for Door {
    fn publish(&self, _: TenantId, _: FleetEvent) {}
}

impl Door {
    fn send(&self, frame: Down) {
        self.up.lock().as_ref().unwrap().1.send(vec![frame]);
    }

    fn acknowledge(&self) {
        let mut position = 0;
        self.heard.send_modify(|heard| (position, heard.unacknowledged) = (heard.last, 0));
        self.send(Down::AckReports { position });
    }

    /// Acknowledges what comes, until a callback is answered: whether it was taken.
    async fn answers(&self, mut taken: oneshot::Receiver<()>) -> bool {
        let mut heard = self.heard.subscribe();
        let answered = async {
            loop {
                tokio::select! {
                    taken = &mut taken => return taken.is_ok(),
                    // What is borrowed from the channel would lock it.
                    () = async { drop(heard.wait_for(|heard| heard.unacknowledged > 0).await) } => self.acknowledge(),
                }
            }
        };
        timeout(PATIENCE, answered).await.expect("a callback is answered")
    }
}

struct World {
    door: Arc<Door>,
    session: ActorRef<Message>,
    service: Service,
    _dir: TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.session.stop(None);
    }
}

impl World {
    async fn new() -> Self {
        let (dir, service) = (tempfile::tempdir().unwrap(), Service::start(Mood::Hold).await);
        let catalog = new_stores(dir.path()).catalog;
        let by = || By { actor: "cli".into(), at_ms: NOW_MS };
        let tenant = TenantId::new(NOW_MS, [1; 10]);
        let new = Tenant { id: tenant, name: "tenant".into(), disabled: false, created_ms: NOW_MS };
        tenants::create(&*catalog, by(), new).await.unwrap();
        let guard = NetGuard { allow_private: true };
        let accounts = Accounts::open(Arc::clone(&catalog), ClusterKey::generate().into(), guard).await.unwrap();
        let settings = Settings {
            senders: vec![Sender { from: "ACME".into(), weight: 100, ..Sender::default() }],
            base_url: Some(service.url().into()),
            timeout_ms: 60_000,
            ..Settings::default()
        };
        let new = NewProvider {
            kind: Kind::by_name("test").unwrap(),
            name: "Main".into(),
            enabled: true,
            settings,
            secrets: [("key".into(), "geheim".into())].into(),
        };
        let provider = accounts.create(by(), tenant, new).await.unwrap();
        let door = Arc::new(Door::default());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let parts = Arc::new(Parts {
            references: References::start(catalog, Arc::clone(&clock)),
            carrier: Carrier::new(guard).unwrap(),
            accounts,
            clock,
            events: Arc::clone(&door) as _,
            public_url: None,
            numbers: AtomicU64::new(0),
        });
        let live = new_live(&parts, &provider);
        let args = Args { parts, provider, door: Arc::clone(&door) as _, live };
        let (session, _) = Actor::spawn(None, Session, args).await.unwrap();
        Self { door, session, service, _dir: dir }
    }

    fn slot(&self) -> u8 {
        self.door.up.lock().as_ref().unwrap().0.sims[0].slot
    }

    /// A message that the maker has, and does not answer.
    async fn held_message(&self) {
        self.door.send(Down::Dispatch(Dispatch {
            attempt: attempt(),
            epoch: EPOCH,
            slot: self.slot(),
            to: Msisdn::from_u64(255_712_345_678).unwrap(),
            body: Body::Text("hello".into()),
            encoding: TextEncoding::default(),
            flash: false,
            report: true,
            validity_s: 600,
            sent_ms: SystemClock.now().mono_ms,
            send_within_ms: 60_000,
            granted: true,
        }));
        timeout(PATIENCE, self.service.takes(1)).await.expect("the maker is asked");
    }

    fn calls_back(&self, known: Option<Known>, count: usize) -> oneshot::Receiver<()> {
        let (reply, taken) = oneshot::channel();
        let receipt = |n: usize| Receipt {
            reference: None,
            id: Some(format!("nobody{n}").into()),
            segment: None,
            state: ReceiptState::Delivered,
            at_ms: None,
            price: None,
        };
        let receipts = (0..count).map(|n| (known, receipt(n))).collect();
        let news = News { receipts, inbound: Vec::new(), reply: Some(reply) };
        self.session.cast(Message::News(Box::new(news))).unwrap();
        taken
    }
}

fn attempt() -> Attempt {
    Attempt { message: MessageId::new(NOW_MS, [7; 10]), number: 1 }
}

fn known(segments: u8) -> Option<Known> {
    Some(Known { attempt: attempt(), segments, segment: None, to: None })
}

/// A receipt of a long message makes a report for each segment.
#[tokio::test]
async fn a_callback_makes_no_more_reports_than_there_is_room_for() {
    let world = World::new().await;
    let taken = world.calls_back(known(SEGMENTS_MAX), 1_000);
    assert!(world.door.answers(taken).await, "in slices");
    let heard = *world.door.heard.borrow();
    assert_eq!(heard.reports, 1_000 * usize::from(SEGMENTS_MAX));
    assert!(heard.most <= REPORTS_MAX, "{} at a time", heard.most);
    // One that has no end yet, and another one: there is room for no report.
    let first = world.calls_back(known(SEGMENTS_MAX), 1_000);
    let second = world.calls_back(known(SEGMENTS_MAX), REPORTS_MAX);
    assert!(!world.door.answers(second).await, "its maker comes again");
    assert!(world.door.answers(first).await);
}

#[tokio::test]
async fn what_waits_for_an_answer_is_bounded_in_reports() {
    let world = World::new().await;
    world.held_message().await;
    let first = world.calls_back(None, 6_000);
    let too_many = world.calls_back(None, 6_000);
    let second = world.calls_back(None, 4_000);
    assert!(!world.door.answers(too_many).await, "12,000 would wait");
    assert!(world.door.answers(world.calls_back(known(1), 1)).await, "what is known need not wait");
    world.service.release();
    assert!(world.door.answers(first).await);
    assert!(world.door.answers(second).await);
}

/// Whatever ends a request, nothing waits for it any longer.
#[tokio::test]
async fn a_batch_that_never_left_is_not_waited_for() {
    let world = World::new().await;
    world.held_message().await;
    let taken = world.calls_back(None, 1);
    let batch = Batch { number: 1, slot: world.slot(), jobs: Vec::new() };
    let told = Told { late: true, ..Told::default() };
    let late = Answered { told, ..Answered::nothing(batch) };
    world.session.cast(Message::Answered(Box::new(late))).unwrap();
    assert!(world.door.answers(taken).await);
}
