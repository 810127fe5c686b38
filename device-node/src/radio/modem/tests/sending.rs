//! Sending on every maker's dialect, each error with its class, and delivery reports.

use std::collections::BTreeSet;

use flotilla_protocol::wire::{ErrorClass, ErrorDomain, NotSent};

use super::super::errors::device;
use super::super::scripted::Fault;
use super::*;
use crate::radio::{Delivery, ReportKey};

const LONG: &str = "Habari ya asubuhi! Малако і хлеб, 牛乳とパン, 🥛🍞. Tafadhali njoo ofisini kesho saa tatu asubuhi. \
                    Ujumbe huu ni mrefu sana, kwa hiyo unahitaji sehemu kadhaa ili kufika salama. Asante sana! 🙏";

#[tokio::test(start_paused = true)]
async fn every_maker_sends_short_and_long_and_reports() {
    for profile in Profile::names() {
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig::ready(profile, dir.path()).await;

        let outcome = rig.send("Hello {world}").await;
        let SendOutcome::Sent { segments: 1, references } = outcome else { panic!("{profile}: {outcome:?}") };
        assert_eq!(read(&rig.submitted()), "Hello {world}", "{profile}");
        expect_delivered(&mut rig, &references, profile).await;

        let outcome = rig.send(LONG).await;
        let SendOutcome::Sent { segments, references } = outcome else { panic!("{profile}: {outcome:?}") };
        assert!(segments > 2 && references.len() == usize::from(segments), "{profile}");
        assert_eq!(read(&rig.submitted()[1..]), LONG, "{profile}");
        expect_delivered(&mut rig, &references, profile).await;
        rig.scripted.until(|machine| (machine.undelivered() == 0 && machine.stored().is_empty()).then_some(())).await;
    }
}

/// Waits for the reports of all `references` and confirms them.
async fn expect_delivered(rig: &mut Rig, references: &[u8], profile: &str) {
    let mut open: BTreeSet<u8> = references.iter().copied().collect();
    while !open.is_empty() {
        let (key, delivery, token) = rig
            .until(|event| match event {
                RadioEvent::StatusReport { slot: 3, key, delivery, token } => {
                    Some((key.clone(), delivery.clone(), *token))
                }
                _ => None,
            })
            .await;
        let ReportKey::Reference { to, reference } = key else { panic!("{profile}: {key:?}") };
        assert_eq!(to, Address::International(Msisdn::from_u64(TO).unwrap()));
        assert_eq!(delivery, Delivery::Delivered, "{profile}");
        assert!(open.remove(&reference), "{profile}: {reference} of {references:?}");
        rig.modem.stored(3, token);
    }
}

#[tokio::test(start_paused = true)]
async fn each_error_has_its_class() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("huawei", dir.path()).await;
    for (error, class, domain, code) in [
        ("+CMS ERROR: 1", ErrorClass::Permanent, ErrorDomain::Cms, 1),
        ("+CMS ERROR: 195", ErrorClass::Permanent, ErrorDomain::Cms, 195),
        ("+CMS ERROR: 304", ErrorClass::Permanent, ErrorDomain::Cms, 304),
        ("+CMS ERROR: 8", ErrorClass::Route, ErrorDomain::Cms, 8),
        ("+CMS ERROR: 21", ErrorClass::Route, ErrorDomain::Cms, 21),
        ("+CMS ERROR: 331", ErrorClass::Route, ErrorDomain::Cms, 331),
        ("+CMS ERROR: SIM not inserted", ErrorClass::Route, ErrorDomain::Cms, 310),
        ("+CMS ERROR: 38", ErrorClass::Transient, ErrorDomain::Cms, 38),
        ("+CMS ERROR: 500", ErrorClass::Transient, ErrorDomain::Cms, 500),
        ("+CMS ERROR: Congestion", ErrorClass::Transient, ErrorDomain::Cms, 42),
        ("+CME ERROR: 30", ErrorClass::Route, ErrorDomain::Cme, 30),
        ("ERROR", ErrorClass::Transient, ErrorDomain::Device, device::PLAIN_ERROR),
    ] {
        rig.machine(|machine| machine.fault(Fault::Refused(error)));
        let outcome = rig.send("Hello").await;
        let SendOutcome::Failed { error: found, segments_sent: 0 } = outcome else { panic!("{error}: {outcome:?}") };
        assert_eq!((found.class, found.domain, found.code), (class, domain, code), "{error}");
    }
    assert_eq!(rig.submitted().len(), 0);
    // The network's answer did not come: nobody knows.
    rig.machine(|machine| machine.fault(Fault::Refused("+CMS ERROR: 332")));
    assert_eq!(rig.send("Hello").await, SendOutcome::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_long_message_stops_at_the_first_refused_segment() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("simcom", dir.path()).await;
    rig.machine(|machine| [Fault::None, Fault::Refused("+CMS ERROR: 42")].map(|fault| machine.fault(fault)));
    let outcome = rig.send(LONG).await;
    let SendOutcome::Failed { error, segments_sent: 1 } = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.code, 42);
    assert_eq!(rig.submitted().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_missing_prompt_is_given_up_and_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("quectel", dir.path()).await;
    rig.machine(|machine| machine.fault(Fault::NoPrompt));
    assert!(matches!(rig.send("Hello").await, SendOutcome::Sent { segments: 1, .. }));
    assert_eq!(rig.submitted().len(), 1);

    rig.machine(|machine| [(); 3].map(|()| machine.fault(Fault::NoPrompt)));
    let outcome = rig.send("Hello").await;
    let SendOutcome::Failed { error, segments_sent: 0 } = outcome else { panic!("{outcome:?}") };
    assert_eq!((error.class, error.code), (ErrorClass::Transient, device::NO_PROMPT));
    assert_eq!(rig.submitted().len(), 1);
    assert!(matches!(rig.send("Hello").await, SendOutcome::Sent { .. }));
}

