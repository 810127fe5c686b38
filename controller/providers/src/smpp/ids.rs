//! Ids of messages at the SMSC: the same one may be hexadecimal in the answer to a submit and decimal in the receipt, or the
//! reverse, or padded, or of another case.
//!
//! What is given out is a *key*: the id in one spelling, the same for the answer and for its receipts.
//!
//! An id that had to be converted may be another message's by chance: `100` is the hexadecimal `64` of one that we know, and of one
//! that we have forgotten too. So where nothing is set, how ids go together is found out from receipts whose number is that of the
//! message, then only that counts, and a converted id is never believed against the number.

use std::collections::VecDeque;

use flotilla_protocol::number::Msisdn;
use rustc_hash::FxHashMap;

use super::settings::MessageIds;

/// Keys of answers to compare receipts with, for finding out how the two go together.
const RECENT_MAX: usize = 8_192;
/// Receipts in a row that say otherwise, after which something else is learned. Only those without a number are counted: one
/// with the right number is proof.
const MISSES_MAX: u8 = 8;

/// The last six digits of a number: what national and international spellings have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail(u32);

impl Tail {
    const MODULUS: u32 = 1_000_000;

    pub fn of(number: Msisdn) -> Self {
        Self((number.as_u64() % u64::from(Self::MODULUS)) as u32)
    }

    pub fn new(digits: u32) -> Self {
        Self(digits % Self::MODULUS)
    }

    pub fn digits(self) -> u32 {
        self.0
    }

    /// `None` for names and short codes.
    pub(crate) fn read(address: &str) -> Option<Self> {
        let digits = address.trim().trim_start_matches('+');
        let plain = digits.len() >= 6 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.get(digits.len().checked_sub(6)?..).filter(|_| plain)?.parse().ok().map(Self)
    }
}

/// The numbers that a receipt has: its source is the recipient of the message, where the SMSC turns the two around as it should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) source: Option<Tail>,
    pub(crate) dest: Option<Tail>,
}

impl Numbers {
    /// Whether the receipt is of a message to this number; `None` when one of both is not told.
    fn agree(self, to: Option<Tail>) -> Option<bool> {
        let to = to?;
        if self.source == Some(to) || self.dest == Some(to) {
            return Some(true);
        }
        self.source.map(|_| false)
    }
}

/// A key that a receipt may be of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub key: Box<str>,
    /// Of an id that was converted: the numbers decide.
    converted: Option<Numbers>,
}

impl Candidate {
    /// Whether it can mean a message to this number, where that is known.
    pub fn may_mean(&self, to: Option<Tail>) -> bool {
        self.converted.is_none_or(|numbers| numbers.agree(to) != Some(false))
    }
}

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
    /// With the recipients.
    recent: FxHashMap<Box<str>, Option<Tail>>,
    order: VecDeque<Box<str>>,
    learned: Option<Form>,
    misses: u8,
}

/// A key, how it was made, and for those of recent answers whether the numbers agree.
struct Found {
    key: Box<str>,
    form: Form,
    recent: Option<Option<bool>>,
}

impl Keys {
    pub(crate) fn new(mode: MessageIds) -> Self {
        Self { mode, recent: FxHashMap::default(), order: VecDeque::new(), learned: None, misses: 0 }
    }

