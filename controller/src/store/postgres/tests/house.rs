//! Partitions and retention.

use std::sync::Arc;

use flotilla_protocol::id::{MessageId, ShardId, TenantId};

use super::super::rows::House;
use super::super::{Options, open};
use super::{Postgres, options};
use crate::domain::event::Change;
use crate::domain::record::MessageRecord;
use crate::store::contract::make::{T0, inbound, submission, tenant};
use crate::store::{Flush, MessageFilter, Page, Rows, Upsert};

const S: ShardId = ShardId(0);
const DAY_MS: u64 = 24 * 3_600_000;

/// A message of a day, by its own id.
fn message(tenant: TenantId, day: u64, open: bool) -> MessageRecord {
    let at_ms = T0 + day * DAY_MS;
    let mut submission = submission(tenant, 1);
    submission.id = MessageId::new(at_ms, [day as u8; 10]);
    (submission.accepted_ms, submission.due_ms, submission.expires_ms) = (at_ms, at_ms, at_ms + 90 * DAY_MS);
    let mut record = MessageRecord::accepted(submission, at_ms, (day, 0));
    if !open {
        record.apply(at_ms, &Change::Cancelled);
    }
    record
}

async fn write(rows: &dyn Rows, position: u64, records: Vec<MessageRecord>) {
    let upsert = |record| Upsert { shard: S, record: Arc::new(record), new: position == 1 };
    let messages = records.into_iter().map(upsert).collect();
    rows.write(Flush { messages, positions: vec![(S, position)], ..Flush::default() }).await.unwrap();
}

async fn days(rows: &dyn Rows, filter: MessageFilter) -> Vec<u64> {
    let found = rows.list(tenant(0, 0), filter, Page { limit: 100, cursor: None }).await.unwrap();
    found.items.iter().map(|record| (record.submission.accepted_ms - T0) / DAY_MS).collect()
}

#[tokio::test]
async fn what_is_ended_and_old_goes_and_what_is_open_stays() {
    for partitions in [true, false] {
        let Some(postgres) = Postgres::new() else { return };
        let options = Options { partitions, ..options(&postgres.url) };
        let rows = open(&options).unwrap().rows;
        let ours = tenant(0, 0);
        // One of the first week is open for long.
        let all: Vec<_> = (0..40).map(|day| message(ours, day, day == 3)).collect();
        write(&*rows, 1, all).await;
        rows.write(Flush { inbound: vec![(S, inbound(ours, 1, 1))], ..Flush::default() }).await.unwrap();
        let to = MessageFilter { to: Some(submission(ours, 1).to), ..MessageFilter::default() };
        let everything: Vec<u64> = (0..40).rev().collect();
        assert_eq!(days(&*rows, MessageFilter::default()).await, everything);
        assert_eq!(days(&*rows, to.clone()).await, everything, "across partitions by a property");
        let parts = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'message_w%' AND tablename <> 'message_week'";
        assert_eq!(postgres.sql(parts) != "0", partitions);

        let house = House::open(options.connector().unwrap(), 10).await.unwrap();
        house.round(T0 + 40 * DAY_MS).await.unwrap();
        let left = days(&*rows, MessageFilter::default()).await;
        assert_eq!(days(&*rows, to.clone()).await, left, "the terms go with the messages");
        assert!(left.contains(&3) && (30..40).all(|day| left.contains(&day)), "{left:?}");
        assert!(left.len() < 40 && (7..20).all(|day| !left.contains(&day)), "{left:?}");
        assert_eq!(rows.get_many(vec![message(ours, 12, false).submission.id]).await, Ok(vec![]));
        let first = Page { limit: 1, cursor: None };
        assert!(rows.inbound(ours, Default::default(), first).await.unwrap().items.is_empty());

        // It ends; then its week goes too. A late write to a week that is gone is still kept somewhere.
        write(&*rows, 2, vec![message(ours, 3, false)]).await;
        house.round(T0 + 40 * DAY_MS).await.unwrap();
        assert!(!days(&*rows, MessageFilter::default()).await.contains(&3));
        write(&*rows, 3, vec![message(ours, 8, false)]).await;
        assert!(days(&*rows, MessageFilter::default()).await.contains(&8));
        house.round(T0 + 40 * DAY_MS).await.unwrap();
        assert!(!days(&*rows, to).await.contains(&8));
    }
}
