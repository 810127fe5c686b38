//! Single steps of the machine; the properties of the hashing are in `hashing`, several machines over one store in `model`.

mod hashing;
mod model;

use std::sync::Arc;

use flotilla_protocol::id::{Epoch, ShardId};

use super::roster::{Roster, Standing};
use super::*;

const TTL_MS: u64 = 2_000;
const LEASE: LeaseId = LeaseId(7);

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

fn seen(text: &str) -> Seen {
    Seen { name: name(text), draining: false, joined: 1 }
}

fn held(node: &str, lease: LeaseId, epoch: u64) -> Option<Held> {
    Some(Held { node: name(node), lease, epoch: Epoch(epoch) })
}

fn snapshot(revision: u64, members: &[Seen], leaders: Vec<Option<Held>>) -> Snapshot {
    Snapshot { revision, members: members.to_vec(), leaders, pins: Vec::new() }
}

fn read(snapshot: Snapshot) -> Input {
    Input::Read(Arc::new(snapshot))
}

/// A machine called `a` with a lease since time 0.
fn machine(shards: u16) -> Ownership {
    let mut machine = Ownership::new(name("a"), Settings::new(shards));
    assert_eq!(machine.handle(Input::Granted { lease: LEASE, sent_ms: 0, ttl_ms: TTL_MS }, 5), []);
    machine
}

fn campaign(shard: u16) -> Effect {
    Effect::Campaign { shard: ShardId(shard), lease: LEASE }
}

fn won(shard: u16, epoch: u64) -> Input {
    Input::Won { shard: ShardId(shard), lease: LEASE, epoch: Epoch(epoch), revision: epoch }
}

fn gained(shard: u16, epoch: u64) -> Effect {
    Effect::Leadership(Leadership::Gained { shard: ShardId(shard), epoch: Epoch(epoch) })
}

fn lost(shard: u16) -> Effect {
    Effect::Leadership(Leadership::Lost { shard: ShardId(shard) })
}

fn drain(shard: u16) -> Effect {
    Effect::Leadership(Leadership::Drain { shard: ShardId(shard) })
}

fn resign(shard: u16, epoch: u64) -> Effect {
    Effect::Resign { shard: ShardId(shard), lease: LEASE, epoch: Epoch(epoch) }
}

/// Keeps the lease up to `now_ms` and lets the time pass.
fn keep(machine: &mut Ownership, now_ms: u64) -> Vec<Effect> {
    machine.handle(Input::Renewed { lease: LEASE, sent_ms: now_ms, ttl_ms: TTL_MS }, now_ms)
}

/// A machine that leads all of `shards` shards since the first milliseconds, alone.
fn leading(shards: u16) -> Ownership {
    let mut machine = machine(shards);
    machine.handle(read(snapshot(1, &[seen("a")], vec![None; usize::from(shards)])), 10);
    for shard in 0..shards {
        machine.handle(won(shard, u64::from(shard) + 2), 10);
    }
    assert_eq!(machine.led(), usize::from(shards));
    machine
}

fn all_mine(shards: u16) -> Vec<Option<Held>> {
    (0..shards).map(|shard| held("a", LEASE, u64::from(shard) + 2)).collect()
}

#[test]
fn a_node_that_is_alone_takes_everything_at_once() {
    let mut machine = machine(2);
    assert_eq!(machine.handle(read(snapshot(1, &[seen("a")], vec![None, None])), 10), [campaign(0), campaign(1)]);
    assert_eq!(machine.handle(won(0, 2), 12), [gained(0, 2)]);
    assert_eq!(machine.leads(ShardId(0), 12), Some(Epoch(2)));
    assert_eq!(machine.leads(ShardId(1), 12), None);
}

#[test]
fn leadership_ends_a_margin_before_the_lease_does() {
    let mut machine = leading(1);
    assert_eq!(machine.lease_left_ms(10), Some(1_790));
    assert_eq!(machine.leads(ShardId(0), 1_799), Some(Epoch(2)));
    assert_eq!(machine.leads(ShardId(0), 1_800), None, "even before the machine is told the time");
    // A renewal counts from when it was sent, and one that comes after the deadline does not count at all.
    keep(&mut machine, 1_000);
    assert_eq!(machine.lease_left_ms(1_000), Some(1_800));
    let late = Input::Renewed { lease: LEASE, sent_ms: 2_500, ttl_ms: TTL_MS };
    assert_eq!(machine.handle(late, 2_800), [lost(0), Effect::Renounce { lease: LEASE }]);
    assert_eq!(machine.led(), 0);
}

