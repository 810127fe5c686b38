//! The makers' error codes and what they mean for a message, a file for each maker. `docs/error-codes.md`
//! shows them all.
//!
//! Only codes of consequence are here; what a table does not know is judged by the HTTP status or by the state that came with
//! it. Meanings are ours and hold no data of the message, so they may be shown and logged.

use flotilla_protocol::wire::ErrorClass;

pub(crate) mod africas_talking;
pub(crate) mod aws_sns;
pub(crate) mod bandwidth;
pub(crate) mod beem;
pub(crate) mod clicksend;
pub(crate) mod infobip;
pub(crate) mod messagebird;
pub(crate) mod plivo;
pub(crate) mod telstra;
pub(crate) mod twilio;
pub(crate) mod vonage;

/// Code, what it means for the message, and what it is.
pub type Table = &'static [(&'static str, ErrorClass, &'static str)];

/// The codes of one field of a maker.
#[derive(Clone, Copy, Debug)]
pub struct ErrorTable {
    /// Where the codes stand.
    pub of: &'static str,
    /// Where the maker explains them.
    pub source: &'static str,
    pub rows: Table,
}

/// What a code means.
pub(crate) fn meaning(table: Table, code: &str) -> Option<(ErrorClass, &'static str)> {
    table.iter().find(|(known, ..)| *known == code).map(|(_, class, text)| (*class, *text))
}

#[cfg(test)]
mod tests {
    use super::ErrorTable;
    use crate::makers;

    /// What is wrong with a table: a code that is there twice, or a meaning that is not for people.
    fn flaws(table: &ErrorTable) -> Vec<String> {
        let mut flaws = Vec::new();
        for (at, (code, _, text)) in table.rows.iter().enumerate() {
            if table.rows[..at].iter().any(|(other, ..)| other == code) {
                flaws.push(format!("{code} is there twice"));
            }
            if code.is_empty() || text.is_empty() || text.len() > 120 || text.ends_with('.') {
                flaws.push(format!("{code}: `{text}`"));
            }
        }
        flaws
    }

    #[test]
    fn tables_have_each_code_once_and_a_source() {
        for table in makers::all().iter().flat_map(|maker| maker.errors()) {
            assert_eq!(flaws(table), Vec::<String>::new(), "{}", table.of);
            assert!(table.source.starts_with("https://") && !table.of.is_empty() && !table.rows.is_empty());
        }
    }
}
