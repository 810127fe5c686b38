//! The short form of `chaos-tests cluster`: every fault kind once, under load, and then every check.

use chaos_tests::cluster::{self, Options, faults};
use chaos_tests::process::Programs;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_keeps_its_promises_while_its_parts_fail() {
    let seed = std::env::var("FLOTILLA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed} (repeat with FLOTILLA_SEED={seed})");
    let folder = tempfile::Builder::new().prefix("flotilla-chaos-").tempdir().unwrap().keep();
    let options = Options {
        seed,
        programs: Programs::built().unwrap(),
        folder: folder.clone(),
        tenants: 4,
        devices_per_tenant: 3,
        fleets: 2,
        messages_per_s: 40.0,
        valid_for_s: 60,
        faults: faults::schedule(seed, 1, &faults::KINDS, 2),
    };
    let done = cluster::run(&options).await;
    let place = folder.display();
    let Some(outcome) = done.unwrap_or_else(|error| panic!("seed {seed}, logs and data in {place}: {error:?}")) else {
        return std::fs::remove_dir_all(folder).unwrap();
    };
    println!("{outcome:?}");
    assert!(outcome.checked.violations.is_empty(), "seed {seed}, {place}: {:#?}", outcome.checked.violations);
    assert_eq!(outcome.faults, faults::KINDS.len());
    assert!(outcome.checked.promised > 100 && outcome.checked.hand_overs > 100, "hardly anything was sent");
    std::fs::remove_dir_all(folder).unwrap();
}
