//! What simulated radios were handed, from the logs that fleets append to before a hand-over counts.

use std::path::PathBuf;

use anyhow::{Context, bail};

/// One hand-over of an attempt to a radio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandOver {
    pub message: String,
    pub attempt: u16,
    /// The network refused it for sure: another attempt repeats nothing.
    pub refused: bool,
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
        [_, _, message, attempt, _, _, outcome] => {
            let (message, attempt) = (message.into(), attempt.parse()?);
            Ok(Line::HandOver(HandOver { message, attempt, refused: outcome == "failed" }))
        }
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
        let expected = HandOver { message: "msg_2".into(), attempt: 3, refused: false };
        assert_eq!(handed("sent"), expected);
        assert!(!handed("crashed").refused);
        assert!(handed("failed").refused);
        let Line::Received(received) = parse("1 dev_1 inbound +255712345678 0").unwrap() else { panic!() };
        assert_eq!(received, Received { device: "dev_1".into(), from: "+255712345678".into() });
        assert!(parse("1 2 3").is_err());
        assert!(parse("1 2 3 x 5 6 sent").is_err());
    }
}
