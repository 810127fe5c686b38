//! One connected device: what its session, its reader, its shard and the API share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use flotilla_protocol::id::{DeviceId, Epoch, SimId, TenantId};
use flotilla_protocol::wire::{Down, Refusal, SimInfo, SimState, Telemetry};
use parking_lot::Mutex;
use ractor::ActorRef;
use tokio::sync::oneshot;

use super::close::{End, name_of};
use super::link::{Connection, Transport};
use super::outbox::{Outbox, Pushed};
use super::ports::ShardDoor;
use super::session;
use super::settings::CardSettings;
use super::silence::{Look, Silence};
use crate::ca::DeviceIdentity;
use crate::domain::message::RouteKind;
use crate::shard::{DeviceSink, Link, RouteSim};

/// A radio works on a few attempts at most; what a device claims beyond is not granted.
const DEPTH_MAX: u8 = 16;
/// From this frame set on a link that is up may end with `Redirect`, and `Controllers` tells of new addresses.
const LIVE_REDIRECTS: u16 = 2;
/// USSD requests of one device under way.
const USSD_MAX: usize = 4;

pub(super) struct Peer {
    pub(super) session: u64,
    pub(super) identity: DeviceIdentity,
    pub(super) since_ms: u64,
    /// The frame set that the device speaks.
    pub(super) protocol: u16,
    /// The leadership of the shard to which the session belongs.
    pub(super) epoch: Epoch,
    pub(super) connection: Connection,
    pub(super) shard: Arc<dyn ShardDoor>,
    pub(super) outbox: Outbox,
    outgoing_frames_max: usize,
    state: Mutex<State>,
    /// Empty until the session's actor has begun, which looks into the outbox on its own.
    actor: OnceLock<ActorRef<session::Message>>,
    ended: AtomicBool,
    /// There was work among the frames since the last write.
    given_work: AtomicBool,
}

struct State {
    software: Box<str>,
    sims: Vec<RouteSim>,
    /// The number of the change that the settings of `sims` are as new as.
    settings_number: u64,
    /// What the device has said of each slot last, in its inventory or in telemetry.
    states: Vec<(u8, SimState)>,
    accepts_work: bool,
    silence: Silence,
    telemetry: Option<Box<Telemetry>>,
    ussd: Vec<(u32, oneshot::Sender<Result<String, String>>)>,
    ussd_last: u32,
    /// Why the session is being closed, and since when.
    closing: Option<(End, u64)>,
}

/// What the API shows of a session.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    pub device: DeviceId,
    pub tenant: TenantId,
    pub session: u64,
    /// Unix milliseconds.
    pub since_ms: u64,
    pub remote: SocketAddr,
    pub transport: Transport,
    /// Where the transport tells.
    pub rtt: Option<Duration>,
    pub software: String,
    pub accepts_work: bool,
    pub sims: Vec<RouteSim>,
    /// By slot; the newest of inventory and telemetry.
    pub states: Vec<(u8, SimState)>,
    pub telemetry: Option<Box<Telemetry>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UssdError {
    #[error("the device is not connected")]
    Offline,
    #[error("`code` has to be 1 to 182 characters of 0-9 * # and letters")]
    Code,
    #[error("{USSD_MAX} USSD requests of this device are under way: try again when they have ended")]
    TooMany,
    #[error("the device did not answer in time")]
    Timeout,
}

pub(super) struct NewPeer {
    pub(super) session: u64,
    pub(super) identity: DeviceIdentity,
    pub(super) since_ms: u64,
    /// The frame set that the device speaks.
    pub(super) protocol: u16,
    /// The leadership of the shard to which the session belongs.
    pub(super) epoch: Epoch,
    pub(super) connection: Connection,
    pub(super) shard: Arc<dyn ShardDoor>,
    pub(super) outgoing_frames_max: usize,
    pub(super) software: Box<str>,
    pub(super) sims: Vec<RouteSim>,
    pub(super) settings_number: u64,
    pub(super) states: Vec<(u8, SimState)>,
    pub(super) accepts_work: bool,
}

