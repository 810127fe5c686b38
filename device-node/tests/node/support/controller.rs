//! The controller's side of the wire: a CA, an endpoint over UDP or TCP or both, one peer at a time.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use flotilla_device_node::link::Transport;
use flotilla_protocol::enroll_code::EnrollCode;
use flotilla_protocol::id::{DeviceId, EnrollmentId, Epoch, TenantId};
use flotilla_protocol::wire::{
    ALPN_ENROLL, ALPN_LINK, CONTROLLER_NAME, Down, EnrollDown, EnrollUp, Hello, Issued, Report, Settings, Up, Welcome,
    decode_frame, encode_frame,
};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, EndpointConfig, RecvStream, SendStream, TokioRuntime};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// For anything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pub pin: [u8; 32],
}

impl TestCa {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test CA");
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        let mut pin = [0; 32];
        pin.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, &spki).as_ref());
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), der, pin }
    }

    pub fn roots(&self) -> Vec<Vec<u8>> {
        vec![self.der.to_vec()]
    }

    /// A device's chain, valid from `age` ago until `left` from now; negative `left` by `ended_ago`.
    pub fn device(&self, csr_der: &[u8], age: Duration, left: Duration, ended_ago: Duration) -> Vec<Vec<u8>> {
        let mut csr = CertificateSigningRequestParams::from_der(&csr_der.to_vec().into()).unwrap();
        let now = SystemTime::now();
        csr.params.not_before = (now - age).into();
        csr.params.not_after = (now + left - ended_ago).into();
        vec![csr.signed_by(&self.issuer).unwrap().der().to_vec()]
    }

    fn server(&self, name: &str) -> rustls::ServerConfig {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![leaf.der().clone(), self.der.clone()], key)
            .unwrap();
        config.alpn_protocols = vec![ALPN_LINK.to_vec(), ALPN_ENROLL.to_vec()];
        config
    }
}

pub struct Controller {
    quic: OnceLock<Endpoint>,
    tcp: Option<(TcpListener, TlsAcceptor)>,
    /// Takes datagrams in and answers none, until QUIC is opened on it.
    hole: Option<UdpSocket>,
    pub address: SocketAddr,
    pub ca: Arc<TestCa>,
}

impl Controller {
    pub fn start(ca: &Arc<TestCa>) -> Self {
        Self::start_as(ca, CONTROLLER_NAME)
    }

