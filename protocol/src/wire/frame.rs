//! Frames on a byte stream: a length and a postcard value, bounded before anything is allocated.

use bytes::{Buf, BufMut, BytesMut};
use postcard::ser_flavors::Flavor;
use serde::{Serialize, de::DeserializeOwned};

/// No frame is longer. Whoever announces more is not speaking this protocol.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;

const LENGTH_BYTES: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {0} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLong(usize),
    #[error("frame is not a value of this protocol")]
    Malformed,
    #[error("{0} bytes follow the value in its frame")]
    Trailing(usize),
}

/// Appends `value` as one frame. On an error `out` is as it was.
pub fn encode_frame<T: Serialize>(value: &T, out: &mut BytesMut) -> Result<(), FrameError> {
    let start = out.len();
    out.put_u32_le(0);
    if postcard::serialize_with_flavor(value, Tail(out)).is_err() {
        out.truncate(start);
        return Err(FrameError::Malformed);
    }
    let length = out.len() - start - LENGTH_BYTES;
    if length > FRAME_BYTES_MAX {
        out.truncate(start);
        return Err(FrameError::TooLong(length));
    }
    out[start..start + LENGTH_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(())
}

/// Takes one frame off the front of `buffer`; `None` asks for more bytes.
pub fn decode_frame<T: DeserializeOwned>(buffer: &mut BytesMut) -> Result<Option<T>, FrameError> {
    let Some((head, rest)) = buffer.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_le_bytes(*head) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let (value, trailing) = postcard::take_from_bytes(body).map_err(|_| FrameError::Malformed)?;
    if !trailing.is_empty() {
        return Err(FrameError::Trailing(trailing.len()));
    }
    buffer.advance(LENGTH_BYTES + length);
    Ok(Some(value))
}

/// `BytesMut` as the sink postcard wants; its own adapter for `Extend` would copy byte by byte.
struct Tail<'a>(&'a mut BytesMut);

impl Flavor for Tail<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.put_u8(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.put_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}
