//! Identifiers: UUIDv7 (RFC 9562) behind one newtype per thing, printed as `prefix_` and 26 Crockford base-32 digits.
//!
//! The text form sorts as the time of creation does, survives a double click, and says what it names. In binary formats
//! an id is its 16 bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TEXT_LEN: usize = 26;

/// Why a text is not the id that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("expected an id that starts with `{expected}_`")]
    Prefix { expected: &'static str },
    #[error("expected 26 base-32 digits after `{expected}_`")]
    Digits { expected: &'static str },
}

fn encode(value: u128) -> [u8; TEXT_LEN] {
    let mut text = [0; TEXT_LEN];
    for (i, digit) in text.iter_mut().enumerate() {
        let shift = 5 * (TEXT_LEN - 1 - i);
        *digit = DIGITS[((value >> shift) & 31) as usize];
    }
    text
}

fn decode(text: &[u8]) -> Option<u128> {
    // 26 digits hold 130 bits: the first may only use its lower three.
    if text.len() != TEXT_LEN || text[0] > b'7' {
        return None;
    }
    text.iter().try_fold(0u128, |value, c| {
        let digit = DIGITS.iter().position(|d| d == c)?;
        Some((value << 5) | digit as u128)
    })
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// What stands before the underscore.
            pub const PREFIX: &str = $prefix;

            /// A version 7 id from a Unix time in milliseconds and ten random bytes (74 bits of them are kept).
            pub fn new(unix_ms: u64, random: [u8; 10]) -> Self {
                Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid().as_u128())
            }

            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }

            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// The Unix time in milliseconds at which the id was made, as its maker's clock had it.
            pub const fn unix_ms(self) -> u64 {
                (self.0 >> 80) as u64
            }

            pub fn parse(text: &str) -> Result<Self, IdError> {
                let digits = text
                    .strip_prefix($prefix)
                    .and_then(|rest| rest.strip_prefix('_'))
                    .ok_or(IdError::Prefix { expected: $prefix })?;
                decode(digits.as_bytes()).map(Self).ok_or(IdError::Digits { expected: $prefix })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let digits = encode(self.0);
                f.write_str(concat!($prefix, "_"))?;
                f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.to_bytes().serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                    Self::parse(&text).map_err(de::Error::custom)
                } else {
                    <[u8; 16]>::deserialize(deserializer).map(Self::from_bytes)
                }
            }
        }
    )*};
}

ids! {
    /// One user's text to one recipient.
    MessageId = "msg";
    /// An organisation; nothing crosses from one to another.
    TenantId = "ten";
    /// An enrolled gateway.
    DeviceId = "dev";
    /// One subscription as we know it, found again by its ICCID.
    SimId = "sim";
    /// A one-time invitation for a device.
    EnrollmentId = "enr";
    /// An API key (not its secret).
    KeyId = "key";
    /// A message that a gateway received.
    InboundId = "inb";
    /// An account at an online SMS service or an SMSC.
    ProviderId = "prv";
    /// One sender of a provider account: a number, a name, a pool of them.
    SenderId = "snd";
    /// An address that is told of events.
    WebhookId = "whk";
}

/// A slice of the tenants that exactly one controller leads at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How many shards a new installation has. Fixed for the life of its store.
pub const SHARDS_DEFAULT: u16 = 64;

impl ShardId {
    /// The shard of a tenant: the SplitMix64 finaliser over both halves of the id, modulo the number of shards.
    /// The result is stored in every row, so this function never changes.
    pub fn of(tenant: TenantId, shards: u16) -> Self {
        let mut x = (tenant.0 as u64) ^ ((tenant.0 >> 64) as u64).rotate_left(32);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        Self((x % u64::from(shards.max(1))) as u16)
    }
}

/// The number of a shard's leadership. Grows with every change of leader; fences writes and dispatches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_round_trip_and_keep_the_time() {
        let id = MessageId::new(1_763_640_000_123, [0xff; 10]);
        let text = id.to_string();
        assert_eq!(text.len(), "msg_".len() + 26);
        assert_eq!(MessageId::parse(&text), Ok(id));
        assert_eq!(MessageId::from_bytes(id.to_bytes()), id);
        assert_eq!(id.unix_ms(), 1_763_640_000_123);
        assert_eq!(MessageId::new(0, [0; 10]).to_string(), "msg_0000000000e008000000000000");
    }

    #[test]
    fn text_sorts_as_time_does() {
        let early = MessageId::new(1, [0xff; 10]).to_string();
        let late = MessageId::new(2, [0; 10]).to_string();
        assert!(early < late);
    }

    #[test]
    fn wrong_texts_are_told_apart() {
        let id = TenantId::new(5, [1; 10]).to_string();
        assert_eq!(MessageId::parse(&id), Err(IdError::Prefix { expected: "msg" }));
        for digits in
            ["", "0", "8zzzzzzzzzzzzzzzzzzzzzzzzz", "0000000000000000000000000u", "00000000000000000000000000é"]
        {
            assert_eq!(MessageId::parse(&format!("msg_{digits}")), Err(IdError::Digits { expected: "msg" }));
        }
    }

    #[test]
    fn the_shard_of_a_tenant_never_changes() {
        let tenant = |n: u8| TenantId::new(u64::from(n) * 1_000, [n; 10]);
        let shards: Vec<u16> = (0..6).map(|n| ShardId::of(tenant(n), SHARDS_DEFAULT).0).collect();
        assert_eq!(shards, GOLDEN_SHARDS);
        assert_eq!(ShardId::of(tenant(9), 0), ShardId(0));
    }

    const GOLDEN_SHARDS: [u16; 6] = [50, 15, 62, 1, 52, 30];
}
