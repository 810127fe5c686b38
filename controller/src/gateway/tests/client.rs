//! A device as far as the wire goes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::BytesMut;
use flotilla_protocol::id::{DeviceId, Epoch, TenantId};
use flotilla_protocol::number::Iccid;
use flotilla_protocol::wire::{
    ALPN_ENROLL, ALPN_LINK, DeviceInfo, Down, EnrollDown, EnrollUp, Hello, PROTOCOL, Refusal, SimInfo, SimState, Up,
    Welcome, decode_frame, encode_frame,
};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::PATIENCE;
use crate::ca::{CONTROLLER_DNS_NAME, client_trust, provider};

pub(crate) struct Identity {
    pub(crate) device: DeviceId,
    pub(crate) tenant: TenantId,
    pub(crate) key: KeyPair,
    pub(crate) chain_der: Vec<Vec<u8>>,
    pub(crate) roots_der: Vec<Vec<u8>>,
}

pub(crate) fn csr(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

pub(crate) fn endpoint() -> Endpoint {
    Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap()
}

fn tls_config(roots_der: &[Vec<u8>], identity: Option<&Identity>, alpn: &[u8]) -> rustls::ClientConfig {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(client_trust(roots_der).unwrap());
    let mut tls = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = identity.chain_der.iter().cloned().map(CertificateDer::from).collect();
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.serialize_der()));
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    tls
}

fn config(roots_der: &[Vec<u8>], identity: Option<&Identity>, alpn: &[u8]) -> ClientConfig {
    let tls = tls_config(roots_der, identity, alpn);
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let mut transport = TransportConfig::default();
    transport.mtu_discovery_config(None).keep_alive_interval(Some(std::time::Duration::from_millis(500)));
    config.transport_config(Arc::new(transport));
    config
}

pub(crate) async fn connect(
    endpoint: &Endpoint,
    address: SocketAddr,
    roots_der: &[Vec<u8>],
    identity: Option<&Identity>,
    alpn: &[u8],
) -> Result<Connection, ConnectionError> {
    let config = config(roots_der, identity, alpn);
    let connecting = endpoint.connect_with(config, address, CONTROLLER_DNS_NAME).unwrap();
    timeout(PATIENCE, connecting).await.expect("no end of the handshake")
}

/// Where a device connects, and over what.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At {
    Quic(SocketAddr),
    Tcp(SocketAddr),
}

impl From<SocketAddr> for At {
    fn from(address: SocketAddr) -> Self {
        Self::Quic(address)
    }
}

/// Up to the end of the client's side of the handshake.
pub(crate) async fn connect_tcp(
    address: SocketAddr,
    roots_der: &[Vec<u8>],
    identity: Option<&Identity>,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::new(tls_config(roots_der, identity, alpn)));
    let name = ServerName::try_from(CONTROLLER_DNS_NAME).unwrap();
    let connected = async { connector.connect(name, TcpStream::connect(address).await?).await };
    timeout(PATIENCE, connected).await.expect("no end of the handshake")
}

/// A stream that speaks in frames.
pub(crate) struct Stream {
    carrier: Carrier,
    buffer: BytesMut,
}

enum Carrier {
    Quic { connection: Connection, send: SendStream, recv: RecvStream, _endpoint: Endpoint },
    Tcp(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub(crate) async fn open(
        at: impl Into<At>,
        roots_der: &[Vec<u8>],
        identity: Option<&Identity>,
        alpn: &[u8],
    ) -> Self {
        let carrier = match at.into() {
            At::Quic(address) => {
                let endpoint = endpoint();
                let connection = connect(&endpoint, address, roots_der, identity, alpn).await.unwrap();
                let (send, recv) = connection.open_bi().await.unwrap();
                Carrier::Quic { connection, send, recv, _endpoint: endpoint }
            }
            At::Tcp(address) => Carrier::Tcp(Box::new(connect_tcp(address, roots_der, identity, alpn).await.unwrap())),
        };
        Self { carrier, buffer: BytesMut::new() }
    }

    /// The other side may be closing already, which shows in what it says.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        match &mut self.carrier {
            Carrier::Quic { send, .. } => drop(send.write_all(bytes).await),
            Carrier::Tcp(stream) => {
                let _ = stream.write_all(bytes).await;
                let _ = stream.flush().await;
            }
        }
    }

    /// The device leaves.
    pub(crate) fn leave(self) {
        if let Carrier::Quic { connection, .. } = &self.carrier {
            connection.close(0u32.into(), b"");
        }
    }

    /// Waits until the controller has closed, and gives QUIC's code for it.
    pub(crate) async fn code(&mut self) -> Option<quinn::VarInt> {
        if let Carrier::Tcp(stream) = &mut self.carrier {
            let end = async { while stream.read_buf(&mut self.buffer).await.is_ok_and(|read| read > 0) {} };
            timeout(PATIENCE, end).await.expect("the controller does not close");
            return None;
        }
        match self.closed().await {
            ConnectionError::ApplicationClosed(close) => Some(close.error_code),
            error => panic!("{error}"),
        }
    }

    pub(crate) async fn say<T: Serialize>(&mut self, frame: &T) {
        let mut bytes = BytesMut::new();
        encode_frame(frame, &mut bytes).unwrap();
        self.write(&bytes).await;
    }

    pub(crate) async fn hear<T: DeserializeOwned>(&mut self) -> Option<T> {
        let frame = async {
            loop {
                if let Some(frame) = decode_frame(&mut self.buffer).unwrap() {
                    return Some(frame);
                }
                match &mut self.carrier {
                    Carrier::Quic { recv, .. } => {
                        let chunk = recv.read_chunk(64 * 1024, true).await.ok()??;
                        self.buffer.extend_from_slice(&chunk.bytes);
                    }
                    Carrier::Tcp(stream) => {
                        let read = stream.read_buf(&mut self.buffer).await.ok()?;
                        (read > 0).then_some(())?;
                    }
                }
            }
        };
        timeout(PATIENCE, frame).await.expect("the controller says nothing")
    }

    /// Waits until the controller has closed, for whatever reason.
    pub(crate) async fn gone(&mut self) {
        match &self.carrier {
            Carrier::Quic { .. } => drop(self.closed().await),
            Carrier::Tcp(_) => drop(self.code().await),
        }
    }

    /// Of a link over QUIC.
    pub(crate) async fn closed(&self) -> ConnectionError {
        let Carrier::Quic { connection, .. } = &self.carrier else { panic!("TCP has no such words") };
        timeout(PATIENCE, connection.closed()).await.expect("the controller does not close")
    }
}

