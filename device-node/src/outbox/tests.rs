//! Crashes at every step, torn writes, a full disk, and the bytes on disk.

use std::collections::BTreeMap;
use std::fs;

use flotilla_protocol::address::Address;
use flotilla_protocol::id::{Epoch, InboundId, MessageId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{
    Attempt, Body, ErrorClass, ErrorDomain, InboundMessage, NotSent, ReportKind, SendError, TextEncoding,
};
use proptest::prelude::*;

use super::compact::{Step, compact};
use super::snapshot::{decode_state, encode_records, encode_state};
use super::store::Transaction;
use super::*;

fn attempt(message: u8, number: u16) -> Attempt {
    Attempt { message: MessageId::new(1_700_000_000_000, [message; 10]), number }
}

fn job(attempt: Attempt) -> Job {
    Job {
        attempt,
        epoch: Epoch(3),
        slot: 1,
        to: Msisdn::from_u64(255_700_000_001).unwrap(),
        body: Body::Text("hello".into()),
        encoding: TextEncoding::default(),
        flash: false,
        report: true,
        validity_s: 3600,
    }
}

fn error() -> SendError {
    SendError { class: ErrorClass::Route, domain: ErrorDomain::Cms, code: 38, text: "network out of order".into() }
}

fn inbound() -> InboundMessage {
    let from = Address::Short("15000".into());
    InboundMessage { id: InboundId::new(5, [1; 10]), slot: 1, from, text: "hi".into(), segments: 1, sent_ms: Some(9) }
}

/// One of each kind, in an order that makes sense.
fn one_of_each() -> Vec<Record> {
    let (first, second, third) = (attempt(1, 1), attempt(2, 1), attempt(3, 2));
    vec![
        Record::Started { position: 1_000 },
        Record::EpochSeen(Epoch(7)),
        Record::Controllers(vec!["a:1".into(), "b:2".into()]),
        Record::Arrived(Box::new(job(first))),
        Record::Arrived(Box::new(job(second))),
        Record::Arrived(Box::new(job(third))),
        Record::Sending(first),
        Record::Sent { attempt: first, at_ms: 10, segments: 2, references: vec![200, 201] },
        Record::NotSent { attempt: second, at_ms: 11, reason: NotSent::Cancelled },
        Record::Sending(third),
        Record::Delivered { attempt: first, at_ms: 12, segment: 1 },
        Record::Failed { attempt: third, at_ms: 13, error: error(), segments_sent: 1 },
        Record::Unknown { attempt: attempt(4, 1), at_ms: 14 },
        Record::Undelivered { attempt: first, at_ms: 15, segment: 0, error: error() },
        Record::Inbound { at_ms: 16, digest: 99, message: inbound() },
        Record::Acked { position: 1_002 },
        Record::Again { at_ms: 17, kind: ReportKind::Unknown { attempt: attempt(4, 1) } },
        Record::Arrived(Box::new(job(attempt(5, 1)))),
        Record::Sending(attempt(5, 1)),
    ]
}

fn fold(records: &[Record]) -> State {
    let mut state = State::new(Limits::default());
    records.iter().for_each(|record| state.apply(record));
    state
}

/// All that a state is, comparable.
fn bytes(state: &State) -> Vec<u8> {
    encode_state(state).unwrap()
}

#[test]
fn records_fold_into_what_they_say() {
    let state = fold(&one_of_each());
    assert_eq!((state.first_position(), state.next_position()), (1_003, 1_008));
    assert_eq!(state.epoch_seen(), Epoch(7));
    assert_eq!(state.controllers(), ["a:1", "b:2"]);
    assert_eq!(state.open_len(), 1);
    assert!(state.open(&attempt(5, 1)).unwrap().sending);
    assert_eq!(state.awaiting().count(), 0, "both segments have their report");
    assert!(state.inbound_seen(99));
    let failed = state.finished(&attempt(3, 2)).unwrap();
    assert_eq!(
        failed,
        Outcome::Failed { class: ErrorClass::Route, domain: ErrorDomain::Cms, code: 38, segments_sent: 1 }
    );
    let kinds: Vec<&ReportKind> = state.reports_from(0).map(|report| &report.kind).collect();
    assert_eq!(*kinds[0], ReportKind::Failed { attempt: attempt(3, 2), error: error(), segments_sent: 1 });
    assert_eq!(state.report(1_007).unwrap().kind, ReportKind::Unknown { attempt: attempt(4, 1) });
    assert_eq!(state.report(1_002), None);
}

#[test]
fn what_is_kept_is_bounded() {
    let mut state = State::new(Limits { finished_max: 2, awaiting_max: 2, inbound_seen_max: 2 });
    for number in 1..=5 {
        state.apply(&Record::Arrived(Box::new(job(attempt(number, 1)))));
        let (attempt, references) = (attempt(number, 1), vec![number]);
        state.apply(&Record::Sent { attempt, at_ms: 1, segments: 1, references });
        state.apply(&Record::Inbound { at_ms: 1, digest: u64::from(number), message: inbound() });
    }
    assert_eq!(state.finished_len(), 2);
    assert!(state.finished(&attempt(3, 1)).is_none() && state.finished(&attempt(4, 1)).is_some());
    let awaiting: Vec<Attempt> = state.awaiting().map(|awaiting| awaiting.attempt).collect();
    assert_eq!(awaiting, [attempt(4, 1), attempt(5, 1)]);
    assert!(!state.inbound_seen(3) && state.inbound_seen(4));
}

#[test]
fn the_bytes_on_disk_never_change() {
    let mut row = Vec::new();
    encode_records(7, &one_of_each(), &mut row).unwrap();
    let golden = include_bytes!("golden/row_v1.bin");
    let snapshot = include_bytes!("golden/snapshot_v1.bin");
    assert_eq!(row, golden, "a new form needs a new version, and the old one has to be read for ever");
    let state = fold(&one_of_each());
    assert_eq!(bytes(&state), snapshot);
    let mut read = State::new(Limits::default());
    snapshot::decode_row(golden, |device, run| {
        assert_eq!(device, 7);
        snapshot::apply_run(&mut read, run)
    })
    .unwrap();
    assert_eq!(bytes(&read), snapshot);
    assert_eq!(bytes(&decode_state(snapshot, Limits::default()).unwrap()), snapshot);
}

#[test]
fn damaged_and_newer_bytes_are_told_apart() {
    let mut row = Vec::new();
    encode_records(7, &one_of_each(), &mut row).unwrap();
    let read = |row: &[u8]| {
        let mut state = State::new(Limits::default());
        snapshot::decode_row(row, |_, run| snapshot::apply_run(&mut state, run))
    };
    for cut in 2..row.len() {
        assert_eq!(read(&row[..cut]), Err(FormError::Damaged), "cut at {cut}");
    }
    row[0] = 2;
    assert_eq!(read(&row), Err(FormError::Version(2)));
}

/// What a crashed process finds when it starts again on a copy of the files.
fn load_copy(folder: &std::path::Path, cut_wal: Option<u64>) -> BTreeMap<u32, Vec<u8>> {
    let copy = tempfile::tempdir().unwrap();
    for name in ["outbox.db", "outbox.db-wal"] {
        if folder.join(name).exists() {
            fs::copy(folder.join(name), copy.path().join(name)).unwrap();
        }
    }
    if let Some(cut) = cut_wal {
        let wal = fs::OpenOptions::new().write(true).open(copy.path().join("outbox.db-wal")).unwrap();
        wal.set_len(cut).unwrap();
    }
    let store = Store::open(&copy.path().join("outbox.db")).unwrap();
    let loaded = store.load(Limits::default()).unwrap();
    loaded.states.iter().map(|(device, state)| (*device, bytes(state))).collect()
}

/// Devices 1 to 3 write by turns.
struct Writing {
    folder: tempfile::TempDir,
    store: Store,
    seq: u64,
    model: BTreeMap<u32, State>,
}

impl Writing {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("outbox.db")).unwrap();
        Self { folder, store, seq: 0, model: BTreeMap::new() }
    }

    fn commit(&mut self, runs: &[(u32, Vec<Record>)]) {
        let mut row = Vec::new();
        for (device, records) in runs {
            encode_records(*device, records, &mut row).unwrap();
            let state = self.model.entry(*device).or_insert_with(|| State::new(Limits::default()));
            records.iter().for_each(|record| state.apply(record));
        }
        self.seq += 1;
        self.store.commit(&Transaction { row: Some((self.seq, row)), ..Transaction::default() }).unwrap();
    }

    fn model(&self) -> BTreeMap<u32, Vec<u8>> {
        self.model.iter().map(|(device, state)| (*device, bytes(state))).collect()
    }

    /// Compacts, with a look after each step as if the process had died there.
    fn compact_and_crash_everywhere(&mut self) {
        let reader = Store::open_reader(&self.folder.path().join("outbox.db")).unwrap();
        let (expected, folder) = (self.model(), self.folder.path().to_owned());
        let mut steps = 0;
        compact(&reader, self.seq, Limits::default(), |step| {
            let transaction = match step {
                Step::Snapshots(snapshots) => Transaction { snapshots, ..Transaction::default() },
                Step::Trim(seq) => Transaction { trim: Some(seq), ..Transaction::default() },
            };
            self.store.commit(&transaction)?;
            steps += 1;
            assert_eq!(load_copy(&folder, None), expected, "after step {steps}");
            Ok(true)
        })
        .unwrap();
        assert!(steps >= 2);
    }
}

