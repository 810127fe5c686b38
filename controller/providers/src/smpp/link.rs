//! One link to the SMSC, kept up: connect, bind, carry, and again after a pause. A task of its own.
//!
//! Parent: [`super::client`]. It ends when it is asked to stop, or when every handle is gone. Its mailbox is the bounded
//! channel of jobs; events go out over the caller's bounded channel, and while that is full a receipt or a message is not
//! taken from the SMSC, which keeps it and sends it again.

mod events;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BytesMut};
use rusmpp::CommandId;
use rustc_hash::FxHashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::client::Shared;
use super::connect::{Stream, connect};
use super::ids::Tail;
use super::incoming::Receiver;
use super::outcome::{Event, NotSent, State, SubmitOutcome};
use super::pdu;
use super::session::{CloseReason, Effect, Job, Role, Session};
use super::status;
use super::text;
use crate::maker::{Outgoing, Submitted};

/// Receipts and messages that the caller has and has not acknowledged.
const UNACKNOWLEDGED_MAX: usize = 256;
/// Events that wait for room; beyond it the oldest of those that are only informative go.
const EVENTS_MAX: usize = 1_024;
/// What the SMSC does not read; then the link is as good as gone.
const UNWRITTEN_OCTETS_MAX: usize = 1024 * 1024;
/// How long a link that ends may take to write what is left.
const CLOSE_MS: u64 = 1_000;
const READ_OCTETS: usize = 16 * 1024;

/// A message on its way to the link.
pub(crate) struct Request {
    pub(crate) outgoing: Outgoing,
    pub(crate) reply: oneshot::Sender<SubmitOutcome>,
    pub(crate) since: Instant,
    /// Nothing of it may go out from then on.
    pub(crate) deadline: Option<Instant>,
}

/// How a receipt or message was settled by who has it.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) command: CommandId,
    pub(crate) sequence: u32,
    pub(crate) status: u32,
    /// Of an inbound message.
    pub(crate) inbound: Option<Box<str>>,
}

/// Why a session came to its end.
enum End {
    Closed(CloseReason),
    Lost(Box<str>),
}

pub(crate) struct Link {
    shared: Arc<Shared>,
    role: Role,
    jobs: Option<mpsc::Receiver<Request>>,
    stop: CancellationToken,
    receiver: Receiver,
    backoff: Backoff,
    /// Beginning of this link's clock.
    epoch: Instant,
    events: VecDeque<Event>,
    reference: u16,
}

/// One session while it lasts.
struct Running {
    session: Session,
    unwritten: BytesMut,
    written: u64,
    replies: FxHashMap<u64, Waiting>,
    next_key: u64,
    settled: mpsc::UnboundedReceiver<Settled>,
    settle: mpsc::UnboundedSender<Settled>,
    unacknowledged: usize,
    /// Why, and until when what is left may take to be written.
    closing: Option<(CloseReason, u64)>,
    bound_ms: Option<u64>,
}

struct Waiting {
    reply: oneshot::Sender<SubmitOutcome>,
    to: Tail,
    whole: bool,
    segments: u8,
}

impl Link {
    pub(crate) fn new(
        shared: Arc<Shared>,
        role: Role,
        jobs: Option<mpsc::Receiver<Request>>,
        stop: CancellationToken,
        seed: u64,
    ) -> Self {
        let settings = &shared.settings;
        Self {
            receiver: Receiver::new(settings.clone(), shared.keys.clone(), seed),
            backoff: Backoff::new(settings.reconnect_min_ms, settings.reconnect_max_ms, seed),
            epoch: Instant::now(),
            events: VecDeque::new(),
            reference: seed as u16,
            shared,
            role,
            jobs,
            stop,
        }
    }

