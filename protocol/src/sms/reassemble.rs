//! Joins the segments of inbound messages, in whatever order and however often they come.
//!
//! What is held is bounded by count and age. Each segment carries a tag of the caller's, such as its place in the modem's
//! memory, and every tag comes back exactly once: with its message, or as a repetition.

use std::collections::HashMap;

use super::gsm7::Language;
use super::segment::{Content, Payload};
use super::udh::Concatenation;
use crate::address::Address;

/// Bounds of a [`Reassembler`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages held at once, complete ones included that are only remembered to recognise repetitions.
    pub messages_max: usize,
    /// How long a message may wait for its other segments, and how long a complete one is remembered.
    pub age_max_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { messages_max: 256, age_max_ms: 24 * 3_600_000 }
    }
}

/// A message, or what has come of it when `missing` is not 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined<T> {
    pub from: Address,
    /// Number of segments the sender made.
    pub segments: u8,
    pub missing: u8,
    /// The earliest time stamp of the segments, Unix milliseconds.
    pub sent_ms: Option<u64>,
    /// The same for the same segments, in every process and version.
    pub digest: u64,
    /// Of the segments that came, in their order.
    pub tags: Vec<T>,
    parts: Vec<(u8, Content)>,
}

impl<T> Joined<T> {
    /// The text; an ellipsis stands for missing segments.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut run: Option<(&Content, Payload)> = None;
        let mut next = 1;
        for (number, content) in &self.parts {
            let gap = *number != next;
            next = number.saturating_add(1);
            if !gap
                && let Some((first, payload)) = &mut run
                && first.udh.shift == content.udh.shift
                && payload.append(&content.payload)
            {
                continue;
            }
            if let Some((first, payload)) = run.take() {
                text += &payload.text(first.udh.shift);
            }
            if gap {
                text.push('…');
            }
            run = Some((content, content.payload.clone()));
        }
        if let Some((first, payload)) = run {
            text += &payload.text(first.udh.shift);
        }
        if next <= self.segments && next != 0 {
            text.push('…');
        }
        text
    }

    /// The first segment that came, for its ports and its kind.
    pub fn first(&self) -> Option<&Content> {
        self.parts.first().map(|(_, content)| content)
    }
}

/// What a segment leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// A message is complete, or was given up because another took its place.
    Message(Joined<T>),
    /// This segment was there before; its tag is not needed.
    Repeated(T),
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Reassembler<T> {
    limits: Limits,
    entries: HashMap<Key, Entry<T>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    from: Address,
    reference: u16,
    wide: bool,
    total: u8,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    started_ms: u64,
    /// Number and fingerprint of each segment that came.
    seen: Vec<(u8, u64)>,
    /// Empty once the message is complete.
    parts: Vec<Part<T>>,
}

#[derive(Clone, Debug)]
struct Part<T> {
    number: u8,
    content: Content,
    sent_ms: Option<u64>,
    fingerprint: u64,
    tag: T,
}

impl<T> Reassembler<T> {
    pub fn new(limits: Limits) -> Self {
        Self { limits: Limits { messages_max: limits.messages_max.max(1), ..limits }, entries: HashMap::new() }
    }

