//! The bytes of events and records on disk, the same for every engine: a version byte, then postcard.
//!
//! A version never changes its meaning: what was written under it is read by frozen copies of the types of that time
//! (`first`), and what is written now by the domain's own. The golden bytes in the tests are what earlier programs have
//! written.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::StoreError;
use crate::domain::event::{Event, Inbound};
use crate::domain::record::MessageRecord;

mod first;

/// Postcard as it is, and in one LZ4 block behind its length (u32, little endian): the types of `first`.
const FIRST_PLAIN: u8 = 1;
const FIRST_LZ4: u8 = 2;
/// The same, with the types of the domain: events and records with routes of providers, charges and reasons.
const PLAIN: u8 = 3;
const LZ4: u8 = 4;
/// Inbound messages have had one form only.
const INBOUND: u8 = 1;

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
    let (version, body) = split(what, payload)?;
    match version {
        PLAIN => Ok(postcard_exact::<Vec<Event>>(what, body)?.into()),
        LZ4 => Ok(postcard_exact::<Vec<Event>>(what, &unpack(what, body)?)?.into()),
        FIRST_PLAIN => Ok(first_events(postcard_exact(what, body)?)),
        FIRST_LZ4 => Ok(first_events(postcard_exact(what, &unpack(what, body)?)?)),
        other => Err(unknown(what, other)),
    }
}

fn first_events(events: Vec<first::Event>) -> Arc<[Event]> {
    events.into_iter().map(Event::from).collect()
}

fn unpack(what: &str, body: &[u8]) -> Result<Vec<u8>, StoreError> {
    let (len, block) = body.split_first_chunk().ok_or_else(|| damaged(what, "it is cut off"))?;
    let len = u32::from_le_bytes(*len) as usize;
    if len > UNPACKED_MAX {
        return Err(damaged(what, "it claims to be larger than any batch"));
    }
    lz4_flex::block::decompress(block, len).map_err(|error| damaged(what, error))
}

pub(crate) fn encode_record(record: &MessageRecord) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(record, start(PLAIN, 512))
}

pub(crate) fn decode_record(bytes: &[u8]) -> Result<MessageRecord, StoreError> {
    let what = "a message row";
    match split(what, bytes)? {
        (PLAIN, body) => postcard_exact(what, body),
        (FIRST_PLAIN, body) => Ok(postcard_exact::<first::MessageRecord>(what, body)?.into()),
        (other, _) => Err(unknown(what, other)),
    }
}

pub(crate) fn encode_inbound(inbound: &Inbound) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(inbound, start(INBOUND, 256))
}

pub(crate) fn decode_inbound(bytes: &[u8]) -> Result<Inbound, StoreError> {
    let what = "an inbound row";
    match split(what, bytes)? {
        (INBOUND, body) => postcard_exact(what, body),
        (other, _) => Err(unknown(what, other)),
    }
}

fn start(version: u8, room: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(room);
    bytes.push(version);
    bytes
}

fn split<'a>(what: &str, bytes: &'a [u8]) -> Result<(u8, &'a [u8]), StoreError> {
    bytes.split_first().map(|(version, body)| (*version, body)).ok_or_else(|| damaged(what, "it is empty"))
}

fn unknown(what: &str, version: u8) -> StoreError {
    damaged(what, format!("its format {version} is unknown; it needs a newer program"))
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
