//! The id of a live event: its place in the journal. Clients treat it as opaque and give it back as `Last-Event-ID`.

use std::fmt;
use std::str::FromStr;

use flotilla_protocol::id::ShardId;

/// `<shard>-<sequence>-<index in the batch>`; without the index: the whole batch is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    pub(super) shard: ShardId,
    pub(super) seq: u64,
    pub(super) index: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`Last-Event-ID` is not one that this stream has given; leave it out")]
pub struct EventIdError;

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.shard, self.seq)?;
        self.index.map_or(Ok(()), |index| write!(f, "-{index}"))
    }
}

impl FromStr for EventId {
    type Err = EventIdError;

    fn from_str(text: &str) -> Result<Self, EventIdError> {
        fn number<T: FromStr>(text: &str) -> Result<T, EventIdError> {
            // `FromStr` of integers would also take a sign.
            let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten().ok_or(EventIdError)
        }
        let mut parts = text.split('-');
        let mut next = || parts.next().ok_or(EventIdError);
        let (shard, seq) = (ShardId(number(next()?)?), number(next()?)?);
        let index = parts.next().map(number).transpose()?;
        match parts.next() {
            Some(_) => Err(EventIdError),
            None => Ok(Self { shard, seq, index }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back() {
        for (text, seq, index) in [("3-17-0", 17, Some(0)), ("3-17-4294967295", 17, Some(u32::MAX)), ("3-0", 0, None)] {
            let id = EventId { shard: ShardId(3), seq, index };
            assert_eq!(text.parse(), Ok(id));
            assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", "-", "1", "1-", "1-2-", "1-2-3-4", "+1-2-3", "1--2", "70000-1-1", "1-2-4294967296", "a-1-1", "1- 2"]
        {
            assert_eq!(text.parse::<EventId>(), Err(EventIdError), "{text}");
        }
    }
}
