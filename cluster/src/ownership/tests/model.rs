//! Several machines over one store, with clocks that run at different speeds, requests and answers that are late, lost or
//! carried out after their sender gave up on them, nodes that stop, pause and are cut off. Checked at every instant: no
//! two nodes lead a shard by their own clocks, and epochs grow. Checked at the end: calm, and everything where it belongs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::*;

const SHARDS: u16 = 16;
const NODES: usize = 4;
const FAULTS_MS: u64 = 60_000;
/// Long enough for the longest hold-down that the faults can have led to.
const HEALED_MS: u64 = 60_000;
const CALM_MS: u64 = 120_000;
/// A clock may be wrong by this many parts in a thousand; a margin of a tenth allows for two such clocks.
const DRIFT_PER_MILLE: u64 = 40;
const LOST_MS: u64 = 500;

/// SplitMix64, so that a seed means the same run for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// The store: what etcd does, and no more.
#[derive(Default)]
struct Toy {
    revision: u64,
    next_lease: i64,
    /// When each lease ends, by the store's own clock.
    leases: BTreeMap<LeaseId, u64>,
    members: BTreeMap<NodeName, (LeaseId, Seen)>,
    leaders: BTreeMap<u16, Held>,
}

#[derive(Debug, Clone)]
enum Request {
    Register { old: Option<LeaseId> },
    Renew(LeaseId),
    Revoke(LeaseId),
    Campaign(ShardId, LeaseId),
    Resign(ShardId, LeaseId, Epoch),
    Read,
}

#[derive(Debug, Clone)]
enum Answer {
    Lease { lease: LeaseId, ttl_ms: u64 },
    Over(LeaseId),
    Refused,
    Input(Input),
    Done,
}

impl Toy {
    fn expire(&mut self, now_ms: u64) {
        let over = self.leases.iter().filter(|(_, until)| now_ms >= **until).map(|(lease, _)| *lease);
        for lease in over.collect::<Vec<_>>() {
            self.revoke(lease);
        }
    }

    fn revoke(&mut self, lease: LeaseId) {
        if self.leases.remove(&lease).is_some() {
            self.revision += 1;
            self.members.retain(|_, (held, _)| *held != lease);
            self.leaders.retain(|_, held| held.lease != lease);
        }
    }

    fn take(&mut self, from: &NodeName, request: Request, now_ms: u64) -> Answer {
        self.expire(now_ms);
        match request {
            Request::Register { old } => self.register(from, old, now_ms),
            Request::Renew(lease) => match self.leases.get_mut(&lease) {
                Some(until) => {
                    *until = now_ms + TTL_MS;
                    Answer::Lease { lease, ttl_ms: TTL_MS }
                }
                None => Answer::Over(lease),
            },
            Request::Revoke(lease) => {
                self.revoke(lease);
                Answer::Done
            }
            Request::Campaign(shard, lease) => Answer::Input(self.campaign(from, shard, lease)),
            Request::Resign(shard, lease, epoch) => {
                let same = |held: &Held| held.lease == lease && held.epoch == epoch;
                if self.leaders.get(&shard.0).is_some_and(same) {
                    self.revision += 1;
                    self.leaders.remove(&shard.0);
                }
                Answer::Done
            }
            Request::Read => Answer::Input(read(Snapshot {
                revision: self.revision,
                members: self.members.values().map(|(_, seen)| seen.clone()).collect(),
                leaders: (0..SHARDS).map(|shard| self.leaders.get(&shard).cloned()).collect(),
                pins: Vec::new(),
            })),
        }
    }

    fn register(&mut self, from: &NodeName, old: Option<LeaseId>, now_ms: u64) -> Answer {
        let joined = match self.members.get(from) {
            Some((held, _)) if Some(*held) != old => return Answer::Refused,
            Some((_, seen)) => Some(seen.joined),
            None => None,
        };
        self.revision += 1;
        self.next_lease += 1;
        let lease = LeaseId(self.next_lease);
        let seen = Seen { name: from.clone(), draining: false, joined: joined.unwrap_or(self.revision) };
        self.members.insert(from.clone(), (lease, seen));
        if let Some(old) = old {
            self.revoke(old);
        }
        self.leases.insert(lease, now_ms + TTL_MS);
        Answer::Lease { lease, ttl_ms: TTL_MS }
    }

