//! The agent's task: takes inputs from line, radio, outbox, clock and commands, gives them to the machine, and does what it says.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use flotilla_protocol::id::{InboundId, SimId};
use flotilla_protocol::wire::{Down, Hello, Settings, Telemetry, Up, Welcome};
use tokio::time::{Instant, Sleep};

use super::line::{Line, LineEvent};
use super::machine::{Machine, Order};
use super::{AgentError, AgentStatus, Command, Commands, Exit, Parts, Present, SimStatus, fresh_or};
use crate::clock::{Clock, Now};
use crate::identity::{DeviceKey, certificate_request};
use crate::link::{StreamError, Transport};
use crate::outbox::{Awaiting, Commit, DeviceOutbox, State};
use crate::radio::{Outstanding, Radio, RadioEvent};

/// Frames are taken from the machine while less than this waits for the link.
const QUEUED_BYTES_MAX: usize = 32 * 1024;
/// Radio events taken in before anything else gets its turn.
const EVENTS_PER_TURN: usize = 64;
/// For results of what is with a radio when the agent is told to stop, and for the last reports.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
const INTERVAL_MIN_S: u32 = 5;
/// After a refusal, or without an answer.
const RENEW_RETRY_S: u64 = 3600;
const LOG_LINE_BYTES_MAX: usize = 512;

/// Runs a device until it is stopped, revoked, or has lost its radio. The commands serve its next life too.
pub async fn run(parts: Parts, commands: &mut Commands) -> Result<Exit, AgentError> {
    let mut agent = Agent::start(parts).await?;
    let exit = agent.run(commands).await?;
    // A radio that is gone has crashed: what an orderly end would save is not to be relied on.
    if exit != Exit::RadioGone {
        agent.finish(&exit).await?;
    }
    Ok(exit)
}

struct Agent {
    clock: Arc<dyn Clock>,
    info: flotilla_protocol::wire::DeviceInfo,
    power: Option<Arc<dyn Fn() -> super::Power + Send + Sync>>,
    presence: Option<Arc<AtomicUsize>>,
    machine: Machine,
    radio: Box<dyn Radio>,
    outbox: DeviceOutbox,
    commit: Option<Commit>,
    line: Line,
    talk: Talk,
    timer: Pin<Box<Sleep>>,
}

/// What is agreed with the present controller, and due on its link.
struct Talk {
    settings: Settings,
    sims: Vec<(u8, SimId)>,
    present: Option<Present>,
    next_ping: Option<Instant>,
    next_telemetry: Option<Instant>,
    /// Spreads renewals; drawn once in an agent's life.
    renewal_jitter: f64,
    renewing: Option<Arc<dyn DeviceKey>>,
    /// Unix seconds; not before.
    renew_after_s: u64,
}

impl Agent {
    async fn start(parts: Parts) -> Result<Self, AgentError> {
        let Parts { clock, links, outbox, identities, info, mut radio, config, power, presence, seed } = parts;
        let identity = identities.load()?.ok_or(AgentError::NotEnrolled)?;
        let (device, state) = outbox.device(identity.device).await?;
        let (state, fresh) = fresh_or(state, &outbox);
        let mut line = Line::new(links, identities, clock.clone(), identity, seed);
        line.learn(state.controllers());
        let build = if fresh { Machine::fresh } else { Machine::new };
        let machine = build(config, state, radio.sims(), clock.now());
        radio.resume(outstanding(machine.state()));
        let talk = Talk {
            settings: Settings::default(),
            sims: Vec::new(),
            present: None,
            next_ping: None,
            next_telemetry: None,
            renewal_jitter: line.random(),
            renewing: None,
            renew_after_s: 0,
        };
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        Ok(Self { clock, info, power, presence, machine, radio, outbox: device, commit: None, line, talk, timer })
    }

    async fn run(&mut self, commands: &mut Commands) -> Result<Exit, AgentError> {
        let mut commanded = true;
        loop {
            self.pump()?;
            self.arm();
            let event = tokio::select! {
                done = wait_for(&mut self.commit), if self.commit.is_some() => {
                    self.commit = None;
                    done?;
                    let now = self.now();
                    self.machine.committed(now);
                    LineEvent::Nothing
                }
                event = poll_fn(|cx| self.radio.poll_event(cx)) => match event {
                    Some(event) => {
                        self.radio_events(event);
                        LineEvent::Nothing
                    }
                    None => return Ok(Exit::RadioGone),
                },
                event = self.line.turn() => event,
                command = commands.0.recv(), if commanded => match command {
                    Some(Command::Stop) => return Ok(Exit::Stopped),
                    Some(command) => self.command(command),
                    // Nobody holds a handle any more.
                    None => {
                        commanded = false;
                        LineEvent::Nothing
                    }
                },
                () = &mut self.timer => self.time_passed(),
            };
            if let Some(exit) = self.line_event(event) {
                return Ok(exit);
            }
        }
    }

