//! Frames over one QUIC stream. Every wait can be given up without losing a byte.

use bytes::{Buf, Bytes, BytesMut};
use flotilla_protocol::wire::{FrameError, decode_frame, encode_frame};
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, WriteError};
use serde::Serialize;
use serde::de::DeserializeOwned;

const CHUNKS: usize = 16;

/// Why a link is over.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("connection lost: {0}")]
    Connection(#[from] ConnectionError),
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
    send: SendStream,
    recv: RecvStream,
    incoming: BytesMut,
    outgoing: BytesMut,
}

impl FrameStream {
    pub(super) fn new(send: SendStream, recv: RecvStream) -> Self {
        Self { send, recv, incoming: BytesMut::new(), outgoing: BytesMut::new() }
    }

    /// Queues a frame; [`FrameStream::write`] sends it.
    pub fn queue<T: Serialize>(&mut self, frame: &T) -> Result<(), StreamError> {
        Ok(encode_frame(frame, &mut self.outgoing)?)
    }

    pub fn queued_bytes(&self) -> usize {
        self.outgoing.len()
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
        let mut chunks: [Bytes; CHUNKS] = Default::default();
        let count = self.recv.read_chunks(&mut chunks).await?.ok_or(StreamError::Closed)?;
        for chunk in &chunks[..count] {
            self.incoming.extend_from_slice(chunk);
        }
        Ok(())
    }

    /// Waits until some of what is queued is taken. Not to be called with an empty queue.
    pub async fn write(&mut self) -> Result<(), StreamError> {
        let taken = self.send.write(&self.outgoing).await?;
        self.took(taken);
        Ok(())
    }

    /// Waits until there are bytes to read, or until some of what is queued was written.
    pub async fn turn(&mut self) -> Result<(), StreamError> {
        if self.outgoing.is_empty() {
            return self.read().await;
        }
        let mut chunks: [Bytes; CHUNKS] = Default::default();
        tokio::select! {
            taken = self.send.write(&self.outgoing) => {
                let taken = taken?;
                self.took(taken);
            }
            count = self.recv.read_chunks(&mut chunks) => {
                let count = count?.ok_or(StreamError::Closed)?;
                for chunk in &chunks[..count] {
                    self.incoming.extend_from_slice(chunk);
                }
            }
        }
        Ok(())
    }

    /// Sends all that is queued.
    pub async fn flush(&mut self) -> Result<(), StreamError> {
        while !self.outgoing.is_empty() {
            self.write().await?;
        }
        Ok(())
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

    /// No more frames will come from here.
    pub fn finish(&mut self) {
        // Fails only when the stream has ended already.
        let _ = self.send.finish();
    }

    /// Waits until the other side has read all, or has gone.
    pub async fn drained(&mut self) {
        let _ = self.send.stopped().await;
    }

    fn took(&mut self, bytes: usize) {
        self.outgoing.advance(bytes);
        if self.outgoing.is_empty() {
            self.outgoing = BytesMut::new();
        }
    }
}
