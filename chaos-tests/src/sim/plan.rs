//! What happens to the world from outside, all of it drawn from the seed before the start: requests and faults with their
//! times. A plan is a list, so a story can be shrunk by leaving parts of it out.

use flotilla_controller::domain::message::{Duplicates, Priority};

use super::Ms;
use super::provider;
use super::rng::Rng;

/// Two parties that may not hear each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    Node(usize),
    Device(usize),
    Clients,
    Etcd,
    Store,
    /// The service behind an account.
    Provider(usize),
}

/// What may be the matter with an online service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It refuses connections.
    Closed,
    /// It takes requests, and does and says nothing.
    Mute,
    Slow,
    /// It refuses everything: no credit.
    Refuses,
}

#[derive(Clone, Debug)]
pub struct Submit {
    pub tenant: usize,
    pub messages: usize,
    pub segments: u8,
    pub priority: Priority,
    pub duplicates: Duplicates,
    pub with_key: bool,
    /// To one device or account, by its place among the tenant's.
    pub pinned: Option<usize>,
    /// So long after the request.
    pub due_ms: u64,
    pub valid_ms: u64,
    /// Whom the client asks first.
    pub node: usize,
    /// It has the tag that a rule looks for.
    pub tagged: bool,
    /// It names the plan `chain`, where its tenant has one.
    pub names_plan: bool,
}

#[derive(Clone, Debug)]
pub enum What {
    Submit(Submit),
    /// The first message of an earlier request is cancelled.
    Cancel {
        nth: usize,
    },
    /// A device receives a message.
    Inbound {
        device: usize,
    },
    /// kill -9; it starts again after a while.
    CrashNode {
        node: usize,
    },
    CrashDevice {
        device: usize,
    },
    /// SIGSTOP; it goes on after a while, with its old belief.
    PauseNode {
        node: usize,
    },
    PauseDevice {
        device: usize,
    },
    /// A planned hand-over of everything.
    DrainNode {
        node: usize,
    },
    /// The modem forgets what it was sending.
    CrashModem {
        device: usize,
    },
    SimFails {
        device: usize,
    },
    /// The device's address changes.
    Migrate {
        device: usize,
    },
    /// Nothing gets from the one to the other; back it may.
    Cut {
        from: Party,
        to: Party,
    },
    /// Both ways.
    Part {
        one: Party,
        other: Party,
    },
    Lossy {
        from: Party,
        to: Party,
        percent: u32,
    },
    /// Datagrams are doubled, and some come very late.
    Echoes {
        percent: u32,
    },
    SlowStore {
        factor: u64,
    },
    StoreDown,
    /// Commits whose outcome is not told.
    UnknownCommits {
        percent: u32,
    },
    EtcdDown,
    /// Watchers are told nothing, or late.
    DeafWatches,
    WallJump {
        node: usize,
        by_ms: i64,
    },
    SlowDisk {
        device: usize,
    },
    /// Somebody writes to an account's sender.
    ProviderInbound {
        account: usize,
    },
    ProviderTrouble {
        account: usize,
        trouble: Trouble,
    },
}

impl What {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Submit(_) => "request",
            Self::Cancel { .. } => "cancel",
            Self::Inbound { .. } => "inbound",
            Self::CrashNode { .. } => "controller killed",
            Self::CrashDevice { .. } => "device killed",
            Self::PauseNode { .. } => "controller paused",
            Self::PauseDevice { .. } => "device paused",
            Self::DrainNode { .. } => "controller drained",
            Self::CrashModem { .. } => "modem crashed",
            Self::SimFails { .. } => "SIM not ready",
            Self::Migrate { .. } => "address changed",
            Self::Cut { .. } => "cut one way",
            Self::Part { .. } => "partition",
            Self::Lossy { .. } => "lossy one way",
            Self::Echoes { .. } => "late duplicates",
            Self::SlowStore { .. } => "slow store",
            Self::StoreDown => "store down",
            Self::UnknownCommits { .. } => "unknown commits",
            Self::EtcdDown => "etcd down",
            Self::DeafWatches => "deaf watches",
            Self::WallJump { .. } => "clock set",
            Self::SlowDisk { .. } => "slow disk",
            Self::ProviderInbound { .. } => "inbound at a provider",
            Self::ProviderTrouble { trouble, .. } => match trouble {
                Trouble::Closed | Trouble::Mute => "provider down",
                Trouble::Slow => "provider slow",
                Trouble::Refuses => "provider refuses",
            },
        }
    }

    pub fn is_fault(&self) -> bool {
        !matches!(self, Self::Submit(_) | Self::Cancel { .. } | Self::Inbound { .. } | Self::ProviderInbound { .. })
    }
}

#[derive(Clone, Debug)]
pub struct Op {
    pub at: Ms,
    /// How long it lasts, where it does.
    pub for_ms: u64,
    pub what: What,
}

#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub nodes: usize,
    pub devices: usize,
    pub tenants: usize,
    pub minutes: u64,
}

