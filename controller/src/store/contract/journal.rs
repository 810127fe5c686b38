//! Checks of [`crate::store::Journal`].

use flotilla_protocol::id::{Epoch, ShardId};
use futures_util::future::join_all;

use super::make::batch;
use super::{Engine, SHARDS};
use crate::store::{Batch, CommitError, Journal, StoreError};

const S: ShardId = ShardId(0);

async fn fill(journal: &dyn Journal, shard: u16, epoch: u64, seqs: std::ops::RangeInclusive<u64>) -> Vec<Batch> {
    let mut batches = Vec::new();
    for seq in seqs {
        let batch = batch(shard, epoch, seq, 1 + seq % 3);
        journal.commit(batch.clone()).await.unwrap();
        batches.push(batch);
    }
    batches
}

/// Everything after a sequence, read in small pieces.
async fn read_all(journal: &dyn Journal, shard: ShardId, mut after: u64) -> Vec<Batch> {
    let mut all = Vec::new();
    loop {
        let some = journal.read(shard, after, 500).await.unwrap();
        let Some(last) = some.last() else { return all };
        after = last.seq;
        all.extend(some);
    }
}

pub(crate) async fn batches_come_back_in_order(engine: &impl Engine) {
    let stores = engine.open();
    assert_eq!(stores.journal.take(S, Epoch(1)).await, Ok(0));
    let committed = fill(&*stores.journal, 0, 1, 1..=20).await;
    assert_eq!(read_all(&*stores.journal, S, 0).await, committed);
    assert_eq!(read_all(&*stores.journal, S, 7).await, committed[7..]);
    assert_eq!(stores.journal.read(S, 20, 1 << 20).await, Ok(vec![]));
    assert_eq!(stores.journal.last(S).await, Ok(20));

    drop(stores);
    let stores = engine.open();
    assert_eq!(stores.journal.last(S).await, Ok(20));
    assert_eq!(read_all(&*stores.journal, S, 0).await, committed);
    assert_eq!(stores.journal.take(S, Epoch(2)).await, Ok(20));
    fill(&*stores.journal, 0, 2, 21..=22).await;
}

pub(crate) async fn shards_share_a_group_and_keep_apart(engine: &impl Engine) {
    let stores = engine.open();
    let journal = &*stores.journal;
    for round in 1..=5u64 {
        if round == 1 {
            join_all((0..SHARDS).map(|shard| journal.take(ShardId(shard), Epoch(1)))).await;
        }
        let results = join_all((0..SHARDS).map(|shard| journal.commit(batch(shard, 1, round, 2)))).await;
        assert_eq!(results, vec![Ok(()); usize::from(SHARDS)]);
    }
    for shard in 0..SHARDS {
        let expected: Vec<Batch> = (1..=5).map(|seq| batch(shard, 1, seq, 2)).collect();
        assert_eq!(read_all(journal, ShardId(shard), 0).await, expected);
    }
}

pub(crate) async fn a_sequence_is_taken_once_and_without_gap(engine: &impl Engine) {
    let stores = engine.open();
    let journal = &*stores.journal;
    journal.take(S, Epoch(1)).await.unwrap();
    fill(journal, 0, 1, 1..=2).await;
    fill(journal, 0, 1, 3..=3).await;
    for wrong in [0, 1, 2, 3, 5, 1 << 50, u64::MAX] {
        let refused = journal.commit(Batch { seq: wrong, ..batch(0, 1, 4, 1) }).await;
        assert_eq!(refused, Err(CommitError::OutOfOrder { shard: S, expected: 4 }), "{wrong}");
    }
    assert_eq!(journal.last(S).await, Ok(3));
}