    /// Gives the radio's last results and the last reports a chance, and makes everything durable.
    async fn finish(&mut self, exit: &Exit) -> Result<(), AgentError> {
        let end = Instant::now() + STOP_PATIENCE;
        while *exit == Exit::Stopped && self.machine.is_with_radio() {
            self.pump()?;
            tokio::select! {
                done = wait_for(&mut self.commit), if self.commit.is_some() => {
                    self.commit = None;
                    done?;
                    let now = self.now();
                    self.machine.committed(now);
                }
                event = poll_fn(|cx| self.radio.poll_event(cx)) => match event {
                    Some(event) => self.radio_events(event),
                    None => break,
                },
                () = tokio::time::sleep_until(end) => break,
            }
        }
        loop {
            self.pump()?;
            let Some(commit) = self.commit.take() else { break };
            commit.await?;
            let now = self.now();
            self.machine.committed(now);
        }
        self.line.end(end.saturating_duration_since(Instant::now())).await;
        Ok(())
    }

    fn now(&self) -> Now {
        self.clock.now()
    }

    /// Moves everything that can move without waiting.
    fn pump(&mut self) -> Result<(), AgentError> {
        let now = self.now();
        self.machine.set_outbox_full(self.outbox.outbox().is_full());
        if self.commit.is_none()
            && let Some(records) = self.machine.take(now)
        {
            self.commit = Some(self.outbox.append(&records)?);
        }
        while let Some(order) = self.machine.poll_order() {
            match order {
                Order::Send(job) => self.radio.send(job),
                Order::Stored { slot, token } => self.radio.stored(slot, token),
            }
        }
        if let Some(session) = self.line.session() {
            while session.stream.queued_bytes() < QUEUED_BYTES_MAX
                && let Some(frame) = self.machine.poll_frame()
            {
                if let Err(error) = session.stream.queue(&frame) {
                    tracing::warn!(%error, "a frame does not fit the link");
                }
            }
        }
        Ok(())
    }

    /// Sets the timer to whatever comes first.
    fn arm(&mut self) {
        let now = self.clock.now().boot_ms;
        let machine = self.machine.next_deadline();
        let machine = machine.map(|at| Instant::now() + Duration::from_millis(at.saturating_sub(now)));
        let earliest = [machine, self.talk.next_ping, self.talk.next_telemetry].into_iter().flatten().min();
        let far = || Instant::now() + Duration::from_secs(3600);
        let at = earliest.unwrap_or_else(|| if self.timer.is_elapsed() { far() } else { self.timer.deadline() });
        if at != self.timer.deadline() || self.timer.is_elapsed() {
            self.timer.as_mut().reset(at);
        }
    }

    fn radio_events(&mut self, first: RadioEvent) {
        let now = self.now();
        let mut event = first;
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 0..EVENTS_PER_TURN {
            let line = &mut self.line;
            self.machine.radio(event, || InboundId::new(now.unix_ms, line.random_bytes()), now);
            // A radio that is gone says so again when it is polled for real.
            match self.radio.poll_event(&mut context) {
                std::task::Poll::Ready(Some(next)) => event = next,
                _ => return,
            }
        }
        let line = &mut self.line;
        self.machine.radio(event, || InboundId::new(now.unix_ms, line.random_bytes()), now);
    }

    fn command(&mut self, command: Command) -> LineEvent {
        match command {
            Command::Status(reply) => {
                // Whoever asked may have gone.
                let _ = reply.send(self.status());
                LineEvent::Nothing
            }
            Command::Reconnect => {
                self.line.reconnect();
                LineEvent::Lost
            }
            Command::NetworkChanged if self.line.transport() == Some(Transport::Tcp) => {
                self.line.reconnect();
                LineEvent::Lost
            }
            Command::NetworkChanged => LineEvent::Nothing,
            Command::Log { level, target, line } => {
                if level <= self.talk.settings.log_level {
                    let line = cut(line, LOG_LINE_BYTES_MAX);
                    self.machine.queue_frame(Up::Log { level, target, line });
                }
                LineEvent::Nothing
            }
            Command::Stop => LineEvent::Nothing,
        }
    }

