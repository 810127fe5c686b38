//! Received messages: acknowledged in time, put together from their segments, told once.

use std::time::Duration;

use super::super::scripted::deliveries;
use super::*;

const LONG: &str = "Karibu! Малако і хлеб, 牛乳とパン. Ujumbe huu ni mrefu sana, kwa hiyo unahitaji sehemu kadhaa ili \
                    kufika salama kwako, na kila sehemu inakuja peke yake. Asante sana! 🙏";

fn number() -> Address {
    Address::International(Msisdn::from_u64(255_767_000_002).unwrap())
}

fn tpdus(rig: &Rig, from: &Address, text: &str) -> Vec<Vec<u8>> {
    rig.machine(|machine| deliveries(machine, from, text).unwrap())
}

fn bring(rig: &Rig, tpdu: &[u8]) {
    rig.machine(|machine| machine.bring(tpdu.to_vec()));
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[tokio::test(start_paused = true)]
async fn every_maker_receives() {
    for profile in Profile::names() {
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig::ready(profile, dir.path()).await;
        for (from, text) in [
            (number(), "Hello back"),
            (Address::Alphanumeric("VODACOM".to_owned()), "Salio lako ni TZS 500"),
            (Address::Short("15678".to_owned()), LONG),
        ] {
            let parts = tpdus(&rig, &from, text);
            parts.iter().for_each(|part| bring(&rig, part));
            let received = rig.inbound().await;
            assert_eq!((&received.from, received.text.as_str()), (&from, text), "{profile}");
            assert_eq!(usize::from(received.segments), parts.len(), "{profile}");
            assert!(rig.machine(|machine| machine.stored().len()) + files(dir.path()) >= parts.len(), "{profile}");
            rig.modem.stored(3, received.token);
            rig.scripted.until(|machine| machine.stored().is_empty().then_some(())).await;
            while files(dir.path()) > 0 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(rig.machine(|machine| machine.undelivered()), 0, "{profile}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_direct_message_is_acknowledged_before_the_next_job() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("direct", dir.path()).await;
    let parts = tpdus(&rig, &number(), "during a job");
    let (first, second) = (rig.order("one"), rig.order("two"));
    // While the network works on the first job.
    rig.until_logged(|entry| matches!(entry, Log::Submitted { .. })).await;
    bring(&rig, &parts[0]);
    assert!(matches!(rig.result(first).await, SendOutcome::Sent { .. }));
    assert!(matches!(rig.result(second).await, SendOutcome::Sent { .. }));
    assert_eq!(rig.inbound().await.text, "during a job");
    let log = rig.machine(|machine| machine.log().to_vec());
    let at = |wanted: &dyn Fn(&Log) -> bool| log.iter().rposition(wanted).unwrap();
    let acknowledged = log.iter().position(|entry| *entry == Log::Acknowledged).unwrap();
    assert!(acknowledged < at(&|entry| matches!(entry, Log::Submitted { .. })));
    rig.scripted.until(|machine| (machine.undelivered() == 0).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn a_stored_message_stays_until_the_outbox_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("storing", dir.path()).await;
    bring(&rig, &tpdus(&rig, &number(), "keep me")[0]);
    let received = rig.inbound().await;
    // Another round of everything the driver does on its own.
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(rig.machine(|machine| machine.stored().len()), 1);
    rig.modem.stored(3, received.token);
    rig.until_logged(|entry| matches!(entry, Log::Deleted { .. })).await;
    assert_eq!(rig.machine(|machine| machine.stored().len()), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_confirmed_comes_again_after_a_restart() {
    for profile in ["direct", "storing"] {
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig::ready(profile, dir.path()).await;
        bring(&rig, &tpdus(&rig, &number(), "twice")[0]);
        let first = rig.inbound().await;
        let mut rig = rig.restart(dir.path()).await;
        let again = rig.inbound().await;
        assert_eq!((again.text.as_str(), again.digest), ("twice", first.digest), "{profile}");
        rig.modem.stored(3, again.token);
        rig.scripted.until(|machine| machine.stored().is_empty().then_some(())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn parts_survive_a_restart_between_them() {
    for profile in ["direct", "storing", "telit"] {
        let dir = tempfile::tempdir().unwrap();
        let rig = Rig::ready(profile, dir.path()).await;
        let parts = tpdus(&rig, &number(), LONG);
        // Out of order, too.
        parts[1..].iter().rev().for_each(|part| bring(&rig, part));
        let held = || rig.machine(|machine| machine.stored().len()) + files(dir.path());
        while held() < parts.len() - 1 || rig.machine(|machine| machine.undelivered()) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut rig = rig.restart(dir.path()).await;
        bring(&rig, &parts[0]);
        let received = rig.inbound().await;
        assert_eq!(received.text, LONG, "{profile}");
        rig.modem.stored(3, received.token);
        rig.scripted.until(|machine| machine.stored().is_empty().then_some(())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_incomplete_message_is_delivered_as_it_is_in_the_end() {
    for profile in ["direct", "storing"] {
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig::ready(profile, dir.path()).await;
        let parts = tpdus(&rig, &number(), LONG);
        bring(&rig, &parts[0]);
        let begun = Instant::now();
        let received = rig.inbound().await;
        assert!(begun.elapsed() >= Timing::default().parts);
        assert!(received.text.ends_with('…') && LONG.starts_with(received.text.trim_end_matches('…')), "{profile}");
        assert_eq!(usize::from(received.segments), parts.len());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_stored_before_the_start_is_found() {
    for profile in ["standard", "telit", "wordy"] {
        let dir = tempfile::tempdir().unwrap();
        let scripted = Scripted::new(Profile::named(profile).unwrap());
        scripted.with(|machine| {
            let one = deliveries(machine, &number(), "one").unwrap().remove(0);
            let two = deliveries(machine, &number(), "two").unwrap().remove(0);
            machine.place("SM", 4, 0, one);
            machine.place("ME", 7, 1, two);
            // Somebody's own draft, and what nobody can read.
            machine.place("SM", 5, 2, vec![1, 2, 3]);
            machine.place("SM", 6, 0, vec![0xff; 5]);
        });
        let mut rig = Rig::with(scripted, &ModemConfig::new("cable"), dir.path());
        let mut texts = Vec::new();
        for _ in 0..2 {
            let received = rig.inbound().await;
            rig.modem.stored(3, received.token);
            texts.push(received.text);
        }
        texts.sort();
        assert_eq!(texts, ["one", "two"], "{profile}");
        rig.scripted.until(|machine| (machine.stored().len() == 2).then_some(())).await;
        assert_eq!(rig.machine(|machine| machine.stored()), [("SM".to_owned(), 5), ("SM".to_owned(), 6)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_storage_is_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("storing", dir.path()).await;
    // Ten places: nine parts of messages that are not complete, and one that can not be read.
    bring(&rig, &[0xff; 5]);
    let sender = |index: u64| Address::International(Msisdn::from_u64(255_767_000_100 + index).unwrap());
    let messages: Vec<_> = (0..9).map(|index| tpdus(&rig, &sender(index), LONG)).collect();
    messages.iter().for_each(|parts| bring(&rig, &parts[0]));
    bring(&rig, &tpdus(&rig, &number(), "behind the others")[0]);
    let received = rig.inbound().await;
    assert_eq!(received.text, "behind the others");
    assert_eq!(files(dir.path()), 9, "the parts are on disk");
    rig.modem.stored(3, received.token);
    rig.scripted.until(|machine| machine.stored().is_empty().then_some(())).await;
    // And become whole messages when their other parts come.
    for (index, parts) in (0..).zip(&messages) {
        parts[1..].iter().for_each(|part| bring(&rig, part));
        let received = rig.inbound().await;
        assert_eq!((received.from, received.text.as_str()), (sender(index), LONG));
        rig.modem.stored(3, received.token);
        rig.scripted.until(|machine| machine.stored().is_empty().then_some(())).await;
    }
    while files(dir.path()) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_that_was_lost_does_not_stop_the_flow() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::ready("direct", dir.path()).await;
    // The driver is busy with a segment that the network does not answer for a minute, longer than it waits for us.
    rig.machine(|machine| machine.fault(super::super::scripted::Fault::Mute));
    let attempt = rig.order("slow");
    rig.until_logged(|entry| matches!(entry, Log::Submitted { .. })).await;
    bring(&rig, &tpdus(&rig, &number(), "patience")[0]);
    assert_eq!(rig.result(attempt).await, SendOutcome::Unknown);
    let received = rig.inbound().await;
    assert_eq!(received.text, "patience");
    rig.modem.stored(3, received.token);
    // The modem has dropped its indications: the next look sets them again, and the repetition comes.
    rig.scripted.until(|machine| (machine.undelivered() == 0).then_some(())).await;
}

impl Rig {
    /// The process dies and starts again; the modem has power all the time.
    async fn restart(self, dir: &Path) -> Self {
        let Self { modem, scripted, .. } = self;
        drop(modem);
        let mut rig = Self::with(scripted, &ModemConfig::new("cable"), dir);
        rig.until_state(SimState::Ready).await;
        rig
    }
}
