//! The golden bytes. A line that does not match means that stores written by an earlier program can no longer be read: add a
//! new version instead. (Before the first release, and only then, the line may be replaced by what the test prints.)

use flotilla_protocol::address::Address;
use flotilla_protocol::id::{DeviceId, InboundId, MessageId, SimId, TenantId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{Alphabet, Body, ErrorClass, TextEncoding};
use flotilla_routing::Micros;
use flotilla_routing::choice::{Because, Why};
use flotilla_routing::fact::{Charge, recipient_hash};
use proptest::prelude::*;

use super::*;
use crate::domain::event::{Accepted, Change, Changed, EventKind, Facts, Idempotency};
use crate::domain::message::{Duplicates, Failure, MessageState, Pin, Priority, Route, RouteKind, Submission};

/// What the programs of each format have written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    First,
    Second,
}

use Format::{First, Second};

impl Format {
    fn golden(self, name: &str) -> Vec<u8> {
        let file = match self {
            First => include_str!("golden.txt"),
            Second => include_str!("golden2.txt"),
        };
        let line = file.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        data_encoding::HEXLOWER.decode(line.unwrap_or("").as_bytes()).unwrap()
    }
}

fn route(format: Format) -> Route {
    let kind = if format == First { RouteKind::Sim } else { RouteKind::Provider };
    Route { kind, device: DeviceId::from_bytes([0xd1; 16]), sim: SimId::from_bytes([0x51; 16]) }
}

fn why() -> Failure {
    Failure { class: ErrorClass::Transient, code: "cms-38".into(), text: "network".into() }
}

fn submission(format: Format) -> Submission {
    let new = |text: &str| (format == Second).then(|| Box::from(text));
    Submission {
        id: MessageId::from_bytes([1; 16]),
        tenant: TenantId::from_bytes([2; 16]),
        accepted_ms: 1_763_640_000_000,
        to: Msisdn::from_u64(255_712_345_678).unwrap(),
        body: Body::Text("Habari".into()),
        encoding: TextEncoding { alphabet: Alphabet::Gsm7, national_tables: false, smart: true },
        flash: true,
        segments: 1,
        priority: Priority::High,
        duplicates: Duplicates::Allowed,
        pin: Pin::Sim(SimId::from_bytes([0x51; 16])),
        due_ms: 1_763_640_000_001,
        expires_ms: 1_763_640_000_002,
        campaign: "spring".into(),
        tags: vec!["a".into(), "b".into()],
        client_ref: Some("order-7".into()),
        sender: new("BANK"),
        plan: new("cheapest"),
        max_cost: (format == Second).then_some(Micros(70_000)),
        callback_url: new("https://example.com/events"),
    }
}

fn inbound() -> Inbound {
    Inbound {
        id: InboundId::from_bytes([3; 16]),
        tenant: TenantId::from_bytes([2; 16]),
        device: route(First).device,
        sim: route(First).sim,
        position: 300,
        from: Address::Short("15001".into()),
        to: Some(Msisdn::from_u64(255_712_345_678).unwrap()),
        text: "STOP".into(),
        segments: 1,
        sent_ms: Some(5),
        received_ms: 6,
    }
}

fn charge() -> Charge {
    Charge {
        route: route(Second),
        segments: 2,
        at_ms: 500,
        recipient: recipient_hash(255_712_345_678),
        cost: Micros(1_500),
        day: 20_412,
        tenant_day: 20_413,
        recipient_window_s: 3_600,
    }
}

fn events(format: Format) -> Vec<(&'static str, Event)> {
    let event = |kind| Event { at_ms: 300, kind };
    let accepted = |submission, idempotency| event(EventKind::Accepted(Box::new(Accepted { submission, idempotency })));
    let data = Submission {
        body: Body::Data { bytes: vec![0, 255], port: Some(2_948) },
        pin: Pin::Device(route(format).device),
        client_ref: None,
        ..submission(format)
    };
    let idempotency = Idempotency { key: [4; 16], request: [5; 16], index: 1, count: 2 };
    let mut all = vec![
        ("accepted text", accepted(submission(format), None)),
        ("accepted data", accepted(data, Some(idempotency))),
    ];
    for (name, change) in changes(format) {
        let submission = submission(format);
        let (message, tenant) = (submission.id, submission.tenant);
        let facts = Facts::of(&submission);
        let charge = (format == Second && name == "sent").then(|| Box::new(charge()));
        all.push((name, event(EventKind::Changed(Changed { message, tenant, facts, change, charge }))));
    }
    all.push(("inbound", event(EventKind::Inbound(Box::new(inbound())))));
    all
}