pub(crate) async fn enroll_stream(at: impl Into<At>, roots_der: &[Vec<u8>]) -> Stream {
    Stream::open(at, roots_der, None, ALPN_ENROLL).await
}

pub(crate) async fn ask(at: impl Into<At>, roots_der: &[Vec<u8>], request: &EnrollUp) -> EnrollDown {
    let mut stream = enroll_stream(at, roots_der).await;
    stream.say(request).await;
    stream.hear().await.expect("no answer to the request")
}

/// An enrolled device's link.
pub(crate) struct LinkClient {
    pub(crate) stream: Stream,
}

pub(crate) fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL,
        info: DeviceInfo {
            name: "pixel".into(),
            model: "Pixel".into(),
            os: "Android".into(),
            software: "test/1".into(),
        },
        device_ms: 1_000,
        window: 32,
        epoch_seen: Epoch(0),
        sims: vec![sim(0, Some("8901410321111851072"))],
    }
}

pub(crate) fn sim(slot: u8, iccid: Option<&str>) -> SimInfo {
    SimInfo {
        slot,
        state: SimState::Ready,
        iccid: iccid.map(|text| Iccid::parse(text).unwrap()),
        imsi: None,
        msisdn: None,
        home: None,
        operator: "Test".into(),
        depth: 1,
    }
}

impl LinkClient {
    /// The stream is open and nothing is said.
    pub(crate) async fn open(at: impl Into<At>, identity: &Identity) -> Self {
        Self { stream: Stream::open(at, &identity.roots_der, Some(identity), ALPN_LINK).await }
    }

    pub(crate) async fn start(at: impl Into<At>, identity: &Identity, hello: Hello) -> (Self, Down) {
        let mut link = Self::open(at, identity).await;
        link.say(Up::Hello(hello)).await;
        let first = link.hear().await.expect("no answer to Hello");
        (link, first)
    }

    pub(crate) async fn up(at: impl Into<At>, identity: &Identity) -> (Self, Welcome) {
        match Self::start(at, identity, hello()).await {
            (link, Down::Welcome(welcome)) => (link, welcome),
            (_, other) => panic!("no Welcome but {other:?}"),
        }
    }

    pub(crate) async fn refused(at: impl Into<At>, identity: &Identity, hello: Hello) -> Refusal {
        match Self::start(at, identity, hello).await {
            (mut link, Down::Refused { reason, .. }) => {
                link.assert_closed_with(reason).await;
                reason
            }
            (_, other) => panic!("not refused but {other:?}"),
        }
    }

    pub(crate) async fn say(&mut self, frame: Up) {
        self.stream.say(&frame).await;
    }

    pub(crate) async fn hear(&mut self) -> Option<Down> {
        self.stream.hear().await
    }

    /// Hears until it is told to go elsewhere, and whom to ask there.
    pub(crate) async fn redirection(&mut self) -> Vec<String> {
        loop {
            if let Down::Redirect { controllers } = self.hear().await.expect("closed without a redirect") {
                let error = self.stream.closed().await;
                let ConnectionError::ApplicationClosed(close) = error else { panic!("{error}") };
                assert_eq!(close.error_code, super::close::REDIRECTED);
                return controllers;
            }
        }
    }

    /// Hears until it is told to go.
    pub(crate) async fn refusal(&mut self) -> Refusal {
        loop {
            match self.hear().await.expect("closed without a reason") {
                Down::Refused { reason, .. } => {
                    self.assert_closed_with(reason).await;
                    return reason;
                }
                _ => continue,
            }
        }
    }

    async fn assert_closed_with(&mut self, reason: Refusal) {
        if let Some(code) = self.stream.code().await {
            assert_eq!(code, super::close::code_of(reason));
        }
    }

    pub(crate) async fn ping(&mut self, device_ms: u64) -> u64 {
        self.say(Up::Ping { device_ms }).await;
        loop {
            if let Down::Pong { device_ms: echo, controller_ms } = self.hear().await.expect("no Pong") {
                assert_eq!(echo, device_ms);
                return controller_ms;
            }
        }
    }
}
