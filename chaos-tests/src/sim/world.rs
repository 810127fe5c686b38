//! The world: its time, its parts, and the queue of what happens next. Everything happens one after the other in an order that
//! the seed decides.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use flotilla_controller::providers::references::Known;

use super::check::{Checker, Violation};
use super::client::{self, Clients};
use super::device::{Device, DeviceEvent};
use super::etcd::{Answer, Ask, Etcd};
use super::net::Net;
use super::node::{Node, NodeEvent};
use super::plan::{Op, Party, What};
use super::provider::{ServiceEvent, Services};
use super::rng::Rng;
use super::site::Site;
use super::store::Store;
use super::writes::{self, Write, Writes};
use super::{Flaw, Ms, Options};

/// How long a client's, etcd's or store's answer is waited for, and more: after the last fault everybody gets this long to
/// find each other again before messages are given up for stuck.
const REST_MS: u64 = 900_000;
const LOG_LINES_MAX: usize = 400_000;
/// So long after the last fault every device gets a message of its own, to see that it still gets any.
const PROBE_AFTER_MS: u64 = 120_000;

#[derive(Debug)]
pub(super) enum Event {
    Begin(usize),
    End(usize),
    /// For a controller in one of its lives.
    Node(usize, u32, NodeEvent),
    /// From outside, for whichever life there is.
    ToNode(usize, NodeEvent),
    Device(usize, u32, DeviceEvent),
    ToDevice(usize, DeviceEvent),
    Probe,
    Wakes(Party),
    Starts(Party),
    Etcd {
        node: usize,
        life: u32,
        id: u64,
        ask: Ask,
    },
    EtcdExpiry,
    Store {
        node: usize,
        life: u32,
        id: u64,
        write: Write,
    },
    Client(client::ClientEvent),
    Service(usize, ServiceEvent),
}

struct Entry {
    at: Ms,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest is the greatest; of one moment, the one that was planned first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// What every part of the world may use while it acts.
pub(super) struct Cx {
    pub now: Ms,
    queue: BinaryHeap<Entry>,
    number: u64,
    pub net: Net,
    pub store: Store,
    pub writes: Writes,
    /// Ids that services have given, by account, with their time (Unix ms): a table of the catalog.
    pub references: BTreeMap<(usize, Box<str>), (Known, u64)>,
    pub check: Checker,
    pub flaw: Option<Flaw>,
    pub counts: BTreeMap<&'static str, u64>,
    log: Option<Vec<String>>,
}

impl Cx {
    pub(super) fn at(&mut self, at: Ms, event: Event) {
        self.number += 1;
        self.queue.push(Entry { at: at.max(self.now), number: self.number, event });
    }

    pub(super) fn after(&mut self, ms: u64, event: Event) {
        self.at(self.now + ms, event);
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(super) fn log(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = self.log.as_mut().filter(|log| log.len() < LOG_LINES_MAX) {
            log.push(format!("{:>10.3} {}", self.now as f64 / 1_000.0, line()));
        }
    }
}

pub(super) struct World {
    cx: Cx,
    plan: Vec<Op>,
    nodes: Vec<Node>,
    devices: Vec<Device>,
    services: Services,
    clients: Clients,
    site: Arc<Site>,
    etcd: Etcd,
    etcd_up: bool,
    expiry_at: Ms,
    watches_deaf: bool,
    rng: Rng,
    last_end: Ms,
}

/// What a run has shown.
#[derive(Debug)]
pub struct Outcome {
    pub violation: Option<Violation>,
    pub virtual_ms: Ms,
    pub events: u64,
    pub counts: BTreeMap<&'static str, u64>,
    pub messages: usize,
    pub on_air: usize,
    pub ends: BTreeMap<&'static str, u64>,
    pub log: Vec<String>,
}

impl World {
    pub(super) fn new(seed: u64, options: &Options, plan: &[Op], enabled: &[bool], log: bool) -> Self {
        let size = options.size;
        let shards = 4;
        let ttl_ms = [2_000, 5_000, 10_000][Rng::new(seed, "ttl", 0).index(3)];
        let mut cx = Cx {
            now: 0,
            queue: BinaryHeap::new(),
            number: 0,
            net: Net::new(seed),
            store: Store::new(shards, options.flaw == Some(Flaw::NoEpochCheck)),
            writes: Writes::new(seed),
            references: BTreeMap::new(),
            check: Checker::new(shards),
            flaw: options.flaw,
            counts: BTreeMap::new(),
            log: log.then(Vec::new),
        };
        let site = Arc::new(Site::new(seed, size));
        let nodes = (0..size.nodes).map(|n| Node::new(seed, n, &site, shards, ttl_ms)).collect::<Vec<_>>();
        let devices = (0..size.devices).map(|n| Device::new(seed, n, size)).collect::<Vec<_>>();
        for (n, op) in plan.iter().enumerate().filter(|(n, _)| enabled[*n]) {
            cx.at(op.at, Event::Begin(n));
        }
        cx.check.sees(super::node::settings(seed).queued_min);
        for (route, settings) in site.all_routes() {
            cx.check.is_set(route, settings);
        }
        for (tenant, routing) in site.routing.iter().enumerate() {
            cx.check.limits_recipients(super::device::tenant_id(tenant), routing.recipient_limit);
        }
        let mut rng = Rng::new(seed, "world", 0);
        for n in 0..size.nodes {
            cx.at(rng.between(0, 500), Event::Starts(Party::Node(n)));
        }
        for n in 0..size.devices {
            cx.at(rng.between(500, 4_000), Event::Starts(Party::Device(n)));
        }
        let ends = plan.iter().zip(enabled).filter(|(_, on)| **on).map(|(op, _)| op.at + op.for_ms);
        let last_end = ends.max().unwrap_or_default().max(size.minutes * 60_000) + PROBE_AFTER_MS;
        cx.at(last_end, Event::Probe);
        Self {
            cx,
            plan: plan.to_vec(),
            nodes,
            devices,
            services: Services::new(seed, &site.accounts, size.nodes),
            clients: Clients::new(seed, size),
            site,
            etcd: Etcd::new(ttl_ms, shards, size.nodes),
            etcd_up: true,
            expiry_at: Ms::MAX,
            watches_deaf: false,
            rng,
            last_end,
        }
    }

