//! The door for devices: one UDP port that speaks QUIC, for enrolment and for the links of enrolled devices; and the same
//! over TCP, for those whose network lets no UDP pass.
//!
//! ```text
//! acceptor (task)                paces handshakes, sends a connection where its protocol says (`tcp` has a second one)
//!   ├─ enroll (task)             one dialogue: token or proof -> certificate
//!   └─ hello (task)              checks, registers, tells the shard, says Welcome; becomes
//! supervisor (actor)
//!   └─ session (actor per device)   writes the outbox to the stream; its end is the session's end
//!        └─ reader (task)           frames -> shard
//! sweeper (task)                 the timers of all sessions
//! follow (task)                  sends devices after their shards when those move to other controllers
//! freshness (task)               notices what other controllers have revoked, disabled and rotated
//! ```
//! The gateway decides nothing about messages: reports go to the tenant's shard, frames come from it. What a device may
//! cost is bounded everywhere (`limits`), and what one session breaks, it breaks for itself.

pub mod close;

mod acceptor;
mod dialogue;
mod endpoint;
mod enroll;
mod follow;
mod freshness;
mod hello;
mod inventory;
mod keys;
mod limits;
mod link;
mod outbox;
mod peer;
mod ports;
mod reader;
mod registry;
mod renewal;
mod session;
mod settings;
mod silence;
mod supervisor;
mod sweeper;
mod tcp;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use flotilla_protocol::id::{DeviceId, SimId, TenantId};
use flotilla_protocol::wire::{Down, Refusal, Settings};
use flotilla_routing::table::KnownRoute;
use parking_lot::Mutex;
use quinn::Endpoint;
use ractor::{Actor, ActorCell};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::ca::{Ca, CaError, SecretFileError};
use crate::clock::Clock;
use crate::fleet::controllers::Controllers;
use crate::fleet::deny::DenyList;
use crate::fleet::devices::Devices;
use crate::fleet::enrollments::Enrollments;
use crate::fleet::sims::HoldNewSims;
use crate::store::Catalog;

use keys::EndpointKeys;
use limits::{Addresses, Bucket};
pub use limits::{Limits, Rate};
pub use link::Transport;
pub use peer::{SessionInfo, UssdError};
pub use ports::{FleetEvent, FleetEvents, ShardDoor, ShardDoors};
use registry::Registry;
use supervisor::Supervisor;

/// How long closing sessions may take before the endpoint is closed over them.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(3);
/// Handshakes that begin in the same moment, at most.
const BURST: u32 = 16;

#[derive(Clone, Debug)]
pub struct GatewayConfig {
    pub listen: SocketAddr,
    /// Where TCP is spoken too, for networks without UDP. Devices try the port at which they were told to find QUIC.
    pub tcp: Option<SocketAddr>,
    /// This controller's own, for its certificate.
    pub name: String,
    /// Folder for the endpoint's keys.
    pub dir: PathBuf,
    /// What devices are told in `Welcome`.
    pub settings: Settings,
    pub recoveries_max: u32,
    pub hold_new_sims: HoldNewSims,
    pub limits: Limits,
}

/// The parts of the controller that the gateway works with.
#[derive(Clone)]
pub struct Parts {
    pub shards: Arc<dyn ShardDoors>,
    pub catalog: Arc<dyn Catalog>,
    pub ca: Arc<Ca>,
    pub controllers: Controllers,
    pub enrollments: Enrollments,
    pub devices: Devices,
    pub deny: Arc<DenyList>,
    pub events: Arc<dyn FleetEvents>,
    pub clock: Arc<dyn Clock>,
}

