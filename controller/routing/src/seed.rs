//! Numbers that look random and are not: the same message and purpose give the same number on every controller, so that each
//! choice can be repeated and explained.

use flotilla_protocol::id::MessageId;

/// SplitMix64's finaliser.
pub(crate) const fn mix(x: u64) -> u64 {
    let mut x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The number of a message for one purpose.
pub(crate) const fn of_message(message: MessageId, purpose: u64) -> u64 {
    let bits = u128::from_be_bytes(message.to_bytes());
    mix(mix((bits >> 64) as u64) ^ mix(bits as u64 ^ purpose.rotate_left(17)))
}

/// A text as a number, for purposes that have a name.
pub(crate) fn of_text(text: &str) -> u64 {
    text.bytes().fold(text.len() as u64, |hash, byte| mix(hash ^ u64::from(byte)))
}

/// A place below `below`, which is above 0, without the bias and the cost of a remainder.
pub(crate) const fn place(number: u64, below: usize) -> usize {
    ((number as u128 * below as u128) >> 64) as usize
}
