//! A device: the real machine of its agent and the real fold of its outbox, on a disk that keeps what was committed and loses
//! the rest; the real dialer; and a modem, which is hardware of its own.

mod line;
mod modem;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use flotilla_controller::shard::RouteSim;
use flotilla_device_node::agent::machine::{Config, Machine, Order};
use flotilla_device_node::clock::Now;
use flotilla_device_node::link::Dialer;
use flotilla_device_node::outbox::{Limits, Record, State};
use flotilla_device_node::radio::RadioEvent;
use flotilla_protocol::id::{DeviceId, InboundId, SimId, TenantId};
use flotilla_protocol::wire::{Attempt, Hello, SimInfo, SimState, Up, encode_frame};
use flotilla_routing::route::Route;
use flotilla_routing::settings::RouteSettings;

use super::Flaw;
use super::Ms;
use super::clock::{Clock, DRIFT_PPM_MAX};
use super::conn::Packet;
use super::plan::{Party, Size};
use super::rng::Rng;
use super::site;
use super::world::{Cx, Event};
use modem::Modem;

const PING_EVERY_MS: u64 = 60_000;
/// As in the agent: frames are taken from the machine while less than this waits for the link.
const QUEUED_BYTES_MAX: usize = 32 * 1024;

#[derive(Debug)]
pub(super) enum DeviceEvent {
    Datagram {
        port: u32,
        packet: Packet,
    },
    LinkTimer {
        conn: u64,
    },
    Dial,
    /// No welcome in time.
    NoWelcome {
        conn: u64,
    },
    /// The outbox has reached the disk.
    Committed,
    Tick,
    Ping {
        conn: u64,
    },
    /// The hardware goes on whatever becomes of the program.
    Begin {
        attempt: Attempt,
        job: u64,
    },
    Segment {
        attempt: Attempt,
        job: u64,
        segment: u8,
    },
    Done {
        attempt: Attempt,
        job: u64,
    },
    /// The network has something for the modem.
    Report {
        attempt: Attempt,
        segment: u8,
        delivered: bool,
    },
}

pub(super) struct Device {
    number: usize,
    rng: Rng,
    clock: Clock,
    nodes: usize,
    life: u32,
    paused_until: Option<Ms>,
    waiting: Vec<(Option<u32>, DeviceEvent)>,
    /// What is on the disk; nothing before the first start.
    disk: Option<State>,
    slow_disk: bool,
    modem: Modem,
    sim_ready: bool,
    /// Changes with the device's address.
    port: u32,
    next: u64,
    /// All that a crash forgets.
    mind: Option<Mind>,
}

struct Mind {
    machine: Machine,
    /// Records on their way to the disk.
    flying: Vec<Record>,
    dialer: Dialer,
    targets: VecDeque<String>,
    line: line::Line,
    tick_at: Ms,
}

impl Device {
    pub(super) fn new(seed: u64, number: usize, size: Size) -> Self {
        let mut rng = Rng::new(seed, "device", number);
        let clock = Clock {
            origin_ms: rng.between(10_000, 900_000_000),
            drift_ppm: rng.between(0, 2 * DRIFT_PPM_MAX) as i64 - DRIFT_PPM_MAX as i64,
            wall_off_ms: rng.between(0, 20_000) as i64 - 10_000,
        };
        let modem = Modem::new(Rng::new(seed, "modem", number), number);
        Self {
            number,
            rng,
            clock,
            nodes: size.nodes,
            life: 0,
            paused_until: None,
            waiting: Vec::new(),
            disk: None,
            slow_disk: false,
            modem,
            sim_ready: true,
            port: 1,
            next: 0,
            mind: None,
        }
    }

    pub(super) fn start(&mut self, cx: &mut Cx) {
        if self.mind.is_some() {
            return;
        }
        self.life += 1;
        let now = self.now(cx);
        let config = Config { window: self.rng.between(2, 16) as u16, ..Config::default() };
        let machine = match &self.disk {
            Some(state) => Machine::new(config, state.clone(), self.sims(), now),
            None => Machine::fresh(config, State::new(Limits::small()), self.sims(), now),
        };
        let known: Vec<String> = (0..self.nodes).map(|node| format!("c{node}")).collect();
        let dialer = Dialer::new(&known);
        let line = line::Line::default();
        let mind = Mind { machine, flying: Vec::new(), dialer, targets: VecDeque::new(), line, tick_at: Ms::MAX };
        self.mind = Some(mind);
        cx.log(|| format!("d{} starts", self.number));
        self.dial_after(0, cx);
        for event in self.modem.owed() {
            self.radio(event, cx);
        }
        self.pump(cx);
    }