#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("cannot listen on UDP {listen}")]
    Bind { listen: SocketAddr, source: io::Error },
    #[error("cannot listen on TCP {listen}: stop what uses it, or set quic.tcp_addr (\"off\" does without)")]
    BindTcp { listen: SocketAddr, source: io::Error },
    #[error("cannot set TLS up for QUIC")]
    Tls,
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    Keys(#[from] SecretFileError),
    #[error("cannot start the supervisor of the sessions")]
    Supervisor(#[from] ractor::SpawnErr),
}

/// What all connections share.
struct Context {
    limits: Limits,
    settings: Mutex<Settings>,
    controllers: Controllers,
    recoveries_max: u32,
    hold_new_sims: HoldNewSims,
    shards: Arc<dyn ShardDoors>,
    catalog: Arc<dyn Catalog>,
    ca: Arc<Ca>,
    enrollments: Enrollments,
    devices: Devices,
    deny: Arc<DenyList>,
    events: Arc<dyn FleetEvents>,
    clock: Arc<dyn Clock>,
    sessions: Registry,
    handshaking: Arc<Semaphore>,
    /// Apart from QUIC's, so that TCP connections which say nothing keep only each other away.
    handshaking_tcp: Arc<Semaphore>,
    /// TCP connections, those in their handshake among them.
    tcp_open: Arc<AtomicUsize>,
    pace: Mutex<Bucket>,
    enrolling: Arc<Semaphore>,
    addresses: Mutex<Addresses>,
    supervisor: ActorCell,
}

/// A running gateway. Dropping it closes the endpoint without ceremony; [`GatewayHandle::shutdown`] says goodbye.
pub struct GatewayHandle {
    context: Arc<Context>,
    endpoint: Endpoint,
    local_addr: SocketAddr,
    tcp_addr: Option<SocketAddr>,
    accepting_tcp: Option<JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
}

/// Opens the port. Blocks shortly on the key file.
pub async fn start(config: GatewayConfig, parts: Parts) -> Result<GatewayHandle, GatewayError> {
    let keys = EndpointKeys::load_or_create(&config.dir)?;
    let tls = endpoint::tls(parts.ca.clone(), &config.name)?;
    let endpoint = endpoint::open(config.listen, &keys, tls.clone())?;
    let local_addr = endpoint.local_addr().map_err(|source| GatewayError::Bind { listen: config.listen, source })?;
    let listener = listen_tcp(config.tcp).await?;
    let tcp_addr = listener.as_ref().map(|(_, addr)| *addr);
    let (supervisor, _) = Actor::spawn(None, Supervisor, ()).await?;
    let context = Arc::new(Context {
        handshaking: Arc::new(Semaphore::new(config.limits.handshakes_max)),
        handshaking_tcp: Arc::new(Semaphore::new(config.limits.handshakes_tcp_max)),
        tcp_open: Arc::default(),
        pace: Mutex::new(Bucket::new(
            Rate { burst: BURST, per_s: config.limits.handshakes_per_s },
            parts.clock.now().mono_ms,
        )),
        enrolling: Arc::new(Semaphore::new(config.limits.enrollments_max)),
        limits: config.limits,
        settings: Mutex::new(config.settings),
        controllers: parts.controllers,
        recoveries_max: config.recoveries_max,
        hold_new_sims: config.hold_new_sims,
        shards: parts.shards,
        catalog: parts.catalog,
        ca: parts.ca,
        enrollments: parts.enrollments,
        devices: parts.devices,
        deny: parts.deny,
        events: parts.events,
        clock: parts.clock,
        sessions: Registry::default(),
        addresses: Mutex::default(),
        supervisor: supervisor.get_cell(),
    });
    let accepting_tcp = listener.map(|(listener, _)| {
        let door = tcp::Door { listener, tls, quic: endpoint.clone() };
        tokio::spawn(tcp::run(context.clone(), door))
    });
    let tasks = vec![
        tokio::spawn(acceptor::run(context.clone(), endpoint.clone())),
        tokio::spawn(sweeper::run(context.clone())),
        tokio::spawn(follow::run(context.clone())),
        tokio::spawn(freshness::run(context.clone())),
    ];
    tracing::info!(%local_addr, tcp_addr = tcp_addr.map(tracing::field::display), "devices may connect");
    Ok(GatewayHandle { context, endpoint, local_addr, tcp_addr, accepting_tcp, tasks })
}

async fn listen_tcp(listen: Option<SocketAddr>) -> Result<Option<(TcpListener, SocketAddr)>, GatewayError> {
    let Some(listen) = listen else { return Ok(None) };
    let bind = |source: io::Error| GatewayError::BindTcp { listen, source };
    let listener = TcpListener::bind(listen).await.map_err(bind)?;
    let addr = listener.local_addr().map_err(bind)?;
    Ok(Some((listener, addr)))
}

/// The endpoint alone, with its keys in `dir`: for measuring what a link can carry.
pub(crate) fn endpoint(dir: &std::path::Path, listen: SocketAddr, ca: Arc<Ca>) -> Result<Endpoint, GatewayError> {
    endpoint::open(listen, &EndpointKeys::load_or_create(dir)?, endpoint::tls(ca, "bench")?)
}

/// What TCP links are accepted with: for the same measuring.
pub(crate) fn tls(ca: Arc<Ca>) -> Result<Arc<rustls::ServerConfig>, GatewayError> {
    endpoint::tls(ca, "bench")
}

impl Context {
    /// Waits until the next handshake may begin. Both transports have one pace.
    async fn paced(&self) {
        loop {
            let wait_ms = {
                let (mut pace, now_ms) = (self.pace.lock(), self.clock.now().mono_ms);
                if pace.take(1, now_ms) {
                    return;
                }
                pace.wait_ms(now_ms)
            };
            sleep(Duration::from_millis(wait_ms.max(1))).await;
        }
    }
}

impl GatewayHandle {
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// `None` when TCP is off.
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        self.tcp_addr
    }

    pub fn connected(&self) -> usize {
        self.context.sessions.len()
    }

    /// All sessions, in no order.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.context.sessions.all().iter().map(|peer| peer.info()).collect()
    }

    /// `None` while the device is not connected to this controller.
    pub fn session(&self, device: DeviceId) -> Option<SessionInfo> {
        self.context.sessions.get(device).map(|peer| peer.info())
    }

    /// Sends the device away. False when it is not connected.
    pub fn close(&self, device: DeviceId, reason: Refusal, detail: &str) -> bool {
        let peer = self.context.sessions.get(device);
        let now_ms = self.context.clock.now().mono_ms;
        peer.is_some_and(|peer| {
            peer.refuse(reason, detail, now_ms);
            true
        })
    }

    /// The device finishes what it has and gets nothing new, or gets new work again. False when it is not connected.
    pub fn set_draining(&self, device: DeviceId, draining: bool) -> bool {
        let peer = self.context.sessions.get(device);
        peer.is_some_and(|peer| {
            peer.set_accepts_work(!draining);
            true
        })
    }

    /// What the SIMs of a tenant may do, as of the change of this number: its shard is told what is another for those that are
    /// connected here. Those that are not are answered.
    pub fn refresh_settings(
        &self,
        tenant: TenantId,
        number: u64,
        routes: FxHashMap<SimId, KnownRoute>,
    ) -> Vec<KnownRoute> {
        settings::refresh(&self.context, tenant, number, routes)
    }

    /// Whether a device of the tenant is connected.
    pub fn has_links(&self, tenant: TenantId) -> bool {
        settings::has_links(&self.context, tenant)
    }

    /// Tenants with a connected device that works by older settings than their last change, by its number.
    pub fn tenants_behind(&self, last_change: impl Fn(TenantId) -> u64) -> FxHashSet<TenantId> {
        settings::tenants_behind(&self.context, last_change)
    }

    /// Settings for one device until it reconnects. False when it is not connected.
    pub fn push_settings(&self, device: DeviceId, settings: Settings) -> bool {
        let peer = self.context.sessions.get(device);
        peer.is_some_and(|peer| {
            peer.push(vec![Down::Settings(settings)]);
            true
        })
    }

    /// Settings for all devices, those that are connected and those that come.
    pub fn set_settings(&self, settings: Settings) {
        *self.context.settings.lock() = settings.clone();
        for peer in self.context.sessions.all() {
            peer.push(vec![Down::Settings(settings.clone())]);
        }
    }

    /// Asks the network over a SIM of the device, and waits for what it says.
    pub async fn ussd(
        &self,
        device: DeviceId,
        slot: u8,
        code: &str,
        deadline: Duration,
    ) -> Result<Result<String, String>, UssdError> {
        // 182 septets in 160 octets (3GPP TS 24.090).
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '*' | '#');
        if code.is_empty() || code.len() > 182 || !code.chars().all(allowed) {
            return Err(UssdError::Code);
        }
        let peer = self.context.sessions.get(device).ok_or(UssdError::Offline)?;
        let answer = peer.ask_ussd(slot, code.to_owned())?;
        match timeout(deadline, answer).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(UssdError::Offline),
            Err(_) => Err(UssdError::Timeout),
        }
    }

    /// Takes nobody new, tells every device to connect elsewhere, and closes the links.
    pub async fn shutdown(&self) {
        self.endpoint.set_server_config(None);
        self.accepting_tcp.iter().for_each(JoinHandle::abort);
        let now_ms = self.context.clock.now().mono_ms;
        for peer in self.context.sessions.all() {
            peer.push(vec![Down::Drain]);
            match follow::elsewhere(&self.context, &peer) {
                Some(controllers) => peer.redirect(controllers, now_ms),
                None => peer.refuse(Refusal::ShuttingDown, "the controller stops", now_ms),
            }
        }
        if timeout(SHUTDOWN_DEADLINE, self.context.sessions.wait_empty()).await.is_err() {
            tracing::warn!(left = self.connected(), "some devices did not take their leave");
        }
        self.endpoint.close(close::code_of(Refusal::ShuttingDown), b"the controller stops");
        // Until the last packets are out, or so long that they never will be.
        let _ = timeout(SHUTDOWN_DEADLINE, self.endpoint.wait_idle()).await;
    }
}

impl Drop for GatewayHandle {
    fn drop(&mut self) {
        self.endpoint.close(close::code_of(Refusal::ShuttingDown), b"the controller stops");
        self.tasks.iter().chain(&self.accepting_tcp).for_each(JoinHandle::abort);
        for peer in self.context.sessions.all() {
            peer.cut(close::End::Refused(Refusal::ShuttingDown));
        }
        self.context.supervisor.stop(None);
    }
}

#[cfg(test)]
pub(crate) mod tests;
