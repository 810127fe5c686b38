//! Keeps this node registered: a lease, the member key on it, and renewals well before it ends. When the lease is over,
//! or the machine has given it up, the member key moves to a new lease *before* the old one is ended, so that the others
//! do not see this node go and come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::Epoch;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::StartError;
use super::client::CallError;
use super::clock::now_ms;
use super::driver::Event;
use super::store::{Granted, PrepareError, Store, pause};
use crate::Member;
use crate::ownership::{Input, LeaseId};

/// How often a lease is renewed while it lasts.
const RENEWALS_PER_LEASE: u32 = 3;
/// Between looks at a member key that somebody else has.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub(super) struct Keeper {
    pub(super) store: Arc<Store>,
    pub(super) member: Member,
    pub(super) ttl_s: u32,
    pub(super) events: mpsc::Sender<Event>,
    /// The last lease that the machine gave up.
    pub(super) renounced: watch::Receiver<Option<LeaseId>>,
    /// The highest epoch that is known: a store that was made anew is raised above it.
    pub(super) floor: watch::Receiver<Epoch>,
    /// Leases of this process, newest last, so that a member key whose making was not confirmed is known as ours.
    pub(super) leases: VecDeque<i64>,
}

impl Keeper {
    /// Joins the cluster for the first time.
    pub(super) async fn join(&mut self) -> Result<Granted, StartError> {
        self.store.prepare(self.floor()).await?;
        self.wait_for_name().await?;
        self.register().await
    }

    /// A node that was killed is still a member until its lease ends. One that goes on being a member is another process.
    async fn wait_for_name(&self) -> Result<(), StartError> {
        let name = &self.member.name;
        let mut patience = None;
        loop {
            let contents = self.store.read().await?;
            let Some(present) = contents.present(name) else { return Ok(()) };
            if patience.is_none() {
                let span_s = self.store.lease_span_s(present.lease).await?;
                tracing::info!(%name, wait_s = span_s + 1, "a member of this node's name is there; waiting for its lease to end");
                patience = Some(Instant::now() + Duration::from_secs(span_s + 1));
            }
            if patience.is_some_and(|until| Instant::now() > until) {
                return Err(StartError::NameTaken { name: name.clone(), peer: present.member.peer.clone() });
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn register(&mut self) -> Result<Granted, StartError> {
        let granted = self.store.grant(self.ttl_s).await?;
        let earlier = self.leases.clone();
        self.leases.push_back(granted.lease);
        if self.leases.len() > 8 {
            self.leases.pop_front();
        }
        // Absent, or on the lease of an earlier registration.
        for held in std::iter::once(0).chain(earlier.iter().copied()) {
            if self.store.put_member(&self.member, granted.lease, held).await? {
                for old in earlier {
                    // What is not ended here ends by itself.
                    let _ = self.store.revoke(old).await;
                }
                self.leases = VecDeque::from([granted.lease]);
                tracing::info!(name = %self.member.name, lease = granted.lease, ttl_ms = granted.ttl_ms, "registered as a member");
                return Ok(granted);
            }
        }
        let _ = self.store.revoke(granted.lease).await;
        Err(StartError::NameTaken { name: self.member.name.clone(), peer: "unknown".to_owned() })
    }

    /// Renews, and registers again whenever that has become necessary, for ever.
    pub(super) async fn keep(mut self, mut granted: Granted) {
        loop {
            let Granted { lease, sent_ms, ttl_ms } = granted;
            let lease_id = LeaseId(lease);
            if self.tell(Input::Granted { lease: lease_id, sent_ms, ttl_ms }).await.is_err() {
                return;
            }
            self.renew_until_over(granted).await;
            metrics::counter!("flotilla_cluster_lease_losses_total").increment(1);
            tracing::warn!(lease, "this node's lease is over; registering anew");
            granted = self.register_again().await;
        }
    }

    async fn renew_until_over(&mut self, Granted { lease, sent_ms, ttl_ms }: Granted) {
        let interval_ms = ttl_ms / u64::from(RENEWALS_PER_LEASE);
        let (mut due_ms, mut failures) = (sent_ms + interval_ms, 0);
        loop {
            let wait = Duration::from_millis(due_ms.saturating_sub(now_ms()));
            if self.renounced_within(lease, wait).await {
                return;
            }
            match self.store.renew(lease).await {
                Ok(sent_ms) => {
                    let _ = self.tell(Input::Renewed { lease: LeaseId(lease), sent_ms, ttl_ms }).await;
                    (due_ms, failures) = (sent_ms + interval_ms, 0);
                }
                Err(CallError::LeaseGone) => {
                    let _ = self.tell(Input::Ended { lease: LeaseId(lease) }).await;
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, failures, "this node's lease was not renewed");
                    due_ms = now_ms() + pause(failures).as_millis() as u64;
                    failures += 1;
                }
            }
        }
    }

    /// Waits, but no longer than until the machine gives the lease up.
    async fn renounced_within(&mut self, lease: i64, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            if *self.renounced.borrow_and_update() == Some(LeaseId(lease)) {
                return true;
            }
            match timeout_at(until, self.renounced.changed()).await {
                Ok(Ok(())) => {}
                // The driver has ended.
                Ok(Err(_)) => return true,
                Err(_) => return false,
            }
        }
    }

    async fn register_again(&mut self) -> Granted {
        let mut failures = 0;
        loop {
            let prepared = self.store.prepare(self.floor()).await.map_err(StartError::from);
            let error = match prepared {
                Ok(_) => match self.register().await {
                    Ok(granted) => return granted,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            tracing::warn!(%error, "this node cannot register; it leads nothing until it can");
            sleep(pause(failures)).await;
            failures += 1;
        }
    }

    /// A copy: what is borrowed from a watch must not be held while something is awaited.
    fn floor(&self) -> Epoch {
        *self.floor.borrow()
    }

    async fn tell(&self, input: Input) -> Result<(), mpsc::error::SendError<Event>> {
        self.events.send(Event::Input(input)).await
    }
}

impl From<PrepareError> for StartError {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::Shards { ours, theirs } => Self::OtherShards { ours, theirs },
            PrepareError::Newer(version) => Self::Newer { version },
            PrepareError::Call(error) => error.into(),
        }
    }
}

impl From<CallError> for StartError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(why) => Self::Refused(why),
            other => Self::Unavailable(other.to_string()),
        }
    }
}
