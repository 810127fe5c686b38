//! A controller of a few lines, a scripted radio and a node between them, over real QUIC on the loopback.

#![expect(unreachable_pub, reason = "a test's modules have no outside")]
#![expect(clippy::unwrap_used, reason = "a failure here is the test's failure")]

mod controller;
mod node;
mod radio;

pub use controller::{Controller, Peer, TestCa};
pub use node::Node;
pub use radio::Script;

use flotilla_protocol::id::{EnrollmentId, MessageId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{Attempt, Body, Dispatch, SimInfo, SimState, TextEncoding};

pub fn attempt(number: u8) -> Attempt {
    Attempt { message: MessageId::new(1_700_000_000_000, [number; 10]), number: 1 }
}

pub fn token(number: u8) -> EnrollmentId {
    EnrollmentId::new(1_700_000_000_000, [number; 10])
}

/// Granted, for slot 0, under epoch 1. `sent_ms` is on the controller's clock.
pub fn dispatch(number: u8, sent_ms: u64) -> Dispatch {
    Dispatch {
        attempt: attempt(number),
        epoch: flotilla_protocol::id::Epoch(1),
        slot: 0,
        to: Msisdn::from_u64(255_700_000_001).unwrap(),
        body: Body::Text("hello".into()),
        encoding: TextEncoding::default(),
        flash: false,
        report: true,
        validity_s: 3600,
        sent_ms,
        send_within_ms: 30_000,
        granted: true,
    }
}

pub fn sim() -> SimInfo {
    SimInfo {
        slot: 0,
        state: SimState::Ready,
        iccid: None,
        imsi: None,
        msisdn: None,
        home: None,
        operator: "Test".into(),
        depth: 1,
    }
}
