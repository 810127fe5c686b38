//! The same seed has the same fate, rates come out as asked, and a profile's mistakes are named.

use std::task::Waker;

use flotilla_protocol::id::MessageId;
use flotilla_protocol::wire::{Body, TextEncoding};

use super::*;
use crate::clock::SystemClock;

fn radio(profile: SimProfile, seed: u64, log: Option<Arc<RadioLog>>) -> SimulatedRadio {
    let device = DeviceId::new(1, [7; 10]);
    SimulatedRadio::new(Setup {
        device,
        first_slot: 0,
        sims: Arc::new([profile]),
        seed,
        clock: Arc::new(SystemClock),
        log,
    })
}

fn job(number: u16, text: &str) -> SendJob {
    SendJob {
        attempt: Attempt { message: MessageId::new(1, [3; 10]), number },
        slot: 0,
        to: Msisdn::from_u64(255_700_000_001).unwrap(),
        body: Body::Text(text.into()),
        encoding: TextEncoding::default(),
        flash: false,
        report: true,
        validity_s: 60,
        hand_over_by_ms: u64::MAX,
    }
}

fn drain(radio: &mut SimulatedRadio) -> Vec<RadioEvent> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut events = Vec::new();
    while let Poll::Ready(Some(event)) = radio.poll_event(&mut cx) {
        if !matches!(event, RadioEvent::Health(_)) {
            events.push(event);
        }
    }
    events
}

fn faulty() -> SimProfile {
    SimProfile {
        permanent: 0.1,
        route: 0.1,
        transient: 0.1,
        unknown: 0.1,
        silence: 0.2,
        undelivered: 0.2,
        ..SimProfile::instant()
    }
}