    pub(super) fn crash(&mut self, down_ms: u64, cx: &mut Cx) {
        self.stop(cx);
        cx.after(down_ms, Event::Starts(Party::Device(self.number)));
    }

    fn stop(&mut self, cx: &mut Cx) {
        let Some(mind) = self.mind.take() else { return };
        self.life += 1;
        self.paused_until = None;
        self.waiting.clear();
        self.port += 1;
        // What was under way to the disk has reached it, or not.
        if self.rng.percent(50) {
            self.write(&mind.flying, cx);
        }
        self.modem.abandoned();
    }

    pub(super) fn pause(&mut self, for_ms: u64, cx: &mut Cx) {
        let until = cx.now + for_ms;
        self.paused_until = Some(self.paused_until.unwrap_or(0).max(until));
        cx.at(until, Event::Wakes(Party::Device(self.number)));
    }

    pub(super) fn wake(&mut self, cx: &mut Cx) {
        if self.paused_until.is_none_or(|until| until > cx.now) {
            return;
        }
        self.paused_until = None;
        for (life, event) in std::mem::take(&mut self.waiting) {
            self.handle(life, event, cx);
        }
    }

    /// The modem forgets what it was doing, and the agent starts anew with it.
    pub(super) fn crash_modem(&mut self, cx: &mut Cx) {
        self.modem.crash();
        self.crash(500, cx);
    }

    pub(super) fn set_sim_ready(&mut self, ready: bool, cx: &mut Cx) {
        self.sim_ready = ready;
        let sims = self.sims();
        self.radio(RadioEvent::Sims(sims), cx);
        self.pump(cx);
    }

    pub(super) fn set_slow_disk(&mut self, slow: bool) {
        self.slow_disk = slow;
    }

    /// Its datagrams come from elsewhere now; those to the old place are lost.
    pub(super) fn migrate(&mut self, cx: &mut Cx) {
        self.port += 1;
        cx.log(|| format!("d{} has a new address", self.number));
    }

    /// An inbound message reaches the modem.
    pub(super) fn receives(&mut self, digest: u64, cx: &mut Cx) {
        let event = self.modem.receives(digest);
        self.radio(event, cx);
        self.pump(cx);
    }

    /// Nothing is open here any more.
    pub(super) fn at_rest(&self) -> bool {
        let state = self.mind.as_ref().map(|mind| mind.machine.state());
        self.modem.at_rest() && state.is_some_and(|state| state.open_len() == 0 && state.reports_open() == 0)
    }

    pub(super) fn handle(&mut self, life: Option<u32>, event: DeviceEvent, cx: &mut Cx) {
        match event {
            DeviceEvent::Begin { attempt, job } => return self.begin(attempt, job, cx),
            DeviceEvent::Segment { attempt, job, segment } => return self.segment(attempt, job, segment, cx),
            DeviceEvent::Done { attempt, job } => return self.done(attempt, job, cx),
            DeviceEvent::Report { attempt, segment, delivered } => {
                let event = self.modem.reported(attempt, segment, delivered, cx);
                self.radio(event, cx);
                return self.pump(cx);
            }
            _ => {}
        }
        if self.mind.is_none() || life.is_some_and(|life| life != self.life) {
            return;
        }
        if self.paused_until.is_some() {
            return self.waiting.push((life, event));
        }
        match event {
            DeviceEvent::Datagram { port, packet } => self.datagram(port, packet, cx),
            DeviceEvent::LinkTimer { conn } => self.link_timer(conn, cx),
            DeviceEvent::Dial => self.dial(cx),
            DeviceEvent::NoWelcome { conn } => self.no_welcome(conn, cx),
            DeviceEvent::Ping { conn } => self.ping(conn, cx),
            DeviceEvent::Committed => self.committed(cx),
            DeviceEvent::Tick => {
                let now = self.now(cx);
                if let Some(mind) = self.mind.as_mut().filter(|mind| mind.tick_at <= cx.now) {
                    mind.tick_at = Ms::MAX;
                    mind.machine.tick(now);
                }
            }
            _ => {}
        }
        self.pump(cx);
    }

    fn now(&self, cx: &Cx) -> Now {
        Now { boot_ms: self.clock.mono(cx.now), unix_ms: self.clock.unix(cx.now) }
    }

    fn own(&self, event: DeviceEvent) -> Event {
        Event::Device(self.number, self.life, event)
    }

