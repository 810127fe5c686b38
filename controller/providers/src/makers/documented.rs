//! `docs/providers.md` says what the code does: its table is compared with every maker's capabilities.

use std::collections::BTreeSet;

use super::all;
use crate::maker::Capabilities;

pub(crate) const PAGE: &str = include_str!("../../../../docs/providers.md");

/// What stands between two marks of the page.
pub(crate) fn between(mark: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("<!-- {mark} -->")).unwrap_or_else(|| panic!("no mark `{mark}`"));
    rest.split_once(&format!("<!-- /{mark} -->")).unwrap_or_else(|| panic!("no end of `{mark}`")).0
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
