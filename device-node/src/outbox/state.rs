//! The durable state of one device: the fold of its records.
//!
//! The agent applies a record when it decides it, the outbox applies the same records again when it loads or compacts. Nothing
//! here depends on anything but the records and the limits.

use std::collections::VecDeque;

use flotilla_protocol::id::Epoch;
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{Attempt, ErrorClass, ErrorDomain, NotSent, Report, ReportKind, SendError};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::record::{Job, Record};

/// Bounds on what one device keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Results of finished attempts, for answering a repeated dispatch.
    pub finished_max: usize,
    /// Sent attempts whose status reports are outstanding.
    pub awaiting_max: usize,
    /// Digests of inbound messages.
    pub inbound_seen_max: usize,
}

impl Default for Limits {
    /// For a real gateway: more than 48 hours of a SIM that sends one message every three seconds.
    fn default() -> Self {
        Self { finished_max: 65_536, awaiting_max: 8_192, inbound_seen_max: 1_024 }
    }
}

impl Limits {
    /// For thousands of devices in one process.
    pub fn small() -> Self {
        Self { finished_max: 64, awaiting_max: 512, inbound_seen_max: 16 }
    }
}

/// An attempt without a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Open {
    pub job: Job,
    /// Counts arrivals, so that lists keep their order.
    pub arrival: u64,
    /// The decision to hand over is durable, or about to be.
    pub sending: bool,
}

/// The result of an attempt, without its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Sent { segments: u8 },
    NotSent(NotSent),
    Failed { class: ErrorClass, domain: ErrorDomain, code: u16, segments_sent: u8 },
    Unknown,
}

impl Outcome {
    /// The report that says it again.
    pub fn report(self, attempt: Attempt) -> ReportKind {
        match self {
            Self::Sent { segments } => ReportKind::Sent { attempt, segments },
            Self::NotSent(reason) => ReportKind::NotSent { attempt, reason },
            Self::Failed { class, domain, code, segments_sent } => ReportKind::Failed {
                attempt,
                error: SendError { class, domain, code, text: String::new() },
                segments_sent,
            },
            Self::Unknown => ReportKind::Unknown { attempt },
        }
    }
}

/// A sent attempt, some of whose segments have no status report yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaiting {
    pub attempt: Attempt,
    pub slot: u8,
    pub to: Msisdn,
    /// TP-MR by segment; empty when the radio knows its attempts itself.
    pub references: Vec<u8>,
    pub segments: u8,
    /// One bit for each segment without a report.
    pub pending: u32,
}

impl Awaiting {
    pub fn is_pending(&self, segment: u8) -> bool {
        1u32.checked_shl(u32::from(segment)).is_some_and(|bit| self.pending & bit != 0)
    }
}

/// The results of the newest finished attempts.
#[derive(Clone, Debug, Default)]
pub(super) struct Finished {
    order: VecDeque<Attempt>,
    outcomes: FxHashMap<Attempt, Outcome>,
}

impl Finished {
    fn get(&self, attempt: &Attempt) -> Option<Outcome> {
        self.outcomes.get(attempt).copied()
    }

    fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Attempt, Outcome)> + '_ {
        self.order.iter().filter_map(|attempt| Some((*attempt, self.get(attempt)?)))
    }

    fn push(&mut self, attempt: Attempt, outcome: Outcome, max: usize) {
        if self.outcomes.insert(attempt, outcome).is_none() {
            self.order.push_back(attempt);
        }
        while self.order.len() > max {
            if let Some(oldest) = self.order.pop_front() {
                self.outcomes.remove(&oldest);
            }
        }
    }
}

#[derive(Clone, Debug)]
pub struct State {
    limits: Limits,
    pub(super) epoch_seen: Epoch,
    pub(super) controllers: Vec<String>,
    /// The position that the next report gets.
    pub(super) next_position: u64,
    pub(super) arrivals: u64,
    pub(super) open: FxHashMap<Attempt, Open>,
    /// Unacknowledged, contiguous, the last one at `next_position - 1`.
    pub(super) reports: VecDeque<Report>,
    pub(super) finished: Finished,
    pub(super) awaiting: VecDeque<Awaiting>,
    pub(super) inbound_seen: VecDeque<u64>,
}

