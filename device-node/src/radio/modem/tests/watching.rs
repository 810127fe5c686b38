//! What a modem tells of itself: identity, PIN, signal, registration, and their changes.

use flotilla_protocol::number::Plmn;
use flotilla_protocol::wire::{NotSent, Registration};

use super::*;

#[tokio::test(start_paused = true)]
async fn every_maker_tells_who_it_is() {
    for profile in Profile::names() {
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig::ready(profile, dir.path()).await;
        let sim = rig.modem.sims().remove(0);
        assert_eq!(sim.iccid.map(|iccid| iccid.to_string()).as_deref(), Some("8925501000000000004"), "{profile}");
        assert_eq!(sim.imsi.map(|imsi| imsi.to_string()).as_deref(), Some("640021234567890"), "{profile}");
        assert_eq!(sim.msisdn.map(Msisdn::as_u64), Some(255_754_123_456), "{profile}");
        assert_eq!((sim.home, sim.operator.as_str()), (Plmn::parse("64002").ok(), "Tigo TZ"), "{profile}");
        assert_eq!((sim.slot, sim.depth), (3, 1));
        let health =
            rig.until(|event| if let RadioEvent::Health(health) = event { Some(health.clone()) } else { None }).await;
        assert_eq!((health.signal_dbm, health.registration), (Some(-73), Registration::Home), "{profile}");
        assert_eq!((health.serving, health.state), (Plmn::parse("64002").ok(), SimState::Ready), "{profile}");
    }
}

fn with_pin(pin: &str) -> ModemConfig {
    ModemConfig { pin: Some(super::super::Pin::parse(pin).unwrap()), ..ModemConfig::new("cable") }
}

fn locked() -> Scripted {
    let scripted = Scripted::new(Profile::named("quectel").unwrap());
    scripted.with(|machine| machine.lock("4711"));
    scripted
}

fn pins(rig: &Rig) -> usize {
    rig.machine(|machine| machine.log().iter().filter(|entry| matches!(entry, Log::Pin(_))).count())
}

#[tokio::test(start_paused = true)]
async fn the_right_pin_opens_the_sim() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::with(locked(), &with_pin("4711"), dir.path());
    rig.until_state(SimState::Ready).await;
    assert_eq!(pins(&rig), 1);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_pin_is_tried_once_over_all_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::with(locked(), &with_pin("1234"), dir.path());
    rig.until_state(SimState::PinRequired).await;
    assert!(matches!(rig.send("x").await, SendOutcome::NotSent(NotSent::SimNotReady)));
    tokio::time::sleep(std::time::Duration::from_secs(600)).await;
    let mut rig = Rig::with(rig.scripted, &with_pin("1234"), dir.path());
    rig.until_state(SimState::PinRequired).await;
    tokio::time::sleep(std::time::Duration::from_secs(600)).await;
    assert_eq!(pins(&rig), 1);
    // A corrected configuration.
    let mut rig = Rig::with(rig.scripted, &with_pin("4711"), dir.path());
    rig.until_state(SimState::Ready).await;
    assert_eq!(pins(&rig), 2);
}

#[tokio::test(start_paused = true)]
async fn locked_and_absent_sims_have_their_states() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::with(locked(), &ModemConfig::new("cable"), dir.path());
    rig.until_state(SimState::PinRequired).await;
    rig.machine(Machine::need_puk);
    rig.until_state(SimState::PukRequired).await;
    assert_eq!(pins(&rig), 0);

    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("wordy", dir.path()).await;
    rig.machine(Machine::pull_sim);
    rig.until_state(SimState::Absent).await;
    assert!(matches!(rig.send("x").await, SendOutcome::NotSent(NotSent::SimNotReady)));
    rig.machine(|machine| machine.change_sim("8925501000000000012"));
    rig.until_state(SimState::Ready).await;
    assert_eq!(rig.modem.sims()[0].iccid.map(|iccid| iccid.to_string()).as_deref(), Some("8925501000000000012"));
}

#[tokio::test(start_paused = true)]
async fn a_changed_sim_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("telit", dir.path()).await;
    rig.machine(|machine| machine.change_sim("8925501000000000012"));
    let seen = |event: &RadioEvent| match event {
        RadioEvent::Sims(sims) => sims[0].iccid.filter(|iccid| iccid.as_str() == "8925501000000000012"),
        _ => None,
    };
    rig.until(seen).await;
    rig.until_state(SimState::Ready).await;
}

#[tokio::test(start_paused = true)]
async fn registration_comes_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("standard", dir.path()).await;
    rig.machine(|machine| machine.register(2));
    rig.until_state(SimState::NotRegistered).await;
    assert!(matches!(rig.send("x").await, SendOutcome::NotSent(NotSent::SimNotReady)));
    rig.machine(|machine| machine.register(3));
    rig.until_state(SimState::Blocked).await;
    rig.machine(|machine| machine.register(5));
    rig.until_state(SimState::Ready).await;
    assert!(matches!(rig.send("x").await, SendOutcome::Sent { .. }));
}

#[tokio::test(start_paused = true)]
async fn ussd_in_every_manner() {
    for profile in ["standard", "huawei", "quectel"] {
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig::ready(profile, dir.path()).await;
        let answer = |event: &RadioEvent| match event {
            RadioEvent::Ussd { request, result } => Some((*request, result.clone())),
            _ => None,
        };
        rig.modem.ussd(1, 3, "*102#".to_owned());
        assert_eq!(rig.until(answer).await, (1, Ok("Balance: 5.20 TZS".to_owned())), "{profile}");
        rig.machine(|machine| machine.ussd_reply = "1. Salio\n2. Vifurushi\n0. Rudi".to_owned());
        rig.modem.ussd(2, 3, "*102#".to_owned());
        assert_eq!(rig.until(answer).await, (2, Ok("1. Salio\n2. Vifurushi\n0. Rudi".to_owned())), "{profile}");
        rig.until_logged(|entry| *entry == Log::Command("AT+CUSD=2".to_owned())).await;
        rig.modem.ussd(3, 3, "*102\"#".to_owned());
        assert!(rig.until(answer).await.1.is_err(), "{profile}");
    }
}
