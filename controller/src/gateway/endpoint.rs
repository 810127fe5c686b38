//! The QUIC endpoint: transport parameters and TLS. The figures are those of the design, measured there.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::wire::{ALPN_ENROLL, ALPN_LINK};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use rustix::net::sockopt;

use super::GatewayError;
use super::keys::EndpointKeys;
use crate::ca::{Ca, server_tls};

/// Devices send something every 15 seconds.
pub(super) const IDLE_MS: u32 = 45_000;
/// Handshakes that wait for the acceptor; what comes beyond is refused.
const INCOMING_MAX: usize = 4_096;
/// Some 3,000 packets of a handshake, as the kernel counts them.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// For both transports: one certificate, one set of roots, the same rules.
pub(super) fn tls(ca: Arc<Ca>, name: &str) -> Result<Arc<rustls::ServerConfig>, GatewayError> {
    Ok(Arc::new(server_tls(ca, name, &[ALPN_LINK, ALPN_ENROLL])?))
}

pub(super) fn open(
    listen: SocketAddr,
    keys: &EndpointKeys,
    tls: Arc<rustls::ServerConfig>,
) -> Result<Endpoint, GatewayError> {
    let tls = QuicServerConfig::try_from(tls).map_err(|_| GatewayError::Tls)?;
    let mut config = ServerConfig::new(Arc::new(tls), keys.token_key());
    config.transport_config(Arc::new(transport()));
    config.migration(true);
    config.max_incoming(INCOMING_MAX);
    config.incoming_buffer_size(8 * 1024);
    config.incoming_buffer_size_total(16 << 20);
    let bind = |source: io::Error| GatewayError::Bind { listen, source };
    let socket = UdpSocket::bind(listen).map_err(bind)?;
    enlarge(&socket);
    Endpoint::new(keys.endpoint(), Some(config), socket, Arc::new(TokioRuntime)).map_err(bind)
}

/// Room for what a fleet says while this process waits for the processor, as when all of it comes back at once: what the
/// kernel drops comes again only after a timeout, which makes the storm longer.
fn enlarge(socket: &UdpSocket) {
    // Over the system's limit only with CAP_NET_ADMIN; up to the limit (net.core.rmem_max) for everybody else.
    let enlarged = sockopt::set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER_BYTES)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, RECEIVE_BUFFER_BYTES));
    match enlarged.and_then(|()| sockopt::socket_recv_buffer_size(socket)) {
        Ok(bytes) => tracing::debug!(bytes, "receive buffer of the port for devices"),
        Err(error) => tracing::warn!(%error, "the receive buffer of the port for devices stays small"),
    }
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        // A link is one stream, and so is an enrolment; quinn makes room for every stream that might come.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(64 * 1024))
        .receive_window(VarInt::from_u32(128 * 1024))
        .send_window(128 * 1024)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .initial_mtu(1200)
        .min_mtu(1200)
        .mtu_discovery_config(None)
        .crypto_buffer_size(8 * 1024)
        // quinn keeps a buffer for a whole batch of segments per connection, 11 KB for ever, where a device's link seldom has
        // more than one datagram to send at a time.
        .enable_segmentation_offload(false)
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_MS).into()))
        // The device keeps the link and its NAT's memory of it alive.
        .keep_alive_interval(None::<Duration>);
    transport
}
