//! Tables for single rules, and random worlds for the promises: order of each subject, nothing lost, nothing twice at once.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn endpoint(n: u8) -> LineId {
    LineId { webhook: WebhookId::from_bytes([n; 16]), journaled: true, lane: 0 }
}

fn place(seq: u64) -> Place {
    Place { seq, index: 0 }
}

fn parcel(seq: u64, subject: u8) -> Parcel {
    Parcel {
        place: place(seq),
        lane: 0,
        subject: [subject; 16],
        kind: "message.sent".into(),
        at_ms: 0,
        since_ms: 0,
        data: bytes::Bytes::from_static(b"{}"),
        attempts: 0,
        next_ms: 0,
    }
}

fn opened(rate_per_s: u32, parcels: Vec<Parcel>) -> Courier {
    let mut courier = Courier::default();
    courier.open(endpoint(1), rate_per_s);
    assert_eq!(courier.wants(), [(endpoint(1), place(0))]);
    courier.loaded(endpoint(1), parcels, false);
    courier
}

fn taken(courier: &mut Courier, now_ms: u64) -> Vec<u64> {
    courier.take(now_ms, usize::MAX, PARALLEL_MAX).into_iter().map(|(_, parcel)| parcel.place.seq).collect()
}

const REFUSED: Tried = Tried::Refused { retry_after_ms: None };

#[test]
fn a_subject_goes_one_by_one_and_others_beside_it() {
    let mut courier = opened(1_000, vec![parcel(1, 7), parcel(2, 7), parcel(3, 8)]);
    assert_eq!(taken(&mut courier, 10_000), [1, 3]);
    assert_eq!(taken(&mut courier, 10_010), [0u64; 0]);
    assert_eq!(courier.tried(endpoint(1), place(1), &Tried::Delivered, 10_020, 0.5), Some(Verdict::Done));
    assert_eq!(courier.tried(endpoint(1), place(1), &Tried::Delivered, 10_020, 0.5), None, "once");
    assert_eq!(taken(&mut courier, 10_030), [2]);
}

#[test]
fn no_more_go_than_there_is_room_for_and_lines_take_turns() {
    let mut courier = Courier::default();
    for n in 1..=5 {
        courier.open(endpoint(n), 1_000);
        assert_eq!(courier.wants().len(), 1);
        courier.loaded(endpoint(n), (1..=40).map(|seq| parcel(seq, seq as u8)).collect(), false);
    }
    let mut seen: HashMap<LineId, usize> = HashMap::new();
    for round in 0..5 {
        let taken = courier.take(10_000 + round, PARALLEL_MAX, PARALLEL_MAX);
        assert_eq!(taken.len(), PARALLEL_MAX);
        for (line, parcel) in taken {
            *seen.entry(line).or_default() += 1;
            courier.tried(line, parcel.place, &Tried::Delivered, 10_000 + round, 0.5);
        }
    }
    assert_eq!(seen.len(), 5, "each line had its turn: {seen:?}");
    assert_eq!(courier.take(10_010, 0, PARALLEL_MAX), []);
    let pressed = courier.take(10_010, usize::MAX, PARALLEL_PRESSED);
    assert_eq!(pressed.len(), 5 * PARALLEL_PRESSED);
    assert_eq!(courier.next_deadline(PARALLEL_PRESSED), None, "nothing but an answer makes room");
}

#[test]
fn a_refused_event_waits_longer_each_time_and_is_given_up_after_two_days() {
    let mut courier = opened(1_000, vec![parcel(1, 7), parcel(2, 7)]);
    let (mut now_ms, mut pauses) = (0, vec![]);
    loop {
        assert_eq!(taken(&mut courier, now_ms), [1]);
        match courier.tried(endpoint(1), place(1), &REFUSED, now_ms, 0.5).unwrap() {
            Verdict::Again { next_ms, .. } => {
                pauses.push((next_ms - now_ms) / 1_000);
                assert_eq!(taken(&mut courier, next_ms - 1), [0u64; 0]);
                now_ms = courier.next_deadline(PARALLEL_MAX).unwrap();
            }
            Verdict::GivenUp => break,
            Verdict::Done => unreachable!(),
        }
    }
    assert_eq!(pauses[..6], [5, 30, 120, 600, 3_600, 10_800]);
    assert!((GIVE_UP_MS..GIVE_UP_MS + BACK_OFF_MS[6]).contains(&now_ms));
    let again = courier.next_deadline(PARALLEL_MAX).unwrap();
    assert_eq!(taken(&mut courier, again), [2], "the next one has its chance");
}

