//! Lists of any length: page after page, up to what was asked for.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::CliError;
use super::http::Ask;
use super::show::{Column, Screen};
use super::{Session, note, print};
use crate::api::params::PAGE_MAX;

/// How much of a list.
#[derive(Clone, Debug, clap::Args)]
pub struct Paging {
    /// How many at most; `all` for no limit
    #[arg(long, default_value = "50", value_parser = limit, value_name = "N")]
    pub(super) limit: u64,
    /// Go on where an earlier list ended
    #[arg(long)]
    pub(super) cursor: Option<String>,
}

fn limit(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) | Err(_) if text != "all" => Err("give a number from 1, or all".to_owned()),
        Ok(limit) => Ok(limit),
        Err(_) => Ok(u64::MAX),
    }
}

/// Something that is listed: a row.
pub(super) trait Listed: DeserializeOwned {
    const COLUMNS: &'static [Column];
    /// Said when there are none.
    const NONE: &'static str;

    fn cells(self, screen: &Screen) -> Vec<String>;
}

#[derive(Deserialize)]
struct Page<T> {
    #[serde(alias = "rows")]
    items: Vec<T>,
    next: Option<String>,
    /// Of statistics.
    #[serde(default = "yes")]
    complete: bool,
}

fn yes() -> bool {
    true
}

/// What is left of a page when only its length and its end matter.
#[derive(Deserialize)]
struct Any {}

/// Prints a list, each page as soon as it is there. As JSON, each page is the API's document on a line.
pub(super) async fn list<'a, T: Listed>(
    session: &'a Session,
    paging: &Paging,
    ask: impl Fn() -> Ask<'a>,
) -> Result<(), CliError> {
    let (mut left, mut cursor, mut shown) = (paging.limit, paging.cursor.clone(), 0);
    loop {
        let page = left.min(PAGE_MAX as u64);
        let ask = ask().query("limit", Some(page.to_string())).query("cursor", cursor.as_deref());
        let answer = ask.answer().await?;
        let (rows, next) = if session.json {
            let Page::<Any> { items, next, .. } = answer.view()?;
            print(&answer.line())?;
            (items.len(), next)
        } else {
            let Page::<T> { items, next, complete } = answer.view()?;
            if !complete {
                note("the statistics are being built anew: the counters are too low for now");
            }
            let rows = items.len();
            if rows > 0 {
                let cells = items.into_iter().map(|item| item.cells(&session.screen));
                print(&session.screen.table(T::COLUMNS, cells))?;
            }
            (rows, next)
        };
        shown += rows;
        left = left.saturating_sub(rows as u64);
        match next {
            Some(next) if left > 0 && cursor.as_ref() != Some(&next) => cursor = Some(next),
            Some(next) => {
                note(&format!("there are more: repeat with a higher --limit, or go on with --cursor {next}"));
                break;
            }
            None => break,
        }
    }
    if shown == 0 && !session.json {
        note(T::NONE);
    }
    Ok(())
}
