//! What goes up: durable reports in their order, once after each connect the list of what is held, and the rest.

use std::collections::VecDeque;

use flotilla_protocol::address::Address;
use flotilla_protocol::wire::{Attempt, Held, ReportKind, Up};

use super::{Machine, Pending};
use crate::outbox::{Awaiting, Record, State};
use crate::radio::{Delivery, ReportKey};

/// Keeps a list frame below 16 KiB.
pub(super) const HELD_PER_FRAME: usize = 512;
/// Frames that are not reports and wait for the link; what comes beyond is dropped, since nothing depends on it.
const OTHERS_MAX: usize = 256;
/// A status report may name its recipient in national form; fewer digits than this in common are no match.
const COMMON_DIGITS_MIN: usize = 6;

/// Results to wait for before an unknown status report is dropped: more than any radio works on at once.
const EARLY_TRIES: u8 = 8;
const EARLY_MAX: usize = 64;

/// A status report that came while its slot was still sending: the first segment's often overtakes the last one's
/// acceptance.
#[derive(Debug)]
pub(super) struct Early {
    slot: u8,
    key: ReportKey,
    delivery: Delivery,
    token: u64,
    tries: u8,
}

/// What one link has sent.
#[derive(Debug)]
pub(super) struct Uplink {
    /// The next report to send.
    cursor: u64,
    /// The list waits until every report below this position is sent: those of results from before the link.
    list_at: u64,
    /// What is still to be listed: `None` before the list is made.
    holding: Option<VecDeque<Held>>,
    /// Each welcome and each resume is answered with a list of its own, as the other side counts them.
    lists_owed: u32,
    others: VecDeque<Up>,
}

impl Uplink {
    pub(super) fn new(state: &State) -> Self {
        let (cursor, list_at) = (state.first_position(), state.next_position());
        Self { cursor, list_at, holding: None, lists_owed: 1, others: VecDeque::new() }
    }

    /// Everything from the start, but for what is queued.
    pub(super) fn restart(&mut self, state: &State) {
        let others = std::mem::take(&mut self.others);
        *self = Self { others, lists_owed: self.lists_owed + 1, ..Self::new(state) };
    }

    pub(super) fn sent_position(&self) -> u64 {
        self.cursor.saturating_sub(1)
    }

    pub(super) fn queue(&mut self, frame: Up) {
        if self.others.len() < OTHERS_MAX {
            self.others.push_back(frame);
        }
    }
}

impl Machine {
    /// The next frame for the link, if there is one: reports first, then what is held, then the rest.
    pub fn poll_frame(&mut self) -> Option<Up> {
        let durable = self.durable_position;
        let link = self.link.as_mut()?;
        if link.cursor < durable {
            // Acknowledged meanwhile by an earlier link's last frame.
            link.cursor = link.cursor.max(self.state.first_position());
            if let Some(report) = self.state.report(link.cursor) {
                link.cursor += 1;
                return Some(Up::Report(report.clone()));
            }
        }
        if link.lists_owed > 0 {
            return (link.cursor >= link.list_at).then(|| self.next_holding());
        }
        link.others.pop_front()
    }

    pub(super) fn status_report(&mut self, slot: u8, key: ReportKey, delivery: Delivery, token: u64) {
        self.match_report(Early { slot, key, delivery, token, tries: EARLY_TRIES });
    }

    /// After a result: reports that came too early may have found their segment.
    pub(super) fn retry_early(&mut self, slot: u8) {
        if self.early.is_empty() {
            return;
        }
        let (retry, keep) = std::mem::take(&mut self.early).into_iter().partition(|early| early.slot == slot);
        self.early = keep;
        let retry: Vec<Early> = retry;
        for early in retry {
            self.match_report(early);
        }
    }

    fn match_report(&mut self, early: Early) {
        let at_ms = self.now.unix_ms;
        let Early { slot, key, delivery, token, tries } = early;
        let sending = self.slots.iter().any(|known| known.sim.slot == slot && known.busy > 0);
        match find_segment(&self.state, slot, &key) {
            Some((attempt, segment)) => self.record(match delivery {
                Delivery::Delivered => Record::Delivered { attempt, at_ms, segment },
                Delivery::Undelivered(error) => Record::Undelivered { attempt, at_ms, segment, error },
            }),
            None if sending && tries > 0 && self.early.len() < EARLY_MAX => {
                return self.early.push(Early { slot, key, delivery, token, tries: tries - 1 });
            }
            None => tracing::debug!(slot, "status report without a waiting segment"),
        }
        self.staged.held_back.push(Pending::Stored { slot, token });
    }

    /// A result of this link that is not durable yet counts as held: its report
    /// follows, and an attempt that is in neither would be taken for one that never arrived.
    fn next_holding(&mut self) -> Up {
        let Self { link, state, .. } = self;
        let Some(link) = link.as_mut() else { return Up::Holding { held: Vec::new(), last: true } };
        let cursor = link.cursor;
        let rest = link.holding.get_or_insert_with(|| {
            let results = state.reports_from(cursor).filter_map(|report| result_of(&report.kind));
            let open =
                state.open_attempts().into_iter().map(|open| Held { attempt: open.job.attempt, sending: open.sending });
            open.chain(results.map(|attempt| Held { attempt, sending: true })).collect()
        });
        let held: Vec<Held> = rest.drain(..rest.len().min(HELD_PER_FRAME)).collect();
        let last = rest.is_empty();
        if last {
            link.lists_owed -= 1;
            link.holding = None;
        }
        Up::Holding { held, last }
    }
}

/// The attempt whose one result this is.
pub(super) fn result_of(kind: &ReportKind) -> Option<Attempt> {
    match kind {
        ReportKind::Sent { attempt, .. }
        | ReportKind::NotSent { attempt, .. }
        | ReportKind::Failed { attempt, .. }
        | ReportKind::Unknown { attempt } => Some(*attempt),
        ReportKind::Delivered { .. } | ReportKind::Undelivered { .. } | ReportKind::Inbound(_) => None,
    }
}

/// The segment that a status report is about, if one is waiting. References are reused after 256 messages: the newest wins.
pub(super) fn find_segment(state: &State, slot: u8, key: &ReportKey) -> Option<(Attempt, u8)> {
    match key {
        ReportKey::Segment { attempt, segment } => {
            state.awaiting_attempt(attempt).filter(|awaiting| awaiting.is_pending(*segment))?;
            Some((*attempt, *segment))
        }
        ReportKey::Reference { to, reference } => {
            let candidates =
                || state.awaiting().rev().filter(|awaiting| awaiting.slot == slot && is_recipient(awaiting, to));
            candidates().find_map(|awaiting| Some((awaiting.attempt, pending_segment(awaiting, *reference)?)))
        }
    }
}

fn pending_segment(awaiting: &Awaiting, reference: u8) -> Option<u8> {
    let mut segments = awaiting.references.iter().zip(0u8..);
    segments.find(|(known, segment)| **known == reference && awaiting.is_pending(*segment)).map(|(_, segment)| segment)
}

fn is_recipient(awaiting: &Awaiting, address: &Address) -> bool {
    match address {
        Address::International(number) => *number == awaiting.to,
        Address::Short(text) => {
            let digits: String = text.chars().filter(char::is_ascii_digit).collect();
            let national = digits.trim_start_matches('0');
            national.len() >= COMMON_DIGITS_MIN && awaiting.to.as_u64().to_string().ends_with(national)
        }
        Address::Alphanumeric(_) => false,
    }
}
