//! Answers for people: tables that fit the terminal, times in their zone, and nothing that could move their cursor.
//!
//! What a stranger wrote (an inbound text, a device's model) is shown with its control characters made visible, since
//! terminals obey them. Ids are never cut: they are there to be copied.

use std::fmt::Write as _;
use std::io::IsTerminal;

use comfy_table::{Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Row, Table, Width};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Narrower than this nothing can be told from a cut column.
const CUT_WIDTH_MIN: u16 = 10;

/// Where something is shown, and when.
#[derive(Clone, Debug)]
pub(super) struct Screen {
    /// Columns of the terminal; none when the output goes elsewhere and nothing is cut.
    pub(super) width: Option<u16>,
    pub(super) color: bool,
    pub(super) now: Timestamp,
    pub(super) zone: TimeZone,
}

/// A column, and what happens to it when there is not enough room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// Always whole.
    Whole(&'static str),
    /// Always whole, to the right.
    Number(&'static str),
    /// Cut at its end.
    Cut(&'static str),
}

impl Screen {
    pub(super) fn of_stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            width: Table::new().width().filter(|_| terminal),
            color: terminal && !plain,
            now: Timestamp::now(),
            zone: TimeZone::system(),
        }
    }

    /// Rows under a header, each on one line.
    pub(super) fn table(&self, columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
        let mut table = self.empty();
        let names = columns.iter().map(|column| Cell::new(column.name().to_uppercase()));
        let mut header: Row = names.collect::<Vec<_>>().into();
        header.max_height(1);
        table.set_header(header);
        for cells in rows {
            let mut row: Row = cells.iter().map(|cell| self.cell(cell)).collect::<Vec<_>>().into();
            row.max_height(1);
            table.add_row(row);
        }
        for (at, column) in columns.iter().enumerate() {
            let Some(drawn) = table.column_mut(at) else { continue };
            drawn.set_padding((0, 2));
            match column {
                Column::Cut(_) if self.width.is_some() => {
                    drawn.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(CUT_WIDTH_MIN)));
                }
                Column::Number(_) => {
                    drawn.set_constraint(ColumnConstraint::ContentWidth).set_cell_alignment(CellAlignment::Right);
                }
                _ => {
                    drawn.set_constraint(ColumnConstraint::ContentWidth);
                }
            }
        }
        lines(&table)
    }

    /// One thing: a name and a value on each line, long values wrapped. Empty values are left out.
    pub(super) fn facts(&self, facts: impl IntoIterator<Item = (&'static str, String)>) -> String {
        let mut table = self.empty();
        for (name, value) in facts {
            if !value.is_empty() {
                table.add_row(vec![Cell::new(name), self.cell(&value)]);
            }
        }
        for (at, padding) in [(0, (0, 2)), (1, (0, 0))] {
            if let Some(drawn) = table.column_mut(at) {
                drawn.set_padding(padding);
            }
        }
        if let Some(names) = table.column_mut(0) {
            names.set_constraint(ColumnConstraint::ContentWidth);
        }
        lines(&table)
    }

    fn empty(&self) -> Table {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_truncation_indicator("…");
        match self.width {
            Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        match self.color {
            true => table.enforce_styling(),
            false => table.force_no_tty(),
        };
        table
    }

    fn cell(&self, text: &str) -> Cell {
        let cell = Cell::new(clean(text));
        match text {
            _ if !self.color => cell,
            "delivered" | "online" | "ready" | "active" | "open" | "ok" => cell.fg(Color::Green),
            "failed" | "expired" | "revoked" | "offline" | "disabled" => cell.fg(Color::Red),
            "unknown" | "draining" | "cancelled" | "scheduled" => cell.fg(Color::Yellow),
            _ => cell,
        }
    }

    /// A moment in the user's own zone.
    pub(super) fn time(&self, rfc3339: &str) -> String {
        match rfc3339.parse::<Timestamp>() {
            Ok(at) => at.to_zoned(self.zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string(),
            Err(_) => rfc3339.to_owned(),
        }
    }

    pub(super) fn now_text(&self) -> String {
        self.time(&Timestamp::now().to_string())
    }

    /// How long ago, or in how long.
    pub(super) fn ago(&self, rfc3339: &str) -> String {
        let Ok(at) = rfc3339.parse::<Timestamp>() else { return rfc3339.to_owned() };
        let past = self.now.duration_since(at);
        let span = span(past.abs());
        match past {
            _ if span == "0s" => "now".to_owned(),
            past if past < SignedDuration::ZERO => format!("in {span}"),
            _ => format!("{span} ago"),
        }
    }

    /// A moment with its distance, for when there is one of it.
    pub(super) fn time_and_ago(&self, rfc3339: &str) -> String {
        if rfc3339.is_empty() {
            return String::new();
        }
        format!("{} ({})", self.time(rfc3339), self.ago(rfc3339))
    }

    /// The start of an hour or a day. To the minute, since nothing shorter is counted.
    pub(super) fn hour(&self, rfc3339: &str) -> String {
        match rfc3339.parse::<Timestamp>() {
            Ok(at) => at.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M").to_string(),
            Err(_) => rfc3339.to_owned(),
        }
    }

    /// Half blocks, in their own colours: a QR code in a light terminal's colours would be a negative. None when the lines
    /// would be broken.
    pub(super) fn picture(&self, blocks: &str) -> Option<String> {
        let wide = blocks.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        if self.width.is_some_and(|width| wide > usize::from(width)) {
            return None;
        }
        let known = |line: &str| line.chars().filter(|c| matches!(c, ' ' | '▀' | '▄' | '█')).collect::<String>();
        let draw = |line: &str| match self.color {
            true => format!("\u{1b}[38;5;231;48;5;16m{}\u{1b}[0m\n", known(line)),
            false => known(line) + "\n",
        };
        Some(blocks.lines().map(draw).collect())
    }

    /// A title above a part of a longer answer.
    pub(super) fn title(&self, text: &str) -> String {
        match self.color {
            true => format!("\u{1b}[1m{text}\u{1b}[0m\n"),
            false => format!("{text}\n"),
        }
    }
}

impl Column {
    fn name(self) -> &'static str {
        match self {
            Self::Whole(name) | Self::Number(name) | Self::Cut(name) => name,
        }
    }
}

/// The two largest units are told apart by nobody: one is enough below two of it.
fn span(duration: SignedDuration) -> String {
    let s = duration.as_secs();
    match s {
        0..120 => format!("{s}s"),
        120..7_200 => format!("{}m", s / 60),
        7_200..172_800 => format!("{}h", s / 3_600),
        _ => format!("{}d", s / 86_400),
    }
}

/// Text that only prints: control characters and those that reorder a line become visible.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push('⏎'),
            '\t' => out.push(' '),
            c if c.is_control() || is_formatting(c) => drop(write!(out, "\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// Bidirectional controls, line separators and other characters without a width that can make one text look like another.
fn is_formatting(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

fn lines(table: &Table) -> String {
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}