fn life(seed: u64) -> Vec<RadioEvent> {
    let mut radio = radio(faulty(), seed, None);
    let long = "All work and no play makes Jack a dull boy. ".repeat(8);
    (0..2000)
        .flat_map(|number| {
            radio.send(job(number, if number % 3 == 0 { &long } else { "hi" }));
            drain(&mut radio)
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_has_the_same_fate() {
    assert_eq!(life(42), life(42));
    assert_ne!(life(42), life(43));
}

#[tokio::test(start_paused = true)]
async fn rates_come_out_as_asked() {
    let seed = rand::random();
    println!("seed {seed}");
    let events = life(seed);
    let count = |matches: fn(&RadioEvent) -> bool| events.iter().filter(|event| matches(event)).count();
    assert_eq!(count(|event| matches!(event, RadioEvent::Result { .. })), 2000);
    let sent = count(|event| matches!(event, RadioEvent::Result { outcome: SendOutcome::Sent { .. }, .. }));
    assert!((1080..1320).contains(&sent), "{sent} of 1200");
    let unknown = count(|event| matches!(event, RadioEvent::Result { outcome: SendOutcome::Unknown, .. }));
    assert!((130..270).contains(&unknown), "{unknown} of 200");
    let delivered = count(|event| matches!(event, RadioEvent::StatusReport { delivery: Delivery::Delivered, .. }));
    let lost = count(|event| matches!(event, RadioEvent::StatusReport { delivery: Delivery::Undelivered(_), .. }));
    assert!(delivered > 2 * lost && lost > 0, "{delivered} to {lost}");
}

#[tokio::test(start_paused = true)]
async fn answers_take_their_time_and_reports_follow_them() {
    let fixed = |ms| Delay { min_ms: ms, mean_ms: ms, max_ms: ms };
    let mut radio = radio(SimProfile { latency: fixed(300), delivery: fixed(50), ..SimProfile::instant() }, 1, None);
    drain(&mut radio);
    let start = Instant::now();
    radio.send(job(1, "hello"));
    let result = std::future::poll_fn(|cx| radio.poll_event(cx)).await;
    assert!(matches!(result, Some(RadioEvent::Result { outcome: SendOutcome::Sent { segments: 1, .. }, .. })));
    assert_eq!(start.elapsed().as_millis(), 300);
    let report = std::future::poll_fn(|cx| radio.poll_event(cx)).await;
    assert!(matches!(report, Some(RadioEvent::StatusReport { .. })));
    assert_eq!(start.elapsed().as_millis(), 350);
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_logged_and_ends_the_radio_without_a_result() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("radio.log");
    let log = Arc::new(RadioLog::open(&path).unwrap());
    let mut radio = radio(SimProfile { crash: 1.0, ..SimProfile::instant() }, 1, Some(log));
    drain(&mut radio);
    radio.send(job(1, "hello"));
    assert_eq!(std::future::poll_fn(|cx| radio.poll_event(cx)).await, None);
    let line = std::fs::read_to_string(&path).unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    let device = DeviceId::new(1, [7; 10]).to_string();
    let message = MessageId::new(1, [3; 10]).to_string();
    assert_eq!(fields[1..], [device.as_str(), &message, "1", "0", "1", "crashed"]);
}

#[tokio::test(start_paused = true)]
async fn traffic_comes_in_at_its_rate() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut radio = radio(SimProfile { inbound_per_hour: 3600.0, ..SimProfile::instant() }, seed, None);
    let end = Instant::now() + Duration::from_secs(1000);
    let mut received = 0;
    while tokio::time::timeout_at(end, std::future::poll_fn(|cx| radio.poll_event(cx))).await.is_ok() {
        received += 1;
    }
    assert!((850..1150).contains(&received), "{received} of 1000");
}

#[tokio::test(start_paused = true)]
async fn a_device_keeps_its_sims_and_what_the_network_owes_it() {
    let mut first = radio(SimProfile::instant(), 1, None);
    let second = radio(SimProfile::instant(), 2, None);
    assert_eq!(first.sims(), second.sims());
    let sim = &first.sims()[0];
    assert!(sim.iccid.is_some() && sim.imsi.is_some() && sim.msisdn.is_some() && sim.home.is_some());
    let attempt = job(1, "").attempt;
    first.resume(vec![Outstanding { attempt, slot: 0, segment: 3 }]);
    let key = ReportKey::Segment { attempt, segment: 3 };
    let delivery = Delivery::Delivered;
    assert_eq!(drain(&mut first), [RadioEvent::StatusReport { slot: 0, key, delivery, token: 0 }]);
}

#[test]
fn a_profile_is_small_and_its_mistakes_are_named() {
    let text = r#"
        [[group]]
        count = 3
        [[group.sim]]
        silence = 0.5
        latency = { min_ms = 10, mean_ms = 20, max_ms = 100 }
        [[group]]
        window = 8
        [[group.sim]]
        [[group.sim]]
        crash = 0.1
    "#;
    let profile = FleetProfile::parse(text).unwrap();
    assert_eq!(profile.group(2).unwrap().sim[0].silence, 0.5);
    assert_eq!(profile.group(3).unwrap().sim.len(), 2);
    assert_eq!(profile.group(99).unwrap().window, 8);
    for (text, named) in [
        ("[[group]]\nwindow = 0", "window"),
        ("[[group]]\nsim = []", "sim"),
        ("[[group]]\n[[group.sim]]\nsilence = 1.5", "silence"),
        ("[[group]]\n[[group.sim]]\nroute = 0.6\ncrash = 0.6", "more than 1"),
        ("[[group]]\n[[group.sim]]\ndept = 1", "dept"),
        ("group = []", "group"),
    ] {
        let error = FleetProfile::parse(text).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn delays_stay_in_their_bounds() {
    let delay = Delay { min_ms: 100, mean_ms: 300, max_ms: 1_000 };
    assert_eq!(delay.draw_ms(0.0), 100);
    assert_eq!(delay.draw_ms(1.0), 1_000);
    assert_eq!(Delay::default().draw_ms(0.5), 0);
    let mean: u64 = (0..1000).map(|step| delay.draw_ms(f64::from(step) / 1000.0)).sum::<u64>() / 1000;
    assert!((270..310).contains(&mean), "{mean}");
}

#[tokio::test(start_paused = true)]
async fn a_received_message_is_in_the_log_once_it_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("radio.log");
    let log = Arc::new(RadioLog::open(&path).unwrap());
    let mut radio = radio(SimProfile { inbound_per_hour: 3_600.0, ..SimProfile::instant() }, 1, Some(log));
    let event = loop {
        match std::future::poll_fn(|cx| radio.poll_event(cx)).await.unwrap() {
            RadioEvent::Health(_) => {}
            event => break event,
        }
    };
    let RadioEvent::Inbound { slot, from, token, .. } = event else { panic!("{event:?}") };
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    radio.stored(slot, token);
    radio.stored(slot, token);
    let device = DeviceId::new(1, [7; 10]);
    let line = std::fs::read_to_string(&path).unwrap();
    assert!(line.ends_with(&format!(" {device} inbound {from} 0\n")) && line.lines().count() == 1, "{line}");
}
