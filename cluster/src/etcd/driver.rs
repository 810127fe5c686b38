//! Runs the ownership machine: carries what is read and what becomes of calls to it, and does what it decides.
//!
//! One task, with one queue of events; calls to etcd run beside it and come back as events. Everything it starts ends with
//! it. The queue is bounded: reads and renewals come one at a time, and each campaign and each resignation is of a shard.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::{Epoch, ShardId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::client::CallError;
use super::clock::now_ms;
use super::control::{self, Wish};
use super::keys::Contents;
use super::reader::Hint;
use super::store::{Store, pause};
use crate::ownership::{Effect, Input, LeaseId, Ownership};
use crate::{ControlError, Leadership, Member, View};

/// The machine looks at the clock at least this often, should a timer be late.
const TICK_MAX_MS: u64 = 500;

pub(super) enum Event {
    Input(Input),
    /// All keys, by a read that began then.
    Read {
        contents: Arc<Contents>,
        began_ms: u64,
    },
    Unreadable(CallError),
    Resigned,
    Control(Wish, oneshot::Sender<Result<(), ControlError>>),
    Leave {
        grace: Duration,
        done: oneshot::Sender<()>,
    },
}

pub(super) struct Driver {
    pub(super) store: Arc<Store>,
    pub(super) member: Member,
    pub(super) machine: Ownership,
    pub(super) hint: Arc<Hint>,
    /// Never more than a few for each shard and lease.
    pub(super) changes: mpsc::UnboundedSender<Leadership>,
    pub(super) views: watch::Sender<Arc<View>>,
    pub(super) renounced: watch::Sender<Option<LeaseId>>,
    pub(super) floor: watch::Sender<Epoch>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) state: State,
}

#[derive(Default)]
pub(super) struct State {
    contents: Arc<Contents>,
    /// The present lease, and when this node was registered under it: a read that began earlier may show the past.
    lease: Option<(LeaseId, u64)>,
    tasks: JoinSet<()>,
    resignations: usize,
    leaving: Option<Leaving>,
}

struct Leaving {
    until: Instant,
    done: oneshot::Sender<()>,
}

