//! A device's line: dials one controller after the other as the real dialer says, says hello, reads frames.

use bytes::BytesMut;
use flotilla_protocol::wire::{DeviceInfo, Down, Hello, PROTOCOL, Refusal, Up, Welcome, decode_frame, encode_frame};

use super::{Device, DeviceEvent, PING_EVERY_MS};
use crate::sim::Ms;
use crate::sim::conn::{Conn, Packet};
use crate::sim::node::NodeEvent;
use crate::sim::plan::Party;
use crate::sim::told;
use crate::sim::world::{Cx, Event};

/// Then the next controller is tried.
const CONNECT_MS: u64 = 4_000;

#[derive(Default)]
pub(super) struct Line {
    link: Option<Link>,
}

struct Link {
    conn: Conn,
    node: usize,
    buffer: BytesMut,
    said_hello: bool,
    welcomed: bool,
    timer_at: Ms,
}

impl Line {
    /// The connection, once the controller has said welcome.
    pub(super) fn welcomed(&mut self) -> Option<&mut Conn> {
        self.link.as_mut().filter(|link| link.welcomed).map(|link| &mut link.conn)
    }

    fn is(&self, conn: u64) -> bool {
        self.link.as_ref().is_some_and(|link| link.conn.id == conn)
    }
}

impl Device {
    pub(super) fn dial_after(&mut self, pause_ms: u64, cx: &mut Cx) {
        let event = self.own(DeviceEvent::Dial);
        cx.after(pause_ms, event);
    }

    pub(super) fn dial(&mut self, cx: &mut Cx) {
        self.next += 1;
        let id = ((self.number as u64 + 1) << 32) + self.next;
        let Some(mind) = self.mind.as_mut().filter(|mind| mind.line.link.is_none()) else { return };
        if mind.targets.is_empty() {
            mind.targets = mind.dialer.targets().into();
        }
        let target = mind.targets.pop_front().unwrap_or_default();
        let node = crate::sim::etcd::number(&target).unwrap_or_default();
        let conn = Conn::dial(id, cx.now);
        let link = Link { conn, node, buffer: BytesMut::new(), said_hello: false, welcomed: false, timer_at: Ms::MAX };
        mind.line.link = Some(link);
        let event = self.own(DeviceEvent::NoWelcome { conn: id });
        cx.after(CONNECT_MS, event);
    }

    pub(super) fn no_welcome(&mut self, conn: u64, cx: &mut Cx) {
        let Some(mind) = &mut self.mind else { return };
        if !mind.line.is(conn) || mind.line.link.as_ref().is_some_and(|link| link.welcomed) {
            return;
        }
        self.hang_up(cx);
        self.next_target(cx);
    }

    /// The next of this round, or a pause before the next round.
    fn next_target(&mut self, cx: &mut Cx) {
        let random = self.rng.unit();
        let Some(mind) = &mut self.mind else { return };
        let pause = if mind.targets.is_empty() { mind.dialer.failed(random) } else { 0 };
        self.dial_after(pause, cx);
    }

    pub(super) fn datagram(&mut self, port: u32, packet: Packet, cx: &mut Cx) {
        if port != self.port {
            return;
        }
        let Some(mind) = self.mind.as_mut().filter(|mind| mind.line.is(packet.conn)) else { return };
        let Some(link) = &mut mind.line.link else { return };
        match link.conn.receive(packet.body, cx.now) {
            Ok(bytes) => {
                link.buffer.extend_from_slice(&bytes);
                if link.conn.is_up() && !std::mem::replace(&mut link.said_hello, true) {
                    self.say_hello(cx);
                }
                self.frames(cx);
            }
            Err(_) => self.lost(cx),
        }
    }

    pub(super) fn link_timer(&mut self, conn: u64, cx: &mut Cx) {
        let Some(mind) = self.mind.as_mut().filter(|mind| mind.line.is(conn)) else { return };
        let Some(link) = &mut mind.line.link else { return };
        // Of a time that was given up for an earlier one.
        if cx.now < link.timer_at {
            return;
        }
        link.timer_at = Ms::MAX;
        if link.conn.tick(cx.now).is_err() {
            self.lost(cx);
        }
    }

    fn say_hello(&mut self, cx: &mut Cx) {
        let now = self.now(cx);
        let info = DeviceInfo { name: self.number.to_string(), ..DeviceInfo::default() };
        let Some(mind) = &mut self.mind else { return };
        let hello = Up::Hello(Hello {
            protocol: PROTOCOL,
            info,
            device_ms: now.boot_ms,
            window: mind.machine.config().window,
            epoch_seen: mind.machine.state().epoch_seen(),
            sims: mind.machine.sims(),
        });
        let mut bytes = BytesMut::new();
        encode_frame(&hello, &mut bytes).expect("it fits");
        if let Some(link) = &mut mind.line.link {
            link.conn.write(&bytes, cx.now);
        }
    }

    fn frames(&mut self, cx: &mut Cx) {
        loop {
            let link = self.mind.as_mut().and_then(|mind| mind.line.link.as_mut());
            let Some(link) = link else { return };
            match decode_frame::<Down>(&mut link.buffer) {
                Ok(Some(frame)) => {
                    let (welcomed, node) = (link.welcomed, link.node);
                    cx.log(|| format!("d{} <- c{node}: {}", self.number, told::down(&frame)));
                    if welcomed { self.frame(frame, cx) } else { self.greeting(frame, cx) }
                }
                Ok(None) => return,
                Err(error) => panic!("a controller's frames are whole: {error}"),
            }
        }
    }