pub(crate) async fn an_old_epoch_is_fenced(engine: &impl Engine) {
    let stores = engine.open();
    let journal = &*stores.journal;
    let fenced = |epoch| CommitError::Fenced { shard: S, epoch: Epoch(epoch) };
    assert_eq!(journal.commit(batch(0, 3, 1, 1)).await, Err(fenced(0)), "nobody has taken it");
    journal.take(S, Epoch(3)).await.unwrap();
    fill(journal, 0, 3, 1..=2).await;
    assert_eq!(journal.take(S, Epoch(5)).await, Ok(2));
    assert_eq!(journal.take(S, Epoch(5)).await, Ok(2), "taking again changes nothing");
    assert_eq!(journal.commit(batch(0, 3, 3, 1)).await, Err(fenced(5)));
    assert_eq!(journal.commit(batch(0, 6, 3, 1)).await, Err(fenced(5)), "an epoch that was never taken");
    assert_eq!(journal.take(S, Epoch(4)).await, Err(fenced(5)));
    fill(journal, 0, 5, 3..=3).await;
    assert_eq!(journal.last(S).await, Ok(3));
}

pub(crate) async fn epochs_are_kept(engine: &impl Engine) {
    let stores = engine.open();
    assert_eq!(stores.journal.shards(), SHARDS);
    assert_eq!(stores.journal.epochs().await, Ok(vec![Epoch(0); 4]));
    stores.journal.take(ShardId(2), Epoch(9)).await.unwrap();
    drop(stores);
    assert_eq!(engine.open().journal.epochs().await, Ok(vec![Epoch(0), Epoch(0), Epoch(9), Epoch(0)]));
}

pub(crate) async fn a_bad_batch_spoils_no_other(engine: &impl Engine) {
    let stores = engine.open();
    let journal = &*stores.journal;
    for shard in 0..3 {
        journal.take(ShardId(shard), Epoch(2)).await.unwrap();
    }
    for seq in 1..=20 {
        let old = journal.commit(batch(0, 1, 1, 1));
        let gap = journal.commit(batch(1, 2, 7, 1));
        let good = journal.commit(batch(2, 2, seq, 1));
        let (old, gap, good) = tokio::join!(old, gap, good);
        assert_eq!(old, Err(CommitError::Fenced { shard: S, epoch: Epoch(2) }));
        assert_eq!(gap, Err(CommitError::OutOfOrder { shard: ShardId(1), expected: 1 }));
        assert_eq!(good, Ok(()));
    }
    assert_eq!(read_all(journal, ShardId(2), 0).await.len(), 20);
}

pub(crate) async fn what_was_acknowledged_survives_a_crash(engine: &impl Engine) {
    let stores = engine.open();
    let journal = &*stores.journal;
    journal.take(S, Epoch(1)).await.unwrap();
    journal.take(ShardId(1), Epoch(1)).await.unwrap();
    let mut committed = Vec::new();
    for seq in 1..=30 {
        committed.extend(fill(journal, 0, 1, seq..=seq).await);
        if seq % 10 == 0 {
            // One more is on its way while the machine goes down: it is there as a whole, or not at all.
            let (crashed, other) = tokio::join!(async { engine.crashed() }, journal.commit(batch(1, 1, seq / 10, 50)));
            other.unwrap();
            let after = crashed.open();
            assert_eq!(read_all(&*after.journal, S, 0).await, committed);
            let other = read_all(&*after.journal, ShardId(1), 0).await;
            assert_eq!(other.len() as u64, after.journal.last(ShardId(1)).await.unwrap());
            assert!(other.iter().all(|batch| batch.events.len() == 50));
            assert_eq!(after.journal.epochs().await.unwrap()[0], Epoch(1));
            after.journal.take(S, Epoch(2)).await.unwrap();
            fill(&*after.journal, 0, 2, seq + 1..=seq + 2).await;
        }
    }
}

pub(crate) async fn reads_are_bounded(engine: &impl Engine) {
    let stores = engine.open();
    let journal = &*stores.journal;
    journal.take(S, Epoch(1)).await.unwrap();
    fill(journal, 0, 1, 1..=50).await;
    assert_eq!(journal.read(S, 0, 0).await.unwrap().len(), 1, "at least one");
    let some = journal.read(S, 0, 2_000).await.unwrap().len();
    assert!((2..50).contains(&some), "{some}");
    drop(stores);
    let stores = engine.open();
    assert_eq!(stores.journal.read(S, 0, 2_000).await.unwrap().len(), some, "the same from the disk");
    assert_eq!(stores.journal.read(S, 49, 0).await.unwrap().len(), 1);
}