impl Peer {
    pub(super) fn new(new: NewPeer) -> Arc<Self> {
        let state = State {
            software: new.software,
            sims: new.sims,
            settings_number: new.settings_number,
            states: new.states,
            accepts_work: new.accepts_work,
            silence: Silence::default(),
            telemetry: None,
            ussd: Vec::new(),
            ussd_last: 0,
            closing: None,
        };
        Arc::new(Self {
            session: new.session,
            identity: new.identity,
            since_ms: new.since_ms,
            protocol: new.protocol,
            epoch: new.epoch,
            connection: new.connection,
            shard: new.shard,
            outbox: Outbox::default(),
            outgoing_frames_max: new.outgoing_frames_max,
            state: Mutex::new(state),
            actor: OnceLock::new(),
            ended: AtomicBool::new(false),
            given_work: AtomicBool::new(false),
        })
    }

    pub(super) fn device(&self) -> DeviceId {
        self.identity.device
    }

    pub(super) fn tenant(&self) -> TenantId {
        self.identity.tenant
    }

    pub(super) fn set_actor(&self, actor: ActorRef<session::Message>) {
        // The actor starts once; a second one would be another session.
        let _ = self.actor.set(actor);
    }

    pub(super) fn push(&self, frames: Vec<Down>) {
        if frames.iter().any(|frame| matches!(frame, Down::Dispatch(_) | Down::Go { .. })) {
            self.given_work.store(true, Ordering::Release);
        }
        match self.outbox.push(frames, self.outgoing_frames_max) {
            Pushed::Wake => self.wake(),
            Pushed::Queued | Pushed::Closed => {}
            // Since ever: who does not read will not read this either, so the sweeper need not wait.
            Pushed::Overflow => self.refuse(Refusal::Busy, "too many frames wait for this device", 0),
        }
    }

    /// New addresses, for a device that knows the frame; others learn them with their next `Welcome`.
    pub(super) fn tell_controllers(&self, controllers: Vec<String>) {
        if self.protocol >= LIVE_REDIRECTS {
            self.push(vec![Down::Controllers { controllers }]);
        }
    }

    fn wake(&self) {
        if let Some(actor) = self.actor.get() {
            // An actor that is gone has ended the session.
            let _ = actor.cast(session::Message::Flush);
        }
    }

    pub(super) fn tell(&self, message: session::Message) {
        if let Some(actor) = self.actor.get() {
            let _ = actor.cast(message);
        }
    }

    /// Ends the session with its reason as the last frame. The sweeper cuts it should the device not read that.
    pub(super) fn refuse(&self, reason: Refusal, detail: &str, now_ms: u64) {
        let last = Down::Refused { reason, detail: detail.to_owned() };
        if self.close(last, End::Refused(reason), now_ms) {
            tracing::info!(device = %self.device(), reason = name_of(reason), detail, "closing a session");
        }
    }

    /// Ends the session: the device finds its tenant's leader among these.
    pub(super) fn redirect(&self, controllers: Vec<String>, now_ms: u64) {
        if self.protocol < LIVE_REDIRECTS {
            // It connects to another controller, which redirects it at its `Hello`.
            return self.refuse(Refusal::ShuttingDown, "another controller leads this tenant's shard", now_ms);
        }
        if self.close(Down::Redirect { controllers }, End::Redirected, now_ms) {
            tracing::debug!(device = %self.device(), "sending a device to another controller");
        }
    }

    /// False when the session is closing already.
    fn close(&self, last: Down, end: End, now_ms: u64) -> bool {
        let pushed = self.outbox.close(last, end);
        if pushed == Pushed::Closed {
            return false;
        }
        metrics::counter!("flotilla_sessions_refused_total", "reason" => end.name()).increment(1);
        self.state.lock().closing = Some((end, now_ms));
        if pushed == Pushed::Wake {
            self.wake();
        }
        true
    }

