//! Single frames in order, for the parts of a connection that go by turns: enrolment, and the start of a link.

use bytes::BytesMut;
use flotilla_protocol::wire::{FrameError, decode_frame, encode_frame};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::link::{Receiver, Sender};

/// Nothing that is said by turns is longer. `Hello` with 64 SIMs is about 6 KB.
const BYTES_MAX: usize = 16 * 1024;

#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("the peer has left")]
    Left,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("more than {BYTES_MAX} bytes in the first frame")]
    TooLong,
}

/// Reads one frame; what follows it stays in `buffer`.
pub(super) async fn read<T: DeserializeOwned>(recv: &mut Receiver, buffer: &mut BytesMut) -> Result<T, ReadError> {
    loop {
        if let Some(frame) = decode_frame(buffer)? {
            return Ok(frame);
        }
        if buffer.len() >= BYTES_MAX {
            return Err(ReadError::TooLong);
        }
        recv.read(buffer).await.ok_or(ReadError::Left)?;
    }
}

/// False when the peer has left, or the frame is too long to be sent.
pub(super) async fn write<T: Serialize>(send: &mut Sender, frame: &T) -> bool {
    let mut buffer = BytesMut::new();
    encode_frame(frame, &mut buffer).is_ok() && send.write(buffer.freeze()).await
}
