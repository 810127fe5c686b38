//! Connections from this process to controllers: QUIC endpoints, TLS, the handshake up to `Welcome`.

mod dialer;
mod stream;
mod tls;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flotilla_protocol::wire::{CONTROLLER_NAME, Down, Hello, Refusal, Up, Welcome};
use quinn::{
    ClientConfig, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, TokioRuntime, TransportConfig, VarInt,
};
use rustix::net::sockopt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::identity::Credential;

pub use dialer::{Dialer, PAUSE_MAX_MS, PAUSE_MIN_MS, STABLE_MS};
pub use stream::{FrameStream, StreamError};
pub use tls::TlsError;

/// From the first packet to `Welcome`.
const CONNECT_DEADLINE: Duration = Duration::from_secs(15);
/// A controller that has not answered by then gets company by the next one.
const STAGGER: Duration = Duration::from_millis(800);
/// Addresses of one host name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Handshakes of this process under way at once. Thousands that share a processor would all end in their deadline.
const HANDSHAKES_MAX: usize = 64;
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// After a silence this long a link says something. A controller that was killed and is back knows nothing of its links,
/// and answers their next packet with a stateless reset: so this is how long its restart goes unnoticed on an idle link. A
/// machine on the mains can afford it. A phone, which wakes its modem each time, does better with 15 s: [`Links::bind_with`].
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(45);

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
    #[error("redirected to {}", .0.join(", "))]
    Redirected(Vec<String>),
    #[error("refused ({reason:?}): {detail}")]
    Refused { reason: Refusal, detail: String },
    #[error("the controller answered with something else than a welcome")]
    Unexpected,
    #[error(transparent)]
    Stream(#[from] StreamError),
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

/// The endpoints of a process. Cheap to clone.
#[derive(Clone)]
pub struct Links(Arc<Inner>);

struct Inner {
    tls: tls::Tls,
    transport: Arc<TransportConfig>,
    endpoints: Vec<Endpoint>,
    next: AtomicUsize,
    handshakes: Semaphore,
}

/// A configuration for one kind of connection of one device.
#[derive(Clone)]
pub struct LinkConfig(ClientConfig);

/// A link on which `Welcome` was said.
pub struct Session {
    pub stream: FrameStream,
    pub connection: quinn::Connection,
    /// As it was named in the list of targets.
    pub controller: String,
}

impl Links {
    /// Binds `sockets` UDP sockets, over which the connections are spread. Needs a tokio runtime.
    pub fn bind(sockets: usize) -> io::Result<Self> {
        Self::bind_with(sockets, KEEP_ALIVE)
    }

    /// With another keep-alive than [`KEEP_ALIVE`]; it has to stay well below the idle timeout of 45 s.
    pub fn bind_with(sockets: usize, keep_alive: Duration) -> io::Result<Self> {
        let endpoints = (0..sockets.max(1)).map(|_| bind()).collect::<io::Result<_>>()?;
        let (tls, transport) = (tls::Tls::new(), Arc::new(transport(keep_alive)));
        let (next, handshakes) = (AtomicUsize::new(0), Semaphore::new(HANDSHAKES_MAX));
        Ok(Self(Arc::new(Inner { tls, transport, endpoints, next, handshakes })))
    }

    pub fn link_config(&self, credential: &Credential, roots_der: &[Vec<u8>]) -> Result<LinkConfig, TlsError> {
        Ok(self.config(self.0.tls.link(credential, roots_der)?))
    }

    pub fn recovery_config(&self, roots_der: &[Vec<u8>]) -> Result<LinkConfig, TlsError> {
        Ok(self.config(self.0.tls.recovery(roots_der)?))
    }

    pub fn enrollment_config(&self, pins: Vec<[u8; 32]>) -> Result<LinkConfig, TlsError> {
        Ok(self.config(self.0.tls.enrollment(pins)?))
    }

    /// The network has changed: new sockets, so that live connections move over (QUIC migration) instead of timing out.
    pub fn network_changed(&self) -> io::Result<()> {
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
        timeout(CONNECT_DEADLINE, self.race(config, targets)).await.map_err(|_| ConnectError::Timeout)?
    }

    /// Says hello and waits for the welcome. `hello` is asked at the last moment, for it tells the time.
    pub async fn connect(
        &self,
        config: &LinkConfig,
        targets: &[String],
        hello: impl FnOnce() -> Hello,
    ) -> Result<(Session, Welcome), ConnectError> {
        // The deadline counts from the first packet, not from the place in the queue.
        let _place = self.0.handshakes.acquire().await;
        let greet = async {
            let mut session = self.race(config, targets).await?;
            session.stream.queue(&Up::Hello(hello()))?;
            match greet(&mut session).await {
                Ok(welcome) => Ok((session, welcome)),
                Err(error) => {
                    session.connection.close(VarInt::from_u32(0), b"");
                    Err(error)
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

    async fn race(&self, config: &LinkConfig, targets: &[String]) -> Result<Session, ConnectError> {
        let endpoint = &self.0.endpoints[self.0.next.fetch_add(1, Ordering::Relaxed) % self.0.endpoints.len()];
        if let [only] = targets {
            return dial(endpoint.clone(), config.clone(), only.clone()).await;
        }
        let mut runners = JoinSet::new();
        let mut rest = targets.iter();
        let mut last_error = ConnectError::NoController;
        loop {
            let more = match rest.next() {
                Some(target) => {
                    runners.spawn(dial(endpoint.clone(), config.clone(), target.clone()));
                    rest.len() > 0
                }
                None if runners.is_empty() => return Err(last_error),
                None => false,
            };
            tokio::select! {
                Some(done) = runners.join_next() => match done {
                    Ok(Ok(session)) => return Ok(session),
                    Ok(Err(error)) => last_error = error,
                    Err(error) => last_error = ConnectError::Connection(error.to_string()),
                },
                () = sleep(STAGGER), if more => {}
                else => {}
            }
        }
    }

    fn config(&self, crypto: quinn::crypto::rustls::QuicClientConfig) -> LinkConfig {
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.0.transport.clone());
        LinkConfig(config)
    }
}

async fn dial(endpoint: Endpoint, config: LinkConfig, controller: String) -> Result<Session, ConnectError> {
    let resolve = |detail: String| ConnectError::Resolve { host: controller.clone(), detail };
    let found = tokio::net::lookup_host(&controller).await.map_err(|error| resolve(error.to_string()))?;
    let addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
    let mut last_error = resolve("no address".into());
    for address in addresses {
        let connecting = endpoint.connect_with(config.0.clone(), address, CONTROLLER_NAME);
        let connecting = connecting.map_err(|error| ConnectError::Connection(error.to_string()))?;
        match connecting.await {
            Ok(connection) => {
                let (send, recv) = connection.open_bi().await?;
                return Ok(Session { stream: FrameStream::new(send, recv), connection, controller });
            }
            Err(error) => last_error = error.into(),
        }
    }
    Err(last_error)
}

async fn greet(session: &mut Session) -> Result<Welcome, ConnectError> {
    let dialogue = async {
        session.stream.flush().await?;
        session.stream.receive::<Down>().await
    };
    match dialogue.await {
        Ok(Down::Welcome(welcome)) => Ok(welcome),
        Ok(Down::Redirect { controllers }) => Err(ConnectError::Redirected(controllers)),
        Ok(Down::Refused { reason, detail }) => Err(ConnectError::Refused { reason, detail }),
        Ok(_) => Err(ConnectError::Unexpected),
        Err(StreamError::Connection(error)) => Err(error.into()),
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
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE.as_millis() as u32))));
    transport
}
