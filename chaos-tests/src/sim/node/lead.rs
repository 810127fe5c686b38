//! The shards that a controller leads: does the acts of each [`Life`] against the simulated store, and drives the rows
//! follower, as actor, supervisor and follower's driver do in a real node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flotilla_controller::domain::facts;
use flotilla_controller::domain::shard::{Effect, Input};
use flotilla_controller::follow::Follower;
use flotilla_controller::shard::ShardHandle;
use flotilla_controller::shard::life::{Act, Ending, Life, NotStarted};
use flotilla_controller::shard::reads;
use flotilla_controller::store::{Batch, CommitError, outcome_of};
use flotilla_protocol::id::{Epoch, ShardId};

use super::{Node, NodeEvent};
use crate::sim::Flaw;
use crate::sim::Ms;
use crate::sim::plan::Party;
use crate::sim::store::ready;
use crate::sim::world::{Cx, Event};
use crate::sim::writes::{self, Write, Written};

const WRITE_TIMEOUT_MS: u64 = 5_000;
const ASK_FOR_MS: u64 = 2_000;
const ASK_EVERY_MS: u64 = 200;
const READ_RETRY_MS_MAX: u64 = 5_000;

/// A shard that this node leads, or thinks it does.
pub(super) struct Led {
    pub(super) life: Life,
    pub(super) handle: ShardHandle,
    /// Set by the inbox.
    woken: Arc<AtomicBool>,
    /// Its work is planned already.
    coming: bool,
    /// The follower follows it.
    followed: bool,
    handing_over: bool,
}

/// A write that is waited for.
pub(super) struct UnderWay {
    led: u64,
    run: u64,
    /// Of a commit.
    batch: Option<Batch>,
    ask_until: Option<Ms>,
}

impl Node {
    pub(super) fn led_of(&self, shard: ShardId) -> Option<(u64, &Led)> {
        let found = self.mind.led.iter().find(|(_, led)| led.life.shard() == shard && !led.handing_over);
        found.map(|(id, led)| (*id, led))
    }

    pub(super) fn gained(&mut self, shard: ShardId, epoch: Epoch, cx: &mut Cx) {
        self.forget(shard, cx);
        let (life, handle) = Life::new(shard, epoch, self.settings.clone());
        let woken = Arc::default();
        let id = self.fresh();
        let led = Led { life, handle, woken, coming: false, followed: false, handing_over: false };
        self.mind.led.insert(id, led);
        self.with_life(id, cx, |life, _| life.start());
    }

    /// Nothing of it may be used any more.
    pub(super) fn lost(&mut self, shard: ShardId, cx: &mut Cx) {
        if cx.flaw == Some(Flaw::NoSelfFence) && self.led_of(shard).is_some_and(|(_, led)| led.life.is_running()) {
            return;
        }
        self.forget(shard, cx);
    }

    fn forget(&mut self, shard: ShardId, cx: &mut Cx) {
        let ids: Vec<u64> =
            self.mind.led.iter().filter(|(_, led)| led.life.shard() == shard).map(|(id, _)| *id).collect();
        for id in ids {
            self.mind.led.remove(&id);
            self.unfollow(shard);
            self.end_sessions(id, cx);
        }
    }

    pub(super) fn drain(&mut self, shard: ShardId, cx: &mut Cx) {
        let Some((id, _)) = self.led_of(shard) else { return };
        self.with_life(id, cx, |life, now| life.drain(now));
    }

    /// Runs a piece of a life, and does what it says.
    fn with_life(
        &mut self,
        id: u64,
        cx: &mut Cx,
        piece: impl FnOnce(&mut Life, flotilla_controller::domain::Now) -> Vec<Act>,
    ) {
        let now = self.now(cx);
        let Some(led) = self.mind.led.get_mut(&id) else { return };
        let acts = piece(&mut led.life, now);
        for act in acts {
            self.act(id, act, cx);
        }
    }