    fn line_event(&mut self, event: LineEvent) -> Option<Exit> {
        match event {
            LineEvent::Nothing => {}
            LineEvent::Due => {
                let hello = self.hello();
                self.line.dial(self.clock.clone(), hello);
            }
            LineEvent::Connected(welcome) => self.connected(*welcome),
            LineEvent::Moved => {
                let event = self.frames();
                return self.line_event(event);
            }
            LineEvent::Lost => self.disconnected(),
            LineEvent::Revoked(detail) => {
                self.disconnected();
                return Some(Exit::Revoked { detail });
            }
        }
        None
    }

    fn hello(&self) -> Hello {
        Hello {
            protocol: self.line.protocol(),
            info: self.info.clone(),
            device_ms: 0,
            window: self.machine.config().window,
            epoch_seen: self.machine.state().epoch_seen(),
            sims: self.machine.sims(),
        }
    }

    fn connected(&mut self, welcome: Welcome) {
        let now = self.now();
        if let Err(error) = self.machine.link_up(&welcome, now) {
            tracing::warn!(%error, "a controller of the past is left alone");
            self.line.prefer_others();
            self.line.lost(&StreamError::Closed);
            return;
        }
        self.line.learn(&welcome.controllers);
        // The inventory may have changed since the hello was written.
        let sims = self.machine.sims();
        self.machine.queue_frame(Up::Sims { sims });
        self.talk.sims = welcome.sims;
        self.talk.present = self.presence.as_ref().map(Present::new);
        self.talk.renewing = None;
        self.settings(welcome.settings);
        self.telemetry();
        self.renew();
        let transport = self.line.transport().map_or("", Transport::as_str);
        tracing::info!(device = %self.line.identity().device, epoch = %welcome.epoch, transport, "connected");
        // Frames may have come together with the welcome.
        let event = self.frames();
        if !matches!(event, LineEvent::Nothing) {
            self.line_event(event);
        }
    }

    fn disconnected(&mut self) {
        self.machine.link_down();
        self.talk.present = None;
        self.talk.next_ping = None;
        self.talk.next_telemetry = None;
        self.talk.renewing = None;
    }

    fn settings(&mut self, settings: Settings) {
        let now = Instant::now();
        self.talk.next_ping = Some(now + self.ping_every(&settings));
        self.talk.next_telemetry = Some(now + seconds(settings.telemetry_interval_s));
        self.talk.settings = settings;
    }

    /// QUIC keeps itself alive; over TCP a clock pair does.
    fn ping_every(&self, settings: &Settings) -> Duration {
        let asked = seconds(settings.ping_interval_s);
        self.line.ping_every().map_or(asked, |least| asked.min(least))
    }

    /// Takes in all whole frames that are here.
    fn frames(&mut self) -> LineEvent {
        let now = self.now();
        loop {
            let Some(session) = self.line.session() else { return LineEvent::Nothing };
            match session.stream.next_frame::<Down>() {
                Ok(Some(frame)) => match self.frame(frame, now) {
                    LineEvent::Nothing => {}
                    event => return event,
                },
                Ok(None) => return LineEvent::Nothing,
                Err(error) => {
                    tracing::warn!(%error, "the link is given up");
                    return self.line.lost(&error);
                }
            }
        }
    }

    fn frame(&mut self, frame: Down, now: Now) -> LineEvent {
        match frame {
            Down::Dispatch(dispatch) => self.machine.dispatch(dispatch, now),
            Down::Go { attempts, sent_ms, send_within_ms } => self.machine.go(&attempts, sent_ms, send_within_ms, now),
            Down::Cancel { attempts } => self.machine.cancel(&attempts, now),
            Down::AckReports { position } => self.machine.acknowledged(position, now),
            Down::Settings(settings) => self.settings(settings),
            Down::Sims { sims } => self.talk.sims = sims,
            Down::Ussd { request, slot, code } => self.radio.ussd(request, slot, code),
            Down::Pong { device_ms, controller_ms } => self.machine.pong(device_ms, controller_ms),
            Down::Resume => self.machine.resume(),
            Down::Drain => self.line.prefer_others(),
            Down::Certificate { chain_der, roots_der } => return self.certificate(chain_der, roots_der),
            Down::RenewRefused { detail } => {
                tracing::warn!(detail, "the certificate was not renewed; trying again later");
                self.talk.renewing = None;
                self.talk.renew_after_s = self.line.now_s() + RENEW_RETRY_S;
            }
            Down::Refused { reason, detail } => return self.line.refused(reason, &detail),
            Down::Controllers { controllers } => {
                self.machine.set_controllers(&controllers);
                self.line.learn(&controllers);
            }
            Down::Redirect { controllers } => return self.line.redirected(controllers),
            Down::Welcome(_) => {
                tracing::warn!("the controller repeats its greeting: the link is given up");
                return self.line.lost(&StreamError::Closed);
            }
        }
        LineEvent::Nothing
    }

