//! What a provider session decides: which messages go out together and when, what is reported to the shard, what is held.
//! Pure: no clock, no IO. A session's actor drives it, as a device drives its own machine.
//!
//! Invariants: an attempt is submitted at most once, ever; every attempt that arrived gets exactly one result; reports are kept
//! until they are acknowledged; what waits here longer than its lease is not sent. Of attempts that it does not know it says
//! nothing: a session before it may have submitted them, and only the shard knows that those are in doubt.

use std::collections::VecDeque;

use flotilla_protocol::id::Epoch;
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::sms::{EncodeOptions, Encoding, Shift, plan, simplified};
use flotilla_protocol::wire::{
    Attempt, Body, Dispatch, Down, ErrorClass, ErrorDomain, Held, InboundMessage, NotSent, Report, ReportKind,
    SendError,
};
use flotilla_providers::{Refusal, Submitted};
use rustc_hash::FxHashMap;

use crate::domain::Now;
use crate::domain::shard::WHOLE;
use crate::fleet::cut;

/// Results of attempts that are remembered, to answer the same again.
const FINISHED_MAX: usize = 4_096;
/// Unacknowledged reports beyond which callbacks are told to come again.
pub const REPORTS_MAX: usize = 20_000;
/// The longest pause that a maker may ask for.
const PAUSE_MS_MAX: u64 = 300_000;
const ERROR_BYTES_MAX: usize = 120;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Attempts that the shard gives at a time.
    pub window: u16,
    /// Messages in one request.
    pub batch_max: usize,
    /// Requests in a second; none for no limit.
    pub requests_per_s: Option<u16>,
}

/// A message on its way to the maker.
#[derive(Clone, PartialEq, Eq)]
pub struct Job {
    pub attempt: Attempt,
    /// Of the sender.
    pub slot: u8,
    pub to: Msisdn,
    pub text: Box<str>,
    pub unicode: bool,
    pub flash: bool,
    pub segments: u8,
    pub validity_s: u32,
    /// It must not be submitted after this (monotonic).
    pub deadline_ms: u64,
}

/// Number and text stay out.
impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

/// Messages of one sender that go out in one request. Its results come to [`Agent::submitted`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub number: u64,
    pub slot: u8,
    pub jobs: Vec<Job>,
}

/// What goes to the shard.
#[derive(Clone, Debug, PartialEq)]
pub enum ToShard {
    Reports(Vec<Report>),
    Held(Vec<Held>),
}

#[derive(Debug)]
pub struct Agent {
    config: Config,
    epoch: Epoch,
    /// Slots of the senders there are.
    slots: Vec<u8>,
    waiting: VecDeque<Job>,
    flying: FxHashMap<u64, Vec<(Attempt, u8)>>,
    last_batch: u64,
    finished: FxHashMap<Attempt, ReportKind>,
    finished_order: VecDeque<Attempt>,
    reports: VecDeque<Report>,
    /// Position of the next report to be made, and of the next one to be handed on.
    next_position: u64,
    cursor: u64,
    lists_owed: u32,
    pace: Pace,
    paused_until_ms: Option<u64>,
    accepts: bool,
}

impl Agent {
    /// Positions begin at the wall clock in microseconds: a later session's are higher, as long as there are fewer than a
    /// million reports a second.
    pub fn new(config: Config, epoch: Epoch, slots: Vec<u8>, now: Now) -> Self {
        let position = now.unix_ms.saturating_mul(1_000).max(1);
        Self {
            config,
            epoch,
            slots,
            waiting: VecDeque::new(),
            flying: FxHashMap::default(),
            last_batch: 0,
            finished: FxHashMap::default(),
            finished_order: VecDeque::new(),
            reports: VecDeque::new(),
            next_position: position,
            cursor: position,
            lists_owed: 1,
            pace: Pace::new(config.requests_per_s, now.mono_ms),
            paused_until_ms: None,
            accepts: true,
        }
    }

    pub fn config(&self) -> Config {
        self.config
    }

    /// The account was changed. What waits for a sender that is gone goes elsewhere.
    pub fn configure(&mut self, config: Config, slots: Vec<u8>, now: Now) {
        if config.requests_per_s != self.config.requests_per_s {
            self.pace = Pace::new(config.requests_per_s, now.mono_ms);
        }
        (self.config, self.slots) = (config, slots);
        let slots = self.slots.clone();
        self.turn_away(NotSent::NoSuchSim, now, |job| !slots.contains(&job.slot));
    }