    /// Messages held or remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes a segment. `sent_ms` is its time stamp (TP-SCTS), `now_ms` any clock that goes forward.
    ///
    /// A segment whose place is taken by another one, or by itself with another time stamp, begins a new message: some senders
    /// use the same reference always.
    pub fn push(
        &mut self,
        from: Address,
        content: Content,
        sent_ms: Option<u64>,
        tag: T,
        now_ms: u64,
    ) -> Vec<Event<T>> {
        let fingerprint = fingerprint(&content, sent_ms);
        let concatenation = content.udh.concatenation.filter(|concatenation| concatenation.total > 1);
        let number = concatenation.map_or(1, |concatenation| concatenation.number);
        let part = Part { number, content, sent_ms, fingerprint, tag };
        let Some(Concatenation { reference, wide, total, .. }) = concatenation else {
            return vec![Event::Message(join(from, 1, vec![part]))];
        };
        let key = Key { from, reference, wide, total };
        let mut events = Vec::new();
        if let Some(entry) = self.entries.get(&key) {
            match entry.seen.iter().find(|(seen, _)| *seen == number) {
                Some((_, seen)) if *seen == fingerprint => return vec![Event::Repeated(part.tag)],
                Some(_) => events.extend(self.give_up(&key).map(Event::Message)),
                // A complete message has seen all its numbers.
                None => {}
            }
        }
        if !self.entries.contains_key(&key) && self.entries.len() >= self.limits.messages_max {
            events.extend(self.give_up_oldest().map(Event::Message));
        }
        let fresh = || Entry { started_ms: now_ms, seen: Vec::new(), parts: Vec::new() };
        let entry = self.entries.entry(key.clone()).or_insert_with(fresh);
        entry.seen.push((number, fingerprint));
        entry.parts.push(part);
        if entry.parts.len() == usize::from(total) {
            let parts = std::mem::take(&mut entry.parts);
            events.push(Event::Message(join(key.from, total, parts)));
        }
        events
    }

    /// Gives up what is older than the limit.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Joined<T>> {
        let age_max_ms = self.limits.age_max_ms;
        let old = self.entries.iter().filter(|(_, entry)| now_ms.saturating_sub(entry.started_ms) > age_max_ms);
        let old: Vec<Key> = old.map(|(key, _)| key.clone()).collect();
        old.iter().filter_map(|key| self.give_up(key)).collect()
    }

    /// When [`Reassembler::expire`] has something to do next.
    pub fn next_deadline(&self) -> Option<u64> {
        let oldest = self.entries.values().map(|entry| entry.started_ms).min()?;
        Some(oldest.saturating_add(self.limits.age_max_ms).saturating_add(1))
    }

    fn give_up(&mut self, key: &Key) -> Option<Joined<T>> {
        let entry = self.entries.remove(key)?;
        (!entry.parts.is_empty()).then(|| join(key.from.clone(), key.total, entry.parts))
    }

    /// Makes room: a complete message that is only remembered goes first.
    fn give_up_oldest(&mut self) -> Option<Joined<T>> {
        let oldest = self.entries.iter().min_by_key(|(_, entry)| (!entry.parts.is_empty(), entry.started_ms));
        let key = oldest.map(|(key, _)| key.clone())?;
        self.give_up(&key)
    }
}

impl<T> Default for Reassembler<T> {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

fn join<T>(from: Address, segments: u8, mut parts: Vec<Part<T>>) -> Joined<T> {
    parts.sort_unstable_by_key(|part| part.number);
    let mut digest = Digest::default();
    digest.write(from.to_string().as_bytes());
    digest.write(&[segments]);
    let mut joined = Joined {
        from,
        segments,
        missing: segments - parts.len().min(usize::from(segments)) as u8,
        sent_ms: parts.iter().filter_map(|part| part.sent_ms).min(),
        digest: 0,
        tags: Vec::with_capacity(parts.len()),
        parts: Vec::with_capacity(parts.len()),
    };
    for part in parts {
        digest.write(&[part.number]);
        digest.write(&part.fingerprint.to_be_bytes());
        joined.tags.push(part.tag);
        joined.parts.push((part.number, part.content));
    }
    joined.digest = digest.0;
    joined
}

fn fingerprint(content: &Content, sent_ms: Option<u64>) -> u64 {
    let mut digest = Digest::default();
    digest.write(&sent_ms.unwrap_or_default().to_be_bytes());
    let (locking, single) = (content.udh.shift.locking, content.udh.shift.single);
    digest.write(&[locking, single].map(|language| language.map_or(0, Language::identifier)));
    match &content.payload {
        Payload::Septets(septets) => {
            digest.write(b"7");
            digest.write(septets);
        }
        Payload::Utf16(units) => {
            digest.write(b"16");
            units.iter().for_each(|unit| digest.write(&unit.to_be_bytes()));
        }
        Payload::Octets(octets) => {
            digest.write(b"8");
            digest.write(octets);
        }
    }
    digest.0
}

/// FNV-1a. Digests are compared with those of other processes and versions, which the standard library's hashes do not allow.
struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests;
