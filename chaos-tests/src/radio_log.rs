//! What simulated radios were handed, from the logs that fleets append to before a hand-over counts.

use std::path::PathBuf;

use anyhow::{Context, bail};

/// One hand-over of an attempt to a radio, or to a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandOver {
    pub at_ms: u64,
    /// Or account at a provider.
    pub device: String,
    pub slot: u8,
    pub message: String,
    pub attempt: u16,
    pub segments: u8,
    /// The network refused it for sure: another attempt repeats nothing.
    pub refused: Option<Refused>,
    /// It was sent, and the network has given it up for sure.
    pub gave_up: bool,
}

impl HandOver {
    /// Its recipient may have it.
    pub fn may_arrive(&self) -> bool {
        self.refused.is_none() && !self.gave_up
    }
}

/// Whose fault a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    Permanent,
    Route,
    Transient,
}

/// A received message that its device has stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Received {
    pub device: String,
    pub from: String,
}

enum Line {
    HandOver(HandOver),
    Received(Received),
}

pub fn read_all(logs: &[PathBuf]) -> anyhow::Result<Vec<HandOver>> {
    Ok(read_both(logs)?.0)
}

/// What radios were handed, and what they received.
pub fn read_both(logs: &[PathBuf]) -> anyhow::Result<(Vec<HandOver>, Vec<Received>)> {
    let (mut handed, mut received) = (Vec::new(), Vec::new());
    for log in logs {
        let text = std::fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
        for (number, line) in text.lines().enumerate() {
            let place = || format!("{}:{}", log.display(), number + 1);
            match parse(line).with_context(place)? {
                Line::HandOver(hand_over) => handed.push(hand_over),
                Line::Received(message) => received.push(message),
            }
        }
    }
    Ok((handed, received))
}

/// `unix_ms device message attempt slot segments outcome` or `unix_ms device inbound sender slot`.
fn parse(line: &str) -> anyhow::Result<Line> {
    let fields: Vec<&str> = line.split(' ').collect();
    match fields[..] {
        [_, device, "inbound", from, _] => Ok(Line::Received(Received { device: device.into(), from: from.into() })),
        [at_ms, device, message, attempt, slot, segments, outcome] => Ok(Line::HandOver(HandOver {
            at_ms: at_ms.parse()?,
            device: device.into(),
            slot: slot.parse()?,
            message: message.into(),
            attempt: attempt.parse()?,
            segments: segments.parse()?,
            refused: match outcome {
                "permanent" => Some(Refused::Permanent),
                "route" => Some(Refused::Route),
                "transient" => Some(Refused::Transient),
                "sent" | "unknown" | "crashed" => None,
                other => bail!("the outcome {other}"),
            },
            gave_up: false,
        })),
        _ => bail!("{} fields", fields.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_broken_ones_refused() {
        let line = "1763640000123 dev_1 msg_2 3 0 1 ";
        let handed = |outcome: &str| match parse(&format!("{line}{outcome}")).unwrap() {
            Line::HandOver(hand_over) => hand_over,
            Line::Received(received) => panic!("{received:?}"),
        };
        let expected = HandOver {
            at_ms: 1_763_640_000_123,
            device: "dev_1".into(),
            slot: 0,
            message: "msg_2".into(),
            attempt: 3,
            segments: 1,
            refused: None,
            gave_up: false,
        };
        assert_eq!(handed("sent"), expected);
        assert!(handed("crashed").may_arrive());
        assert_eq!(handed("permanent").refused, Some(Refused::Permanent));
        let Line::Received(received) = parse("1 dev_1 inbound +255712345678 0").unwrap() else { panic!() };
        assert_eq!(received, Received { device: "dev_1".into(), from: "+255712345678".into() });
        assert!(parse("1 2 3").is_err());
        assert!(parse("1 2 3 4 5 6 seven").is_err());
        assert!(parse("1 2 3 x 5 6 sent").is_err());
    }
}