    pub fn handle(&mut self, frame: Down, now: Now) {
        match frame {
            Down::Dispatch(dispatch) => self.dispatch(dispatch, now),
            Down::Go { attempts, sent_ms, send_within_ms } => {
                let deadline_ms = sent_ms + u64::from(send_within_ms);
                for job in self.waiting.iter_mut().filter(|job| attempts.contains(&job.attempt)) {
                    job.deadline_ms = deadline_ms;
                }
                for attempt in &attempts {
                    self.answer_again(attempt, now);
                }
            }
            Down::Cancel { attempts } => {
                self.turn_away(NotSent::Cancelled, now, |job| attempts.contains(&job.attempt));
            }
            Down::AckReports { position } => {
                while self.reports.front().is_some_and(|report| report.position <= position) {
                    self.reports.pop_front();
                }
            }
            Down::Resume => {
                self.cursor = self.first_position();
                self.lists_owed += 1;
            }
            // What is for devices only, or settled by the session's owner.
            Down::Welcome(_)
            | Down::Redirect { .. }
            | Down::Refused { .. }
            | Down::Settings(_)
            | Down::Sims { .. }
            | Down::Ussd { .. }
            | Down::Drain
            | Down::Pong { .. }
            | Down::Certificate { .. }
            | Down::RenewRefused { .. }
            | Down::Controllers { .. } => {}
        }
    }

    /// A new link to the shard under the same leadership: reports from the first unacknowledged one, then the list.
    pub fn link_up(&mut self) {
        self.cursor = self.first_position();
        self.lists_owed = 1;
    }

    fn dispatch(&mut self, dispatch: Dispatch, now: Now) {
        let attempt = dispatch.attempt;
        if self.answer_again(&attempt, now) || self.holds(&attempt) {
            return;
        }
        let deadline_ms = dispatch.sent_ms + u64::from(dispatch.send_within_ms);
        let refusal = match () {
            () if dispatch.epoch < self.epoch => Some(NotSent::StaleEpoch),
            () if !self.slots.contains(&dispatch.slot) => Some(NotSent::NoSuchSim),
            () if !self.accepts || self.paused_until_ms.is_some() => Some(NotSent::SimNotReady),
            () if self.waiting.len() >= 2 * usize::from(self.config.window) => Some(NotSent::OutboxFull),
            () if now.mono_ms >= deadline_ms => Some(NotSent::LeaseOver),
            () => None,
        };
        if let Some(reason) = refusal {
            return self.finish(attempt, ReportKind::NotSent { attempt, reason }, now);
        }
        match job_of(dispatch, deadline_ms) {
            Ok(job) => self.waiting.push_back(job),
            Err(error) => self.finish(attempt, ReportKind::Failed { attempt, error, segments_sent: 0 }, now),
        }
    }

    /// The next request, if its time has come.
    pub fn next_batch(&mut self, now: Now) -> Option<Batch> {
        self.expire(now);
        if self.paused_until_ms.is_some() || self.waiting.is_empty() || !self.pace.take(now.mono_ms) {
            return None;
        }
        let slot = self.waiting.front()?.slot;
        let mut jobs = Vec::new();
        let mut rest = VecDeque::with_capacity(self.waiting.len());
        for job in self.waiting.drain(..) {
            if job.slot == slot && jobs.len() < self.config.batch_max.max(1) {
                jobs.push(job);
            } else {
                rest.push_back(job);
            }
        }
        self.waiting = rest;
        self.last_batch += 1;
        self.flying.insert(self.last_batch, jobs.iter().map(|job| (job.attempt, job.segments)).collect());
        Some(Batch { number: self.last_batch, slot, jobs })
    }

    /// What became of a batch, one result for each message in order; fewer leave the rest in doubt. `left` segments of a
    /// refused message had left before.
    pub fn submitted(&mut self, batch: u64, results: &[Submitted], left: u8, now: Now) {
        let Some(flying) = self.flying.remove(&batch) else { return };
        let mut pause_ms = None;
        for (place, (attempt, segments)) in flying.into_iter().enumerate() {
            let kind = match results.get(place) {
                Some(Submitted::Accepted { .. }) => ReportKind::Sent { attempt, segments },
                Some(Submitted::Refused(refusal)) => {
                    pause_ms = pause_ms.max(refusal.retry_after_ms);
                    ReportKind::Failed { attempt, error: error_of(refusal), segments_sent: left }
                }
                Some(Submitted::Unclear(_)) | None => ReportKind::Unknown { attempt },
            };
            self.finish(attempt, kind, now);
        }
        if let Some(pause_ms) = pause_ms {
            self.pause(now.mono_ms + pause_ms.min(PAUSE_MS_MAX), now);
        }
    }

