//! A controller: the real ownership machine, the real lives of its shards with their inboxes and batches, the real rows
//! follower; and small models of what lies between them and the network: sessions, requests, etcd's client.

mod accounts;
mod api;
mod coord;
mod lead;
mod sessions;

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_cluster::ownership::Ownership;
use flotilla_controller::domain::Now;
use flotilla_controller::domain::shard::{Effect, Input, ShardSettings};
use flotilla_controller::follow::RowsFollower;
use flotilla_protocol::id::ShardId;
use parking_lot::Mutex;

use super::Ms;
use super::clock::{Clock, DRIFT_PPM_MAX};
use super::conn::Packet;
use super::etcd::{Answer, Ask};
use super::plan::{Party, Size};
use super::provider::{Answer as ServiceAnswer, Call as Callback};
use super::rng::Rng;
use super::site::Site;
use super::world::{Cx, Event};
use super::writes::Written;

pub(super) use api::{Call, Reply, Wish};

/// What happens to a controller.
#[derive(Debug)]
pub(super) enum NodeEvent {
    Datagram {
        from: (usize, u32),
        packet: Packet,
    },
    LinkTimer {
        conn: u64,
    },
    /// The catalog has answered to a `Hello`.
    Admitted {
        conn: u64,
    },
    Watch,
    /// Time to look after lease and ownership.
    Coordinate,
    EtcdAnswer {
        id: u64,
        answer: Answer,
    },
    EtcdTimeout {
        id: u64,
    },
    /// A shard's inbox has something.
    Work {
        led: u64,
    },
    Wake {
        led: u64,
        run: u64,
    },
    Start {
        led: u64,
        run: u64,
    },
    /// A step of reading what a shard starts from.
    CatchUp {
        led: u64,
        run: u64,
        last_seq: u64,
    },
    Restore {
        led: u64,
        run: u64,
        last_seq: u64,
    },
    Read {
        led: u64,
        run: u64,
        read: Box<Effect>,
        tries: u32,
    },
    Answered {
        led: u64,
        run: u64,
        input: Box<Input>,
    },
    Follow {
        led: u64,
    },
    Flush {
        led: u64,
    },
    Written {
        id: u64,
        written: Written,
    },
    WriteTimeout {
        id: u64,
    },
    AskOutcome {
        id: u64,
    },
    Call {
        call: Call,
    },
    LookedUp {
        call: Call,
    },
    CallTimeout {
        number: u64,
    },
    /// Another controller has answered a forwarded call.
    Forwarded {
        number: u64,
        reply: Reply,
    },
    /// The supervisor of the accounts' sessions looks.
    Accounts,
    AccountWakes {
        account: usize,
        session: u64,
    },
    ServiceAnswer {
        request: u64,
        answer: ServiceAnswer,
    },
    ServiceTimeout {
        request: u64,
    },
    KeepIds {
        request: u64,
        until: Ms,
    },
    IdsKept {
        request: u64,
    },
    /// Time to ask a maker for news; and what it may be asked about.
    Poll {
        account: usize,
        session: u64,
    },
    Pollable {
        account: usize,
        session: u64,
    },
    CalledBack {
        call: Callback,
    },
    News {
        call: Callback,
    },
}

pub(super) struct Node {
    pub(super) number: usize,
    rng: Rng,
    account_rng: Rng,
    clock: Clock,
    settings: ShardSettings,
    size: Size,
    site: Arc<Site>,
    ttl_ms: u64,
    /// Counts its starts; what belongs to an earlier one is gone.
    life: u32,
    is_up: bool,
    paused_until: Option<Ms>,
    waiting: Vec<(Option<u32>, NodeEvent)>,
    /// All that a crash forgets.
    mind: Mind,
}

struct Mind {
    next: u64,
    ownership: Ownership,
    lease: coord::Lease,
    asked: BTreeMap<u64, (Ask, u64)>,
    coordinate_at: Ms,
    led: BTreeMap<u64, lead::Led>,
    follower: Option<RowsFollower>,
    /// Writes under way.
    writes: BTreeMap<u64, lead::UnderWay>,
    links: BTreeMap<u64, sessions::Link>,
    sinks: Arc<Mutex<Vec<sessions::Outgoing>>>,
    last_session: u64,
    accounts: BTreeMap<usize, accounts::Session>,
    account_sinks: Arc<Mutex<Vec<accounts::Outgoing>>>,
    requests: BTreeMap<u64, accounts::Request>,
    calls: BTreeMap<u64, api::Waiting>,
    /// Who leads which shard, as last read.
    leaders: Vec<Option<usize>>,
}

