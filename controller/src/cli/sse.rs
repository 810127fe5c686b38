//! Server-Sent Events from a stream of bytes, as WHATWG HTML 9.2.6 says, without any IO.
//!
//! The buffer is bounded: whoever sends a line or an event without end is not a controller.

/// An event with all that belongs to it.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SseEvent {
    /// The last id that was sent, by this event or by one before it.
    pub(super) id: String,
    /// `message` when the sender did not say.
    pub(super) kind: String,
    pub(super) data: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is over {EVENT_BYTES_MAX} bytes")]
pub(super) struct TooLong;

/// Takes bytes as they come, cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// The line that has not ended.
    line: Vec<u8>,
    /// A carriage return has ended a line; a line feed right behind it belongs to it.
    after_cr: bool,
    begun: bool,
    /// Of the event that is being read; it counts when that is complete.
    id: String,
    last_id: String,
    kind: String,
    data: String,
}

impl Parser {
    /// After `id`, where a stream is resumed.
    pub(super) fn new(id: &str) -> Self {
        Self { id: id.to_owned(), last_id: id.to_owned(), ..Self::default() }
    }

    pub(super) fn last_id(&self) -> &str {
        &self.last_id
    }

    /// The events that these bytes complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, TooLong> {
        let mut events = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' if self.after_cr => self.after_cr = false,
                b'\n' | b'\r' => {
                    self.after_cr = *byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    events.extend(self.end_line(&line));
                }
                byte => {
                    self.after_cr = false;
                    self.line.push(*byte);
                }
            }
            if self.line.len() + self.data.len() > EVENT_BYTES_MAX {
                return Err(TooLong);
            }
        }
        Ok(events)
    }

    fn end_line(&mut self, line: &[u8]) -> Option<SseEvent> {
        let line = match std::mem::replace(&mut self.begun, true) {
            false => line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line),
            true => line,
        };
        if line.is_empty() {
            return self.dispatch();
        }
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            // A comment, `retry`, or something of a later version.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<SseEvent> {
        let (kind, mut data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
        self.id.clone_into(&mut self.last_id);
        if data.is_empty() {
            return None;
        }
        data.pop();
        let kind = if kind.is_empty() { "message".to_owned() } else { kind };
        Some(SseEvent { id: self.id.clone(), kind, data })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(id: &str, kind: &str, data: &str) -> SseEvent {
        SseEvent { id: id.into(), kind: kind.into(), data: data.into() }
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        let cases: &[(&str, &[SseEvent])] = &[
            ("id: 2a-91f\nevent: message.sent\ndata: {}\n\n", &[event("2a-91f", "message.sent", "{}")]),
            ("data: one\r\ndata:two\r\rdata\n\n", &[event("", "message", "one\ntwo"), event("", "message", "")]),
            ("\u{feff}data: x\n\n", &[event("", "message", "x")]),
            (": ping\n\nretry: 5\nevent: gone\n\ndata: y\n\n", &[event("", "message", "y")]),
            (
                "id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n",
                &[event("1", "message", "a"), event("1", "message", "b"), event("", "message", "c")],
            ),
            ("id: a\0b\ndata:  x: y\n\n", &[event("", "message", " x: y")]),
            ("data: not complete\n", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(Parser::default().push(text.as_bytes()).unwrap(), *expected, "{text:?}");
        }
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(&vec![b'x'; EVENT_BYTES_MAX + 1]), Err(TooLong));
        let mut parser = Parser::default();
        let line = format!("data: {}\n", "x".repeat(1000));
        let end = (0..2_000).find(|_| parser.push(line.as_bytes()).is_err());
        assert!(end.is_some_and(|lines| lines > 1_000));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_the_bytes_are_cut(text in "[\r\n:a-d ]{0,60}|(data: x[\r\n]{1,3}){0,8}", cut in 0usize..60) {
            let whole = Parser::default().push(text.as_bytes()).unwrap();
            let (head, tail) = text.as_bytes().split_at(cut.min(text.len()));
            let mut parser = Parser::default();
            let mut parts = parser.push(head).unwrap();
            parts.extend(parser.push(tail).unwrap());
            prop_assert_eq!(parts, whole);
        }
    }
}
