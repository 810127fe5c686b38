//! Nodes that die.

use tokio::time::sleep;

use super::*;

const KILLS: u32 = 6;

/// At the default lease. The lease of a dead node ends 1.3 to 2 s after its death, and etcd looks for ended leases twice a
/// second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shards_of_a_killed_node_are_led_elsewhere_in_time() {
    let _turn = turn().await;
    let Some(servers) = EtcdServers::start(3).await else { return };
    let witness = Witness::new();
    let quick = EtcdConfig { settle_ms: 200, ..config(&servers) };
    let _a = Node::start(quick.clone(), "a", &witness).await;
    let _b = Node::start(quick.clone(), "b", &witness).await;
    let mut times = Vec::new();
    for round in 0..KILLS {
        let victim_name = format!("victim-{round}");
        let victim = Node::start(quick.clone(), &victim_name, &witness).await;
        let before = witness.shared_out(&["a", "b", &victim_name]).await;
        let orphans = before.of(&victim_name);
        assert!(!orphans.is_empty());
        // Deaths are spread evenly over the time between two renewals.
        sleep(Duration::from_millis(2_000 / 3) * round / KILLS).await;
        let died = victim.die().await;
        let board = witness.shared_out(&["a", "b"]).await;
        let gained = board.gains.iter().skip(before.gains.len());
        let round_times = gained.filter(|(_, _, shard)| orphans.contains(shard)).map(|(at, ..)| *at - died);
        times.extend(round_times);
        let moved = board.losses.len() - before.losses.len();
        assert_eq!(moved, 0, "nothing else moves");
    }
    report("takeover of a shard of a killed node", times.clone());
    let slowest = times.iter().max().copied().unwrap_or_default();
    assert!(slowest < Duration::from_secs(4), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_comes_back_under_its_name() {
    let _turn = turn().await;
    let Some(servers) = EtcdServers::start(1).await else { return };
    let witness = Witness::new();
    let node = Node::start(config(&servers), "a", &witness).await;
    witness.shared_out(&["a"]).await;
    let died = node.die().await;
    let _again = Node::start(config(&servers), "a", &witness).await;
    witness.shared_out(&["a"]).await;
    println!("a node that was killed and started at once leads again after {} ms", died.elapsed().as_millis());
}
