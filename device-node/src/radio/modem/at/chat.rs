//! Tells what each line is: an answer of the command in flight, its end, an echo, or an unsolicited notice.

use super::command::Command;
use super::lines::{LINE_BYTES_MAX, Lines, Token};
use super::urc::{self, Header, Urc};
use super::value::fields;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::radio::modem) enum Event {
    /// A line of the answer to the command in flight.
    Info(String),
    /// The modem waits for the PDU.
    Prompt,
    /// The command in flight has ended.
    Done(Final),
    Urc(Urc),
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::radio::modem) enum Final {
    Ok,
    /// `ERROR`, or a maker's own word for it.
    Error,
    /// `+CMS ERROR:` with a number, or a text when the modem was told so.
    Cms(String),
    /// `+CME ERROR:`.
    Cme(String),
}

/// Where a second notice may start without a line end before it.
const GLUED: [&str; 13] = [
    "+CMTI:",
    "+CDSI:",
    "+CMT:",
    "+CDS:",
    "+CMGS:",
    "+CMS ERROR:",
    "+CME ERROR:",
    "+CUSD:",
    "+CREG:",
    "+CEREG:",
    "+CIEV:",
    "^RSSI:",
    "^SMMEMFULL",
];

#[derive(Debug, Default)]
pub(in crate::radio::modem) struct Chat {
    lines: Lines,
    pending: Option<Pending>,
    header: Option<Header>,
    /// A `+CUSD` whose quoted text goes on over several lines.
    open_ussd: Option<String>,
}

#[derive(Debug)]
struct Pending {
    command: Command,
    /// The PDU, once it was written: a modem with echo repeats it.
    payload: Option<String>,
}

impl Chat {
    /// `command` was, or is about to be, written. Forgets whatever was in flight before.
    pub(in crate::radio::modem) fn begin(&mut self, command: Command) {
        self.lines.expect_prompt(command.prompts());
        self.pending = Some(Pending { command, payload: None });
    }

    /// The PDU was written after the prompt.
    pub(in crate::radio::modem) fn payload(&mut self, digits: &str) {
        if let Some(pending) = &mut self.pending {
            pending.payload = Some(digits.to_owned());
        }
    }

    /// Nothing is in flight any more: its answer, should it still come, is noise.
    pub(in crate::radio::modem) fn abandon(&mut self) {
        self.lines.expect_prompt(false);
        self.pending = None;
    }

    /// Appends what `bytes` say to `events`.
    pub(in crate::radio::modem) fn push(&mut self, bytes: &[u8], events: &mut Vec<Event>) {
        for byte in bytes {
            match self.lines.push(*byte) {
                Some(Token::Prompt) => events.push(Event::Prompt),
                Some(Token::Line(line)) => self.line(&line, events),
                None => {}
            }
        }
    }

    fn line(&mut self, line: &str, events: &mut Vec<Event>) {
        let joined;
        let line = match self.open_ussd.take() {
            Some(open) if ends_open_text(line) => {
                self.piece(&open, events);
                line
            }
            Some(open) => {
                joined = format!("{open}\n{line}");
                &joined
            }
            None => line,
        };
        if is_open_ussd(line) && line.len() <= LINE_BYTES_MAX {
            self.open_ussd = Some(line.to_owned());
            return;
        }
        for piece in unglue(line) {
            self.piece(piece, events);
        }
    }

    fn piece(&mut self, piece: &str, events: &mut Vec<Event>) {
        // A prompt that nobody waited for, with what follows on its line.
        let piece = piece.trim_start_matches(['>', ' ']);
        if piece.is_empty() || self.is_echo(piece) {
            return;
        }
        if let Some(header) = self.header.take() {
            if let Some(urc) = header.complete(piece) {
                events.push(Event::Urc(urc));
                return;
            }
            self.header = header.wait();
        }
        if let Some(end) = self.end(piece) {
            // Without a command in flight it is the late end of an abandoned one.
            if self.pending.is_some() {
                self.abandon();
                events.push(Event::Done(end));
            }
        } else if let Some(header) = Header::parse(piece) {
            self.header = Some(header);
        } else if self.is_answer(piece) {
            events.push(Event::Info(piece.to_owned()));
        } else if let Some(urc) = urc::parse(piece) {
            events.push(Event::Urc(urc));
        } else if self.pending.is_some() {
            events.push(Event::Info(piece.to_owned()));
        }
    }

