//! The short form of `chaos-tests routing`: every fault once, and then every check.

use chaos_tests::process::Programs;
use chaos_tests::routing::{self, Options};

#[tokio::test(flavor = "multi_thread")]
async fn messages_get_away_from_what_fails_and_none_goes_out_twice() {
    let seed = std::env::var("FLOTILLA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed} (repeat with FLOTILLA_SEED={seed})");
    let folder = tempfile::Builder::new().prefix("flotilla-routing-").tempdir().unwrap().keep();
    let options = Options {
        messages: 5_000,
        messages_per_s: 80.0,
        valid_for_s: 60,
        rounds: 1,
        seed,
        programs: Programs::built().unwrap(),
        folder: folder.clone(),
    };
    let place = folder.display();
    let outcome =
        routing::run(&options).await.unwrap_or_else(|error| panic!("seed {seed}, logs and data in {place}: {error:?}"));
    println!("{}\n{}", outcome.report, outcome.phases);
    assert!(outcome.violations.is_empty(), "seed {seed}, {place}: {:#?}", outcome.violations);
    assert_eq!((outcome.promised, outcome.faults.len()), (5_000, 5));
    let delivered = outcome.report.states.get("delivered").copied().unwrap_or_default();
    assert!(delivered > 3_000, "hardly anything was delivered: {:?}", outcome.report.states);
    assert!(outcome.report.failovers.iter().any(|failover| !failover.moved.is_empty()), "nothing has moved");
    std::fs::remove_dir_all(folder).unwrap();
}