#[test]
fn an_older_renewal_that_arrives_late_takes_nothing_away() {
    let mut machine = leading(1);
    keep(&mut machine, 1_000);
    machine.handle(Input::Renewed { lease: LEASE, sent_ms: 300, ttl_ms: TTL_MS }, 1_100);
    assert_eq!(machine.lease_left_ms(1_100), Some(1_700));
}

#[test]
fn a_lease_that_the_store_ended_ends_everything_and_old_wins_are_void() {
    let mut machine = machine(2);
    machine.handle(read(snapshot(1, &[seen("a")], vec![None, None])), 10);
    machine.handle(won(0, 2), 11);
    assert_eq!(machine.handle(Input::Ended { lease: LEASE }, 20), [lost(0), Effect::Renounce { lease: LEASE }]);
    assert_eq!(machine.handle(won(1, 3), 21), []);
    // Under a new lease everything is campaigned for again.
    let next = LeaseId(8);
    assert_eq!(machine.handle(Input::Granted { lease: next, sent_ms: 30, ttl_ms: TTL_MS }, 31), []);
    let effects = machine.handle(read(snapshot(9, &[seen("a")], vec![None, None])), 32);
    assert_eq!(effects, [0, 1].map(|shard| Effect::Campaign { shard: ShardId(shard), lease: next }));
}

#[test]
fn a_grant_that_took_too_long_is_given_back() {
    let mut machine = Ownership::new(name("a"), Settings::new(1));
    let effects = machine.handle(Input::Granted { lease: LEASE, sent_ms: 0, ttl_ms: TTL_MS }, 1_800);
    assert_eq!(effects, [Effect::Renounce { lease: LEASE }]);
}

#[test]
fn another_leader_or_a_removed_key_is_a_loss_unless_the_word_is_old() {
    let mut machine = machine(1);
    machine.handle(read(snapshot(1, &[seen("a")], vec![None])), 10);
    machine.handle(won(0, 5), 11);
    assert_eq!(machine.handle(read(snapshot(4, &[seen("a")], vec![None])), 12), [], "read before the win");
    assert_eq!(machine.handle(read(snapshot(5, &[seen("a")], vec![held("a", LEASE, 5)])), 13), []);
    let gone = machine.handle(read(snapshot(6, &[seen("a")], vec![None])), 14);
    assert_eq!(gone, [lost(0), campaign(0)]);
    machine.handle(won(0, 7), 15);
    let other = vec![held("b", LeaseId(9), 8)];
    assert_eq!(machine.handle(read(snapshot(8, &[seen("a"), seen("b")], other)), 16), [lost(0)]);
}

#[test]
fn a_campaign_that_only_looked_failed_is_a_win_when_it_shows() {
    let mut machine = machine(1);
    machine.handle(read(snapshot(1, &[seen("a")], vec![None])), 10);
    assert_eq!(machine.handle(Input::Unclear { shard: ShardId(0), lease: LEASE }, 500), []);
    let mine = vec![held("a", LEASE, 2)];
    assert_eq!(machine.handle(read(snapshot(2, &[seen("a")], mine)), 510), [gained(0, 2)]);
}

#[test]
fn an_answer_to_an_earlier_campaign_wins_nothing() {
    let mut machine = machine(1);
    machine.handle(read(snapshot(1, &[seen("a")], vec![None])), 10);
    machine.handle(read(snapshot(2, &[seen("a")], vec![held("a", LEASE, 2)])), 20);
    machine.handle(Input::Released { shard: ShardId(0) }, 30);
    assert_eq!(machine.handle(read(snapshot(3, &[seen("a")], vec![None])), 130), [campaign(0)]);
    assert_eq!(machine.handle(won(0, 2), 140), [], "its key is gone");
    assert_eq!(machine.handle(won(0, 4), 150), [gained(0, 4)]);
}

#[test]
fn a_failed_campaign_is_repeated_after_a_growing_pause() {
    let mut machine = machine(1);
    machine.handle(read(snapshot(1, &[seen("a")], vec![None])), 10);
    machine.handle(Input::Unclear { shard: ShardId(0), lease: LEASE }, 100);
    assert_eq!(machine.next_deadline(), Some(200));
    assert_eq!(machine.handle(Input::Tick, 200), [campaign(0)]);
    machine.handle(Input::Unclear { shard: ShardId(0), lease: LEASE }, 300);
    assert_eq!(machine.next_deadline(), Some(500));
}

