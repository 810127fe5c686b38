//! Which event goes to which endpoint next, without IO.
//!
//! Each endpoint has a line, and one more for what is not in the journal; a tenant's callbacks have one for each of some groups
//! of hosts. Events of one subject (a message, a device) leave it in their order: the next one only when the former was
//! delivered, or given up. Different subjects go side by side. An event that is refused waits longer each time
//! (`BACK_OFF_MS`), for two days; an endpoint that refuses everything gets one event at a time to see whether it is back, at
//! pauses that grow the same way. So a slow or dead endpoint keeps nobody else waiting.
//!
//! A line holds a window of its events in memory; the rest stays in the store and is asked for in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use flotilla_protocol::id::WebhookId;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::domain::callback::CALLBACK_LINES;

/// Pauses after an event was refused, and between looks at an endpoint that refuses everything.
pub(super) const BACK_OFF_MS: [u64; 7] =
    [5_000, 30_000, 2 * 60_000, 10 * 60_000, 60 * 60_000, 3 * 60 * 60_000, 6 * 60 * 60_000];
/// An event that was not delivered by then is given up.
pub(super) const GIVE_UP_MS: u64 = 2 * 86_400_000;
/// Refusals in a row after which an endpoint is taken for dead.
const FAILURES_MAX: u32 = 5;
/// Events of one endpoint on their way at once.
pub(super) const PARALLEL_MAX: usize = 16;
/// And while there is little room for all: so endpoints that answer slowly do not fill it.
pub(super) const PARALLEL_PRESSED: usize = 2;
/// Events of one endpoint in memory; of each line of a tenant's callbacks.
pub(super) const WINDOW: usize = 2_000;
pub(super) const LANE_WINDOW: usize = 250;
/// Between two tries of what could not even be tried: the store did not say what to send, or where.
const LATER_MS: u64 = 2_000;
/// A pause that an endpoint asks for is believed up to this.
const RETRY_AFTER_MS_MAX: u64 = 3_600_000;

/// Place of an event in its endpoint's line: journal sequence and index in the batch; those that are not in the journal come
/// behind it by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) seq: u64,
    pub(super) index: u32,
}

/// Events that are not in the journal come in places of their own.
pub(super) const NOT_JOURNALED: u64 = 1 << 62;

/// An endpoint has two lines, since what is not in the journal comes in no order with what is. That of a tenant's callbacks has
/// one for each lane instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LineId {
    pub(super) webhook: WebhookId,
    pub(super) journaled: bool,
    /// By the address's host (see `domain::callback`); 0 for all others.
    pub(super) lane: u8,
}

impl LineId {
    /// No line comes before it.
    const FIRST: Self = Self::first_of(WebhookId::from_bytes([0; 16]));

    const fn first_of(webhook: WebhookId) -> Self {
        Self { webhook, journaled: false, lane: 0 }
    }

    const fn last_of(webhook: WebhookId) -> Self {
        Self { webhook, journaled: true, lane: u8::MAX }
    }

    pub(super) fn all(webhook: WebhookId, callbacks: bool) -> impl Iterator<Item = Self> {
        let lanes = if callbacks { CALLBACK_LINES } else { 0 };
        let loose = (!callbacks).then_some(Self::first_of(webhook));
        (0..=lanes).map(move |lane| Self { webhook, journaled: true, lane }).chain(loose)
    }

    pub(super) fn of(webhook: WebhookId, parcel: &Parcel) -> Self {
        Self { webhook, journaled: parcel.place.seq < NOT_JOURNALED, lane: parcel.lane }
    }

    /// Events of it in memory.
    pub(super) fn window(self) -> usize {
        if self.lane == 0 { WINDOW } else { LANE_WINDOW }
    }

    /// The places of the line begin behind it, and end before the other line's.
    pub(super) fn begin(self) -> Place {
        Place { seq: if self.journaled { 0 } else { NOT_JOURNALED }, index: 0 }
    }

    pub(super) fn end(self) -> Place {
        Place { seq: if self.journaled { NOT_JOURNALED } else { i64::MAX as u64 }, index: 0 }
    }
}

/// What an event is about: a message, a device...
pub(super) type Subject = [u8; 16];

/// One event for one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parcel {
    pub(super) place: Place,
    /// That of its line.
    pub(super) lane: u8,
    pub(super) subject: Subject,
    /// `message.sent`...
    pub(super) kind: Box<str>,
    /// When it happened (Unix ms).
    pub(super) at_ms: u64,
    /// From when its two days count: the same, or when somebody asked to send it again.
    pub(super) since_ms: u64,
    /// JSON.
    pub(super) data: bytes::Bytes,
    pub(super) attempts: u16,
    /// Not before this time (Unix ms).
    pub(super) next_ms: u64,
}

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tried {
    Delivered,
    /// No answer, or not a 2xx.
    Refused {
        retry_after_ms: Option<u64>,
    },
    /// It was not tried, for a reason of ours.
    Not,
}

