//! The rows in memory: what was touched lately, as whole values, so that a flush writes results and not increments.
//!
//! A row is read from disk when it is first touched. It knows the sequence up to which the disk had it complete, so the
//! replay after a crash adds nothing twice. Which values get a row of their own depends only on the order of events, so a
//! replay decides as the first run did.

use flotilla_protocol::id::TenantId;
use rustc_hash::FxHashMap;

use super::contribution::Contribution;
use super::counters::{Counts, encode_row};
use super::disk::DiskError;
use super::key::{BlockKey, Dimension, OTHER, PREFIX_LEN, Place, Step, place, prefix, row_key};

/// Adds without looking at what a row already holds: for a rebuild, whose rows start empty.
pub(super) const ALWAYS: u64 = u64::MAX;

/// Where rows come from that are not in memory.
pub(super) trait Stored {
    fn load(&self, key: &[u8]) -> Result<Option<(u64, Counts)>, DiskError>;
    /// How many keys start with this, `other` aside.
    fn values(&self, prefix: &[u8; PREFIX_LEN]) -> Result<u32, DiskError>;
}

/// About what a row takes without its histograms' buckets: itself, its place, its share of the maps.
const ROW_BYTES: usize = 320;

#[derive(Default)]
pub(super) struct Table {
    blocks: FxHashMap<BlockKey, Block>,
    dirty: Vec<(BlockKey, Place)>,
    bytes: usize,
}

#[derive(Default)]
struct Block {
    places: FxHashMap<Place, u32>,
    rows: Vec<Row>,
    /// Number of values with a row of their own, in memory or on disk, by dimension; counted when first needed.
    values: [Option<u32>; Dimension::ALL.len()],
    touched: bool,
}

struct Row {
    /// Every event up to this sequence was in it when it was read.
    seq: u64,
    dirty: bool,
    counts: Counts,
}

impl Row {
    fn bytes(&self) -> usize {
        ROW_BYTES + 8 * self.counts.heap_words()
    }
}

impl Table {
    /// About how much memory the rows take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a contribution of the batch `seq` to its rows, except those that already hold it.
    pub(super) fn add(&mut self, seq: u64, it: &Contribution<'_>, stored: &impl Stored) -> Result<(), DiskError> {
        let places = it.places();
        for step in Step::ALL {
            let key = BlockKey { tenant: it.tenant, step, bucket: step.bucket(it.at_ms) };
            let block = self.blocks.entry(key).or_default();
            block.touched = true;
            for (dimension, wanted) in &places {
                let (index, folded) = match block.places.get(wanted) {
                    Some(index) => (*index, false),
                    None => {
                        let before = block.rows.len();
                        let found = block.fetch(&key, *dimension, wanted, stored)?;
                        self.bytes += block.rows[before..].iter().map(Row::bytes).sum::<usize>();
                        found
                    }
                };
                let row = &mut block.rows[index as usize];
                if seq <= row.seq {
                    continue;
                }
                let words = row.counts.heap_words();
                it.add_to(&mut row.counts);
                self.bytes += 8 * (row.counts.heap_words() - words);
                if !row.dirty {
                    row.dirty = true;
                    let place = if folded { place(*dimension, &OTHER) } else { wanted.clone() };
                    self.dirty.push((key, place));
                }
            }
        }
        Ok(())
    }

