//! What the journal's events say about routes: the facts that a shard's ledger is the fold of. Whoever applies events makes them
//! by this, so that the machine's ledger and the stored one are the same.

use flotilla_protocol::wire::ErrorClass;
use flotilla_routing::fact::{Fact, Outcome};

use super::event::{Change, Changed, Event, EventKind};
use super::message::{Failure, Route};

/// A device went away, was drained, never had the attempt: that says nothing about its SIM.
const NO_OUTCOME: [&str; 5] =
    [codes::LINK_LOST, codes::CALLED_BACK, codes::NEVER_ARRIVED, codes::NUMBER_USED, codes::ATTEMPTS_USED_UP];

/// Nobody knows whether the attempt has left.
const DOUBT: [&str; 3] = [codes::LEASE_OVER, codes::UNKNOWN, codes::PROVIDER_UNKNOWN];

/// Why attempts and messages end, where it is the controller's account and not the device's.
pub mod codes {
    pub const LINK_LOST: &str = "link-lost";
    pub const CALLED_BACK: &str = "called-back";
    pub const NEVER_ARRIVED: &str = "never-arrived";
    pub const NUMBER_USED: &str = "attempt-number-used";
    /// The device did not even try, for a reason that is its own; its SIM rests for a moment.
    pub const NOT_SENT: &str = "not-sent-";
    pub const ATTEMPTS_USED_UP: &str = "attempts-used-up";
    pub const LEASE_OVER: &str = "lease-over";
    pub const UNKNOWN: &str = "device-unknown";
    pub const PROVIDER_UNKNOWN: &str = "provider-unknown";
    pub const VALIDITY_OVER: &str = "validity-over";
    pub const IN_DOUBT: &str = "in-doubt";
    pub const NO_REPORT: &str = "no-delivery-report";
}

pub fn of_event(event: &Event, each: impl FnMut(Fact)) {
    if let EventKind::Changed(changed) = &event.kind {
        of_changed(event.at_ms, changed, each);
    }
}

/// The charge comes first.
pub fn of_changed(at_ms: u64, changed: &Changed, mut each: impl FnMut(Fact)) {
    if let Some(charge) = &changed.charge {
        each(Fact::Charged { tenant: changed.tenant, charge: **charge });
    }
    if let Some((route, outcome)) = outcome(changed) {
        each(Fact::Outcome { route, at_ms, outcome, region: changed.facts.region });
    }
}

fn outcome(changed: &Changed) -> Option<(Route, Outcome)> {
    // Doubt is told once per attempt, with its charge.
    let first_doubt = changed.charge.is_some();
    Some(match &changed.change {
        Change::Sent { route, took_ms, .. } => (*route, Outcome::Sent { took_ms: *took_ms }),
        Change::Delivered { route, sent_ms, delivered_ms, .. } => {
            (*route, Outcome::Delivered { took_ms: delivered_ms.saturating_sub(*sent_ms) })
        }
        Change::Doubted { route, .. } if first_doubt => (*route, Outcome::Doubted),
        Change::Returned { route, why, undelivered, .. } => (*route, failed(why, *undelivered, first_doubt)?),
        Change::Failed { route: Some(route), why, undelivered, .. } => {
            (*route, failed(why, *undelivered, first_doubt)?)
        }
        Change::Expired { route: Some(route), why, .. } if *why.code == *codes::NO_REPORT => {
            (*route, Outcome::NoReport)
        }
        Change::Expired { route: Some(route), .. } if first_doubt => (*route, Outcome::Doubted),
        _ => return None,
    })
}

fn failed(why: &Failure, undelivered: bool, first_doubt: bool) -> Option<Outcome> {
    let class: ErrorClass = why.class;
    if undelivered {
        return Some(Outcome::Undelivered { class });
    }
    match &*why.code {
        code if DOUBT.contains(&code) => first_doubt.then_some(Outcome::Doubted),
        code if NO_OUTCOME.contains(&code) || code.starts_with(codes::NOT_SENT) => None,
        _ => Some(Outcome::Failed { class }),
    }
}

/// Whether the route could not send it, by its own account.
pub fn refused(why: &Failure) -> bool {
    let code = &*why.code;
    let own = DOUBT.contains(&code) || NO_OUTCOME.contains(&code) || code.starts_with(codes::NOT_SENT);
    why.class == ErrorClass::Route && !own
}

#[cfg(test)]
mod tests;
