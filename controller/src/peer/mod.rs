//! Links between the controllers of a cluster: mutual TLS 1.3 over QUIC on a UDP port of its own.
//!
//! ```text
//! PeerLinks (links)    dials members of the view, keeps one connection to each, carries requests there
//!   └─ call            one request: a stream, HTTP/1.1 in it, both bodies flow
//! server               takes the others' connections and serves the node's ordinary router on their streams
//! ```
//! A link proves which controller is at its other end and nothing else: whoever a request comes from is found out by the
//! node that serves it, from the request's own key. What a link can break is bounded: a peer that says nothing for
//! [`SILENCE`] is given up, and with it all its streams.

mod call;
mod links;
pub mod local;
mod server;
mod stream;
mod tls;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use flotilla_cluster::{Control, NodeName, Views};
use flotilla_protocol::id::Epoch;
use quinn::{TransportConfig, VarInt};

use crate::ca::CaError;

pub use call::{Broken, PeerCall};
pub use links::{PeerLinks, Unreached};
pub use server::Served;

const ALPN_PEER: &[u8] = b"flotilla-peer/1";
/// A peer that is not heard of for so long is gone. Shorter, and a machine that is out of breath loses its links.
pub const SILENCE: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_millis(400);
/// Requests under way over one connection: event streams are what there may be many of.
const STREAMS_MAX: u32 = 4096;
/// What one stream, and all of a connection together, may have in the air: uploads pass through.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Carries which node has forwarded a request. It counts on peer links only; whatever comes from elsewhere has no such header.
pub const FORWARDED_HEADER: HeaderName = HeaderName::from_static("x-flotilla-forwarded");
/// Under which epoch the sender believes the receiver to lead.
const EPOCH_HEADER: HeaderName = HeaderName::from_static("x-flotilla-epoch");
/// In the answer of a peer that does not lead and has done nothing.
const NOT_LEADING_HEADER: HeaderName = HeaderName::from_static("x-flotilla-not-leading");

/// Close and reset codes. On the wire between versions, so never reused.
mod code {
    use quinn::VarInt;

    /// The node stops, or the link is no longer needed.
    pub(super) const DONE: VarInt = VarInt::from_u32(0);
    /// Whoever waited for this request is gone, or whoever served it has failed.
    pub(super) const CANCELLED: VarInt = VarInt::from_u32(1);
}

/// What a node knows of its cluster, and how it reaches the others.
#[derive(Clone)]
pub struct Cluster {
    pub own: NodeName,
    pub views: Views,
    pub control: Arc<dyn Control>,
    /// None when this controller is alone.
    pub links: Option<PeerLinks>,
}

/// Marks a request that another controller has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// Proved by its certificate.
    pub from: NodeName,
    /// Under which epoch it believes this node to lead the tenant's shard; 0 when that does not matter.
    pub epoch: Epoch,
}

impl Forwarded {
    fn of(headers: &HeaderMap, from: NodeName) -> Self {
        let epoch = headers.get(EPOCH_HEADER).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
        Self { from, epoch: Epoch(epoch) }
    }
}

/// Marks an answer of a node that does not lead: nothing was done, and the request may be tried elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotLeading;

#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("cannot listen for other controllers on UDP {addr}: stop what uses it, or set cluster.peer_addr")]
    Bind { addr: SocketAddr, source: io::Error },
    #[error("cannot set TLS up for links between controllers")]
    Tls,
    #[error(transparent)]
    Ca(#[from] CaError),
}

/// Takes the port. What listens on it is [`PeerLinks::open`]; in between the address can be told to the others.
pub fn bind(addr: SocketAddr) -> Result<UdpSocket, PeerError> {
    UdpSocket::bind(addr).map_err(|source| PeerError::Bind { addr, source })
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let silence = VarInt::from_u32(SILENCE.as_millis() as u32);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        // Controllers are near each other: a lost first packet should not cost the third of a second that strangers get.
        .initial_rtt(Duration::from_millis(50))
        .max_idle_timeout(Some(silence.into()))
        .keep_alive_interval(Some(KEEP_ALIVE));
    transport
}

/// Headers that belong to one connection (RFC 9110 7.6.1), and ours.
fn strip(headers: &mut HeaderMap) {
    use axum::http::header::{
        CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    };
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    let keep_alive = HeaderName::from_static("keep-alive");
    for name in [
        CONNECTION,
        keep_alive,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        FORWARDED_HEADER,
        EPOCH_HEADER,
        NOT_LEADING_HEADER,
    ] {
        headers.remove(name);
    }
}

/// Writes onto a request who sends it, in the place of whatever a client has written there.
fn stamp(headers: &mut HeaderMap, own: &NodeName, epoch: Epoch) {
    strip(headers);
    // A node's name is of visible ASCII.
    if let Ok(name) = HeaderValue::from_str(own.as_str()) {
        headers.insert(FORWARDED_HEADER, name);
    }
    headers.insert(EPOCH_HEADER, epoch.0.into());
}