impl Mind {
    fn new(number: usize, shards: u16) -> Self {
        Self {
            next: 0,
            ownership: coord::ownership(number, shards),
            lease: coord::Lease::default(),
            asked: BTreeMap::new(),
            coordinate_at: Ms::MAX,
            led: BTreeMap::new(),
            follower: None,
            writes: BTreeMap::new(),
            links: BTreeMap::new(),
            sinks: Arc::default(),
            last_session: 0,
            accounts: BTreeMap::new(),
            account_sinks: Arc::default(),
            requests: BTreeMap::new(),
            calls: BTreeMap::new(),
            leaders: vec![None; usize::from(shards)],
        }
    }
}

impl Node {
    pub(super) fn new(seed: u64, number: usize, site: &Arc<Site>, shards: u16, ttl_ms: u64) -> Self {
        let mut rng = Rng::new(seed, "node", number);
        let clock = Clock {
            origin_ms: rng.between(1_000_000, 90_000_000),
            drift_ppm: rng.between(0, 2 * DRIFT_PPM_MAX) as i64 - DRIFT_PPM_MAX as i64,
            wall_off_ms: rng.between(0, 1_000) as i64 - 500,
        };
        Self {
            number,
            settings: settings(seed),
            rng,
            account_rng: Rng::new(seed, "accounts of a node", number),
            clock,
            size: site.size,
            site: Arc::clone(site),
            ttl_ms,
            life: 0,
            is_up: false,
            paused_until: None,
            waiting: Vec::new(),
            mind: Mind::new(number, shards),
        }
    }

    pub(super) fn start(&mut self, cx: &mut Cx) {
        if self.is_up {
            return;
        }
        self.is_up = true;
        self.life += 1;
        let shards = self.mind.leaders.len() as u16;
        self.mind = Mind::new(self.number, shards);
        // Numbers of an earlier life are never met again.
        self.mind.next = u64::from(self.life) << 32;
        cx.log(|| format!("c{} starts", self.number));
        self.coordinate(cx);
        self.settle(cx);
    }

    pub(super) fn crash(&mut self, down_ms: u64, cx: &mut Cx) {
        if !self.is_up {
            return;
        }
        self.is_up = false;
        self.life += 1;
        self.paused_until = None;
        self.waiting.clear();
        let shards = self.mind.leaders.len() as u16;
        self.mind = Mind::new(self.number, shards);
        cx.after(down_ms, Event::Starts(Party::Node(self.number)));
    }

    pub(super) fn pause(&mut self, for_ms: u64, cx: &mut Cx) {
        let until = cx.now + for_ms;
        self.paused_until = Some(self.paused_until.unwrap_or(0).max(until));
        cx.at(until, Event::Wakes(Party::Node(self.number)));
    }

    /// Goes on where it was stopped, with everything that has come meanwhile.
    pub(super) fn wake(&mut self, cx: &mut Cx) {
        if self.paused_until.is_none_or(|until| until > cx.now) {
            return;
        }
        self.paused_until = None;
        cx.log(|| format!("c{} goes on", self.number));
        for (life, event) in std::mem::take(&mut self.waiting) {
            self.handle(life, event, cx);
        }
    }

    pub(super) fn set_wall(&mut self, by_ms: i64) {
        self.clock.wall_off_ms = (self.clock.wall_off_ms + by_ms).clamp(-5_000, 5_000);
    }

