//! The named invariants, each over the three histories: promises, hand-overs to radios, and the installation's own word.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use crate::client::Listed;
use crate::promises::Promises;
use crate::radio_log::{HandOver, Received, Refused};

const FINAL_STATES: [&str; 4] = ["delivered", "failed", "expired", "cancelled"];

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// Answered with 202, and unknown afterwards.
    Lost { message: String },
    /// Still open after every deadline.
    NeverEnded { message: String, state: String },
    /// The same attempt was handed to a radio again.
    AttemptSentTwice { message: String, attempt: u16, times: usize },
    /// `duplicates: never`, and more than one attempt reached a radio.
    MessageSentTwice { message: String, attempts: Vec<u16> },
    /// Delivered, as the installation says, but no radio ever had it.
    DeliveredFromNowhere { message: String },
    /// One id for two requests.
    IdPromisedTwice { message: String },
    /// One request's messages were stored more than once.
    Unpromised { message: String },
    /// Stored by a device, and not in the listing.
    InboundLost { device: String, from: String },
    /// Received once, and listed more often.
    InboundTwice { device: String, from: String, times: usize },
    /// A client had no answer, or a wrong one, after all its repeats.
    NotAnswered { detail: String },
    /// A number or text that was refused for good went out again.
    PermanentRetried { message: String, attempts: Vec<u16> },
    /// More segments in a minute than its limit.
    OverBudget { route: String, from_ms: u64, segments: u32, limit: u32 },
    /// It ended long after its validity.
    EndedLate { message: String, state: String },
    /// A report that its provider has not signed was taken.
    ForgedReportTaken { times: u64 },
    /// The aggregates and a count over the store differ.
    Miscounted { counter: String, aggregates: u64, store: u64 },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Nothing acknowledged is lost, every message ends, and repeats of a request make no second message.
pub fn promises_are_kept(promises: &Promises, listed: &[Listed]) -> Vec<Violation> {
    let states: HashMap<&str, &str> = listed.iter().map(|m| (m.id.as_str(), m.state.as_str())).collect();
    let promised: HashSet<&str> = promises.ids().collect();
    let mut violations: Vec<Violation> =
        promises.doubled.iter().map(|id| Violation::IdPromisedTwice { message: id.clone() }).collect();
    for id in &promised {
        if !states.contains_key(id) {
            violations.push(Violation::Lost { message: (*id).to_owned() });
        }
    }
    for (id, state) in states {
        if !FINAL_STATES.contains(&state) {
            violations.push(Violation::NeverEnded { message: id.to_owned(), state: state.to_owned() });
        }
        if !promised.contains(id) {
            violations.push(Violation::Unpromised { message: id.to_owned() });
        }
    }
    violations
}

/// No attempt reaches a radio twice, and under `duplicates: never` no message does.
pub fn nothing_is_sent_twice(hand_overs: &[HandOver]) -> Vec<Violation> {
    let mut by_message: BTreeMap<&str, BTreeMap<u16, Vec<&HandOver>>> = BTreeMap::new();
    for hand_over in hand_overs {
        by_message.entry(&hand_over.message).or_default().entry(hand_over.attempt).or_default().push(hand_over);
    }
    let mut violations = Vec::new();
    for (message, attempts) in by_message {
        let message = || message.to_owned();
        for (attempt, times) in attempts.iter().filter(|(_, times)| times.len() > 1) {
            violations.push(Violation::AttemptSentTwice { message: message(), attempt: *attempt, times: times.len() });
        }
        let on_air = attempts.iter().filter(|(_, times)| times.iter().any(|h| h.may_arrive()));
        let on_air: Vec<u16> = on_air.map(|(attempt, _)| *attempt).collect();
        if on_air.len() > 1 {
            violations.push(Violation::MessageSentTwice { message: message(), attempts: on_air });
        }
    }
    violations
}

