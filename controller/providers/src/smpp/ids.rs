//! Ids of messages at the SMSC: the same one may be hexadecimal in the answer to a submit and decimal in the receipt, or the
//! reverse, or padded, or of another case.
//!
//! What is given out is a *key*: the id in one spelling, the same for the answer and for its receipts.

use std::collections::VecDeque;

use rustc_hash::FxHashSet;

use super::settings::MessageIds;

/// Keys of answers to compare receipts with, for finding out how the two go together.
const RECENT_MAX: usize = 8_192;

/// How a receipt's id becomes an answer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Same,
    DecimalToHex,
    HexToDecimal,
}

#[derive(Debug)]
pub(crate) struct Keys {
    mode: MessageIds,
    recent: FxHashSet<Box<str>>,
    order: VecDeque<Box<str>>,
    learned: Option<Form>,
}

impl Keys {
    pub(crate) fn new(mode: MessageIds) -> Self {
        Self { mode, recent: FxHashSet::default(), order: VecDeque::new(), learned: None }
    }

    /// The key of an id that an answer has brought.
    pub(crate) fn answered(&mut self, id: &str) -> Box<str> {
        let key = match self.mode {
            MessageIds::Hex => hex_to_decimal(id).unwrap_or_else(|| canonical(id)),
            MessageIds::Auto | MessageIds::Text | MessageIds::Dec => canonical(id),
        };
        if self.recent.insert(key.clone()) {
            self.order.push_back(key.clone());
            if self.order.len() > RECENT_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.recent.remove(&oldest);
            }
        }
        key
    }

    /// The keys that a receipt may be of, the likeliest first: by its parameter and by its text.
    pub(crate) fn of_receipt(&mut self, parameter: Option<&str>, text: Option<&str>) -> Vec<Box<str>> {
        let mut keys: Vec<(Box<str>, Form)> = Vec::with_capacity(6);
        for form in self.forms() {
            for id in [parameter, text].into_iter().flatten() {
                if let Some(key) = convert(id, *form)
                    && !keys.iter().any(|(known, _)| *known == key)
                {
                    keys.push((key, *form));
                }
            }
        }
        if let Some(at) = keys.iter().position(|(key, _)| self.recent.contains(key)) {
            let found = keys.remove(at);
            self.learned = Some(found.1);
            keys.insert(0, found);
        }
        keys.into_iter().map(|(key, _)| key).collect()
    }

    /// In the order in which they are likely.
    fn forms(&self) -> &'static [Form] {
        use Form::{DecimalToHex, HexToDecimal, Same};
        match (self.mode, self.learned) {
            (MessageIds::Text, _) => &[Same],
            // Answers' keys are decimal here. A parameter may still be spelled as in the answer.
            (MessageIds::Hex, _) => &[Same, HexToDecimal],
            (MessageIds::Dec, _) => &[HexToDecimal, Same],
            (MessageIds::Auto, Some(DecimalToHex)) => &[DecimalToHex, Same, HexToDecimal],
            (MessageIds::Auto, Some(HexToDecimal)) => &[HexToDecimal, Same, DecimalToHex],
            (MessageIds::Auto, Some(Same) | None) => &[Same, DecimalToHex, HexToDecimal],
        }
    }
}

fn convert(id: &str, form: Form) -> Option<Box<str>> {
    match form {
        Form::Same => Some(canonical(id)).filter(|key| !key.is_empty()),
        Form::HexToDecimal => hex_to_decimal(id),
        Form::DecimalToHex => {
            let digits = id.trim();
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let number = digits.parse::<u128>().ok().filter(|_| plain)?;
            Some(format!("{number:x}").into())
        }
    }
}

fn hex_to_decimal(id: &str) -> Option<Box<str>> {
    let digits = id.trim().trim_start_matches("0x").trim_start_matches("0X");
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(digits, 16).ok().filter(|_| plain)?;
    Some(number.to_string().into())
}