impl State {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            epoch_seen: Epoch(0),
            controllers: Vec::new(),
            next_position: 1,
            arrivals: 0,
            open: FxHashMap::default(),
            reports: VecDeque::new(),
            finished: Finished::default(),
            awaiting: VecDeque::new(),
            inbound_seen: VecDeque::new(),
        }
    }

    pub fn epoch_seen(&self) -> Epoch {
        self.epoch_seen
    }

    pub fn controllers(&self) -> &[String] {
        &self.controllers
    }

    pub fn next_position(&self) -> u64 {
        self.next_position
    }

    /// Every report before this position is acknowledged.
    pub fn first_position(&self) -> u64 {
        self.next_position - self.reports.len() as u64
    }

    pub fn report(&self, position: u64) -> Option<&Report> {
        self.reports.get(usize::try_from(position.checked_sub(self.first_position())?).ok()?)
    }

    pub fn reports_from(&self, position: u64) -> impl Iterator<Item = &Report> {
        let skip = position.saturating_sub(self.first_position());
        self.reports.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX))
    }

    pub fn reports_open(&self) -> usize {
        self.reports.len()
    }

    pub fn open(&self, attempt: &Attempt) -> Option<&Open> {
        self.open.get(attempt)
    }

    pub fn open_len(&self) -> usize {
        self.open.len()
    }

    /// In the order of arrival.
    pub fn open_attempts(&self) -> Vec<&Open> {
        let mut all: Vec<&Open> = self.open.values().collect();
        all.sort_unstable_by_key(|open| open.arrival);
        all
    }

    pub fn finished(&self, attempt: &Attempt) -> Option<Outcome> {
        self.finished.get(attempt)
    }

    pub fn finished_len(&self) -> usize {
        self.finished.len()
    }

    /// Oldest first.
    pub fn awaiting(&self) -> impl DoubleEndedIterator<Item = &Awaiting> {
        self.awaiting.iter()
    }

    pub fn awaiting_attempt(&self, attempt: &Attempt) -> Option<&Awaiting> {
        self.awaiting.iter().rev().find(|awaiting| awaiting.attempt == *attempt)
    }

    pub fn inbound_seen(&self, digest: u64) -> bool {
        self.inbound_seen.contains(&digest)
    }

    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Started { position } => self.next_position = *position,
            Record::Arrived(job) => self.arrived(job),
            Record::Sending(attempt) => {
                if let Some(open) = self.open.get_mut(attempt) {
                    open.sending = true;
                }
            }
            Record::Sent { attempt, at_ms, segments, references } => {
                self.await_reports(attempt, *segments, references);
                self.finish(*attempt, *at_ms, Outcome::Sent { segments: *segments }, None);
            }
            Record::NotSent { attempt, at_ms, reason } => {
                self.finish(*attempt, *at_ms, Outcome::NotSent(*reason), None)
            }
            Record::Failed { attempt, at_ms, error, segments_sent } => {
                let SendError { class, domain, code, .. } = *error;
                let outcome = Outcome::Failed { class, domain, code, segments_sent: *segments_sent };
                let kind =
                    ReportKind::Failed { attempt: *attempt, error: error.clone(), segments_sent: *segments_sent };
                self.finish(*attempt, *at_ms, outcome, Some(kind));
            }
            Record::Unknown { attempt, at_ms } => self.finish(*attempt, *at_ms, Outcome::Unknown, None),
            Record::Delivered { attempt, at_ms, segment } => {
                self.segment_done(attempt, *segment);
                self.push_report(*at_ms, ReportKind::Delivered { attempt: *attempt, segment: *segment });
            }
            Record::Undelivered { attempt, at_ms, segment, error } => {
                self.segment_done(attempt, *segment);
                let kind = ReportKind::Undelivered { attempt: *attempt, segment: *segment, error: error.clone() };
                self.push_report(*at_ms, kind);
            }
            Record::Inbound { at_ms, digest, message } => {
                push_bounded(&mut self.inbound_seen, *digest, self.limits.inbound_seen_max);
                self.push_report(*at_ms, ReportKind::Inbound(message.clone()));
            }
            Record::Again { at_ms, kind } => self.push_report(*at_ms, kind.clone()),
            Record::Acked { position } => {
                while self.reports.front().is_some_and(|report| report.position <= *position) {
                    self.reports.pop_front();
                }
            }
            Record::EpochSeen(epoch) => self.epoch_seen = self.epoch_seen.max(*epoch),
            Record::Controllers(controllers) => self.controllers.clone_from(controllers),
        }
    }

    pub(super) fn restore_finished(&mut self, finished: Vec<(Attempt, Outcome)>) {
        for (attempt, outcome) in finished {
            self.finished.push(attempt, outcome, self.limits.finished_max);
        }
    }

    fn arrived(&mut self, job: &Job) {
        self.arrivals += 1;
        self.open.insert(job.attempt, Open { job: job.clone(), arrival: self.arrivals, sending: false });
    }

    fn finish(&mut self, attempt: Attempt, at_ms: u64, outcome: Outcome, kind: Option<ReportKind>) {
        self.open.remove(&attempt);
        self.finished.push(attempt, outcome, self.limits.finished_max);
        self.push_report(at_ms, kind.unwrap_or_else(|| outcome.report(attempt)));
    }

    fn push_report(&mut self, at_ms: u64, kind: ReportKind) {
        self.reports.push_back(Report { position: self.next_position, at_ms, kind });
        self.next_position += 1;
    }

    fn await_reports(&mut self, attempt: &Attempt, segments: u8, references: &[u8]) {
        let Some(open) = self.open.get(attempt) else { return };
        if !open.job.report || segments == 0 {
            return;
        }
        let pending = u32::MAX.checked_shr(32 - u32::from(segments.min(32))).unwrap_or(u32::MAX);
        let awaiting = Awaiting {
            attempt: *attempt,
            slot: open.job.slot,
            to: open.job.to,
            references: references.to_vec(),
            segments,
            pending,
        };
        push_bounded(&mut self.awaiting, awaiting, self.limits.awaiting_max);
    }

    fn segment_done(&mut self, attempt: &Attempt, segment: u8) {
        let Some(at) = self.awaiting.iter().rposition(|awaiting| awaiting.attempt == *attempt) else { return };
        let awaiting = &mut self.awaiting[at];
        awaiting.pending &= !1u32.checked_shl(u32::from(segment)).unwrap_or(0);
        if awaiting.pending == 0 {
            self.awaiting.remove(at);
        }
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, max: usize) {
    queue.push_back(item);
    while queue.len() > max {
        queue.pop_front();
    }
}