    fn is_echo(&self, piece: &str) -> bool {
        self.pending.as_ref().is_some_and(|pending| {
            piece.eq_ignore_ascii_case(pending.command.text())
                || pending.payload.as_deref().is_some_and(|payload| piece.eq_ignore_ascii_case(payload))
        })
    }

    fn end(&self, piece: &str) -> Option<Final> {
        let is_call = self.pending.as_ref().is_some_and(|pending| pending.command.is_call());
        end_of(piece).or_else(|| (is_call && piece.eq_ignore_ascii_case("NO CARRIER")).then_some(Final::Error))
    }

    /// A line under the name of the command in flight is its answer, save the names that are only ever notices.
    fn is_answer(&self, piece: &str) -> bool {
        let (Some(pending), Some(name)) = (&self.pending, urc::name(piece)) else { return false };
        pending.command.is_answered_by(name)
            && match name.to_ascii_uppercase().as_str() {
                "+CMTI" | "+CDSI" | "+CUSD" => false,
                "+CREG" | "+CGREG" | "+CEREG" | "+C5GREG" => is_registration_answer(piece),
                _ => true,
            }
    }
}

/// An answer is `<mode>,<state>...`, a notice `<state>[,"area","cell"...]`: they differ in the second field.
fn is_registration_answer(piece: &str) -> bool {
    let raw = piece.split(',').nth(1).map(str::trim).unwrap_or_default();
    fields(piece).len() >= 2 && raw.len() <= 2 && !raw.is_empty() && raw.bytes().all(|byte| byte.is_ascii_digit())
        || piece.contains('(')
}

fn end_of(piece: &str) -> Option<Final> {
    let argument = |prefix: &str| {
        let head = piece.get(..prefix.len())?;
        head.eq_ignore_ascii_case(prefix).then(|| piece[prefix.len()..].trim_start_matches(':').trim().to_owned())
    };
    if piece.eq_ignore_ascii_case("OK") {
        return Some(Final::Ok);
    }
    if piece.eq_ignore_ascii_case("ERROR")
        || piece.eq_ignore_ascii_case("COMMAND NOT SUPPORT")
        || piece.eq_ignore_ascii_case("TOO MANY PARAMETERS")
    {
        return Some(Final::Error);
    }
    argument("+CMS ERROR").map(Final::Cms).or_else(|| argument("+CME ERROR").map(Final::Cme))
}

fn is_open_ussd(line: &str) -> bool {
    line.starts_with("+CUSD:") && line.bytes().filter(|byte| *byte == b'"').count() % 2 == 1
}

/// A modem that cuts a USSD text short never closes its quotes: what is surely not text ends it.
fn ends_open_text(line: &str) -> bool {
    end_of(line).is_some() || GLUED.iter().any(|sign| line.starts_with(sign))
}

/// Parts a line where a notice starts, or `OK` ends, without the line end that belongs there.
fn unglue(line: &str) -> Vec<&str> {
    let (mut pieces, mut start, mut quoted) = (Vec::new(), 0, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'+' | b'^' if !quoted && at > start && GLUED.iter().any(|sign| line[at..].starts_with(sign)) => {
                pieces.extend(unglue_ok(line[start..at].trim()));
                start = at;
            }
            _ => {}
        }
    }
    pieces.extend(unglue_ok(&line[start..]));
    pieces
}

fn unglue_ok(piece: &str) -> impl Iterator<Item = &str> {
    const PLAIN: [&str; 4] = ["+CMGS:", "+CMTI:", "+CDSI:", "+CSQ:"];
    let parted = piece.strip_suffix("OK").filter(|head| {
        head.ends_with(|last: char| last.is_ascii_hexdigit() || last == '"')
            && (PLAIN.iter().any(|sign| head.starts_with(sign))
                || head.len() > 20 && head.bytes().all(|byte| byte.is_ascii_hexdigit()))
    });
    let (head, tail) = parted.map_or((piece, None), |head| (head, Some("OK")));
    [Some(head), tail].into_iter().flatten()
}
