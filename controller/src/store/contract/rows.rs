//! Checks of [`crate::store::Rows`].

use std::sync::Arc;

use flotilla_protocol::address::Address;
use flotilla_protocol::id::{MessageId, ShardId, TenantId};

use super::make::{T0, device, inbound, message_id, number, record, record_in, route, sim, submission, tenant};
use super::{Engine, SHARDS};
use crate::domain::event::Change;
use crate::domain::message::{MessageState, Priority};
use crate::domain::record::MessageRecord;
use crate::store::{
    Cursor, Flush, IDEMPOTENCY_MS, InboundFilter, KeyUse, MessageFilter, OpenCount, Page, QueuedQuery, Rows,
    StoreError, Upsert,
};

const S: ShardId = ShardId(0);

fn flush(shard: ShardId, records: &[MessageRecord], new: bool, position: u64) -> Flush {
    let upsert = |record: &MessageRecord| Upsert { shard, record: Arc::new(record.clone()), new };
    Flush {
        messages: records.iter().map(upsert).collect(),
        positions: vec![(shard, position)],
        now_ms: T0,
        ..Flush::default()
    }
}

async fn insert(rows: &dyn Rows, records: &[MessageRecord]) {
    for record in records {
        let shard = ShardId::of(record.submission.tenant, SHARDS);
        rows.write(flush(shard, std::slice::from_ref(record), true, record.order.0)).await.unwrap();
    }
}

fn page(limit: usize, cursor: Option<Cursor>) -> Page {
    Page { limit, cursor }
}

fn ids(records: &[MessageRecord]) -> Vec<MessageId> {
    records.iter().map(|record| record.submission.id).collect()
}

/// The numbers (as given to `message_id`) of all pages joined.
async fn numbers(rows: &dyn Rows, tenant: TenantId, filter: MessageFilter, limit: usize) -> Vec<u64> {
    let mut found = Vec::new();
    let mut cursor = None;
    loop {
        let next = rows.list(tenant, filter.clone(), page(limit, cursor)).await.unwrap();
        assert!(next.items.len() <= limit);
        found.extend(next.items.iter().map(|record| record.submission.accepted_ms - T0));
        cursor = next.next;
        if cursor.is_none() {
            return found;
        }
    }
}

pub(crate) async fn a_flush_is_there_as_a_whole(engine: &impl Engine) {
    let stores = engine.open();
    let ours = tenant(0, 0);
    assert_eq!(stores.rows.positions().await, Ok(vec![0; 4]));
    let mut first = flush(S, &[record(ours, 1), record(ours, 2)], true, 5);
    first.positions.push((ShardId(3), 8));
    first.inbound.push((S, inbound(ours, 1, 1)));
    stores.rows.write(first).await.unwrap();
    drop(stores);

    let stores = engine.open();
    assert_eq!(stores.rows.positions().await, Ok(vec![5, 0, 0, 8]));
    assert_eq!(stores.rows.get(ours, message_id(1)).await, Ok(Some(record(ours, 1))));
    let many = stores.rows.get_many(vec![message_id(2), message_id(99), message_id(1)]).await.unwrap();
    assert_eq!(many.len(), 2);
    assert_eq!(stores.rows.inbound(ours, InboundFilter::default(), page(5, None)).await.unwrap().items.len(), 1);
    let wrong = Flush { positions: vec![(ShardId(SHARDS), 1)], ..flush(S, &[record(ours, 3)], true, 6) };
    assert_eq!(stores.rows.write(wrong).await, Err(StoreError::NoSuchShard { shard: ShardId(SHARDS) }));
    assert_eq!(stores.rows.get(ours, message_id(3)).await, Ok(None));
}

