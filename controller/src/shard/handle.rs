//! What the rest of the node uses of a shard. Every call has a deadline; what waits is bounded by permits.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::{DeviceId, Epoch, MessageId, ShardId, TenantId};
use flotilla_protocol::wire::{Down, Held, Report, Telemetry};
use flotilla_routing::explain::Explanation;
use flotilla_routing::settings::TenantRouting;
use flotilla_routing::table::{KnownRoute, RouteHealth};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::inbox::{Closed, Command, Inbox};
use crate::domain::Now;
use crate::domain::message::{Route, Submission};
use crate::domain::shard::{
    AcceptRequest, Acceptance, CancelOutcome, Link, Machine, RouteGlance, RouteSim, SUBMISSIONS_MAX, ShardStatus,
};

/// Comes when the shard has decided and committed.
pub type Answer<T, E> = oneshot::Receiver<Result<T, E>>;

/// Longest wait for an answer.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Messages that may wait for their commit in one shard; more are refused.
const WAITING_MAX: usize = 32 * SUBMISSIONS_MAX;
/// What a client that finds the shard full is told to wait: a few commits.
const FULL_RETRY_MS: u64 = 250;

/// Where a shard's frames for a device go. Implemented by the device sessions.
pub trait DeviceSink: Send + Sync + 'static {
    /// Never blocks. Frames of a session that is over are dropped.
    fn send(&self, frames: Vec<Down>);
}

/// Why messages were not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    #[error("a request has at most {SUBMISSIONS_MAX} messages, this one has {messages}")]
    TooMany { messages: usize },
    #[error("the idempotency key was used for another request; use a new key")]
    KeyReused,
    /// Nothing was accepted.
    #[error("the shard is busy; try again in {retry_after_ms} ms")]
    Busy { retry_after_ms: u64 },
    /// Nothing was accepted.
    #[error("the disk of the data folder is full; free some space")]
    DiskFull,
    #[error("this controller does not lead the tenant's shard")]
    NotLeading,
    /// The messages may have been accepted: only the same request with the same idempotency key can tell.
    #[error("no answer in time; repeat the request with the same idempotency key")]
    Undecided,
}

/// Why a call other than `accept` has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    #[error("the shard is busy; try again in {retry_after_ms} ms")]
    Busy { retry_after_ms: u64 },
    /// Nothing was changed.
    #[error("the disk of the data folder is full; free some space")]
    DiskFull,
    #[error("this controller does not lead the tenant's shard")]
    NotLeading,
    #[error("no answer in time; ask for the message's state")]
    Undecided,
}

impl From<Closed> for ShardError {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::For { retry_after_ms } => Self::Busy { retry_after_ms },
            Closed::Full => Self::DiskFull,
            Closed::Ever => Self::NotLeading,
        }
    }
}

impl From<ShardError> for AcceptError {
    fn from(error: ShardError) -> Self {
        match error {
            ShardError::Busy { retry_after_ms } => Self::Busy { retry_after_ms },
            ShardError::DiskFull => Self::DiskFull,
            ShardError::NotLeading => Self::NotLeading,
            ShardError::Undecided => Self::Undecided,
        }
    }
}

impl From<Closed> for AcceptError {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::For { retry_after_ms } => Self::Busy { retry_after_ms },
            Closed::Full => Self::DiskFull,
            Closed::Ever => Self::NotLeading,
        }
    }
}

/// One led shard. Cheap to clone; stays valid while the shard's actor restarts.
#[derive(Clone)]
pub struct ShardHandle {
    pub(super) inbox: Arc<Inbox>,
    room: Arc<Semaphore>,
}

impl ShardHandle {
    pub(super) fn new(inbox: Arc<Inbox>) -> Self {
        Self { inbox, room: Arc::new(Semaphore::new(WAITING_MAX)) }
    }

    pub fn shard(&self) -> ShardId {
        self.inbox.shard()
    }

    pub fn epoch(&self) -> Epoch {
        self.inbox.epoch()
    }

    /// False while it starts, or is given up.
    pub fn serves(&self) -> bool {
        self.inbox.serves()
    }