    pub(super) fn handle(&mut self, life: Option<u32>, event: NodeEvent, cx: &mut Cx) {
        if !self.is_up || life.is_some_and(|life| life != self.life) {
            return;
        }
        if self.paused_until.is_some() {
            return self.waiting.push((life, event));
        }
        match event {
            NodeEvent::Datagram { from, packet } => self.datagram(from, packet, cx),
            NodeEvent::LinkTimer { conn } => self.link_timer(conn, cx),
            NodeEvent::Admitted { conn } => self.admitted(conn, cx),
            NodeEvent::Watch => self.read_etcd(cx),
            NodeEvent::Coordinate => self.coordinate(cx),
            NodeEvent::EtcdAnswer { id, answer } => self.etcd_answer(id, answer, cx),
            NodeEvent::EtcdTimeout { id } => self.etcd_timeout(id, cx),
            NodeEvent::Work { led } => self.work(led, cx),
            NodeEvent::Wake { led, run } => self.input(led, run, Input::Tick, cx),
            NodeEvent::Start { led, run } => self.start_again(led, run, cx),
            NodeEvent::CatchUp { led, run, last_seq } => self.catch_up(led, run, last_seq, cx),
            NodeEvent::Restore { led, run, last_seq } => self.restore(led, run, last_seq, cx),
            NodeEvent::Read { led, run, read, tries } => self.read(led, run, read, tries, cx),
            NodeEvent::Answered { led, run, input } => self.input(led, run, *input, cx),
            NodeEvent::Follow { led } => self.follow(led, cx),
            NodeEvent::Flush { led } => self.flush(led, cx),
            NodeEvent::Written { id, written } => self.written(id, written, cx),
            NodeEvent::WriteTimeout { id } => self.write_timeout(id, cx),
            NodeEvent::AskOutcome { id } => self.ask_outcome(id, cx),
            NodeEvent::Call { call } => self.call(call, cx),
            NodeEvent::LookedUp { call } => self.looked_up(call, cx),
            NodeEvent::CallTimeout { number } => self.call_timeout(number, cx),
            NodeEvent::Forwarded { number, reply } => self.forwarded(number, reply, cx),
            NodeEvent::Accounts => self.reconcile_accounts(cx),
            NodeEvent::AccountWakes { account, session } => self.account_wakes(account, session, cx),
            NodeEvent::ServiceAnswer { request, answer } => self.service_answer(request, answer, cx),
            NodeEvent::ServiceTimeout { request } => self.service_timeout(request, cx),
            NodeEvent::KeepIds { request, until } => self.keep_ids(request, until, cx),
            NodeEvent::IdsKept { request } => self.submit_ended(request, cx),
            NodeEvent::Poll { account, session } => self.poll(account, session, cx),
            NodeEvent::Pollable { account, session } => self.pollable(account, session, cx),
            NodeEvent::CalledBack { call } => self.called_back(call, cx),
            NodeEvent::News { call } => self.news(call, cx),
        }
        self.settle(cx);
    }

    /// Lets go what has become ready: frames to sessions, answers to calls, datagrams.
    fn settle(&mut self, cx: &mut Cx) {
        self.wake_lives(cx);
        self.deliver(cx);
        self.deliver_to_accounts(cx);
        self.answer_calls(cx);
        self.transmit(cx);
    }

    fn now(&self, cx: &Cx) -> Now {
        Now { unix_ms: self.clock.unix(cx.now), mono_ms: self.clock.mono(cx.now) }
    }

    fn fresh(&mut self) -> u64 {
        self.mind.next += 1;
        self.mind.next
    }

    fn own(&self, event: NodeEvent) -> Event {
        Event::Node(self.number, self.life, event)
    }

    fn me(&self) -> Party {
        Party::Node(self.number)
    }

    /// Whether the store can be asked now, both ways.
    fn reaches_store(&self, cx: &Cx) -> bool {
        !cx.writes.down && cx.net.can(self.me(), Party::Store) && cx.net.can(Party::Store, self.me())
    }

    fn leader_of(&self, shard: ShardId) -> Option<usize> {
        self.mind.leaders.get(usize::from(shard.0)).copied().flatten()
    }
}

/// Small memory, so that messages go to the store and come back, and leases that fit the length of a run.
pub(super) fn settings(seed: u64) -> ShardSettings {
    let mut rng = Rng::new(seed, "settings", 0);
    let defaults = ShardSettings::default();
    if rng.percent(30) {
        return defaults;
    }
    ShardSettings {
        send_within_ms: rng.between(3_000, 60_000) as u32,
        retry_delays_ms: vec![0, 5_000, 20_000, 60_000],
        avoid_ms: rng.between(5_000, 60_000),
        pause_max_ms: rng.between(5_000, 60_000),
        queued_max: rng.between(2, 40) as usize,
        queued_min: rng.between(1, 4) as usize,
        sent_max: rng.between(1, 20) as usize,
        far_ms: rng.between(5_000, 60_000),
        page: rng.between(2, 10) as usize,
        keys_ms: rng.between(60_000, 900_000),
        loads_max: rng.between(1, 8) as usize,
        reports_held_max: rng.between(1, 8) as usize,
        ..defaults
    }
}
