//! Sessions of devices: the admission of `gateway/hello.rs` and the registry's rule that the newest session of a device
//! counts, over simulated links. Frames are the real ones, as bytes.

use std::sync::Arc;

use bytes::BytesMut;
use flotilla_controller::domain::message::RouteKind;
use flotilla_controller::domain::shard::Effect;
use flotilla_controller::shard::{DeviceSink, Link as ShardLink, RouteSim};
use flotilla_protocol::id::{DeviceId, ShardId};
use flotilla_protocol::wire::{
    Down, Hello, PROTOCOL, Refusal, Report, Settings, Up, Welcome, decode_frame, encode_frame,
};
use parking_lot::Mutex;

use super::{Node, NodeEvent};
use crate::sim::Flaw;
use crate::sim::Ms;
use crate::sim::conn::{Body, Conn, Packet};
use crate::sim::device::{self, DeviceEvent};
use crate::sim::plan::Party;
use crate::sim::told;
use crate::sim::world::{Cx, Event};

/// A refused device gets this long to read why.
const LAST_WORDS_MS: u64 = 1_000;

/// Frames for a link.
pub(super) type Outgoing = (u64, Vec<Down>);

pub(super) struct Link {
    conn: Conn,
    /// Where its last datagram came from.
    remote: (usize, u32),
    buffer: BytesMut,
    hello: Option<Hello>,
    session: Option<Session>,
    /// Nothing more is said after the last words.
    closing_at: Option<Ms>,
    timer_at: Ms,
    touched: bool,
}

struct Session {
    number: u64,
    device: usize,
    led: u64,
    handle: flotilla_controller::shard::ShardHandle,
    sims: Vec<RouteSim>,
}

struct Sink {
    conn: u64,
    out: Arc<Mutex<Vec<Outgoing>>>,
}

impl DeviceSink for Sink {
    fn send(&self, frames: Vec<Down>) {
        self.out.lock().push((self.conn, frames));
    }
}

impl Node {
    pub(super) fn datagram(&mut self, from: (usize, u32), packet: Packet, cx: &mut Cx) {
        let Packet { conn: id, body } = packet;
        if !self.mind.links.contains_key(&id) {
            if body == Body::Initial {
                let key = self.rng.next();
                let link = Link::new(Conn::accept(id, key, cx.now), from);
                self.mind.links.insert(id, link);
            } else if body != Body::Reset {
                // Whoever knows nothing of a connection says so.
                self.send_packet(from, Packet { conn: id, body: Body::Reset }, cx);
            }
            return;
        }
        let Some(link) = self.mind.links.get_mut(&id) else { return };
        link.touched = true;
        match link.conn.receive(body, cx.now) {
            Ok(bytes) => {
                // A client may move; its peer follows.
                link.remote = from;
                link.buffer.extend_from_slice(&bytes);
                self.frames(id, cx);
            }
            Err(_) => self.end_link(id, cx),
        }
    }

    pub(super) fn link_timer(&mut self, id: u64, cx: &mut Cx) {
        let Some(link) = self.mind.links.get_mut(&id) else { return };
        // Of a time that was given up for an earlier one.
        if cx.now < link.timer_at {
            return;
        }
        link.timer_at = Ms::MAX;
        link.touched = true;
        if link.closing_at.is_some_and(|at| at <= cx.now) || link.conn.tick(cx.now).is_err() {
            self.end_link(id, cx);
        }
    }