    fn campaign(&mut self, from: &NodeName, shard: ShardId, lease: LeaseId) -> Input {
        if !self.leases.contains_key(&lease) {
            return Input::Unclear { shard, lease };
        }
        match self.leaders.get(&shard.0) {
            Some(held) if held.lease == lease => Input::Won { shard, lease, epoch: held.epoch, revision: held.epoch.0 },
            Some(_) => Input::Taken { shard, lease, revision: self.revision },
            None => {
                self.revision += 1;
                let (epoch, revision) = (Epoch(self.revision), self.revision);
                self.leaders.insert(shard.0, Held { node: from.clone(), lease, epoch });
                Input::Won { shard, lease, epoch, revision }
            }
        }
    }
}

struct Node {
    name: NodeName,
    machine: Ownership,
    /// Its clock: where it began, and how fast it runs in thousandths.
    offset_ms: u64,
    speed: u64,
    /// What was on the way to an earlier life is lost.
    life: u64,
    up: bool,
    paused_until_ms: u64,
    cut_until_ms: u64,
    lease: Option<LeaseId>,
    /// The lease whose member key the next registration may replace.
    old: Option<LeaseId>,
    registering: bool,
}

impl Node {
    fn clock(&self, now_ms: u64) -> u64 {
        self.offset_ms + now_ms * self.speed / 1_000
    }
}

#[derive(Debug, Clone)]
enum Event {
    /// A request arrives at the store.
    Ask {
        node: usize,
        life: u64,
        request: Request,
        sent_ms: u64,
        answer: bool,
    },
    /// Its answer arrives, or the time for it is over.
    Hear {
        node: usize,
        life: u64,
        request: Request,
        sent_ms: u64,
        answer: Option<Answer>,
    },
    /// The node looks at its clock, renews and reads.
    Beat {
        node: usize,
        life: u64,
        renew: bool,
    },
    Fault,
}

