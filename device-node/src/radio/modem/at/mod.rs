//! The language of AT modems, without IO: bytes in, events out.
//!
//! A modem's output is one stream in which answers, echoes, prompts and unsolicited lines lie mixed, each maker in its
//! own manner. [`Lines`] cuts it, [`Chat`] knows which command is in flight and tells what each line is. Nothing here
//! waits, and no input makes it panic or grow: lines, PDUs and USSD texts are bounded.

mod chat;
mod command;
mod lines;
mod urc;
mod value;

pub(super) use chat::{Chat, Event, Final};
pub(super) use command::Command;
pub(super) use urc::{SimNotice, Urc, tpdu_of};
pub(super) use value::{after_colon, fields, hex, number, ranges, to_hex};

#[cfg(test)]
mod tests;
