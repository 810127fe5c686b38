//! Modems that are pulled, hang or come back at the worst moment: what was sent, what was not, and what nobody knows.

use std::time::Duration;

use flotilla_protocol::wire::NotSent;

use super::super::channel::SerialOpener;
use super::super::scripted::{Fault, deliveries, pty::Pty};
use super::*;

#[tokio::test(start_paused = true)]
async fn pulled_before_the_pdu_nothing_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("huawei", dir.path()).await;
    rig.machine(|machine| machine.fault(Fault::UnplugAtPrompt));
    assert_eq!(rig.send("Hello").await, SendOutcome::NotSent(NotSent::SimNotReady));
    rig.until_state(SimState::Absent).await;
    // Refused at once while it is away.
    assert_eq!(rig.send("Hello").await, SendOutcome::NotSent(NotSent::SimNotReady));
    rig.machine(Machine::plug);
    rig.until_state(SimState::Ready).await;
    assert!(matches!(rig.send("Hello").await, SendOutcome::Sent { .. }));
    assert_eq!(rig.submitted().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn plugged_in_again_it_is_found_within_seconds_however_long_it_was_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("huawei", dir.path()).await;
    for away_s in [1, 60, 600, 603, 606, 609] {
        rig.machine(Machine::unplug);
        rig.until_state(SimState::Absent).await;
        tokio::time::sleep(Duration::from_secs(away_s)).await;
        rig.machine(Machine::plug);
        let plugged = Instant::now();
        rig.until_state(SimState::Ready).await;
        let took = plugged.elapsed();
        assert!(took < Duration::from_secs(8), "ready {took:?} after {away_s} s away");
    }
    assert!(!rig.commands().iter().any(|line| line == "AT+CFUN=1,1"), "nothing was wrong with it");
}

#[tokio::test(start_paused = true)]
async fn pulled_after_the_pdu_nobody_knows() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("telit", dir.path()).await;
    rig.machine(|machine| machine.fault(Fault::UnplugAfterPdu));
    assert_eq!(rig.send("Hello").await, SendOutcome::Unknown);
    rig.until_state(SimState::Absent).await;
    rig.machine(Machine::plug);
    rig.until_state(SimState::Ready).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(rig.submitted().len(), 1, "never repeated");
}

#[tokio::test(start_paused = true)]
async fn pulled_between_two_segments_the_first_has_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("simcom", dir.path()).await;
    rig.machine(|machine| [Fault::None, Fault::UnplugAtPrompt].map(|fault| machine.fault(fault)));
    let outcome = rig.send(&"long text ".repeat(30)).await;
    assert!(matches!(outcome, SendOutcome::Failed { segments_sent: 1, .. }), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wedged_modem_is_reset() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("quectel", dir.path()).await;
    rig.machine(|machine| machine.mute(true));
    rig.until_state(SimState::Faulty).await;
    assert!(rig.commands().iter().any(|line| line == "AT+CFUN=1,1"));
    rig.until_state(SimState::Ready).await;
    assert!(matches!(rig.send("Hello").await, SendOutcome::Sent { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_job_for_a_wedged_modem_was_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("quectel", dir.path()).await;
    rig.machine(|machine| machine.mute(true));
    assert_eq!(rig.send("Hello").await, SendOutcome::NotSent(NotSent::SimNotReady));
    assert_eq!(rig.submitted().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_modem_that_starts_anew_is_set_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("simcom", dir.path()).await;
    // The power blinks, the port does not notice.
    rig.machine(Machine::plug);
    let tpdu = rig.machine(|machine| {
        deliveries(machine, &Address::Short("100".to_owned()), "after the blink").unwrap().remove(0)
    });
    rig.scripted
        .until(|machine| {
            (machine.log().iter().filter(|entry| **entry == Log::Command("AT+CMGF=0".to_owned())).count() > 1)
                .then_some(())
        })
        .await;
    rig.machine(|machine| machine.bring(tpdu));
    assert_eq!(rig.inbound().await.text, "after the blink");
}

#[tokio::test(start_paused = true)]
async fn a_modem_left_at_its_prompt_is_freed() {
    let dir = tempfile::tempdir().unwrap();
    let scripted = Scripted::new(Profile::named("standard").unwrap());
    // The former process died there.
    scripted.with(|machine| machine.input(b"AT+CMGS=20\r0011", 0));
    let mut rig = Rig::with(scripted, &ModemConfig::new("cable"), dir.path());
    rig.until_state(SimState::Ready).await;
    assert!(matches!(rig.send("Hello").await, SendOutcome::Sent { .. }));
    assert_eq!(rig.submitted().len(), 1);
}

/// Over a real pseudo-terminal and in real time, with the port found by a link as by `/dev/serial/by-id`.
#[tokio::test]
async fn unplugged_and_plugged_again_over_a_pseudo_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("usb-modem");
    let scripted = Scripted::new(Profile::named("huawei").unwrap());
    plug(&scripted, &link);
    let timing = Timing {
        gap: Duration::from_millis(1),
        quiet: Duration::from_millis(10),
        reopen: Duration::from_millis(20),
        reopen_max: Duration::from_millis(50),
        ..Timing::default()
    };
    let clock = Arc::new(TokioClock(Instant::now()));
    let opener = Box::new(SerialOpener { path: link.clone(), baud: 115_200 });
    let config = ModemConfig::new(&link);
    let modem = Modem::start_with(&config, 3, &dir.path().join("modem"), clock.clone(), opener, timing).unwrap();
    let mut rig = Rig { modem, scripted, clock, passed: VecDeque::new(), messages: 0 };
    rig.until_state(SimState::Ready).await;
    let text = "Ω 🙂 ".repeat(60);
    let outcome = rig.send(&text).await;
    assert!(matches!(outcome, SendOutcome::Sent { segments: 5.., .. }), "{outcome:?}");
    assert_eq!(read(&rig.submitted()), text);

    rig.machine(|machine| machine.fault(Fault::UnplugAfterPdu));
    assert_eq!(rig.send("in doubt").await, SendOutcome::Unknown);
    while rig.modem.sims()[0].state == SimState::Ready {
        rig.event().await;
    }
    rig.machine(Machine::plug);
    plug(&rig.scripted, &link);
    rig.until_state(SimState::Ready).await;
    let tpdus = rig.machine(|machine| deliveries(machine, &Address::Short("100".to_owned()), &text).unwrap());
    tpdus.into_iter().for_each(|tpdu| rig.machine(|machine| machine.bring(tpdu)));
    let received = rig.inbound().await;
    assert_eq!(received.text, text);
    rig.modem.stored(3, received.token);
    let before = rig.submitted().len();
    assert!(matches!(rig.send("after").await, SendOutcome::Sent { .. }));
    assert_eq!(rig.submitted().len(), before + 1, "the one in doubt was not repeated");
}

fn plug(scripted: &Scripted, link: &Path) {
    let port = Pty::open().unwrap();
    let _ = std::fs::remove_file(link);
    std::os::unix::fs::symlink(port.path(), link).unwrap();
    let scripted = scripted.clone();
    tokio::spawn(async move { scripted.play(port).await });
}