    pub(crate) async fn run(mut self) {
        loop {
            let attempt = self.session().await;
            self.shared.board.in_flight(self.role, 0);
            self.receiver.link_lost(self.now_ms());
            let Some(wait_ms) = self.after(attempt) else { break };
            if !self.pause(wait_ms).await {
                break;
            }
        }
        self.set_state(State::Stopped);
        if let Some(jobs) = &mut self.jobs {
            jobs.close();
            while let Some(request) = jobs.recv().await {
                refuse(request, NotSent::Stopped);
            }
        }
        // Nobody may read any more; what there is room for is still told.
        while let Some(event) = self.events.pop_front() {
            if self.shared.events.try_send(event).is_err() {
                break;
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    /// Connects and carries a session to its end; gives how long it was bound.
    async fn session(&mut self) -> (End, u64) {
        let settings = self.shared.settings.clone();
        let stop = self.stop.clone();
        let connecting = connect(&settings);
        tokio::pin!(connecting);
        let stream = loop {
            tokio::select! {
                stream = &mut connecting => break stream,
                () = stop.cancelled() => return (End::Closed(CloseReason::Unbound), 0),
                request = next_request(&mut self.jobs) => self.refuse_or_stop(request),
            }
        };
        let (read, write) = match stream {
            Ok(stream) => tokio::io::split(stream),
            Err(error) => return (End::Lost(error.to_string().into()), 0),
        };
        let now_ms = self.now_ms();
        let (settle, settled) = mpsc::unbounded_channel();
        let mut running = Running {
            session: Session::new(settings.clone(), self.role, now_ms),
            unwritten: BytesMut::new(),
            written: 0,
            replies: FxHashMap::default(),
            next_key: 0,
            settled,
            settle,
            unacknowledged: 0,
            closing: None,
            bound_ms: None,
        };
        running.session.bind(now_ms);
        let end = self.carry(&mut running, read, write).await;
        running.session.lost(running.written);
        self.carry_out(&mut running);
        let lasted_ms = running.bound_ms.map_or(0, |bound_ms| self.now_ms().saturating_sub(bound_ms));
        (end, lasted_ms)
    }

    async fn carry(
        &mut self,
        running: &mut Running,
        mut read: ReadHalf<Box<dyn Stream>>,
        mut write: WriteHalf<Box<dyn Stream>>,
    ) -> End {
        let mut buffer = BytesMut::with_capacity(READ_OCTETS);
        // TLS keeps octets back until it is flushed.
        let mut unflushed = false;
        let (stop, events) = (self.stop.clone(), self.shared.events.clone());
        let mut stopping = false;
        loop {
            self.carry_out(running);
            if running.unwritten.len() > UNWRITTEN_OCTETS_MAX {
                return End::Lost("the SMSC does not read what is sent".into());
            }
            if let Some((reason, until_ms)) = &running.closing
                && (running.unwritten.is_empty() && !unflushed || *until_ms <= self.now_ms())
            {
                // The peer may be gone already, or not read any more.
                let _ = tokio::time::timeout(Duration::from_millis(CLOSE_MS), write.shutdown()).await;
                return End::Closed(reason.clone());
            }
            let deadline = self.deadline(running);
            tokio::select! {
                read = read.read_buf(&mut buffer) => match read {
                    Ok(0) => return End::Lost("the SMSC has closed the connection".into()),
                    Ok(_) => self.read_frames(running, &mut buffer),
                    Err(error) => return End::Lost(format!("reading failed: {error}").into()),
                },
                pushed = push(&mut write, &running.unwritten), if unflushed || !running.unwritten.is_empty() => match pushed {
                    Ok(octets) => {
                        running.unwritten.advance(octets);
                        running.written += octets as u64;
                        unflushed = octets > 0;
                    }
                    Err(error) => return End::Lost(format!("writing failed: {error}").into()),
                },
                request = next_request(&mut self.jobs), if running.session.has_room() || !running.session.is_bound() => {
                    match request {
                        Some(request) => self.submit(running, request),
                        None => self.refuse_or_stop(None),
                    }
                }
                Some(settled) = running.settled.recv() => self.settle(running, &settled),
                permit = events.reserve(), if !self.events.is_empty() => match permit {
                    Ok(permit) => if let Some(event) = self.events.pop_front() { permit.send(event) },
                    // Nobody wants to know any more.
                    Err(_) => { self.events.clear(); self.stop.cancel(); }
                },
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    running.session.shutdown(self.now_ms());
                }
                () = sleep_until(self.epoch, deadline) => {
                    let now_ms = self.now_ms();
                    running.session.tick(now_ms);
                    self.expire(now_ms);
                }
            }
        }
    }

    fn deadline(&self, running: &Running) -> Option<u64> {
        let closing = running.closing.as_ref().map(|(_, until_ms)| *until_ms);
        [running.session.next_deadline(), self.receiver.next_deadline(), closing].into_iter().flatten().min()
    }

    fn read_frames(&mut self, running: &mut Running, buffer: &mut BytesMut) {
        let now_ms = self.now_ms();
        loop {
            match pdu::take_frame(buffer) {
                Ok(Some(frame)) => running.session.frame(&frame, now_ms),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "the SMSC sends what is no SMPP");
                    running.session.garbage();
                    buffer.clear();
                    break;
                }
            }
        }
    }

