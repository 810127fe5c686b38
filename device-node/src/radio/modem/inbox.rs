//! Where received TPDUs are until the outbox has them, and what they become.
//!
//! A TPDU stays in the modem's storage, or in the spool when it was delivered directly, until the outbox has said that the
//! whole message is durable. Pure but for the identity of the spool: reading, deleting and acknowledging are the session's.

use std::collections::HashMap;

use flotilla_protocol::codes::undelivered;
use flotilla_protocol::sms::tpdu::{Deliver, Incoming, StatusOutcome, StatusReport};
use flotilla_protocol::sms::{Event, Joined, Limits, Reassembler};

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

#[cfg(test)]
mod tests {
    use flotilla_protocol::address::Address;
    use flotilla_protocol::sms::tpdu::{DataCoding, Status, Timestamp};
    use flotilla_protocol::sms::{EncodeOptions, plan, segments};
    use proptest::prelude::*;

    use super::*;

    const NOW: Now = Now { boot_ms: 1000, unix_ms: 1_767_000_000_000 };

    fn deliver(text: &str) -> Vec<Deliver> {
        let plan = plan(text, &EncodeOptions::default()).unwrap();
        let deliver = |segment: flotilla_protocol::sms::Segment| Deliver {
            more_messages: false,
            loop_prevention: false,
            reply_path: false,
            status_report: false,
            from: Address::Alphanumeric("Benki".to_owned()),
            protocol_id: 0,
            coding: DataCoding::new(segment.encoding, None),
            sent: Some(Timestamp::utc(NOW.unix_ms)),
            user_data: segment.into(),
        };
        segments(text, &plan, 7).into_iter().map(deliver).collect()
    }

    fn place(index: u16) -> Source {
        Source::Stored { memory: "SM".to_owned(), index }
    }

    fn inbound(taken: &Taken) -> Option<(&str, u64)> {
        taken.events.iter().find_map(|event| match event {
            RadioEvent::Inbound { text, token, .. } => Some((text.as_str(), *token)),
            _ => None,
        })
    }

    #[test]
    fn flash_and_kept_waiting_messages_are_delivered_and_silent_ones_are_not() {
        // Class 0; voicemail, store; voicemail, discard. All of them in GSM-7.
        for (dcs, protocol_id, is_told) in [(0x10, 0, true), (0xd8, 0, true), (0xc8, 0, false), (0x00, TYPE_0, false)] {
            let mut inbox = Inbox::new(0, 1000);
            let message = Deliver { coding: DataCoding(dcs), protocol_id, ..deliver("Piga 100").remove(0) };
            let taken = inbox.take(&message.encode().unwrap(), place(1), NOW);
            assert_eq!(inbound(&taken).map(|(text, _)| text), is_told.then_some("Piga 100"), "{dcs:#x}");
            assert_eq!(taken.forget.is_empty(), is_told, "{dcs:#x}");
        }
    }

    #[test]
    fn parts_go_only_when_the_whole_is_stored() {
        let mut inbox = Inbox::new(0, 1000);
        let parts: Vec<_> = deliver(&"Ndiyo, Şimdi ".repeat(20)).iter().map(|part| part.encode().unwrap()).collect();
        let (last, first) = parts.split_last().unwrap();
        for (index, part) in (1..).zip(first) {
            assert!(inbound(&inbox.take(part, place(index), NOW)).is_none());
        }
        assert_eq!(inbox.waiting_in_storage().len(), first.len());
        // The network repeats the first part: the copy goes, the part stays.
        assert_eq!(inbox.take(&first[0], place(90), NOW).forget, [place(90)]);
        // A sweep that finds a known place changes nothing.
        assert!(inbox.take(&first[0], place(1), NOW).forget.is_empty());
        let taken = inbox.take(last, place(99), NOW);
        let (_, token) = inbound(&taken).unwrap();
        assert!(inbox.waiting_in_storage().is_empty());
        let mut gone = inbox.stored(token);
        gone.sort_by_key(|source| matches!(source, Source::Stored { index: 99, .. }));
        assert_eq!(gone.len(), parts.len());
        assert_eq!(gone.last(), Some(&place(99)));
        assert!(inbox.stored(token).is_empty());
        assert!(!inbox.holds(&place(1)));
    }

    #[test]
    fn reports_of_temporary_states_are_forgotten_at_once() {
        let report = |status| StatusReport {
            more_messages: false,
            loop_prevention: false,
            about_command: false,
            message_reference: 9,
            to: Address::Short("100".to_owned()),
            sent: None,
            discharged: None,
            status: Status(status),
        };
        let mut inbox = Inbox::new(0, 1000);
        let pending = inbox.take(&report(0x21).encode().unwrap(), place(1), NOW);
        assert_eq!((pending.events.len(), pending.forget), (0, vec![place(1)]));
        let done = inbox.take(&report(0).encode().unwrap(), place(2), NOW);
        let [RadioEvent::StatusReport { delivery: Delivery::Delivered, token, .. }] = done.events.as_slice() else {
            panic!("{done:?}")
        };
        assert_eq!(inbox.stored(*token), [place(2)]);
    }

    proptest! {
        /// Whatever comes: each TPDU is told, held, forgotten or unreadable, and everything told can be let go.
        #[test]
        fn nothing_is_lost_track_of(tpdus in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..30)) {
            let mut inbox = Inbox::new(0, 1000);
            let mut tokens = Vec::new();
            for (index, tpdu) in (0..).zip(&tpdus) {
                let taken = inbox.take(tpdu, place(index), NOW);
                let is_forgotten = taken.forget.contains(&place(index));
                prop_assert!(taken.unreadable || is_forgotten || inbox.holds(&place(index)));
                tokens.extend(taken.events);
            }
            tokens.extend(inbox.expire(Now { boot_ms: 10_000, ..NOW }));
            for event in tokens {
                if let RadioEvent::Inbound { token, .. } | RadioEvent::StatusReport { token, .. } = event {
                    prop_assert!(!inbox.stored(token).is_empty());
                }
            }
            prop_assert!(inbox.places.is_empty());
        }
    }
}
