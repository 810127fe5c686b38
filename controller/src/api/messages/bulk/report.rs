//! What became of an upload: counts, and the bad lines with their reasons.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::api::problem::{Code, Problem};

/// Bad lines that are named; those beyond are counted.
const NAMED_MAX: usize = 1000;

#[derive(Debug)]
pub(super) struct BadLine {
    pub(super) line: u64,
    pub(super) problem: Problem,
}

impl PartialEq for BadLine {
    fn eq(&self, other: &Self) -> bool {
        self.line == other.line
    }
}

impl Eq for BadLine {}

impl PartialOrd for BadLine {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for BadLine {
    fn cmp(&self, other: &Self) -> Ordering {
        self.line.cmp(&other.line)
    }
}

/// Grows with the upload, but stays bounded.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) accepted: u64,
    pub(super) segments: u64,
    pub(super) replayed: u64,
    rejected: u64,
    /// The first ones by line; the last of them on top. Chunks finish in any order.
    first_bad: BinaryHeap<BadLine>,
}

impl Tally {
    pub(super) fn reject(&mut self, bad: BadLine) {
        self.rejected += 1;
        self.first_bad.push(bad);
        if self.first_bad.len() > NAMED_MAX {
            self.first_bad.pop();
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.segments += other.segments;
        self.replayed += other.replayed;
        let counted = self.rejected + other.rejected;
        other.first_bad.into_iter().for_each(|bad| self.reject(bad));
        self.rejected = counted;
    }

    pub(super) fn report(self) -> BulkReport {
        let errors: Vec<_> = self.first_bad.into_sorted_vec().into_iter().map(BulkError::of).collect();
        BulkReport {
            lines: self.accepted + self.rejected,
            accepted: self.accepted,
            replayed: self.replayed,
            segments: self.segments,
            rejected: self.rejected,
            errors_left_out: self.rejected - errors.len() as u64,
            errors,
        }
    }
}

/// What became of an upload.
#[derive(Serialize, ToSchema)]
#[schema(title = "BulkReport")]
pub struct BulkReport {
    /// Lines with something in them.
    pub lines: u64,
    /// Messages that are durable and on their way, those accepted by an earlier upload with the same key included.
    pub accepted: u64,
    /// Of these, accepted by an earlier upload with the same `Idempotency-Key`.
    pub replayed: u64,
    pub segments: u64,
    pub rejected: u64,
    /// The first 1000 rejected lines.
    pub errors: Vec<BulkError>,
    /// Rejected lines beyond those.
    pub errors_left_out: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(title = "BulkError")]
pub struct BulkError {
    /// Counted from 1, a CSV's header included.
    pub line: u64,
    #[schema(value_type = String, example = "invalid_number")]
    pub code: Code,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    pub detail: String,
}

impl BulkError {
    fn of(bad: BadLine) -> Self {
        let problem = &bad.problem;
        Self {
            line: bad.line,
            code: problem.code(),
            field: problem.field_name().map(str::to_owned),
            detail: problem.detail().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bad_lines_are_named_and_all_are_counted() {
        let mut all = Tally::default();
        for part in (0..3u64).rev() {
            let mut tally = Tally { accepted: 1, ..Tally::default() };
            for line in 0..700 {
                tally.reject(BadLine { line: part * 700 + line, problem: Problem::field("to", "x") });
            }
            all.merge(tally);
        }
        let report = all.report();
        assert_eq!((report.accepted, report.rejected, report.lines), (3, 2100, 2103));
        assert_eq!((report.errors.len(), report.errors_left_out), (1000, 1100));
        assert!(report.errors.iter().map(|error| error.line).eq(0..1000));
    }
}
