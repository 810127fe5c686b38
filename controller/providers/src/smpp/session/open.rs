//! A message whose submits are under way.

use rusmpp::pdus::SubmitSm;

use super::RETRIES_MAX;
use crate::maker::{Refusal, Submitted};
use crate::smpp::outcome::SubmitOutcome;

/// What became of one submit.
#[derive(Debug)]
pub(super) enum Part {
    /// In the queue.
    Waiting,
    InFlight,
    Accepted(Option<Box<str>>),
    Refused(Refusal),
    /// Another part was refused before this one went out.
    Dropped,
    Unclear(&'static str),
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) reference: Box<str>,
    submits: Vec<SubmitSm>,
    parts: Vec<Part>,
    retries: u8,
    /// See [`super::Job::deadline_ms`].
    pub(super) deadline_ms: u64,
}

impl Open {
    pub(super) fn new(reference: Box<str>, submits: Vec<SubmitSm>, deadline_ms: u64) -> Self {
        let parts = submits.iter().map(|_| Part::Waiting).collect();
        Self { reference, submits, parts, retries: 0, deadline_ms }
    }

    /// The submit to write now, if it is still wanted.
    pub(super) fn take_off(&mut self, index: usize) -> Option<SubmitSm> {
        let part = self.parts.get_mut(index).filter(|part| matches!(part, Part::Waiting))?;
        *part = Part::InFlight;
        self.submits.get(index).cloned()
    }

    /// Whether a throttled submit may go again; it counts as waiting then.
    pub(super) fn may_retry(&mut self, index: usize) -> bool {
        let given_up = self.parts.iter().any(|part| matches!(part, Part::Refused(_) | Part::Dropped));
        if self.parts.len() < 2 || given_up || self.retries >= RETRIES_MAX {
            return false;
        }
        self.retries += 1;
        if let Some(part) = self.parts.get_mut(index) {
            *part = Part::Waiting;
        }
        true
    }

    pub(super) fn settle(&mut self, index: usize, part: Part) {
        if let Some(place) = self.parts.get_mut(index) {
            *place = part;
        }
    }

    pub(super) fn drop_waiting(&mut self) {
        for part in self.parts.iter_mut().filter(|part| matches!(part, Part::Waiting)) {
            *part = Part::Dropped;
        }
    }

    /// What waits is refused.
    pub(super) fn refuse(&mut self, refusal: Refusal) {
        if let Some(part) = self.parts.iter_mut().find(|part| matches!(part, Part::Waiting)) {
            *part = Part::Refused(refusal);
        }
        self.drop_waiting();
    }

    pub(super) fn is_settled(&self) -> bool {
        !self.parts.iter().any(|part| matches!(part, Part::Waiting | Part::InFlight))
    }

    /// Unclear when any part is: the message may have been taken. Refused when a part was and none is unclear.
    pub(super) fn outcome(self) -> SubmitOutcome {
        let unclear = self.parts.iter().find_map(|part| match part {
            Part::Unclear(why) => Some(Submitted::Unclear((*why).into())),
            _ => None,
        });
        let refusal = self.parts.iter().find_map(|part| match part {
            Part::Refused(refusal) => Some(Submitted::Refused(refusal.clone())),
            _ => None,
        });
        let ids: Vec<Option<Box<str>>> =
            self.parts.iter().map(|part| if let Part::Accepted(id) = part { id.clone() } else { None }).collect();
        let accepted = self.parts.iter().filter(|part| matches!(part, Part::Accepted(_))).count();
        let id = ids.first().cloned().flatten();
        SubmitOutcome {
            submitted: unclear.or(refusal).unwrap_or(Submitted::Accepted { id, price: None }),
            ids,
            segments_accepted: accepted as u8,
            whole: false,
        }
    }
}
