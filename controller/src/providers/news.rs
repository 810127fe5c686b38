//! What a maker tells about messages that it has, and those it has received: made into what the shard understands.

use flotilla_protocol::address::Address;
use flotilla_protocol::id::{InboundId, ProviderId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::sms::{EncodeOptions, plan};
use flotilla_protocol::wire::InboundMessage;
use flotilla_providers::{Inbound, Receipt};
use ring::digest;
use tokio::sync::oneshot;

use super::references::{Known, parse};
use crate::fleet::cut;

/// A received text is kept up to here; SMS has 255 segments of 160.
const TEXT_BYTES_MAX: usize = 64 * 1024;
/// Digits of an address (3GPP TS 23.040 9.1.2.5), and characters of a name with room for those who allow more.
const ADDRESS_BYTES_MAX: usize = 20;
/// Shorter numbers without a `+` are short codes.
const INTERNATIONAL_DIGITS_MIN: usize = 8;

/// From a callback or a poll, on its way to the session.
pub(super) struct News {
    /// With the attempt, where that is known already.
    pub(super) receipts: Vec<(Option<Known>, Receipt)>,
    pub(super) inbound: Vec<Inbound>,
    /// Told true when all of it is durable; dropped when it could not be taken.
    pub(super) reply: Option<oneshot::Sender<()>>,
}

/// The attempt that a receipt names by our own reference.
pub fn by_reference(receipt: &Receipt) -> Option<Known> {
    receipt.reference.as_deref().and_then(parse)
}

/// `slot` is of the sender that the message was sent to.
pub fn inbound_message(provider: ProviderId, slot: u8, inbound: Inbound, now_ms: u64) -> InboundMessage {
    let mut text = String::from(inbound.text);
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    let segments = plan(&text, &EncodeOptions { segments_max: u8::MAX, ..EncodeOptions::default() });
    InboundMessage {
        id: inbound_id(provider, &inbound.id, inbound.at_ms),
        slot,
        from: address(&inbound.from),
        segments: segments.map_or(1, |plan| plan.segments),
        text,
        sent_ms: inbound.at_ms.map(|at| at.min(now_ms)),
    }
}

/// The same for each repetition: rows take an id once.
fn inbound_id(provider: ProviderId, id: &str, at_ms: Option<u64>) -> InboundId {
    let hash = digest::digest(&digest::SHA256, &[provider.to_bytes().as_slice(), id.as_bytes()].concat());
    let mut random = [0; 10];
    random.copy_from_slice(&hash.as_ref()[..10]);
    InboundId::new(at_ms.unwrap_or_else(|| provider.unix_ms()), random)
}

pub(super) fn address(text: &str) -> Address {
    let text = cut(text.trim(), ADDRESS_BYTES_MAX);
    let digits = text.strip_prefix('+').unwrap_or(&text);
    let only_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let whole = text.starts_with('+') || digits.len() >= INTERNATIONAL_DIGITS_MIN && !digits.starts_with('0');
    match only_digits {
        true if whole => match Msisdn::parse(&format!("+{digits}")) {
            Ok(number) => Address::International(number),
            Err(_) => Address::Short(digits.to_owned()),
        },
        true => Address::Short(text),
        false => Address::Alphanumeric(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        let number = Address::International(Msisdn::from_u64(255_712_345_678).unwrap());
        assert_eq!(address("+255712345678"), number);
        assert_eq!(address(" 255712345678 "), number);
        assert_eq!(address("0712345678"), Address::Short("0712345678".into()));
        assert_eq!(address("15030"), Address::Short("15030".into()));
        assert_eq!(address("INFO"), Address::Alphanumeric("INFO".into()));
        assert_eq!(address(&"x".repeat(99)), Address::Alphanumeric("x".repeat(20)));
    }

    #[test]
    fn a_repeated_message_has_the_same_id() {
        let provider = ProviderId::new(1_763_640_000_123, [1; 10]);
        let inbound = |id: &str, text: &str| Inbound {
            id: id.into(),
            from: "+255712345678".into(),
            to: "15030".into(),
            text: text.into(),
            at_ms: None,
        };
        let message = |id, text| inbound_message(provider, 0, inbound(id, text), 2_000_000_000_000);
        assert_eq!(message("a", "STOP").id, message("a", "STOP").id);
        assert_ne!(message("a", "STOP").id, message("b", "STOP").id);
        assert_eq!(message("a", "STOP").segments, 1);
        let long = message("c", &"é".repeat(TEXT_BYTES_MAX));
        assert_eq!(long.text.len(), TEXT_BYTES_MAX);
    }
}
