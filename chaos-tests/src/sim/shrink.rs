//! Leaves out of a plan whatever is not needed for a promise to be broken: delta debugging over its operations.

use super::check::Violation;
use super::plan::{self, Op};
use super::world::World;
use super::{Options, Outcome};

/// Lines of the log before the end that are part of the story.
const LINES: usize = 120;

/// What is left.
#[derive(Debug)]
pub struct Story {
    pub violation: Violation,
    pub ops: Vec<Op>,
    /// Of how many.
    pub of: usize,
    pub runs: usize,
    pub log: Vec<String>,
}

/// `None` when the seed breaks nothing. At most so many runs are spent on it.
pub fn shrink(seed: u64, options: &Options, runs_max: usize) -> Option<Story> {
    let plan = plan::draw(seed, options.size);
    let run = |enabled: &[bool], log: bool| -> Outcome { World::new(seed, options, &plan, enabled, log).run() };
    let mut enabled = vec![true; plan.len()];
    let first = run(&enabled, false).violation?;
    let mut runs = 1;
    let mut chunk = plan.len().div_ceil(2);
    while chunk >= 1 && runs < runs_max {
        let mut shrunk = false;
        let present: Vec<usize> = (0..plan.len()).filter(|n| enabled[*n]).collect();
        for part in present.chunks(chunk) {
            if runs >= runs_max {
                break;
            }
            let mut fewer = enabled.clone();
            part.iter().for_each(|n| fewer[*n] = false);
            runs += 1;
            if run(&fewer, false).violation.is_some_and(|found| found.invariant == first.invariant) {
                enabled = fewer;
                shrunk = true;
            }
        }
        match (shrunk, chunk) {
            (false, 1) => break,
            (false, _) => chunk = chunk.div_ceil(2),
            (true, _) => chunk = chunk.min(enabled.iter().filter(|on| **on).count()).max(1),
        }
    }
    let last = run(&enabled, true);
    let violation = last.violation.unwrap_or(first);
    let ops = plan.iter().zip(&enabled).filter(|(_, on)| **on).map(|(op, _)| op.clone()).collect();
    let from = last.log.len().saturating_sub(LINES);
    Some(Story { violation, ops, of: plan.len(), runs, log: last.log[from..].to_vec() })
}