#[test]
fn a_dead_endpoint_gets_one_event_at_a_time() {
    let mut courier = opened(1_000, (1..=40).map(|n| parcel(n, n as u8)).collect());
    let first = taken(&mut courier, 10_000);
    assert_eq!(first.len(), PARALLEL_MAX);
    for seq in first {
        courier.tried(endpoint(1), place(seq), &REFUSED, 10_000, 0.5).unwrap();
    }
    assert_eq!(taken(&mut courier, 10_001), [0u64; 0]);
    let probe = courier.next_deadline(PARALLEL_MAX).unwrap();
    let probed = taken(&mut courier, probe);
    assert_eq!(probed.len(), 1);
    courier.tried(endpoint(1), place(probed[0]), &Tried::Delivered, probe, 0.5).unwrap();
    assert_eq!(taken(&mut courier, probe + 1).len(), PARALLEL_MAX, "it is back");
}

#[test]
fn an_endpoint_may_ask_for_a_pause_and_has_its_rate() {
    let mut courier = opened(10, vec![parcel(1, 1), parcel(2, 2), parcel(3, 3)]);
    courier.append(endpoint(1), (4..=30).map(|n| parcel(n, n as u8)).collect());
    let mut sent = 0;
    for now_ms in (50_000..55_000).step_by(10) {
        for (_, parcel) in courier.take(now_ms, usize::MAX, PARALLEL_MAX) {
            sent += 1;
            let tried = if parcel.place.seq == 1 && parcel.attempts == 0 {
                Tried::Refused { retry_after_ms: Some(20_000) }
            } else {
                Tried::Delivered
            };
            courier.tried(endpoint(1), parcel.place, &tried, now_ms, 0.0).unwrap();
        }
    }
    assert_eq!(sent, 30, "all but the one that waits, at ten a second after a second's burst");
    assert!(courier.next_deadline(PARALLEL_MAX).unwrap() >= 70_000);
}

/// A store that is away is no endpoint's fault: nothing is counted, given up, or held back for long.
#[test]
fn what_could_not_be_tried_is_tried_a_moment_later() {
    let mut courier = opened(1_000, vec![parcel(1, 7), parcel(2, 7), parcel(3, 8)]);
    let mut now_ms = 10_000;
    for _ in 0..2 * FAILURES_MAX {
        assert_eq!(taken(&mut courier, now_ms), [1, 3]);
        for seq in [1, 3] {
            assert_eq!(courier.tried(endpoint(1), place(seq), &Tried::Not, now_ms, 0.5), None);
        }
        assert_eq!(taken(&mut courier, now_ms + LATER_MS - 1), [0u64; 0]);
        now_ms = courier.next_deadline(PARALLEL_MAX).unwrap();
    }
    now_ms += GIVE_UP_MS;
    assert_eq!(taken(&mut courier, now_ms), [1, 3], "side by side, as to any that works");
    assert_eq!(courier.tried(endpoint(1), place(1), &Tried::Delivered, now_ms, 0.5), Some(Verdict::Done));
    assert_eq!(taken(&mut courier, now_ms), [2]);
}

#[test]
fn hosts_of_callbacks_do_not_wait_for_each_other() {
    let webhook = WebhookId::from_bytes([1; 16]);
    let mut courier = Courier::default();
    LineId::all(webhook, true).for_each(|line| courier.open(line, 1_000));
    assert_eq!(courier.lines.len(), usize::from(CALLBACK_LINES) + 1);
    for (line, _) in courier.wants() {
        courier.loaded(line, Vec::new(), false);
    }
    let of = |lane, seq: u64| Parcel { lane, ..parcel(seq, seq as u8) };
    let [dead, good] = [3, 4].map(|lane| LineId::of(webhook, &of(lane, 1)));
    courier.append(dead, (1..=2 * LANE_WINDOW as u64).map(|seq| of(3, seq)).collect());
    let mut now_ms = 10_000;
    while let taken = courier.take(now_ms, usize::MAX, PARALLEL_MAX)
        && !taken.is_empty()
    {
        for (line, parcel) in taken {
            courier.tried(line, parcel.place, &REFUSED, now_ms, 0.5).unwrap();
        }
        now_ms += 1;
    }
    courier.append(good, vec![of(4, 9_000)]);
    assert_eq!(taken(&mut courier, now_ms), [9_000], "the dead host's line is full, and paused");
    assert_eq!(courier.lines[&dead].parcels.len(), LANE_WINDOW, "the rest is in the store");
    courier.reload(webhook);
    assert_eq!(courier.wants().len(), usize::from(CALLBACK_LINES) + 1);
    courier.close(webhook);
    assert!(courier.lines.is_empty());
}

