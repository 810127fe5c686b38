//! Whether a device still hears us: seconds after a frame went out and nothing at all came back, no acknowledgement of the
//! transport either, it gets no more work, and what it was not yet told to send goes elsewhere. Its link is not given up: that
//! takes until the idle timeout, and a phone that was out of coverage for a moment is back before. A device that was given work
//! lately and says nothing is asked: nothing else would be written to it while its window is full.

/// A live device's transport answers within its round trip and 25 ms (RFC 9000, 13.2.1), or repeats within a few of them; a
/// phone may have to wake its radio first.
const SILENT_AFTER_MS: u64 = 4_000;
/// A device with work is asked after so long without a sign of it. With the looks between, one that dies gets no work any more
/// after 6 s at the latest.
const ASK_AFTER_MS: u64 = 1_500;
/// What a device was given is handed to its radio within a minute, or not at all.
const AT_WORK_MS: u64 = 75_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Silence {
    /// The oldest frame that nothing came after: when it was written, and how much had been heard by then.
    asked: Option<(u64, u64)>,
    silent: bool,
    at_work_until_ms: u64,
    /// How much had been heard when something came last, and when that was noticed.
    last: (u64, u64),
}

/// What to do about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Nothing,
    /// Write something, to see whether an answer comes.
    Ask,
    /// It has gone silent, or is heard again.
    Changed {
        silent: bool,
    },
}

impl Silence {
    /// Whether a look can change anything.
    pub(super) fn is_watched(&self, now_ms: u64) -> bool {
        self.asked.is_some() || now_ms < self.at_work_until_ms
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silent
    }

    /// Something is being written, `work` among it. `heard` counts what has come from the device, in any unit.
    pub(super) fn wrote(&mut self, now_ms: u64, work: bool, heard: impl FnOnce() -> u64) {
        if work {
            self.at_work_until_ms = now_ms + AT_WORK_MS;
        }
        if self.asked.is_none() {
            self.asked = Some((now_ms, heard()));
        }
    }

    pub(super) fn look(&mut self, now_ms: u64, heard: u64) -> Look {
        if heard != self.last.0 {
            self.last = (heard, now_ms);
        }
        let Some((since_ms, heard_then)) = self.asked else {
            let quiet = now_ms < self.at_work_until_ms && now_ms.saturating_sub(self.last.1) >= ASK_AFTER_MS;
            return if quiet { Look::Ask } else { Look::Nothing };
        };
        let silent = heard == heard_then && (self.silent || now_ms.saturating_sub(since_ms) >= SILENT_AFTER_MS);
        if heard != heard_then {
            self.asked = None;
        }
        let changed = std::mem::replace(&mut self.silent, silent) != silent;
        if changed { Look::Changed { silent } } else { Look::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_begins_after_seconds_without_a_sign_and_ends_with_one() {
        let mut silence = Silence::default();
        assert_eq!(silence.look(99_000, 7), Look::Nothing, "nothing was asked");
        silence.wrote(101_000, false, || 7);
        silence.wrote(104_900, false, || 7);
        assert_eq!(silence.look(104_999, 7), Look::Nothing);
        assert_eq!(silence.look(105_000, 7), Look::Changed { silent: true });
        assert_eq!((silence.look(106_000, 7), silence.is_silent()), (Look::Nothing, true));
        assert_eq!(silence.look(160_000, 8), Look::Changed { silent: false });
        assert!(!silence.is_watched(160_000));
    }

    #[test]
    fn an_answer_in_time_is_no_silence() {
        let mut silence = Silence::default();
        silence.wrote(1_000, false, || 7);
        assert_eq!(silence.look(2_000, 8), Look::Nothing);
        silence.wrote(6_000, false, || 8);
        assert_eq!(silence.look(9_999, 8), Look::Nothing);
        assert_eq!(silence.look(10_000, 8), Look::Changed { silent: true });
    }

    #[test]
    fn a_device_at_work_is_asked_when_it_says_nothing() {
        let mut silence = Silence::default();
        silence.wrote(1_000, true, || 7);
        assert_eq!(silence.look(2_000, 8), Look::Nothing, "it has what it was given");
        assert_eq!(silence.look(3_000, 9), Look::Nothing);
        assert_eq!(silence.look(4_499, 9), Look::Nothing);
        assert_eq!(silence.look(4_500, 9), Look::Ask);
        silence.wrote(4_500, false, || 9);
        assert_eq!(silence.look(8_499, 9), Look::Nothing, "once");
        assert_eq!(silence.look(8_500, 9), Look::Changed { silent: true });
        assert_eq!(silence.look(30_000, 10), Look::Changed { silent: false });
        assert!(silence.is_watched(75_999) && !silence.is_watched(76_000), "its work is over by then");
    }
}