    /// The answer to a message came after its time, when it had been reported as unknown. Answers the position of its report.
    pub fn answered_late(&mut self, attempt: Attempt, segments: u8, result: &Submitted, now: Now) -> u64 {
        let kind = match result {
            Submitted::Accepted { .. } => ReportKind::Sent { attempt, segments },
            Submitted::Refused(refusal) => ReportKind::Failed { attempt, error: error_of(refusal), segments_sent: 0 },
            Submitted::Unclear(_) => return 0,
        };
        if let Some(known) = self.finished.get_mut(&attempt) {
            *known = kind.clone();
        }
        self.report(now.unix_ms, kind);
        self.next_position - 1
    }

    /// A batch that never left: its messages may go elsewhere.
    pub fn not_submitted(&mut self, batch: u64, reason: NotSent, now: Now) {
        for (attempt, _) in self.flying.remove(&batch).unwrap_or_default() {
            self.finish(attempt, ReportKind::NotSent { attempt, reason }, now);
        }
    }

    /// The maker wants nothing until then. What waits goes elsewhere.
    fn pause(&mut self, until_ms: u64, now: Now) {
        self.paused_until_ms = self.paused_until_ms.max(Some(until_ms));
        self.turn_away(NotSent::SimNotReady, now, |_| true);
    }

    /// Takes new work, or gives what waits back and takes none.
    pub fn set_accepts(&mut self, accepts: bool, now: Now) {
        self.accepts = accepts;
        if !accepts {
            self.turn_away(NotSent::SimNotReady, now, |_| true);
        }
    }

    /// There is no way to the maker now: what waits goes elsewhere.
    pub fn turn_away_waiting(&mut self, now: Now) {
        self.turn_away(NotSent::SimNotReady, now, |_| true);
    }

    pub fn is_paused(&self) -> bool {
        self.paused_until_ms.is_some()
    }

    /// News of an attempt, whichever session has submitted it. Answers the position of the last report it made.
    pub fn delivered(&mut self, attempt: Attempt, segments: u8, segment: Option<u8>, at_ms: u64) -> u64 {
        let range = segment.map_or(0..segments.max(1), |one| one..one.saturating_add(1));
        for segment in range {
            self.report(at_ms, ReportKind::Delivered { attempt, segment });
        }
        self.next_position - 1
    }

    pub fn undelivered(&mut self, attempt: Attempt, segment: Option<u8>, refusal: &Refusal, at_ms: u64) -> u64 {
        let error = error_of(refusal);
        self.report(at_ms, ReportKind::Undelivered { attempt, segment: segment.unwrap_or(WHOLE), error });
        self.next_position - 1
    }

    pub fn inbound(&mut self, message: InboundMessage, at_ms: u64) -> u64 {
        self.report(at_ms, ReportKind::Inbound(message));
        self.next_position - 1
    }

    /// Whether there is room for so many reports of what callbacks tell.
    pub fn has_room(&self, reports: usize) -> bool {
        self.reports.len() + reports <= REPORTS_MAX
    }

    /// Everything up to here is acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.first_position().saturating_sub(1)
    }

    /// What the shard has to hear, in order: reports first, then the list that it has asked for.
    pub fn to_shard(&mut self) -> Option<ToShard> {
        if self.cursor < self.next_position {
            let from = self.cursor.max(self.first_position());
            self.cursor = self.next_position;
            let reports: Vec<Report> = self.reports.iter().filter(|report| report.position >= from).cloned().collect();
            if !reports.is_empty() {
                return Some(ToShard::Reports(reports));
            }
        }
        if self.lists_owed == 0 {
            return None;
        }
        self.lists_owed -= 1;
        let waiting = self.waiting.iter().map(|job| Held { attempt: job.attempt, sending: false });
        let flying = self.flying.values().flatten().map(|(attempt, _)| Held { attempt: *attempt, sending: true });
        Some(ToShard::Held(waiting.chain(flying).collect()))
    }

    /// Ends leases and pauses that are over.
    pub fn expire(&mut self, now: Now) {
        if self.paused_until_ms.is_some_and(|until| until <= now.mono_ms) {
            self.paused_until_ms = None;
        }
        if self.waiting.iter().any(|job| job.deadline_ms <= now.mono_ms) {
            self.turn_away(NotSent::LeaseOver, now, |job| job.deadline_ms <= now.mono_ms);
        }
    }

    /// When to look again (monotonic), if nothing else happens.
    pub fn next_deadline(&self, now: Now) -> Option<u64> {
        let leases = self.waiting.iter().map(|job| job.deadline_ms).min();
        let turn = leases.map(|_| self.pace.next_ms(now.mono_ms));
        [leases, turn, self.paused_until_ms].into_iter().flatten().min()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn in_flight(&self) -> usize {
        self.flying.values().map(Vec::len).sum()
    }

    /// Numbers of the requests under way.
    pub fn batches(&self) -> impl Iterator<Item = u64> {
        self.flying.keys().copied()
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.flying.is_empty()
    }

    fn holds(&self, attempt: &Attempt) -> bool {
        let flying = || self.flying.values().flatten().any(|(known, _)| known == attempt);
        self.waiting.iter().any(|job| job.attempt == *attempt) || flying()
    }

    fn answer_again(&mut self, attempt: &Attempt, now: Now) -> bool {
        let Some(kind) = self.finished.get(attempt).cloned() else { return false };
        self.report(now.unix_ms, kind);
        true
    }

    fn turn_away(&mut self, reason: NotSent, now: Now, which: impl Fn(&Job) -> bool) {
        let (gone, kept): (Vec<Job>, _) = std::mem::take(&mut self.waiting).into_iter().partition(which);
        self.waiting = VecDeque::from(kept);
        for Job { attempt, .. } in gone {
            self.finish(attempt, ReportKind::NotSent { attempt, reason }, now);
        }
    }

    fn finish(&mut self, attempt: Attempt, kind: ReportKind, now: Now) {
        self.finished.insert(attempt, kind.clone());
        self.finished_order.push_back(attempt);
        if self.finished_order.len() > FINISHED_MAX
            && let Some(oldest) = self.finished_order.pop_front()
        {
            self.finished.remove(&oldest);
        }
        self.report(now.unix_ms, kind);
    }

    fn report(&mut self, at_ms: u64, kind: ReportKind) {
        self.reports.push_back(Report { position: self.next_position, at_ms, kind });
        self.next_position += 1;
    }

    fn first_position(&self) -> u64 {
        self.reports.front().map_or(self.next_position, |report| report.position)
    }
}