#[test]
fn lines_do_not_know_of_each_other() {
    let mut courier = opened(1_000, vec![parcel(1, 7)]);
    courier.open(endpoint(2), 1_000);
    courier.wants();
    courier.loaded(endpoint(2), vec![parcel(1, 7)], false);
    assert_eq!(courier.take(10_000, usize::MAX, PARALLEL_MAX).len(), 2);
    courier.close(endpoint(1).webhook);
    assert_eq!(courier.tried(endpoint(1), place(1), &Tried::Delivered, 10_000, 0.5), None);
    assert_eq!(courier.tried(endpoint(2), place(1), &REFUSED, 10_000, 0.5).map(|v| v == Verdict::Done), Some(false));
}

#[derive(Clone, Debug)]
enum Step {
    Append { subject: u8 },
    Pass { ms: u32 },
    End { which: u16, delivered: bool },
    Reload,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..6u8).prop_map(|subject| Step::Append { subject }),
        2 => (1..20_000u32).prop_map(|ms| Step::Pass { ms }),
        6 => (any::<u16>(), prop::bool::weighted(0.7)).prop_map(|(which, delivered)| Step::End { which, delivered }),
        1 => Just(Step::Reload),
    ];
    prop::collection::vec(step, 1..200)
}

/// The store, one endpoint, and what it has been given.
#[derive(Default)]
struct World {
    courier: Courier,
    store: BTreeMap<Place, Parcel>,
    on_their_way: Vec<Parcel>,
    delivered: HashMap<Subject, Vec<u64>>,
    given: u64,
    now_ms: u64,
}

impl World {
    fn settle(&mut self) {
        for (of, after) in self.courier.wants() {
            let rest: Vec<Parcel> = self.store.range(after..).map(|(_, parcel)| parcel.clone()).collect();
            let rest: Vec<Parcel> = rest.into_iter().filter(|parcel| parcel.place > after).collect();
            let page: Vec<Parcel> = rest.iter().take(3).cloned().collect();
            self.courier.loaded(of, page, rest.len() > 3);
        }
        for (_, parcel) in self.courier.take(self.now_ms, usize::MAX, PARALLEL_MAX) {
            assert!(
                self.on_their_way.iter().all(|other| other.subject != parcel.subject),
                "one of a subject at a time"
            );
            self.on_their_way.push(parcel);
        }
    }

    fn end(&mut self, which: usize, delivered: bool) {
        let parcel = self.on_their_way.swap_remove(which);
        let tried = if delivered { Tried::Delivered } else { REFUSED };
        match self.courier.tried(endpoint(1), parcel.place, &tried, self.now_ms, 0.5) {
            Some(Verdict::Done) => {
                self.store.remove(&parcel.place);
                self.delivered.entry(parcel.subject).or_default().push(parcel.place.seq);
            }
            Some(Verdict::Again { attempts, next_ms }) => {
                let kept = self.store.get_mut(&parcel.place).unwrap();
                (kept.attempts, kept.next_ms) = (attempts, next_ms);
            }
            Some(Verdict::GivenUp) => unreachable!("nothing here takes two days"),
            None => {}
        }
    }
}

proptest! {
    #[test]
    fn everything_arrives_and_each_subject_in_its_order(steps in steps()) {
        let mut world = World { now_ms: 10_000, ..World::default() };
        world.courier.open(endpoint(1), 1_000);
        for step in steps {
            match step {
                Step::Append { subject } => {
                    world.given += 1;
                    let parcel = Parcel { since_ms: world.now_ms, ..parcel(world.given, subject) };
                    world.store.insert(parcel.place, parcel.clone());
                    world.courier.append(endpoint(1), vec![parcel]);
                }
                Step::Pass { ms } => world.now_ms += u64::from(ms),
                Step::End { which, delivered } if !world.on_their_way.is_empty() => {
                    let which = usize::from(which) % world.on_their_way.len();
                    world.end(which, delivered);
                }
                Step::End { .. } => {}
                Step::Reload => {
                    // What was on its way is sent again: at least once.
                    world.on_their_way.clear();
                    world.courier.reload(endpoint(1).webhook);
                }
            }
            world.settle();
        }
        // From now on everything is taken.
        loop {
            while !world.on_their_way.is_empty() {
                world.end(0, true);
            }
            world.settle();
            match world.courier.next_deadline(PARALLEL_MAX) {
                _ if !world.on_their_way.is_empty() => {}
                Some(at_ms) => world.now_ms = world.now_ms.max(at_ms),
                None => break,
            }
        }
        prop_assert!(world.store.is_empty(), "left: {:?}", world.store);
        let arrived: usize = world.delivered.values().map(Vec::len).sum();
        prop_assert_eq!(arrived as u64, world.given);
        for order in world.delivered.values() {
            prop_assert!(order.is_sorted(), "{:?}", order);
        }
    }
}
