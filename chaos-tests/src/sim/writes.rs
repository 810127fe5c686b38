//! What controllers write to the store, on its way: it takes time, it arrives after its sender has died, its answer is lost,
//! it arrives long after it was given up.

use flotilla_controller::follow::{Follower, RowsFollower};
use flotilla_controller::store::{Batch, CommitError, StoreError};
use flotilla_protocol::id::{Epoch, ShardId};

use super::node::NodeEvent;
use super::plan::Party;
use super::rng::Rng;
use super::store::{Store, ready};
use super::world::{Cx, Event};

/// A write that nobody waits for any more.
const GIVEN_UP: u64 = 0;

#[derive(Clone, Debug)]
pub(super) enum Write {
    Take { shard: ShardId, epoch: Epoch },
    Commit(Batch),
}

#[derive(Clone, Debug)]
pub(super) enum Written {
    Taken(Result<u64, CommitError>),
    Committed(Result<(), CommitError>),
}

/// The condition of the store.
#[derive(Debug)]
pub(super) struct Writes {
    rng: Rng,
    /// Everything takes so many times longer.
    pub slow: u64,
    pub down: bool,
    pub unknown_percent: u32,
    /// Given up, and still to arrive.
    late: usize,
}

impl Writes {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed, "store", 0), slow: 1, down: false, unknown_percent: 0, late: 0 }
    }

    /// One way to the store or back, with what it does there.
    pub(super) fn delay(&mut self) -> u64 {
        self.rng.between(1, 6) * self.slow
    }

    pub(super) fn at_rest(&self) -> bool {
        self.late == 0
    }
}

pub(super) fn arrive(node: usize, life: u32, id: u64, write: Write, cx: &mut Cx) {
    if id == GIVEN_UP {
        cx.writes.late -= 1;
    }
    let written = match write {
        Write::Take { .. } if cx.writes.down => Written::Taken(Err(CommitError::Unavailable("down".into()))),
        Write::Commit(_) if cx.writes.down => Written::Committed(Err(CommitError::Unavailable("down".into()))),
        Write::Take { shard, epoch } => {
            let taken = cx.store.take(shard, epoch);
            cx.log(|| format!("store: c{node} takes shard {shard} with epoch {epoch}: {taken:?}"));
            Written::Taken(taken)
        }
        Write::Commit(batch) => Written::Committed(commit(node, life, id, batch, cx)),
    };
    if id != GIVEN_UP
        && let Some(at) = cx.net.message(Party::Store, Party::Node(node), cx.now)
    {
        let at = at + cx.writes.delay();
        cx.at(at, Event::Node(node, life, NodeEvent::Written { id, written }));
    }
}

fn commit(node: usize, life: u32, id: u64, batch: Batch, cx: &mut Cx) -> Result<(), CommitError> {
    let unknown = || Err(CommitError::Unknown("the connection is lost".into()));
    let fate =
        if id != GIVEN_UP && cx.writes.rng.percent(cx.writes.unknown_percent) { 1 + cx.writes.rng.below(3) } else { 0 };
    let (shard, seq) = (batch.shard, batch.seq);
    match fate {
        0 | 1 => {}
        2 => {
            cx.count("commit lost");
            cx.log(|| format!("store: batch {seq} of shard {shard} from c{node} is lost, unknown to it"));
            return unknown();
        }
        _ => {
            cx.count("commit given up, then written");
            cx.writes.late += 1;
            let late = cx.writes.rng.between(100, 20_000);
            cx.log(|| format!("store: batch {seq} of shard {shard} from c{node} comes {late} ms late"));
            cx.after(late, Event::Store { node, life, id: GIVEN_UP, write: Write::Commit(batch) });
            return unknown();
        }
    }
    let result = cx.store.append(batch);
    cx.log(|| match &result {
        Ok(batch) => {
            format!("store: batch {seq} of shard {shard} from c{node}, epoch {}: {}", batch.epoch, told(batch))
        }
        Err(error) => format!("store: batch {seq} of shard {shard} from c{node}: {error}"),
    });
    let batch = result?;
    cx.check.committed(&batch, (node, life), cx.now);
    if fate == 1 {
        cx.count("commit not answered");
        return unknown();
    }
    Ok(())
}

/// Brings the rows to the journal's end.
pub(super) fn catch_up(store: &Store) {
    for shard in (0..store.shards()).map(ShardId) {
        let caught_up: Result<(), StoreError> = (|| {
            let mut follower = ready(RowsFollower::open(store.rows()))?;
            follow(&mut follower, store, shard)?;
            drop(ready(follower.flush()));
            Ok(())
        })();
        caught_up.expect("the store is up at the end");
    }
}

/// Takes in memory what the journal has.
pub(super) fn follow(follower: &mut RowsFollower, store: &Store, shard: ShardId) -> Result<(), StoreError> {
    for batch in store.read(shard, follower.position(shard))? {
        if let Err(error) = ready(follower.apply(&batch)) {
            return Err(StoreError::Unavailable(error.to_string()));
        }
    }
    Ok(())
}

fn told(batch: &Batch) -> String {
    use flotilla_controller::domain::event::{Change, EventKind};
    let words = batch.events.iter().map(|event| match &event.kind {
        EventKind::Accepted(accepted) => format!("accepted {}", tail(accepted.submission.id)),
        EventKind::Inbound(inbound) => format!("inbound {} of {}", inbound.text, inbound.device),
        EventKind::Changed(changed) => {
            let id = tail(changed.message);
            match &changed.change {
                Change::Dispatched { attempt, route, .. } => format!("dispatched {id}/{attempt} to {}", route.device),
                Change::Returned { attempt, why, .. } => format!("returned {id}/{attempt} {}", why.code),
                Change::Doubted { attempt, lost, .. } => format!("doubted {id}/{attempt} lost={lost}"),
                Change::Sent { attempt, .. } => format!("sent {id}/{attempt}"),
                Change::SegmentDelivered { attempt, segment, .. } => format!("segment {segment} of {id}/{attempt}"),
                Change::Delivered { attempt, .. } => format!("delivered {id}/{attempt}"),
                Change::Failed { attempt, why, .. } => format!("failed {id}/{attempt} {}", why.code),
                Change::Expired { attempt, why, .. } => format!("expired {id}/{attempt} {}", why.code),
                Change::Due => format!("due {id}"),
                Change::Cancelled => format!("cancelled {id}"),
            }
        }
    });
    words.collect::<Vec<_>>().join(", ")
}

/// The part of an id that differs in a log.
pub(super) fn tail(id: flotilla_protocol::id::MessageId) -> String {
    let text = id.to_string();
    text[text.len() - 6..].to_owned()
}