/// What was refused for good is not tried again, anywhere.
pub fn nothing_permanent_is_retried(hand_overs: &[HandOver]) -> Vec<Violation> {
    let mut refused: BTreeMap<&str, u16> = BTreeMap::new();
    for one in hand_overs.iter().filter(|one| one.refused == Some(Refused::Permanent)) {
        let first = refused.entry(&one.message).or_insert(one.attempt);
        *first = one.attempt.min(*first);
    }
    let mut retried: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    for one in hand_overs {
        if refused.get(&*one.message).is_some_and(|first| one.attempt > *first) {
            retried.entry(&one.message).or_default().push(one.attempt);
        }
    }
    retried
        .into_iter()
        .map(|(message, attempts)| Violation::PermanentRetried { message: message.to_owned(), attempts })
        .collect()
}

/// In no 60 seconds more segments went out on a route than its limit. What was refused did not go out.
pub fn budgets_are_kept(hand_overs: &[HandOver], per_minute: &BTreeMap<(String, u8), u32>) -> Vec<Violation> {
    const WINDOW_MS: u64 = 60_000;
    let mut by_route: BTreeMap<(&str, u8), Vec<(u64, u32)>> = BTreeMap::new();
    for one in hand_overs.iter().filter(|one| one.refused.is_none()) {
        by_route.entry((&one.device, one.slot)).or_default().push((one.at_ms, u32::from(one.segments)));
    }
    let mut violations = Vec::new();
    for ((device, slot), mut sent) in by_route {
        let Some(limit) = per_minute.get(&(device.to_owned(), slot)).copied() else { continue };
        sent.sort_unstable();
        let (mut first, mut segments) = (0, 0);
        for last in 0..sent.len() {
            segments += sent[last].1;
            while sent[last].0 - sent[first].0 >= WINDOW_MS {
                segments -= sent[first].1;
                first += 1;
            }
            if segments > limit {
                let (route, from_ms) = (format!("{device}:{slot}"), sent[first].0);
                violations.push(Violation::OverBudget { route, from_ms, segments, limit });
                break;
            }
        }
    }
    violations
}

/// Whatever is delivered was in a radio's hands.
pub fn deliveries_are_real(listed: &[Listed], hand_overs: &[HandOver]) -> Vec<Violation> {
    let sent: HashSet<&str> = hand_overs.iter().filter(|h| h.refused.is_none()).map(|h| h.message.as_str()).collect();
    listed
        .iter()
        .filter(|m| m.state == "delivered" && !sent.contains(m.id.as_str()))
        .map(|m| Violation::DeliveredFromNowhere { message: m.id.clone() })
        .collect()
}

/// What devices have received and stored is listed, once. One that a device did not finish storing may be listed or not. A
/// fleet that is started again may receive the same once more, which its devices know, so twice stored is not twice listed.
pub fn inbound_arrives_once(received: &[Received], listed: &[Received]) -> Vec<Violation> {
    let mut times: BTreeMap<&Received, (usize, usize)> = BTreeMap::new();
    received.iter().for_each(|message| times.entry(message).or_default().0 += 1);
    listed.iter().for_each(|message| times.entry(message).or_default().1 += 1);
    let judge = |(message, (stored, shown)): (&Received, (usize, usize))| {
        let Received { device, from } = message.clone();
        if shown == 0 {
            Some(Violation::InboundLost { device, from })
        } else if shown > stored.max(1) {
            Some(Violation::InboundTwice { device, from, times: shown })
        } else {
            None
        }
    };
    times.into_iter().filter_map(judge).collect()
}

