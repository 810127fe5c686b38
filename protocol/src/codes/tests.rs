//! The tables are in order, and `docs/error-codes.md` says what they say.

use std::fmt::Write as _;

use super::{ANDROID, CME, CMS, undelivered};
use crate::sms::tpdu::Status;
use crate::wire::ErrorClass;

const PAGE: &str = include_str!("../../../docs/error-codes.md");

fn word(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Permanent => "permanent",
        ErrorClass::Route => "route",
        ErrorClass::Transient => "transient",
    }
}

fn is_on_the_page(mark: &str, wanted: &str) {
    let (_, rest) = PAGE.split_once(&format!("<!-- {mark} -->")).unwrap_or_else(|| panic!("no mark `{mark}`"));
    let (written, _) = rest.split_once(&format!("<!-- /{mark} -->")).unwrap_or_else(|| panic!("no end of `{mark}`"));
    assert_eq!(written.trim(), wanted.trim(), "between the marks of `{mark}` there has to be:\n{wanted}\n");
}

#[test]
fn every_code_appears_once_and_in_order() {
    for numbering in [CMS, CME, ANDROID] {
        assert!(numbering.codes.is_sorted_by(|a, b| a.number < b.number), "{}", numbering.prefix);
        for code in numbering.codes {
            assert!(!code.text.is_empty() && code.text.len() <= 120, "{code:?}");
            assert_eq!(numbering.find(code.number), Some(code));
        }
        assert_eq!(numbering.find(9_999), None);
    }
    for code in CMS.codes.iter().chain(CME.codes) {
        assert_eq!(code.text, code.text.to_ascii_lowercase(), "modems are understood whatever the case");
    }
}

#[test]
fn the_page_has_every_code() {
    let mut page = String::new();
    for numbering in [CMS, CME, ANDROID] {
        writeln!(page, "### {}\n\n{}\n\n| code | class | meaning |\n|---|---|---|", numbering.title, numbering.source)
            .unwrap();
        for code in numbering.codes {
            let open = if code.unclear { "; whether it was sent is open" } else { "" };
            writeln!(page, "| `{}-{}` | {} | {}{open} |", numbering.prefix, code.number, word(code.class), code.text)
                .unwrap();
        }
        page.push('\n');
    }
    is_on_the_page("networks", &page);
}

#[test]
fn the_page_has_every_final_status() {
    let mut page = String::from("| code | class | meaning |\n|---|---|---|\n");
    let known = (0x40..=0x49).chain(0x60..=0x65);
    for error in known.map(|status| undelivered(Status(status))) {
        writeln!(page, "| `tp-status-{}` | {} | {} |", error.code, word(error.class), error.text).unwrap();
    }
    is_on_the_page("tp-status", &page);
    assert_eq!(undelivered(Status(0x41)).class, ErrorClass::Permanent);
    assert_eq!(undelivered(Status(0x7f)).class, ErrorClass::Transient);
    assert_eq!(undelivered(Status(0x80)).class, ErrorClass::Route);
}
