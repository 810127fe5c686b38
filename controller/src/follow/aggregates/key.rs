//! Where a row lies: `tenant (16) | dimension (1) | step (1) | bucket (4, big endian) | value`.
//!
//! A query names tenant, dimension, step and a range of time, which is one contiguous range of keys. A tenant lives in
//! one shard, so no two shards ever write the same key. The numbers are a disk format and never reused.

use flotilla_protocol::id::TenantId;
use smallvec::SmallVec;

/// By what rows are split. `Total` has one row per bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    Total = 1,
    Device = 2,
    Sim = 3,
    Campaign = 4,
    /// Country of the recipient, or of the sender for inbound messages.
    Region = 5,
    Priority = 6,
    /// Code of the failure of an attempt or of a message.
    Error = 7,
    /// An account at an online service; its attempts are in no device's row.
    Provider = 8,
    /// A sender of such an account; its attempts are in no SIM's row.
    Sender = 9,
}

impl Dimension {
    pub const ALL: [Self; 9] = [
        Self::Total,
        Self::Device,
        Self::Sim,
        Self::Campaign,
        Self::Region,
        Self::Priority,
        Self::Error,
        Self::Provider,
        Self::Sender,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Device => "device",
            Self::Sim => "sim",
            Self::Campaign => "campaign",
            Self::Region => "region",
            Self::Priority => "priority",
            Self::Error => "error",
            Self::Provider => "provider",
            Self::Sender => "sender",
        }
    }

    /// How many values get a row of their own per tenant and bucket; the rest share one, `other`. Only for dimensions whose
    /// values are made up by clients or devices: the others are bounded by the fleet and the world.
    pub(super) const fn values_max(self) -> Option<u32> {
        match self {
            Self::Campaign => Some(4_096),
            Self::Error => Some(1_024),
            _ => None,
        }
    }
}

/// Length of a bucket, aligned to UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Step {
    Hour = 1,
    Day = 2,
}

impl Step {
    pub(super) const ALL: [Self; 2] = [Self::Hour, Self::Day];

    pub(super) const fn len_ms(self) -> u64 {
        match self {
            Self::Hour => 3_600_000,
            Self::Day => 86_400_000,
        }
    }

    pub(super) fn bucket(self, at_ms: u64) -> u32 {
        u32::try_from(at_ms / self.len_ms()).unwrap_or(u32::MAX)
    }

    /// The first bucket that starts at this time or later.
    pub(super) fn bucket_from(self, at_ms: u64) -> u32 {
        u32::try_from(at_ms.div_ceil(self.len_ms())).unwrap_or(u32::MAX)
    }

    pub(super) fn start_ms(self, bucket: u32) -> u64 {
        u64::from(bucket) * self.len_ms()
    }
}

/// The rows of a tenant in one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BlockKey {
    pub(super) tenant: TenantId,
    pub(super) step: Step,
    pub(super) bucket: u32,
}

/// Dimension and value: a row's place in its block. Inline up to an id's length.
pub(super) type Place = SmallVec<[u8; 24]>;

/// The value of the row that values share beyond `Dimension::values_max`. Not UTF-8, so no name equals it.
pub(super) const OTHER: [u8; 1] = [0xff];

/// Values longer than this (bytes) are cut, at a character.
const VALUE_LEN_MAX: usize = 64;

pub(super) const PREFIX_LEN: usize = 16 + 1 + 1 + 4;

pub(super) fn place(dimension: Dimension, value: &[u8]) -> Place {
    let mut place = Place::new();
    place.push(dimension as u8);
    place.extend_from_slice(value);
    place
}

pub(super) fn name_place(dimension: Dimension, name: &str) -> Place {
    place(dimension, cut(name).as_bytes())
}

pub(super) fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(VALUE_LEN_MAX)]
}

pub(super) fn prefix(block: &BlockKey, dimension: Dimension) -> [u8; PREFIX_LEN] {
    let mut key = [0; PREFIX_LEN];
    key[..16].copy_from_slice(&block.tenant.to_bytes());
    key[16] = dimension as u8;
    key[17] = block.step as u8;
    key[18..].copy_from_slice(&block.bucket.to_be_bytes());
    key
}

/// The whole key of a row.
pub(super) fn row_key(block: &BlockKey, place: &[u8]) -> Vec<u8> {
    let (dimension, value) = place.split_first().map_or((0, place), |(dimension, value)| (*dimension, value));
    let mut key = Vec::with_capacity(PREFIX_LEN + value.len());
    key.extend_from_slice(&block.tenant.to_bytes());
    key.extend([dimension, block.step as u8]);
    key.extend_from_slice(&block.bucket.to_be_bytes());
    key.extend_from_slice(value);
    key
}

/// Bucket and value of a key; None when it is too short to be one.
pub(super) fn bucket_and_value(key: &[u8]) -> Option<(u32, &[u8])> {
    let bucket = key.get(18..PREFIX_LEN)?.try_into().ok()?;
    Some((u32::from_be_bytes(bucket), &key[PREFIX_LEN..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_key() {
        let block = BlockKey { tenant: TenantId::from_bytes([7; 16]), step: Step::Day, bucket: 0x0102 };
        let key = row_key(&block, &name_place(Dimension::Campaign, "may"));
        assert_eq!(key, [&[7; 16][..], &[4, 2, 0, 0, 1, 2], b"may"].concat());
        assert!(key.starts_with(&prefix(&block, Dimension::Campaign)));
        assert_eq!(bucket_and_value(&key), Some((0x0102, &b"may"[..])));
        assert_eq!(bucket_and_value(&key[..21]), None);
    }

    #[test]
    fn buckets_cover_time_without_overlap() {
        for step in Step::ALL {
            for at_ms in [0, 1, step.len_ms() - 1, step.len_ms(), 1_763_640_000_123] {
                let bucket = step.bucket(at_ms);
                assert!(step.start_ms(bucket) <= at_ms && at_ms < step.start_ms(bucket + 1));
                assert!(step.bucket_from(at_ms) - bucket <= 1);
            }
        }
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        assert_eq!(cut(&"é".repeat(40)).len(), 64);
        assert_eq!(cut(&format!("a{}", "é".repeat(40))).len(), 63);
        assert_eq!(cut("short"), "short");
    }
}
