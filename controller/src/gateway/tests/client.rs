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
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

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

fn config(roots_der: &[Vec<u8>], identity: Option<&Identity>, alpn: &[u8]) -> ClientConfig {
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

/// A stream that speaks in frames.
pub(crate) struct Stream {
    pub(crate) connection: Connection,
    pub(crate) send: SendStream,
    recv: RecvStream,
    buffer: BytesMut,
}

impl Stream {
    pub(crate) async fn open(connection: Connection) -> Self {
        let (send, recv) = connection.open_bi().await.unwrap();
        Self { connection, send, recv, buffer: BytesMut::new() }
    }

    /// The other side may be closing already, which shows in what it says.
    pub(crate) async fn say<T: Serialize>(&mut self, frame: &T) {
        let mut bytes = BytesMut::new();
        encode_frame(frame, &mut bytes).unwrap();
        let _ = self.send.write_all(&bytes).await;
    }

    pub(crate) async fn hear<T: DeserializeOwned>(&mut self) -> Option<T> {
        let frame = async {
            loop {
                if let Some(frame) = decode_frame(&mut self.buffer).unwrap() {
                    return Some(frame);
                }
                let chunk = self.recv.read_chunk(64 * 1024, true).await.ok()??;
                self.buffer.extend_from_slice(&chunk.bytes);
            }
        };
        timeout(PATIENCE, frame).await.expect("the controller says nothing")
    }

    pub(crate) async fn closed(&self) -> ConnectionError {
        timeout(PATIENCE, self.connection.closed()).await.expect("the controller does not close")
    }
}

pub(crate) async fn enroll_stream(address: SocketAddr, roots_der: &[Vec<u8>]) -> (Endpoint, Stream) {
    let endpoint = endpoint();
    let connection = connect(&endpoint, address, roots_der, None, ALPN_ENROLL).await.unwrap();
    (endpoint, Stream::open(connection).await)
}

pub(crate) async fn ask(address: SocketAddr, roots_der: &[Vec<u8>], request: &EnrollUp) -> EnrollDown {
    let (_endpoint, mut stream) = enroll_stream(address, roots_der).await;
    stream.say(request).await;
    stream.hear().await.expect("no answer to the request")
}

/// An enrolled device's link.
pub(crate) struct LinkClient {
    pub(crate) stream: Stream,
    _endpoint: Endpoint,
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
    pub(crate) async fn open(address: SocketAddr, identity: &Identity) -> Self {
        let endpoint = endpoint();
        let connection = connect(&endpoint, address, &identity.roots_der, Some(identity), ALPN_LINK).await.unwrap();
        Self { stream: Stream::open(connection).await, _endpoint: endpoint }
    }

    pub(crate) async fn start(address: SocketAddr, identity: &Identity, hello: Hello) -> (Self, Down) {
        let mut link = Self::open(address, identity).await;
        link.say(Up::Hello(hello)).await;
        let first = link.hear().await.expect("no answer to Hello");
        (link, first)
    }

    pub(crate) async fn up(address: SocketAddr, identity: &Identity) -> (Self, Welcome) {
        match Self::start(address, identity, hello()).await {
            (link, Down::Welcome(welcome)) => (link, welcome),
            (_, other) => panic!("no Welcome but {other:?}"),
        }
    }

    pub(crate) async fn refused(address: SocketAddr, identity: &Identity, hello: Hello) -> Refusal {
        match Self::start(address, identity, hello).await {
            (link, Down::Refused { reason, .. }) => {
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

    async fn assert_closed_with(&self, reason: Refusal) {
        let error = self.stream.closed().await;
        let ConnectionError::ApplicationClosed(close) = error else { panic!("{error}") };
        assert_eq!(close.error_code, super::close::code_of(reason));
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