    pub(super) fn closing(&self) -> Option<(End, u64)> {
        self.state.lock().closing
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(super) fn cut(&self, end: End) {
        self.connection.close(end.code(), end.name().as_bytes());
    }

    /// True for the first caller only.
    pub(super) fn end(&self) -> bool {
        let first = !self.ended.swap(true, Ordering::AcqRel);
        if first {
            self.state.lock().ussd.clear();
        }
        first
    }

    pub(super) fn link(&self, window: u16, epoch_seen: Epoch) -> Link {
        let state = self.state.lock();
        Link {
            kind: RouteKind::Sim,
            device: self.device(),
            tenant: self.tenant(),
            session: self.session,
            window,
            epoch_seen,
            sims: state.sims.clone(),
            accepts_work: state.accepts_work,
        }
    }

    pub(super) fn set_sims(&self, sims: Vec<RouteSim>, settings_number: u64, states: Vec<(u8, SimState)>) {
        let accepts_work = {
            let mut state = self.state.lock();
            state.sims.clone_from(&sims);
            state.settings_number = settings_number;
            state.states = states;
            state.takes_work()
        };
        self.shard.device_changed(self.device(), self.session, sims, accepts_work);
    }

    pub(super) fn settings_number(&self) -> u64 {
        self.state.lock().settings_number
    }

    /// What its SIMs may do has been read again; the shard hears of it when it differs.
    pub(super) fn set_settings(&self, settings: &CardSettings) {
        let changed = {
            let mut state = self.state.lock();
            if settings.number < state.settings_number {
                return;
            }
            state.settings_number = settings.number;
            let mut changed = false;
            for sim in &mut state.sims {
                if let Some(new) = settings.of(sim.sim).filter(|new| *new != sim.settings) {
                    sim.settings = new;
                    changed = true;
                }
            }
            changed.then(|| (state.sims.clone(), state.accepts_work))
        };
        if let Some((sims, accepts_work)) = changed {
            self.shard.device_changed(self.device(), self.session, sims, accepts_work);
        }
    }

    pub(super) fn set_accepts_work(&self, accepts_work: bool) {
        let (sims, takes_work) = {
            let mut state = self.state.lock();
            state.accepts_work = accepts_work;
            (state.sims.clone(), state.takes_work())
        };
        self.shard.device_changed(self.device(), self.session, sims, takes_work);
    }

    /// Something is being written to the device.
    pub(super) fn wrote(&self, now_ms: u64) {
        if let Connection::Quic(_) = &self.connection {
            let work = self.given_work.swap(false, Ordering::AcqRel);
            self.state.lock().silence.wrote(now_ms, work, || self.connection.heard().unwrap_or(0));
        }
    }

    pub(super) fn is_watched(&self, now_ms: u64) -> bool {
        self.state.lock().silence.is_watched(now_ms)
    }

    /// Takes work from a device that hears nothing, and lets it have some again.
    pub(super) fn listen(&self, now_ms: u64) {
        let Some(heard) = self.connection.heard() else { return };
        let (silent, sims, takes_work) = {
            let mut state = self.state.lock();
            match state.silence.look(now_ms, heard) {
                Look::Nothing => return,
                Look::Ask => {
                    drop(state);
                    // It acknowledges nothing: only that the transport does matters.
                    return self.push(vec![Down::AckReports { position: 0 }]);
                }
                Look::Changed { silent } => (silent, state.sims.clone(), state.takes_work()),
            }
        };
        tracing::info!(device = %self.device(), silent, "a device has gone silent, or is heard again");
        self.shard.device_changed(self.device(), self.session, sims, takes_work);
    }

    /// Keeps it for the API and gives it to the shard; a SIM that has become ready, or has ceased to be, changes the routes.
    pub(super) fn set_telemetry(&self, telemetry: Telemetry) {
        let changed = {
            let mut state = self.state.lock();
            let mut changed = false;
            for health in &telemetry.sims {
                let ready = health.state == SimState::Ready;
                for (_, known) in state.states.iter_mut().filter(|(slot, _)| *slot == health.slot) {
                    *known = health.state;
                }
                for sim in state.sims.iter_mut().filter(|sim| sim.slot == health.slot && sim.ready != ready) {
                    sim.ready = ready;
                    changed = true;
                }
            }
            state.telemetry = Some(Box::new(telemetry.clone()));
            changed.then(|| (state.sims.clone(), state.takes_work()))
        };
        if let Some((sims, accepts_work)) = changed {
            self.shard.device_changed(self.device(), self.session, sims, accepts_work);
        }
        self.shard.telemetry(self.device(), self.session, telemetry);
    }

    /// Sends the request; the answer comes through the receiver.
    pub(super) fn ask_ussd(
        &self,
        slot: u8,
        code: String,
    ) -> Result<oneshot::Receiver<Result<String, String>>, UssdError> {
        let (sender, receiver) = oneshot::channel();
        let request = {
            let mut state = self.state.lock();
            state.ussd.retain(|(_, waiting)| !waiting.is_closed());
            if state.ussd.len() >= USSD_MAX {
                return Err(UssdError::TooMany);
            }
            state.ussd_last = state.ussd_last.wrapping_add(1);
            let request = state.ussd_last;
            state.ussd.push((request, sender));
            request
        };
        self.push(vec![Down::Ussd { request, slot, code }]);
        Ok(receiver)
    }

    pub(super) fn answer_ussd(&self, request: u32, result: Result<String, String>) {
        let waiting = {
            let mut state = self.state.lock();
            let place = state.ussd.iter().position(|(number, _)| *number == request);
            place.map(|place| state.ussd.swap_remove(place).1)
        };
        if let Some(waiting) = waiting {
            // Whoever asked may have given up.
            let _ = waiting.send(result);
        }
    }

    pub(super) fn info(&self) -> SessionInfo {
        let state = self.state.lock();
        SessionInfo {
            device: self.device(),
            tenant: self.tenant(),
            session: self.session,
            since_ms: self.since_ms,
            remote: self.connection.remote(),
            transport: self.connection.transport(),
            rtt: self.connection.rtt(),
            software: state.software.to_string(),
            accepts_work: state.accepts_work,
            sims: state.sims.clone(),
            states: state.states.clone(),
            telemetry: state.telemetry.clone(),
        }
    }
}

impl State {
    fn takes_work(&self) -> bool {
        self.accepts_work && !self.silence.is_silent()
    }
}

impl DeviceSink for Peer {
    fn send(&self, frames: Vec<Down>) {
        self.push(frames);
    }
}

impl SessionInfo {
    pub fn sim_state(&self, slot: u8) -> Option<SimState> {
        self.states.iter().find(|(known, _)| *known == slot).map(|(_, state)| *state)
    }
}

pub(super) fn states_of(sims: &[SimInfo]) -> Vec<(u8, SimState)> {
    sims.iter().map(|info| (info.slot, info.state)).collect()
}

/// The routes of an inventory whose SIMs have these ids.
pub(super) fn routes_of(sims: &[SimInfo], ids: &[(u8, SimId)], settings: &CardSettings) -> Vec<RouteSim> {
    let route = |info: &SimInfo| {
        let (_, sim) = ids.iter().find(|(slot, _)| *slot == info.slot)?;
        let depth = info.depth.clamp(1, DEPTH_MAX);
        Some(RouteSim {
            slot: info.slot,
            sim: *sim,
            depth,
            ready: info.state == SimState::Ready,
            settings: settings.of(*sim)?,
        })
    };
    sims.iter().filter_map(route).collect()
}
