//! Where received TPDUs are until the outbox has them, and what they become.
//!
//! A TPDU stays in the modem's storage, or in the spool when it was delivered directly, until the outbox has said that the
//! whole message is durable. Pure but for the identity of the spool: reading, deleting and acknowledging are the session's.

use std::collections::HashMap;

use flotilla_protocol::sms::tpdu::{Deliver, Incoming, StatusOutcome, StatusReport};
use flotilla_protocol::sms::{Event, Joined, Limits, Reassembler};

use super::errors::undelivered;
use crate::clock::Now;
use crate::radio::{Delivery, RadioEvent, ReportKey};

/// Messages whose parts are waited for. More than any storage holds.
const MESSAGES_MAX: usize = 256;
/// A frame carries it with room to spare; 255 parts would make more.
const TEXT_BYTES_MAX: usize = 32 * 1024;
/// TP-PID of a *short message type 0*: acknowledged, and of no other use (3GPP TS 23.040 9.2.3.9).
const TYPE_0: u8 = 0x40;

/// Where a TPDU lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    Spool(u64),
    /// In a storage of the modem, such as `SM`.
    Stored {
        memory: String,
        index: u16,
    },
}

/// What a TPDU has led to.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) events: Vec<RadioEvent>,
    /// Of no more use.
    pub(super) forget: Vec<Source>,
    /// It could not be read, and is still where it was.
    pub(super) unreadable: bool,
}

#[derive(Debug)]
struct Place {
    source: Source,
    tpdu: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Inbox {
    slot: u8,
    parts: Reassembler<u64>,
    parts_age_max_ms: u64,
    /// Every TPDU that is held, by the tag it has in `parts` and in `tokens`.
    places: HashMap<u64, Place>,
    /// What the outbox will name in `stored`.
    tokens: HashMap<u64, Vec<u64>>,
    /// Tags and tokens.
    last: u64,
}

impl Inbox {
    /// `parts_age_max_ms`: an incomplete message is delivered as it is after so long.
    pub(super) fn new(slot: u8, parts_age_max_ms: u64) -> Self {
        let (places, tokens) = (HashMap::new(), HashMap::new());
        Self { slot, parts: reassembler(parts_age_max_ms), parts_age_max_ms, places, tokens, last: 0 }
    }

    /// Forgets everything: after the modem was away its storage may be another SIM's. What is still there is read again,
    /// and known to the outbox by its digest. Tokens are never reused.
    pub(super) fn restart(&mut self) {
        self.parts = reassembler(self.parts_age_max_ms);
        self.places.clear();
        self.tokens.clear();
    }

    pub(super) fn holds(&self, source: &Source) -> bool {
        self.places.values().any(|place| place.source == *source)
    }

    /// Takes a TPDU that lies at `source`.
    pub(super) fn take(&mut self, tpdu: &[u8], source: Source, now: Now) -> Taken {
        if self.holds(&source) {
            return Taken::default();
        }
        match Incoming::decode(tpdu) {
            Ok(Incoming::StatusReport(report)) => self.report(&report, tpdu, source),
            Ok(Incoming::Deliver(deliver)) => self.deliver(deliver, tpdu, source, now),
            // A message that somebody has written and stored.
            Ok(Incoming::SubmitReport(_)) | Err(_) => Taken { unreadable: true, ..Taken::default() },
        }
    }

    /// The event with this token is durable: what it was made of can go.
    pub(super) fn stored(&mut self, token: u64) -> Vec<Source> {
        let tags = self.tokens.remove(&token).unwrap_or_default();
        tags.iter().filter_map(|tag| self.places.remove(tag)).map(|place| place.source).collect()
    }

    /// Messages whose other parts have not come in time, as far as they go.
    pub(super) fn expire(&mut self, now: Now) -> Vec<RadioEvent> {
        let expired = self.parts.expire(now.boot_ms);
        expired.into_iter().map(|joined| self.inbound(&joined)).collect()
    }

    /// On `Now::boot_ms`.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.parts.next_deadline()
    }

    /// The TPDUs in the modem's storage that no token stands for yet: parts of incomplete messages.
    pub(super) fn waiting_in_storage(&self) -> Vec<(u64, Source, Vec<u8>)> {
        let told = |tag: &u64| self.tokens.values().any(|tags| tags.contains(tag));
        let waiting =
            self.places.iter().filter(|(tag, place)| matches!(place.source, Source::Stored { .. }) && !told(tag));
        waiting.map(|(tag, place)| (*tag, place.source.clone(), place.tpdu.clone())).collect()
    }

    /// The TPDU now lies elsewhere.
    pub(super) fn moved(&mut self, tag: u64, source: Source) {
        if let Some(place) = self.places.get_mut(&tag) {
            place.source = source;
        }
    }

    fn report(&mut self, report: &StatusReport, tpdu: &[u8], source: Source) -> Taken {
        let delivery = match report.status.outcome() {
            _ if report.about_command => None,
            StatusOutcome::Pending => None,
            StatusOutcome::Delivered => Some(Delivery::Delivered),
            StatusOutcome::PermanentFailure | StatusOutcome::TemporaryFailureNoRetry => {
                Some(Delivery::Undelivered(undelivered(report.status)))
            }
        };
        let Some(delivery) = delivery else { return Taken { forget: vec![source], ..Taken::default() } };
        let tag = self.keep(tpdu, source);
        let token = self.token(vec![tag]);
        let key = ReportKey::Reference { to: report.to.clone(), reference: report.message_reference };
        let event = RadioEvent::StatusReport { slot: self.slot, key, delivery, token };
        Taken { events: vec![event], ..Taken::default() }
    }

    fn deliver(&mut self, deliver: Deliver, tpdu: &[u8], source: Source, now: Now) -> Taken {
        let discarded = deliver.coding.waiting().is_some_and(|waiting| !waiting.store);
        if deliver.protocol_id == TYPE_0 || discarded {
            return Taken { forget: vec![source], ..Taken::default() };
        }
        let Ok(content) = deliver.content() else { return Taken { unreadable: true, ..Taken::default() } };
        let tag = self.keep(tpdu, source);
        let sent_ms = deliver.sent.map(|sent| sent.unix_ms);
        let mut taken = Taken::default();
        for event in self.parts.push(deliver.from, content, sent_ms, tag, now.boot_ms) {
            match event {
                Event::Message(joined) => taken.events.push(self.inbound(&joined)),
                Event::Repeated(tag) => taken.forget.extend(self.places.remove(&tag).map(|place| place.source)),
            }
        }
        taken
    }

    fn inbound(&mut self, joined: &Joined<u64>) -> RadioEvent {
        let mut text = joined.text();
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        RadioEvent::Inbound {
            slot: self.slot,
            from: joined.from.clone(),
            text,
            segments: joined.segments,
            sent_ms: joined.sent_ms,
            digest: joined.digest,
            token: self.token(joined.tags.clone()),
        }
    }

    fn keep(&mut self, tpdu: &[u8], source: Source) -> u64 {
        self.last += 1;
        self.places.insert(self.last, Place { source, tpdu: tpdu.to_vec() });
        self.last
    }

    fn token(&mut self, tags: Vec<u64>) -> u64 {
        self.last += 1;
        self.tokens.insert(self.last, tags);
        self.last
    }
}

fn reassembler(age_max_ms: u64) -> Reassembler<u64> {
    Reassembler::new(Limits { messages_max: MESSAGES_MAX, age_max_ms })
}
