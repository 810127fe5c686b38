//! The short form of `chaos-tests real`: every fault kind at least once, in little more than a message's validity.

use chaos_tests::process::Programs;
use chaos_tests::scenario::{self, Options};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_sent_twice_while_processes_are_killed() {
    let seed = std::env::var("FLOTILLA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed} (repeat with FLOTILLA_SEED={seed})");
    let folder = tempfile::Builder::new().prefix("flotilla-chaos-").tempdir().unwrap();
    let options = Options {
        messages: 5_000,
        controller_kills: 3,
        fleets: 2,
        devices_per_fleet: 10,
        fleet_kills: 3,
        valid_for_s: 60,
        seed,
        programs: Programs::built().unwrap(),
        folder: folder.path().to_owned(),
    };
    let outcome = scenario::run(&options).await.unwrap();
    println!("{outcome:?}");
    assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
    assert_eq!(outcome.promised, 5_000);
    assert_eq!((outcome.controller_kills, outcome.fleet_kills), (3, 3));
}