#[test]
fn a_crash_at_any_step_loses_nothing_that_was_committed() {
    let mut writing = Writing::new();
    for (step, record) in one_of_each().into_iter().enumerate() {
        let device = 1 + step as u32 % 2;
        writing.commit(&[(device, vec![record.clone()]), (3, vec![record])]);
        assert_eq!(load_copy(writing.folder.path(), None), writing.model());
        if step % 5 == 4 {
            writing.compact_and_crash_everywhere();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// A power cut tears the end off the write-ahead log: what remains is the state after some commit, never a mixture.
    #[test]
    fn a_torn_log_is_a_shorter_log(cut in 0.0f64..1.0, sizes in prop::collection::vec(1usize..6, 1..8)) {
        let mut writing = Writing::new();
        let mut records = one_of_each().into_iter().cycle();
        let mut history = vec![BTreeMap::new()];
        for size in sizes {
            let run: Vec<Record> = records.by_ref().take(size).collect();
            writing.commit(&[(1, run.clone()), (2, run)]);
            history.push(writing.model());
        }
        let wal = fs::metadata(writing.folder.path().join("outbox.db-wal")).unwrap().len();
        let found = load_copy(writing.folder.path(), Some((wal as f64 * cut) as u64));
        prop_assert!(history.contains(&found));
    }
}

#[test]
fn a_full_disk_refuses_a_commit_whole_and_takes_it_when_there_is_space() {
    let mut writing = Writing::new();
    writing.commit(&[(1, one_of_each())]);
    let before = writing.model();
    writing.store.limit_pages(8);
    let row = Some((2, vec![1; 200_000]));
    let big = Transaction { row, ..Transaction::default() };
    let refused = writing.store.commit(&big).unwrap_err();
    assert!(refused.is_full(), "{refused}");
    assert_eq!(load_copy(writing.folder.path(), None), before);
    writing.store.limit_pages(1_000);
    let mut row = Vec::new();
    encode_records(1, &[Record::Acked { position: 1_004 }], &mut row).unwrap();
    writing.store.commit(&Transaction { row: Some((2, row)), ..Transaction::default() }).unwrap();
    assert_ne!(load_copy(writing.folder.path(), None), before);
}

fn id(number: u8) -> DeviceId {
    DeviceId::new(1, [number; 10])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_devices_share_commits_and_find_their_state_again() {
    let folder = tempfile::tempdir().unwrap();
    // So small that compactions run all the time.
    let options = Options { log_bytes_max: 2_000, ..Options::default() };
    let mut expected = BTreeMap::new();
    for life in 0..3 {
        let outbox = Outbox::open(folder.path(), options).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (device, state) = outbox.device(id(number)).await.unwrap();
            assert_eq!(state.is_none(), life == 0);
            assert_eq!(state.as_ref().map(bytes), expected.get(&number).cloned());
            tasks.spawn(async move {
                let mut state = state.unwrap_or_else(|| State::new(Limits::default()));
                for record in one_of_each() {
                    device.append(std::slice::from_ref(&record)).unwrap().await.unwrap();
                    state.apply(&record);
                }
                (number, bytes(&state))
            });
        }
        while let Some(done) = tasks.join_next().await {
            let (number, bytes) = done.unwrap();
            expected.insert(number, bytes);
        }
        assert!(outbox.commits() < 20 * 19, "commits are shared");
        outbox.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_open_once_and_can_be_opened_again_within_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(folder.path(), Options::default()).unwrap();
    let (device, _) = outbox.device(id(1)).await.unwrap();
    assert!(matches!(outbox.device(id(1)).await, Err(DeviceError::InUse)));
    // Not waited for: whoever opens it next must find it all the same.
    let commit = device.append(&one_of_each()).unwrap();
    drop((commit, device));
    let (_device, state) = outbox.device(id(1)).await.unwrap();
    assert_eq!(bytes(&state.unwrap()), bytes(&fold(&one_of_each())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_makes_everything_durable_and_refuses_more() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(folder.path(), Options::default()).unwrap();
    let (device, _) = outbox.device(id(1)).await.unwrap();
    let commit = device.append(&one_of_each()).unwrap();
    outbox.close();
    commit.await.unwrap();
    assert!(device.append(&one_of_each()).is_err());
}

#[test]
fn two_nodes_on_one_folder_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(folder.path(), Options::default()).unwrap();
    let error = Outbox::open(folder.path(), Options::default()).err().unwrap();
    assert!(error.to_string().contains("another node runs on this data folder"), "{error}");
    outbox.close();
    drop(outbox);
    Outbox::open(folder.path(), Options::default()).unwrap();
}

#[test]
fn little_space_refuses_new_work_before_the_disk_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(folder.path(), Options { reserve_bytes: u64::MAX, ..Options::default() }).unwrap();
    // The writer looks at the disk before it waits for work.
    while outbox.free_bytes().is_none() {
        std::thread::yield_now();
    }
    while !outbox.is_full() {
        std::thread::yield_now();
    }
}