    /// Builds a message's submits and gives them to the session.
    fn submit(&mut self, running: &mut Running, request: Request) {
        let now_ms = self.now_ms();
        let settings = self.shared.settings.clone();
        self.reference = self.reference.wrapping_add(1);
        let built = match text::build(&request.outgoing, &settings, self.reference, unix_ms()) {
            Ok(built) => built,
            Err(refusal) => {
                let _ = request.reply.send(SubmitOutcome::refused(refusal));
                return;
            }
        };
        running.next_key += 1;
        let key = running.next_key;
        let waited_ms = request.since.elapsed().as_millis() as u64;
        let (whole, segments) = (built.whole, request.outgoing.segments);
        let to = Tail::of(request.outgoing.to);
        running.replies.insert(key, Waiting { reply: request.reply, to, whole, segments });
        let deadline = request.deadline.map(|deadline| deadline.saturating_duration_since(self.epoch));
        let job = Job {
            key,
            reference: request.outgoing.reference,
            submits: built.submits,
            queue_until_ms: (now_ms + settings.response_timeout_ms).saturating_sub(waited_ms),
            deadline_ms: deadline.map_or(u64::MAX, |deadline| deadline.as_millis() as u64),
        };
        running.session.submit(job, now_ms);
    }

    fn settle(&mut self, running: &mut Running, settled: &Settled) {
        running.unacknowledged = running.unacknowledged.saturating_sub(1);
        running.session.answer(settled.command, settled.sequence, settled.status);
        if let Some(id) = &settled.inbound {
            self.receiver.answered(id, settled.status == status::OK, self.now_ms());
        }
    }

    fn carry_out(&mut self, running: &mut Running) {
        while let Some(effect) = running.session.poll() {
            match effect {
                Effect::Write(octets) => running.unwritten.extend_from_slice(&octets),
                Effect::Bound { version } => {
                    tracing::info!(role = ?self.role, ?version, "bound at the SMSC");
                    running.bound_ms = Some(self.now_ms());
                    self.set_state(State::Bound { receiving: self.role != Role::Transmitter });
                }
                Effect::Done { key, outcome } => self.done(running, key, outcome),
                Effect::Late { reference, segment, submitted } => {
                    let submitted = self.keyed(submitted);
                    self.tell(Event::Late { reference, segment, submitted });
                }
                Effect::Deliver { command, sequence, deliver } => {
                    self.delivered(running, command, sequence, &deliver);
                }
                Effect::Congestion(state) => self.tell(Event::Congestion(state)),
                Effect::Close(reason) => running.closing = Some((reason, self.now_ms() + CLOSE_MS)),
            }
        }
        self.shared.board.in_flight(self.role, running.session.in_flight());
        self.shared.board.window(self.role, running.session.window());
    }

    fn done(&self, running: &mut Running, key: u64, mut outcome: SubmitOutcome) {
        let Some(waiting) = running.replies.remove(&key) else { return };
        let mut keys = self.shared.keys();
        for id in outcome.ids.iter_mut().flatten() {
            *id = keys.answered(id, Some(waiting.to));
        }
        drop(keys);
        if let Submitted::Accepted { id, .. } = &mut outcome.submitted {
            *id = outcome.ids.first().cloned().flatten();
        }
        outcome.whole = waiting.whole;
        if waiting.whole && outcome.segments_accepted > 0 {
            outcome.segments_accepted = waiting.segments;
        }
        // Who has asked may have given up.
        let _ = waiting.reply.send(outcome);
    }

