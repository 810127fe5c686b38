//! Whether the controller still answers. A transport repeats what is not acknowledged within fractions of a second, so a
//! controller that has acknowledged nothing for seconds is dead or out of reach, long before the transport's own timeout,
//! which is for phones that lose their network for a while. Pure: whoever looks tells what the transport has counted.
//!
//! What is counted are looks, not time: a process that was itself not running for a while has looked less often meanwhile,
//! and reads what came before it looks again.

use std::time::Duration;

/// Between two looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    looks_max: u32,
    sent: u64,
    heard: u64,
    /// Looks without a sign since something was sent that nothing has come after.
    unanswered: Option<u32>,
}

impl Silence {
    /// Of a link whose silence may last for so long.
    pub(super) fn new(patience: Duration) -> Self {
        let looks_max = patience.as_millis().div_ceil(LOOK_EVERY.as_millis()).max(1) as u32;
        Self { looks_max, sent: 0, heard: 0, unanswered: None }
    }

    /// `sent` counts what asks for an acknowledgement, `heard` whatever comes. True when it is time to give the link up.
    pub(super) fn look(&mut self, sent: u64, heard: u64) -> bool {
        let more = sent != std::mem::replace(&mut self.sent, sent);
        if heard != std::mem::replace(&mut self.heard, heard) {
            // What was sent just before may be answered in a moment; if not, it is repeated, and counts then.
            self.unanswered = None;
            return false;
        }
        self.unanswered = match self.unanswered {
            Some(looks) => Some(looks + 1),
            None => more.then_some(0),
        };
        self.unanswered.is_some_and(|looks| looks >= self.looks_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silence() -> Silence {
        Silence::new(LOOK_EVERY * 3)
    }

    #[test]
    fn a_link_on_which_nothing_is_said_is_not_silent() {
        let mut silence = silence();
        assert!((0..100).all(|_| !silence.look(0, 0)));
        assert!(!silence.look(1, 1), "said and answered");
        assert!((0..100).all(|_| !silence.look(1, 1)));
    }

    #[test]
    fn what_is_not_answered_for_some_looks_ends_the_link() {
        let mut silence = silence();
        assert!(!silence.look(5, 9));
        // It may have been sent just before this look.
        let looks = [6, 7, 7, 9].map(|sent| silence.look(sent, 9));
        assert_eq!(looks, [false, false, false, true]);
    }

    #[test]
    fn any_sign_begins_it_anew() {
        let mut silence = silence();
        silence.look(5, 9);
        for heard in 10..20 {
            assert!([6, 7, 8].iter().all(|more| !silence.look(heard + more, heard - 1)));
            assert!(!silence.look(heard + 9, heard));
        }
    }

    #[test]
    fn what_was_sent_just_before_a_sign_counts_only_when_it_is_repeated() {
        let mut silence = silence();
        silence.look(5, 9);
        assert!(!silence.look(6, 10));
        assert!((0..100).all(|_| !silence.look(6, 10)));
        assert_eq!([7, 7, 7, 7].map(|sent| silence.look(sent, 10)), [false, false, false, true]);
    }
}
