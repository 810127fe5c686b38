//! How long messages took to get away from what had failed, told from their traces.
//!
//! A message that moves does three things, one after the other, and only the first is ours to hurry: its attempt is taken
//! back (the failure is *noticed*), it *waits* until a route has room, and it is sent there. A message in front of its lane
//! takes whatever room there is, so a wait is one for room, unless another message that was behind it in the same lane went
//! first: from then on it was *passed over*, which is a fault. So `failover` is the time until it was noticed, and the time
//! in which it was passed over.
//!
//! What a radio had leave to send does not move under `duplicates: never`: it stays in doubt, or the device tells, when it is
//! back, that it has not sent it. Then it goes on, and is counted apart.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use super::faults::{Fault, What};
use super::{Moment, ToldError};

/// A device's attempts are taken back with one of these while it is away.
const TAKEN_BACK: [&str; 2] = ["called-back", "link-lost"];

/// What one kind of fault did to the messages that were on a route just then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    pub what: What,
    pub times: usize,
    pub moved: Vec<Move>,
    /// From the fault, or the dispatch when that was later, to the dispatch elsewhere, of those that their own route released
    /// when it was back.
    pub released_ms: Vec<u64>,
    /// Went on where they were when it was back, or stay in doubt: they may be on the air, and nothing repeats them.
    pub stayed: usize,
}

/// A message that was taken away from what had failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Move {
    /// From the fault, or the dispatch when that was later.
    pub noticed_ms: u64,
    /// From then to the dispatch elsewhere.
    pub waited_ms: u64,
    /// The end of that wait, from the first dispatch of a message that was behind it.
    pub passed_over_ms: u64,
    /// From that dispatch to its success there; none when that one did not succeed either.
    pub sent_ms: Option<u64>,
}

impl Move {
    pub fn failover_ms(&self) -> u64 {
        self.noticed_ms + self.passed_over_ms
    }
}

/// A message with all that became of it.
#[derive(Debug, Deserialize)]
pub(super) struct Traced {
    pub priority: String,
    pub segments: u8,
    pub trace: Vec<TraceStep>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct TraceStep {
    pub at: Moment,
    pub state: String,
    pub attempt: u16,
    #[serde(default)]
    pub device: Option<String>,
    #[serde(default)]
    pub provider: Option<String>,
    #[serde(default)]
    pub why: Option<Why>,
    #[serde(default)]
    pub error: Option<ToldError>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Why {
    #[serde(default)]
    pub rule: Option<String>,
}

impl TraceStep {
    fn route(&self) -> Option<&str> {
        self.device.as_deref().or(self.provider.as_deref())
    }

    fn is_dispatch(&self) -> bool {
        self.state == "dispatching"
    }
}

/// Messages that wait for the same routes, in their order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lane<'a> {
    priority: &'a str,
    segments: u8,
    rule: Option<&'a str>,
}

impl Traced {
    fn accepted_ms(&self) -> u64 {
        self.trace.first().map_or(0, |step| step.at.0)
    }

    fn lane(&self) -> Lane<'_> {
        let why = self.trace.iter().find_map(|step| step.why.as_ref());
        Lane { priority: &self.priority, segments: self.segments, rule: why.and_then(|why| why.rule.as_deref()) }
    }
}

/// The first attempts of each lane, in the order of time.
type Firsts<'a> = BTreeMap<Lane<'a>, Vec<First<'a>>>;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct First<'a> {
    at_ms: u64,
    /// Those that were accepted later stand behind.
    accepted_ms: u64,
    route: &'a str,
}

fn firsts(messages: &[Traced]) -> Firsts<'_> {
    let mut firsts = Firsts::new();
    for message in messages {
        let first = message.trace.iter().find(|step| step.is_dispatch() && step.attempt == 1);
        if let Some((step, route)) = first.and_then(|step| Some((step, step.route()?))) {
            let first = First { at_ms: step.at.0, accepted_ms: message.accepted_ms(), route };
            firsts.entry(message.lane()).or_default().push(first);
        }
    }
    firsts.values_mut().for_each(|dispatches| dispatches.sort_unstable());
    firsts
}

