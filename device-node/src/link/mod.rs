//! Connections from this process to controllers: QUIC endpoints, TCP where UDP does not pass, TLS, the handshake up to
//! `Welcome`.

mod choice;
mod dialer;
mod race;
mod session;
mod silence;
mod stream;
mod tcp;
mod tls;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flotilla_protocol::wire::{Down, Hello, Refusal, Up, Welcome};
use parking_lot::Mutex;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, TokioRuntime, TransportConfig, VarInt,
};
use rustix::net::sockopt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::identity::Credential;

use choice::{Look, Udp};
use race::Race;

pub use choice::Transport;
pub use dialer::{Dialer, PAUSE_MAX_MS, PAUSE_MIN_MS, STABLE_MS};
pub use session::{Session, Turn};
pub use stream::{FrameStream, StreamError};
pub use tls::TlsError;

/// From the first packet to `Welcome`.
const CONNECT_DEADLINE: Duration = Duration::from_secs(15);
/// From `Hello` to its answer; then the other transport gets its turn. A controller whose store is slow answers after 5 s.
const WELCOME_PATIENCE: Duration = Duration::from_secs(7);
/// For the handshake that shows whether UDP passes.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// Controllers of which is kept whether UDP passes.
const CONTROLLERS_MAX: usize = 256;
/// Handshakes of this process under way at once. Thousands that share a processor would all end in their deadline.
const HANDSHAKES_MAX: usize = 64;
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// After a silence this long a link says something, and learns whether the controller is there. One that was killed and is
/// back knows nothing of its links, and answers their next packet with a stateless reset. A machine on the mains can afford
/// it. A phone, which wakes its modem each time, does better with 15 s: [`Options`].
pub const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// What was said is repeated several times meanwhile; when none of it is acknowledged, another controller leads by then, or
/// will in a moment. A phone, whose network comes and goes, does better with 10 s.
pub const SILENCE: Duration = Duration::from_millis(2_500);
/// The transport's own end of a silence, by which the controller gives a link up as well: at least two keep-alives.
const IDLE_MIN: Duration = Duration::from_secs(10);
const IDLE_MAX: Duration = Duration::from_secs(45);
/// TCP repeats what was lost at growing intervals, and here it is the agent that says something.
const TCP_KEEP_ALIVE_MIN: Duration = Duration::from_secs(5);
const TCP_KEEP_ALIVES_MISSED: u32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no controller is known")]
    NoController,
    #[error("`{host}` can not be resolved: {detail}")]
    Resolve { host: String, detail: String },
    #[error("no answer within {} seconds", CONNECT_DEADLINE.as_secs())]
    Timeout,
    #[error("the controller's certificate is not trusted: {0}")]
    NotTrusted(String),
    #[error("the controller does not accept this device's certificate: {0}")]
    NotAccepted(String),
    #[error("{0}")]
    Connection(String),
    #[error("over TCP: {0}")]
    Tcp(String),
    #[error("redirected to {}", .0.join(", "))]
    Redirected(Vec<String>),
    #[error("refused ({reason:?}): {detail}")]
    Refused { reason: Refusal, detail: String },
    #[error("the controller answered with something else than a welcome")]
    Unexpected,
    #[error(transparent)]
    Stream(StreamError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl From<ConnectionError> for ConnectError {
    fn from(error: ConnectionError) -> Self {
        // TLS alerts travel as 0x100 + alert (RFC 9001 4.8). What the peer closes with such a code is about our certificate.
        const ALERT: u64 = 0x100;
        match &error {
            ConnectionError::TransportError(cause) if u64::from(cause.code) & !0xff == ALERT => {
                Self::NotTrusted(cause.reason.clone())
            }
            ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) & !0xff == ALERT => {
                Self::NotAccepted(close.to_string())
            }
            ConnectionError::TimedOut => Self::Timeout,
            _ => Self::Connection(error.to_string()),
        }
    }
}

impl From<StreamError> for ConnectError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Connection(error) => error.into(),
            StreamError::Tcp(error) => match tcp::alert(&error) {
                Some(alert) => Self::NotAccepted(alert),
                None => Self::Stream(StreamError::Tcp(error)),
            },
            error => Self::Stream(error),
        }
    }
}

/// What the machine that carries the links may want otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// After this long without a word a link says something. Over TCP that is at least 5 s, and three times as long without
    /// an answer end it.
    pub keep_alive: Duration,
    /// Over QUIC a link is given up when nothing that it has said was acknowledged for so long.
    pub silence: Duration,
    /// From the first finding that UDP does not pass to the first look whether it does; later looks are less frequent. Short
    /// by default, because a controller that was just starting, or was overrun, looks the same.
    pub look: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { keep_alive: KEEP_ALIVE, silence: SILENCE, look: Duration::from_secs(60) }
    }
}