pub(crate) async fn a_former_leaders_flush_is_refused(engine: &impl Engine) {
    let stores = engine.open();
    let rows = &*stores.rows;
    let ours = tenant(0, 0);
    rows.write(flush(S, &[record(ours, 1)], true, 5)).await.unwrap();
    let sent = record_in(ours, 1, MessageState::Sent, route(1));
    rows.write(flush(S, std::slice::from_ref(&sent), false, 9)).await.unwrap();
    // The same position again: what both leaders have read from the journal is the same.
    rows.write(flush(S, std::slice::from_ref(&sent), false, 9)).await.unwrap();

    let mut late = flush(S, &[record_in(ours, 1, MessageState::Dispatching, route(1)), record(ours, 2)], false, 7);
    late.positions.push((ShardId(2), 4));
    late.inbound.push((S, inbound(ours, 1, 1)));
    assert_eq!(rows.write(late).await, Err(StoreError::Behind { shard: S, position: 9 }));
    assert_eq!(rows.positions().await, Ok(vec![9, 0, 0, 0]), "nothing of it, of no shard");
    assert_eq!(rows.get(ours, message_id(1)).await, Ok(Some(sent)));
    assert_eq!(rows.get(ours, message_id(2)).await, Ok(None));
    assert_eq!(rows.inbound(ours, InboundFilter::default(), page(5, None)).await.unwrap().items.len(), 0);
}

pub(crate) async fn a_flush_on_rows_that_have_changed_is_refused(engine: &impl Engine) {
    let stores = engine.open();
    let rows = &*stores.rows;
    let ours = tenant(0, 0);
    let on = |base: u64, flush: Flush| Flush { bases: vec![(S, base)], ..flush };
    rows.write(on(0, flush(S, &[record(ours, 1)], true, 5))).await.unwrap();
    // A former leader's last flush, while the next leader builds on position 5.
    let sent = record_in(ours, 1, MessageState::Sent, route(1));
    rows.write(on(5, flush(S, std::slice::from_ref(&sent), false, 7))).await.unwrap();
    let built = flush(S, &[record_in(ours, 1, MessageState::Dispatching, route(1)), record(ours, 2)], false, 9);
    assert_eq!(rows.write(on(5, built)).await, Err(StoreError::Behind { shard: S, position: 7 }));
    assert_eq!(rows.get(ours, message_id(1)).await, Ok(Some(sent)));
    assert_eq!(rows.get(ours, message_id(2)).await, Ok(None));
    rows.write(on(7, flush(S, &[record(ours, 2)], true, 9))).await.unwrap();
    assert_eq!(rows.positions().await, Ok(vec![9, 0, 0, 0]));
}

pub(crate) async fn a_message_is_written_anew_under_its_number(engine: &impl Engine) {
    let stores = engine.open();
    let ours = tenant(0, 0);
    insert(&*stores.rows, &[record(ours, 1), record(ours, 2)]).await;
    for state in [MessageState::Dispatching, MessageState::Sent, MessageState::Delivered] {
        let now = record_in(ours, 1, state, route(3));
        stores.rows.write(flush(S, std::slice::from_ref(&now), false, 9)).await.unwrap();
        assert_eq!(stores.rows.get(ours, message_id(1)).await, Ok(Some(now)));
    }
    // Written again as if it were new, as after a crash between the two: still one row.
    stores.rows.write(flush(S, &[record_in(ours, 1, MessageState::Delivered, route(3))], true, 9)).await.unwrap();
    // And one that is said to be known but is not.
    stores.rows.write(flush(S, &[record(ours, 3)], false, 10)).await.unwrap();
    assert_eq!(numbers(&*stores.rows, ours, MessageFilter::default(), 10).await, [3, 2, 1]);
}

pub(crate) async fn tenants_see_only_their_own(engine: &impl Engine) {
    let stores = engine.open();
    let (ours, theirs) = (tenant(0, 0), tenant(0, 1));
    insert(&*stores.rows, &[record(ours, 1), record(theirs, 2)]).await;
    assert_eq!(stores.rows.get(theirs, message_id(1)).await, Ok(None));
    assert_eq!(numbers(&*stores.rows, ours, MessageFilter::default(), 10).await, [1]);
    assert_eq!(numbers(&*stores.rows, tenant(1, 0), MessageFilter::default(), 10).await, [0u64; 0]);
    let strange = Cursor::of_message(message_id(2));
    let listed = stores.rows.list(ours, MessageFilter::default(), page(10, Some(strange))).await;
    assert_eq!(listed.map(|page| page.items), Err(StoreError::Cursor));
}