    fn act(&mut self, id: u64, act: Act, cx: &mut Cx) {
        let Some(led) = self.mind.led.get(&id) else { return };
        let (shard, epoch) = (led.life.shard(), led.life.epoch());
        match act {
            Act::Restore { run } => self.write(id, run, Write::Take { shard, epoch }, None, cx),
            Act::StartAfter { run, pause } => {
                let event = self.own(NodeEvent::Start { led: id, run });
                cx.after(pause.as_millis() as u64, event);
            }
            Act::Commit { run, batch } => {
                self.leak(id, cx);
                let asked = batch.clone();
                self.write(id, run, Write::Commit(batch), Some(asked), cx);
            }
            Act::Read { run, read } => {
                let event = NodeEvent::Read { led: id, run, read: Box::new(read), tries: 0 };
                let event = self.own(event);
                let delay = cx.writes.delay();
                cx.after(delay, event);
            }
            // Nobody watches.
            Act::Tell(_) => {}
            Act::WakeAt { run, mono_ms } => {
                let event = self.own(NodeEvent::Wake { led: id, run });
                let at = self.clock.when(mono_ms).max(cx.now + 1);
                cx.at(at, event);
            }
            Act::Stop(Ending::Fenced { by }) => {
                cx.log(|| format!("c{}: shard {shard}, epoch {epoch}, is fenced by {by}", self.number));
                self.mind.led.remove(&id);
                self.unfollow(shard);
                self.end_sessions(id, cx);
            }
            Act::Stop(Ending::Drained) => {
                self.end_sessions(id, cx);
                if let Some(led) = self.mind.led.get_mut(&id) {
                    led.handing_over = true;
                }
                let event = self.own(NodeEvent::Flush { led: id });
                let delay = cx.writes.delay();
                cx.after(delay, event);
            }
        }
    }

    fn write(&mut self, led: u64, run: u64, write: Write, batch: Option<Batch>, cx: &mut Cx) {
        let id = self.fresh();
        self.mind.writes.insert(id, UnderWay { led, run, batch, ask_until: None });
        if let Some(at) = cx.net.message(self.me(), Party::Store, cx.now) {
            let at = at + cx.writes.delay();
            cx.at(at, Event::Store { node: self.number, life: self.life, id, write });
        }
        let event = self.own(NodeEvent::WriteTimeout { id });
        cx.after(WRITE_TIMEOUT_MS, event);
    }

    pub(super) fn written(&mut self, id: u64, written: Written, cx: &mut Cx) {
        let Some(UnderWay { led, run, batch, ask_until }) = self.mind.writes.remove(&id) else { return };
        match written {
            Written::Taken(Ok(last_seq)) => {
                let event = self.own(NodeEvent::CatchUp { led, run, last_seq });
                let delay = cx.writes.delay();
                cx.after(delay, event);
            }
            Written::Taken(Err(CommitError::Fenced { epoch, .. })) => {
                self.started(led, run, Err(NotStarted::Fenced { by: epoch }), cx);
            }
            Written::Taken(Err(_)) => self.trouble(led, run, cx),
            Written::Committed(Err(CommitError::Unknown(_))) => {
                let ask_until = ask_until.or(Some(cx.now + ASK_FOR_MS));
                self.mind.writes.insert(id, UnderWay { led, run, batch, ask_until });
                self.ask_outcome(id, cx);
            }
            Written::Committed(result) => self.commit_ended(led, run, result, cx),
        }
    }

    pub(super) fn write_timeout(&mut self, id: u64, cx: &mut Cx) {
        let Some(UnderWay { led, run, batch, ask_until }) = self.mind.writes.get(&id) else { return };
        let (led, run) = (*led, *run);
        if ask_until.is_some() {
            return;
        }
        if batch.is_none() {
            self.mind.writes.remove(&id);
            return self.trouble(led, run, cx);
        }
        self.written(id, Written::Committed(Err(CommitError::Unknown("no answer".into()))), cx);
    }

    /// What the journal has in the batch's place tells how it ended.
    pub(super) fn ask_outcome(&mut self, id: u64, cx: &mut Cx) {
        let Some(UnderWay { led, run, batch: Some(asked), ask_until: Some(until) }) = self.mind.writes.get(&id) else {
            return;
        };
        let (led, run, until) = (*led, *run, *until);
        let why = || "nobody knows".to_owned();
        let result = if self.reaches_store(cx) {
            outcome_of(asked, cx.store.batch(asked.shard, asked.seq).as_ref(), why())
        } else if cx.now < until {
            let event = self.own(NodeEvent::AskOutcome { id });
            return cx.after(ASK_EVERY_MS, event);
        } else {
            Err(CommitError::Unknown(why()))
        };
        self.mind.writes.remove(&id);
        self.commit_ended(led, run, result, cx);
    }

    fn commit_ended(&mut self, led: u64, run: u64, result: Result<(), CommitError>, cx: &mut Cx) {
        if let Err(error) = &result {
            cx.log(|| format!("c{}: a commit ended: {error}", self.number));
        }
        self.with_life(led, cx, |life, now| life.committed(run, result, now, None));
    }

