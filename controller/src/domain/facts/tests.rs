//! Which change says what about a route.

use flotilla_protocol::id::{DeviceId, MessageId, SimId, TenantId};
use flotilla_routing::Micros;
use flotilla_routing::fact::Charge;

use super::*;
use crate::domain::event::Facts;
use crate::domain::message::Priority;

fn route() -> Route {
    Route::sim(DeviceId::from_bytes([1; 16]), SimId::from_bytes([2; 16]))
}

fn charge() -> Charge {
    Charge {
        route: route(),
        segments: 2,
        at_ms: 7,
        recipient: 1,
        cost: Micros(5),
        day: 1,
        tenant_day: 1,
        recipient_window_s: 0,
    }
}

fn said(change: Change, charge: Option<Charge>) -> Vec<Fact> {
    let facts = Facts {
        accepted_ms: 0,
        segments: 2,
        priority: Priority::Normal,
        region: None,
        campaign: "".into(),
        callback: 0,
    };
    let (message, tenant) = (MessageId::from_bytes([3; 16]), TenantId::from_bytes([4; 16]));
    let changed = Changed { message, tenant, facts, change, charge: charge.map(Box::new) };
    let mut said = Vec::new();
    of_event(&Event { at_ms: 90, kind: EventKind::Changed(changed) }, |fact| said.push(fact));
    said
}

fn outcomes(change: Change, charge: Option<Charge>) -> Vec<Outcome> {
    let of = |fact: &Fact| if let Fact::Outcome { outcome, .. } = fact { Some(*outcome) } else { None };
    said(change, charge).iter().filter_map(of).collect()
}

#[test]
fn a_charge_is_told_before_the_outcome() {
    let sent = Change::Sent { attempt: 1, route: route(), sent_ms: 60, took_ms: 50 };
    let all = said(sent, Some(charge()));
    assert!(matches!(all[0], Fact::Charged { charge: of, .. } if of == charge()));
    let Fact::Outcome { at_ms: 90, outcome: Outcome::Sent { took_ms: 50 }, .. } = all[1] else { panic!("{all:?}") };
    assert_eq!(all.len(), 2);
}

#[test]
fn every_change_has_its_outcome_or_none() {
    let (attempt, route, class) = (1, route(), ErrorClass::Route);
    let why = |code: &str| Failure { class, code: code.into(), text: "".into() };
    let returned = |code, undelivered| Change::Returned { attempt, route, why: why(code), retry_ms: 0, undelivered };
    let failed = |code, undelivered| Change::Failed { attempt, route: Some(route), why: why(code), undelivered };
    let expired = |code| Change::Expired { attempt, route: Some(route), why: why(code) };
    let doubted = || Change::Doubted { attempt, route, lost: false };
    let delivered = Change::Delivered { attempt, route, sent_ms: 5, delivered_ms: 25 };
    assert_eq!(outcomes(delivered, None), [Outcome::Delivered { took_ms: 20 }]);
    assert_eq!(outcomes(doubted(), Some(charge())), [Outcome::Doubted]);
    assert_eq!(outcomes(doubted(), None), [], "it was in doubt before");
    assert_eq!(outcomes(returned("cms-38", false), None), [Outcome::Failed { class }]);
    assert_eq!(outcomes(returned("tp-status-70", true), None), [Outcome::Undelivered { class }]);
    assert_eq!(outcomes(returned(codes::LINK_LOST, false), None), []);
    assert_eq!(outcomes(returned("not-sent-outbox-full", false), None), []);
    assert_eq!(outcomes(returned(codes::LEASE_OVER, false), Some(charge())), [Outcome::Doubted]);
    assert_eq!(outcomes(failed("cms-38", false), Some(charge())), [Outcome::Failed { class }]);
    assert_eq!(outcomes(failed("tp-status-70", true), None), [Outcome::Undelivered { class }]);
    assert_eq!(outcomes(expired(codes::NO_REPORT), None), [Outcome::NoReport]);
    assert_eq!(outcomes(expired(codes::IN_DOUBT), Some(charge())), [Outcome::Doubted]);
    assert_eq!(outcomes(expired(codes::IN_DOUBT), None), [], "it was in doubt before");
    assert_eq!(outcomes(expired(codes::VALIDITY_OVER), None), []);
    assert_eq!(outcomes(Change::Cancelled, None), []);
}
