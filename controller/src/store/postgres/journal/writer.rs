//! The task that commits. Whatever arrives while a statement is on its way is the next statement: alone, a batch waits for one
//! flush of the server; under load, the batches of many shards share it.
//!
//! A statement without an answer may have been carried out, or may still be. So the connection is given up, and a new one
//! moves our shards to its own number: that waits for a statement at work, and what comes later finds nothing to append to.
//! What the shards' rows say then is final, and is the answer. When no new connection can be had soon, the answer is `Unknown`,
//! and the journal tells no position until one is there.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::{Epoch, ShardId};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::super::session::{Connector, Failure, Session};
use super::sql::{self, ShardRow, refusal};
use super::window::Window;
use crate::store::tail::Tail;
use crate::store::{Batch, CommitError};

/// Most encoded bytes, and requests, of one statement.
const GROUP_BYTES: usize = 8 << 20;
const GROUP_REQUESTS: usize = 4_096;
/// Who waits is told the outcome when a connection comes back within this time.
const SETTLE_WITHIN: Duration = Duration::from_millis(1_500);
/// Pauses between attempts to connect.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);
/// A statement that another transaction was in the way of, and that has done nothing, is repeated.
const COLLISIONS_MAX: u32 = 5;

pub(super) enum Request {
    Append(Append),
    Take(Take),
}

pub(super) struct Take {
    pub shard: ShardId,
    pub epoch: Epoch,
    pub reply: oneshot::Sender<Result<u64, CommitError>>,
}

pub(super) struct Append {
    pub batch: Batch,
    pub payload: Vec<u8>,
    pub reply: oneshot::Sender<Result<(), CommitError>>,
}

pub(super) struct Writer {
    pub connector: Connector,
    pub tail: Arc<Tail>,
    pub window: Arc<Window>,
    /// Wakes whoever deletes old batches.
    pub committed: Arc<Notify>,
    pub link: Option<Link>,
    /// Numbers of connections that may still have shards, or statements on their way.
    pub former: Vec<i64>,
    pub retry: Duration,
}

/// A connection that appends, and its number.
pub(super) struct Link {
    session: Session,
    number: i64,
}

#[derive(Default)]
struct Group {
    appends: Vec<Append>,
    takes: Vec<Take>,
    bytes: usize,
    shards: HashSet<ShardId>,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.takes.is_empty()
    }

    fn is_full(&self) -> bool {
        self.bytes >= GROUP_BYTES || self.appends.len() + self.takes.len() >= GROUP_REQUESTS
    }

    /// Gives back what has to wait: a shard is in a statement once.
    fn add(&mut self, request: Request) -> Option<Request> {
        let shard = match &request {
            Request::Append(append) => append.batch.shard,
            Request::Take(take) => take.shard,
        };
        if !self.shards.insert(shard) {
            return Some(request);
        }
        match request {
            Request::Append(append) => {
                self.bytes += append.payload.len();
                self.appends.push(append);
            }
            Request::Take(take) => self.takes.push(take),
        }
        None
    }
}

impl Writer {
    pub(super) async fn run(mut self, mut requests: UnboundedReceiver<Request>) {
        let mut waiting: Option<Request> = None;
        loop {
            if waiting.is_none() {
                waiting = match self.next(&mut requests).await {
                    Some(request) => Some(request),
                    None => return,
                };
            }
            let mut group = Group::default();
            while let Some(request) = waiting.take() {
                waiting = group.add(request);
                if waiting.is_some() || group.is_full() {
                    break;
                }
                waiting = requests.try_recv().ok();
            }
            self.serve(group).await;
        }
    }

    /// The next request. Without a connection, those that come are refused while one is looked for.
    async fn next(&mut self, requests: &mut UnboundedReceiver<Request>) -> Option<Request> {
        loop {
            if self.link.is_some() {
                return requests.recv().await;
            }
            let away = CommitError::Unavailable("the database is away".into());
            let connected = {
                let retry = self.retry;
                let connecting = async {
                    sleep(retry).await;
                    Self::connect(&self.connector, &mut self.former).await
                };
                tokio::pin!(connecting);
                loop {
                    tokio::select! {
                        biased;
                        connected = &mut connecting => break connected,
                        request = requests.recv() => refuse(request?, &away),
                    }
                }
            };
            self.retry = (self.retry * 2).min(RETRY_MAX);
            match connected {
                Ok((link, adopted)) => self.connected(link, &adopted),
                Err(failure) => tracing::warn!(%failure, "the database is away"),
            }
        }
    }

    /// A new connection, with our shards on it.
    async fn connect(connector: &Connector, former: &mut Vec<i64>) -> Result<(Link, Vec<ShardRow>), Failure> {
        let mut session = connector.connect().await?;
        let number = sql::next_session(&mut session).await?;
        // Even if the answer gets lost: the next one looks for this one's shards too.
        let before = former.clone();
        former.push(number);
        let adopted = if before.is_empty() { Vec::new() } else { sql::adopt(&mut session, number, &before).await? };
        former.retain(|kept| *kept == number);
        Ok((Link { session, number }, adopted))
    }