impl Driver {
    /// Until this node has left the cluster, or nobody is there to tell it anything.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Event>) {
        loop {
            let event = tokio::select! {
                event = inbox.recv() => match event {
                    Some(event) => event,
                    None => return,
                },
                () = sleep(self.until_due()) => Event::Input(Input::Tick),
            };
            self.take(event);
            while self.state.tasks.try_join_next().is_some() {}
            if self.has_left() {
                return self.end().await;
            }
        }
    }

    fn until_due(&self) -> Duration {
        let now_ms = now_ms();
        let due_ms = self.machine.next_deadline().unwrap_or(u64::MAX);
        let wait = Duration::from_millis(due_ms.saturating_sub(now_ms).min(TICK_MAX_MS));
        let left = self.state.leaving.as_ref().map(|leaving| leaving.until.saturating_duration_since(Instant::now()));
        left.map_or(wait, |left| left.min(wait))
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Input(input) => self.input(input),
            Event::Read { contents, began_ms } => self.read(contents, began_ms),
            Event::Unreadable(error) => self.unreadable(&error),
            Event::Resigned => self.state.resignations -= 1,
            Event::Control(wish, answer) => self.control(wish, answer),
            Event::Leave { grace, done } => self.leave(grace, done),
        }
        metrics::gauge!("flotilla_cluster_shards_led").set(self.machine.led() as f64);
        let left_ms = self.machine.lease_left_ms(now_ms()).unwrap_or(0);
        metrics::gauge!("flotilla_cluster_lease_left_seconds").set(left_ms as f64 / 1_000.0);
    }

    fn input(&mut self, input: Input) {
        match &input {
            Input::Granted { lease, .. } => {
                self.state.lease = Some((*lease, now_ms()));
                self.hint.give();
            }
            Input::Won { epoch, .. } => self.know(*epoch),
            // The key or the base of the epochs may have changed.
            Input::Unclear { .. } => self.hint.give(),
            _ => {}
        }
        count_campaigns(&input);
        let effects = self.machine.handle(input, now_ms());
        for effect in effects {
            self.perform(effect);
        }
    }

    fn read(&mut self, contents: Arc<Contents>, began_ms: u64) {
        if self.state.lease.is_some_and(|(_, since_ms)| began_ms < since_ms) {
            return self.hint.give();
        }
        if let Some(highest) = contents.leaders.iter().flatten().map(|held| held.epoch).max() {
            self.know(highest);
        }
        self.show(contents.view(true));
        self.state.contents = Arc::clone(&contents);
        self.input(Input::Read(Arc::new(contents.snapshot())));
    }

    fn know(&self, epoch: Epoch) {
        self.floor.send_if_modified(|floor| std::mem::replace(floor, epoch.max(*floor)) < epoch);
    }

    fn unreadable(&self, error: &CallError) {
        // No borrow may outlive this: `show` locks the same value.
        let last = View::clone(&self.views.borrow());
        if last.fresh {
            tracing::warn!(%error, "etcd does not answer; what this node knows of the others may be old");
        }
        self.show(View { fresh: false, ..last });
    }

    fn show(&self, view: View) {
        self.views.send_if_modified(|shown| {
            let changed = **shown != view;
            if changed {
                *shown = Arc::new(view);
            }
            changed
        });
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Campaign { shard, lease } => self.campaign(shard, lease),
            Effect::Resign { shard, lease, epoch } => self.resign(shard, lease, epoch),
            Effect::Renounce { lease } => {
                self.state.lease = self.state.lease.filter(|(held, _)| *held != lease);
                self.renounced.send_replace(Some(lease));
            }
            Effect::Leadership(change) => self.announce(change),
        }
    }

    fn announce(&mut self, change: Leadership) {
        tracing::info!(?change, "leadership");
        if self.changes.send(change).is_ok() {
            return;
        }
        // Nobody leads the shards of this node any more, so others had better.
        let (Leadership::Gained { shard, .. } | Leadership::Drain { shard } | Leadership::Lost { shard }) = change;
        let events = self.events.clone();
        self.state.tasks.spawn(async move {
            for input in [Input::Shutdown, Input::Released { shard }] {
                let _ = events.send(Event::Input(input)).await;
            }
        });
    }

    fn campaign(&mut self, shard: ShardId, lease: LeaseId) {
        let (store, events, node) = (Arc::clone(&self.store), self.events.clone(), self.member.name.clone());
        let base = self.state.contents.epoch_base;
        self.state.tasks.spawn(async move {
            let outcome = match base {
                Some(base) => store.campaign(shard, &node, lease, base).await,
                None => Input::Unclear { shard, lease },
            };
            let _ = events.send(Event::Input(outcome)).await;
        });
    }

    fn resign(&mut self, shard: ShardId, lease: LeaseId, epoch: Epoch) {
        self.state.resignations += 1;
        let (store, events, renounced) = (Arc::clone(&self.store), self.events.clone(), self.renounced.subscribe());
        self.state.tasks.spawn(async move {
            let mut failures = 0;
            // With the lease its keys go.
            while *renounced.borrow() != Some(lease) {
                let Err(error) = store.resign(shard, lease, epoch).await else { break };
                tracing::debug!(%shard, %error, "a leader key is not removed yet");
                sleep(pause(failures)).await;
                failures += 1;
            }
            let _ = events.send(Event::Resigned).await;
        });
    }

    fn control(&mut self, wish: Wish, answer: oneshot::Sender<Result<(), ControlError>>) {
        let (store, hint) = (Arc::clone(&self.store), Arc::clone(&self.hint));
        let contents = Arc::clone(&self.state.contents);
        self.state.tasks.spawn(async move {
            let result = control::fulfil(&store, &contents, wish).await;
            hint.give();
            // Whoever asked may have gone.
            let _ = answer.send(result);
        });
    }
}

/// The orderly end.
impl Driver {
    fn leave(&mut self, grace: Duration, done: oneshot::Sender<()>) {
        tracing::info!(led = self.machine.led(), "leaving the cluster");
        self.state.leaving = Some(Leaving { until: Instant::now() + grace, done });
        if let Some((lease, _)) = self.state.lease {
            let (store, member) = (Arc::clone(&self.store), Member { draining: true, ..self.member.clone() });
            // Only to let others take over without asking this node first; nothing depends on it.
            self.state.tasks.spawn(async move {
                let _ = store.put_member(&member, lease.0, lease.0).await;
            });
        }
        self.input(Input::Shutdown);
    }

    fn has_left(&self) -> bool {
        let handed_over = self.machine.led() == 0 && self.state.resignations == 0;
        self.state.leaving.as_ref().is_some_and(|leaving| handed_over || Instant::now() >= leaving.until)
    }

    /// Ends the lease, and with it the member key and whatever is still led.
    async fn end(mut self) {
        self.state.tasks.abort_all();
        let lease = self.state.lease.take();
        // Shards that did not stop in time are stopped before others can lead them.
        if let Some((lease, _)) = lease {
            self.input(Input::Ended { lease });
            if let Err(error) = self.store.revoke(lease.0).await {
                tracing::warn!(%error, "this node's lease is not ended; others take over when it runs out");
            }
        }
        if let Some(leaving) = self.state.leaving {
            let _ = leaving.done.send(());
        }
    }
}

fn count_campaigns(input: &Input) {
    let result = match input {
        Input::Won { .. } => "won",
        Input::Taken { .. } => "taken",
        Input::Unclear { .. } => "unclear",
        _ => return,
    };
    metrics::counter!("flotilla_cluster_campaigns_total", "result" => result).increment(1);
}
