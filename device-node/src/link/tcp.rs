//! A link's bytes over TLS and TCP, for one owner that reads and writes by turns.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use flotilla_protocol::wire::CONTROLLER_NAME;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{ConnectError, StreamError};

/// The client's end of one TCP connection.
pub(super) struct TcpLink {
    stream: TlsStream<TcpStream>,
    /// What was written is not yet all with the kernel.
    unflushed: bool,
    /// The last byte that came, and the last that came or went.
    heard: Instant,
    moved: Instant,
    /// Looks at `heard` when it ends, and is not moved with each byte.
    silence: Pin<Box<Sleep>>,
    silence_max: Duration,
}

/// Up to the end of our side of the handshake. Answers how long the kernel's own handshake took, too: one round trip.
pub(super) async fn dial(
    tls: Arc<rustls::ClientConfig>,
    address: SocketAddr,
    silence_max: Duration,
) -> Result<(TcpLink, Duration), ConnectError> {
    let begun = Instant::now();
    let stream = TcpStream::connect(address).await.map_err(|error| ConnectError::Tcp(error.to_string()))?;
    let rtt = begun.elapsed();
    stream.set_nodelay(true).map_err(|error| ConnectError::Tcp(error.to_string()))?;
    let name = ServerName::try_from(CONTROLLER_NAME).map_err(|error| ConnectError::Tcp(error.to_string()))?;
    let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|error| handshake_error(&error))?;
    if stream.get_ref().1.alpn_protocol().is_none() {
        return Err(ConnectError::Tcp("what answers there is no controller".to_owned()));
    }
    let now = Instant::now();
    let silence = Box::pin(sleep_until(now + silence_max));
    Ok((TcpLink { stream, unflushed: false, heard: now, moved: now, silence, silence_max }, rtt))
}

/// An alert says nothing yet of our certificate: whoever has sent it has not proved to be the controller.
fn handshake_error(error: &io::Error) -> ConnectError {
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(why)) => ConnectError::NotTrusted(why.to_string()),
        _ => ConnectError::Tcp(error.to_string()),
    }
}

/// On a link whose handshake is done, an alert is the controller's word on our certificate.
pub(super) fn alert(error: &io::Error) -> Option<String> {
    match tls_error(error) {
        Some(rustls::Error::AlertReceived(alert)) => Some(format!("{alert:?}")),
        _ => None,
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

impl TcpLink {
    pub(super) fn moved(&self) -> Instant {
        self.moved
    }

    /// Waits for bytes, or for the end of the silence that is allowed.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, incoming: &mut BytesMut) -> Poll<Result<(), StreamError>> {
        let mut stream = Pin::new(&mut self.stream);
        match stream.as_mut().poll_fill_buf(cx).map_err(StreamError::Tcp)? {
            Poll::Ready([]) => return Poll::Ready(Err(StreamError::Closed)),
            Poll::Ready(bytes) => {
                let count = bytes.len();
                incoming.extend_from_slice(bytes);
                stream.consume(count);
                self.heard = Instant::now();
                self.moved = self.heard;
                return Poll::Ready(Ok(()));
            }
            Poll::Pending => {}
        }
        while self.silence.as_mut().poll(cx).is_ready() {
            let until = self.heard + self.silence_max;
            if until <= Instant::now() {
                return Poll::Ready(Err(StreamError::Silent));
            }
            self.silence.as_mut().reset(until);
        }
        Poll::Pending
    }

    /// Takes some of `outgoing`, which is not empty, or sends on what was taken before.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, outgoing: &[u8]) -> Poll<Result<usize, StreamError>> {
        let taken = Pin::new(&mut self.stream).poll_write(cx, outgoing).map_err(StreamError::Tcp);
        if let Poll::Ready(Ok(_)) = taken {
            self.unflushed = true;
            self.moved = Instant::now();
        }
        taken
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx).map_err(StreamError::Tcp)? {
                Poll::Ready(()) => self.unflushed = false,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more will come, and waits until the other side has read all and closed as well.
    pub(super) async fn finish(&mut self) {
        // Whoever is gone has nothing more to read.
        let mut unread = BytesMut::new();
        let stream = &mut self.stream;
        if poll_fn(|cx| Pin::new(&mut *stream).poll_shutdown(cx)).await.is_ok() {
            while poll_fn(|cx| self.poll_read(cx, &mut unread)).await.is_ok() {
                unread.clear();
            }
        }
    }

    /// Says that this is the end, as far as that takes no time.
    pub(super) fn hang_up(mut self) {
        let _ = Pin::new(&mut self.stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    }
}