pub(super) fn failovers(messages: &[Traced], faults: &[Fault]) -> Vec<Failover> {
    let firsts = firsts(messages);
    let mut by_kind: BTreeMap<What, Failover> = BTreeMap::new();
    for fault in faults.iter().filter(|fault| !fault.routes.is_empty()) {
        let (moved, released_ms) = (Vec::new(), Vec::new());
        let new = Failover { what: fault.what, times: 0, moved, released_ms, stayed: 0 };
        let failover = by_kind.entry(fault.what).or_insert(new);
        failover.times += 1;
        for message in messages {
            match hit(message, fault, &firsts) {
                Some(Hit::Moved(moved)) => failover.moved.push(moved),
                Some(Hit::Released(took_ms)) => failover.released_ms.push(took_ms),
                Some(Hit::Stayed) => failover.stayed += 1,
                None => {}
            }
        }
    }
    by_kind.into_values().collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Hit {
    Moved(Move),
    Released(u64),
    Stayed,
}

/// What became of a message that had an attempt under way on what failed.
fn hit(message: &Traced, fault: &Fault, firsts: &Firsts<'_>) -> Option<Hit> {
    let away = |route: Option<&str>| route.is_some_and(|route| fault.routes.iter().any(|one| one == route));
    let trace = &message.trace;
    let (n, since_ms) = trace.iter().enumerate().find_map(|(n, step)| {
        if !step.is_dispatch() || !away(step.route()) || step.at.0 >= fault.to_ms {
            return None;
        }
        let next = trace.get(n + 1);
        let sent =
            next.is_some_and(|next| next.attempt == step.attempt && matches!(&*next.state, "sent" | "delivered"));
        let over = next.is_some_and(|next| next.at.0 < fault.from_ms);
        (!sent && !over).then(|| (n, step.at.0.max(fault.from_ms)))
    })?;
    let after = &trace[n..];
    let Some(place) = after.iter().position(|step| step.is_dispatch() && !away(step.route())) else {
        return Some(Hit::Stayed);
    };
    let (elsewhere, before) = (&after[place], &after[..place]);
    let Some(back) = before.iter().rev().find(|step| step.state == "queued") else { return Some(Hit::Stayed) };
    let code = back.error.as_ref().map(|error| &*error.code);
    if fault.what == What::DevicesKilled && !code.is_some_and(|code| TAKEN_BACK.contains(&code)) {
        return Some(Hit::Released(elsewhere.at.0.saturating_sub(since_ms)));
    }
    let mine = after[place..].iter().take_while(|step| step.attempt == elsewhere.attempt);
    let sent = mine.into_iter().find(|step| matches!(&*step.state, "sent" | "delivered"));
    let passed = firsts.get(&message.lane()).and_then(|firsts| {
        let later = &firsts[firsts.partition_point(|first| first.at_ms <= back.at.0)..];
        let usable = |route| !away(Some(route)) && Some(route) != back.route();
        later.iter().find(|first| usable(first.route) && first.accepted_ms > message.accepted_ms())
    });
    Some(Hit::Moved(Move {
        noticed_ms: back.at.0.saturating_sub(since_ms),
        waited_ms: elsewhere.at.0.saturating_sub(back.at.0),
        passed_over_ms: passed.map_or(0, |first| elsewhere.at.0.saturating_sub(first.at_ms)),
        sent_ms: sent.map(|sent| sent.at.0.saturating_sub(elsewhere.at.0)),
    }))
}

/// The value below which so many percent are, of sorted ones.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(place).copied().unwrap_or_default()
}

impl Failover {
    fn line(f: &mut fmt::Formatter<'_>, what: &str, values: impl Iterator<Item = u64>) -> fmt::Result {
        let mut sorted: Vec<u64> = values.collect();
        sorted.sort_unstable();
        let [p50, p95, max] = [50, 95, 100].map(|percent| percentile(&sorted, percent));
        writeln!(f, "    {what:<44}{:>7}{p50:>8}{p95:>8}{max:>8}", sorted.len())
    }
}