    pub(super) fn work(&mut self, id: u64, cx: &mut Cx) {
        if let Some(led) = self.mind.led.get_mut(&id) {
            led.coming = false;
        }
        self.with_life(id, cx, |life, now| life.work(now, None));
    }

    pub(super) fn input(&mut self, id: u64, run: u64, input: Input, cx: &mut Cx) {
        self.with_life(id, cx, |life, now| life.input(run, input, now));
    }

    pub(super) fn start_again(&mut self, id: u64, run: u64, cx: &mut Cx) {
        self.with_life(id, cx, |life, _| if life.run() == run { life.start() } else { Vec::new() });
    }

    /// Inboxes that have something are looked after in a moment.
    pub(super) fn wake_lives(&mut self, cx: &mut Cx) {
        for (id, led) in &mut self.mind.led {
            if led.woken.swap(false, Ordering::Relaxed) && !led.coming {
                led.coming = true;
                let delay = self.rng.below(3);
                cx.after(delay, Event::Node(self.number, self.life, NodeEvent::Work { led: *id }));
            }
        }
    }

    // --- what a shard starts from, and reads --------------------------------------------------------------------------

    fn started(
        &mut self,
        id: u64,
        run: u64,
        result: Result<flotilla_controller::domain::shard::Restored, NotStarted>,
        cx: &mut Cx,
    ) {
        let Some(led) = self.mind.led.get(&id) else { return };
        let woken = Arc::clone(&led.woken);
        let wake = Box::new(move || woken.store(true, Ordering::Relaxed));
        self.with_life(id, cx, |life, now| life.started(run, result, wake, now, None));
        self.look_at_accounts(cx);
    }

    fn trouble(&mut self, id: u64, run: u64, cx: &mut Cx) {
        self.started(id, run, Err(NotStarted::Trouble { disk_full: false }), cx);
    }

    /// The shard is taken: its rows are followed from where they are now.
    pub(super) fn catch_up(&mut self, id: u64, run: u64, last_seq: u64, cx: &mut Cx) {
        let reaches = self.reaches_store(cx);
        let Some(led) = self.mind.led.get_mut(&id).filter(|led| led.life.run() == run) else { return };
        if !reaches {
            return self.trouble(id, run, cx);
        }
        let (shard, epoch) = (led.life.shard(), led.life.epoch());
        if !std::mem::replace(&mut led.followed, true) {
            drop(ready(self.follower(cx).gained(&[(shard, epoch)])));
            let event = self.own(NodeEvent::Follow { led: id });
            let pause = self.rng.between(100, 1_500);
            cx.after(pause, event);
        }
        let delay = cx.writes.delay();
        let caught_up = writes::follow(self.follower(cx), &cx.store, shard);
        if caught_up.is_err() {
            return self.trouble(id, run, cx);
        }
        let event = self.own(NodeEvent::Restore { led: id, run, last_seq });
        cx.after(delay, event);
    }

    pub(super) fn restore(&mut self, id: u64, run: u64, last_seq: u64, cx: &mut Cx) {
        let reaches = self.reaches_store(cx);
        let Some(led) = self.mind.led.get(&id).filter(|led| led.life.run() == run) else { return };
        let (shard, epoch) = (led.life.shard(), led.life.epoch());
        let mut restored = || -> Result<_, String> {
            if !reaches {
                return Err("the store is not reached".into());
            }
            let follower = self.mind.follower.as_mut().ok_or("nobody follows")?;
            ready(follower.flush()).map_err(|error| error.to_string())?;
            // Another flush of a former leader may have put it back.
            while follower.position(shard) < last_seq {
                writes::follow(follower, &cx.store, shard).map_err(|error| error.to_string())?;
                ready(follower.flush()).map_err(|error| error.to_string())?;
            }
            let restored = ready(reads::restored(&*cx.store.rows(), shard, epoch, last_seq));
            let mut restored = restored.map_err(|error| error.to_string())?;
            restored.tenants = self.site.tenants_of(shard, cx.store.shards(), cx.flaw);
            for batch in cx.store.read(shard, 0).map_err(|error| error.to_string())? {
                let times = match cx.flaw {
                    Some(Flaw::ForgottenLedger) => 0,
                    Some(Flaw::FactsTwice) if batch.seq == last_seq => 2,
                    _ => 1,
                };
                for event in (0..times).flat_map(|_| batch.events.iter()) {
                    facts::of_event(event, |fact| {
                        restored.ledger.apply(&fact);
                    });
                }
            }
            Ok(restored)
        };
        match restored() {
            Ok(restored) => {
                cx.check.starts(shard, cx.now);
                cx.log(|| format!("c{} leads shard {shard}, epoch {epoch}, from {last_seq}", self.number));
                self.started(id, run, Ok(restored), cx);
            }
            Err(_) => self.trouble(id, run, cx),
        }
    }