    /// Lets everything happen, until a promise is broken or everything has come to rest.
    pub(super) fn run(mut self) -> Outcome {
        let mut events = 0;
        let mut next_look = self.last_end + 5_000;
        while let Some(Entry { at, event, .. }) = self.cx.queue.pop() {
            if at >= next_look {
                if self.at_rest() || at > self.last_end + REST_MS {
                    break;
                }
                next_look = at + 5_000;
            }
            self.cx.now = at;
            events += 1;
            self.handle(event);
            if self.cx.check.broken() {
                break;
            }
        }
        if !self.cx.check.broken() {
            self.finish();
        }
        let violation = self.cx.check.found();
        if let Some(Violation { invariant, detail }) = &violation {
            self.cx.log(|| format!("VIOLATED {invariant}: {detail}"));
        }
        let Cx { now, net, mut counts, check, log, .. } = self.cx;
        for (what, n) in [("datagram lost", net.lost), ("datagram doubled", net.doubled), ("datagram late", net.late)] {
            *counts.entry(what).or_default() += n;
        }
        Outcome {
            violation,
            virtual_ms: now,
            events,
            counts,
            messages: check.accepted(),
            on_air: check.on_air(),
            ends: check.ends().clone(),
            log: log.unwrap_or_default(),
        }
    }

    /// Nothing is open anywhere any more.
    fn at_rest(&self) -> bool {
        self.cx.check.open() == 0
            && self.clients.at_rest()
            && self.cx.writes.at_rest()
            && self.devices.iter().all(Device::at_rest)
            && self.services.at_rest()
            && !self.cx.check.inbound_missing()
    }

    /// The rows are brought up to the journal's end, as the next leader would.
    fn finish(&mut self) {
        writes::catch_up(&self.cx.store);
        for probe in self.clients.probes() {
            self.cx.check.probed(probe);
        }
        for node in &self.nodes {
            node.check_ledgers(&mut self.cx);
        }
        let Cx { check, store, .. } = &mut self.cx;
        check.finally(store);
    }

    fn handle(&mut self, event: Event) {
        let cx = &mut self.cx;
        match event {
            Event::Probe => self.clients.probe(&self.site, cx),
            Event::Begin(n) => self.begin(n),
            Event::End(n) => self.end(n),
            Event::Node(n, life, event) => self.nodes[n].handle(Some(life), event, cx),
            Event::ToNode(n, event) => self.nodes[n].handle(None, event, cx),
            Event::Device(n, life, event) => self.devices[n].handle(Some(life), event, cx),
            Event::ToDevice(n, event) => self.devices[n].handle(None, event, cx),
            Event::Wakes(Party::Node(n)) => self.nodes[n].wake(cx),
            Event::Wakes(Party::Device(n)) => self.devices[n].wake(cx),
            Event::Starts(Party::Node(n)) => self.nodes[n].start(cx),
            Event::Starts(Party::Device(n)) => self.devices[n].start(cx),
            Event::Wakes(_) | Event::Starts(_) => {}
            Event::Etcd { node, life, id, ask } => self.ask_etcd(node, life, id, ask),
            Event::EtcdExpiry => {
                self.expiry_at = Ms::MAX;
                self.expire();
                self.expire_later();
            }
            Event::Store { node, life, id, write } => writes::arrive(node, life, id, write, cx),
            Event::Client(event) => self.clients.handle(event, cx),
            Event::Service(account, event) => self.services.handle(account, event, cx),
        }
    }