    fn connected(&mut self, link: Link, adopted: &[ShardRow]) {
        if !adopted.is_empty() {
            tracing::info!(shards = adopted.len(), "the journal has a connection again");
        }
        self.link = Some(link);
        self.retry = RETRY_MIN;
        self.window.keep_only(adopted.iter().map(|row| row.shard));
        let positions: Vec<(ShardId, u64)> = adopted.iter().map(|row| (row.shard, row.last)).collect();
        self.tail.moved(&positions);
    }

    /// The first connection of all, while the store is opened.
    pub(super) async fn begin(&mut self) -> Result<(), Failure> {
        let (link, adopted) = Self::connect(&self.connector, &mut self.former).await?;
        self.connected(link, &adopted);
        Ok(())
    }

    async fn serve(&mut self, mut group: Group) {
        if self.link.as_ref().is_none_or(|link| link.session.is_closed())
            && let Err(failure) = self.reconnect().await
        {
            // Nothing of it was sent. Whoever follows shall know that there is nothing to follow.
            self.tail.fail(&failure.to_string());
            return self.refuse_all(group, &CommitError::Unavailable(failure.to_string()));
        }
        let takes = std::mem::take(&mut group.takes);
        if !takes.is_empty() {
            self.take(takes).await;
        }
        if !group.is_empty() {
            self.append(group.appends).await;
        }
    }

    fn refuse_all(&self, group: Group, why: &CommitError) {
        group.appends.into_iter().for_each(|append| refuse(Request::Append(append), why));
        group.takes.into_iter().for_each(|take| refuse(Request::Take(take), why));
    }

