//! Frames over a link, whatever carries it. Every wait can be given up without losing a byte.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use flotilla_protocol::wire::{FrameError, decode_frame, encode_frame};
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, WriteError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::tcp::TcpLink;

const CHUNKS: usize = 16;

/// Why a link is over.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("connection lost: {0}")]
    Connection(#[from] ConnectionError),
    #[error("connection lost: {0}")]
    Tcp(io::Error),
    #[error("connection lost: the controller is silent")]
    Silent,
    #[error("the controller has closed the link")]
    Closed,
    #[error("the controller sent nonsense: {0}")]
    Frame(#[from] FrameError),
}

impl From<ReadError> for StreamError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => Self::Connection(error),
            _ => Self::Closed,
        }
    }
}

impl From<WriteError> for StreamError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => Self::Connection(error),
            _ => Self::Closed,
        }
    }
}

/// A stream of `In` frames one way and of any frames the other.
pub struct FrameStream {
    carrier: Carrier,
    incoming: BytesMut,
    outgoing: BytesMut,
}

pub(super) enum Carrier {
    Quic { send: SendStream, recv: RecvStream },
    Tcp(Box<TcpLink>),
}

impl FrameStream {
    pub(super) fn new(carrier: Carrier) -> Self {
        Self { carrier, incoming: BytesMut::new(), outgoing: BytesMut::new() }
    }

    /// Queues a frame; [`FrameStream::write`] sends it.
    pub fn queue<T: Serialize>(&mut self, frame: &T) -> Result<(), StreamError> {
        Ok(encode_frame(frame, &mut self.outgoing)?)
    }

    pub fn queued_bytes(&self) -> usize {
        self.outgoing.len()
    }

    /// When a byte has come or gone last, where that is known.
    pub(super) fn moved(&self) -> Option<Instant> {
        match &self.carrier {
            Carrier::Quic { .. } => None,
            Carrier::Tcp(link) => Some(link.moved()),
        }
    }

    /// The next whole frame that is already here.
    pub fn next_frame<T: DeserializeOwned>(&mut self) -> Result<Option<T>, StreamError> {
        let frame = decode_frame(&mut self.incoming)?;
        if frame.is_none() && self.incoming.is_empty() {
            // An idle link holds no buffer.
            self.incoming = BytesMut::new();
        }
        Ok(frame)
    }

    /// Waits for bytes.
    pub async fn read(&mut self) -> Result<(), StreamError> {
        match &mut self.carrier {
            Carrier::Quic { recv, .. } => read_chunks(recv, &mut self.incoming).await,
            Carrier::Tcp(link) => poll_fn(|cx| link.poll_read(cx, &mut self.incoming)).await,
        }
    }

    /// Waits until some of what is queued is taken. Not to be called with an empty queue.
    pub async fn write(&mut self) -> Result<(), StreamError> {
        let taken = match &mut self.carrier {
            Carrier::Quic { send, .. } => send.write(&self.outgoing).await?,
            Carrier::Tcp(link) => poll_fn(|cx| link.poll_write(cx, &self.outgoing)).await?,
        };
        took(&mut self.outgoing, taken);
        Ok(())
    }

    /// Waits until there are bytes to read, or until some of what is queued was written.
    pub async fn turn(&mut self) -> Result<(), StreamError> {
        let (incoming, outgoing) = (&mut self.incoming, &mut self.outgoing);
        match &mut self.carrier {
            Carrier::Tcp(link) => poll_fn(|cx| turn_tcp(link, cx, incoming, outgoing)).await,
            Carrier::Quic { recv, .. } if outgoing.is_empty() => read_chunks(recv, incoming).await,
            Carrier::Quic { send, recv } => {
                tokio::select! {
                    taken = send.write(outgoing) => {
                        let taken = taken?;
                        took(outgoing, taken);
                        Ok(())
                    }
                    read = read_chunks(recv, incoming) => read,
                }
            }
        }
    }

    /// Sends all that is queued.
    pub async fn flush(&mut self) -> Result<(), StreamError> {
        while !self.outgoing.is_empty() {
            self.write().await?;
        }
        match &mut self.carrier {
            Carrier::Quic { .. } => Ok(()),
            Carrier::Tcp(link) => poll_fn(|cx| link.poll_flush(cx)).await,
        }
    }

    /// Waits for one frame.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, StreamError> {
        loop {
            if let Some(frame) = self.next_frame()? {
                return Ok(frame);
            }
            self.read().await?;
        }
    }

    /// Says that no more frames will come from here, and waits until the other side has read all, or has gone.
    pub async fn finish(&mut self) {
        match &mut self.carrier {
            Carrier::Quic { send, .. } => {
                // Fails only when the stream has ended already.
                if send.finish().is_ok() {
                    let _ = send.stopped().await;
                }
            }
            Carrier::Tcp(link) => link.finish().await,
        }
    }

    pub(super) fn hang_up(self) {
        if let Carrier::Tcp(link) = self.carrier {
            link.hang_up();
        }
    }
}

async fn read_chunks(recv: &mut RecvStream, incoming: &mut BytesMut) -> Result<(), StreamError> {
    let mut chunks: [Bytes; CHUNKS] = Default::default();
    let count = recv.read_chunks(&mut chunks).await?.ok_or(StreamError::Closed)?;
    for chunk in &chunks[..count] {
        incoming.extend_from_slice(chunk);
    }
    Ok(())
}

/// Both directions, so that neither waits for the other. Reading comes first: of a link that was closed over there, the last
/// words can still be read when nothing can be written any more.
fn turn_tcp(
    link: &mut TcpLink,
    cx: &mut Context<'_>,
    incoming: &mut BytesMut,
    outgoing: &mut BytesMut,
) -> Poll<Result<(), StreamError>> {
    let read = link.poll_read(cx, incoming)?;
    let written = if outgoing.is_empty() { Poll::Pending } else { link.poll_write(cx, outgoing) };
    match (read, written) {
        (Poll::Ready(()), Poll::Ready(Err(_)) | Poll::Pending) => {}
        (Poll::Pending, Poll::Pending) => {
            // Whether all of it is sent makes no difference to the caller; an error does.
            return match link.poll_flush(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            };
        }
        (_, Poll::Ready(taken)) => took(outgoing, taken?),
    }
    Poll::Ready(Ok(()))
}

fn took(outgoing: &mut BytesMut, bytes: usize) {
    outgoing.advance(bytes);
    if outgoing.is_empty() {
        *outgoing = BytesMut::new();
    }
}