    fn ask_etcd(&mut self, node: usize, life: u32, id: u64, ask: Ask) {
        if !self.etcd_up {
            return;
        }
        self.expire();
        let (answer, changed) = self.etcd.handle(ask, self.cx.now);
        self.answer_from_etcd(node, life, id, answer);
        if changed {
            self.tell_watchers();
        }
        self.expire_later();
    }

    fn answer_from_etcd(&mut self, node: usize, life: u32, id: u64, answer: Answer) {
        if let Some(at) = self.cx.net.message(Party::Etcd, Party::Node(node), self.cx.now) {
            self.cx.at(at, Event::Node(node, life, NodeEvent::EtcdAnswer { id, answer }));
        }
    }

    fn expire(&mut self) {
        if self.etcd_up && self.etcd.expire(self.cx.now) {
            self.cx.log(|| "etcd: a lease is over".into());
            self.tell_watchers();
        }
    }

    /// Watches are hints: they may come late or not at all.
    fn tell_watchers(&mut self) {
        for n in 0..self.nodes.len() {
            if self.watches_deaf && self.rng.percent(70) {
                continue;
            }
            let late = if self.watches_deaf { self.rng.between(1_000, 20_000) } else { 0 };
            if let Some(at) = self.cx.net.message(Party::Etcd, Party::Node(n), self.cx.now) {
                self.cx.at(at + late, Event::ToNode(n, NodeEvent::Watch));
            }
        }
    }

    fn begin(&mut self, n: usize) {
        let Op { for_ms, what, .. } = self.plan[n].clone();
        let cx = &mut self.cx;
        cx.count(what.kind());
        cx.log(|| format!("--- {what:?} for {for_ms} ms"));
        match &what {
            What::Submit(submit) => return self.clients.submit(n, submit, cx),
            What::Cancel { nth } => return self.clients.cancel(*nth, cx),
            What::Inbound { device } => return self.devices[*device].receives(n as u64 + 1, cx),
            What::ProviderInbound { account } => return self.services.receives(*account, n as u64 + 1, cx),
            What::CrashNode { node } => return self.nodes[*node].crash(for_ms, cx),
            What::CrashDevice { device } => return self.devices[*device].crash(for_ms, cx),
            What::PauseNode { node } => return self.nodes[*node].pause(for_ms, cx),
            What::PauseDevice { device } => return self.devices[*device].pause(for_ms, cx),
            What::CrashModem { device } => return self.devices[*device].crash_modem(cx),
            What::Migrate { device } => return self.devices[*device].migrate(cx),
            What::WallJump { node, by_ms } => return self.nodes[*node].set_wall(*by_ms),
            _ => {}
        }
        self.switch(&what, true);
        self.cx.after(for_ms, Event::End(n));
    }

    fn end(&mut self, n: usize) {
        let what = self.plan[n].what.clone();
        self.cx.log(|| format!("--- end of {what:?}"));
        self.switch(&what, false);
    }

    /// Faults that last.
    fn switch(&mut self, what: &What, on: bool) {
        let cx = &mut self.cx;
        match *what {
            What::DrainNode { node } => {
                self.etcd.set_draining(node, on);
                self.tell_watchers();
            }
            What::SimFails { device } => self.devices[device].set_sim_ready(!on, cx),
            What::Cut { from, to } => cx.net.set_cut(from, to, on),
            What::Part { one, other } => {
                cx.net.set_cut(one, other, on);
                cx.net.set_cut(other, one, on);
            }
            What::Lossy { from, to, percent } => cx.net.set_loss(from, to, if on { percent } else { 0 }),
            What::Echoes { percent } => cx.net.set_echoes(if on { percent } else { 0 }),
            What::SlowStore { factor } => cx.writes.slow = if on { factor } else { 1 },
            What::StoreDown => cx.writes.down = on,
            What::UnknownCommits { percent } => cx.writes.unknown_percent = if on { percent } else { 0 },
            What::EtcdDown => {
                self.etcd_up = !on;
                if !on {
                    self.etcd.restarted(cx.now);
                    self.expire_later();
                }
            }
            What::DeafWatches => self.watches_deaf = on,
            What::SlowDisk { device } => self.devices[device].set_slow_disk(on),
            What::ProviderTrouble { account, trouble } => self.services.set(account, trouble, on),
            _ => {}
        }
    }

    fn expire_later(&mut self) {
        if let Some(at) = self.etcd.next_expiry().filter(|at| self.etcd_up && *at < self.expiry_at) {
            self.expiry_at = at;
            self.cx.at(at, Event::EtcdExpiry);
        }
    }
}