/// The aggregates equal a count over the store.
pub fn aggregates_are_exact(totals: &serde_json::Value, listed: &[Listed]) -> Vec<Violation> {
    let counted = |name: &str| -> u64 {
        totals["rows"].as_array().map_or(0, |rows| rows.iter().filter_map(|row| row[name].as_u64()).sum())
    };
    let stored = |state: &str| listed.iter().filter(|m| m.state == state).count() as u64;
    let mut pairs = vec![("accepted", counted("accepted"), listed.len() as u64)];
    pairs.extend(FINAL_STATES.map(|state| (state, counted(state), stored(state))));
    pairs
        .into_iter()
        .filter(|(_, aggregates, store)| aggregates != store)
        .map(|(counter, aggregates, store)| Violation::Miscounted { counter: counter.into(), aggregates, store })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: &str, state: &str) -> Listed {
        Listed { id: id.into(), state: state.into() }
    }

    fn handed(message: &str, attempt: u16) -> HandOver {
        HandOver {
            at_ms: 0,
            device: "d".into(),
            slot: 0,
            message: message.into(),
            attempt,
            segments: 1,
            refused: None,
            gave_up: false,
        }
    }

    #[test]
    fn each_broken_promise_is_seen() {
        let mut promises = Promises::default();
        promises.add("r1", &["a".into(), "b".into()]);
        promises.add("r2", &["b".into(), "c".into()]);
        let seen =
            promises_are_kept(&promises, &[listed("a", "queued"), listed("b", "failed"), listed("x", "delivered")]);
        assert!(seen.contains(&Violation::IdPromisedTwice { message: "b".into() }));
        assert!(seen.contains(&Violation::Lost { message: "c".into() }));
        assert!(seen.contains(&Violation::NeverEnded { message: "a".into(), state: "queued".into() }));
        assert!(seen.contains(&Violation::Unpromised { message: "x".into() }));
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn repeats_on_the_air_are_seen() {
        let refused = HandOver { refused: Some(Refused::Route), ..handed("c", 2) };
        let all = [handed("a", 1), handed("a", 1), handed("b", 1), handed("b", 2), refused, handed("c", 3)];
        let seen = nothing_is_sent_twice(&all);
        assert_eq!(
            seen,
            [
                Violation::AttemptSentTwice { message: "a".into(), attempt: 1, times: 2 },
                Violation::MessageSentTwice { message: "b".into(), attempts: vec![1, 2] },
            ]
        );
    }

    #[test]
    fn retries_of_what_can_never_arrive_are_seen() {
        let refused = |attempt| HandOver { refused: Some(Refused::Permanent), ..handed("a", attempt) };
        let busy = HandOver { refused: Some(Refused::Transient), ..handed("b", 1) };
        assert_eq!(nothing_permanent_is_retried(&[handed("a", 1), refused(2), busy.clone(), handed("b", 2)]), []);
        assert_eq!(
            nothing_permanent_is_retried(&[handed("a", 2), refused(1), busy, handed("b", 2)]),
            [Violation::PermanentRetried { message: "a".into(), attempts: vec![2] }]
        );
    }

    #[test]
    fn a_minute_over_its_limit_is_seen() {
        let limits = BTreeMap::from([(("d".to_owned(), 0), 3)]);
        let at = |at_ms, segments| HandOver { at_ms, segments, ..handed("a", 1) };
        let refused = HandOver { refused: Some(Refused::Route), ..at(30_000, 9) };
        assert_eq!(budgets_are_kept(&[at(60_000, 1), at(0, 1), at(59_999, 2), refused], &limits), []);
        assert_eq!(
            budgets_are_kept(&[at(59_999, 1), at(0, 1), at(10, 2)], &limits),
            [Violation::OverBudget { route: "d:0".into(), from_ms: 0, segments: 4, limit: 3 }]
        );
        assert_eq!(budgets_are_kept(&[HandOver { slot: 1, ..at(0, 200) }], &limits), []);
    }

    #[test]
    fn received_messages_are_neither_lost_nor_doubled() {
        let message = |from: &str| Received { device: "d".into(), from: from.into() };
        let stored = [message("a"), message("b"), message("b")];
        let stored = &stored;
        assert_eq!(inbound_arrives_once(stored, &[message("b"), message("a"), message("unfinished")]), []);
        let seen = inbound_arrives_once(stored, &[message("b"), message("b"), message("b")]);
        assert_eq!(
            seen,
            [
                Violation::InboundLost { device: "d".into(), from: "a".into() },
                Violation::InboundTwice { device: "d".into(), from: "b".into(), times: 3 },
            ]
        );
    }

    #[test]
    fn deliveries_and_counts_are_compared() {
        let all = [listed("a", "delivered"), listed("b", "expired")];
        assert_eq!(
            deliveries_are_real(&all, &[handed("b", 1)]),
            [Violation::DeliveredFromNowhere { message: "a".into() }]
        );
        let totals = serde_json::json!({ "rows": [{ "accepted": 2, "delivered": 2, "expired": 1 }] });
        assert_eq!(
            aggregates_are_exact(&totals, &all),
            [Violation::Miscounted { counter: "delivered".into(), aggregates: 2, store: 1 }]
        );
    }
}