    pub(super) fn read(&mut self, id: u64, run: u64, read: Box<Effect>, tries: u32, cx: &mut Cx) {
        let Some(led) = self.mind.led.get(&id).filter(|led| led.life.run() == run) else { return };
        let shard = led.life.shard();
        let now_ms = self.clock.unix(cx.now);
        let reaches = self.reaches_store(cx);
        let mut answer = || -> Result<Option<Input>, String> {
            if !reaches {
                return Err("the store is not reached".into());
            }
            if !matches!(*read, Effect::FindKey { .. }) {
                let follower = self.mind.follower.as_mut().ok_or("nobody follows")?;
                writes::follow(follower, &cx.store, shard).map_err(|error| error.to_string())?;
                ready(follower.flush()).map_err(|error| error.to_string())?;
            }
            ready(reads::answer_from(&*cx.store.rows(), shard, &read, now_ms)).map_err(|error| error.to_string())
        };
        match answer() {
            Ok(Some(input)) => {
                let event = self.own(NodeEvent::Answered { led: id, run, input: Box::new(input) });
                let delay = cx.writes.delay();
                cx.after(delay, event);
            }
            Ok(None) => {}
            Err(_) => {
                let pause = (50 << tries.min(10)).min(READ_RETRY_MS_MAX);
                let event = self.own(NodeEvent::Read { led: id, run, read, tries: tries + 1 });
                cx.after(pause, event);
            }
        }
    }

    /// What those that lead and have nothing under way know of their routes.
    pub(in crate::sim) fn check_ledgers(&self, cx: &mut Cx) {
        for led in self.mind.led.values() {
            let (shard, epoch) = (led.life.shard(), led.life.epoch());
            if cx.store.epoch(shard) == epoch
                && let Some(ledger) = led.life.ledger_at_rest()
            {
                cx.check.ledger_is(shard, ledger);
            }
        }
    }

    // --- rows -------------------------------------------------------------------------------------------------------------

    fn follower(&mut self, cx: &Cx) -> &mut flotilla_controller::follow::RowsFollower {
        let open = || ready(flotilla_controller::follow::RowsFollower::open(cx.store.rows()));
        self.mind.follower.get_or_insert_with(|| open().expect("a store in memory"))
    }

    fn unfollow(&mut self, shard: ShardId) {
        if let Some(follower) = &mut self.mind.follower {
            follower.lost(shard);
        }
    }

    /// Takes what is new of a shard; it is written a little later.
    pub(super) fn follow(&mut self, id: u64, cx: &mut Cx) {
        let reaches = self.reaches_store(cx);
        let Some(led) = self.mind.led.get(&id) else { return };
        let shard = led.life.shard();
        let before = self.follower(cx).position(shard);
        if reaches {
            drop(writes::follow(self.follower(cx), &cx.store, shard));
        }
        let (pause, delay) = (self.rng.between(300, 2_500), cx.writes.delay());
        let (flush, again) = (self.own(NodeEvent::Flush { led: id }), self.own(NodeEvent::Follow { led: id }));
        if self.follower(cx).position(shard) != before {
            cx.after(delay, flush);
        }
        cx.after(pause, again);
    }

    pub(super) fn flush(&mut self, id: u64, cx: &mut Cx) {
        let reaches = self.reaches_store(cx);
        let Some(led) = self.mind.led.get(&id) else { return };
        let (shard, handing_over) = (led.life.shard(), led.handing_over);
        if !reaches {
            if handing_over {
                let event = self.own(NodeEvent::Flush { led: id });
                cx.after(ASK_EVERY_MS, event);
            }
            return;
        }
        let followed = led.followed;
        if handing_over && followed {
            drop(writes::follow(self.follower(cx), &cx.store, shard));
        }
        drop(ready(self.follower(cx).flush()));
        if handing_over {
            self.mind.led.remove(&id);
            self.unfollow(shard);
            self.released(shard, cx);
        }
    }
}