#[test]
fn a_new_member_is_given_its_shards_after_settling_a_few_at_once() {
    const SHARDS: u16 = 64;
    let mut machine = leading(SHARDS);
    let members = [seen("a"), seen("b")];
    assert_eq!(machine.handle(read(snapshot(100, &members, all_mine(SHARDS))), 1_000), []);
    keep(&mut machine, 1_500);
    assert_eq!(machine.handle(Input::Tick, 2_999), [], "not settled");
    let drains = machine.handle(Input::Tick, 3_000);
    let theirs = |shard: &u16| weight(ShardId(*shard), &name("b")) > weight(ShardId(*shard), &name("a"));
    let mut moving = (0..SHARDS).filter(theirs).collect::<Vec<_>>();
    assert_eq!(drains, moving.iter().take(4).map(|shard| drain(*shard)).collect::<Vec<_>>());
    // The next one goes when another leads the first.
    let first = moving.remove(0);
    let epoch = u64::from(first) + 2;
    assert_eq!(machine.handle(Input::Released { shard: ShardId(first) }, 3_010), [resign(first, epoch)]);
    let mut leaders = all_mine(SHARDS);
    leaders[usize::from(first)] = held("b", LeaseId(9), 101);
    assert_eq!(machine.handle(read(snapshot(101, &members, leaders)), 3_020), [drain(moving[3])]);
}

#[test]
fn the_shards_of_a_dead_member_are_taken_at_once_by_the_next_in_order() {
    let mut machine = machine(64);
    let of_b = (0..64).map(|shard| held("b", LeaseId(9), shard + 2)).collect();
    machine.handle(read(snapshot(100, &[seen("a"), seen("b"), seen("c")], of_b)), 10);
    keep(&mut machine, 1_500);
    keep(&mut machine, 3_000);
    let effects = machine.handle(read(snapshot(101, &[seen("a"), seen("c")], vec![None; 64])), 3_001);
    let mine = |shard: &u16| weight(ShardId(*shard), &name("a")) > weight(ShardId(*shard), &name("c"));
    assert_eq!(effects, (0..64).filter(mine).map(campaign).collect::<Vec<_>>());
    // What the other does not take is tried for when its time is over.
    keep(&mut machine, 4_000);
    let rest = machine.handle(Input::Tick, 4_001);
    assert_eq!(rest, (0..64).filter(|shard| !mine(shard)).map(campaign).collect::<Vec<_>>());
}