    fn sims(&self) -> Vec<SimInfo> {
        let state = if self.sim_ready { SimState::Ready } else { SimState::NotRegistered };
        let sim = |slot| SimInfo {
            slot,
            state: if slot == 0 { state } else { SimState::Ready },
            iccid: None,
            imsi: None,
            msisdn: None,
            home: None,
            operator: String::new(),
            depth: 1 + (self.number % 2) as u8,
        };
        (0..sims_of(self.number)).map(sim).collect()
    }

    fn write(&mut self, records: &[Record], cx: &Cx) {
        let state = self.disk.get_or_insert_with(|| State::new(Limits::small()));
        for record in records {
            // A deliberate bug: the decision to send does not reach the disk before the modem has the job.
            if cx.flaw == Some(Flaw::NoOutbox) && matches!(record, Record::Sending(_)) {
                continue;
            }
            state.apply(record);
        }
    }

    fn committed(&mut self, cx: &mut Cx) {
        let now = self.now(cx);
        let Some(mind) = &mut self.mind else { return };
        let flying = std::mem::take(&mut mind.flying);
        mind.machine.committed(now);
        self.write(&flying, cx);
    }

    /// What the modem says, if there is somebody to hear it.
    fn radio(&mut self, event: RadioEvent, cx: &mut Cx) {
        let now = self.now(cx);
        if self.paused_until.is_some() {
            return self.modem.keep(event);
        }
        let Some(mind) = &mut self.mind else { return };
        let rng = &mut self.rng;
        mind.machine.radio(event, || InboundId::new(now.unix_ms, rng.bytes()), now);
    }

    /// Moves everything that can move without waiting.
    fn pump(&mut self, cx: &mut Cx) {
        if self.paused_until.is_some() {
            return;
        }
        let now = self.now(cx);
        for event in self.modem.kept() {
            self.radio(event, cx);
        }
        let Some(mind) = &mut self.mind else { return };
        if mind.flying.is_empty()
            && let Some(records) = mind.machine.take(now)
        {
            mind.flying = records;
            let delay = if self.slow_disk { self.rng.between(200, 9_000) } else { self.rng.between(1, 15) };
            cx.after(delay, Event::Device(self.number, self.life, DeviceEvent::Committed));
        }
        while let Some(order) = mind.machine.poll_order() {
            match order {
                Order::Send(job) => self.modem.send(job, cx),
                Order::Stored { token, .. } => self.modem.stored(token, cx),
            }
        }
        if let Some(conn) = mind.line.welcomed() {
            while conn.queued() < QUEUED_BYTES_MAX
                && let Some(frame) = mind.machine.poll_frame()
            {
                let mut bytes = BytesMut::new();
                encode_frame::<Up>(&frame, &mut bytes).expect("it fits");
                conn.write(&bytes, cx.now);
            }
        }
        if let Some(mono) = mind.machine.next_deadline() {
            let at = self.clock.when(mono).max(cx.now + 1);
            if at < mind.tick_at {
                mind.tick_at = at;
                cx.at(at, Event::Device(self.number, self.life, DeviceEvent::Tick));
            }
        }
        self.transmit(cx);
    }
}

pub(super) fn id(number: usize) -> DeviceId {
    DeviceId::from_bytes([number as u8 + 1; 16])
}

pub(super) fn sim(device: usize, slot: u8) -> SimId {
    let mut bytes = [device as u8 + 1; 16];
    bytes[15] = slot;
    SimId::from_bytes(bytes)
}

pub(super) fn tenant_id(tenant: usize) -> TenantId {
    TenantId::new(tenant as u64 * 1_000, [tenant as u8; 10])
}

/// Whose a device is.
pub(super) fn tenant(device: usize, size: Size) -> TenantId {
    tenant_id(device % size.tenants)
}

/// Its certificate would say so.
pub(super) fn number(hello: &Hello) -> usize {
    hello.info.name.parse().unwrap_or_default()
}

/// How many SIMs are in it.
fn sims_of(device: usize) -> u8 {
    1 + u8::from(device.is_multiple_of(3))
}

/// Its SIMs as routes, with what is set for them.
pub(super) fn routes_of(device: usize) -> impl Iterator<Item = (Route, RouteSettings)> {
    (0..sims_of(device)).map(move |slot| (Route::sim(id(device), sim(device, slot)), site::of_sim(device, slot)))
}

pub(super) fn routes(device: usize, sims: &[SimInfo], flaw: Option<Flaw>) -> Vec<RouteSim> {
    let route = |info: &SimInfo| RouteSim {
        slot: info.slot,
        sim: sim(device, info.slot),
        depth: info.depth,
        ready: info.state == SimState::Ready,
        settings: Arc::new(site::spoiled(site::of_sim(device, info.slot), flaw)),
    };
    sims.iter().map(route).collect()
}