struct World {
    random: Random,
    now_ms: u64,
    serial: u64,
    store: Toy,
    store_speed: u64,
    nodes: Vec<Node>,
    events: BTreeMap<(u64, u64), Event>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    highest: BTreeMap<u16, Epoch>,
    changes: usize,
    faults: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut speed = || 1_000 - DRIFT_PER_MILLE + random.below(2 * DRIFT_PER_MILLE + 1);
        let (store_speed, speeds) = (speed(), [(); NODES].map(|()| speed()));
        let mut world = Self {
            random,
            now_ms: 0,
            serial: 0,
            store: Toy::default(),
            store_speed,
            nodes: Vec::new(),
            events: BTreeMap::new(),
            queue: BinaryHeap::new(),
            highest: BTreeMap::new(),
            changes: 0,
            faults: 0,
        };
        for (number, speed) in speeds.into_iter().enumerate() {
            let name = name(&format!("node-{number}"));
            let offset_ms = world.random.below(1_000_000);
            let machine = Ownership::new(name.clone(), settings());
            let node = Node {
                name,
                machine,
                offset_ms,
                speed,
                life: 0,
                up: true,
                paused_until_ms: 0,
                cut_until_ms: 0,
                lease: None,
                old: None,
                registering: false,
            };
            world.nodes.push(node);
            let start_ms = world.random.below(3_000);
            world.at(start_ms, Event::Beat { node: number, life: 0, renew: true });
            world.at(start_ms, Event::Beat { node: number, life: 0, renew: false });
        }
        world.at(3_000, Event::Fault);
        world
    }

    fn at(&mut self, at_ms: u64, event: Event) {
        self.serial += 1;
        self.events.insert((at_ms, self.serial), event);
        self.queue.push(Reverse((at_ms, self.serial)));
    }

    fn run_until(&mut self, until_ms: u64) {
        while let Some(Reverse(key)) = self.queue.peek().copied().filter(|Reverse((at, _))| *at <= until_ms) {
            self.queue.pop();
            let event = self.events.remove(&key).unwrap();
            // Before it happens: whatever ended by time alone has ended by now.
            self.check_one_leader(self.now_ms.midpoint(key.0));
            self.now_ms = key.0;
            self.happen(event);
            self.check_one_leader(self.now_ms);
        }
        self.now_ms = until_ms;
    }

    fn check_one_leader(&self, now_ms: u64) {
        for shard in (0..SHARDS).map(ShardId) {
            let leads = |node: &&Node| node.up && node.machine.leads(shard, node.clock(now_ms)).is_some();
            let leaders = self.nodes.iter().filter(leads).map(|node| &node.name).collect::<Vec<_>>();
            assert!(leaders.len() < 2, "{leaders:?} lead shard {shard} at {now_ms}");
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Ask { node, life, request, sent_ms, answer } => {
                let store_ms = self.now_ms * self.store_speed / 1_000;
                let reply = self.store.take(&self.nodes[node].name.clone(), request.clone(), store_ms);
                let cut = self.now_ms < self.nodes[node].cut_until_ms;
                let (wait_ms, reply) = if cut { (LOST_MS, None) } else { (self.delay(), Some(reply)) };
                if answer {
                    let hear = Event::Hear { node, life, request, sent_ms, answer: reply };
                    self.at(self.now_ms + wait_ms, hear);
                }
            }
            Event::Hear { node, life, .. } | Event::Beat { node, life, .. } => {
                let (paused_ms, alive) = (self.nodes[node].paused_until_ms, self.nodes[node].life == life);
                if !alive {
                } else if self.now_ms < paused_ms {
                    self.at(paused_ms, event);
                } else if let Event::Hear { request, sent_ms, answer, .. } = event {
                    self.hear(node, request, sent_ms, answer);
                } else if let Event::Beat { renew, .. } = event {
                    self.beat(node, renew);
                }
            }
            Event::Fault => self.fault(),
        }
    }

    /// Mostly quick, sometimes slow.
    fn delay(&mut self) -> u64 {
        if self.faulty() && self.random.below(20) == 0 { self.random.below(400) } else { 1 + self.random.below(5) }
    }

    fn faulty(&self) -> bool {
        self.now_ms < FAULTS_MS
    }

    fn ask(&mut self, node: usize, request: Request) {
        let sent_ms = self.nodes[node].clock(self.now_ms);
        let life = self.nodes[node].life;
        let cut = self.now_ms < self.nodes[node].cut_until_ms;
        let (lost, unanswered) =
            if self.faulty() { (cut || self.random.below(30) == 0, self.random.below(30) == 0) } else { (cut, false) };
        if !lost {
            // One whose answer does not come may be carried out when nobody thinks of it any more.
            let late_ms = if unanswered { self.random.below(3_000) } else { 0 };
            let at_ms = self.now_ms + self.delay() + late_ms;
            self.at(at_ms, Event::Ask { node, life, request: request.clone(), sent_ms, answer: !unanswered });
        }
        if lost || unanswered {
            self.at(self.now_ms + LOST_MS, Event::Hear { node, life, request, sent_ms, answer: None });
        }
    }

    fn hear(&mut self, node: usize, request: Request, sent_ms: u64, answer: Option<Answer>) {
        let input = match (request, answer) {
            (Request::Register { .. }, Some(Answer::Lease { lease, ttl_ms })) => {
                let host = &mut self.nodes[node];
                (host.lease, host.old, host.registering) = (Some(lease), Some(lease), false);
                self.ask(node, Request::Read);
                Input::Granted { lease, sent_ms, ttl_ms }
            }
            (Request::Register { .. }, _) => {
                self.nodes[node].registering = false;
                return;
            }
            (Request::Renew(_), Some(Answer::Lease { lease, ttl_ms })) => Input::Renewed { lease, sent_ms, ttl_ms },
            (Request::Renew(_), Some(Answer::Over(lease))) => Input::Ended { lease },
            (Request::Campaign(shard, lease), None) => Input::Unclear { shard, lease },
            (request @ Request::Resign(..), None) => return self.ask(node, request),
            (_, Some(Answer::Input(input))) => input,
            _ => return,
        };
        self.feed(node, input);
    }

    fn beat(&mut self, node: usize, renew: bool) {
        let life = self.nodes[node].life;
        self.feed(node, Input::Tick);
        if renew {
            let host = &mut self.nodes[node];
            match host.lease {
                Some(lease) => self.ask(node, Request::Renew(lease)),
                None if !host.registering => {
                    host.registering = true;
                    let old = host.old;
                    self.ask(node, Request::Register { old });
                }
                None => {}
            }
            self.at(self.now_ms + TTL_MS / 3, Event::Beat { node, life, renew });
        } else {
            self.ask(node, Request::Read);
            self.at(self.now_ms + 200, Event::Beat { node, life, renew });
        }
    }

    fn feed(&mut self, node: usize, input: Input) {
        let clock_ms = self.nodes[node].clock(self.now_ms);
        for effect in self.nodes[node].machine.handle(input, clock_ms) {
            match effect {
                Effect::Campaign { shard, lease } => self.ask(node, Request::Campaign(shard, lease)),
                Effect::Resign { shard, lease, epoch } => self.ask(node, Request::Resign(shard, lease, epoch)),
                Effect::Renounce { lease } => {
                    if self.nodes[node].lease == Some(lease) {
                        self.nodes[node].lease = None;
                    }
                    self.ask(node, Request::Revoke(lease));
                }
                Effect::Leadership(change) => self.change(node, change),
            }
        }
    }

    fn change(&mut self, node: usize, change: Leadership) {
        self.changes += 1;
        match change {
            Leadership::Gained { shard, epoch } => {
                let highest = self.highest.insert(shard.0, epoch);
                assert!(highest < Some(epoch), "shard {shard}: {epoch} after {highest:?}");
            }
            Leadership::Drain { shard } => self.feed(node, Input::Released { shard }),
            Leadership::Lost { .. } => {}
        }
    }

    fn fault(&mut self) {
        if !self.faulty() {
            return self.nodes.iter().position(|node| !node.up).map_or((), |node| self.start(node));
        }
        self.faults += 1;
        let node = self.random.below(NODES as u64) as usize;
        let span_ms = self.random.below(5_000);
        let until_ms = self.now_ms + span_ms;
        match self.random.below(4) {
            0 => self.nodes[node].paused_until_ms = until_ms,
            1 => self.nodes[node].cut_until_ms = until_ms,
            _ if !self.nodes[node].up => self.start(node),
            2 => {
                let host = &mut self.nodes[node];
                host.up = false;
                host.life += 1;
            }
            // A shard stops by itself.
            _ => {
                let shard = ShardId(self.random.below(SHARDS.into()) as u16);
                if self.now_ms >= self.nodes[node].paused_until_ms {
                    self.feed(node, Input::Released { shard });
                }
            }
        }
        let next_ms = self.random.below(2_500);
        self.at(self.now_ms + next_ms, Event::Fault);
        self.at(FAULTS_MS + 1, Event::Fault);
    }

    fn start(&mut self, node: usize) {
        let host = &mut self.nodes[node];
        host.machine = Ownership::new(host.name.clone(), settings());
        (host.up, host.lease, host.old, host.registering) = (true, None, None, false);
        host.life += 1;
        let life = host.life;
        for renew in [true, false] {
            self.at(self.now_ms, Event::Beat { node, life, renew });
        }
    }

    fn check_shared_out(&self) {
        for shard in (0..SHARDS).map(ShardId) {
            let wanted = self.nodes.iter().max_by_key(|node| weight(shard, &node.name)).unwrap();
            let leads = wanted.machine.leads(shard, wanted.clock(self.now_ms));
            let known = self.nodes.iter().map(|node| (&node.name, &node.machine.shards[usize::from(shard.0)]));
            let key = self.store.leaders.get(&shard.0);
            let known = known.collect::<Vec<_>>();
            assert!(leads.is_some(), "{} does not lead shard {shard}; its key: {key:?}; {known:#?}", wanted.name);
        }
    }
}

fn settings() -> Settings {
    Settings { hold_down_max_ms: 20_000, ..Settings::new(SHARDS) }
}

/// FLOTILLA_MODEL_SEEDS runs more of them, FLOTILLA_MODEL_SEED only that one.
#[test]
fn there_is_never_more_than_one_leader_and_in_the_end_everything_is_shared_out() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("FLOTILLA_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FLOTILLA_MODEL_SEEDS").unwrap_or(20),
    };
    let (mut faults, mut changes, runs) = (0, 0, seeds.clone().count());
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.run_until(FAULTS_MS + HEALED_MS);
            world.check_shared_out();
            let before = world.changes;
            world.run_until(FAULTS_MS + HEALED_MS + CALM_MS);
            assert_eq!(world.changes, before, "changes without a reason");
            (world.faults, world.changes)
        });
        let Ok((some_faults, some_changes)) = run else {
            panic!("seed {seed}; run it with FLOTILLA_MODEL_SEED={seed}")
        };
        faults += some_faults;
        changes += some_changes;
    }
    println!("{runs} seeds, {faults} faults, {changes} changes of leadership");
}
