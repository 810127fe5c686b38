//! The makers' error codes and what they mean for a message, one table for each maker.
//!
//! Only codes of consequence are here; what a table does not know is judged by the HTTP status or by the state that came with
//! it. Meanings are ours and hold no data of the message, so they may be shown and logged.

use flotilla_protocol::wire::ErrorClass;

pub(crate) mod aws_sns;
pub(crate) mod bandwidth;
pub(crate) mod messagebird;
pub(crate) mod plivo;
pub(crate) mod twilio;
pub(crate) mod vonage;

/// Code, what it means for the message, and what it is.
pub(crate) type Table = &'static [(&'static str, ErrorClass, &'static str)];

/// What a code means.
pub(crate) fn meaning(table: Table, code: &str) -> Option<(ErrorClass, &'static str)> {
    table.iter().find(|(known, ..)| *known == code).map(|(_, class, text)| (*class, *text))
}

/// What is wrong with a table, for its test: a code that is there twice, or a meaning that is not for people.
#[cfg(test)]
pub(crate) fn flaws(table: Table) -> Vec<String> {
    let mut flaws = Vec::new();
    for (at, (code, _, text)) in table.iter().enumerate() {
        if table[..at].iter().any(|(other, ..)| other == code) {
            flaws.push(format!("{code} is there twice"));
        }
        if code.is_empty() || text.is_empty() || text.len() > 120 || text.ends_with('.') {
            flaws.push(format!("{code}: `{text}`"));
        }
    }
    flaws
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_each_code_once() {
        let tables = [
            aws_sns::AWS_SNS,
            bandwidth::BANDWIDTH,
            messagebird::ANSWER,
            messagebird::NETWORK,
            messagebird::REASON,
            plivo::PLIVO,
            twilio::TWILIO,
            vonage::MESSAGES,
            vonage::SMS_RECEIPT,
            vonage::SMS_STATUS,
        ];
        for table in tables {
            assert_eq!(flaws(table), Vec::<String>::new());
        }
    }
}
