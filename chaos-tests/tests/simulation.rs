//! A share of the simulation for every test run: a few hundred seeds, the seeds that have found something, and the deliberate
//! bugs that the checker has to see. More and longer ones: `cargo run -p chaos-tests -- sim`.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use chaos_tests::sim::{self, Flaw, Options, Size};

/// Small enough for hundreds of seeds in a development build.
const SHORT: Size = Size { nodes: 3, devices: 10, tenants: 6, minutes: 3 };
const SEEDS: u64 = 200;
/// A deliberate bug is found within so many seeds.
const FLAW_SEEDS: u64 = 60;

fn options(size: Size, flaw: Option<Flaw>) -> Options {
    Options { size, flaw }
}

#[track_caller]
fn holds(seed: u64, size: Size) {
    let options = options(size, None);
    if let Some(story) = sim::shrink(seed, &options, 60) {
        let ops: Vec<String> = story.ops.iter().map(|op| format!("{op:?}")).collect();
        panic!("seed {seed} of {size:?}: {:?}\n{}\n{}", story.violation, ops.join("\n"), story.log.join("\n"));
    }
}

#[test]
fn every_promise_is_kept_over_many_seeds() {
    let first = std::env::var("FLOTILLA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("seeds {first}..{} (others with FLOTILLA_SEED=first)", first + SEEDS);
    for seed in first..first + SEEDS {
        holds(seed, SHORT);
    }
}

/// `seeds.txt`: seed, devices, minutes, and what it found.
#[test]
fn seeds_that_found_something_find_nothing_any_more() {
    let lines = include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let mut kept = 0;
    for line in lines {
        let mut words = line.split_whitespace().map(|word| word.parse::<u64>());
        let (Some(Ok(seed)), Some(Ok(devices)), Some(Ok(minutes))) = (words.next(), words.next(), words.next()) else {
            panic!("not `seed devices minutes what`: {line}");
        };
        holds(seed, Size { nodes: 3, devices: devices as usize, tenants: 6, minutes });
        kept += 1;
    }
    assert!(kept > 0, "the file is read");
}

#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in [1, 7, 42] {
        let tell = || {
            let outcome = sim::run(seed, &options(SHORT, None), true);
            let mut hasher = DefaultHasher::new();
            outcome.log.hash(&mut hasher);
            (hasher.finish(), outcome.log.len(), outcome.events)
        };
        let first = tell();
        assert!(first.1 > 50, "there is a story: {first:?}");
        assert_eq!(tell(), first, "seed {seed}");
    }
}

#[test]
fn faults_of_every_kind_are_met() {
    let mut met = std::collections::BTreeMap::new();
    for seed in 1..=60 {
        for (kind, n) in sim::run(seed, &options(SHORT, None), false).counts {
            *met.entry(kind).or_insert(0) += n;
        }
    }
    println!("{met:#?}");
    let kinds = [
        "SIM not ready",
        "address changed",
        "clock set",
        "commit given up, then written",
        "commit lost",
        "commit not answered",
        "controller drained",
        "controller killed",
        "controller paused",
        "a provider is asked for news",
        "callback doubled",
        "callback handed on",
        "callback lost",
        "cut one way",
        "datagram doubled",
        "datagram late",
        "datagram lost",
        "deaf watches",
        "device killed",
        "device paused",
        "etcd down",
        "late duplicates",
        "lossy one way",
        "modem crashed",
        "inbound at a provider",
        "partition",
        "provider down",
        "provider refuses",
        "provider slow",
        "slow disk",
        "slow store",
        "store down",
        "taken by a provider",
        "taken, and answered with an error",
        "taken, and not answered",
        "unknown commits",
    ];
    for kind in kinds {
        assert!(met.get(kind).is_some_and(|n| *n > 0), "{kind}");
    }
}

/// The invariant that a seed breaks.
fn finds_in(seed: u64, flaw: Flaw) -> Option<&'static str> {
    sim::run(seed, &options(SHORT, Some(flaw)), false).violation.map(|violation| violation.invariant)
}

/// The one that the first finding seed broke.
fn finds(flaw: Flaw) -> Option<(u64, &'static str)> {
    (1..=FLAW_SEEDS).find_map(|seed| Some((seed, finds_in(seed, flaw)?)))
}

#[track_caller]
fn is_found(flaw: Flaw, invariants: &[&str]) {
    let found = finds(flaw);
    println!("{flaw:?}: {found:?}");
    assert!(found.is_some_and(|(_, invariant)| invariants.contains(&invariant)), "{flaw:?}: {found:?}");
}

