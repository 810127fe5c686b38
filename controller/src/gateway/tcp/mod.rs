//! Links over TCP, for devices whose network lets no UDP pass: the frames, the TLS and the checks of QUIC in a plain stream.
//!
//! What QUIC does by itself is done here: one connection is shared by its writer, its reader and whoever closes it, and a
//! peer that says nothing for as long as QUIC would wait is given up. Devices send a `Ping` when they have nothing else to
//! say, so a process that hangs is noticed as well as a cable that was pulled.

mod acceptor;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;

pub(super) use acceptor::{Door, run};

use super::endpoint::IDLE_MS;

const SILENCE_MAX: Duration = Duration::from_millis(IDLE_MS as u64);

type Tls = TlsStream<TcpStream>;

/// One connection. Its lock is held for single steps that do not wait.
pub(super) struct Link {
    remote: SocketAddr,
    state: Mutex<State>,
    _counted: Counted,
}

struct State {
    /// `None` once it is closed.
    stream: Option<Tls>,
    /// Who waits for bytes, and who for room: a socket that is dropped wakes nobody.
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The last words are out. What still comes is read only to see the end.
    finishing: bool,
}

/// A connection that is open, for the gateway's bound.
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Link {
    fn new(remote: SocketAddr, stream: Tls, counted: Counted) -> Arc<Self> {
        let state = State { stream: Some(stream), reader: None, writer: None, finishing: false };
        Arc::new(Self { remote, state: Mutex::new(state), _counted: counted })
    }

    pub(super) fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// At once: what is on its way may be lost.
    pub(super) fn close(&self) {
        let (stream, wakers) = {
            let mut state = self.state.lock();
            (state.stream.take(), [state.reader.take(), state.writer.take()])
        };
        drop(stream);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Waits until all is with the kernel.
    pub(super) async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut written = 0;
        poll_fn(|cx| {
            self.step(cx, |mut stream, cx| {
                while written < bytes.len() {
                    match stream.as_mut().poll_write(cx, &bytes[written..])? {
                        Poll::Ready(taken) => written += taken,
                        Poll::Pending => return Poll::Pending,
                    }
                }
                stream.poll_flush(cx)
            })
        })
        .await
    }

    /// Says that nothing more will come, and waits until the device has read all and closed its side. Bytes that nobody reads
    /// would make the kernel answer with a reset, which overtakes the last words.
    pub(super) async fn finish(&self) -> io::Result<()> {
        let reader = {
            let mut state = self.state.lock();
            state.finishing = true;
            state.reader.take()
        };
        reader.into_iter().for_each(Waker::wake);
        poll_fn(|cx| self.step(cx, |stream, cx| stream.poll_shutdown(cx))).await?;
        poll_fn(|cx| {
            self.step(cx, |mut stream, cx| {
                loop {
                    match stream.as_mut().poll_fill_buf(cx)? {
                        Poll::Ready([]) => return Poll::Ready(Ok(())),
                        Poll::Ready(unread) => {
                            let unread = unread.len();
                            stream.as_mut().consume(unread);
                        }
                        Poll::Pending => return Poll::Pending,
                    }
                }
            })
        })
        .await
    }

    /// One step of the writer.
    fn step<T>(
        &self,
        cx: &mut Context<'_>,
        mut step: impl FnMut(Pin<&mut Tls>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut state = self.state.lock();
        let Some(stream) = &mut state.stream else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let done = step(Pin::new(stream), cx);
        if done.is_pending() {
            remember(&mut state.writer, cx);
        }
        done
    }

    /// Nothing when the device has left or the last words are out.
    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<Option<usize>> {
        let mut state = self.state.lock();
        if state.finishing {
            return Poll::Ready(None);
        }
        let Some(stream) = &mut state.stream else { return Poll::Ready(None) };
        let mut stream = Pin::new(stream);
        let found = match stream.as_mut().poll_fill_buf(cx) {
            Poll::Ready(Ok([]) | Err(_)) => None,
            Poll::Ready(Ok(bytes)) => {
                buffer.extend_from_slice(bytes);
                Some(bytes.len())
            }
            Poll::Pending => {
                remember(&mut state.reader, cx);
                return Poll::Pending;
            }
        };
        if let Some(bytes) = found {
            stream.consume(bytes);
        }
        Poll::Ready(found)
    }
}

fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    if !place.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
}

/// The reading side of a link. It keeps no buffer while the device is silent.
pub(super) struct Reader {
    link: Arc<Link>,
    heard: Instant,
    /// Looks at `heard` when it ends, and is not moved with each byte.
    silence: Pin<Box<Sleep>>,
}

impl Reader {
    pub(super) fn new(link: Arc<Link>) -> Self {
        let heard = Instant::now();
        Self { link, heard, silence: Box::pin(sleep_until(heard + SILENCE_MAX)) }
    }

    pub(super) async fn read(&mut self, buffer: &mut BytesMut) -> Option<usize> {
        let Self { link, heard, silence } = self;
        poll_fn(|cx| {
            let found = link.poll_read(cx, buffer);
            if found.is_ready() {
                *heard = Instant::now();
                return found;
            }
            while silence.as_mut().poll(cx).is_ready() {
                let until = *heard + SILENCE_MAX;
                if until <= Instant::now() {
                    metrics::counter!("flotilla_tcp_silent_total").increment(1);
                    return Poll::Ready(None);
                }
                silence.as_mut().reset(until);
            }
            Poll::Pending
        })
        .await
    }
}