pub(crate) async fn the_newest_come_first_and_pages_join(engine: &impl Engine) {
    let stores = engine.open();
    let ours = tenant(0, 0);
    let all: Vec<_> = (1..=25).map(|n| record(ours, n)).collect();
    insert(&*stores.rows, &all).await;
    let expected: Vec<u64> = (1..=25).rev().collect();
    for limit in [1, 7, 25, 100] {
        assert_eq!(numbers(&*stores.rows, ours, MessageFilter::default(), limit).await, expected, "{limit}");
    }
    // New rows do not shift a page that is under way.
    let first = stores.rows.list(ours, MessageFilter::default(), page(10, None)).await.unwrap();
    insert(&*stores.rows, &[record(ours, 26)]).await;
    let text = first.next.unwrap().to_string();
    let second = stores.rows.list(ours, MessageFilter::default(), page(10, Some(text.parse().unwrap()))).await.unwrap();
    assert_eq!(second.items[0].submission.id, message_id(15));
    for wrong in ["", "x", "AAAAAAAAAAAAAAAAAAAAAA="] {
        assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
    }
    let unknown = Cursor::of_message(message_id(999));
    assert!(stores.rows.list(ours, MessageFilter::default(), page(10, Some(unknown))).await.is_err());
    let exact = stores.rows.list(ours, MessageFilter::default(), page(26, None)).await.unwrap();
    assert_eq!((exact.items.len(), exact.next), (26, None), "a full last page has no next one");
}