    fn time_passed(&mut self) -> LineEvent {
        let (now, instant) = (self.now(), Instant::now());
        self.machine.tick(now);
        if self.talk.next_ping.is_some_and(|at| at <= instant) {
            self.talk.next_ping = Some(instant + self.ping_every(&self.talk.settings));
            self.machine.queue_frame(Up::Ping { device_ms: now.boot_ms });
            self.renew();
        }
        if self.talk.next_telemetry.is_some_and(|at| at <= instant) {
            self.talk.next_telemetry = Some(instant + seconds(self.talk.settings.telemetry_interval_s));
            self.telemetry();
        }
        LineEvent::Nothing
    }

    fn telemetry(&mut self) {
        let power = self.power.as_ref().map(|power| power()).unwrap_or_default();
        let telemetry = Telemetry {
            sims: self.machine.health(),
            battery_percent: power.battery_percent,
            charging: power.charging,
            outbox_open: self.machine.state().open_len() as u32,
            reports_open: self.machine.state().reports_open() as u32,
            disk_free_bytes: self.outbox.outbox().free_bytes(),
        };
        self.machine.queue_frame(Up::Telemetry(telemetry));
    }

    /// Asks for a new certificate when it is time: the pings are the clock.
    fn renew(&mut self) {
        let now_s = self.line.now_s();
        let due_s = self.line.identity().credential.renew_at_s(self.talk.renewal_jitter);
        if self.talk.renewing.is_some() || now_s < due_s.max(self.talk.renew_after_s) {
            return;
        }
        self.talk.renew_after_s = now_s + RENEW_RETRY_S;
        let request = self.line.new_key().and_then(|key| Ok((certificate_request(&key)?, key)));
        match request {
            Ok((csr_der, key)) => {
                self.talk.renewing = Some(key);
                self.machine.queue_frame(Up::Renew { csr_der });
            }
            Err(error) => tracing::warn!(%error, "no key for a new certificate"),
        }
    }

    fn certificate(&mut self, chain_der: Vec<Vec<u8>>, roots_der: Vec<Vec<u8>>) -> LineEvent {
        let Some(key) = self.talk.renewing.take() else { return LineEvent::Nothing };
        match self.line.renewed(key, chain_der, roots_der) {
            Ok(()) => {
                tracing::info!(device = %self.line.identity().device, "certificate renewed, connecting with it");
                LineEvent::Lost
            }
            Err(error) => {
                tracing::warn!(%error, "the new certificate is not used");
                LineEvent::Nothing
            }
        }
    }

    fn status(&self) -> AgentStatus {
        let identity = self.line.identity();
        let health = self.machine.health();
        let sim = |sim: &flotilla_protocol::wire::SimInfo| {
            let id = self.talk.sims.iter().find(|(slot, _)| *slot == sim.slot).map(|(_, id)| id.to_string());
            SimStatus::new(sim, health.iter().find(|health| health.slot == sim.slot), id)
        };
        AgentStatus {
            device: identity.device.to_string(),
            tenant: identity.tenant.to_string(),
            tenant_name: identity.tenant_name.clone(),
            line: self.line.status(),
            sims: self.machine.sims().iter().map(sim).collect(),
            attempts_open: self.machine.state().open_len(),
            reports_open: self.machine.state().reports_open(),
            awaiting: self.machine.state().awaiting().count(),
            outbox_full: self.outbox.outbox().is_full(),
        }
    }
}

/// Segments without a status report, for a radio that has to be reminded.
fn outstanding(state: &State) -> Vec<Outstanding> {
    let segments = |awaiting: &Awaiting| -> Vec<Outstanding> {
        let pending = (0..awaiting.segments).filter(|segment| awaiting.is_pending(*segment));
        pending.map(|segment| Outstanding { attempt: awaiting.attempt, slot: awaiting.slot, segment }).collect()
    };
    state.awaiting().flat_map(segments).collect()
}

async fn wait_for(commit: &mut Option<Commit>) -> Result<(), crate::outbox::OutboxDown> {
    match commit {
        Some(commit) => commit.await,
        None => std::future::pending().await,
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds.max(INTERVAL_MIN_S)))
}

fn cut(mut text: String, bytes_max: usize) -> String {
    while text.len() > bytes_max {
        text.pop();
    }
    text
}
