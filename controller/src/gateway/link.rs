//! One device's way to us, whatever carries it: a QUIC connection with its one stream, or TLS over TCP.
//!
//! Enums and not traits: what is read and written all day is QUIC's, and stays a direct call without a box.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream, VarInt};
use serde::Serialize;
use tokio::time::timeout;

use super::{dialogue, tcp};

/// How long a device may take to read why it is sent away.
const LAST_WORDS_DEADLINE: Duration = Duration::from_secs(1);
/// Chunks taken from quinn at once, each at most a datagram. Their places are held while the device is silent, so few.
const CHUNKS: usize = 4;

/// What carries a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Quic,
    /// The way around networks that let no UDP pass.
    Tcp,
}

impl Transport {
    pub(super) const ALL: [Self; 2] = [Self::Quic, Self::Tcp];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

/// A connection whose TLS handshake is done. Whoever holds a clone may close it.
#[derive(Clone)]
pub(super) enum Connection {
    Quic(quinn::Connection),
    Tcp(Arc<tcp::Link>),
}

impl Connection {
    pub(super) fn transport(&self) -> Transport {
        match self {
            Self::Quic(_) => Transport::Quic,
            Self::Tcp(_) => Transport::Tcp,
        }
    }

    pub(super) fn remote(&self) -> SocketAddr {
        match self {
            Self::Quic(connection) => connection.remote_address(),
            Self::Tcp(link) => link.remote(),
        }
    }

    /// Where the transport tells.
    pub(super) fn rtt(&self) -> Option<Duration> {
        match self {
            Self::Quic(connection) => Some(connection.rtt()),
            Self::Tcp(_) => None,
        }
    }

    /// Grows with whatever comes from the other side, acknowledgements too, where the transport tells.
    pub(super) fn heard(&self) -> Option<u64> {
        match self {
            Self::Quic(connection) => Some(connection.stats().udp_rx.datagrams),
            Self::Tcp(_) => None,
        }
    }

    /// The one stream, once the device has opened it; `None` when it leaves instead.
    pub(super) async fn stream(&self) -> Option<(Sender, Receiver)> {
        match self {
            Self::Quic(connection) => {
                let (send, recv) = connection.accept_bi().await.ok()?;
                Some((Sender::Quic(send), Receiver::Quic(recv)))
            }
            Self::Tcp(link) => Some((Sender::Tcp(link.clone()), Receiver::Tcp(tcp::Reader::new(link.clone())))),
        }
    }

    /// At once, and without effect on a connection that is closed. TCP has no codes: whatever the device has to know went
    /// out as a frame before.
    pub(super) fn close(&self, code: VarInt, reason: &[u8]) {
        match self {
            Self::Quic(connection) => connection.close(code, reason),
            Self::Tcp(link) => link.close(),
        }
    }

    /// Closes a connection on which nothing was said. QUIC has words for it; over TCP they go out as `frame`.
    pub(super) async fn turn_away<T: Serialize>(&self, code: VarInt, reason: &[u8], frame: &T) {
        if let Self::Tcp(link) = self {
            let mut send = Sender::Tcp(link.clone());
            let said = async {
                if dialogue::write(&mut send, frame).await {
                    send.finish().await;
                }
            };
            // A device that reads nothing is closed on all the same.
            let _ = timeout(LAST_WORDS_DEADLINE, said).await;
        }
        self.close(code, reason);
    }
}

/// What goes to the device.
pub(super) enum Sender {
    Quic(SendStream),
    Tcp(Arc<tcp::Link>),
}

impl Sender {
    /// False when the connection is lost, or the device reads no more.
    pub(super) async fn write(&mut self, bytes: Bytes) -> bool {
        match self {
            Self::Quic(send) => send.write_chunk(bytes).await.is_ok(),
            Self::Tcp(link) => link.write(&bytes).await.is_ok(),
        }
    }

    /// Waits until the device has what was written: closing a connection drops what is still on its way.
    pub(super) async fn finish(&mut self) {
        // Either outcome is fine: it was read, or the device is gone.
        match self {
            Self::Quic(send) => {
                if send.finish().is_ok() {
                    let _ = timeout(LAST_WORDS_DEADLINE, send.stopped()).await;
                }
            }
            Self::Tcp(link) => {
                let _ = timeout(LAST_WORDS_DEADLINE, link.finish()).await;
            }
        }
    }
}

/// What comes from the device.
pub(super) enum Receiver {
    Quic(RecvStream),
    Tcp(tcp::Reader),
}

impl Receiver {
    /// Waits for bytes, some KB at most, and tells how many came; `None` when the device has left.
    pub(super) async fn read(&mut self, buffer: &mut BytesMut) -> Option<usize> {
        match self {
            Self::Quic(recv) => {
                let mut chunks: [Bytes; CHUNKS] = Default::default();
                let count = recv.read_chunks(&mut chunks).await.ok()??;
                let chunks = &chunks[..count];
                let bytes = chunks.iter().map(Bytes::len).sum();
                buffer.reserve(bytes);
                chunks.iter().for_each(|chunk| buffer.extend_from_slice(chunk));
                Some(bytes)
            }
            Self::Tcp(reader) => reader.read(buffer).await,
        }
    }
}
