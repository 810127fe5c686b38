//! What is stored is what was there, and what is damaged is said to be.

use proptest::prelude::*;

use super::*;
use crate::route::RouteKind;

fn any_outcome() -> impl Strategy<Value = Outcome> {
    let class = prop_oneof![Just(ErrorClass::Permanent), Just(ErrorClass::Route), Just(ErrorClass::Transient)];
    prop_oneof![
        4 => (0..400_000u64).prop_map(|took_ms| Outcome::Sent { took_ms }),
        4 => (0..400_000_000u64).prop_map(|took_ms| Outcome::Delivered { took_ms }),
        2 => class.clone().prop_map(|class| Outcome::Failed { class }),
        1 => class.prop_map(|class| Outcome::Undelivered { class }),
        1 => Just(Outcome::Doubted),
        1 => Just(Outcome::NoReport),
    ]
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let at = 0..4_000_000_000u64;
    let window = prop_oneof![Just(0u32), Just(3_600u32)];
    let charge = (at.clone(), 0..6u8, 1..3u8, 0..40u64, 0..3u64, window).prop_map(
        |(at_ms, n, segments, recipient, cost, recipient_window_s)| Fact::Charged {
            tenant: tenant(n % 2),
            charge: Charge {
                route: Route { kind: if n == 5 { RouteKind::Provider } else { RouteKind::Sim }, ..route(n) },
                cost: Micros(cost),
                recipient_window_s,
                ..super::charge(START_MS + at_ms, segments, recipient)
            },
        },
    );
    let outcome = (at, 0..6u8, any_outcome()).prop_map(|(at_ms, n, kind)| outcome(n, START_MS + at_ms, kind));
    prop_oneof![charge, outcome]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_fold_goes_on_from_its_stored_half(
        facts in proptest::collection::vec(any_fact(), 0..150),
        half in any::<proptest::sample::Index>(),
    ) {
        let mut whole = Ledger::default();
        facts.iter().for_each(|fact| { whole.apply(fact); });
        let at = half.index(facts.len() + 1);
        let mut first = Ledger::default();
        facts[..at].iter().for_each(|fact| { first.apply(fact); });
        let mut second = Ledger::from_bytes(&first.to_bytes()).unwrap();
        prop_assert_eq!(&second, &first);
        facts[at..].iter().for_each(|fact| { second.apply(fact); });
        prop_assert_eq!(&second, &whole);
        prop_assert_eq!(second.to_bytes(), whole.to_bytes(), "equal ledgers have equal bytes");
    }

    #[test]
    fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Ledger::from_bytes(&bytes);
        bytes.insert(0, 1);
        let _ = Ledger::from_bytes(&bytes);
    }
}

fn golden() -> Ledger {
    let mut ledger = Ledger::default();
    let charge = Charge { recipient_window_s: 3_600, ..charge(START_MS + 1_500, 2, 255_712_345_678) };
    ledger.apply(&charged(charge));
    ledger.apply(&outcome(1, START_MS + 1_500, Outcome::Sent { took_ms: 1_500 }));
    ledger.apply(&outcome(1, START_MS + 4_000, Outcome::Delivered { took_ms: 2_500 }));
    let provider = Route { kind: RouteKind::Provider, ..route(8) };
    for n in 0..3 {
        let failed = Outcome::Failed { class: ErrorClass::Transient };
        ledger.apply(&Fact::Outcome { route: provider, at_ms: START_MS + n, outcome: failed, region: None });
    }
    ledger
}

/// For ever: a change of it needs another version, and this one has to be read still.
const GOLDEN: &str = "\
    01a0d7c7b5ca33dcc3c7b5ca33020000000000000000000000000000000000010101010101010101010101010101010181838ecd060100\
    0201a0f38a0e01000201c2c0020201c40a0200c0b80200011bc5879ad667520adcc3c7b5ca338aa49db3adf3e1e21b01c2c0020000803f\
    0000803f0000803f01010901010b01010b010101000000000000000000a0d7c7b5ca3301010101a0d7c7b5ca3300000000000100dcc3c7\
    b5ca3301000000a0d7c7b5ca3301e098786401000000803f00000000a0d7c7b5ca33010404040404040404040404040404040408080808\
    0808080808080808080808080000000000000000f0523f0000803f0000803f000000000000000000000003030000000000010382b8c7b5\
    ca3300000101eabfc7b5ca330003000180b8c7b5ca330300030082b8c7b5ca3301e09878640100000000000000404082b8c7b5ca330100\
    0000000000000000000000000000000181838ecd0601000201a0f38a0e01000201c2c0020201c40a0200c0b80200011bc5879ad667520a\
    dcc3c7b5ca338aa49db3adf3e1e21b01c2c00201010101010101010101010101010101010181838ecd0601000201a0f38a0e01000201c2\
    c0020201c40a0200c0b80200011bc5879ad667520adcc3c7b5ca338aa49db3adf3e1e21b01c2c002901c00011bc5879ad667520a018283\
    8ecd06018eee540e776b91120101010101010101010101010101010100";

#[test]
fn the_bytes_of_version_1() {
    let bytes: Vec<u8> =
        (0..GOLDEN.len()).step_by(2).map(|at| u8::from_str_radix(&GOLDEN[at..at + 2], 16).unwrap()).collect();
    assert_eq!(Ledger::from_bytes(&bytes).unwrap(), golden());
    // Version 2 differs in nothing here: it may have more slots.
    assert_eq!(golden().to_bytes(), [&[2], &bytes[1..]].concat());
    assert_eq!(Ledger::from_bytes(&golden().to_bytes()).unwrap(), golden());
}

#[test]
fn what_is_dated_ahead_is_stored_beside_a_full_minute_and_hour() {
    let mut ledger = Ledger::default();
    for second in 0..3_600 {
        ledger.apply(&charged(charge(START_MS + second * 1_000, 1, second)));
    }
    let now_ms = START_MS + 3_599_999;
    ledger.apply(&charged(charge(now_ms + AHEAD_MS, 1, 1)));
    for ledger in [Ledger::from_bytes(&ledger.to_bytes()).unwrap(), ledger] {
        let counters = ledger.counters(Scope::Route(route(1)));
        assert_eq!((counters.last_minute(now_ms), counters.last_hour(now_ms)), (61, 3_601));
    }
}

#[test]
fn what_cannot_be_read_says_why() {
    let bytes = golden().to_bytes();
    for end in 1..bytes.len() {
        assert!(matches!(Ledger::from_bytes(&bytes[..end]), Err(LedgerError::Damaged(_))), "cut at {end}");
    }
    assert!(matches!(Ledger::from_bytes(&[]), Err(LedgerError::Empty)));
    let newer = [&[3], &bytes[1..]].concat();
    let error = Ledger::from_bytes(&newer).unwrap_err();
    assert!(matches!(error, LedgerError::Version { version: 3 }));
    assert_eq!(
        error.to_string(),
        "a ledger of version 3 cannot be read by this program, which knows version 2; start a newer one"
    );
}
