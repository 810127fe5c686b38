//! TLS of the device's side: TLS 1.3, P-256, no resumption, no early data, and never the machine's trust store.

use std::collections::HashMap;
use std::sync::Arc;

use flotilla_protocol::wire::{ALPN_ENROLL, ALPN_LINK};
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{Credential, TlsKey};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the trusted roots of this device can not be used: {0}")]
    Roots(String),
    #[error("TLS can not be set up: {0}")]
    Setup(String),
}

/// What the connections of a process share.
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    /// By the digest of the roots: thousands of devices of one controller need one verifier.
    verifiers: Mutex<HashMap<[u8; 32], Arc<WebPkiServerVerifier>>>,
}

impl Tls {
    pub(super) fn new() -> Self {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites.retain(|suite| {
            matches!(
                suite.suite(),
                CipherSuite::TLS13_AES_128_GCM_SHA256
                    | CipherSuite::TLS13_AES_256_GCM_SHA384
                    | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            )
        });
        Self { provider: Arc::new(provider), verifiers: Mutex::new(HashMap::new()) }
    }

    /// For the link of an enrolled device.
    pub(super) fn link(&self, credential: &Credential, roots: &[Vec<u8>]) -> Result<Arc<ClientConfig>, TlsError> {
        let chain = credential.chain_der.iter().cloned().map(CertificateDer::from).collect();
        let certified = CertifiedKey::new(chain, Arc::new(TlsKey(credential.key.clone())));
        let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
        let builder = self.builder()?.dangerous().with_custom_certificate_verifier(self.verifier(roots)?);
        Ok(finish(builder.with_client_cert_resolver(resolver), ALPN_LINK))
    }

    /// For the recovery of an enrolled device: it trusts as ever, and shows no certificate.
    pub(super) fn recovery(&self, roots: &[Vec<u8>]) -> Result<Arc<ClientConfig>, TlsError> {
        let builder = self.builder()?.dangerous().with_custom_certificate_verifier(self.verifier(roots)?);
        Ok(finish(builder.with_no_client_auth(), ALPN_ENROLL))
    }

    /// For a newcomer, who trusts whoever is certified by a CA with one of these keys.
    pub(super) fn enrollment(&self, pins: Vec<[u8; 32]>) -> Result<Arc<ClientConfig>, TlsError> {
        let verifier = PinnedVerifier { pins, provider: self.provider.clone() };
        let builder = self.builder()?.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        Ok(finish(builder.with_no_client_auth(), ALPN_ENROLL))
    }

    fn builder(&self) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TlsError> {
        ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsError::Setup(error.to_string()))
    }

    fn verifier(&self, roots_der: &[Vec<u8>]) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, &roots_der.concat()).as_ref());
        if let Some(verifier) = self.verifiers.lock().get(&key) {
            return Ok(verifier.clone());
        }
        let mut roots = RootCertStore::empty();
        for root in roots_der {
            roots.add(CertificateDer::from(root.clone())).map_err(|error| TlsError::Roots(error.to_string()))?;
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| TlsError::Roots(error.to_string()))?;
        self.verifiers.lock().insert(key, verifier.clone());
        Ok(verifier)
    }
}

fn finish(mut config: ClientConfig, alpn: &[u8]) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Arc::new(config)
}

/// Accepts a chain that leads to a CA whose public key is pinned. Name, dates and signatures are checked as ever.
#[derive(Debug)]
struct PinnedVerifier {
    pins: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl PinnedVerifier {
    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
        let spki = digest(&SHA256, certificate.public_key().raw);
        self.pins.iter().any(|pin| pin == spki.as_ref())
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for authority in intermediates.iter().filter(|certificate| self.is_pinned(certificate)) {
            roots.add(authority.clone().into_owned())?;
        }
        if roots.is_empty() {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
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
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