    /// With another name in its certificate.
    pub fn start_as(ca: &Arc<TestCa>, name: &str) -> Self {
        let endpoint = Endpoint::server(quic(ca, name), (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = endpoint.local_addr().unwrap();
        Self { quic: endpoint.into(), tcp: None, hole: None, address, ca: ca.clone() }
    }

    /// In a network that lets no UDP pass.
    pub async fn start_behind_a_firewall(ca: &Arc<TestCa>) -> Self {
        Self::start_tcp_as(ca, CONTROLLER_NAME).await
    }

    pub async fn start_tcp_as(ca: &Arc<TestCa>, name: &str) -> Self {
        let tls = TlsAcceptor::from(Arc::new(ca.server(name)));
        loop {
            let hole = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = hole.local_addr().unwrap();
            let Ok(listener) = TcpListener::bind(address).await else { continue };
            return Self {
                quic: OnceLock::new(),
                tcp: Some((listener, tls)),
                hole: Some(hole),
                address,
                ca: ca.clone(),
            };
        }
    }

    /// The firewall is opened: from now on there is QUIC on the same port.
    pub fn open_udp(&self) {
        let socket = self.hole.as_ref().unwrap().try_clone().unwrap();
        socket.set_nonblocking(true).unwrap();
        // What was sent into the hole stays lost.
        let mut lost = [0; 2048];
        while !matches!(socket.recv(&mut lost), Err(error) if error.kind() == ErrorKind::WouldBlock) {}
        let config = Some(quic(&self.ca, CONTROLLER_NAME));
        let endpoint = Endpoint::new(EndpointConfig::default(), config, socket, Arc::new(TokioRuntime)).unwrap();
        assert!(self.quic.set(endpoint).is_ok(), "opened once");
    }

    pub fn name(&self) -> String {
        self.address.to_string()
    }

    pub fn code(&self, token: EnrollmentId) -> EnrollCode {
        EnrollCode {
            controllers: vec![self.name()],
            ca_pins: vec![self.ca.pin],
            token,
            secret: [7; 16],
            expires_s: u64::MAX,
            tenant_name: "Clinic".into(),
        }
    }

    /// The next connection whose handshake succeeds, with its stream.
    pub async fn accept(&self) -> Peer {
        let accept = async {
            loop {
                let accepted = tokio::select! {
                    accepted = accept_quic(self.quic.get()) => accepted,
                    accepted = accept_tcp(self.tcp.as_ref()) => accepted,
                };
                if let Some(carrier) = accepted {
                    return Peer { carrier, buffer: BytesMut::new() };
                }
            }
        };
        timeout(PATIENCE, accept).await.expect("a device connects")
    }

    /// A link up to its `Hello`.
    pub async fn link(&self) -> (Peer, Hello) {
        let mut peer = self.accept().await;
        match peer.receive().await {
            Up::Hello(hello) => (peer, hello),
            other => panic!("a hello comes first, not {other:?}"),
        }
    }

    /// A link with its welcome said, whose clock is the device's.
    pub async fn welcome(&self) -> (Peer, Hello) {
        let (mut peer, hello) = self.link().await;
        peer.send(&Down::Welcome(self.greeting(&hello))).await;
        (peer, hello)
    }

    pub fn greeting(&self, hello: &Hello) -> Welcome {
        Welcome {
            epoch: Epoch(1),
            device_ms: hello.device_ms,
            controller_ms: hello.device_ms,
            sims: Vec::new(),
            settings: Settings::default(),
            controllers: Vec::new(),
        }
    }

    /// Serves one enrolment; the certificate is `age` old and lives for a week, or has ended.
    pub async fn enroll(&self, age: Duration, ended: bool) {
        let mut peer = self.accept().await;
        let EnrollUp::Request { csr_der, .. } = peer.receive().await else { panic!("a request") };
        let issued = self.issue(&csr_der, age, ended);
        peer.send(&EnrollDown::Issued(issued)).await;
        peer.gone().await;
    }

    /// Serves as many enrolments at once.
    pub async fn enroll_fleet(self: &Arc<Self>, devices: u8) {
        let mut dialogues = tokio::task::JoinSet::new();
        for device in 0..devices {
            let (mut peer, controller) = (self.accept().await, self.clone());
            dialogues.spawn(async move {
                let EnrollUp::Request { csr_der, .. } = peer.receive().await else { panic!("a request") };
                let mut issued = controller.issue(&csr_der, Duration::ZERO, false);
                issued.device = DeviceId::new(1, [device; 10]);
                peer.send(&EnrollDown::Issued(issued)).await;
                peer.gone().await;
            });
        }
        while let Some(done) = dialogues.join_next().await {
            done.unwrap();
        }
    }

    pub fn issue(&self, csr_der: &[u8], age: Duration, ended: bool) -> Issued {
        let week = Duration::from_secs(7 * 86_400);
        let (left, ended_ago) =
            if ended { (Duration::ZERO, Duration::from_secs(3600)) } else { (week, Duration::ZERO) };
        Issued {
            device: DeviceId::new(1, [1; 10]),
            tenant: TenantId::new(1, [2; 10]),
            tenant_name: "Clinic".into(),
            chain_der: self.ca.device(csr_der, age, left, ended_ago),
            roots_der: self.ca.roots(),
            controllers: vec![self.name()],
        }
    }
}

fn quic(ca: &TestCa, name: &str) -> quinn::ServerConfig {
    let crypto = QuicServerConfig::try_from(ca.server(name)).unwrap();
    quinn::ServerConfig::with_crypto(Arc::new(crypto))
}

/// `None` when a handshake has failed, or its client has left.
async fn accept_quic(endpoint: Option<&Endpoint>) -> Option<Carrier> {
    let Some(endpoint) = endpoint else { return std::future::pending().await };
    let connection = endpoint.accept().await?.await.ok()?;
    let (send, recv) = connection.accept_bi().await.ok()?;
    Some(Carrier::Quic { connection, send, recv })
}

async fn accept_tcp(tcp: Option<&(TcpListener, TlsAcceptor)>) -> Option<Carrier> {
    let Some((listener, tls)) = tcp else { return std::future::pending().await };
    let (stream, _) = listener.accept().await.unwrap();
    Some(Carrier::Tcp(Box::new(tls.accept(stream).await.ok()?)))
}

/// One device's stream, seen from the controller.
pub struct Peer {
    carrier: Carrier,
    buffer: BytesMut,
}

enum Carrier {
    Quic { connection: Connection, send: SendStream, recv: RecvStream },
    Tcp(Box<TlsStream<TcpStream>>),
}

impl Peer {
    pub async fn send<T: Serialize>(&mut self, frame: &T) {
        let mut bytes = BytesMut::new();
        encode_frame(frame, &mut bytes).unwrap();
        self.send_bytes(&bytes).await;
    }

    /// A device that has left reads no more; the test notices by what does not come back.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = match &mut self.carrier {
            Carrier::Quic { send, .. } => send.write_all(bytes).await.is_ok(),
            Carrier::Tcp(stream) => stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok(),
        };
    }