    /// Keys and places of all changed rows, in the order of the keys. Each must be given to `encode`.
    pub(super) fn take_dirty(&mut self) -> Vec<(Vec<u8>, BlockKey, Place)> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut keyed: Vec<_> =
            dirty.into_iter().map(|(block, place)| (row_key(&block, &place), block, place)).collect();
        keyed.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        keyed
    }

    /// The bytes of a changed row, which is complete up to `applied`, or further when it was read so. From now on it counts as
    /// written.
    pub(super) fn encode(&mut self, block: &BlockKey, place: &Place, applied: u64, out: &mut Vec<u8>) {
        if let Some(row) = self.blocks.get_mut(block).and_then(|block| block.row(place)) {
            row.dirty = false;
            encode_row(row.seq.max(applied), &row.counts, out);
        }
    }

    /// Forgets blocks that were not touched since the last call, and everything when more than `bytes_max` are left. All rows
    /// must have been written.
    pub(super) fn shrink(&mut self, bytes_max: usize) {
        debug_assert!(self.dirty.is_empty(), "only rows that are on disk may be forgotten");
        self.blocks.retain(|_, block| std::mem::take(&mut block.touched));
        self.bytes = self.blocks.values().flat_map(|block| &block.rows).map(Row::bytes).sum();
        if self.bytes > bytes_max {
            *self = Self::default();
        }
    }

    /// Forgets the rows of tenants: they are replaced on disk. All rows must have been written.
    pub(super) fn forget(&mut self, of: impl Fn(TenantId) -> bool) {
        debug_assert!(self.dirty.is_empty(), "only rows that are on disk may be forgotten");
        self.blocks.retain(|key, _| !of(key.tenant));
        self.bytes = self.blocks.values().flat_map(|block| &block.rows).map(Row::bytes).sum();
    }

    /// The rows in memory of a tenant's dimension in a range of buckets (end exclusive). They are newer than the disk's.
    pub(super) fn overlay(
        &self,
        range: (BlockKey, u32),
        dimension: Dimension,
    ) -> impl Iterator<Item = (u32, &[u8], &Counts)> {
        let (first, end) = range;
        let wanted = move |key: &BlockKey| {
            key.tenant == first.tenant && key.step == first.step && (first.bucket..end).contains(&key.bucket)
        };
        self.blocks.iter().filter(move |(key, _)| wanted(key)).flat_map(move |(key, block)| {
            block.places.iter().filter_map(move |(place, index)| {
                let (code, value) = place.split_first()?;
                (*code == dimension as u8).then_some((key.bucket, value, &block.rows[*index as usize].counts))
            })
        })
    }
}

impl Block {
    fn row(&mut self, place: &Place) -> Option<&mut Row> {
        self.places.get(place).map(|index| &mut self.rows[*index as usize])
    }

    fn insert(&mut self, place: Place, seq: u64, counts: Counts) -> u32 {
        // A block is forgotten long before: the memory's bound is far below 2^32 rows.
        let index = self.rows.len() as u32;
        self.rows.push(Row { seq, dirty: false, counts });
        self.places.insert(place, index);
        index
    }

    /// Reads a row or makes it. True when the value has none of its own and it is its dimension's `other`.
    fn fetch(
        &mut self,
        key: &BlockKey,
        dimension: Dimension,
        wanted: &Place,
        stored: &impl Stored,
    ) -> Result<(u32, bool), DiskError> {
        if let Some((seq, counts)) = stored.load(&row_key(key, wanted))? {
            return Ok((self.insert(wanted.clone(), seq, counts), false));
        }
        if let Some(max) = dimension.values_max() {
            let known = &mut self.values[dimension as usize - 1];
            let values = match known {
                Some(values) => values,
                None => known.insert(stored.values(&prefix(key, dimension))?),
            };
            if *values >= max {
                return Ok((self.fetch_other(key, dimension, stored)?, true));
            }
            *values += 1;
        }
        Ok((self.insert(wanted.clone(), 0, Counts::default()), false))
    }

