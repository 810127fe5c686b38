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

pub fn read_all(logs: &[PathBuf]) -> anyhow::Result<Vec<HandOver>> {
    let mut all = Vec::new();
    for log in logs {
        let text = std::fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
        for (number, line) in text.lines().enumerate() {
            let place = || format!("{}:{}", log.display(), number + 1);
            all.push(parse(line).with_context(place)?);
        }
    }
    Ok(all)
}

/// `unix_ms device message attempt slot segments outcome`.
fn parse(line: &str) -> anyhow::Result<HandOver> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [_, _, message, attempt, _, _, outcome] = fields[..] else { bail!("{} fields", fields.len()) };
    Ok(HandOver { message: message.into(), attempt: attempt.parse()?, refused: outcome == "failed" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_broken_ones_refused() {
        let line = "1763640000123 dev_1 msg_2 3 0 1 ";
        let expected = HandOver { message: "msg_2".into(), attempt: 3, refused: false };
        assert_eq!(parse(&format!("{line}sent")).unwrap(), expected);
        assert!(!parse(&format!("{line}crashed")).unwrap().refused);
        assert!(parse(&format!("{line}failed")).unwrap().refused);
        assert!(parse("1 2 3").is_err());
        assert!(parse("1 2 3 x 5 6 sent").is_err());
    }
}