pub(crate) async fn filters_hold_together(engine: &impl Engine) {
    let stores = engine.open();
    let rows = &*stores.rows;
    let ours = tenant(0, 0);
    let mut all = Vec::new();
    for n in 1..=90 {
        let state = MessageState::ALL[n as usize % 9];
        let mut record = record_in(ours, n, state, route((n % 4) as u8));
        record.submission.campaign = if n % 2 == 0 { "spring".into() } else { "".into() };
        record.submission.tags = if n % 5 == 0 { vec!["a".into(), "b".into()] } else { Vec::new() };
        record.submission.client_ref = Some(format!("ref-{}", n / 2).into());
        record.submission.priority = Priority::ALL[n as usize % 3];
        all.push(record);
    }
    insert(rows, &all).await;
    type Make = (&'static str, Box<dyn Fn(&mut MessageFilter)>, Box<dyn Fn(&MessageRecord) -> bool>);
    let on = |n: u8| move |r: &MessageRecord| r.route.is_some_and(|route| route.sim == sim(n));
    let parts: Vec<Make> = vec![
        ("to", Box::new(|f| f.to = Some(number(12))), Box::new(|r| r.submission.to == number(12))),
        ("sim", Box::new(|f| f.sim = Some(sim(1))), Box::new(on(1))),
        ("device", Box::new(|f| f.device = Some(device(1))), Box::new(on(1))),
        (
            "campaign",
            Box::new(|f| f.campaign = Some("spring".into())),
            Box::new(|r| &*r.submission.campaign == "spring"),
        ),
        ("no campaign", Box::new(|f| f.campaign = Some("".into())), Box::new(|r| r.submission.campaign.is_empty())),
        ("tag", Box::new(|f| f.tag = Some("b".into())), Box::new(|r| r.submission.tags.len() == 2)),
        (
            "ref",
            Box::new(|f| f.client_ref = Some("ref-6".into())),
            Box::new(|r| r.submission.client_ref.as_deref() == Some("ref-6")),
        ),
        (
            "class",
            Box::new(|f| f.priority = Some(Priority::High)),
            Box::new(|r| r.submission.priority == Priority::High),
        ),
        ("from", Box::new(|f| f.from_ms = Some(T0 + 40)), Box::new(|r| r.submission.accepted_ms >= T0 + 40)),
        ("until", Box::new(|f| f.until_ms = Some(T0 + 60)), Box::new(|r| r.submission.accepted_ms < T0 + 60)),
        (
            "ends",
            Box::new(|f| f.states = vec![MessageState::Failed, MessageState::Cancelled]),
            Box::new(|r| matches!(r.state, MessageState::Failed | MessageState::Cancelled)),
        ),
        (
            "open",
            Box::new(|f| f.states = vec![MessageState::Scheduled, MessageState::Sent, MessageState::Queued]),
            Box::new(|r| matches!(r.state, MessageState::Scheduled | MessageState::Sent | MessageState::Queued)),
        ),
        (
            "mixed",
            Box::new(|f| f.states = vec![MessageState::Unknown, MessageState::Delivered]),
            Box::new(|r| matches!(r.state, MessageState::Unknown | MessageState::Delivered)),
        ),
    ];
    for (i, (name, set, wanted)) in parts.iter().enumerate() {
        for (other, set_other, wanted_other) in &parts[i..] {
            let mut filter = MessageFilter::default();
            set(&mut filter);
            set_other(&mut filter);
            // The second of two settings of one field counts.
            let same_field = |a: &str, b: &str| {
                let field = |name: &str| match name {
                    "open" | "ends" | "mixed" => "states".to_owned(),
                    "no campaign" => "campaign".to_owned(),
                    name => name.to_owned(),
                };
                field(a) == field(b)
            };
            let fits = |r: &&MessageRecord| wanted_other(r) && (same_field(name, other) || wanted(r));
            let expected: Vec<u64> = all.iter().rev().filter(fits).map(|r| r.submission.accepted_ms - T0).collect();
            for limit in [3, 1_000] {
                assert_eq!(numbers(rows, ours, filter.clone(), limit).await, expected, "{name} + {other}");
            }
        }
    }
}

pub(crate) async fn blocks_are_walked_through(engine: &impl Engine) {
    const ROWS: u64 = 70_000;
    let stores = engine.open();
    let rows = &*stores.rows;
    let (ours, other) = (tenant(0, 0), tenant(0, 1));
    // One tenant's few messages lie between another's many.
    let mut expected: Vec<u64> = Vec::new();
    for chunk in (0..ROWS).collect::<Vec<_>>().chunks(10_000) {
        let records: Vec<_> = chunk.iter().map(|n| record(if n % 30_000 == 7 { ours } else { other }, *n)).collect();
        expected.extend(chunk.iter().filter(|n| *n % 30_000 == 7));
        rows.write(flush(S, &records, true, chunk[0] + 1)).await.unwrap();
    }
    expected.reverse();
    for limit in [1, 10] {
        assert_eq!(numbers(rows, ours, MessageFilter::default(), limit).await, expected);
    }
    let to_one = MessageFilter { to: Some(number(3)), ..MessageFilter::default() };
    let expected: Vec<u64> = (0..ROWS).rev().filter(|n| n % 1_000 == 3).collect();
    assert_eq!(numbers(rows, other, to_one, 50).await, expected);
    // Nothing fits, and yet no page reads everything: they are empty, and go on.
    let none = MessageFilter { states: vec![MessageState::Delivered], ..MessageFilter::default() };
    let first = rows.list(other, none.clone(), page(10, None)).await.unwrap();
    assert!(first.items.is_empty() && first.next.is_some());
    assert_eq!(numbers(rows, other, none, 10).await, [0u64; 0]);
    let early = MessageFilter { until_ms: Some(T0 + 3), ..MessageFilter::default() };
    assert_eq!(numbers(rows, other, early, 10).await, [2, 1, 0]);
}

pub(crate) async fn queues_are_in_the_order_of_acceptance(engine: &impl Engine) {
    let stores = engine.open();
    let rows = &*stores.rows;
    let tenants = [tenant(0, 0), tenant(0, 1), tenant(0, 2)];
    let mut all = Vec::new();
    for n in 1..=300u64 {
        let mut one = record(tenants[n as usize % 3], n);
        one.submission.priority = Priority::ALL[n as usize / 3 % 2];
        one.order = (n / 10, (n % 10) as u32);
        all.push(one);
    }
    let others = [record_in(tenants[0], 400, MessageState::Sent, route(1)), record(tenant(1, 0), 401)];
    insert(rows, &all).await;
    insert(rows, &others).await;
    for tenant in [None, Some(tenants[1]), Some(tenant(2, 0))] {
        for class in [None, Some(Priority::High), Some(Priority::Bulk)] {
            let fits = |r: &&MessageRecord| {
                tenant.is_none_or(|t| t == r.submission.tenant) && class.is_none_or(|c| c == r.submission.priority)
            };
            let expected: Vec<_> = all.iter().filter(fits).cloned().collect();
            for limit in [7, 1_000] {
                let mut found: Vec<MessageRecord> = Vec::new();
                let mut after = (0, 0);
                loop {
                    let query = QueuedQuery { shard: S, tenant, class, after, limit };
                    let some = rows.queued(query).await.unwrap();
                    assert!(some.len() <= limit);
                    let Some(last) = some.last() else { break };
                    after = last.order;
                    found.extend(some);
                }
                assert_eq!(ids(&found), ids(&expected), "{tenant:?} {class:?} {limit}");
            }
        }
    }
}

pub(crate) async fn open_attempts_are_found(engine: &impl Engine) {
    let stores = engine.open();
    let ours = tenant(0, 0);
    let all: Vec<_> = (1..=27).map(|n| record_in(ours, n, MessageState::ALL[n as usize % 9], route(1))).collect();
    insert(&*stores.rows, &all).await;
    let open = |r: &&MessageRecord| matches!(r.state, MessageState::Dispatching | MessageState::Unknown);
    let expected: Vec<_> = all.iter().filter(open).cloned().collect();
    assert_eq!(expected.len(), 6);
    assert_eq!(stores.rows.in_flight(S, (0, 0), 100).await, Ok(expected.clone()));
    let first = stores.rows.in_flight(S, (0, 0), 4).await.unwrap();
    let rest = stores.rows.in_flight(S, first[3].order, 100).await.unwrap();
    assert_eq!([ids(&first), ids(&rest)].concat(), ids(&expected));
    assert_eq!(stores.rows.in_flight(ShardId(1), (0, 0), 100).await, Ok(vec![]));
}

pub(crate) async fn what_is_due_and_overdue_is_found(engine: &impl Engine) {
    let stores = engine.open();
    let rows = &*stores.rows;
    let ours = tenant(0, 0);
    let mut later = submission(ours, 1);
    later.due_ms = T0 + 900;
    let mut soon = submission(ours, 2);
    soon.due_ms = T0 + 500;
    soon.expires_ms = T0 + 800;
    let soon = MessageRecord::accepted(soon, T0, (2, 0));
    insert(rows, &[MessageRecord::accepted(later, T0, (1, 0)), soon.clone(), record(ours, 3)]).await;
    assert_eq!(ids(&rows.due(S, T0 + 499, 10).await.unwrap()), []);
    assert_eq!(ids(&rows.due(S, T0 + 500, 10).await.unwrap()), [message_id(2)]);
    assert_eq!(ids(&rows.due(S, T0 + 5_000, 10).await.unwrap()), [message_id(2), message_id(1)]);
    assert_eq!(ids(&rows.due(S, T0 + 5_000, 1).await.unwrap()), [message_id(2)]);
    assert_eq!(ids(&rows.due(ShardId(1), T0 + 5_000, 1).await.unwrap()), []);
    assert_eq!(ids(&rows.overdue(S, T0 + 799, 10).await.unwrap()), []);
    assert_eq!(ids(&rows.overdue(S, T0 + 800, 10).await.unwrap()), [message_id(2)]);
    assert_eq!(ids(&rows.overdue(S, u64::MAX, 10).await.unwrap()), [message_id(2), message_id(1), message_id(3)]);
    let mut over = soon;
    over.apply(T0 + 800, &Change::Due);
    over.apply(T0 + 801, &Change::Cancelled);
    rows.write(flush(S, &[over], false, 9)).await.unwrap();
    assert_eq!(ids(&rows.due(S, T0 + 5_000, 10).await.unwrap()), [message_id(1)]);
    assert_eq!(ids(&rows.overdue(S, u64::MAX, 10).await.unwrap()), [message_id(1), message_id(3)]);
}

pub(crate) async fn open_messages_are_counted(engine: &impl Engine) {
    let stores = engine.open();
    let (ours, theirs) = (tenant(0, 0), tenant(0, 1));
    let mut all: Vec<_> = (1..=9).map(|n| record_in(ours, n, MessageState::ALL[n as usize % 9], route(1))).collect();
    all.push(record(theirs, 10));
    all.push(record(theirs, 11));
    insert(&*stores.rows, &all).await;
    let mut counts = stores.rows.open_counts(S).await.unwrap();
    counts.sort_by_key(|count| (count.tenant, count.state));
    let one = |tenant, state, messages| OpenCount { tenant, class: Priority::Normal, state, messages };
    let mut expected: Vec<_> = MessageState::ALL[..5].iter().map(|state| one(ours, *state, 1)).collect();
    expected.push(one(theirs, MessageState::Queued, 2));
    expected.sort_by_key(|count| (count.tenant, count.state));
    assert_eq!(counts, expected);
    assert_eq!(stores.rows.open_counts(ShardId(1)).await, Ok(vec![]));
}

pub(crate) async fn a_key_is_remembered_for_a_day(engine: &impl Engine) {
    let stores = engine.open();
    let rows = &*stores.rows;
    let ours = tenant(0, 0);
    let used = |at_ms, n| KeyUse { request: [n; 16], messages: (0..1_000).map(message_id).collect(), at_ms };
    let remember = async |now_ms, keys: Vec<(TenantId, [u8; 16], KeyUse)>| {
        rows.write(Flush { keys, now_ms, ..Flush::default() }).await.unwrap();
    };
    assert_eq!(rows.idempotent(ours, [1; 16], 0).await, Ok(None));
    remember(T0, vec![(ours, [1; 16], used(T0, 1)), (ours, [2; 16], used(T0, 2))]).await;
    assert_eq!(rows.idempotent(ours, [1; 16], T0).await, Ok(Some(used(T0, 1))));
    assert_eq!(rows.idempotent(ours, [1; 16], T0 + 1).await, Ok(None), "too long ago");
    assert_eq!(rows.idempotent(tenant(0, 1), [1; 16], T0).await, Ok(None));
    assert_eq!(rows.idempotent(ours, [3; 16], T0).await, Ok(None));
    // Used again after its time: the last use counts.
    let again = T0 + IDEMPOTENCY_MS + 1;
    remember(again, vec![(ours, [1; 16], used(again, 9))]).await;
    assert_eq!(rows.idempotent(ours, [1; 16], again - IDEMPOTENCY_MS).await, Ok(Some(used(again, 9))));
    // Two hours later the old ones are gone for good.
    remember(again + 2 * 3_600_000, Vec::new()).await;
    assert_eq!(rows.idempotent(ours, [2; 16], 0).await, Ok(None));
    assert_eq!(rows.idempotent(ours, [1; 16], 0).await, Ok(Some(used(again, 9))));
}

pub(crate) async fn inbound_is_listed_and_its_positions_kept(engine: &impl Engine) {
    let stores = engine.open();
    let rows = &*stores.rows;
    let ours = tenant(0, 0);
    let all: Vec<_> = (1..=20).map(|n| (S, inbound(ours, n, (n % 2) as u8))).collect();
    rows.write(Flush { inbound: all.clone(), ..Flush::default() }).await.unwrap();
    rows.write(Flush { inbound: all[..3].to_vec(), ..Flush::default() }).await.unwrap();
    let list = async |filter: InboundFilter, limit| {
        let mut found = Vec::new();
        let mut cursor = None;
        loop {
            let next = rows.inbound(ours, filter.clone(), page(limit, cursor)).await.unwrap();
            found.extend(next.items.iter().map(|inbound| inbound.position));
            cursor = next.next;
            if cursor.is_none() {
                return found;
            }
        }
    };
    let all_of = |fits: &dyn Fn(u64) -> bool| (1..=20).rev().filter(|n| fits(*n)).collect::<Vec<u64>>();
    let none = InboundFilter::default();
    assert_eq!(list(none.clone(), 7).await, all_of(&|_| true));
    assert_eq!(list(InboundFilter { device: Some(device(1)), ..none.clone() }, 3).await, all_of(&|n| n % 2 == 1));
    assert_eq!(list(InboundFilter { sim: Some(sim(0)), ..none.clone() }, 3).await, all_of(&|n| n % 2 == 0));
    let from = Some(Address::International(number(4)));
    assert_eq!(list(InboundFilter { from, ..none.clone() }, 3).await, [14, 4]);
    let times = InboundFilter { from_ms: Some(T0 + 5), until_ms: Some(T0 + 9), ..none };
    assert_eq!(list(times, 30).await, [8, 7, 6, 5]);
    let mut positions = rows.inbound_positions(S).await.unwrap();
    positions.sort_unstable();
    assert_eq!(positions, [(device(0), 20), (device(1), 19)]);
    assert_eq!(rows.inbound_positions(ShardId(1)).await, Ok(vec![]));
}

pub(crate) async fn a_scan_shows_one_moment(engine: &impl Engine) {
    let stores = engine.open();
    let rows = &*stores.rows;
    let (ours, theirs) = (tenant(0, 0), tenant(1, 0));
    let all: Vec<_> = (1..=10).map(|n| record(if n % 2 == 0 { ours } else { theirs }, n)).collect();
    insert(rows, &all).await;
    rows.write(Flush { inbound: vec![(S, inbound(ours, 1, 1))], ..Flush::default() }).await.unwrap();
    let mut scan = rows.scan(None).await.unwrap();
    let mut one_shard = rows.scan(Some(ShardId(1))).await.unwrap();
    let first = scan.messages(4).await.unwrap();
    insert(rows, &[record(ours, 11)]).await;
    rows.write(flush(S, &[record_in(ours, 10, MessageState::Delivered, route(1))], false, 12)).await.unwrap();
    assert_eq!(scan.positions(), [10, 9, 0, 0]);
    let mut found = first;
    loop {
        let some = scan.messages(4).await.unwrap();
        if some.is_empty() {
            break;
        }
        found.extend(some);
    }
    assert_eq!(found, all);
    assert_eq!(scan.inbound(10).await.unwrap().len(), 1);
    assert_eq!(scan.inbound(10).await.unwrap().len(), 0);
    assert_eq!(one_shard.messages(100).await.unwrap().len(), 5);
    assert_eq!(one_shard.inbound(100).await.unwrap().len(), 0);
}

pub(crate) async fn what_was_synced_survives_a_crash(engine: &impl Engine) {
    let stores = engine.open();
    let ours = tenant(0, 0);
    for n in 1..=20 {
        stores.rows.write(flush(S, &[record(ours, n)], true, n)).await.unwrap();
        if n % 10 == 0 {
            stores.rows.sync().await.unwrap();
            let crashed = engine.crashed();
            let after = crashed.open();
            let position = after.rows.positions().await.unwrap()[0];
            assert!(position >= n);
            assert_eq!(numbers(&*after.rows, ours, MessageFilter::default(), 100).await.len() as u64, position);
        }
    }
}