/// What becomes of an event after a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Done,
    Again { attempts: u16, next_ms: u64 },
    GivenUp,
}

#[derive(Debug, Default)]
pub(super) struct Courier {
    lines: BTreeMap<LineId, Line>,
    /// The line that was served last when there was no room for all: the next ones come first.
    served: Option<LineId>,
}

#[derive(Debug)]
struct Line {
    rate_per_s: u32,
    parcels: BTreeMap<Place, Parcel>,
    /// Of each subject, in order; the first one may go.
    subjects: FxHashMap<Subject, VecDeque<Place>>,
    /// The first ones that are not on their way, by time.
    due: BTreeSet<(u64, Place)>,
    on_their_way: FxHashSet<Place>,
    /// Refusals since the last delivery.
    failures: u32,
    paused_until_ms: u64,
    /// The rate allows the next one then.
    free_ms: u64,
    /// There is more in the store, behind this place.
    stored_after: Option<Place>,
    loading: bool,
    /// Something went to the store only while it was being read.
    missed: bool,
}

impl Line {
    fn new(rate_per_s: u32) -> Self {
        Self {
            rate_per_s,
            parcels: BTreeMap::new(),
            subjects: FxHashMap::default(),
            due: BTreeSet::new(),
            on_their_way: FxHashSet::default(),
            failures: 0,
            paused_until_ms: 0,
            free_ms: 0,
            stored_after: None,
            loading: false,
            missed: false,
        }
    }

    fn add(&mut self, parcel: Parcel) {
        let (place, subject, next_ms) = (parcel.place, parcel.subject, parcel.next_ms);
        if self.parcels.insert(place, parcel).is_some() {
            return;
        }
        let queue = self.subjects.entry(subject).or_default();
        queue.push_back(place);
        if queue.len() == 1 {
            self.due.insert((next_ms, place));
        }
    }

    fn remove(&mut self, place: Place) {
        let Some(parcel) = self.parcels.remove(&place) else { return };
        let Some(queue) = self.subjects.get_mut(&parcel.subject) else { return };
        queue.pop_front();
        match queue.front() {
            Some(next) => {
                if let Some(next) = self.parcels.get(next) {
                    self.due.insert((next.next_ms, next.place));
                }
            }
            None => {
                self.subjects.remove(&parcel.subject);
            }
        }
    }

    /// Whether as many are on their way as may be.
    fn is_full(&self, parallel: usize) -> bool {
        self.on_their_way.len() >= if self.failures >= FAILURES_MAX { 1 } else { parallel }
    }

    fn take(&mut self, now_ms: u64, parallel: usize) -> Option<Parcel> {
        if self.is_full(parallel) || now_ms < self.paused_until_ms.max(self.free_ms) {
            return None;
        }
        let (_, place) = self.due.first().copied().filter(|(at, _)| *at <= now_ms)?;
        self.due.pop_first();
        self.on_their_way.insert(place);
        let pause = 1_000 / u64::from(self.rate_per_s.max(1));
        // What the rate left unused is not saved up beyond a second.
        self.free_ms = self.free_ms.max(now_ms.saturating_sub(1_000)) + pause;
        self.parcels.get(&place).cloned()
    }

    fn deadline(&self, parallel: usize) -> Option<u64> {
        if self.is_full(parallel) {
            return None;
        }
        self.due.first().map(|(at, _)| (*at).max(self.paused_until_ms).max(self.free_ms))
    }
}

impl Courier {
    /// An endpoint that takes events. What is in the store for it is asked for.
    pub(super) fn open(&mut self, line: LineId, rate_per_s: u32) {
        let fresh = || Line { stored_after: Some(line.begin()), ..Line::new(rate_per_s) };
        self.lines.entry(line).or_insert_with(fresh).rate_per_s = rate_per_s;
    }

    /// Nothing goes to an endpoint any more; what is on its way comes back to nobody.
    pub(super) fn close(&mut self, webhook: WebhookId) {
        self.lines.retain(|line, _| line.webhook != webhook);
    }

    /// New events, which are in the store: in the order of their places.
    pub(super) fn append(&mut self, line: LineId, parcels: Vec<Parcel>) {
        let window = line.window();
        let Some(line) = self.lines.get_mut(&line) else { return };
        for parcel in parcels {
            if line.stored_after.is_some() {
                line.missed = true;
            } else if line.parcels.len() >= window {
                line.stored_after = line.parcels.last_key_value().map(|(place, _)| *place);
            } else {
                line.add(parcel);
            }
        }
    }

