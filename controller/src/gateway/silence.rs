//! Whether a device still hears us: seconds after a frame went out and nothing at all came back, no acknowledgement of the
//! transport either, it gets no more work, and what it was not yet told to send goes elsewhere. Its link is not given up: that
//! takes until the idle timeout, and a phone that was out of coverage for a moment is back before.

/// A live device's transport answers within its round trip and 25 ms (RFC 9000, 13.2.1), or repeats within a few of them; a
/// phone may have to wake its radio first.
const SILENT_AFTER_MS: u64 = 4_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Silence {
    /// The oldest frame that nothing came after: when it was written, and how much had been heard by then.
    asked: Option<(u64, u64)>,
    silent: bool,
}

impl Silence {
    /// Whether a look can change anything.
    pub(super) fn is_watched(&self) -> bool {
        self.asked.is_some()
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silent
    }

    /// Something is being written. `heard` counts what has come from the device, in any unit.
    pub(super) fn wrote(&mut self, now_ms: u64, heard: impl FnOnce() -> u64) {
        if self.asked.is_none() {
            self.asked = Some((now_ms, heard()));
        }
    }

    /// The new state, when it has changed.
    pub(super) fn look(&mut self, now_ms: u64, heard: u64) -> Option<bool> {
        let (since_ms, heard_then) = self.asked?;
        let silent = heard == heard_then && (self.silent || now_ms.saturating_sub(since_ms) >= SILENT_AFTER_MS);
        if heard != heard_then {
            self.asked = None;
        }
        (std::mem::replace(&mut self.silent, silent) != silent).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_begins_after_seconds_without_a_sign_and_ends_with_one() {
        let mut silence = Silence::default();
        assert_eq!(silence.look(99_000, 7), None, "nothing was asked");
        silence.wrote(1_000, || 7);
        silence.wrote(4_900, || 7);
        assert_eq!(silence.look(4_999, 7), None);
        assert_eq!(silence.look(5_000, 7), Some(true));
        assert_eq!((silence.look(6_000, 7), silence.is_silent()), (None, true));
        assert_eq!(silence.look(60_000, 8), Some(false));
        assert!(!silence.is_watched());
    }

    #[test]
    fn an_answer_in_time_is_no_silence() {
        let mut silence = Silence::default();
        silence.wrote(1_000, || 7);
        assert_eq!(silence.look(2_000, 8), None);
        silence.wrote(6_000, || 8);
        assert_eq!((silence.look(9_999, 8), silence.look(10_000, 8)), (None, Some(true)));
    }
}