    /// Returns when the messages are durable. Ids and times are the caller's; ids are never used twice. Where there is an
    /// idempotency key, the caller has looked it up in the rows before: the shard itself remembers recent ones only.
    pub async fn accept(&self, request: AcceptRequest) -> Result<Acceptance, AcceptError> {
        match timeout(CALL_DEADLINE, self.begin_accept(request)?).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(AcceptError::Undecided),
        }
    }

    /// [`ShardHandle::accept`] for whoever waits in another way. Dropped without an answer: undecided.
    pub fn begin_accept(&self, request: AcceptRequest) -> Result<Answer<Acceptance, AcceptError>, AcceptError> {
        let messages = request.submissions.len();
        if messages > SUBMISSIONS_MAX {
            return Err(AcceptError::TooMany { messages });
        }
        let room = Arc::clone(&self.room).try_acquire_many_owned(messages as u32);
        let permit = room.map_err(|_| AcceptError::Busy { retry_after_ms: FULL_RETRY_MS })?;
        let (reply, answer) = oneshot::channel();
        self.inbox.push(Command::Accept { request, reply, permit })?;
        Ok(answer)
    }

    /// Returns when the outcome is durable.
    pub async fn cancel(&self, tenant: TenantId, message: MessageId) -> Result<CancelOutcome, ShardError> {
        match timeout(CALL_DEADLINE, self.begin_cancel(tenant, message)?).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(ShardError::Undecided),
        }
    }

    pub fn begin_cancel(
        &self,
        tenant: TenantId,
        message: MessageId,
    ) -> Result<Answer<CancelOutcome, ShardError>, ShardError> {
        let (reply, answer) = oneshot::channel();
        self.inbox.push(Command::Cancel { tenant, message, reply })?;
        Ok(answer)
    }

    pub async fn status(&self) -> Result<ShardStatus, ShardError> {
        let (reply, answer) = oneshot::channel();
        self.inbox.push(Command::Status { reply })?;
        match timeout(CALL_DEADLINE, answer).await {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(_)) | Err(_) => Err(ShardError::Undecided),
        }
    }

    /// What people are shown of the shard's routes.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Machine, Now) -> T + Send + 'static,
    ) -> Result<T, ShardError> {
        let (reply, answer) = oneshot::channel();
        // Whoever asked may have gone.
        let look = move |machine: &mut Machine, now: Now| drop(reply.send(look(machine, now)));
        self.inbox.push(Command::Look(Box::new(look)))?;
        timeout(CALL_DEADLINE, answer).await.ok().and_then(Result::ok).ok_or(ShardError::Undecided)
    }

    /// What would become of a message now, and why. Nothing is sent.
    pub async fn explain(&self, submission: Submission) -> Result<Explanation, ShardError> {
        self.look(move |machine, now| machine.explain(&submission, now)).await
    }

    /// The routes of a tenant that are there, or were lately.
    pub async fn route_health(&self, tenant: TenantId) -> Result<Vec<RouteHealth>, ShardError> {
        self.look(move |machine, now| machine.route_health(tenant, now)).await
    }

    /// One of them; `None` when nothing is known of it.
    pub async fn route_health_of(&self, route: Route) -> Result<Option<RouteHealth>, ShardError> {
        self.look(move |machine, now| machine.route_health_of(route, now)).await
    }

    /// All routes of the shard, counted. What it has counted since the last glance goes to whoever asks.
    pub async fn route_glance(&self) -> Result<RouteGlance, ShardError> {
        self.look(Machine::route_glance).await
    }

    /// A device's link is up and its SIMs have ids: call it before `Welcome` lets the device repeat its reports.
    pub fn device_up(&self, link: Link, sink: Arc<dyn DeviceSink>) {
        self.inbox.device_up(link, sink);
    }

    pub fn device_changed(&self, device: DeviceId, session: u64, sims: Vec<RouteSim>, accepts_work: bool) {
        self.inbox.device_changed(device, session, sims, accepts_work);
    }

    pub fn device_down(&self, device: DeviceId, session: u64) {
        self.inbox.device_down(device, session);
    }

    /// What the device tells about itself; the newest counts.
    pub fn telemetry(&self, device: DeviceId, session: u64, telemetry: Telemetry) {
        self.inbox.telemetry(device, session, telemetry);
    }

    /// A tenant has changed its settings. They outlive a restart of the actor.
    pub fn set_tenant(&self, tenant: TenantId, routing: Arc<TenantRouting>) {
        self.inbox.tenant(tenant, routing);
    }

    /// What the catalog has of a tenant's routes whose devices are away, when something has changed.
    pub fn know_routes(&self, tenant: TenantId, routes: Vec<KnownRoute>) {
        self.inbox.routes(tenant, routes);
    }

    /// Reports in the order of the link, each one once.
    pub fn reports(&self, device: DeviceId, session: u64, reports: Vec<Report>) {
        self.inbox.reports(device, session, reports);
    }

    pub fn held(&self, device: DeviceId, session: u64, held: Vec<Held>, last: bool) {
        self.inbox.held(device, session, held, last);
    }
}