    /// What to read from the store: for which endpoints, behind which place. Each once until [`Courier::loaded`].
    pub(super) fn wants(&mut self) -> Vec<(LineId, Place)> {
        let short = |id: &LineId, line: &Line| {
            line.stored_after.is_some() && !line.loading && line.parcels.len() <= id.window() / 2
        };
        let lines = self.lines.iter_mut().filter(|(id, line)| short(id, line));
        let wants = lines.filter_map(|(id, line)| {
            line.loading = true;
            line.missed = false;
            Some((*id, line.stored_after?))
        });
        wants.collect()
    }

    /// The next events of the store in order; `more`: there are others behind them.
    pub(super) fn loaded(&mut self, line: LineId, parcels: Vec<Parcel>, more: bool) {
        let Some(line) = self.lines.get_mut(&line).filter(|line| line.loading) else { return };
        line.loading = false;
        let last = parcels.last().map(|parcel| parcel.place).or(line.stored_after);
        line.stored_after = last.filter(|_| more || line.missed);
        parcels.into_iter().for_each(|parcel| line.add(parcel));
    }

    /// The store could not be read: it is asked again.
    pub(super) fn not_loaded(&mut self, line: LineId) {
        if let Some(line) = self.lines.get_mut(&line) {
            line.loading = false;
        }
    }

    /// Starts an endpoint's lines again from the store: somebody has changed what is there.
    pub(super) fn reload(&mut self, webhook: WebhookId) {
        for (id, line) in self.lines.range_mut(LineId::first_of(webhook)..=LineId::last_of(webhook)) {
            *line = Line { stored_after: Some(id.begin()), ..Line::new(line.rate_per_s) };
        }
    }

    /// What may go now: `most` events, and no more of a line than make `parallel` on their way. Each event once, until
    /// [`Courier::tried`]; lines take turns when there are more.
    pub(super) fn take(&mut self, now_ms: u64, most: usize, parallel: usize) -> Vec<(LineId, Parcel)> {
        let mut taken = Vec::new();
        let after = self.served.map_or(Bound::Unbounded, Bound::Excluded);
        let until = self.served.map_or(Bound::Excluded(LineId::FIRST), Bound::Included);
        for lines in [(after, Bound::Unbounded), (Bound::Unbounded, until)] {
            for (id, line) in self.lines.range_mut(lines) {
                let room = most - taken.len();
                taken.extend(std::iter::from_fn(|| line.take(now_ms, parallel)).take(room).map(|parcel| (*id, parcel)));
                if taken.len() == most {
                    self.served = Some(*id);
                    return taken;
                }
            }
        }
        taken
    }

    /// How a try of an event ended; `chance` is a number of 0..1 for the jitter. `None` for an event that is not on its way.
    pub(super) fn tried(
        &mut self,
        line: LineId,
        place: Place,
        tried: &Tried,
        now_ms: u64,
        chance: f64,
    ) -> Option<Verdict> {
        let line = self.lines.get_mut(&line)?;
        if !line.on_their_way.remove(&place) {
            return None;
        }
        let retry_after_ms = match tried {
            Tried::Delivered => {
                line.failures = 0;
                line.paused_until_ms = 0;
                line.remove(place);
                return Some(Verdict::Done);
            }
            Tried::Refused { retry_after_ms } => retry_after_ms.map(|ms| ms.min(RETRY_AFTER_MS_MAX)),
            Tried::Not => {
                let parcel = line.parcels.get_mut(&place)?;
                parcel.next_ms = now_ms + LATER_MS;
                line.due.insert((parcel.next_ms, place));
                return None;
            }
        };
        line.failures = line.failures.saturating_add(1);
        if line.failures >= FAILURES_MAX {
            let pause = back_off(line.failures - FAILURES_MAX, chance);
            line.paused_until_ms = now_ms + pause.max(retry_after_ms.unwrap_or(0));
        }
        let parcel = line.parcels.get_mut(&place)?;
        if now_ms.saturating_sub(parcel.since_ms) >= GIVE_UP_MS {
            line.remove(place);
            return Some(Verdict::GivenUp);
        }
        parcel.attempts = parcel.attempts.saturating_add(1);
        let pause = back_off(u32::from(parcel.attempts) - 1, chance).max(retry_after_ms.unwrap_or(0));
        parcel.next_ms = now_ms + pause;
        let verdict = Verdict::Again { attempts: parcel.attempts, next_ms: parcel.next_ms };
        line.due.insert((parcel.next_ms, place));
        Some(verdict)
    }

    /// When to take so many in parallel again, if only time has to pass (Unix ms).
    pub(super) fn next_deadline(&self, parallel: usize) -> Option<u64> {
        self.lines.values().filter_map(|line| line.deadline(parallel)).min()
    }
}

/// The pause after so many tries, a tenth more or less.
fn back_off(tries: u32, chance: f64) -> u64 {
    let pause = BACK_OFF_MS[(tries as usize).min(BACK_OFF_MS.len() - 1)];
    (pause as f64 * (0.9 + 0.2 * chance.clamp(0.0, 1.0))) as u64
}

#[cfg(test)]
mod tests;