/// The endpoints of a process. Cheap to clone.
#[derive(Clone)]
pub struct Links(Arc<Inner>);

struct Inner {
    tls: tls::Tls,
    transport: Arc<TransportConfig>,
    endpoints: Vec<Endpoint>,
    next: AtomicUsize,
    handshakes: Semaphore,
    /// What is known of UDP to each controller, for all links of the process: they share its network.
    udp: Mutex<HashMap<String, Udp>>,
    begun: Instant,
    look_ms: u64,
    keep_alive: Duration,
    silence: Duration,
}

/// A configuration for one kind of connection of one device.
#[derive(Clone)]
pub struct LinkConfig {
    quic: ClientConfig,
    tls: Arc<rustls::ClientConfig>,
}

impl Links {
    /// Binds `sockets` UDP sockets, over which the connections are spread. Needs a tokio runtime.
    pub fn bind(sockets: usize) -> io::Result<Self> {
        Self::bind_with(sockets, Options::default())
    }

    pub fn bind_with(sockets: usize, options: Options) -> io::Result<Self> {
        let endpoints = (0..sockets.max(1)).map(|_| bind()).collect::<io::Result<_>>()?;
        let (tls, transport) = (tls::Tls::new(), Arc::new(transport(options.keep_alive)));
        let (next, handshakes) = (AtomicUsize::new(0), Semaphore::new(HANDSHAKES_MAX));
        let (udp, begun) = (Mutex::default(), Instant::now());
        let Options { keep_alive, silence, look } = options;
        let look_ms = look.as_millis() as u64;
        let inner = Inner { tls, transport, endpoints, next, handshakes, udp, begun, look_ms, keep_alive, silence };
        Ok(Self(Arc::new(inner)))
    }

    pub fn link_config(&self, credential: &Credential, roots_der: &[Vec<u8>]) -> Result<LinkConfig, TlsError> {
        self.config(self.0.tls.link(credential, roots_der)?)
    }

    pub fn recovery_config(&self, roots_der: &[Vec<u8>]) -> Result<LinkConfig, TlsError> {
        self.config(self.0.tls.recovery(roots_der)?)
    }

    pub fn enrollment_config(&self, pins: Vec<[u8; 32]>) -> Result<LinkConfig, TlsError> {
        self.config(self.0.tls.enrollment(pins)?)
    }

