//! Rules, compiled once when a tenant's settings change: which plan a message follows.
//!
//! Rules are tried in order, and the first whose conditions all hold counts. Beginnings of numbers are a sorted table, a
//! pattern over the text is compiled with bounds on its size, and a share of messages is drawn by their ids, so the same
//! message always gets the same answer.

use std::cmp::Ordering;

use flotilla_protocol::number::{Msisdn, Region};
use jiff::tz::TimeZone;
use regex::{Regex, RegexBuilder};
use serde::Serialize;
use utoipa::ToSchema;

use crate::choice::{Classify, sender_hash};
use crate::opening::Hours;
use crate::route::Priority;
use crate::seed;
use crate::settings::{Conditions, Rule};

/// Bytes of a compiled pattern, and of the table that is built while it runs.
const PATTERN_BYTES: usize = 256 * 1024;
/// Groups within groups.
const PATTERN_DEPTH: u32 = 50;

/// A condition of a rule that a message does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unmet {
    Prefix,
    Country,
    Sender,
    Text,
    Priority,
    Tag,
    Time,
    /// It is not in the share of messages that the rule takes.
    Share,
}

#[derive(Debug)]
pub(crate) struct Compiled {
    name: Box<str>,
    prefixes: Option<Prefixes>,
    countries: Box<[Region]>,
    senders: Box<[u64]>,
    text: Option<Pattern>,
    /// One bit for each class; 0 for all.
    priorities: u8,
    tags: Box<[Box<str>]>,
    times: Hours,
    share_percent: Option<u8>,
}

/// A pattern that cannot be compiled holds for no text: `check` refuses it before it comes here.
#[derive(Debug)]
struct Pattern(Option<Regex>);

/// Compiles a pattern as rules do.
pub(crate) fn pattern(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text).size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES).nest_limit(PATTERN_DEPTH).build()
}

impl Compiled {
    pub(crate) fn new(rule: &Rule, zone: &TimeZone) -> Self {
        let Conditions { prefixes, countries, senders, text, priorities, tags, times } = &rule.when;
        Self {
            name: rule.name.clone(),
            prefixes: (!prefixes.is_empty()).then(|| Prefixes::new(prefixes)),
            countries: countries.iter().filter_map(|country| Region::parse(country).ok()).collect(),
            senders: senders.iter().map(|sender| sender_hash(sender)).collect(),
            text: text.as_deref().map(|text| Pattern(pattern(text).ok())),
            priorities: priorities.iter().fold(0, |bits, class| bits | bit(*class)),
            tags: tags.clone().into_boxed_slice(),
            times: Hours::new(times, zone),
            share_percent: rule.share_percent,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The first condition that does not hold; none when the rule fits. The cheap ones are asked first.
    pub(crate) fn unmet(&self, message: &Classify<'_>, unix_ms: u64) -> Option<Unmet> {
        let lacks = |list_is_empty: bool, holds: &dyn Fn() -> bool| !list_is_empty && !holds();
        if self.priorities != 0 && self.priorities & bit(message.class) == 0 {
            return Some(Unmet::Priority);
        }
        if self.prefixes.as_ref().is_some_and(|prefixes| !prefixes.hold(message.to)) {
            return Some(Unmet::Prefix);
        }
        if lacks(self.countries.is_empty(), &|| message.to.region().is_some_and(|is| self.countries.contains(&is))) {
            return Some(Unmet::Country);
        }
        if lacks(self.senders.is_empty(), &|| message.sender.is_some_and(|is| self.senders.contains(&sender_hash(is))))
        {
            return Some(Unmet::Sender);
        }
        if lacks(self.tags.is_empty(), &|| self.tags.iter().any(|tag| message.tags.contains(tag))) {
            return Some(Unmet::Tag);
        }
        if !self.times.at(unix_ms).open {
            return Some(Unmet::Time);
        }
        if self.share_percent.is_some_and(|share| !self.takes(share, message)) {
            return Some(Unmet::Share);
        }
        match &self.text {
            Some(Pattern(text)) if !text.as_ref().is_some_and(|text| text.is_match(message.text)) => Some(Unmet::Text),
            _ => None,
        }
    }

    /// When a condition on the time begins or ceases to hold next.
    pub(crate) fn changes_at(&self, unix_ms: u64) -> Option<u64> {
        (!self.times.is_always()).then(|| self.times.at(unix_ms).until_ms)
    }

    fn takes(&self, share_percent: u8, message: &Classify<'_>) -> bool {
        let number = seed::of_message(message.message, seed::of_text(&self.name));
        seed::place(number, 100) < usize::from(share_percent)
    }
}

fn bit(class: Priority) -> u8 {
    1 << class as u8
}

/// Beginnings of numbers. None is the beginning of another, so at most one can fit, and it is the last that does not sort
/// behind the number.
#[derive(Debug)]
pub(crate) struct Prefixes(Box<[Box<str>]>);

impl Prefixes {
    pub(crate) fn new(prefixes: &[Box<str>]) -> Self {
        let mut sorted = prefixes.to_vec();
        sorted.sort_unstable();
        // A beginning sorts before all that begin with it.
        sorted.dedup_by(|longer, shorter| longer.starts_with(&**shorter));
        Self(sorted.into_boxed_slice())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn hold(&self, to: Msisdn) -> bool {
        let mut buffer = [0; 20];
        let digits = digits(to.as_u64(), &mut buffer);
        let behind = self.0.partition_point(|prefix| prefix.as_bytes().cmp(digits) != Ordering::Greater);
        behind > 0 && digits.starts_with(self.0[behind - 1].as_bytes())
    }
}

/// The decimal digits of a number, at the end of the buffer.
fn digits(mut number: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut first = buffer.len();
    while number > 0 && first > 0 {
        first -= 1;
        buffer[first] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    &buffer[first..]
}

#[cfg(test)]
mod tests;