pub(crate) async fn what_is_trimmed_says_so(engine: &impl Engine) {
    let stores = engine.open();
    let journal = &*stores.journal;
    journal.take(S, Epoch(1)).await.unwrap();
    fill(journal, 0, 1, 1..=10).await;
    journal.trim(S, 6).await.unwrap();
    // More than any window: everything that may go, goes.
    let mut seq = 10;
    let up_to = loop {
        fill(journal, 0, 1, seq + 1..=seq + 50).await;
        seq += 50;
        drop_memory(journal, &mut seq).await;
        match journal.read(S, 0, 100).await {
            Err(StoreError::Trimmed { up_to: 6, shard: S }) => break 6,
            Err(StoreError::Trimmed { up_to, .. }) => assert!(up_to < 6, "{up_to} was not allowed"),
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(seq < 10_000, "it never trims");
    };
    assert_eq!(journal.read(S, up_to, 0).await.unwrap()[0].seq, 7);
    assert_eq!(journal.last(S).await, Ok(seq));
    drop(stores);
    let stores = engine.open();
    assert_eq!(stores.journal.read(S, 0, 100).await, Err(StoreError::Trimmed { shard: S, up_to: 6 }));
    assert_eq!(stores.journal.read(S, 6, 0).await.unwrap()[0].seq, 7);
}

/// Another commit, after which the deletions of the one before are done.
async fn drop_memory(journal: &dyn Journal, seq: &mut u64) {
    fill(journal, 0, 1, *seq + 1..=*seq + 1).await;
    *seq += 1;
}

pub(crate) async fn a_window_is_kept_whatever_is_trimmed(engine: &impl Engine) {
    let stores = engine.open();
    let journal = &*stores.journal;
    journal.take(S, Epoch(1)).await.unwrap();
    fill(journal, 0, 1, 1..=10).await;
    journal.trim(S, 10).await.unwrap();
    fill(journal, 0, 1, 11..=12).await;
    assert_eq!(read_all(journal, S, 0).await.len(), 12);
    journal.trim(S, 3).await.unwrap();
    journal.trim(S, 1_000_000).await.unwrap();
    fill(journal, 0, 1, 13..=13).await;
    assert_eq!(journal.last(S).await, Ok(13), "what is not there yet cannot be trimmed");
    assert_eq!(read_all(journal, S, 12).await.len(), 1);
}

pub(crate) async fn the_feed_wakes_and_counts(engine: &impl Engine) {
    let stores = engine.open();
    let journal = &*stores.journal;
    journal.take(S, Epoch(1)).await.unwrap();
    let mut feed = journal.feed();
    assert_eq!((feed.last(S), feed.events()), (0, 0));
    let commit = journal.commit(batch(0, 1, 1, 5));
    let (woken, committed) = tokio::join!(feed.changed(), commit);
    committed.unwrap();
    let () = woken;
    assert_eq!((feed.last(S), feed.events()), (1, 5));
    assert_eq!(feed.positions(), vec![1, 0, 0, 0]);
    // Whoever was answered finds it at once.
    for seq in 2..=50 {
        journal.commit(batch(0, 1, seq, 1)).await.unwrap();
        assert_eq!(feed.last(S), seq);
        assert_eq!(journal.read(S, seq - 1, 1).await.unwrap()[0].seq, seq);
    }
}

pub(crate) async fn unknown_shards_are_refused(engine: &impl Engine) {
    let stores = engine.open();
    let no = ShardId(SHARDS);
    let error = StoreError::NoSuchShard { shard: no };
    assert_eq!(stores.journal.last(no).await, Err(error.clone()));
    assert_eq!(stores.journal.read(no, 0, 1).await, Err(error.clone()));
    assert_eq!(stores.journal.trim(no, 1).await, Err(error));
    assert!(stores.journal.take(no, Epoch(1)).await.is_err());
    assert!(stores.journal.commit(Batch { shard: no, ..batch(0, 1, 1, 1) }).await.is_err());
}