    /// The network has changed: new sockets, so that live connections move over (QUIC migration) instead of timing out. What
    /// is on TCP has to connect anew. What was known of UDP is not known any more.
    pub fn network_changed(&self) -> io::Result<()> {
        self.0.udp.lock().clear();
        for endpoint in &self.0.endpoints {
            let any = match endpoint.local_addr()? {
                SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            endpoint.rebind(udp_socket(any)?)?;
        }
        Ok(())
    }

    /// Connects to the first of `targets` that completes the handshake, and opens the stream. Whoever is slow gets company.
    pub async fn open(&self, config: &LinkConfig, targets: &[String]) -> Result<Session, ConnectError> {
        let _place = self.0.handshakes.acquire().await;
        let open = async {
            let mut race = Race::new(self, config, targets);
            let session = race.next().await?;
            race.won(&session, false);
            Ok(session)
        };
        timeout(CONNECT_DEADLINE, open).await.map_err(|_| ConnectError::Timeout)?
    }

    /// Says hello and waits for the welcome. `hello` is asked at the last moment, for it tells the time.
    pub async fn connect(
        &self,
        config: &LinkConfig,
        targets: &[String],
        hello: impl Fn() -> Hello,
    ) -> Result<(Session, Welcome), ConnectError> {
        // The deadline counts from the first packet, not from the place in the queue.
        let _place = self.0.handshakes.acquire().await;
        let greet = async {
            let mut race = Race::new(self, config, targets);
            loop {
                let mut session = race.next().await?;
                match timeout(WELCOME_PATIENCE, greet(&mut session, hello())).await {
                    Ok(Ok(welcome)) => {
                        race.won(&session, true);
                        return Ok((session, welcome));
                    }
                    Ok(Err(error)) => {
                        session.hang_up();
                        return Err(error);
                    }
                    Err(_) => race.silent(session),
                }
            }
        };
        timeout(CONNECT_DEADLINE, greet).await.map_err(|_| ConnectError::Timeout)?
    }

    /// Waits until the closing of all connections has been sent.
    pub async fn close(&self) {
        for endpoint in &self.0.endpoints {
            endpoint.close(VarInt::from_u32(0), b"");
            endpoint.wait_idle().await;
        }
    }

    fn tcp_keep_alive(&self) -> Duration {
        self.0.keep_alive.max(TCP_KEEP_ALIVE_MIN)
    }

    fn tcp_silence_max(&self) -> Duration {
        (self.tcp_keep_alive() * TCP_KEEP_ALIVES_MISSED).min(IDLE_MAX)
    }

    /// Over one of the sockets, by turns.
    fn endpoint(&self) -> Endpoint {
        let Inner { endpoints, next, .. } = &*self.0;
        endpoints[next.fetch_add(1, Ordering::Relaxed) % endpoints.len()].clone()
    }

    fn config(&self, tls: Arc<rustls::ClientConfig>) -> Result<LinkConfig, TlsError> {
        let crypto = QuicClientConfig::try_from(tls.clone()).map_err(|error| TlsError::Setup(error.to_string()))?;
        let mut quic = ClientConfig::new(Arc::new(crypto));
        quic.transport_config(self.0.transport.clone());
        Ok(LinkConfig { quic, tls })
    }

    /// The transport with which to begin.
    fn first(&self, controller: &str) -> Transport {
        self.udp(controller, |udp, _| udp.first())
    }

    fn quic_answered(&self, controller: &str, welcomed: bool) {
        self.udp(controller, |udp, _| if welcomed { udp.proved() } else { udp.answered() });
    }

    fn quic_silent(&self, controller: &str) {
        tracing::info!(controller, "no answer over UDP: this link is on TCP, until UDP passes");
        self.udp(controller, |udp, now_ms| udp.silent(now_ms, self.0.look_ms, rand::random()));
    }

    fn look(&self, controller: &str) -> Look {
        self.udp(controller, Udp::look)
    }

    /// Of a time that [`Links::look`] has named.
    fn instant(&self, at_ms: u64) -> Instant {
        self.0.begun + Duration::from_millis(at_ms)
    }

    /// Whether the controller answers over UDP, for everybody who wants to know. Nothing is said to it but a handshake.
    async fn look_now(&self, config: &LinkConfig, controller: &str) {
        let dialed = race::dial_quic(self, config, controller.to_owned());
        let answered = match timeout(LOOK_DEADLINE, dialed).await {
            Ok(Ok(session)) => {
                session.hang_up();
                true
            }
            Ok(Err(error)) => matches!(error, ConnectError::NotTrusted(_) | ConnectError::NotAccepted(_)),
            Err(_) => false,
        };
        tracing::debug!(controller, answered, "looked whether UDP passes");
        match answered {
            true => self.quic_answered(controller, false),
            false => self.udp(controller, |udp, now_ms| udp.silent(now_ms, self.0.look_ms, rand::random())),
        }
    }

    fn udp<T>(&self, controller: &str, with: impl FnOnce(&mut Udp, u64) -> T) -> T {
        let now_ms = self.0.begun.elapsed().as_millis() as u64;
        let mut known = self.0.udp.lock();
        if known.len() >= CONTROLLERS_MAX && !known.contains_key(controller) {
            // What is forgotten is found out again in seconds.
            known.clear();
        }
        with(known.entry(controller.to_owned()).or_default(), now_ms)
    }
}

/// Says hello and waits for the answer.
async fn greet(session: &mut Session, hello: Hello) -> Result<Welcome, ConnectError> {
    session.stream.queue(&Up::Hello(hello))?;
    // A controller that has hung up may have said why before.
    let said = session.stream.flush().await;
    let heard = session.stream.receive::<Down>().await;
    match heard.and_then(|frame| said.map(|()| frame)) {
        Ok(Down::Welcome(welcome)) => Ok(welcome),
        Ok(Down::Redirect { controllers }) => Err(ConnectError::Redirected(controllers)),
        Ok(Down::Refused { reason, detail }) => Err(ConnectError::Refused { reason, detail }),
        Ok(_) => Err(ConnectError::Unexpected),
        Err(error) => Err(error.into()),
    }
}

fn bind() -> io::Result<Endpoint> {
    // One socket for both families where the machine has both.
    let socket =
        udp_socket(IpAddr::V6(Ipv6Addr::UNSPECIFIED)).or_else(|_| udp_socket(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))?;
    Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
}

/// With room for the burst that thousands of devices get while this process waits for the processor: what the kernel
/// drops comes again only after a timeout.
fn udp_socket(any: IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((any, 0))?;
    // Over the system's limit only for root; the limit itself for everybody else.
    let enlarged = sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES));
    if let Err(error) = enlarged {
        tracing::debug!(%error, "the receive buffer stays as it is");
    }
    Ok(socket)
}

/// DESIGN 7: a link that costs little while it is idle.
fn transport(keep_alive: Duration) -> TransportConfig {
    let idle = (keep_alive * 2).clamp(IDLE_MIN, IDLE_MAX);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(8))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(64 * 1024))
        .receive_window(VarInt::from_u32(128 * 1024))
        .send_window(128 * 1024)
        .datagram_receive_buffer_size(None)
        .initial_mtu(1200)
        .mtu_discovery_config(None)
        .keep_alive_interval(Some(keep_alive))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle.as_millis() as u32))));
    transport
}
