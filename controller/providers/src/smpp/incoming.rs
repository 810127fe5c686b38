//! What a deliver_sm brings: a receipt, a message, or a segment of one. Pure; time is an argument.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use flotilla_protocol::address::Address;
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::sms::{self, Concatenation, Content, Joined, Limits, Payload, Reassembler, Udh};

use super::ids::{Candidate, Keys, Numbers, Tail};
use super::pdu::{Deliver, PduAddress};
use super::receipt;
use super::settings::{Alphabet, Settings};
use crate::maker::{Inbound, Receipt};

/// Messages whose segments are waited for, and for how long. The segments that came have been answered: an SMSC that waits for
/// each answer before it sends the next would never send the rest.
const LIMITS: Limits = Limits { messages_max: 1_000, age_max_ms: 10 * 60_000 };
/// Messages whose answer may not have reached the SMSC, so that they may come again.
const UNSETTLED_MAX: usize = 512;
const UNSETTLED_MS: u64 = 10 * 60_000;
/// An answer that was given less than this before the end of a link may not have arrived.
const DOUBTFUL_MS: u64 = 10_000;

const USER_DATA_HEADER: u8 = 0x40;

/// Keys of messages, shared between who submits and who receives.
pub(crate) type SharedKeys = Arc<Mutex<Keys>>;

#[derive(Debug, PartialEq)]
pub(crate) enum Incoming {
    Receipt {
        receipt: Receipt,
        ids: Vec<Candidate>,
    },
    Message(Inbound),
    /// Nothing to tell yet, or nothing new.
    Nothing,
    /// A receipt that names no message or no state.
    Unreadable,
}

/// What is needed to know a segment again.
type SegmentsOf = (Box<str>, u16, u8);

struct Unsettled {
    digest: u64,
    segments_of: Option<SegmentsOf>,
    inbound: Inbound,
    since_ms: u64,
    answered_ms: Option<u64>,
}

/// See the module's text.
pub(crate) struct Receiver {
    settings: Arc<Settings>,
    keys: SharedKeys,
    segments: Reassembler<Box<str>>,
    unsettled: VecDeque<Unsettled>,
    /// Makes ids unique: the same text may be sent twice on purpose.
    counter: u64,
}

impl Receiver {
    pub(crate) fn new(settings: Arc<Settings>, keys: SharedKeys, seed: u64) -> Self {
        Self { settings, keys, segments: Reassembler::new(LIMITS), unsettled: VecDeque::new(), counter: seed }
    }

    pub(crate) fn take(&mut self, deliver: &Deliver, now_ms: u64) -> Incoming {
        if receipt::is_receipt(deliver, self.settings.unmarked_receipts) {
            return self.receipt(deliver);
        }
        self.unsettled.retain(|entry| now_ms.saturating_sub(entry.since_ms) <= UNSETTLED_MS);
        let content = content(deliver, self.settings.alphabet);
        let concatenation = content.udh.concatenation.filter(|concatenation| concatenation.total > 1);
        let from = shown(&deliver.source);
        let segments_of =
            concatenation.map(|concatenation| (from.clone(), concatenation.reference, concatenation.total));
        let events = self.segments.push(sender(&deliver.source), content, None, shown(&deliver.dest), now_ms);
        let mut incoming = Incoming::Nothing;
        for event in events {
            match event {
                sms::Event::Message(joined) => {
                    incoming = Incoming::Message(self.name(&joined, from.clone(), segments_of.clone(), now_ms));
                }
                // The last segment again: its message was not kept, or its answer was lost.
                sms::Event::Repeated(_) => {
                    let known = self.unsettled.iter().find(|entry| entry.segments_of == segments_of);
                    incoming = known.map_or(Incoming::Nothing, |entry| Incoming::Message(entry.inbound.clone()));
                }
            }
        }
        incoming
    }

    /// Messages whose segments did not all come in time.
    pub(crate) fn expire(&mut self, now_ms: u64) -> Vec<Inbound> {
        let expired = self.segments.expire(now_ms);
        expired.iter().map(|joined| self.name(joined, joined.from.to_string().into(), None, now_ms)).collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.segments.next_deadline()
    }

    /// A message was answered: kept, or to be sent again.
    pub(crate) fn answered(&mut self, id: &str, kept: bool, now_ms: u64) {
        if let Some(entry) = self.unsettled.iter_mut().find(|entry| &*entry.inbound.id == id) {
            entry.answered_ms = kept.then_some(now_ms);
        }
        self.unsettled.retain(|entry| entry.answered_ms.is_none_or(|at_ms| now_ms.saturating_sub(at_ms) < DOUBTFUL_MS));
    }

