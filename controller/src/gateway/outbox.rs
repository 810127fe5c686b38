//! Frames on their way to one device: pushed by anybody without waiting, written by the session in one go.

use bytes::{Bytes, BytesMut};
use flotilla_protocol::wire::{Down, FrameError, encode_frame};
use parking_lot::Mutex;

use super::close::End;

/// What pushing asks of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// The session is already awake.
    Queued,
    /// Wake the session.
    Wake,
    /// Too much waits: the device does not read.
    Overflow,
    /// The session is over.
    Closed,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    frames: Vec<Down>,
    /// The session has been woken and has not yet found the queue empty.
    awake: bool,
    /// Nothing is taken after the last frame.
    closing: Option<End>,
    /// Since when the session is writing, if it is.
    writing_since_ms: Option<u64>,
}

/// What to write next.
#[derive(Debug)]
pub(super) enum Next {
    Write(Bytes),
    /// Everything is written, and the session shall end.
    Close(End),
    /// Nothing: sleep until woken.
    Idle,
}

impl Outbox {
    pub(super) fn push(&self, frames: Vec<Down>, frames_max: usize) -> Pushed {
        let mut state = self.state.lock();
        if state.closing.is_some() {
            return Pushed::Closed;
        }
        if state.frames.len() + frames.len() > frames_max {
            return Pushed::Overflow;
        }
        if state.frames.is_empty() {
            state.frames = frames;
        } else {
            state.frames.extend(frames);
        }
        state.wake()
    }

    /// The last words: what waits is dropped, because nobody will act on it.
    pub(super) fn close(&self, last: Down, end: End) -> Pushed {
        let mut state = self.state.lock();
        if state.closing.is_some() {
            return Pushed::Closed;
        }
        state.frames = vec![last];
        state.closing = Some(end);
        state.wake()
    }

    /// The next piece, and how many frames are in it. One that cannot be encoded ends the session.
    pub(super) fn next(&self, now_ms: u64) -> Result<(Next, usize), FrameError> {
        let frames = {
            let mut state = self.state.lock();
            if state.frames.is_empty() {
                state.writing_since_ms = None;
                if let Some(end) = state.closing {
                    return Ok((Next::Close(end), 0));
                }
                state.awake = false;
                return Ok((Next::Idle, 0));
            }
            state.writing_since_ms = Some(now_ms);
            std::mem::take(&mut state.frames)
        };
        let mut buffer = BytesMut::new();
        for frame in &frames {
            encode_frame(frame, &mut buffer)?;
        }
        Ok((Next::Write(buffer.freeze()), frames.len()))
    }

    /// Since when a write is under way.
    pub(super) fn writing_since_ms(&self) -> Option<u64> {
        self.state.lock().writing_since_ms
    }
}

impl State {
    fn wake(&mut self) -> Pushed {
        if std::mem::replace(&mut self.awake, true) { Pushed::Queued } else { Pushed::Wake }
    }
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::wire::{Refusal, decode_frame};

    use super::*;

    fn ack(position: u64) -> Down {
        Down::AckReports { position }
    }

    fn drain(outbox: &Outbox) -> (Vec<Down>, Next) {
        let mut all = Vec::new();
        loop {
            match outbox.next(0).unwrap().0 {
                Next::Write(bytes) => {
                    let mut buffer = BytesMut::from(&bytes[..]);
                    while let Some(frame) = decode_frame(&mut buffer).unwrap() {
                        all.push(frame);
                    }
                }
                end => return (all, end),
            }
        }
    }

    #[test]
    fn one_wake_for_many_pushes_and_order_is_kept() {
        let outbox = Outbox::default();
        assert_eq!(outbox.push(vec![ack(0)], 9), Pushed::Wake);
        assert_eq!(outbox.push(vec![ack(1), ack(2)], 9), Pushed::Queued);
        let (Next::Write(first), 3) = outbox.next(5).unwrap() else { panic!() };
        assert_eq!(outbox.writing_since_ms(), Some(5));
        assert_eq!(outbox.push(vec![ack(3)], 9), Pushed::Queued, "the writer looks again before it sleeps");
        let mut buffer = BytesMut::from(&first[..]);
        let firsts: Vec<Down> = std::iter::from_fn(|| decode_frame(&mut buffer).unwrap()).collect();
        assert_eq!(firsts, [ack(0), ack(1), ack(2)]);
        let (rest, end) = drain(&outbox);
        assert_eq!(rest, [ack(3)]);
        assert!(matches!(end, Next::Idle));
        assert_eq!(outbox.writing_since_ms(), None);
        assert_eq!(outbox.push(vec![ack(4)], 9), Pushed::Wake);
    }

    #[test]
    fn too_much_is_refused_and_the_last_words_come_last() {
        let outbox = Outbox::default();
        assert_eq!(outbox.push(vec![ack(1), ack(2)], 2), Pushed::Wake);
        assert_eq!(outbox.push(vec![ack(3)], 2), Pushed::Overflow);
        let last = Down::Redirect { controllers: vec!["b:1".into()] };
        assert_eq!(outbox.close(last.clone(), End::Redirected), Pushed::Queued);
        assert_eq!(outbox.push(vec![ack(4)], 2), Pushed::Closed);
        assert_eq!(outbox.close(ack(5), End::Refused(Refusal::Busy)), Pushed::Closed);
        let (frames, end) = drain(&outbox);
        assert_eq!(frames, [last]);
        assert!(matches!(end, Next::Close(End::Redirected)));
    }
}
