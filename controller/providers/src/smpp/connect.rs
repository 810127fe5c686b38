//! A connection to the SMSC, plain or with TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::settings::{Settings, Tls};

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Either kind of connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why there is no connection. The texts are shown as the account's state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the name of the SMSC cannot be resolved: {0}")]
    Name(io::Error),
    #[error("the name of the SMSC has no address")]
    NoAddress,
    #[error("the SMSC's address {0} is not one that this controller may connect to")]
    Forbidden(IpAddr),
    #[error("the SMSC cannot be reached: {0}")]
    Connect(io::Error),
    #[error("no trusted certificates can be loaded; give `ca_pem`")]
    Roots,
    #[error("`server_name` or `host` is no name that a certificate can have")]
    ServerName,
    #[error("TLS settings: {0}")]
    Config(rustls::Error),
    #[error("TLS with the SMSC failed: {0}")]
    Handshake(io::Error),
    #[error("connecting took more than {0} ms")]
    Timeout(u64),
}

/// Connects within the time that the account allows.
pub(crate) async fn connect(settings: &Settings) -> Result<Box<dyn Stream>, ConnectError> {
    let within = Duration::from_millis(settings.connect_timeout_ms);
    match tokio::time::timeout(within, open(settings)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout(settings.connect_timeout_ms)),
    }
}

async fn open(settings: &Settings) -> Result<Box<dyn Stream>, ConnectError> {
    let tls = match &settings.tls {
        Some(tls) => Some((client_config(tls).await?, server_name(settings, tls)?)),
        None => None,
    };
    let stream = open_tcp(settings).await?;
    // Each PDU is awaited by the other side.
    stream.set_nodelay(true).map_err(ConnectError::Connect)?;
    match tls {
        None => Ok(Box::new(stream)),
        Some((config, name)) => {
            let stream = TlsConnector::from(config).connect(name, stream).await.map_err(ConnectError::Handshake)?;
            Ok(Box::new(stream))
        }
    }
}

/// Tries the addresses of the host in turn. What is checked is what is connected to.
async fn open_tcp(settings: &Settings) -> Result<TcpStream, ConnectError> {
    let found = tokio::net::lookup_host((&*settings.host, settings.port)).await.map_err(ConnectError::Name)?;
    let addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
    if let Some(rule) = &settings.may_connect
        && let Some(forbidden) = addresses.iter().find(|address| !rule(address.ip()))
    {
        return Err(ConnectError::Forbidden(forbidden.ip()));
    }
    let mut last = ConnectError::NoAddress;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = ConnectError::Connect(error),
        }
    }
    Err(last)
}

fn server_name(settings: &Settings, tls: &Tls) -> Result<ServerName<'static>, ConnectError> {
    let name = tls.server_name.as_deref().unwrap_or(&settings.host).to_owned();
    ServerName::try_from(name).map_err(|_| ConnectError::ServerName)
}

async fn client_config(tls: &Tls) -> Result<Arc<ClientConfig>, ConnectError> {
    let mut roots = RootCertStore::empty();
    if tls.roots.is_empty() {
        let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
        roots.add_parsable_certificates(found.map_err(|_| ConnectError::Roots)?.certs);
    } else {
        roots.add_parsable_certificates(tls.roots.iter().cloned());
    }
    if roots.is_empty() {
        return Err(ConnectError::Roots);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(ConnectError::Config)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
