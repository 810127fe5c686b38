//! The memory store keeps the contract, but for what is about a disk.

use std::sync::Arc;

use flotilla_protocol::id::{Epoch, ShardId};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::{Fault, MemoryStore};
use crate::store::contract::{Engine, SHARDS, contract_tests, make::batch};
use crate::store::{Catalog, CommitError, Journal, SqlError, Stores, TxBody};

struct Memory(MemoryStore);

struct NoCatalog;

impl Catalog for NoCatalog {
    fn run_boxed(&self, _: TxBody) -> BoxFuture<'_, Result<(), SqlError>> {
        ready(Err(SqlError::Unavailable("there is none".into()))).boxed()
    }

    fn read_boxed(&self, _: TxBody) -> BoxFuture<'_, Result<(), SqlError>> {
        ready(Err(SqlError::Unavailable("there is none".into()))).boxed()
    }
}

impl Engine for Memory {
    fn open(&self) -> Stores {
        let store = Arc::new(self.0.clone());
        Stores {
            journal: Arc::clone(&store) as _,
            rows: store,
            catalog: Arc::new(NoCatalog),
            released: Default::default(),
        }
    }

    fn crashed(&self) -> Box<dyn Engine> {
        unreachable!("no check of a crash is among those below")
    }
}

contract_tests! { Some(Memory(MemoryStore::new(SHARDS)));
    journal:
        batches_come_back_in_order
        shards_share_a_group_and_keep_apart
        a_sequence_is_taken_once_and_without_gap
        an_old_epoch_is_fenced
        epochs_are_kept
        a_bad_batch_spoils_no_other
        reads_are_bounded
        what_is_trimmed_says_so
        the_feed_wakes_and_counts
        unknown_shards_are_refused;
    rows:
        a_flush_is_there_as_a_whole
        a_former_leaders_flush_is_refused
        a_flush_on_rows_that_have_changed_is_refused
        a_message_is_written_anew_under_its_number
        tenants_see_only_their_own
        the_newest_come_first_and_pages_join
        filters_hold_together
        queues_are_in_the_order_of_acceptance
        open_attempts_are_found
        what_is_due_and_overdue_is_found
        open_messages_are_counted
        a_key_is_remembered_for_a_day
        inbound_is_listed_and_its_positions_kept
        a_scan_shows_one_moment;
}

#[tokio::test]
async fn faults_come_in_their_order_and_only_the_written_one_is_there() {
    let store = MemoryStore::new(1);
    let shard = ShardId(0);
    store.take(shard, Epoch(1)).await.unwrap();
    for fault in [Fault::Unavailable, Fault::Full, Fault::UnknownLost, Fault::UnknownWritten] {
        store.fail_next(fault);
    }
    let mut committed = vec![];
    for _ in 0..4 {
        assert!(store.commit(batch(0, 1, 1, 1)).await.is_err());
        committed.push(store.committed(shard));
    }
    assert_eq!(committed, [0, 0, 0, 1]);
    store.fail_next(Fault::Fenced);
    assert_eq!(store.commit(batch(0, 1, 2, 1)).await, Err(CommitError::Fenced { shard, epoch: Epoch(2) }));
    store.set_down(true);
    assert!(store.last(shard).await.is_err());
}
