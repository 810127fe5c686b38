//! TLS for the one UDP port: a single rustls configuration whose certificate and trusted roots are looked up anew in each
//! handshake, so that a renewal or a rotation of the CA needs no restart and cuts no connection.
//!
//! One port serves enrolled devices and newcomers, and QUIC tells the protocol (ALPN) only inside the handshake. So a client
//! certificate is asked for and optional here: one that is shown is verified whatever the protocol, a wrong one always ends
//! the handshake, and the gateway refuses a `flotilla/1` connection that came without one.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use super::{CONTROLLER_LIFETIME_S, Ca, CaError};

/// What quinn is given.
pub type ServerTls = rustls::ServerConfig;

/// ring, and of its suites those of TLS 1.3.
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(|suite| {
        matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS13_AES_256_GCM_SHA384
                | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        )
    });
    Arc::new(provider)
}

/// TLS 1.3 only, no resumption, no early data. `name` is the controller's own, for its certificate.
pub fn server_tls(ca: Arc<Ca>, name: &str, alpn: &[&[u8]]) -> Result<ServerTls, CaError> {
    let certificate = LiveCertificate::new(ca.clone(), name)?;
    let verifier = LiveVerifier::new(ca)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(certificate));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The roots a client of a controller trusts: for peers and for tests.
pub fn client_trust(roots_der: &[Vec<u8>]) -> Result<RootCertStore, CaError> {
    let mut roots = RootCertStore::empty();
    for root in roots_der {
        roots.add(CertificateDer::from(root.clone()))?;
    }
    Ok(roots)
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// This controller's certificate, renewed by the first handshake after a third of its life, or after a change of the CA.
pub(crate) struct LiveCertificate {
    ca: Arc<Ca>,
    name: Box<str>,
    served: RwLock<Option<Served>>,
}

struct Served {
    key: Arc<CertifiedKey>,
    generation: u64,
    issued_s: u64,
}

impl std::fmt::Debug for LiveCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveCertificate").field("name", &self.name).finish_non_exhaustive()
    }
}

impl LiveCertificate {
    /// Issues the first one, so that a CA that cannot is known at the start.
    pub(crate) fn new(ca: Arc<Ca>, name: &str) -> Result<Self, CaError> {
        let certificate = Self { ca, name: name.into(), served: RwLock::new(None) };
        certificate.renewed(unix_s())?;
        Ok(certificate)
    }

    fn current(&self) -> Option<Arc<CertifiedKey>> {
        let now_s = unix_s();
        if let Some(key) = self.fresh(now_s) {
            return Some(key);
        }
        self.renewed(now_s)
            .inspect_err(|error| tracing::error!(%error, "cannot renew the controller's certificate"))
            .ok()
    }

    fn fresh(&self, now_s: u64) -> Option<Arc<CertifiedKey>> {
        let served = self.served.read();
        let served = served.as_ref()?;
        // The range has two ends because the wall clock may also be set back.
        let in_time = (served.issued_s..served.issued_s + CONTROLLER_LIFETIME_S / 3).contains(&now_s);
        (in_time && served.generation == self.ca.generation()).then(|| served.key.clone())
    }

    fn renewed(&self, now_s: u64) -> Result<Arc<CertifiedKey>, CaError> {
        let generation = self.ca.generation();
        let key = Arc::new(self.ca.issue_controller(&self.name, now_s)?);
        *self.served.write() = Some(Served { key: key.clone(), generation, issued_s: now_s });
        Ok(key)
    }
}

impl ResolvesServerCert for LiveCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl ResolvesClientCert for LiveCertificate {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Verifies against the CA's present roots; a certificate is optional, a wrong one is not.
struct LiveVerifier {
    ca: Arc<Ca>,
    inner: RwLock<(u64, Arc<dyn ClientCertVerifier>)>,
}

impl std::fmt::Debug for LiveVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LiveVerifier")
    }
}

impl LiveVerifier {
    fn new(ca: Arc<Ca>) -> Result<Self, CaError> {
        let inner = RwLock::new(Self::build(&ca)?);
        Ok(Self { ca, inner })
    }

    fn build(ca: &Ca) -> Result<(u64, Arc<dyn ClientCertVerifier>), CaError> {
        let (generation, roots) = ca.trust_anchors()?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .allow_unauthenticated()
            .clear_root_hint_subjects()
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok((generation, verifier))
    }

    fn current(&self) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
        {
            let inner = self.inner.read();
            if inner.0 == self.ca.generation() {
                return Ok(inner.1.clone());
            }
        }
        let built = Self::build(&self.ca).map_err(|error| rustls::Error::General(error.to_string()))?;
        let verifier = built.1.clone();
        *self.inner.write() = built;
        Ok(verifier)
    }
}

impl ClientCertVerifier for LiveVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.current()?.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.read().1.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