    /// The link has ended: what was answered just before may come again.
    pub(crate) fn link_lost(&mut self, now_ms: u64) {
        self.unsettled.retain_mut(|entry| match entry.answered_ms.take() {
            Some(at_ms) => now_ms.saturating_sub(at_ms) < DOUBTFUL_MS,
            None => true,
        });
    }

    fn receipt(&self, deliver: &Deliver) -> Incoming {
        let Some(report) = receipt::read(deliver, &self.settings.receipt_zone) else { return Incoming::Unreadable };
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let (source, dest) = (Tail::read(&deliver.source.digits), Tail::read(&deliver.dest.digits));
        let (parameter, text) = (report.parameter_id.as_deref(), report.text_id.as_deref());
        if parameter.or(text).is_none() {
            return Incoming::Unreadable;
        }
        let ids = keys.of_receipt(parameter, text, Numbers { source, dest });
        let receipt = Receipt {
            reference: None,
            id: ids.first().map(|one| one.key.clone()),
            segment: None,
            state: report.state,
            at_ms: report.at_ms,
            price: None,
        };
        Incoming::Receipt { receipt, ids }
    }

    /// Gives a message its id: that of the same message which was not settled, or a new one.
    fn name(
        &mut self,
        joined: &Joined<Box<str>>,
        from: Box<str>,
        segments_of: Option<SegmentsOf>,
        now_ms: u64,
    ) -> Inbound {
        let doubtful = |entry: &&Unsettled| entry.answered_ms.is_none() && entry.digest == joined.digest;
        if let Some(entry) = self.unsettled.iter().find(doubtful) {
            return entry.inbound.clone();
        }
        self.counter = self.counter.wrapping_add(1);
        let inbound = Inbound {
            id: format!("{:016x}-{:x}", joined.digest, self.counter).into(),
            from,
            to: joined.tags.first().cloned().unwrap_or_default(),
            text: joined.text().into(),
            at_ms: None,
        };
        if self.unsettled.len() >= UNSETTLED_MAX {
            self.unsettled.pop_front();
        }
        self.unsettled.push_back(Unsettled {
            digest: joined.digest,
            segments_of,
            inbound: inbound.clone(),
            since_ms: now_ms,
            answered_ms: None,
        });
        inbound
    }
}

/// Opens the octets of a message by its data coding (v3.4 section 5.2.19; the groups of 3GPP TS 23.038 above 0x0f).
fn content(deliver: &Deliver, alphabet: Alphabet) -> Content {
    let header = deliver.esm_class & USER_DATA_HEADER != 0;
    let (mut udh, octets) = match Udh::decode(&deliver.message).filter(|_| header) {
        Some((udh, octets)) => (udh, deliver.message.get(octets..).unwrap_or_default()),
        None => (Udh::default(), deliver.message.as_slice()),
    };
    if let Some((reference, total, number)) = deliver.sar {
        udh.concatenation = Some(Concatenation { reference, wide: true, total, number });
    }
    let latin1 = || Payload::Utf16(octets.iter().map(|octet| u16::from(*octet)).collect());
    let utf16 = || Payload::Utf16(octets.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect());
    let payload = match (deliver.data_coding, alphabet) {
        (0x00 | 0x10..=0x13, Alphabet::Gsm7) | (0xf0..=0xf3 | 0xc0..=0xdf, _) => Payload::Septets(octets.to_vec()),
        (0x00 | 0x10..=0x13, Alphabet::Latin1 | Alphabet::Ascii) | (0x01 | 0x03, _) => latin1(),
        (0x08 | 0x18..=0x1b | 0xe0..=0xef, _) => utf16(),
        _ => Payload::Octets(octets.to_vec()),
    };
    Content { udh, payload }
}

/// As people write it: an international number with its plus.
fn shown(address: &PduAddress) -> Box<str> {
    let international = address.ton == 1 && address.digits.bytes().all(|byte| byte.is_ascii_digit());
    if international && !address.digits.is_empty() {
        return format!("+{}", address.digits).into();
    }
    address.digits.as_str().into()
}

/// For telling senders apart.
fn sender(address: &PduAddress) -> Address {
    let number = address.digits.parse().ok().filter(|_| address.ton == 1).and_then(|n| Msisdn::from_u64(n).ok());
    match number {
        Some(number) => Address::International(number),
        None if address.ton == 5 => Address::Alphanumeric(address.digits.clone()),
        None => Address::Short(address.digits.clone()),
    }
}

#[cfg(test)]
mod tests;
