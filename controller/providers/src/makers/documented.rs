//! The pages say what the code does: the table of `docs/providers.md` is compared with every maker's capabilities, and
//! `docs/error-codes.md` with the tables of codes.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use flotilla_protocol::wire::ErrorClass;

use super::all;
use crate::maker::Capabilities;
use crate::smpp::COMMAND_STATUS;

pub(crate) const PAGE: &str = include_str!("../../../../docs/providers.md");
const ERROR_CODES: &str = include_str!("../../../../docs/error-codes.md");

/// What stands between two marks of a page.
fn marked(page: &'static str, mark: &str) -> &'static str {
    let (_, rest) = page.split_once(&format!("<!-- {mark} -->")).unwrap_or_else(|| panic!("no mark `{mark}`"));
    rest.split_once(&format!("<!-- /{mark} -->")).unwrap_or_else(|| panic!("no end of `{mark}`")).0
}

/// Of `docs/providers.md`.
pub(crate) fn between(mark: &str) -> &'static str {
    marked(PAGE, mark)
}

fn row(maker: &Capabilities) -> String {
    let yes = |flag| if flag { "yes" } else { "no" };
    format!(
        "| {} | `{}` | {} | {} | {} | {} | {} | {} | {} |",
        maker.title,
        maker.name,
        maker.batch_max,
        yes(maker.callbacks),
        maker.signature.unwrap_or("none"),
        yes(maker.polls),
        yes(maker.balance),
        yes(maker.inbound),
        yes(maker.echoes_reference),
    )
}

#[test]
fn the_table_is_what_the_makers_can() {
    let mut rows: Vec<String> = all().iter().map(|maker| row(maker.capabilities())).collect();
    // A session and no `Maker`.
    rows.push(row(&crate::smpp::CAPABILITIES));
    rows.sort_by_key(|row| row.to_lowercase());
    let written: Vec<&str> = between("makers").trim().lines().skip(2).collect();
    assert_eq!(written, rows, "the rows between the marks have to be:\n{}\n", rows.join("\n"));
}

#[test]
fn every_maker_is_explained() {
    for maker in all().iter().map(|maker| maker.capabilities()) {
        let setup = PAGE.lines().filter(|line| line.starts_with(&format!("| {} |", maker.title))).count();
        assert!(setup >= 2, "{} is missing under `Setting up`", maker.title);
    }
}

#[test]
fn makers_are_told_apart_by_name() {
    let names: BTreeSet<_> = all().iter().map(|maker| maker.capabilities().name).collect();
    assert_eq!(names.len(), all().len());
    for name in names {
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
        assert_eq!(super::by_name(name).map(|maker| maker.capabilities().name), Some(name));
    }
    assert!(super::by_name("nobody").is_none());
}

#[test]
fn what_a_maker_says_it_can_it_does() {
    for maker in all() {
        let capabilities = maker.capabilities();
        assert!(capabilities.batch_max >= 1 && maker.poll_max() >= 1, "{}", capabilities.name);
        assert!(!capabilities.batch.is_empty() && !capabilities.title.is_empty());
        let account = crate::Account::default();
        if !capabilities.polls {
            assert!(maker.poll(&account, &["1".into()], 0).is_none(), "{} polls", capabilities.name);
        }
        if !capabilities.balance {
            assert!(maker.balance(&account, 0).is_none(), "{} has a balance", capabilities.name);
        }
    }
}

fn class_word(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Permanent => "permanent",
        ErrorClass::Route => "route",
        ErrorClass::Transient => "transient",
    }
}

fn is_on_the_page(mark: &str, wanted: &str) {
    let written = marked(ERROR_CODES, mark).trim();
    let differs = written.lines().zip(wanted.trim().lines()).find(|(there, here)| there != here);
    assert_eq!(written, wanted.trim(), "`{mark}` differs first at {differs:?}; it has to be:\n{wanted}\n");
}

#[test]
fn the_page_has_every_makers_codes() {
    let mut makers: Vec<_> = all().to_vec();
    makers.sort_by_key(|maker| maker.capabilities().title.to_lowercase());
    let mut page = String::new();
    for maker in makers {
        for table in maker.errors() {
            let title = maker.capabilities().title;
            writeln!(page, "### {title}: {}\n\n<{}>\n", table.of, table.source).unwrap();
            writeln!(page, "| code | class | meaning |\n|---|---|---|").unwrap();
            for (code, class, text) in table.rows {
                writeln!(page, "| `{code}` | {} | {text} |", class_word(*class)).unwrap();
            }
            page.push('\n');
        }
    }
    is_on_the_page("makers", &page);
}

#[test]
fn the_page_has_every_command_status() {
    let mut page = String::from("| code | name | class | meaning |\n|---|---|---|---|\n");
    for (code, name, class, text) in COMMAND_STATUS {
        writeln!(page, "| `smpp-0x{code:02x}` | {name} | {} | {text} |", class_word(*class)).unwrap();
    }
    is_on_the_page("smpp", &page);
}
