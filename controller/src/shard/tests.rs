//! Shards through their handles, over the store in memory, with time that tests move (tokio's, paused).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flotilla_cluster::{Coordinator, Embedded};
use flotilla_protocol::id::{DeviceId, Epoch, MessageId, ShardId, SimId, TenantId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{Attempt, Body, Dispatch, Down, Held, Report, ReportKind, TextEncoding};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::{Clock, TokioClock};
use crate::domain::Now;
use crate::domain::message::{Duplicates, MessageState, Pin, Priority, RouteKind, Submission};
use crate::domain::record::MessageRecord;
use crate::follow::{FollowOptions, Followers, Leads, LedgerFollower, RowsFollower, follow};
use crate::store::memory::{Fault, MemoryStore};
use crate::store::{Journal, Rows};

mod moves;

const UNIX_MS: u64 = 1_700_000_000_000;
const SHARDS: u16 = 2;

struct Node {
    store: MemoryStore,
    supervisor: Option<ShardSupervisor>,
    shards: Shards,
    reader: RowsReader,
    follower: CancellationToken,
    next: Mutex<u64>,
    clock: TokioClock,
}

impl Node {
    async fn start(store: &MemoryStore) -> Self {
        Self::start_at(store, TokioClock::new(UNIX_MS), 1_000_000).await
    }

    async fn start_at(store: &MemoryStore, clock: TokioClock, lag_events_max: u64) -> Self {
        Self::start_with(store, clock, Arc::new(clock), lag_events_max).await
    }

    async fn start_with(
        store: &MemoryStore,
        clock: TokioClock,
        shard_clock: Arc<dyn Clock>,
        lag_events_max: u64,
    ) -> Self {
        let coordinator = Embedded::new(&store.epochs().await.unwrap()).unwrap();
        let options = FollowOptions::default();
        let node = Self::make(store, clock, shard_clock, lag_events_max, options, coordinator).await;
        node.leads().await;
        node
    }

    async fn make(
        store: &MemoryStore,
        clock: TokioClock,
        shard_clock: Arc<dyn Clock>,
        lag_events_max: u64,
        options: FollowOptions,
        coordinator: impl Coordinator,
    ) -> Self {
        let (journal, rows): (Arc<dyn Journal>, Arc<dyn Rows>) = (Arc::new(store.clone()), Arc::new(store.clone()));
        let rows = RowsFollower::open(rows).await.unwrap();
        let reader = rows.reader();
        let follower = CancellationToken::new();
        let (handle, _) = follow(rows, Arc::clone(&journal), options, follower.clone());
        let ledgers = LedgerFollower::new(None, Arc::clone(&journal));
        let ledger_reader = ledgers.reader();
        let (ledgers, _) = follow(ledgers, Arc::clone(&journal), options, follower.clone());
        let followers = Followers::new([handle.clone(), ledgers.clone()], Leads::none(SHARDS));
        let reader = reader(handle);
        let deps = ShardDeps {
            journal,
            reader: reader.clone(),
            ledgers: ledger_reader(ledgers),
            followers,
            clock: shard_clock,
            settings: ShardSettings::default(),
            routing: Arc::new(crate::shard::Defaults),
            news: Arc::new(()),
            lag_events_max,
        };
        let supervisor = ShardSupervisor::start(deps, coordinator).await.unwrap();
        let shards = supervisor.shards().clone();
        Self {
            store: store.clone(),
            supervisor: Some(supervisor),
            shards,
            reader,
            follower,
            next: Mutex::new(0),
            clock,
        }
    }

    /// Waits until the shard of the tenant answers.
    async fn leads(&self) {
        timeout(Duration::from_secs(60), async {
            while let Err(ShardError::Busy { .. } | ShardError::DiskFull | ShardError::NotLeading) = self.status().await
            {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the shard starts");
    }

    async fn status(&self) -> Result<ShardStatus, ShardError> {
        self.shards.of(tenant())?.status().await
    }

    fn handle(&self) -> ShardHandle {
        self.shards.of(tenant()).unwrap()
    }

    fn submission(&self) -> Submission {
        let mut next = self.next.lock();
        *next += 1;
        let mut random = [0; 10];
        random[2..].copy_from_slice(&next.to_be_bytes());
        let now_ms = self.clock.now().unix_ms;
        Submission {
            id: MessageId::new(now_ms, random),
            tenant: tenant(),
            accepted_ms: now_ms,
            to: Msisdn::from_u64(255_712_345_678).unwrap(),
            body: Body::Text("hello".into()),
            encoding: TextEncoding::default(),
            flash: false,
            segments: 1,
            priority: Priority::Normal,
            duplicates: Duplicates::Never,
            pin: Pin::Any,
            due_ms: now_ms,
            expires_ms: now_ms + 86_400_000,
            campaign: "".into(),
            tags: vec![],
            client_ref: None,
            sender: None,
            plan: None,
            max_cost: None,
            callback_url: None,
        }
    }

    async fn accept(&self, key: Option<u8>) -> Result<Acceptance, AcceptError> {
        let idempotency = key.map(|n| RequestKey { key: [n; 16], request: [n; 16] });
        let request = AcceptRequest { tenant: tenant(), idempotency, submissions: vec![self.submission()] };
        self.handle().accept(request).await
    }

    /// Like `accept`, from whoever leads.
    async fn accept_where_led(&self) -> Result<Acceptance, AcceptError> {
        self.shards.of(tenant())?;
        self.accept(None).await
    }

    async fn accepted(&self) -> MessageId {
        self.accept(None).await.unwrap().ids[0]
    }

    async fn record(&self, id: MessageId) -> MessageRecord {
        self.reader.get(tenant(), id).await.unwrap().unwrap()
    }

    async fn state(&self, id: MessageId) -> MessageState {
        self.record(id).await.state
    }

    /// Like a power cut: nothing is finished.
    fn kill(mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            supervisor.kill();
        }
        for shard in self.shards.all() {
            shard.inbox.close(inbox::Closed::Ever);
        }
        self.follower.cancel();
    }
}

fn tenant() -> TenantId {
    TenantId::from_bytes([7; 16])
}

fn shard() -> ShardId {
    ShardId::of(tenant(), SHARDS)
}

fn device() -> DeviceId {
    DeviceId::from_bytes([1; 16])
}

/// A device that keeps the frames it gets, and repeats its reports when it is asked to.
struct FakeDevice {
    frames: Mutex<VecDeque<Down>>,
    came: Notify,
    reports: Mutex<Vec<Report>>,
    session: u64,
}

impl DeviceSink for FakeDevice {
    fn send(&self, frames: Vec<Down>) {
        self.frames.lock().extend(frames);
        self.came.notify_one();
    }
}

impl FakeDevice {
    fn connect(node: &Node, session: u64) -> Arc<Self> {
        let device =
            Arc::new(Self { frames: Mutex::default(), came: Notify::new(), reports: Mutex::default(), session });
        let link = Link {
            device: self::device(),
            tenant: tenant(),
            session,
            window: 8,
            epoch_seen: Epoch(0),
            sims: vec![RouteSim {
                slot: 0,
                sim: SimId::from_bytes([1; 16]),
                depth: 1,
                ready: true,
                settings: Arc::default(),
            }],
            accepts_work: true,
            kind: RouteKind::Sim,
        };
        node.handle().device_up(link, Arc::clone(&device) as Arc<dyn DeviceSink>);
        device
    }

    async fn next(&self) -> Down {
        timeout(Duration::from_secs(60), async {
            loop {
                if let Some(frame) = self.frames.lock().pop_front() {
                    return frame;
                }
                self.came.notified().await;
            }
        })
        .await
        .expect("a frame comes")
    }

    async fn dispatch(&self) -> Dispatch {
        loop {
            match self.next().await {
                Down::Dispatch(dispatch) => return dispatch,
                Down::AckReports { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn report(&self, node: &Node, kind: ReportKind) {
        let mut reports = self.reports.lock();
        let report = Report { position: 1 + reports.len() as u64, at_ms: UNIX_MS, kind };
        reports.push(report.clone());
        node.handle().reports(device(), self.session, vec![report]);
    }

    async fn acknowledged(&self, position: u64) {
        while self.next().await != (Down::AckReports { position }) {}
    }

    fn list(&self, node: &Node, held: Vec<Held>) {
        node.handle().held(device(), self.session, held, true);
    }

    /// What a device does on `Resume`.
    fn repeat(&self, node: &Node, from: usize, held: Vec<Held>) {
        let reports = self.reports.lock()[from..].to_vec();
        node.handle().reports(device(), self.session, reports);
        self.list(node, held);
    }
}

fn sent(attempt: Attempt) -> ReportKind {
    ReportKind::Sent { attempt, segments: 1 }
}

#[tokio::test(start_paused = true)]
async fn a_message_goes_from_the_handle_to_its_delivery() {
    let node = Node::start(&MemoryStore::new(SHARDS)).await;
    let phone = FakeDevice::connect(&node, 1);
    phone.list(&node, vec![]);
    let id = node.accepted().await;
    let dispatch = phone.dispatch().await;
    assert_eq!((dispatch.attempt.message, dispatch.epoch, dispatch.granted), (id, Epoch(1), true));
    phone.report(&node, sent(dispatch.attempt));
    phone.report(&node, ReportKind::Delivered { attempt: dispatch.attempt, segment: 0 });
    phone.acknowledged(2).await;
    let record = node.record(id).await;
    let states: Vec<_> = record.trace.iter().map(|step| step.state).collect();
    use MessageState::*;
    assert_eq!(states, [Queued, Dispatching, Sent, Delivered]);
    assert_eq!(node.status().await.unwrap().devices, 1);
    node.supervisor.unwrap().shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_answered_or_sent_before_it_is_durable_and_batches_collect_meanwhile() {
    let store = MemoryStore::new(SHARDS);
    let node = Arc::new(Node::start(&store).await);
    let phone = FakeDevice::connect(&node, 1);
    phone.list(&node, vec![]);
    store.hold_commits(true);
    let before = store.committed(shard());
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let node = Arc::clone(&node);
            tokio::spawn(async move { node.accepted().await })
        })
        .collect();
    sleep(Duration::from_secs(5)).await;
    assert!(waiting.iter().all(|task| !task.is_finished()));
    assert!(phone.frames.lock().is_empty());
    store.hold_commits(false);
    for task in waiting {
        task.await.unwrap();
    }
    assert!(store.committed(shard()) - before <= 2, "the first one, and all others together");
    phone.dispatch().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_everything_acknowledged_goes_on() {
    let store = MemoryStore::new(SHARDS);
    let node = Node::start(&store).await;
    let phone = FakeDevice::connect(&node, 1);
    phone.list(&node, vec![]);
    let (first, second) = (node.accepted().await, node.accepted().await);
    let attempts = [phone.dispatch().await.attempt, phone.dispatch().await.attempt];
    let clock = node.clock;
    node.kill();

    let node = Node::start_at(&store, clock, 1_000_000).await;
    assert_eq!(node.handle().epoch(), Epoch(2));
    let phone = FakeDevice::connect(&node, 1);
    phone.report(&node, sent(attempts[0]));
    phone.list(&node, vec![]);
    let again = phone.dispatch().await;
    assert_eq!(again.attempt, Attempt { message: second, number: 2 });
    assert_eq!(node.state(first).await, MessageState::Sent);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_accepted_once_across_a_crash() {
    let store = MemoryStore::new(SHARDS);
    let node = Node::start(&store).await;
    let first = node.accept(Some(1)).await.unwrap();
    assert!(!first.replayed);
    let clock = node.clock;
    node.kill();
    let node = Node::start_at(&store, clock, 1_000_000).await;
    let again = node.accept(Some(1)).await.unwrap();
    assert_eq!((again.ids, again.replayed), (first.ids, true));
}

#[tokio::test(start_paused = true)]
async fn failed_commits_are_told_and_the_shard_comes_back() {
    for (fault, expected) in [
        (Fault::Unavailable, "the shard is busy"),
        (Fault::UnknownLost, "no answer in time"),
        (Fault::Full, "the disk of the data folder is full"),
    ] {
        let store = MemoryStore::new(SHARDS);
        let node = Node::start(&store).await;
        let before = node.accepted().await;
        store.fail_next(fault);
        let refused = node.accept(None).await.unwrap_err().to_string();
        assert!(refused.starts_with(expected), "{fault:?}: {refused}");
        node.leads().await;
        let after = node.accepted().await;
        assert_eq!(node.status().await.unwrap().queued, [0, 0, 2, 0]);
        assert_eq!((node.state(before).await, node.state(after).await), (MessageState::Queued, MessageState::Queued));
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_outcome_was_not_told_but_is_there_counts() {
    let store = MemoryStore::new(SHARDS);
    let node = Node::start(&store).await;
    store.fail_next(Fault::UnknownWritten);
    let id = node.accepted().await;
    assert_eq!(node.state(id).await, MessageState::Queued);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_down_callers_are_told_and_sessions_stay() {
    let store = MemoryStore::new(SHARDS);
    let node = Node::start(&store).await;
    let phone = FakeDevice::connect(&node, 1);
    phone.list(&node, vec![]);
    let id = node.accepted().await;
    let attempt = phone.dispatch().await.attempt;
    store.set_down(true);
    phone.report(&node, sent(attempt));
    assert!(matches!(node.accept(None).await, Err(AcceptError::Busy { .. })));
    sleep(Duration::from_secs(30)).await;
    assert!(matches!(node.accept(None).await, Err(AcceptError::Busy { .. })));
    store.set_down(false);
    node.leads().await;
    assert_eq!(phone.next().await, Down::Resume);
    phone.repeat(&node, 0, vec![]);
    phone.acknowledged(1).await;
    assert_eq!(node.state(id).await, MessageState::Sent, "the report that the old machine had was repeated");
    node.accepted().await;
    phone.dispatch().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_device_says_around_a_restart_is_neither_lost_nor_misread() {
    let store = MemoryStore::new(SHARDS);
    let node = Node::start(&store).await;
    let phone = FakeDevice::connect(&node, 1);
    phone.list(&node, vec![]);
    let ids = [node.accepted().await, node.accepted().await, node.accepted().await];
    let mut attempts = vec![];
    for _ in ids {
        attempts.push(phone.dispatch().await.attempt);
    }
    // A report goes to a machine that dies with it.
    store.fail_next(Fault::Unavailable);
    phone.report(&node, sent(attempts[0]));
    assert_eq!(phone.next().await, Down::Resume);
    // One comes before the device has read that it is to repeat; acknowledging it would cover the lost one.
    phone.report(&node, sent(attempts[1]));
    // And a list which the device made before it was asked.
    sleep(Duration::from_secs(1)).await;
    assert_eq!(node.state(ids[2]).await, MessageState::Dispatching);
    phone.repeat(&node, 0, vec![Held { attempt: attempts[2], sending: true }]);
    phone.acknowledged(2).await;
    let states = [node.state(ids[0]).await, node.state(ids[1]).await, node.state(ids[2]).await];
    assert_eq!(states, [MessageState::Sent, MessageState::Sent, MessageState::Dispatching]);
}

/// Panics when it is told to, inside whatever reads it next.
struct BrittleClock {
    clock: TokioClock,
    breaks: AtomicBool,
}

impl Clock for BrittleClock {
    fn now(&self) -> Now {
        assert!(!self.breaks.swap(false, Ordering::SeqCst), "the clock breaks on demand");
        self.clock.now()
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_panics_comes_back_under_its_handle() {
    let brittle = Arc::new(BrittleClock { clock: TokioClock::new(UNIX_MS), breaks: AtomicBool::new(false) });
    let node = Node::start_with(&MemoryStore::new(SHARDS), brittle.clock, Arc::clone(&brittle) as _, 1_000_000).await;
    let handle = node.handle();
    let before = node.accepted().await;
    brittle.breaks.store(true, Ordering::SeqCst);
    assert_eq!(node.accept(None).await, Err(AcceptError::Undecided));
    node.leads().await;
    assert_eq!(handle.cancel(tenant(), before).await, Ok(CancelOutcome::Cancelled));
    node.accepted().await;
}

#[tokio::test(start_paused = true)]
async fn a_fenced_shard_stops() {
    let store = MemoryStore::new(SHARDS);
    let node = Node::start(&store).await;
    store.fail_next(Fault::Fenced);
    assert_eq!(node.accept(None).await, Err(AcceptError::NotLeading));
    timeout(Duration::from_secs(60), async {
        while node.shards.of(tenant()).is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(node.shards.all().len(), usize::from(SHARDS) - 1, "the other one still leads");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_finishes_what_was_taken() {
    let store = MemoryStore::new(SHARDS);
    let mut node = Node::start(&store).await;
    store.hold_commits(true);
    let handle = node.handle();
    let request =
        |node: &Node| AcceptRequest { tenant: tenant(), idempotency: None, submissions: vec![node.submission()] };
    let (first, second) = (request(&node), request(&node));
    let tasks = [first, second].map(|request| {
        let handle = handle.clone();
        tokio::spawn(async move { handle.accept(request).await })
    });
    sleep(Duration::from_millis(100)).await;
    let shutdown = tokio::spawn(node.supervisor.take().unwrap().shutdown());
    sleep(Duration::from_millis(100)).await;
    assert!(!shutdown.is_finished());
    assert_eq!(handle.status().await, Err(ShardError::NotLeading));
    store.hold_commits(false);
    shutdown.await.unwrap();
    for task in tasks {
        assert_eq!(task.await.unwrap().map(|acceptance| acceptance.ids.len()), Ok(1));
    }
    assert!(node.shards.of(tenant()).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_scheduled_message_leaves_when_its_time_comes_without_anybody_asking() {
    let node = Node::start(&MemoryStore::new(SHARDS)).await;
    let phone = FakeDevice::connect(&node, 1);
    phone.list(&node, vec![]);
    let mut submission = node.submission();
    submission.due_ms += 3_600_000;
    let due_ms = submission.due_ms;
    let request = AcceptRequest { tenant: tenant(), idempotency: None, submissions: vec![submission] };
    node.handle().accept(request).await.unwrap();
    assert_eq!(node.status().await.unwrap().resident, 0, "it waits in the store");
    let dispatch = timeout(Duration::from_secs(4_000), async {
        loop {
            if let Some(Down::Dispatch(dispatch)) = phone.frames.lock().pop_front() {
                return dispatch;
            }
            phone.came.notified().await;
        }
    });
    dispatch.await.unwrap();
    let late_ms = node.clock.now().unix_ms - due_ms;
    assert!(late_ms < 10, "{late_ms}");
}

#[tokio::test(start_paused = true)]
async fn cancelling_is_answered_by_state() {
    let node = Node::start(&MemoryStore::new(SHARDS)).await;
    let id = node.accepted().await;
    let handle = node.handle();
    assert_eq!(handle.cancel(tenant(), id).await, Ok(CancelOutcome::Cancelled));
    assert_eq!(handle.cancel(tenant(), id).await, Ok(CancelOutcome::TooLate(MessageState::Cancelled)));
    let nobody = MessageId::from_bytes([9; 16]);
    assert_eq!(handle.cancel(tenant(), nobody).await, Ok(CancelOutcome::NotFound));
}

#[tokio::test(start_paused = true)]
async fn too_much_at_once_is_refused() {
    let node = Node::start_at(&MemoryStore::new(SHARDS), TokioClock::new(UNIX_MS), 1_000_000).await;
    let submissions = (0..1_001).map(|_| node.submission()).collect();
    let request = AcceptRequest { tenant: tenant(), idempotency: None, submissions };
    assert_eq!(node.handle().accept(request).await, Err(AcceptError::TooMany { messages: 1_001 }));
    node.store.hold_commits(true);
    let handle = node.handle();
    let mut waiting = vec![];
    let refused = loop {
        let submissions = (0..1_000).map(|_| node.submission()).collect();
        let request = AcceptRequest { tenant: tenant(), idempotency: None, submissions };
        let handle = handle.clone();
        let mut call = Box::pin(async move { handle.accept(request).await });
        match timeout(Duration::from_millis(1), &mut call).await {
            Ok(result) => break result,
            Err(_) => waiting.push(call),
        }
    };
    assert!(matches!(refused, Err(AcceptError::Busy { .. })), "{refused:?}");
    assert_eq!(waiting.len(), 32);
    node.store.hold_commits(false);
    for call in waiting {
        assert!(call.await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn new_messages_wait_for_rows_that_are_far_behind() {
    let store = MemoryStore::new(SHARDS);
    let node = Node::start_at(&store, TokioClock::new(UNIX_MS), 10).await;
    node.follower.cancel();
    sleep(Duration::from_secs(1)).await;
    let mut accepted = 0;
    let refused = loop {
        match node.accept(None).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((accepted, refused), (11, AcceptError::Busy { retry_after_ms: 1_000 }));
}
