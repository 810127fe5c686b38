//! One QUIC stream in both directions, as hyper reads and writes it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use quinn::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::code::CANCELLED;

/// Dropped before it was shut down, it is reset: the other side is told that the rest never comes. quinn alone would end it
/// as if all had been said.
pub(super) struct PeerStream {
    send: SendStream,
    recv: RecvStream,
    finished: bool,
}

impl PeerStream {
    pub(super) fn new((send, recv): (SendStream, RecvStream)) -> Self {
        Self { send, recv, finished: false }
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.recv), cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}

impl Drop for PeerStream {
    fn drop(&mut self) {
        if !self.finished {
            // An error means that the stream, or its whole connection, is over already.
            let _ = self.send.reset(CANCELLED);
        }
    }
}
