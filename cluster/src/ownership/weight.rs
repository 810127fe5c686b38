//! Rendezvous hashing (highest random weight): every node gives every member a weight for a shard, and the heaviest is
//! the wanted leader. When a member comes or goes only its own shards move, and nobody has to agree on a table.
//!
//! All nodes of a cluster must compute the same weights, old and new versions side by side, so the function is fixed:
//! FNV-1a (64 bits) over the shard's number as two big-endian bytes and the name's bytes, then MurmurHash3's finaliser,
//! because FNV alone leaves the high bits of short inputs poorly mixed. The golden values below are part of the contract.

use flotilla_protocol::id::ShardId;

use crate::NodeName;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// How much a member wants a shard; the highest of the live members leads it.
pub fn weight(shard: ShardId, name: &NodeName) -> u64 {
    let bytes = shard.0.to_be_bytes().into_iter().chain(name.as_str().bytes());
    let hash = bytes.fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
    finalise(hash)
}

fn finalise(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