#[test]
fn a_member_that_comes_and_goes_waits_longer_each_time() {
    let settings = Settings::new(1);
    let mut roster = Roster::default();
    let (a, b) = (seen("a"), |joined| Seen { joined, ..seen("b") });
    let mut now_ms = 0;
    roster.see(std::slice::from_ref(&a), |_| true, &settings, now_ms);
    let mut waits = Vec::new();
    for joined in 1..12 {
        now_ms += 50;
        roster.see(&[a.clone(), b(joined)], |_| false, &settings, now_ms);
        let settled = |at: u64| roster.candidates(at, 0).any(|(n, s)| *n == name("b") && s == Standing::Settled);
        let wait_ms = (0..).step_by(1_000).find(|wait| settled(now_ms + wait)).unwrap();
        waits.push(wait_ms / 1_000);
    }
    assert_eq!(waits, [2, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    // Forgiven after a calm time.
    now_ms += settings.calm_ms;
    roster.see(&[a, b(99)], |_| false, &settings, now_ms);
    assert!(roster.candidates(now_ms + 2_000, 0).all(|(_, standing)| standing == Standing::Settled));
}

#[test]
fn a_pin_wins_while_its_node_lives_and_a_drain_wins_over_it() {
    let mut machine = leading(2);
    let pins = vec![(ShardId(0), name("b")), (ShardId(1), name("b"))];
    let with =
        |revision, members: &[Seen]| read(Snapshot { pins: pins.clone(), ..snapshot(revision, members, all_mine(2)) });
    machine.handle(with(100, &[seen("a"), seen("b")]), 1_000);
    keep(&mut machine, 1_700);
    assert_eq!(machine.handle(Input::Tick, 3_000), [drain(0), drain(1)]);

    let mut machine = leading(2);
    let draining = Seen { draining: true, ..seen("b") };
    machine.handle(with(100, &[seen("a"), draining]), 1_000);
    keep(&mut machine, 1_700);
    assert_eq!(machine.handle(Input::Tick, 3_000), []);
    assert_eq!(machine.handle(with(101, &[seen("a")]), 3_001), []);
}

#[test]
fn a_draining_node_hands_over_if_there_is_anybody_else() {
    let draining = Seen { draining: true, ..seen("a") };
    let mut machine = leading(1);
    assert_eq!(machine.handle(read(snapshot(100, std::slice::from_ref(&draining), all_mine(1))), 20), []);
    // Somebody new will do.
    assert_eq!(machine.handle(read(snapshot(101, &[draining, seen("b")], all_mine(1))), 30), [drain(0)]);
}

#[test]
fn a_node_that_leaves_hands_everything_over_and_takes_nothing() {
    let mut machine = leading(6);
    assert_eq!(machine.handle(Input::Shutdown, 20), [drain(0), drain(1), drain(2), drain(3)]);
    assert_eq!(machine.handle(Input::Released { shard: ShardId(2) }, 21), [resign(2, 4), drain(4)]);
    let mut leaders = all_mine(6);
    leaders[2] = None;
    assert_eq!(machine.handle(read(snapshot(100, &[seen("a")], leaders)), 22), []);
    for shard in [0, 1, 3, 4, 5] {
        machine.handle(Input::Released { shard: ShardId(shard) }, 23);
    }
    assert_eq!(machine.led(), 0);
    assert_eq!(machine.handle(Input::Tick, 24), []);
}

#[test]
fn a_drain_that_does_not_end_is_ended() {
    let mut machine = leading(1);
    machine.handle(Input::Shutdown, 20);
    for now_ms in (1_000..10_000).step_by(1_000) {
        assert_eq!(keep(&mut machine, now_ms), []);
    }
    assert_eq!(machine.handle(Input::Tick, 10_020), [lost(0), resign(0, 2)]);
}

#[test]
fn a_shard_that_stops_by_itself_is_let_go_and_tried_again_later() {
    let mut machine = leading(1);
    assert_eq!(machine.handle(Input::Released { shard: ShardId(0) }, 20), [lost(0), resign(0, 2)]);
    assert_eq!(machine.handle(read(snapshot(3, &[seen("a")], vec![None])), 30), []);
    assert_eq!(machine.handle(Input::Tick, 120), [campaign(0)]);
}

#[test]
fn an_heir_that_does_not_take_what_it_is_given_is_held_down() {
    let members = [seen("a"), seen("b")];
    let mut machine = leading(1);
    let pin = vec![(ShardId(0), name("b"))];
    let with = |revision, leader| read(Snapshot { pins: pin.clone(), ..snapshot(revision, &members, vec![leader]) });
    machine.handle(with(100, held("a", LEASE, 2)), 1_000);
    keep(&mut machine, 1_700);
    keep(&mut machine, 2_900);
    assert_eq!(machine.handle(Input::Tick, 3_000), [drain(0)]);
    machine.handle(Input::Released { shard: ShardId(0) }, 3_001);
    assert_eq!(machine.handle(with(101, None), 3_002), []);
    keep(&mut machine, 4_000);
    assert_eq!(machine.handle(Input::Tick, 4_002), [campaign(0)]);
    assert_eq!(machine.handle(won(0, 102), 4_003), [gained(0, 102)]);
    for now_ms in (5_000..8_000).step_by(1_000) {
        assert_eq!(keep(&mut machine, now_ms), [], "not at once again");
    }
    assert_eq!(machine.handle(Input::Tick, 8_003), [drain(0)]);
}

#[test]
fn after_an_outage_everybody_gets_a_moment_to_come_back() {
    let mut machine = machine(64);
    let of = |shard: u64| if mine(shard) { held("a", LEASE, shard + 2) } else { held("b", LeaseId(9), shard + 2) };
    fn mine(shard: u64) -> bool {
        weight(ShardId(shard as u16), &name("a")) > weight(ShardId(shard as u16), &name("b"))
    }
    machine.handle(read(snapshot(100, &[seen("a"), seen("b")], (0..64).map(of).collect())), 10);
    machine.handle(Input::Tick, 1_800);
    machine.handle(Input::Granted { lease: LeaseId(8), sent_ms: 9_000, ttl_ms: TTL_MS }, 9_001);
    // The other one's keys ran out too.
    let back = Seen { joined: 101, ..seen("a") };
    let effects = machine.handle(read(snapshot(101, &[back], vec![None; 64])), 9_002);
    let first = (0..64).filter(|shard| mine(*shard));
    let tries = |shard: u64| Effect::Campaign { shard: ShardId(shard as u16), lease: LeaseId(8) };
    assert_eq!(effects, first.map(tries).collect::<Vec<_>>());
    let rest = machine.handle(Input::Tick, 10_002);
    assert_eq!(rest, (0..64).filter(|shard| !mine(*shard)).map(tries).collect::<Vec<_>>());
}
