//! Cuts a modem's bytes into lines and prompts.

/// No line of a modem is longer: a PDU takes 360 digits, a USSD text in UCS-2 730.
pub(in crate::radio::modem) const LINE_BYTES_MAX: usize = 2048;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::radio::modem) enum Token {
    /// Without its end, trimmed, never empty.
    Line(String),
    /// The `>` that asks for a PDU. Reported as soon as the sign itself has come.
    Prompt,
}

/// Splits at CR and LF, and at the Ctrl-Z and ESC that a modem with echo repeats; blank lines vanish.
#[derive(Debug, Default)]
pub(in crate::radio::modem) struct Lines {
    line: Vec<u8>,
    /// The line is over its bound: dropped up to its end, since half a line could be taken for another.
    overlong: bool,
    prompt_expected: bool,
}

impl Lines {
    /// A `>` at the start of a line is a prompt only while one is due; else it is a character.
    pub(in crate::radio::modem) fn expect_prompt(&mut self, expected: bool) {
        self.prompt_expected = expected;
    }

    pub(in crate::radio::modem) fn push(&mut self, byte: u8) -> Option<Token> {
        match byte {
            b'\r' | b'\n' | 0x1a | 0x1b => self.end(),
            0 => None,
            b'>' if self.prompt_expected && self.line.iter().all(u8::is_ascii_whitespace) && !self.overlong => {
                self.line.clear();
                self.prompt_expected = false;
                Some(Token::Prompt)
            }
            _ if self.overlong => None,
            _ if self.line.len() == LINE_BYTES_MAX => {
                self.line.clear();
                self.overlong = true;
                None
            }
            _ => {
                self.line.push(byte);
                None
            }
        }
    }

    fn end(&mut self) -> Option<Token> {
        let overlong = std::mem::take(&mut self.overlong);
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        (!overlong && !text.is_empty()).then(|| Token::Line(text.to_owned()))
    }
}
