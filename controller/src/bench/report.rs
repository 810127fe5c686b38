//! What a benchmark found: named figures with units, printed as a table or as JSON.

use std::fmt;

use serde::Serialize;

/// One benchmark's result.
#[derive(Debug, Serialize)]
pub struct Report {
    pub name: &'static str,
    pub figures: Vec<Figure>,
    /// What bounds how the figures may be read: rounds, sizes, and where the parts ran.
    pub notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
}

impl Report {
    pub fn new(name: &'static str) -> Self {
        Self { name, figures: Vec::new(), notes: Vec::new() }
    }

    pub fn figure(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure { name: name.into(), value, unit });
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.name)?;
        for Figure { name, value, unit } in &self.figures {
            let digits = if value.abs() >= 100.0 { 0 } else { 2 };
            writeln!(f, "  {name:<44} {value:>14.digits$} {unit}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  ({note})"))
    }
}

/// The middle value; of an even number, the lower of the two in the middle.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.0);
        assert!(median(&mut []).is_nan());
    }
}