impl fmt::Display for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {:<46}{:>7}{:>8}{:>8}{:>8}",
            format!("{} x {}", self.times, self.what.name()),
            "n",
            "p50",
            "p95",
            "max"
        )?;
        let moved = || self.moved.iter();
        Self::line(f, "failover: noticed, or passed over", moved().map(Move::failover_ms))?;
        Self::line(f, "of it until noticed", moved().map(|one| one.noticed_ms))?;
        Self::line(f, "of it passed over", moved().map(|one| one.passed_over_ms).filter(|ms| *ms > 0))?;
        Self::line(f, "waited for room", moved().map(|one| one.waited_ms - one.passed_over_ms))?;
        Self::line(f, "until sent there", moved().filter_map(|one| one.sent_ms))?;
        let all = |one: &Move| Some(one.noticed_ms + one.waited_ms + one.sent_ms?);
        Self::line(f, "all of it", moved().filter_map(all))?;
        Self::line(f, "released by the route when it was back", self.released_ms.iter().copied())?;
        writeln!(f, "    stayed: {}", self.stayed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(at_ms: u64, state: &str, attempt: u16, device: &str) -> TraceStep {
        let device = Some(device.into());
        TraceStep { at: Moment(at_ms), state: state.into(), attempt, device, provider: None, why: None, error: None }
    }

    fn queued(at_ms: u64, attempt: u16, device: &str, code: &str) -> TraceStep {
        let error = Some(ToldError { class: "route".into(), code: code.into() });
        TraceStep { error, ..step(at_ms, "queued", attempt, device) }
    }

    fn message(trace: Vec<TraceStep>) -> Traced {
        Traced { priority: "normal".into(), segments: 1, trace }
    }

    fn hit_by(trace: Vec<TraceStep>, others: &[Traced]) -> Option<Hit> {
        let fault = Fault { what: What::DevicesKilled, routes: vec!["a".into()], from_ms: 1_000, to_ms: 9_000 };
        hit(&message(trace), &fault, &firsts(others))
    }

    #[test]
    fn percentiles_are_of_what_is_there() {
        assert_eq!(percentile(&[], 95), 0);
        assert_eq!(percentile(&[7], 50), 7);
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!([50, 95, 100].map(|percent| percentile(&hundred, percent)), [50, 95, 100]);
    }

    #[test]
    fn noticing_and_waiting_and_sending_are_told_apart() {
        let moved = vec![
            step(900, "dispatching", 1, "a"),
            queued(5_000, 1, "a", "called-back"),
            step(5_010, "dispatching", 2, "b"),
            step(5_100, "sent", 2, "b"),
        ];
        let expected = Move { noticed_ms: 4_000, waited_ms: 10, passed_over_ms: 0, sent_ms: Some(90) };
        assert_eq!(hit_by(moved, &[]), Some(Hit::Moved(expected)));
        let later = vec![
            step(2_000, "dispatching", 1, "a"),
            queued(5_000, 1, "a", "link-lost"),
            step(5_500, "dispatching", 2, "b"),
            queued(5_900, 2, "b", "cms-41"),
        ];
        let expected = Move { noticed_ms: 3_000, waited_ms: 500, passed_over_ms: 0, sent_ms: None };
        assert_eq!(hit_by(later, &[]), Some(Hit::Moved(expected)), "from its dispatch");
    }

    #[test]
    fn a_message_is_hit_when_it_was_on_the_way_there() {
        assert_eq!(hit_by(vec![step(900, "dispatching", 1, "a"), step(950, "sent", 1, "a")], &[]), None);
        let doubted = |device| vec![step(900, "dispatching", 1, device), step(6_000, "unknown", 1, device)];
        assert_eq!(hit_by(doubted("a"), &[]), Some(Hit::Stayed));
        assert_eq!(hit_by(doubted("b"), &[]), None);
        assert_eq!(hit_by(vec![step(9_500, "dispatching", 1, "a")], &[]), None, "after it");
    }

    #[test]
    fn what_the_device_had_leave_to_send_is_released_by_it() {
        let released = vec![
            step(900, "dispatching", 1, "a"),
            step(6_000, "unknown", 1, "a"),
            queued(9_100, 1, "a", "never-arrived"),
            step(9_200, "dispatching", 2, "b"),
        ];
        assert_eq!(hit_by(released, &[]), Some(Hit::Released(8_200)));
    }

    #[test]
    fn whoever_is_behind_and_goes_first_shows_that_there_was_room() {
        let moved = || {
            vec![
                step(900, "dispatching", 1, "a"),
                queued(5_000, 1, "a", "called-back"),
                step(8_000, "dispatching", 2, "b"),
            ]
        };
        let passed_over = |others: &[Traced]| match hit_by(moved(), others) {
            Some(Hit::Moved(moved)) => (moved.waited_ms, moved.passed_over_ms, moved.failover_ms()),
            other => panic!("{other:?}"),
        };
        let accepted = |at_ms, then| message(vec![step(at_ms, "queued", 0, "-"), then]);
        let first = |at_ms, device| accepted(950, step(at_ms, "dispatching", 1, device));
        assert_eq!(passed_over(&[first(4_000, "b"), first(7_000, "c")]), (3_000, 1_000, 5_000));
        let longer = Traced { segments: 2, ..first(6_000, "c") };
        let again = accepted(950, step(6_000, "dispatching", 2, "c"));
        let before = accepted(850, step(6_000, "dispatching", 1, "c"));
        assert_eq!(passed_over(&[first(4_000, "b"), first(6_000, "a"), longer, again, before]), (3_000, 0, 4_000));
        assert_eq!(passed_over(&[first(8_500, "c")]), (3_000, 0, 4_000), "after it");
    }
}
