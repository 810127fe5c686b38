//! A short run of `speed`: every kind of installation delivers and counts everything. Its figures mean nothing in a debug
//! build. Needs etcd and PostgreSQL on this machine; without them it says so and does nothing, unless
//! `FLOTILLA_TESTS_REQUIRE_ALL=1`.

use chaos_tests::process::Programs;
use chaos_tests::speed::{self, Kind, Options};

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_is_measured() {
    let folder = tempfile::Builder::new().prefix("flotilla-speed-").tempdir().unwrap();
    let options = Options {
        kinds: Kind::ALL.to_vec(),
        shards: 12,
        tenants: 3,
        devices_per_tenant: 1,
        window: 64,
        messages: 1_200,
        rounds: 1,
        programs: Programs::built().unwrap(),
        folder: folder.path().to_owned(),
    };
    let Some(report) = speed::run(&options).await.unwrap_or_else(|error| panic!("{error:#}")) else { return };
    println!("{report}");
    for kind in Kind::ALL {
        let name = format!("{kind}: delivered and counted");
        assert!(report.figures.iter().any(|figure| figure.name == name && figure.value > 0.0), "{name}");
    }
}
