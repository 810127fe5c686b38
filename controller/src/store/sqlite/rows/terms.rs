//! What rows are found by: each property of a row is a term, and the terms of each block of 65,536 rows are an index of their
//! own. A term is one number, `block | hash of the property | row in the block`, so that all rows of a block with a property lie
//! side by side, in order. Hashes may collide: who finds a row by a term looks at the row itself.

use flotilla_protocol::address::Address;
use flotilla_protocol::id::TenantId;

use crate::domain::event::Inbound;
use crate::domain::message::MessageState;
use crate::domain::record::MessageRecord;

const ROW_BITS: u32 = 16;
const HASH_BITS: u32 = 24;
/// Rows are numbered below this, so that a term is a positive number.
pub(super) const N_MAX: i64 = 1 << (63 - HASH_BITS);

/// A property of a row of a tenant, as 24 bits. The numbers and the hash are on disk and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Property(u32);

impl Property {
    fn of(tenant: TenantId, kind: u8, value: &[u8]) -> Self {
        // FNV-1a (64 bits), then the SplitMix64 finaliser, since only a part of the bits is taken.
        let mut x: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in tenant.to_bytes().iter().chain([&kind]).chain(value) {
            x = (x ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        Self((x >> (64 - HASH_BITS)) as u32)
    }

    pub(super) fn tenant(tenant: TenantId) -> Self {
        Self::of(tenant, 0, &[])
    }

    pub(super) fn to(tenant: TenantId, number: u64) -> Self {
        Self::of(tenant, 1, &number.to_be_bytes())
    }

    pub(super) fn sim(tenant: TenantId, sim: [u8; 16]) -> Self {
        Self::of(tenant, 2, &sim)
    }

    pub(super) fn device(tenant: TenantId, device: [u8; 16]) -> Self {
        Self::of(tenant, 3, &device)
    }

    pub(super) fn campaign(tenant: TenantId, campaign: &str) -> Self {
        Self::of(tenant, 4, campaign.as_bytes())
    }

    pub(super) fn tag(tenant: TenantId, tag: &str) -> Self {
        Self::of(tenant, 5, tag.as_bytes())
    }

    pub(super) fn client_ref(tenant: TenantId, client_ref: &str) -> Self {
        Self::of(tenant, 6, client_ref.as_bytes())
    }

    /// Ends other than `delivered`, which are looked for and few. `delivered` is found by reading on.
    pub(super) fn end(tenant: TenantId, state: MessageState) -> Option<Self> {
        use MessageState::{Cancelled, Expired, Failed};
        matches!(state, Failed | Expired | Cancelled).then(|| Self::of(tenant, 7, &[state.code()]))
    }

    pub(super) fn from(tenant: TenantId, from: &Address) -> Self {
        Self::of(tenant, 8, from.to_string().as_bytes())
    }
}

/// The terms of a message that never change.
pub(super) fn of_new_message(record: &MessageRecord) -> impl Iterator<Item = Property> + '_ {
    let submission = &record.submission;
    let tenant = submission.tenant;
    let fixed = [Property::tenant(tenant), Property::to(tenant, submission.to.as_u64())];
    let campaign = Some(&submission.campaign).filter(|campaign| !campaign.is_empty());
    fixed
        .into_iter()
        .chain(campaign.map(|campaign| Property::campaign(tenant, campaign)))
        .chain(submission.client_ref.as_ref().map(|client_ref| Property::client_ref(tenant, client_ref)))
        .chain(submission.tags.iter().map(move |tag| Property::tag(tenant, tag)))
}

/// The terms that come in the course of its life. Those of former routes stay, and mislead nobody.
pub(super) fn of_any_message(record: &MessageRecord) -> impl Iterator<Item = Property> + '_ {
    let tenant = record.submission.tenant;
    let route = record
        .route
        .map(|route| [Property::sim(tenant, route.sim.to_bytes()), Property::device(tenant, route.device.to_bytes())]);
    route.into_iter().flatten().chain(Property::end(tenant, record.state))
}

pub(super) fn of_inbound(inbound: &Inbound) -> [Property; 4] {
    let tenant = inbound.tenant;
    [
        Property::tenant(tenant),
        Property::device(tenant, inbound.device.to_bytes()),
        Property::sim(tenant, inbound.sim.to_bytes()),
        Property::from(tenant, &inbound.from),
    ]
}

pub(super) fn block_of(n: i64) -> i64 {
    n >> ROW_BITS
}

/// The term that says that row `n` has a property.
pub(super) fn term(n: i64, property: Property) -> i64 {
    let row = n & ((1 << ROW_BITS) - 1);
    (block_of(n) << (HASH_BITS + ROW_BITS)) | (i64::from(property.0) << ROW_BITS) | row
}

/// The row of a term.
pub(super) fn row_of(term: i64) -> i64 {
    ((term >> (HASH_BITS + ROW_BITS)) << ROW_BITS) | (term & ((1 << ROW_BITS) - 1))
}

/// The terms of a property in a block, first and last possible.
pub(super) fn range(block: i64, property: Property) -> (i64, i64) {
    let first = block << ROW_BITS;
    (term(first, property), term(first | ((1 << ROW_BITS) - 1), property))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_keeps_row_and_block_apart() {
        let property = Property((1 << HASH_BITS) - 1);
        for n in [0, 1, 65_535, 65_536, N_MAX - 1] {
            let term = term(n, property);
            assert!(term >= 0);
            assert_eq!(row_of(term), n);
            let (first, last) = range(block_of(n), property);
            assert!((first..=last).contains(&term));
            assert_eq!(last - first, 65_535);
        }
    }

    #[test]
    fn the_hash_on_disk_never_changes() {
        let tenant = TenantId::from_bytes([7; 16]);
        let hashes = [
            Property::tenant(tenant),
            Property::to(tenant, 255_712_345_678),
            Property::campaign(tenant, "spring"),
            Property::from(tenant, &Address::Short("15001".into())),
        ];
        assert_eq!(hashes.map(|property| property.0), GOLDEN);
        assert_eq!(Property::end(tenant, MessageState::Delivered), None);
    }

    const GOLDEN: [u32; 4] = [11_513_646, 6_816_640, 12_375_066, 12_221_482];
}