    fn greeting(&mut self, frame: Down, cx: &mut Cx) {
        match frame {
            Down::Welcome(welcome) => self.welcome(&welcome, cx),
            Down::Redirect { controllers } => {
                self.hang_up(cx);
                let random = self.rng.unit();
                let Some(mind) = &mut self.mind else { return };
                mind.targets.clear();
                let pause = mind.dialer.redirected(controllers, random);
                self.dial_after(pause, cx);
            }
            Down::Refused { reason, .. } => self.refused(reason, cx),
            _ => self.lost(cx),
        }
    }

    fn welcome(&mut self, welcome: &Welcome, cx: &mut Cx) {
        let now = self.now(cx);
        let Some(mind) = &mut self.mind else { return };
        if mind.machine.link_up(welcome, now).is_err() {
            mind.dialer.avoid_current();
            return self.lost(cx);
        }
        mind.dialer.learn(&welcome.controllers);
        mind.targets.clear();
        let sims = mind.machine.sims();
        mind.machine.queue_frame(Up::Sims { sims });
        let Some(link) = &mut mind.line.link else { return };
        link.welcomed = true;
        mind.dialer.connected(&format!("c{}", link.node));
        let (conn, node) = (link.conn.id, link.node);
        cx.log(|| format!("d{} is welcome at c{node}, epoch {}", self.number, welcome.epoch));
        let event = self.own(DeviceEvent::Ping { conn });
        cx.after(PING_EVERY_MS, event);
    }

    fn frame(&mut self, frame: Down, cx: &mut Cx) {
        let now = self.now(cx);
        let device = super::id(self.number);
        let Some(mind) = &mut self.mind else { return };
        match frame {
            Down::Dispatch(dispatch) => {
                cx.check.dispatched(dispatch.attempt);
                mind.machine.dispatch(dispatch, now);
            }
            Down::Go { attempts, sent_ms, send_within_ms } => {
                mind.machine.go(&attempts, sent_ms, send_within_ms, now);
            }
            Down::Cancel { attempts } => mind.machine.cancel(&attempts, now),
            Down::AckReports { position } => {
                let state = mind.machine.state();
                for report in state.reports_from(0).take_while(|report| report.position <= position) {
                    cx.check.report_let_go(device, report);
                }
                mind.machine.acknowledged(position, now);
            }
            Down::Pong { device_ms, controller_ms } => mind.machine.pong(device_ms, controller_ms),
            Down::Resume => mind.machine.resume(),
            Down::Drain => mind.dialer.avoid_current(),
            Down::Refused { reason, .. } => self.refused(reason, cx),
            _ => {}
        }
    }

    fn refused(&mut self, reason: Refusal, cx: &mut Cx) {
        self.hang_up(cx);
        let random = self.rng.unit();
        let Some(mind) = &mut self.mind else { return };
        let pause = match reason {
            Refusal::Superseded => mind.dialer.sent_away(random),
            Refusal::ShuttingDown => {
                mind.dialer.avoid_current();
                mind.dialer.failed(random)
            }
            _ if mind.targets.is_empty() => mind.dialer.failed(random),
            _ => 0,
        };
        self.dial_after(pause, cx);
    }

    fn lost(&mut self, cx: &mut Cx) {
        let random = self.rng.unit();
        let lived_ms = self.hang_up(cx);
        let Some(mind) = &mut self.mind else { return };
        let pause = mind.dialer.lost(lived_ms, random);
        self.dial_after(pause, cx);
    }

    /// Answers how long the link has lived.
    fn hang_up(&mut self, cx: &mut Cx) -> u64 {
        let Some(mind) = &mut self.mind else { return 0 };
        let Some(mut link) = mind.line.link.take() else { return 0 };
        if link.welcomed {
            mind.machine.link_down();
            cx.log(|| format!("d{} has lost c{}", self.number, link.node));
        }
        link.conn.close(cx.now);
        let age = link.conn.age(cx.now);
        for packet in link.conn.take_packets() {
            self.send_packet(link.node, packet, cx);
        }
        age
    }

    pub(super) fn ping(&mut self, conn: u64, cx: &mut Cx) {
        let now = self.now(cx);
        let Some(mind) = self.mind.as_mut().filter(|mind| mind.line.is(conn)) else { return };
        mind.machine.queue_frame(Up::Ping { device_ms: now.boot_ms });
        let event = self.own(DeviceEvent::Ping { conn });
        cx.after(PING_EVERY_MS, event);
    }

    pub(super) fn transmit(&mut self, cx: &mut Cx) {
        let Some(mind) = &mut self.mind else { return };
        let Some(link) = &mut mind.line.link else { return };
        let (packets, node) = (link.conn.take_packets(), link.node);
        let at = link.conn.next_deadline();
        if at < link.timer_at {
            link.timer_at = at;
            let conn = link.conn.id;
            cx.at(at, Event::Device(self.number, self.life, DeviceEvent::LinkTimer { conn }));
        }
        for packet in packets {
            self.send_packet(node, packet, cx);
        }
    }

    fn send_packet(&self, node: usize, packet: Packet, cx: &mut Cx) {
        for at in cx.net.datagram(Party::Device(self.number), Party::Node(node), cx.now) {
            let from = (self.number, self.port);
            cx.at(at, Event::ToNode(node, NodeEvent::Datagram { from, packet: packet.clone() }));
        }
    }
}
