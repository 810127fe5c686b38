//! Which transport carries a link, and when the other one is tried. Pure: time and randomness are arguments.
//!
//! QUIC comes first, because it survives a change of address and costs less. TCP is for networks that let no UDP pass, which
//! shows only in silence: so a controller that has not answered over the one is tried over the other as well.

use serde::{Deserialize, Serialize};

/// A controller that has not answered by then gets company by the next one.
const STAGGER_MS: u64 = 800;
/// Without an answer for so long, the other transport is tried beside the first.
const HEAD_START_MS: u64 = 3_000;
const LOOK_MAX_MS: u64 = 3_600_000;
/// Each finding after the first makes the pause so many times longer.
const LOOK_GROWTH: u64 = 4;
/// While somebody looks, the others wait for what is found.
const LOOKING_MS: u64 = 10_000;

/// What carries a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Quic,
    Tcp,
}

impl Transport {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Quic => Self::Tcp,
            Self::Tcp => Self::Quic,
        }
    }
}

/// One controller over one transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Try {
    /// Index into the list of controllers.
    pub(super) target: usize,
    pub(super) transport: Transport,
}

/// The tries of one attempt to connect, in the order of their time. Times count from the beginning of the round.
#[derive(Clone, Debug)]
pub(super) struct Round {
    waiting: Vec<(u64, Try)>,
}

impl Round {
    /// `firsts` has the transport to begin with for each controller.
    pub(super) fn new(firsts: &[Transport]) -> Self {
        let tries = firsts.iter().enumerate().flat_map(|(target, first)| {
            let at_ms = STAGGER_MS * target as u64;
            let over = |transport| Try { target, transport };
            [(at_ms, over(*first)), (at_ms + HEAD_START_MS, over(first.other()))]
        });
        let mut waiting: Vec<_> = tries.collect();
        waiting.sort_by_key(|(at_ms, _)| *at_ms);
        Self { waiting }
    }

    /// A try that is due; to be asked until there is none.
    pub(super) fn due(&mut self, now_ms: u64) -> Option<Try> {
        let (at_ms, _) = self.waiting.first()?;
        (*at_ms <= now_ms).then(|| self.waiting.remove(0).1)
    }

    pub(super) fn next_ms(&self) -> Option<u64> {
        self.waiting.first().map(|(at_ms, _)| *at_ms)
    }

    /// The next try need not wait any longer. One to the same controller is left out if that has `answered`: it would say the
    /// same over the other transport.
    pub(super) fn failed(&mut self, failed: Try, answered: bool, now_ms: u64) {
        if answered {
            self.waiting.retain(|(_, waiting)| waiting.target != failed.target);
        }
        if let Some((at_ms, _)) = self.waiting.first_mut() {
            *at_ms = (*at_ms).min(now_ms);
        }
    }
}

/// What is known of UDP on the way to one controller.
#[derive(Clone, Debug, Default)]
pub(super) struct Udp {
    /// Since UDP was found not to pass: when to look again.
    blocked: Option<u64>,
    /// The last pause; kept while UDP seems to pass, until a link over it proves that it does.
    pause_ms: u64,
}

/// What a link over TCP does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing speaks against QUIC.
    Passes,
    /// The caller is the one that looks, now, and tells what it has found.
    Now,
    /// Not before.
    At(u64),
}

impl Udp {
    pub(super) fn first(&self) -> Transport {
        if self.blocked.is_some() { Transport::Tcp } else { Transport::Quic }
    }

    /// A link over QUIC was welcomed.
    pub(super) fn proved(&mut self) {
        *self = Self::default();
    }

    /// A handshake over QUIC has been answered. Some networks let no more than that pass.
    pub(super) fn answered(&mut self) {
        self.blocked = None;
    }

    /// QUIC was not answered where TCP was, or by a look. `look_ms` is the pause after the first such finding; `random` is in
    /// 0..1.
    pub(super) fn silent(&mut self, now_ms: u64, look_ms: u64, random: f64) {
        if self.blocked.is_some_and(|at_ms| now_ms < at_ms && at_ms - now_ms > LOOKING_MS) {
            // Many links find the same at the same time.
            return;
        }
        self.pause_ms = (self.pause_ms * LOOK_GROWTH).clamp(look_ms.min(LOOK_MAX_MS), LOOK_MAX_MS);
        let spread = 0.75 + 0.5 * random.clamp(0.0, 1.0);
        self.blocked = Some(now_ms + (self.pause_ms as f64 * spread) as u64);
    }

