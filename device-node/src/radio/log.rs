//! A file that remembers every hand-over of simulated radios, for those who look for messages that were sent twice, and what
//! they received.
//!
//! One line each, written with one system call before the hand-over counts as done, so that it survives `kill -9`:
//! `unix_ms device message attempt slot segments outcome`, separated by spaces, the outcome being `sent`, `unknown`, `crashed`,
//! or the class of the error with which the network refused it: `permanent`, `route`, `transient`. A received message has a line `unix_ms device inbound sender slot` once the outbox has it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flotilla_protocol::id::DeviceId;
use flotilla_protocol::wire::Attempt;

#[derive(Debug)]
pub struct RadioLog(File);

/// One line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandOver {
    pub at_ms: u64,
    pub device: DeviceId,
    pub attempt: Attempt,
    pub slot: u8,
    pub segments: u8,
    pub outcome: &'static str,
}

impl RadioLog {
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().create(true).append(true).mode(0o600).open(path)?))
    }

    /// Lines of several devices never mix: each is one write to a file in append mode.
    pub fn write(&self, entry: &HandOver) -> io::Result<()> {
        let HandOver { at_ms, device, attempt, slot, segments, outcome } = entry;
        let line = format!("{at_ms} {device} {} {} {slot} {segments} {outcome}\n", attempt.message, attempt.number);
        (&self.0).write_all(line.as_bytes())
    }

    pub fn write_received(&self, at_ms: u64, device: DeviceId, slot: u8, from: &str) -> io::Result<()> {
        (&self.0).write_all(format!("{at_ms} {device} inbound {from} {slot}\n").as_bytes())
    }
}
