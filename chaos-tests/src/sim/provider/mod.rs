//! Provider accounts: who has one, and the services behind them. What a controller's session decides is the product's own
//! `providers::agent`, its polls and references; `node::accounts` drives it.
//!
//! A service is a maker's whole installation: it takes messages, refuses them for good or for now, forgets to answer, tells
//! late and more than once what became of them, is down, slow, or out of credit. It belongs to nobody's controller and
//! survives all of them. HTTP and SMPP are not modelled, only what they leave in doubt (docs/adr/0016).

mod account;
mod service;

pub(super) use account::{Account, draw};
pub(super) use service::{Answer, Call, Caller, News, ServiceEvent, Services, Wish};