    fn frames(&mut self, id: u64, cx: &mut Cx) {
        let mut reports = Vec::new();
        loop {
            let Some(link) = self.mind.links.get_mut(&id) else { return };
            let frame = match decode_frame::<Up>(&mut link.buffer) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => panic!("a device's frames are whole: {error}"),
            };
            if link.closing_at.is_some() {
                continue;
            }
            let device = link.remote.0;
            cx.log(|| format!("c{} <- d{device}: {}", self.number, told::up(&frame)));
            match frame {
                Up::Hello(hello) if link.hello.is_none() => {
                    link.hello = Some(hello);
                    // The catalog is asked.
                    let delay = 2 * cx.writes.delay();
                    let event = self.own(NodeEvent::Admitted { conn: id });
                    cx.after(delay, event);
                }
                Up::Report(report) => reports.push(report),
                other => {
                    self.pass(id, &mut reports);
                    self.frame(id, other, cx);
                }
            }
        }
        self.pass(id, &mut reports);
    }

    fn pass(&mut self, id: u64, reports: &mut Vec<Report>) {
        let Some(session) = self.mind.links.get(&id).and_then(|link| link.session.as_ref()) else { return };
        if !reports.is_empty() {
            session.handle.reports(device::id(session.device), session.number, std::mem::take(reports));
        }
    }

    fn frame(&mut self, id: u64, frame: Up, cx: &mut Cx) {
        let controller_ms = self.clock.mono(cx.now);
        let Some(link) = self.mind.links.get_mut(&id) else { return };
        let Some(session) = &mut link.session else { return };
        let device = device::id(session.device);
        match frame {
            Up::Holding { held, last } => {
                let ready = session.sims.iter().all(|sim| sim.ready);
                cx.check.gateway_is_up(device, (self.number, self.life), ready, cx.now);
                session.handle.held(device, session.number, held, last);
            }
            Up::Ping { device_ms } => {
                let pong = Down::Pong { device_ms, controller_ms };
                self.mind.sinks.lock().push((id, vec![pong]));
            }
            Up::Sims { sims } => {
                let before = std::mem::replace(&mut session.sims, device::routes(session.device, &sims, cx.flaw));
                let sims = session.sims.clone();
                if before != sims {
                    cx.check.gateway_changes(device, sims.iter().all(|sim| sim.ready), cx.now);
                }
                session.handle.device_changed(device, session.number, sims, true);
            }
            _ => {}
        }
    }

    /// The catalog knows the device: who leads its tenant's shard?
    pub(super) fn admitted(&mut self, id: u64, cx: &mut Cx) {
        let reaches = self.reaches_store(cx);
        let Some(link) = self.mind.links.get(&id) else { return };
        let Some(hello) = link.hello.clone() else { return };
        let number = device::number(&hello);
        let shard = ShardId::of(device::tenant(number, self.size), cx.store.shards());
        if !reaches {
            return self.refuse(id, Refusal::Busy, "the store does not answer", cx);
        }
        let Some((led, lead)) = self.led_of(shard) else {
            return match self.leader_of(shard).filter(|node| *node != self.number) {
                Some(node) => {
                    let frames = vec![Down::Redirect { controllers: vec![format!("c{node}")] }];
                    self.last_words(id, frames, cx);
                }
                None => self.refuse(id, Refusal::Busy, "no leader yet", cx),
            };
        };
        let (handle, epoch) = (lead.handle.clone(), lead.life.epoch());
        if hello.protocol != PROTOCOL || hello.epoch_seen > epoch {
            return self.refuse(id, Refusal::Busy, "behind one that the device has obeyed", cx);
        }
        self.begin_session(id, number, led, handle, hello, cx);
    }

    fn begin_session(
        &mut self,
        id: u64,
        device: usize,
        led: u64,
        handle: flotilla_controller::shard::ShardHandle,
        hello: Hello,
        cx: &mut Cx,
    ) {
        let older = self.mind.links.iter().find(|(_, link)| link.session.as_ref().is_some_and(|s| s.device == device));
        let older = older.map(|(older, _)| *older);
        self.mind.last_session += 1;
        let number = (u64::from(self.life) << 32) + self.mind.last_session;
        if let Some(older) = older {
            self.refuse(older, Refusal::Superseded, "the device has connected again", cx);
        }
        let sims = device::routes(device, &hello.sims, cx.flaw);
        let ids = hello.sims.iter().map(|sim| (sim.slot, device::sim(device, sim.slot))).collect();
        let welcome = Welcome {
            epoch: handle.epoch(),
            device_ms: hello.device_ms,
            controller_ms: self.clock.mono(cx.now),
            sims: ids,
            settings: Settings::default(),
            controllers: (0..self.size.nodes).map(|node| format!("c{node}")).collect(),
        };
        let link = ShardLink {
            device: device::id(device),
            tenant: device::tenant(device, self.size),
            session: number,
            window: hello.window,
            epoch_seen: hello.epoch_seen,
            sims: sims.clone(),
            accepts_work: true,
            kind: RouteKind::Sim,
        };
        cx.log(|| format!("c{}: d{device} has session {}", self.number, self.mind.last_session));
        self.mind.sinks.lock().push((id, vec![Down::Welcome(welcome)]));
        let sink = Arc::new(Sink { conn: id, out: Arc::clone(&self.mind.sinks) });
        handle.device_up(link, sink);
        if let Some(link) = self.mind.links.get_mut(&id) {
            link.session = Some(Session { number, device, led, handle, sims });
        }
    }

    /// A shard is not led here any more: its devices look for the next leader.
    pub(super) fn end_sessions(&mut self, led: u64, cx: &mut Cx) {
        self.look_at_accounts(cx);
        let of = |link: &Link| link.session.as_ref().is_some_and(|session| session.led == led);
        let ids: Vec<u64> = self.mind.links.iter().filter(|(_, link)| of(link)).map(|(id, _)| *id).collect();
        for id in ids {
            self.refuse(id, Refusal::ShuttingDown, "led elsewhere", cx);
        }
    }

    fn refuse(&mut self, id: u64, reason: Refusal, detail: &str, cx: &mut Cx) {
        self.last_words(id, vec![Down::Refused { reason, detail: detail.into() }], cx);
    }

    fn last_words(&mut self, id: u64, frames: Vec<Down>, cx: &mut Cx) {
        self.end_session(id, cx);
        let Some(link) = self.mind.links.get_mut(&id) else { return };
        link.closing_at = Some(cx.now + LAST_WORDS_MS);
        self.mind.sinks.lock().push((id, frames));
    }

    fn end_session(&mut self, id: u64, cx: &mut Cx) {
        let Some(session) = self.mind.links.get_mut(&id).and_then(|link| link.session.take()) else { return };
        session.handle.device_down(device::id(session.device), session.number);
        cx.check.gateway_is_gone(device::id(session.device));
    }

    fn end_link(&mut self, id: u64, cx: &mut Cx) {
        self.end_session(id, cx);
        let Some(mut link) = self.mind.links.remove(&id) else { return };
        link.conn.close(cx.now);
        for packet in link.conn.take_packets() {
            self.send_packet(link.remote, packet, cx);
        }
    }

    /// Frames that shards and sessions have for their links.
    pub(super) fn deliver(&mut self, cx: &mut Cx) {
        let outgoing = std::mem::take(&mut *self.mind.sinks.lock());
        for (id, frames) in outgoing {
            self.write_frames(id, &frames, cx);
        }
    }

    fn write_frames(&mut self, id: u64, frames: &[Down], cx: &mut Cx) {
        let Some(link) = self.mind.links.get_mut(&id) else { return };
        let mut bytes = BytesMut::new();
        for frame in frames {
            encode_frame(frame, &mut bytes).expect("it fits");
        }
        link.conn.write(&bytes, cx.now);
        link.touched = true;
    }

    /// Deliberate bugs: frames leave with what they depend on still on its way to the disk.
    pub(super) fn leak(&mut self, led: u64, cx: &mut Cx) {
        let leaks = |frame: &Down| match cx.flaw {
            Some(Flaw::DispatchBeforeCommit) => matches!(frame, Down::Dispatch(_) | Down::Go { .. }),
            Some(Flaw::LostReport) => matches!(frame, Down::AckReports { .. }),
            _ => false,
        };
        let Some(lead) = self.mind.led.get(&led) else { return };
        let mut early = Vec::new();
        for effect in lead.life.held_back() {
            if let Effect::Send { device, session, frames } = effect {
                let frames: Vec<Down> = frames.iter().filter(|frame| leaks(frame)).cloned().collect();
                early.push((*device, *session, frames));
            }
        }
        for (device, session, frames) in early.into_iter().filter(|(.., frames)| !frames.is_empty()) {
            match self.conn_of(device, session) {
                Some(conn) => self.write_frames(conn, &frames, cx),
                None => self.leak_to_account(device, session, frames),
            }
        }
        self.promise_early(led, cx);
    }

    fn conn_of(&self, device: DeviceId, number: u64) -> Option<u64> {
        let is_it = |session: &Session| device::id(session.device) == device && session.number == number;
        self.mind.links.iter().find(|(_, link)| link.session.as_ref().is_some_and(is_it)).map(|(id, _)| *id)
    }

    /// Sends what links have to say, and sees to their timers.
    pub(super) fn transmit(&mut self, cx: &mut Cx) {
        let mut packets = Vec::new();
        for (id, link) in self.mind.links.iter_mut().filter(|(_, link)| link.touched) {
            link.touched = false;
            packets.extend(link.conn.take_packets().into_iter().map(|packet| (link.remote, packet)));
            let at = link.conn.next_deadline().min(link.closing_at.unwrap_or(Ms::MAX));
            if at < link.timer_at {
                link.timer_at = at;
                cx.at(at, Event::Node(self.number, self.life, NodeEvent::LinkTimer { conn: *id }));
            }
        }
        for (remote, packet) in packets {
            self.send_packet(remote, packet, cx);
        }
    }

    fn send_packet(&self, (device, port): (usize, u32), packet: Packet, cx: &mut Cx) {
        for at in cx.net.datagram(self.me(), Party::Device(device), cx.now) {
            let event = DeviceEvent::Datagram { port, packet: packet.clone() };
            cx.at(at, Event::ToDevice(device, event));
        }
    }
}

impl Link {
    fn new(conn: Conn, remote: (usize, u32)) -> Self {
        Self {
            conn,
            remote,
            buffer: BytesMut::new(),
            hello: None,
            session: None,
            closing_at: None,
            timer_at: Ms::MAX,
            touched: true,
        }
    }
}