    /// The key of an id that an answer has brought.
    pub(crate) fn answered(&mut self, id: &str, to: Option<Tail>) -> Box<str> {
        let key = match self.mode {
            MessageIds::Hex => hex_to_decimal(id).unwrap_or_else(|| canonical(id)),
            MessageIds::Auto | MessageIds::Text | MessageIds::Dec => canonical(id),
        };
        if self.recent.insert(key.clone(), to).is_none() {
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
    pub(crate) fn of_receipt(
        &mut self,
        parameter: Option<&str>,
        text: Option<&str>,
        numbers: Numbers,
    ) -> Vec<Candidate> {
        let mut found: Vec<Found> = Vec::with_capacity(6);
        for form in self.forms() {
            for id in [parameter, text].into_iter().flatten() {
                if let Some(key) = convert(id, *form)
                    && !found.iter().any(|known| known.key == key)
                {
                    let recent = self.recent.get(&key).map(|to| numbers.agree(*to));
                    found.push(Found { key, form: *form, recent });
                }
            }
        }
        if self.mode == MessageIds::Auto {
            self.weigh(&mut found);
        } else if let Some(at) = found.iter().position(|one| one.recent.is_some()) {
            found[..=at].rotate_right(1);
        }
        let auto = self.mode == MessageIds::Auto;
        let candidate = |one: Found| {
            let converted = (auto && one.form != Form::Same).then_some(numbers);
            Candidate { key: one.key, converted }
        };
        found.into_iter().map(candidate).collect()
    }

    /// Leaves those that are believed, and learns from what is known.
    fn weigh(&mut self, found: &mut Vec<Found>) {
        if let Some(at) = found.iter().position(|one| one.recent == Some(Some(true))) {
            (self.learned, self.misses) = (Some(found[at].form), 0);
            found.drain(at + 1..);
            found.drain(..at);
            return;
        }
        // The numbers speak against it. An SMSC that spells ids as in its answers may have changed the number.
        let converts = matches!(self.learned, Some(Form::DecimalToHex | Form::HexToDecimal));
        found.retain(|one| one.recent != Some(Some(false)) || (one.form == Form::Same && !converts));
        let likely = found.iter().position(|one| one.recent == Some(None));
        let says = likely.map(|at| found[at].form);
        match (self.learned, says) {
            (None, Some(form)) => {
                self.learned = Some(form);
                found[..=likely.unwrap_or_default()].rotate_right(1);
            }
            (Some(known), Some(form)) if known != form && form != Form::Same => {
                self.misses += 1;
                if self.misses >= MISSES_MAX {
                    (self.learned, self.misses) = (Some(form), 0);
                }
            }
            (Some(known), Some(form)) if known == form => self.misses = 0,
            _ => {}
        }
        if let Some(learned) = self.learned {
            found.retain(|one| one.form == learned || one.form == Form::Same);
        }
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

    const NOBODY: Numbers = Numbers { source: None, dest: None };

    fn first(keys: &mut Keys, parameter: Option<&str>, text: Option<&str>) -> String {
        keys.of_receipt(parameter, text, NOBODY).first().map(|one| one.key.to_string()).unwrap_or_default()
    }

    fn numbers(source: u32) -> Numbers {
        Numbers { source: Some(Tail::new(source)), dest: Tail::read("15030") }
    }

    fn keys_of(keys: &mut Keys, text: &str, numbers: Numbers) -> Vec<String> {
        keys.of_receipt(None, Some(text), numbers).iter().map(|one| one.key.to_string()).collect()
    }

    #[test]
    fn found_out_from_the_first_receipt() {
        let mut keys = Keys::new(MessageIds::Auto);
        let key = keys.answered("0000A1B2", None);
        assert_eq!(&*key, "a1b2");
        assert_eq!(first(&mut keys, None, Some("41394")), "a1b2", "hexadecimal in the answer");
        // Of a message that was sent before this process began: what was learned counts.
        assert_eq!(first(&mut keys, None, Some("255")), "ff");

        let mut keys = Keys::new(MessageIds::Auto);
        keys.answered("41394", None);
        assert_eq!(first(&mut keys, None, Some("A1B2")), "41394", "decimal in the answer");
        let mut keys = Keys::new(MessageIds::Auto);
        keys.answered("0123456789", None);
        assert_eq!(first(&mut keys, None, Some("123456789")), "123456789", "padded");
        assert_eq!(keys_of(&mut keys, "77", NOBODY), ["77"], "what was learned, and nothing else");
        assert_eq!(keys_of(&mut Keys::new(MessageIds::Auto), "77", NOBODY).len(), 3, "as it is, and read both ways");
    }

    #[test]
    fn the_parameter_may_be_right_where_the_text_is_not() {
        let mut keys = Keys::new(MessageIds::Auto);
        keys.answered("abc-123", None);
        assert_eq!(first(&mut keys, Some("ABC-123"), Some("9988")), "abc-123");
        assert_eq!(keys.of_receipt(None, None, NOBODY), []);
    }

    #[test]
    fn settings_are_exact() {
        let mut keys = Keys::new(MessageIds::Hex);
        assert_eq!(&*keys.answered("1F", None), "31");
        assert_eq!(first(&mut keys, None, Some("0000000031")), "31");
        assert_eq!(first(&mut keys, Some("1F"), Some("31")), "31");
        let mut keys = Keys::new(MessageIds::Dec);
        assert_eq!(&*keys.answered("0000000031", None), "31");
        assert_eq!(first(&mut keys, None, Some("1F")), "31");
        let mut keys = Keys::new(MessageIds::Text);
        keys.answered("31", None);
        assert_eq!(keys_of(&mut keys, "1F", numbers(1)), ["1f"]);
    }

    /// Short running numbers: what is one message's id as it stands is another's when it is read as a hexadecimal number.
    #[test]
    fn a_receipt_is_never_that_of_a_message_to_another_number() {
        let mut keys = Keys::new(MessageIds::Auto);
        keys.answered("64", Some(Tail::new(111_111)));
        keys.answered("256", Some(Tail::new(222_222)));
        // Of a message that nobody here knows, 100, to yet another number: 0x64, and 0x100 is 256.
        assert_eq!(keys_of(&mut keys, "100", numbers(333_333)), ["100"]);
        // What it does not know, the store may: the number decides there too.
        let unknown = keys.of_receipt(None, Some("1000"), numbers(333_333));
        let to = |tail| unknown.iter().map(|one| one.may_mean(Some(Tail::new(tail)))).collect::<Vec<_>>();
        assert_eq!((to(333_333), to(111_111)), (vec![true, true, true], vec![true, false, false]));
        assert!(unknown.iter().all(|one| one.may_mean(None)), "nothing speaks against it");
        // Once it is known how they go together, only that counts, also without a number.
        assert_eq!(keys_of(&mut keys, "256", numbers(222_222)), ["256"]);
        assert_eq!(keys_of(&mut keys, "100", NOBODY), ["100"]);
        let mut keys = Keys::new(MessageIds::Auto);
        keys.answered("100", Some(Tail::new(111_111)));
        keys.answered("64", Some(Tail::new(222_222)));
        assert_eq!(keys_of(&mut keys, "100", numbers(222_222)), ["64"], "the number says which");
        assert_eq!(keys_of(&mut keys, "100", numbers(333_333)), Vec::<String>::new(), "of neither of them");
    }

    #[test]
    fn what_was_learned_wrongly_is_learned_anew() {
        let mut keys = Keys::new(MessageIds::Auto);
        for id in 0x1000u32..0x1020 {
            keys.answered(&format!("{id:x}"), Some(Tail::new(id)));
        }
        keys.answered("7", None);
        assert_eq!(keys_of(&mut keys, "7", NOBODY), ["7"], "the same either way");
        assert_eq!(keys_of(&mut keys, "4096", numbers(0x1000)), ["1000"], "proved by its number");
        let mut keys = Keys::new(MessageIds::Auto);
        keys.answered("7", None);
        for id in 0x1000u32..0x1020 {
            keys.answered(&format!("{id:x}"), None);
        }
        assert_eq!(keys_of(&mut keys, "7", NOBODY), ["7"]);
        let told: Vec<_> = (0x1000..0x1010).map(|id: u32| keys_of(&mut keys, &id.to_string(), NOBODY)).collect();
        assert_eq!(told.iter().filter(|ids| ids.contains(&"100f".to_owned())).count(), 1);
        assert_eq!(told.last().map(|ids| ids[0].as_str()), Some("100f"));
    }

    #[test]
    fn numbers_are_known_by_their_ends() {
        let number = Msisdn::from_u64(255_712_345_678).unwrap();
        for spelled in ["255712345678", "+255712345678", "0712345678", "712345678"] {
            assert_eq!(Tail::read(spelled), Some(Tail::of(number)), "{spelled}");
        }
        for other in ["15030", "ACME", "", "2557123x5678", "+"] {
            assert_eq!(Tail::read(other), None, "{other}");
        }
    }

    #[test]
    fn bounded() {
        let mut keys = Keys::new(MessageIds::Auto);
        for number in 0..2 * RECENT_MAX {
            keys.answered(&format!("id-{number}"), None);
            keys.answered(&format!("id-{number}"), None);
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
            let key = keys.answered(&answer, None);
            prop_assert_eq!(keys.of_receipt(None, Some(&receipt), NOBODY).first().map(|one| one.key.clone()), Some(key));
            let mut keys = Keys::new(MessageIds::Auto);
            let key = keys.answered(&answer, None);
            prop_assert_eq!(keys.of_receipt(None, Some(&receipt), NOBODY).first().map(|one| one.key.clone()), Some(key));
        }

        #[test]
        fn nothing_panics(answer in ".{0,100}", parameter in ".{0,100}", text in ".{0,100}") {
            for mode in [MessageIds::Auto, MessageIds::Text, MessageIds::Hex, MessageIds::Dec] {
                let mut keys = Keys::new(mode);
                keys.answered(&answer, None);
                keys.of_receipt(Some(&parameter), Some(&text), numbers(7));
            }
        }
    }
}