#[test]
fn acknowledging_before_the_commit_is_found() {
    is_found(Flaw::AcknowledgeBeforeCommit, &["no_acknowledged_message_lost"]);
}

#[test]
fn dispatching_before_the_commit_is_found() {
    is_found(Flaw::DispatchBeforeCommit, &["dispatched_after_commit"]);
}

#[test]
fn a_store_without_epochs_is_found() {
    // Whatever two leaders at once do first.
    let signs = [
        "one_leader_writes_per_epoch",
        "ended_never_changes",
        "attempts_are_charged_once",
        "no_unexplained_duplicate",
        "one_message_per_request",
        "refused_means_nothing",
    ];
    is_found(Flaw::NoEpochCheck, &signs);
}

#[test]
fn ignored_idempotency_keys_are_found() {
    is_found(Flaw::NoDedupe, &["one_message_per_request"]);
}

#[test]
fn lost_reports_are_found() {
    is_found(Flaw::LostReport, &["report_acknowledged_after_commit"]);
}

#[test]
fn a_device_that_forgets_what_it_was_sending_is_found() {
    is_found(Flaw::NoOutbox, &["attempt_sent_once", "no_unexplained_duplicate"]);
}

#[test]
fn limits_that_do_not_reach_the_shard_are_found() {
    is_found(Flaw::NoLimits, &["budget_never_exceeded"]);
}

#[test]
fn pauses_that_do_not_reach_the_shard_are_found() {
    is_found(Flaw::NoGaps, &["pause_is_kept"]);
}

#[test]
fn send_windows_that_do_not_reach_the_shard_are_found() {
    is_found(Flaw::NoWindows, &["nothing_outside_its_window"]);
}

#[test]
fn recipients_that_are_not_counted_are_found() {
    is_found(Flaw::NoRecipientLimit, &["recipient_limit_never_exceeded"]);
}

#[test]
fn rules_that_do_not_reach_the_shard_are_found() {
    is_found(Flaw::NoRules, &["plan_is_followed"]);
}

#[test]
fn steps_in_the_wrong_order_are_found() {
    is_found(Flaw::StepsReversed, &["plan_is_followed", "fallback_only_when_needed"]);
}

#[test]
fn fallbacks_without_need_are_found() {
    is_found(Flaw::StrangeLimits, &["fallback_only_when_needed"]);
}

#[test]
fn a_request_without_an_answer_that_counts_as_not_sent_is_found() {
    is_found(Flaw::TimeoutAsRefusal, &["no_unexplained_duplicate"]);
}

#[test]
fn callbacks_that_are_answered_before_the_commit_are_found() {
    is_found(Flaw::EarlyCallbackAnswer, &["report_acknowledged_after_commit", "inbound_once"]);
}

#[test]
fn a_leader_that_forgets_what_was_charged_is_found() {
    let signs = ["budget_never_exceeded", "pause_is_kept", "recipient_limit_never_exceeded", "ledger_equals_journal"];
    is_found(Flaw::ForgottenLedger, &signs);
}

#[test]
fn facts_that_count_twice_are_found() {
    is_found(Flaw::FactsTwice, &["ledger_equals_journal"]);
}

#[test]
fn a_refusal_for_good_that_is_tried_again_is_found() {
    is_found(Flaw::PermanentAsTransient, &["no_permanent_failure_retried"]);
}

#[test]
fn urgent_messages_behind_bulk_ones_are_found() {
    // Rules look at the class, and what is taken for urgent is not held back by what its recipient has had: both are seen sooner.
    let sooner = ["plan_is_followed", "recipient_limit_never_exceeded"];
    let mut found = (1..=FLAW_SEEDS).filter_map(|seed| Some((seed, finds_in(seed, Flaw::UrgentAsBulk)?)));
    let found = found.find(|(_, invariant)| !sooner.contains(invariant));
    println!("{found:?}");
    assert!(found.is_some_and(|(_, invariant)| invariant == "urgent_before_bulk"), "{found:?}");
}

#[test]
fn messages_that_go_out_after_their_validity_are_found() {
    is_found(Flaw::LongValidity, &["ends_by_its_validity"]);
}

/// Epochs in the store make it harmless, and that is why there are epochs.
#[test]
fn a_leader_that_goes_on_after_its_lease_does_no_harm() {
    assert_eq!(finds(Flaw::NoSelfFence), None);
}
