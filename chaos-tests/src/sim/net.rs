//! Who can hear whom, how long it takes, and what happens to datagrams.

use std::collections::BTreeMap;

use super::Ms;
use super::plan::Party;
use super::rng::Rng;

/// Datagrams of a bad network come this late at most.
const LATE_MS_MAX: u64 = 90_000;
/// What any mobile network loses.
const LOSS_PPM: u32 = 5_000;

#[derive(Debug)]
pub(super) struct Net {
    seed: u64,
    /// Each direction has its own chance, so that leaving one fault out of a story does not change what all others meet.
    streams: BTreeMap<(Party, Party), Rng>,
    /// How many faults cut this direction now.
    cut: BTreeMap<(Party, Party), u32>,
    lossy: BTreeMap<(Party, Party), u32>,
    echoes: u32,
    pub lost: u64,
    pub doubled: u64,
    pub late: u64,
}

impl Net {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            streams: BTreeMap::new(),
            cut: BTreeMap::new(),
            lossy: BTreeMap::new(),
            echoes: 0,
            lost: 0,
            doubled: 0,
            late: 0,
        }
    }

    pub(super) fn set_cut(&mut self, from: Party, to: Party, on: bool) {
        let count = self.cut.entry((from, to)).or_default();
        *count = if on { *count + 1 } else { count.saturating_sub(1) };
    }

    pub(super) fn set_loss(&mut self, from: Party, to: Party, percent: u32) {
        self.lossy.insert((from, to), percent);
    }

    pub(super) fn set_echoes(&mut self, percent: u32) {
        self.echoes = percent;
    }

    pub(super) fn can(&self, from: Party, to: Party) -> bool {
        self.cut.get(&(from, to)).is_none_or(|count| *count == 0)
    }

    fn stream(&mut self, from: Party, to: Party) -> &mut Rng {
        let seed = self.seed;
        let make = || Rng::new(seed, "net", (place(from) << 12) + place(to));
        self.streams.entry((from, to)).or_insert_with(make)
    }

    /// When the copies of a datagram arrive.
    pub(super) fn datagram(&mut self, from: Party, to: Party, now: Ms) -> Vec<Ms> {
        let loss_ppm = LOSS_PPM + 10_000 * self.lossy.get(&(from, to)).copied().unwrap_or_default();
        let (can, echoes) = (self.can(from, to), self.echoes);
        let rng = self.stream(from, to);
        let mut copies = Vec::new();
        let lost = rng.ppm(loss_ppm) || !can;
        if !lost {
            copies.push(now + delay(rng));
        }
        let (doubled, late) = (!lost && rng.percent(echoes), rng.percent(30));
        if doubled {
            copies.push(now + if late { rng.between(1_000, LATE_MS_MAX) } else { delay(rng) });
        }
        self.lost += u64::from(lost);
        self.doubled += u64::from(doubled);
        self.late += u64::from(doubled && late);
        copies
    }

    /// When a message of a request over TCP arrives: never, when the way is cut.
    pub(super) fn message(&mut self, from: Party, to: Party, now: Ms) -> Option<Ms> {
        if !self.can(from, to) {
            return None;
        }
        let slow = self.lossy.get(&(from, to)).copied().unwrap_or_default();
        let rng = self.stream(from, to);
        let pause = if rng.percent(slow) { rng.between(200, 3_000) } else { 0 };
        Some(now + rng.between(0, 3) + pause)
    }
}

fn place(party: Party) -> usize {
    match party {
        Party::Node(n) => 8 * n,
        Party::Device(n) => 8 * n + 1,
        Party::Clients => 2,
        Party::Etcd => 3,
        Party::Store => 4,
        Party::Provider(n) => 8 * n + 5,
    }
}

/// Of a mobile network.
fn delay(rng: &mut Rng) -> u64 {
    let base = rng.between(10, 60);
    if rng.percent(5) { base + rng.between(50, 800) } else { base }
}
