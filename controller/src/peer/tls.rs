//! Who may be at the other end of a link: a controller of the same trust domain, and the dialled one at that.
//!
//! Certificates and roots are those of the moment of each handshake, so that a renewal or a rotation of the CA needs no
//! restart. Handshakes between controllers are rare; nothing is kept from one to the next.

use std::fmt;
use std::sync::Arc;

use flotilla_cluster::NodeName;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use x509_parser::extensions::GeneralName;

use super::{ALPN_PEER, PeerError};
use crate::ca::{CONTROLLER_DNS_NAME, Ca, CaError, LiveCertificate, TrustDomain, provider};

pub(super) fn server(ca: Arc<Ca>, own: Arc<LiveCertificate>) -> Result<QuicServerConfig, PeerError> {
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(CaError::from)?
        .with_client_cert_verifier(Arc::new(AnyController { ca }))
        .with_cert_resolver(own);
    config.alpn_protocols = vec![ALPN_PEER.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).map_err(|_| PeerError::Tls)
}

/// For a link to `peer` and nobody else.
pub(super) fn client(ca: Arc<Ca>, own: Arc<LiveCertificate>, peer: NodeName) -> Result<QuicClientConfig, PeerError> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(CaError::from)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(NamedController { ca, peer }))
        .with_client_cert_resolver(own);
    config.alpn_protocols = vec![ALPN_PEER.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    QuicClientConfig::try_from(config).map_err(|_| PeerError::Tls)
}

/// The controller that a certificate of our CA names. A device's names none.
pub(super) fn controller_of(certificate: &CertificateDer<'_>, trust_domain: &TrustDomain) -> Option<NodeName> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (Some(uri), None, []) = (uris.next(), uris.next(), rest) else { return None };
    NodeName::parse(uri.strip_prefix(trust_domain.controller_uri("").as_str())?).ok()
}

fn not_for_us() -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

fn roots(ca: &Ca) -> Result<Arc<RootCertStore>, rustls::Error> {
    let (_, roots) = ca.trust_anchors().map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(Arc::new(roots))
}

fn no_tls12() -> rustls::Error {
    rustls::Error::General("only TLS 1.3 is spoken here".to_owned())
}

fn verify_tls13(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let algorithms = provider().signature_verification_algorithms;
    rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
}

/// Whom a node lets in.
struct AnyController {
    ca: Arc<Ca>,
}

impl fmt::Debug for AnyController {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyController")
    }
}

impl ClientCertVerifier for AnyController {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(&self.ca)?, provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let verified = verifier.verify_client_cert(end_entity, intermediates, now)?;
        controller_of(end_entity, self.ca.trust_domain()).map(|_| verified).ok_or_else(not_for_us)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Whom a node talks to when it has dialled `peer`.
struct NamedController {
    ca: Arc<Ca>,
    peer: NodeName,
}

impl fmt::Debug for NamedController {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedController").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for NamedController {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verifier = WebPkiServerVerifier::builder_with_provider(roots(&self.ca)?, provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let shared = ServerName::try_from(CONTROLLER_DNS_NAME).map_err(|_| not_for_us())?;
        let verified = verifier.verify_server_cert(end_entity, intermediates, &shared, ocsp_response, now)?;
        let named = controller_of(end_entity, self.ca.trust_domain());
        if named.as_ref() == Some(&self.peer) { Ok(verified) } else { Err(not_for_us()) }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
