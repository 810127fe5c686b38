//! The bytes of events and records on disk, the same for every engine: a version byte, then postcard.
//!
//! A version never changes its meaning. The golden bytes in the tests are what earlier programs have written.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::StoreError;
use crate::domain::event::{Event, Inbound};
use crate::domain::record::MessageRecord;

/// Postcard as it is.
const PLAIN: u8 = 1;
/// Postcard in one LZ4 block behind its length (u32, little endian).
const LZ4: u8 = 2;

/// Batches above this many bytes are compressed: LZ4 takes templated texts to a quarter for 0.05 us per event, which is less than
/// writing the bytes costs. Below, what is saved does not fill a page.
const COMPRESS_ABOVE: usize = 2_048;
/// Most bytes that a payload may claim to have when it is unpacked.
const UNPACKED_MAX: usize = super::BATCH_BYTES_MAX;

pub(crate) fn encode_events(events: &[Event]) -> Result<Vec<u8>, postcard::Error> {
    let room = 1 + events.len() * 192;
    let plain = postcard::to_extend(events, start(PLAIN, room))?;
    if plain.len() <= COMPRESS_ABOVE {
        return Ok(plain);
    }
    let body = &plain[1..];
    let mut packed = vec![0; 5 + lz4_flex::block::get_maximum_output_size(body.len())];
    match lz4_flex::block::compress_into(body, &mut packed[5..]) {
        Ok(len) if len + 5 < plain.len() => {
            packed[0] = LZ4;
            packed[1..5].copy_from_slice(&(body.len() as u32).to_le_bytes());
            packed.truncate(5 + len);
            Ok(packed)
        }
        _ => Ok(plain),
    }
}

pub(crate) fn decode_events(payload: &[u8]) -> Result<Arc<[Event]>, StoreError> {
    let what = "a journal batch";
    let events: Vec<Event> = match payload.split_first() {
        Some((&LZ4, rest)) => {
            let (len, block) = rest.split_first_chunk().ok_or_else(|| damaged(what, "it is cut off"))?;
            let len = u32::from_le_bytes(*len) as usize;
            if len > UNPACKED_MAX {
                return Err(damaged(what, "it claims to be larger than any batch"));
            }
            let plain = lz4_flex::block::decompress(block, len).map_err(|error| damaged(what, error))?;
            postcard_exact(what, &plain)?
        }
        _ => decode(what, payload)?,
    };
    Ok(events.into())
}

pub(crate) fn encode_record(record: &MessageRecord) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(record, start(PLAIN, 512))
}

pub(crate) fn decode_record(bytes: &[u8]) -> Result<MessageRecord, StoreError> {
    decode("a message row", bytes)
}

pub(crate) fn encode_inbound(inbound: &Inbound) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(inbound, start(PLAIN, 256))
}

pub(crate) fn decode_inbound(bytes: &[u8]) -> Result<Inbound, StoreError> {
    decode("an inbound row", bytes)
}

fn start(version: u8, room: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(room);
    bytes.push(version);
    bytes
}

fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&PLAIN, body)) => postcard_exact(what, body),
        Some((version, _)) => Err(damaged(what, format!("its format {version} is unknown; it needs a newer program"))),
        None => Err(damaged(what, "it is empty")),
    }
}

fn postcard_exact<T: DeserializeOwned>(what: &str, body: &[u8]) -> Result<T, StoreError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(damaged(what, format!("{} bytes are left over", rest.len()))),
        Err(error) => Err(damaged(what, error)),
    }
}

fn damaged(what: &str, detail: impl ToString) -> StoreError {
    StoreError::Damaged { what: what.to_owned(), detail: detail.to_string() }
}

#[cfg(test)]
mod tests;
