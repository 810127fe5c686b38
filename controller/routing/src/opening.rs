//! Send windows with what the clock makes of them now: looking through a week is kept until the answer changes.

use std::cell::Cell;

use jiff::tz::TimeZone;

use crate::limits::{Opening, Windows};
use crate::settings::Window;

/// Windows in their time zone.
#[derive(Debug)]
pub(crate) struct Hours {
    windows: Windows,
    zone: TimeZone,
    /// The last answer, and since when it holds.
    known: Cell<Option<(u64, Opening)>>,
}

impl Hours {
    /// Windows that cannot be read are always closed: `check` refuses them before they come here.
    pub(crate) fn new(windows: &[Window], zone: &TimeZone) -> Self {
        let never = Opening { open: false, until_ms: u64::MAX };
        match Windows::compile(windows) {
            Ok(windows) => Self { windows, zone: zone.clone(), known: Cell::new(None) },
            Err(_) => Self { windows: Windows::default(), zone: zone.clone(), known: Cell::new(Some((0, never))) },
        }
    }

    pub(crate) fn is_always(&self) -> bool {
        self.windows.is_always_open() && self.known.get().is_none_or(|(_, known)| known.open)
    }

    pub(crate) fn at(&self, unix_ms: u64) -> Opening {
        if let Some((since_ms, known)) = self.known.get()
            && (since_ms..known.until_ms).contains(&unix_ms)
        {
            return known;
        }
        let opening = match self.windows.is_always_open() {
            true => Opening { open: true, until_ms: u64::MAX },
            false => self.windows.opening(&self.zone, unix_ms),
        };
        self.known.set(Some((unix_ms, opening)));
        opening
    }
}