pub(super) fn draw(seed: u64, size: Size) -> Vec<Op> {
    let mut rng = Rng::new(seed, "plan", 0);
    let end = size.minutes * 60_000;
    // Some seeds are quiet, some are hell; some see few kinds of faults, so that one kind can act alone.
    let faults = end * rng.between(1, 12) / 120_000;
    let kinds: Vec<u64> = match rng.below(3) {
        0 => (0..2).map(|_| rng.below(FAULTS)).collect(),
        1 => (0..5).map(|_| rng.below(FAULTS)).collect(),
        _ => (0..FAULTS).collect(),
    };
    let requests = (end * rng.between(4, 20) / 60_000).max(10);
    let mut ops = Vec::new();
    for _ in 0..requests {
        ops.push(Op { at: rng.between(5_000, end), for_ms: 0, what: What::Submit(submit(&mut rng, size)) });
    }
    for _ in 0..requests / 10 {
        let nth = rng.index(requests as usize);
        ops.push(Op { at: rng.between(5_000, end), for_ms: 0, what: What::Cancel { nth } });
    }
    for _ in 0..requests / 6 {
        let device = rng.index(size.devices);
        ops.push(Op { at: rng.between(1_000, end), for_ms: 0, what: What::Inbound { device } });
    }
    for _ in 0..faults {
        let kind = kinds[rng.index(kinds.len())];
        ops.push(fault(kind, &mut rng, size, end));
    }
    // From a stream of their own: all others stay as they were.
    let mut rng = Rng::new(seed, "provider plan", 0);
    let accounts = provider::draw(seed, size).len();
    for _ in 0..if accounts > 0 { requests / 8 } else { 0 } {
        let account = rng.index(accounts);
        let what = What::ProviderInbound { account };
        ops.push(Op { at: rng.between(1_000, end), for_ms: 0, what });
    }
    for _ in 0..if accounts > 0 { end * rng.between(0, 6) / 120_000 } else { 0 } {
        ops.push(provider_fault(&mut rng, size, accounts, end));
    }
    let mut rng = Rng::new(seed, "wishes", 0);
    for op in &mut ops {
        if let What::Submit(submit) = &mut op.what {
            (submit.tagged, submit.names_plan) = (rng.percent(25), rng.percent(10));
        }
    }
    ops.sort_by_key(|op| op.at);
    ops
}

fn provider_fault(rng: &mut Rng, size: Size, accounts: usize, end: Ms) -> Op {
    let at = rng.between(2_000, end);
    let account = rng.index(accounts);
    let (node, for_ms) = (Party::Node(rng.index(size.nodes)), rng.between(1_000, 60_000));
    let trouble = |trouble| What::ProviderTrouble { account, trouble };
    let what = match rng.below(7) {
        0 => trouble(Trouble::Closed),
        1 => trouble(Trouble::Mute),
        2 | 3 => trouble(Trouble::Slow),
        4 => trouble(Trouble::Refuses),
        5 => What::Cut { from: Party::Provider(account), to: node },
        _ => What::Part { one: node, other: Party::Provider(account) },
    };
    Op { at, for_ms, what }
}

fn submit(rng: &mut Rng, size: Size) -> Submit {
    let priority = Priority::ALL[rng.index(4)];
    let duplicates = if rng.percent(40) { Duplicates::Allowed } else { Duplicates::Never };
    let messages = if rng.percent(10) { rng.between(5, 20) } else { rng.between(1, 2) } as usize;
    Submit {
        tenant: rng.index(size.tenants),
        messages,
        segments: if rng.percent(20) { 3 } else { 1 },
        priority,
        duplicates,
        with_key: rng.percent(80),
        pinned: rng.percent(20).then(|| rng.index(4)),
        due_ms: if rng.percent(15) { rng.between(1_000, 150_000) } else { 0 },
        valid_ms: rng.between(20_000, 400_000),
        node: rng.index(size.nodes),
        tagged: false,
        names_plan: false,
    }
}

const FAULTS: u64 = 20;

fn fault(kind: u64, rng: &mut Rng, size: Size, end: Ms) -> Op {
    let at = rng.between(2_000, end);
    let node = rng.index(size.nodes);
    let device = rng.index(size.devices);
    let short = rng.between(200, 8_000);
    let long = rng.between(2_000, 60_000);
    let (what, for_ms) = match kind {
        0 => (What::CrashNode { node }, rng.between(500, 20_000)),
        1 => (What::CrashDevice { device }, long),
        2 => (What::PauseNode { node }, rng.between(500, 25_000)),
        3 => (What::PauseDevice { device }, rng.between(500, 120_000)),
        4 => (What::DrainNode { node }, long),
        5 => (What::CrashModem { device }, 0),
        6 => (What::SimFails { device }, long),
        7 => (What::Migrate { device }, 0),
        8 | 9 => {
            let (from, to) = pair(rng, size);
            (What::Cut { from, to }, long)
        }
        10 | 11 => {
            let (one, other) = pair(rng, size);
            (What::Part { one, other }, long)
        }
        12 => {
            let (from, to) = pair(rng, size);
            (What::Lossy { from, to, percent: rng.between(10, 70) as u32 }, long)
        }
        13 => (What::Echoes { percent: rng.between(2, 40) as u32 }, long),
        14 => (What::SlowStore { factor: rng.between(10, 400) }, short),
        15 => (What::StoreDown, short),
        16 => (What::UnknownCommits { percent: rng.between(5, 60) as u32 }, long),
        17 => (What::EtcdDown, rng.between(500, 15_000)),
        18 if rng.percent(50) => (What::DeafWatches, long),
        18 => (What::WallJump { node, by_ms: rng.between(0, 8_000) as i64 - 4_000 }, 0),
        _ => (What::SlowDisk { device }, long),
    };
    Op { at, for_ms, what }
}

fn pair(rng: &mut Rng, size: Size) -> (Party, Party) {
    let one = Party::Node(rng.index(size.nodes));
    let other = match rng.below(6) {
        0 => Party::Etcd,
        1 => Party::Store,
        2 => Party::Clients,
        3 => Party::Node(rng.index(size.nodes)),
        _ => Party::Device(rng.index(size.devices)),
    };
    if rng.percent(50) { (one, other) } else { (other, one) }
}
