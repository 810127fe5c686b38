//! The controller's side of the wire: a CA, an endpoint, one peer at a time.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use flotilla_protocol::enroll_code::EnrollCode;
use flotilla_protocol::id::{DeviceId, EnrollmentId, Epoch, TenantId};
use flotilla_protocol::wire::{
    ALPN_ENROLL, ALPN_LINK, CONTROLLER_NAME, Down, EnrollDown, EnrollUp, Hello, Issued, Report, Settings, Up, Welcome,
    decode_frame, encode_frame,
};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

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
    endpoint: Endpoint,
    pub address: SocketAddr,
    pub ca: Arc<TestCa>,
}

impl Controller {
    pub fn start(ca: &Arc<TestCa>) -> Self {
        Self::start_as(ca, CONTROLLER_NAME)
    }

    /// With another name in its certificate.
    pub fn start_as(ca: &Arc<TestCa>, name: &str) -> Self {
        let crypto = QuicServerConfig::try_from(ca.server(name)).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = endpoint.local_addr().unwrap();
        Self { endpoint, address, ca: ca.clone() }
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
                let incoming = self.endpoint.accept().await.unwrap();
                let Ok(connection) = incoming.await else { continue };
                let Ok((send, recv)) = connection.accept_bi().await else { continue };
                return Peer { connection, send, recv, buffer: BytesMut::new() };
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

/// One device's stream, seen from the controller.
pub struct Peer {
    pub connection: Connection,
    send: SendStream,
    recv: RecvStream,
    buffer: BytesMut,
}

impl Peer {
    pub async fn send<T: Serialize>(&mut self, frame: &T) {
        let mut bytes = BytesMut::new();
        encode_frame(frame, &mut bytes).unwrap();
        self.send_bytes(&bytes).await;
    }

    /// A device that has left reads no more; the test notices by what does not come back.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.send.write_all(bytes).await;
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
            let chunk = self.recv.read_chunk(65_536, true).await.ok()??;
            self.buffer.extend_from_slice(&chunk.bytes);
        }
    }

    /// What the device has shown, to tell devices apart.
    pub fn certificate(&self) -> Vec<u8> {
        let shown = self.connection.peer_identity().unwrap();
        shown.downcast::<Vec<CertificateDer<'static>>>().unwrap()[0].to_vec()
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
        timeout(PATIENCE, self.connection.closed()).await.expect("the device leaves");
    }
}