    /// Tries for a while; whoever comes meanwhile waits.
    async fn reconnect(&mut self) -> Result<Vec<ShardRow>, Failure> {
        self.link = None;
        let until = Instant::now() + SETTLE_WITHIN;
        let mut pause = RETRY_MIN;
        loop {
            let connected = timeout_at(until, Self::connect(&self.connector, &mut self.former)).await;
            match connected {
                Ok(Ok((link, adopted))) => {
                    self.connected(link, &adopted);
                    return Ok(adopted);
                }
                Ok(Err(failure)) if Instant::now() + pause >= until => return Err(failure),
                Ok(Err(_)) => sleep(pause).await,
                Err(_) => return Err(Failure::Lost("the server does not answer".into())),
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn take(&mut self, takes: Vec<Take>) {
        // Taking twice with one epoch is taking once, so this may simply be repeated on a new connection.
        let mut tries = 0;
        let taken = loop {
            let Some(link) = &mut self.link else { break Err(Failure::Lost("the database is away".into())) };
            match sql::take(&mut link.session, link.number, &takes).await {
                Err(failure) if failure.collided() && tries < COLLISIONS_MAX => tries += 1,
                Err(failure) if !failure.spares_connection() && tries == 0 => {
                    tries = COLLISIONS_MAX;
                    self.tail.fail(&failure.to_string());
                    if let Err(failure) = self.reconnect().await {
                        break Err(failure);
                    }
                }
                result => break result,
            }
        };
        let taken = match taken {
            Ok(taken) => taken,
            Err(failure) => {
                let why = match &failure {
                    Failure::Refused { .. } if failure.disk_full() => CommitError::Full,
                    Failure::Refused { .. } => CommitError::Unavailable(failure.to_string()),
                    _ => CommitError::Unknown(failure.to_string()),
                };
                self.give_up_unless_good(&failure);
                return takes.into_iter().for_each(|take| refuse(Request::Take(take), &why));
            }
        };
        self.window.take(&taken);
        let positions: Vec<(ShardId, u64)> = taken.iter().map(|taken| (taken.shard, taken.last)).collect();
        self.tail.moved(&positions);
        let mut refused = Vec::new();
        for take in takes {
            match taken.iter().find(|taken| taken.shard == take.shard) {
                Some(taken) => drop(take.reply.send(Ok(taken.last))),
                None => refused.push(take),
            }
        }
        let shards: Vec<ShardId> = refused.iter().map(|take| take.shard).collect();
        let why = self.refusals(&shards).await;
        for take in refused {
            let _ = take.reply.send(Err(why(take.shard, take.epoch)));
        }
    }

    async fn append(&mut self, appends: Vec<Append>) {
        let mut tries = 0;
        let done = loop {
            let Some(link) = &mut self.link else { break Err(Failure::Lost("the database is away".into())) };
            match sql::append(&mut link.session, link.number, &appends).await {
                Err(failure) if failure.collided() && tries < COLLISIONS_MAX => tries += 1,
                result => break result,
            }
        };
        match done {
            Ok(done) => self.answer(appends, &done).await,
            Err(failure @ Failure::Refused { .. }) => {
                let why = match failure.disk_full() {
                    true => CommitError::Full,
                    false => CommitError::Unavailable(failure.to_string()),
                };
                self.give_up_unless_good(&failure);
                appends.into_iter().for_each(|append| refuse(Request::Append(append), &why));
            }
            Err(failure) => self.settle(appends, &failure.to_string()).await,
        }
    }

    /// What was asked is durable: first those that follow may see it, then those that asked are told.
    async fn answer(&mut self, appends: Vec<Append>, done: &[ShardId]) {
        let (good, refused): (Vec<_>, Vec<_>) =
            appends.into_iter().partition(|append| done.contains(&append.batch.shard));
        self.publish(good);
        if refused.is_empty() {
            return;
        }
        let shards: Vec<ShardId> = refused.iter().map(|append| append.batch.shard).collect();
        let why = self.refusals(&shards).await;
        for append in refused {
            let error = why(append.batch.shard, append.batch.epoch);
            if matches!(error, CommitError::Fenced { .. }) {
                self.window.lose(append.batch.shard);
            }
            let _ = append.reply.send(Err(error));
        }
    }

    fn publish(&self, good: Vec<Append>) {
        if good.is_empty() {
            return;
        }
        let (replies, durable): (Vec<_>, Vec<_>) =
            good.into_iter().map(|Append { batch, payload, reply }| (reply, (batch, payload.len()))).unzip();
        self.window.grow(durable.iter().map(|(batch, bytes)| (batch.shard, batch.seq, *bytes)));
        self.tail.publish(durable);
        self.committed.notify_one();
        for reply in replies {
            let _ = reply.send(Ok(()));
        }
    }

    /// Asks why; when nobody answers, it is known at least that nothing was written.
    async fn refusals(&mut self, shards: &[ShardId]) -> impl Fn(ShardId, Epoch) -> CommitError + use<> {
        let (own, states) = match &mut self.link {
            Some(link) if !shards.is_empty() => (link.number, sql::states(&mut link.session, shards).await),
            _ => (0, Ok(Vec::new())),
        };
        if let Err(failure) = &states {
            self.give_up_unless_good(failure);
        }
        move |shard, epoch| match &states {
            Ok(rows) => match rows.iter().find(|row| row.shard == shard) {
                Some(row) => refusal(row, own, epoch),
                None => CommitError::Unavailable(format!("the database has no shard {shard}")),
            },
            Err(failure) => CommitError::Unavailable(failure.to_string()),
        }
    }

    /// After a statement without an answer.
    async fn settle(&mut self, appends: Vec<Append>, why: &str) {
        tracing::warn!(error = why, "it is not known whether some batches were committed; asking");
        self.tail.fail(why);
        if let Err(failure) = self.reconnect().await {
            tracing::error!(%failure, "the outcome of some commits stays open");
            let why = CommitError::Unknown(why.to_owned());
            return appends.into_iter().for_each(|append| refuse(Request::Append(append), &why));
        }
        let (mut good, mut others) = (Vec::new(), Vec::new());
        for append in appends {
            match self.outcome(&append.batch, why).await {
                Ok(()) => good.push(append),
                Err(error) => others.push((append, error)),
            }
        }
        self.publish(good);
        for (append, error) in others {
            let _ = append.reply.send(Err(error));
        }
    }

    /// What the database says now, when nothing that was sent before can change it any more.
    async fn outcome(&mut self, batch: &Batch, why: &str) -> Result<(), CommitError> {
        let unknown = || CommitError::Unknown(why.to_owned());
        let Some(Link { session, number }) = &mut self.link else { return Err(unknown()) };
        let number = *number;
        let asked = async {
            let row = sql::states(session, &[batch.shard]).await?.pop();
            let there = sql::has(session, batch).await?;
            Ok::<_, Failure>((row, there))
        };
        match asked.await {
            Ok((_, true)) => Ok(()),
            Ok((Some(row), false)) => match refusal(&row, number, batch.epoch) {
                // Ours still, and it is not there.
                CommitError::OutOfOrder { expected, .. } if expected == batch.seq => {
                    Err(CommitError::Unavailable(why.to_owned()))
                }
                // Somebody has gone on behind it, and may have trimmed it.
                CommitError::Fenced { .. } if row.last >= batch.seq => Err(unknown()),
                refusal => Err(refusal),
            },
            Ok((None, false)) => Err(CommitError::Unavailable(why.to_owned())),
            Err(failure) => {
                self.give_up_unless_good(&failure);
                Err(unknown())
            }
        }
    }

    fn give_up_unless_good(&mut self, failure: &Failure) {
        if !failure.spares_connection() {
            self.tail.fail(&failure.to_string());
            self.link = None;
        }
    }
}

fn refuse(request: Request, why: &CommitError) {
    match request {
        Request::Append(append) => drop(append.reply.send(Err(why.clone()))),
        Request::Take(take) => drop(take.reply.send(Err(why.clone()))),
    }
}