fn job_of(dispatch: Dispatch, deadline_ms: u64) -> Result<Job, SendError> {
    let Body::Text(text) = dispatch.body else {
        return Err(own_error("provider-no-data", "providers carry texts only"));
    };
    let plan = plan(&text, &EncodeOptions::from(dispatch.encoding))
        .map_err(|error| own_error("provider-text", &error.to_string()))?;
    Ok(Job {
        attempt: dispatch.attempt,
        slot: dispatch.slot,
        to: dispatch.to,
        text: if plan.smart { simplified(&text).into() } else { text.into() },
        // National tables are nothing that a provider could be told about.
        unicode: plan.encoding == Encoding::Ucs2 || plan.shift != Shift::NONE,
        flash: dispatch.flash,
        segments: plan.segments,
        validity_s: dispatch.validity_s,
        deadline_ms,
    })
}

fn own_error(code: &str, text: &str) -> SendError {
    error_of(&Refusal { class: ErrorClass::Route, code: code.into(), text: text.into(), retry_after_ms: None })
}

/// A provider's code stands before its text: see [`ErrorDomain::Provider`].
fn error_of(refusal: &Refusal) -> SendError {
    let code = refusal.code.replace(": ", ":");
    let text = cut(&format!("{code}: {}", refusal.text), ERROR_BYTES_MAX);
    SendError { class: refusal.class, domain: ErrorDomain::Provider, code: 0, text }
}

/// Requests by time: a bucket that holds a tenth of a second's worth.
#[derive(Debug)]
struct Pace {
    per_s: Option<u64>,
    /// Thousandths of a request.
    credit: u64,
    at_ms: u64,
}

impl Pace {
    fn new(per_s: Option<u16>, now_ms: u64) -> Self {
        let per_s = per_s.map(|rate| u64::from(rate.max(1)));
        let mut pace = Self { per_s, credit: 0, at_ms: now_ms };
        pace.credit = pace.credit_max();
        pace
    }

    fn credit_max(&self) -> u64 {
        (self.per_s.unwrap_or(0) * 100).max(1_000)
    }

    fn refill(&mut self, now_ms: u64) {
        let Some(per_s) = self.per_s else { return };
        let passed_ms = now_ms.saturating_sub(self.at_ms);
        self.credit = self.credit.saturating_add(passed_ms.saturating_mul(per_s)).min(self.credit_max());
        self.at_ms = self.at_ms.max(now_ms);
    }

    fn take(&mut self, now_ms: u64) -> bool {
        self.refill(now_ms);
        if self.per_s.is_none() {
            return true;
        }
        let free = self.credit >= 1_000;
        self.credit -= if free { 1_000 } else { 0 };
        free
    }

    fn next_ms(&self, now_ms: u64) -> u64 {
        let Some(per_s) = self.per_s else { return now_ms };
        let missing = 1_000u64.saturating_sub(self.credit);
        self.at_ms + missing.div_ceil(per_s)
    }
}

#[cfg(test)]
mod tests;