#[tokio::test(start_paused = true)]
async fn setting_up_is_repeated_for_passing_errors_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("standard", dir.path()).await;
    rig.machine(|machine| machine.fault(Fault::SetupError("+CMS ERROR: 314")));
    assert!(matches!(rig.send("Hello").await, SendOutcome::Sent { .. }));
    rig.machine(|machine| machine.fault(Fault::SetupError("+CMS ERROR: 302")));
    assert!(matches!(rig.send("Hello").await, SendOutcome::Failed { error, .. } if error.code == 302));
    assert_eq!(rig.submitted().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_the_outcome_is_unknown_and_nothing_is_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("ublox", dir.path()).await;
    rig.machine(|machine| machine.fault(Fault::Mute));
    let begun = Instant::now();
    assert_eq!(rig.send("Hello").await, SendOutcome::Unknown);
    assert!(begun.elapsed() >= Timing::default().send);
    assert!(matches!(rig.send("Again").await, SendOutcome::Sent { .. }));
    let texts: Vec<_> = rig.submitted().iter().map(|tpdu| read(std::slice::from_ref(tpdu))).collect();
    assert_eq!(texts, ["Hello", "Again"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_handed_over_after_the_lease() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("slow", dir.path()).await;
    let attempt = Attempt { message: MessageId::from_bytes([9; 16]), number: 1 };
    rig.modem.send(SendJob { hand_over_by_ms: BOOT_MS - 1, ..job(attempt, "late") });
    assert_eq!(rig.result(attempt).await, SendOutcome::NotSent(NotSent::LeaseOver));
    assert!(!rig.commands().iter().any(|line| line.starts_with("AT+CMGS")));

    // The lease ends while the modem takes its time for the prompt. Nothing else is going on by then.
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    let attempt = Attempt { number: 2, ..attempt };
    let soon = rig.clock.now().boot_ms + 300;
    rig.modem.send(SendJob { hand_over_by_ms: soon, ..job(attempt, "late") });
    assert_eq!(rig.result(attempt).await, SendOutcome::NotSent(NotSent::LeaseOver));
    assert!(rig.commands().iter().any(|line| line.starts_with("AT+CMGS")));
    assert!(matches!(rig.send("in time").await, SendOutcome::Sent { .. }));
    assert_eq!(read(&rig.submitted()), "in time");
}

#[tokio::test(start_paused = true)]
async fn failed_deliveries_are_told_and_temporary_states_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("standard", dir.path()).await;
    for (status, class) in [(0x20, None), (0x41, Some(ErrorClass::Permanent)), (0x63, Some(ErrorClass::Route))] {
        rig.machine(|machine| machine.report = Some((status, 50)));
        assert!(matches!(rig.send("Hello").await, SendOutcome::Sent { .. }));
        let Some(class) = class else { continue };
        let error = rig
            .until(|event| match event {
                RadioEvent::StatusReport { delivery: Delivery::Undelivered(error), .. } => Some(error.clone()),
                RadioEvent::StatusReport { .. } => panic!("{event:?}"),
                _ => None,
            })
            .await;
        assert_eq!((error.class, error.domain, error.code), (class, ErrorDomain::TpStatus, u16::from(status)));
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_modem_can_send_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("standard", dir.path()).await;
    let attempt = Attempt { message: MessageId::from_bytes([7; 16]), number: 1 };
    rig.modem.send(SendJob { slot: 4, ..job(attempt, "x") });
    assert_eq!(rig.result(attempt).await, SendOutcome::NotSent(NotSent::NoSuchSim));
    let outcome = rig.send(&"ж".repeat(20_000)).await;
    let SendOutcome::Failed { error, segments_sent: 0 } = outcome else { panic!("{outcome:?}") };
    assert_eq!((error.class, error.code), (ErrorClass::Permanent, device::ENCODING));
}