    pub(super) fn look(&mut self, now_ms: u64) -> Look {
        match &mut self.blocked {
            None => Look::Passes,
            Some(at_ms) if now_ms < *at_ms => Look::At(*at_ms),
            Some(at_ms) => {
                *at_ms = now_ms + LOOKING_MS;
                Look::Now
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Transport::{Quic, Tcp};
    use super::*;

    const LOOK_MIN_MS: u64 = 60_000;

    /// The tries in order, each at the time at which it is due.
    fn all(mut round: Round) -> Vec<(u64, usize, Transport)> {
        let mut tries = Vec::new();
        while let Some(now_ms) = round.next_ms() {
            let Try { target, transport } = round.due(now_ms).unwrap();
            tries.push((now_ms, target, transport));
        }
        tries
    }

    #[test]
    fn the_other_transport_has_to_wait_and_controllers_take_turns() {
        let table = [
            (vec![], vec![]),
            (vec![Quic], vec![(0, 0, Quic), (3_000, 0, Tcp)]),
            (vec![Tcp], vec![(0, 0, Tcp), (3_000, 0, Quic)]),
            (vec![Quic, Tcp], vec![(0, 0, Quic), (800, 1, Tcp), (3_000, 0, Tcp), (3_800, 1, Quic)]),
        ];
        for (firsts, expected) in table {
            assert_eq!(all(Round::new(&firsts)), expected, "{firsts:?}");
        }
    }

    #[test]
    fn a_failure_hurries_the_next_try() {
        let mut round = Round::new(&[Quic, Quic]);
        let first = round.due(0).unwrap();
        assert_eq!(round.due(799), None);
        round.failed(first, false, 100);
        assert_eq!(round.due(100), Some(Try { target: 1, transport: Quic }));
        assert_eq!(round.due(100), None);
        assert_eq!(round.next_ms(), Some(3_000), "the fallbacks keep their time");
        round.failed(Try { target: 1, transport: Quic }, false, 200);
        assert_eq!(round.due(200), Some(Try { target: 0, transport: Tcp }));
    }

    #[test]
    fn who_has_answered_is_not_asked_over_the_other_transport() {
        let mut round = Round::new(&[Quic, Quic]);
        let first = round.due(0).unwrap();
        round.failed(first, true, 50);
        assert_eq!(all(round), [(50, 1, Quic), (3_800, 1, Tcp)]);
    }

    #[test]
    fn udp_that_does_not_pass_is_looked_at_ever_more_seldom() {
        let mut udp = Udp::default();
        assert_eq!((udp.first(), udp.look(0)), (Quic, Look::Passes));
        let mut now_ms = 0;
        for pause_ms in [60_000, 240_000, 960_000, 3_600_000, 3_600_000] {
            udp.silent(now_ms, LOOK_MIN_MS, 0.5);
            assert_eq!((udp.first(), udp.look(now_ms)), (Tcp, Look::At(now_ms + pause_ms)));
            now_ms += pause_ms;
            assert_eq!(udp.look(now_ms), Look::Now);
            assert_eq!(udp.look(now_ms), Look::At(now_ms + LOOKING_MS), "one looks for all");
        }
    }

    #[test]
    fn the_findings_of_many_links_count_once() {
        let mut udp = Udp::default();
        for now_ms in 0..100 {
            udp.silent(now_ms, LOOK_MIN_MS, 0.5);
        }
        assert_eq!(udp.look(100), Look::At(60_000));
    }

    #[test]
    fn an_answer_is_enough_to_try_and_a_welcome_to_forget() {
        let mut udp = Udp::default();
        udp.silent(0, LOOK_MIN_MS, 0.5);
        udp.answered();
        assert_eq!((udp.first(), udp.look(1)), (Quic, Look::Passes));
        udp.silent(1, LOOK_MIN_MS, 0.5);
        assert_eq!(udp.look(1), Look::At(240_001), "it only seemed to pass");
        udp.proved();
        udp.silent(2, LOOK_MIN_MS, 0.5);
        assert_eq!(udp.look(2), Look::At(60_002));
    }

    proptest! {
        #[test]
        fn every_controller_is_tried_once_over_each_transport(firsts in prop::collection::vec(prop::bool::ANY, 0..9), failures in prop::collection::vec(prop::bool::ANY, 0..32)) {
            let firsts: Vec<_> = firsts.into_iter().map(|tcp| if tcp { Tcp } else { Quic }).collect();
            let mut round = Round::new(&firsts);
            let (mut tried, mut now_ms, mut failures) = (Vec::new(), 0, failures.into_iter());
            while let Some(next_ms) = round.next_ms() {
                // Failures only ever hurry what comes next.
                prop_assert!(next_ms <= STAGGER_MS * (firsts.len() as u64 - 1) + HEAD_START_MS);
                now_ms = now_ms.max(next_ms);
                let due = round.due(now_ms).unwrap();
                tried.push((due.target, due.transport.as_str()));
                if failures.next() == Some(true) {
                    round.failed(due, false, now_ms);
                }
            }
            tried.sort_unstable();
            let expected: Vec<_> = (0..firsts.len()).flat_map(|target| [(target, "quic"), (target, "tcp")]).collect();
            prop_assert_eq!(tried, expected);
        }

        #[test]
        fn pauses_stay_in_their_bounds(randoms in prop::collection::vec(0.0f64..1.0, 1..20)) {
            let (mut udp, mut now_ms) = (Udp::default(), 0);
            for random in randoms {
                udp.silent(now_ms, LOOK_MIN_MS, random);
                let Look::At(at_ms) = udp.look(now_ms) else { panic!() };
                prop_assert!((LOOK_MIN_MS * 3 / 4..=LOOK_MAX_MS * 5 / 4).contains(&(at_ms - now_ms)));
                now_ms = at_ms;
            }
        }
    }
}