    pub async fn receive<T: DeserializeOwned>(&mut self) -> T {
        timeout(PATIENCE, self.try_receive()).await.expect("a frame comes").expect("the link stands")
    }

    /// `None` when the link has ended.
    pub async fn try_receive<T: DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            if let Some(frame) = decode_frame(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            match &mut self.carrier {
                Carrier::Quic { recv, .. } => {
                    let chunk = recv.read_chunk(65_536, true).await.ok()??;
                    self.buffer.extend_from_slice(&chunk.bytes);
                }
                Carrier::Tcp(stream) => {
                    let read = stream.read_buf(&mut self.buffer).await.ok()?;
                    (read > 0).then_some(())?;
                }
            }
        }
    }

    /// Hangs up.
    pub fn close(self) {
        if let Carrier::Quic { connection, .. } = &self.carrier {
            connection.close(0u8.into(), b"");
        }
    }

    pub fn transport(&self) -> Transport {
        match &self.carrier {
            Carrier::Quic { .. } => Transport::Quic,
            Carrier::Tcp(_) => Transport::Tcp,
        }
    }

    /// Where the device's packets come from.
    pub fn remote(&self) -> SocketAddr {
        match &self.carrier {
            Carrier::Quic { connection, .. } => connection.remote_address(),
            Carrier::Tcp(stream) => stream.get_ref().0.peer_addr().unwrap(),
        }
    }

    /// What the device has shown, to tell devices apart.
    pub fn certificate(&self) -> Vec<u8> {
        match &self.carrier {
            Carrier::Quic { connection, .. } => {
                let shown = connection.peer_identity().unwrap();
                shown.downcast::<Vec<CertificateDer<'static>>>().unwrap()[0].to_vec()
            }
            Carrier::Tcp(stream) => stream.get_ref().1.peer_certificates().unwrap()[0].to_vec(),
        }
    }

    /// The next report; everything else is passed over.
    pub async fn report(&mut self) -> Report {
        loop {
            if let Up::Report(report) = self.receive().await {
                return report;
            }
        }
    }

    /// The next frame that `wanted` takes.
    pub async fn until<T>(&mut self, wanted: impl Fn(&Up) -> Option<T>) -> T {
        loop {
            let frame = self.receive().await;
            if let Some(found) = wanted(&frame) {
                return found;
            }
        }
    }

    /// Waits until the device has left.
    pub async fn gone(&mut self) {
        let left = async {
            match &mut self.carrier {
                Carrier::Quic { connection, .. } => drop(connection.closed().await),
                Carrier::Tcp(stream) => while stream.read_buf(&mut self.buffer).await.is_ok_and(|read| read > 0) {},
            }
        };
        timeout(PATIENCE, left).await.expect("the device leaves");
    }
}