/// One spelling: lower case, and numbers without leading zeros.
fn canonical(id: &str) -> Box<str> {
    let id = id.trim().to_ascii_lowercase();
    if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let digits = id.trim_start_matches('0');
        return if digits.is_empty() { "0".into() } else { digits.into() };
    }
    id.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn first(keys: &mut Keys, parameter: Option<&str>, text: Option<&str>) -> String {
        keys.of_receipt(parameter, text).first().map(|key| key.to_string()).unwrap_or_default()
    }

    #[test]
    fn found_out_from_the_first_receipt() {
        let mut keys = Keys::new(MessageIds::Auto);
        let key = keys.answered("0000A1B2");
        assert_eq!(&*key, "a1b2");
        assert_eq!(first(&mut keys, None, Some("41394")), "a1b2", "hexadecimal in the answer");
        // Of a message that was sent before this process began: what was learned counts.
        assert_eq!(first(&mut keys, None, Some("255")), "ff");

        let mut keys = Keys::new(MessageIds::Auto);
        keys.answered("41394");
        assert_eq!(first(&mut keys, None, Some("A1B2")), "41394", "decimal in the answer");
        let mut keys = Keys::new(MessageIds::Auto);
        keys.answered("0123456789");
        assert_eq!(first(&mut keys, None, Some("123456789")), "123456789", "padded");
        assert_eq!(keys.of_receipt(None, Some("77")).len(), 3, "as it is, and read both ways");
    }

    #[test]
    fn the_parameter_may_be_right_where_the_text_is_not() {
        let mut keys = Keys::new(MessageIds::Auto);
        keys.answered("abc-123");
        assert_eq!(first(&mut keys, Some("ABC-123"), Some("9988")), "abc-123");
        assert_eq!(keys.of_receipt(None, None), Vec::<Box<str>>::new());
    }

    #[test]
    fn settings_are_exact() {
        let mut keys = Keys::new(MessageIds::Hex);
        assert_eq!(&*keys.answered("1F"), "31");
        assert_eq!(first(&mut keys, None, Some("0000000031")), "31");
        assert_eq!(first(&mut keys, Some("1F"), Some("31")), "31");
        let mut keys = Keys::new(MessageIds::Dec);
        assert_eq!(&*keys.answered("0000000031"), "31");
        assert_eq!(first(&mut keys, None, Some("1F")), "31");
        let mut keys = Keys::new(MessageIds::Text);
        keys.answered("31");
        assert_eq!(keys.of_receipt(None, Some("1F")), vec![Box::from("1f")]);
    }

    #[test]
    fn bounded() {
        let mut keys = Keys::new(MessageIds::Auto);
        for number in 0..2 * RECENT_MAX {
            keys.answered(&format!("id-{number}"));
            keys.answered(&format!("id-{number}"));
        }
        assert_eq!((keys.recent.len(), keys.order.len()), (RECENT_MAX, RECENT_MAX));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn every_number_is_found_in_every_spelling(number in 16u64.., width in 0usize..20, mode in 0..3) {
            let (mode, answer, receipt) = match mode {
                0 => (MessageIds::Hex, format!("{number:0width$X}"), format!("{number:0width$}")),
                1 => (MessageIds::Dec, format!("{number:0width$}"), format!("{number:0width$x}")),
                _ => (MessageIds::Text, format!("{number:0width$x}"), format!("{number:X}")),
            };
            let mut keys = Keys::new(mode);
            let key = keys.answered(&answer);
            prop_assert_eq!(keys.of_receipt(None, Some(&receipt)).first().cloned(), Some(key));
            let mut keys = Keys::new(MessageIds::Auto);
            let key = keys.answered(&answer);
            prop_assert_eq!(keys.of_receipt(None, Some(&receipt)).first().cloned(), Some(key));
        }

        #[test]
        fn nothing_panics(answer in ".{0,100}", parameter in ".{0,100}", text in ".{0,100}") {
            for mode in [MessageIds::Auto, MessageIds::Text, MessageIds::Hex, MessageIds::Dec] {
                let mut keys = Keys::new(mode);
                keys.answered(&answer);
                keys.of_receipt(Some(&parameter), Some(&text));
            }
        }
    }
}
