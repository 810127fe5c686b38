//! The fleet's records: typed functions over the catalog, one module for each kind of thing.
//!
//! Whether a device is connected right now is not here: the gateway knows that.

pub mod audit;
pub mod certificates;
pub mod controllers;
pub mod deny;
pub mod devices;
pub mod enrollments;
pub mod keys;
pub mod recovery;
pub mod routing;
pub mod sims;
pub mod tenants;

/// Most rows of one list.
pub const LIMIT_MAX: u32 = 500;

/// The text without control characters, cut at a character's end to at most `bytes_max`.
pub fn cut(text: &str, bytes_max: usize) -> String {
    let mut kept = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if kept.len() + c.len_utf8() > bytes_max {
            break;
        }
        kept.push(c);
    }
    kept
}

#[cfg(test)]
mod tests;