    fn keyed(&self, submitted: Submitted) -> Submitted {
        match submitted {
            Submitted::Accepted { id: Some(id), price } => {
                Submitted::Accepted { id: Some(self.shared.keys().answered(&id, None)), price }
            }
            other => other,
        }
    }

    /// The pause before the next try; none when this was the last.
    fn after(&mut self, (end, lasted_ms): (End, u64)) -> Option<u64> {
        if self.stop.is_cancelled() {
            return None;
        }
        let reason: Box<str> = match end {
            End::Closed(CloseReason::BindRefused(code)) if status::is_account_refusal(code) => {
                let retry_in_ms = self.backoff.after_refusal();
                let refusal = status::refusal(code);
                tracing::warn!(
                    code = &*refusal.code,
                    text = &*refusal.text,
                    retry_in_ms,
                    "the SMSC refuses the account"
                );
                self.set_state(State::Refused { code: refusal.code, text: refusal.text, retry_in_ms });
                return Some(retry_in_ms);
            }
            End::Closed(CloseReason::BindRefused(code)) => status::refusal(code).text,
            End::Closed(CloseReason::BindTimeout) => "the SMSC has not answered the bind".into(),
            End::Closed(CloseReason::Silent) => "the SMSC does not answer enquire_link".into(),
            End::Closed(CloseReason::UnboundByPeer) => "the SMSC has ended the session".into(),
            End::Closed(CloseReason::NotBound) => "the SMSC says that the session is not bound".into(),
            End::Closed(CloseReason::Garbage) => "the SMSC sent what is no SMPP".into(),
            End::Closed(CloseReason::Unbound) => "the session was ended".into(),
            End::Lost(reason) => reason,
        };
        let retry_in_ms = self.backoff.after_failure(lasted_ms);
        let failures = self.backoff.failures();
        tracing::info!(role = ?self.role, %reason, failures, retry_in_ms, "no session with the SMSC");
        self.set_state(State::BackingOff { reason, failures, retry_in_ms });
        Some(retry_in_ms)
    }

    /// Waits, refusing what comes meanwhile. False when it is time to stop.
    async fn pause(&mut self, wait_ms: u64) -> bool {
        let (stop, events) = (self.stop.clone(), self.shared.events.clone());
        let over = tokio::time::sleep(Duration::from_millis(wait_ms));
        tokio::pin!(over);
        loop {
            let deadline = self.receiver.next_deadline();
            tokio::select! {
                () = stop.cancelled() => return false,
                () = &mut over => return true,
                request = next_request(&mut self.jobs) => self.refuse_or_stop(request),
                permit = events.reserve(), if !self.events.is_empty() => match permit {
                    Ok(permit) => if let Some(event) = self.events.pop_front() { permit.send(event) },
                    Err(_) => return false,
                },
                () = sleep_until(self.epoch, deadline) => {
                    let now_ms = self.now_ms();
                    self.expire(now_ms);
                }
            }
        }
    }

    /// No request: every handle is gone.
    fn refuse_or_stop(&mut self, request: Option<Request>) {
        match request {
            Some(request) => refuse(request, NotSent::NotBound),
            None => {
                self.jobs = None;
                self.stop.cancel();
            }
        }
    }
}

/// Writes what there is, or else flushes and gives 0. Loses nothing when it is given up.
async fn push(write: &mut WriteHalf<Box<dyn Stream>>, octets: &[u8]) -> io::Result<usize> {
    if octets.is_empty() {
        write.flush().await?;
        return Ok(0);
    }
    match write.write(octets).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        written => Ok(written),
    }
}

fn refuse(request: Request, why: NotSent) {
    let _ = request.reply.send(SubmitOutcome::refused(why.refusal()));
}

/// Never ready where there are no jobs: a receiver has none.
async fn next_request(jobs: &mut Option<mpsc::Receiver<Request>>) -> Option<Request> {
    match jobs {
        Some(jobs) => jobs.recv().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(epoch: Instant, deadline_ms: Option<u64>) {
    match deadline_ms {
        Some(ms) => tokio::time::sleep_until((epoch + Duration::from_millis(ms)).into()).await,
        None => std::future::pending().await,
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