    fn fetch_other(&mut self, key: &BlockKey, dimension: Dimension, stored: &impl Stored) -> Result<u32, DiskError> {
        let other = place(dimension, &OTHER);
        if let Some(index) = self.places.get(&other) {
            return Ok(*index);
        }
        let (seq, counts) = stored.load(&row_key(key, &other))?.unwrap_or_default();
        Ok(self.insert(other, seq, counts))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::counters::{Counter, decode_row};
    use super::super::key::bucket_and_value;
    use super::*;
    use crate::domain::event::Event;
    use crate::follow::testing::{START_MS, accepted, submission, tenant};

    #[derive(Default, Clone)]
    struct Map(BTreeMap<Vec<u8>, Vec<u8>>);

    impl Stored for Map {
        fn load(&self, key: &[u8]) -> Result<Option<(u64, Counts)>, DiskError> {
            self.0.get(key).map(|row| decode_row(row).map_err(|_| DiskError::Row)).transpose()
        }

        fn values(&self, prefix: &[u8; PREFIX_LEN]) -> Result<u32, DiskError> {
            let keys = self.0.keys().filter(|key| key.starts_with(prefix) && key[PREFIX_LEN..] != OTHER);
            Ok(keys.count() as u32)
        }
    }

    fn of_campaign(n: u32) -> Event {
        let mut it = submission(tenant(1), START_MS, [0; 10]);
        it.campaign = format!("c{n:05}").into();
        accepted(it)
    }

    /// Adds events, each as a batch, and writes the changed rows for which `survives`.
    fn run(map: &mut Map, events: &[(u64, Event)], survives: impl Fn(usize) -> bool) {
        let mut table = Table::default();
        for (seq, event) in events {
            table.add(*seq, &Contribution::of_event(event), map).unwrap();
        }
        let last = events.last().map_or(0, |(seq, _)| *seq);
        for (i, (key, block, place)) in table.take_dirty().into_iter().enumerate() {
            let mut row = Vec::new();
            table.encode(&block, &place, last, &mut row);
            if survives(i) {
                map.0.insert(key, row);
            }
        }
    }

    fn accepted_by_campaign(map: &Map, tenant: TenantId) -> BTreeMap<Vec<u8>, u64> {
        let block = BlockKey { tenant, step: Step::Hour, bucket: Step::Hour.bucket(START_MS) };
        let prefix = prefix(&block, Dimension::Campaign);
        let rows = map.0.iter().filter(|(key, _)| key.starts_with(&prefix));
        rows.map(|(key, row)| {
            (bucket_and_value(key).unwrap().1.to_vec(), decode_row(row).unwrap().1.get(Counter::Accepted))
        })
        .collect()
    }

    #[test]
    fn values_beyond_the_limit_share_a_row_and_a_replay_decides_alike() {
        let max = Dimension::Campaign.values_max().unwrap();
        // The values come round three times, the last 100 of them beyond the limit.
        let numbers = (0..max + 100).chain(50..100).chain(max..max + 100);
        let events: Vec<_> = (1u64..).zip(numbers.map(of_campaign)).collect();
        let mut whole = Map::default();
        run(&mut whole, &events, |_| true);
        let rows = accepted_by_campaign(&whole, tenant(1));
        assert_eq!(rows.len() as u32, max + 1);
        assert_eq!(rows[&OTHER.to_vec()], 200);
        assert_eq!(rows[&b"c00050".to_vec()], 2);

        // The first half is written whole; of the second flush only a part, and then it is done again.
        for kept in [2, 3, 7] {
            let half = events.len() / 2;
            let mut crashed = Map::default();
            run(&mut crashed, &events[..half], |_| true);
            run(&mut crashed, &events[half..], |row| row % kept == 0);
            run(&mut crashed, &events[half..], |_| true);
            let counts = |map: &Map| {
                map.0.iter().map(|(key, row)| (key.clone(), decode_row(row).unwrap().1)).collect::<Vec<_>>()
            };
            assert!(counts(&crashed) == counts(&whole), "every {kept}th row survived");
        }
    }

    #[test]
    fn forgotten_rows_come_back_from_disk() {
        let mut map = Map::default();
        let mut table = Table::default();
        table.add(1, &Contribution::of_event(&of_campaign(1)), &map).unwrap();
        for (key, block, place) in table.take_dirty() {
            let mut row = Vec::new();
            table.encode(&block, &place, 1, &mut row);
            map.0.insert(key, row);
        }
        table.shrink(usize::MAX);
        // Total, campaign, priority and country, by hour and by day.
        assert_eq!(table.bytes(), 8 * ROW_BYTES, "touched since the last time");
        table.shrink(usize::MAX);
        assert_eq!(table.bytes(), 0);
        table.add(1, &Contribution::of_event(&of_campaign(1)), &map).unwrap();
        assert!(table.take_dirty().is_empty(), "the rows hold batch 1 already");
    }
}
