//! A command line, and by which signs its answer lines are known.

/// What is written, without its CR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::radio::modem) struct Command {
    text: String,
    /// `+CSQ` for `AT+CSQ`: prefixed lines with another name are not this command's.
    names: Vec<String>,
    prompts: bool,
}

impl Command {
    /// `text` with its `AT`. Answer lines are expected under the command's own name, or without any.
    pub(in crate::radio::modem) fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let name = text.get(2..).unwrap_or_default().split(['=', '?', ';']).next().unwrap_or_default().to_owned();
        Self { text, names: vec![name], prompts: false }
    }

    /// Another name under which some makers answer.
    pub(in crate::radio::modem) fn also(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    /// The modem will ask for a PDU.
    pub(in crate::radio::modem) fn with_prompt(mut self) -> Self {
        self.prompts = true;
        self
    }

    pub(in crate::radio::modem) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn prompts(&self) -> bool {
        self.prompts
    }

    pub(super) fn is_answered_by(&self, name: &str) -> bool {
        self.names.iter().any(|own| own.eq_ignore_ascii_case(name))
    }

    /// Only a call ends with `NO CARRIER`; beside any other command it is the end of somebody's call to us.
    pub(super) fn is_call(&self) -> bool {
        let text = self.text.as_bytes();
        text.len() > 2 && matches!(text[2].to_ascii_uppercase(), b'D' | b'A')
    }
}