fn changes(format: Format) -> Vec<(&'static str, Change)> {
    let (attempt, route, second) = (2, route(format), format == Second);
    let chosen = Why { rule: Some("codes".into()), step: 2, score: 88, room: 7, because: Because::Fallback };
    let chosen = if second { chosen } else { Why::default() };
    vec![
        ("due", Change::Due),
        ("dispatched", Change::Dispatched { attempt, route, session: 9, why: chosen }),
        ("returned", Change::Returned { attempt, route, why: why(), retry_ms: 400, undelivered: second }),
        ("doubted", Change::Doubted { attempt, route, lost: true }),
        ("sent", Change::Sent { attempt, route, sent_ms: 500, took_ms: if second { 200 } else { 0 } }),
        ("segment delivered", Change::SegmentDelivered { attempt, route, segment: 3 }),
        ("delivered", Change::Delivered { attempt, route, sent_ms: 500, delivered_ms: 600 }),
        ("failed", Change::Failed { attempt, route: Some(route), why: why(), undelivered: second }),
        ("expired", Change::Expired { attempt, route: None, why: why() }),
        ("cancelled", Change::Cancelled),
    ]
}

fn record(format: Format) -> MessageRecord {
    let mut record = MessageRecord::accepted(submission(format), 300, (70_000, 5));
    for (_, change) in changes(format) {
        record.apply(301, &change);
    }
    match format {
        First => record.trace.iter_mut().for_each(|step| step.why = None),
        Second => record.charge(&charge()),
    }
    assert_eq!(record.state, MessageState::Cancelled);
    record
}

/// Every kind of event, the row formats, and that all of them are still written as they were.
#[test]
fn what_is_written_never_changes() {
    let mut now: Vec<(&str, Vec<u8>)> =
        events(Second).into_iter().map(|(name, event)| (name, encode_events(&[event]).unwrap())).collect();
    now.push(("record", encode_record(&record(Second)).unwrap()));
    now.push(("inbound row", encode_inbound(&inbound()).unwrap()));
    let changed: Vec<String> = now
        .iter()
        .filter(|(name, bytes)| Second.golden(name) != *bytes)
        .map(|(name, bytes)| format!("{name}: {}", data_encoding::HEXLOWER.encode(bytes)))
        .collect();
    assert!(changed.is_empty(), "the format on disk has changed:\n{}", changed.join("\n"));
}

#[test]
fn what_was_written_can_be_read() {
    for format in [First, Second] {
        for (name, event) in events(format) {
            assert_eq!(*decode_events(&format.golden(name)).unwrap(), [event], "{name}");
        }
        assert_eq!(decode_record(&format.golden("record")).unwrap(), record(format));
        assert_eq!(decode_inbound(&format.golden("inbound row")).unwrap(), inbound());
        // The compressor may find shorter forms; what an earlier one wrote is read all the same.
        let many: Vec<Event> = events(format).into_iter().map(|(_, event)| event).cycle().take(60).collect();
        let packed = data_encoding::HEXLOWER.encode(&encode_events(&many).unwrap());
        let golden = decode_events(&format.golden("compressed"));
        assert_eq!(golden.as_deref(), Ok(&*many), "written now:\ncompressed: {packed}");
    }
}

#[test]
fn large_batches_are_compressed_and_come_back() {
    let many: Vec<Event> = events(Second).into_iter().map(|(_, event)| event).cycle().take(500).collect();
    let packed = encode_events(&many).unwrap();
    assert_eq!(packed[0], LZ4);
    assert!(packed.len() < postcard::to_stdvec(&many).unwrap().len() / 4);
    assert_eq!(*decode_events(&packed).unwrap(), *many);
    assert_eq!(*decode_events(&encode_events(&[]).unwrap()).unwrap(), []);
}

#[test]
fn damage_is_an_error_that_says_what() {
    let good = encode_events(&[events(Second).remove(0).1]).unwrap();
    let says = |bytes: &[u8]| decode_events(bytes).unwrap_err().to_string();
    assert!(says(&[]).contains("empty"));
    assert!(says(&[9, 1]).contains("needs a newer program"));
    assert!(says(&good[..good.len() - 1]).contains("a journal batch cannot be read"));
    assert!(says(&[good.as_slice(), &[0]].concat()).contains("left over"));
    assert!(says(&[LZ4, 1, 2]).contains("cut off"));
    assert!(says(&[LZ4, 255, 255, 255, 255, 0]).contains("larger than any batch"));
}

proptest! {
    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), version in 0u8..6) {
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        // A length that is claimed is allocated at once: bounded, and small here so that the test is fast.
        if [FIRST_LZ4, LZ4].contains(&version) && bytes.len() > 4 {
            bytes[3] = 0;
            bytes[4] = 0;
        }
        let _ = decode_events(&bytes);
        let _ = decode_record(&bytes);
        let _ = decode_inbound(&bytes);
    }
}
