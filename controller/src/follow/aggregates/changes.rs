//! Which hours and days of a shard have changed since its last snapshot: what the next one has to write.

use std::collections::BTreeSet;

use super::key::Step;

/// With more than so many it is all the same to write everything. Clocks of devices that are far off make many.
const BLOCKS_MAX: usize = 4_096;
const FORMAT: u8 = 1;

/// A superset of what differs between the rows here and those of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// The position of that snapshot, or of an older one.
    since: u64,
    /// Nobody knows: everything may differ.
    all: bool,
    blocks: BTreeSet<(Step, u32)>,
    /// What a snapshot that is under way writes: changed until it is whole.
    writing: Option<Box<Changes>>,
}

impl Changes {
    pub(super) fn none(since: u64) -> Self {
        Self { since, ..Self::default() }
    }

    pub(super) fn unknown() -> Self {
        Self { all: true, ..Self::default() }
    }

    pub(super) fn add(&mut self, step: Step, bucket: u32) {
        if !self.all && self.blocks.insert((step, bucket)) && self.blocks.len() > BLOCKS_MAX {
            self.all = true;
            self.blocks.clear();
        }
    }

    /// Whether this says what differs from a snapshot with this position.
    pub(super) fn holds_for(&self, position: u64) -> bool {
        self.since <= position
    }

    /// What a snapshot that begins now has to write; `None` for everything.
    pub(super) fn begin(&mut self) -> Option<BTreeSet<(Step, u32)>> {
        self.give_up();
        let before = std::mem::replace(self, Self::none(self.since));
        let blocks = (!before.all).then(|| before.blocks.clone());
        self.writing = Some(Box::new(before));
        blocks
    }

    /// The snapshot that was under way is whole, with this position.
    pub(super) fn finish(&mut self, position: u64) {
        self.writing = None;
        self.since = position;
    }

    /// The snapshot that was under way does not come to its end.
    pub(super) fn give_up(&mut self) {
        if let Some(before) = self.writing.take() {
            self.all |= before.all;
            before.blocks.into_iter().for_each(|(step, bucket)| self.add(step, bucket));
            if self.all {
                self.blocks.clear();
            }
        }
    }

    /// Format, position, whether all, then step and bucket of each block, big endian.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut whole = self.clone();
        whole.give_up();
        let mut out = vec![FORMAT];
        out.extend_from_slice(&whole.since.to_be_bytes());
        out.push(u8::from(whole.all));
        for (step, bucket) in &whole.blocks {
            out.push(*step as u8);
            out.extend_from_slice(&bucket.to_be_bytes());
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&FORMAT, rest) = bytes.split_first()? else { return None };
        let (since, rest) = rest.split_first_chunk::<8>()?;
        let (&all, rest) = rest.split_first()?;
        let mut changes = Self { since: u64::from_be_bytes(*since), all: all != 0, ..Self::default() };
        for block in rest.chunks(5) {
            let (&step, bucket) = block.split_first()?;
            let step = Step::ALL.into_iter().find(|known| *known as u8 == step)?;
            changes.add(step, u32::from_be_bytes(bucket.try_into().ok()?));
        }
        Some(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_written_counts_until_it_is_whole() {
        let mut changes = Changes::none(7);
        changes.add(Step::Hour, 1);
        assert_eq!(changes.begin(), Some(BTreeSet::from([(Step::Hour, 1)])));
        changes.add(Step::Day, 2);
        let stored = Changes::decode(&changes.encode()).unwrap();
        assert_eq!(stored.blocks, BTreeSet::from([(Step::Hour, 1), (Step::Day, 2)]));
        assert!(stored.holds_for(7) && stored.holds_for(8) && !stored.holds_for(6));
        let mut given_up = changes.clone();
        given_up.give_up();
        assert_eq!(given_up, stored);
        changes.finish(9);
        assert_eq!(changes.begin(), Some(BTreeSet::from([(Step::Day, 2)])));
        assert!(!changes.holds_for(8));
    }

    #[test]
    fn too_many_are_all_and_all_stays_all_until_written() {
        let mut changes = Changes::none(0);
        (0..=BLOCKS_MAX as u32).for_each(|bucket| changes.add(Step::Hour, bucket));
        assert_eq!(changes.begin(), None);
        changes.add(Step::Hour, 1);
        assert_eq!(Changes::decode(&changes.encode()).unwrap().begin(), None);
        changes.finish(5);
        assert_eq!(changes.begin(), Some(BTreeSet::from([(Step::Hour, 1)])));
        assert_eq!(Changes::unknown().begin(), None);
    }

    #[test]
    fn other_bytes_are_refused() {
        for bytes in [&[][..], &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[1, 0], &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0]]
        {
            assert_eq!(Changes::decode(bytes), None, "{bytes:?}");
        }
        assert_eq!(Changes::decode(&[1, 0, 0, 0, 0, 0, 0, 0, 3, 0]), Some(Changes::none(3)));
    }
}
