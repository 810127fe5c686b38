//! Where the database is: a `postgres://` URL, read once, with what every connection of ours has.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

/// For each address of each host.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// A server that is gone without a word is noticed after this long.
const SILENT_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("give a URL such as postgres://user@host:5432/database")]
    NotUrl,
    #[error("{0}; give a URL such as postgres://user@host:5432/database")]
    Url(String),
    #[error("the URL names no host")]
    NoHost,
    #[error("the URL names no database; add /name behind the host")]
    NoDatabase,
    #[error("sslmode={0} is not offered: use disable, prefer, require or verify-full")]
    SslMode(String),
    #[error("target_session_attrs has to be read-write: the store is on the primary server")]
    ReadOnly,
    #[error("sslmode=verify-full needs the CA's certificates: set ca_file to their PEM file")]
    NoCa,
    #[error("the CA file {} cannot be used: {detail}", file.display())]
    CaFile { file: PathBuf, detail: String },
}

/// A checked address. Nothing prints its password.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) config: Config,
    pub(super) tls: MakeRustlsConnect,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_string())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.config.get_hosts().iter().enumerate().map(|(place, host)| {
            let ports = self.config.get_ports();
            let port = ports.get(place).or(ports.first()).copied().unwrap_or(5432);
            match host {
                tokio_postgres::config::Host::Tcp(name) => format!("{name}:{port}"),
                tokio_postgres::config::Host::Unix(path) => format!("{}:{port}", path.display()),
            }
        });
        let hosts: Vec<String> = hosts.collect();
        write!(f, "database {} on {}", self.config.get_dbname().unwrap_or_default(), hosts.join(", "))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    Disable,
    Prefer,
    Require,
    VerifyFull,
}

/// What is wrong with a URL, if anything is.
pub fn check_url(url: &str, ca_file: Option<&Path>) -> Result<(), AddressError> {
    let (config, tls) = parse(url)?;
    if tls == Tls::VerifyFull && ca_file.is_none() {
        return Err(AddressError::NoCa);
    }
    drop(config);
    Ok(())
}

pub(super) fn read(url: &str, password: Option<&str>, ca_file: Option<&Path>) -> Result<Address, AddressError> {
    let (mut config, tls) = parse(url)?;
    if tls == Tls::VerifyFull && ca_file.is_none() {
        return Err(AddressError::NoCa);
    }
    if let Some(password) = password {
        config.password(password);
    }
    config.ssl_mode(match tls {
        Tls::Disable => SslMode::Disable,
        Tls::Prefer => SslMode::Prefer,
        Tls::Require | Tls::VerifyFull => SslMode::Require,
    });
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    config.connect_timeout(CONNECT_WITHIN).tcp_user_timeout(SILENT_MAX);
    config.keepalives(true).keepalives_idle(SILENT_MAX).keepalives_interval(Duration::from_secs(2));
    config.keepalives_retries(2);
    if config.get_application_name().is_none() {
        config.application_name("flotilla");
    }
    Ok(Address { config, tls: MakeRustlsConnect::new(client_tls(ca_file)?) })
}

fn parse(url: &str) -> Result<(Config, Tls), AddressError> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(AddressError::NotUrl);
    }
    let (url, tls) = take_sslmode(url)?;
    // The library's words tell what is wrong and quote no value.
    let config = Config::from_str(&url).map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        AddressError::Url(cause.unwrap_or_else(|| error.to_string()))
    })?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(AddressError::NoHost);
    }
    if config.get_dbname().is_none_or(str::is_empty) {
        return Err(AddressError::NoDatabase);
    }
    if config.get_target_session_attrs() == TargetSessionAttrs::ReadOnly {
        return Err(AddressError::ReadOnly);
    }
    Ok((config, tls))
}

/// The library knows fewer modes, so this parameter is ours.
fn take_sslmode(url: &str) -> Result<(String, Tls), AddressError> {
    let Some((base, query)) = url.split_once('?') else { return Ok((url.to_owned(), Tls::Prefer)) };
    let mut tls = Tls::Prefer;
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.strip_prefix("sslmode=") {
            Some("disable") => tls = Tls::Disable,
            Some("prefer") => tls = Tls::Prefer,
            Some("require") => tls = Tls::Require,
            Some("verify-full") => tls = Tls::VerifyFull,
            Some(other) => return Err(AddressError::SslMode(other.to_owned())),
            None => rest.push(pair),
        }
    }
    let url = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    Ok((url, tls))
}

/// With a CA file the server's certificate and name are verified whenever TLS is used; without one the link is only
/// encrypted, as `require` means it everywhere.
fn client_tls(ca_file: Option<&Path>) -> Result<ClientConfig, AddressError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| AddressError::Url(error.to_string()))?;
    let Some(file) = ca_file else {
        let any = Arc::new(AnyServer(provider));
        return Ok(builder.dangerous().with_custom_certificate_verifier(any).with_no_client_auth());
    };
    let failed = |detail: String| AddressError::CaFile { file: file.to_owned(), detail };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| failed(error.to_string()))? {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(failed("it has no certificate".into()));
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Takes any certificate: encrypts, and tells nothing about who is there.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_faults_have_names() {
        let good = [
            "postgres://u@h/d",
            "postgresql://u:secret@h:5433/d?sslmode=disable",
            "postgres://u@a:1,b:2/d?sslmode=require&application_name=x",
            "postgres://u@h/d?target_session_attrs=any",
        ];
        for url in good {
            let address = read(url, Some("hidden"), None).unwrap();
            assert_eq!(address.config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
            for shown in [format!("{address:?}"), address.to_string()] {
                assert!(!shown.contains("secret") && !shown.contains("hidden"), "{shown}");
            }
        }
        assert_eq!(read(good[2], None, None).unwrap().to_string(), "database d on a:1, b:2");
        let bad = [
            ("host=h dbname=d", "postgres://"),
            ("postgres://u@h", "names no database"),
            ("postgres:///d", "names no host"),
            ("postgres://u@h/d?sslmode=verify-ca", "verify-ca"),
            ("postgres://u@h/d?sslmode=verify-full", "ca_file"),
            ("postgres://u@h/d?target_session_attrs=read-only", "primary"),
            ("postgres://u@h/d?color=red", "color"),
        ];
        for (url, word) in bad {
            let error = read(url, None, None).unwrap_err().to_string();
            assert!(error.contains(word), "{url}: {error}");
            assert!(check_url(url, None).is_err());
        }
        let secret = "postgres://u:geheim@h:port/d";
        let error = read(secret, None, None).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("geheim"), "{error}");
        assert!(matches!(read(good[0], None, Some(Path::new("/nowhere"))), Err(AddressError::CaFile { .. })));
    }
}
