//! etcd itself fails: a member, its leader, all of it.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_of_etcd_may_die_at_any_time() {
    let _turn = turn().await;
    let Some(mut servers) = EtcdServers::start(3).await else { return };
    let leader = servers.leader().await;
    // Not even there when the nodes start.
    let follower = (leader + 1) % 3;
    servers.kill(follower);
    let witness = Witness::new();
    let nodes = ["a", "b", "c"];
    let _a = Node::start(config(&servers), "a", &witness).await;
    let _b = Node::start(config(&servers), "b", &witness).await;
    let _c = Node::start(config(&servers), "c", &witness).await;
    let before = witness.shared_out(&nodes).await;
    servers.restart(follower);
    servers.ready(follower).await;
    // Another follower, which serves somebody.
    let other = (leader + 2) % 3;
    servers.kill(other);
    let mut d = Node::start(config(&servers), "d", &witness).await;
    d.sees("everything led", |view| view.fresh && view.leaders.iter().all(Option::is_some)).await;
    let after = witness.shared_out(&["a", "b", "c", "d"]).await;
    // Only what the new one leads has moved.
    let moved =
        after.losses[before.losses.len()..].iter().filter(|(_, _, shard)| !after.of("d").contains(shard)).count();
    println!("etcd follower killed: {moved} shards changed their leader for it");
    servers.restart(other);
    servers.ready(other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_leader_that_stops_answering_is_replaced() {
    let _turn = turn().await;
    let Some(servers) = EtcdServers::start(3).await else { return };
    let witness = Witness::new();
    let mut a = Node::start(config(&servers), "a", &witness).await;
    let _b = Node::start(config(&servers), "b", &witness).await;
    let before = witness.shared_out(&["a", "b"]).await;
    let leader = servers.leader().await;
    servers.pause(leader);
    let stopped = Instant::now();
    // The nodes' leases outlive it or do not; either way everything is led by the same nodes in the end, and they can act.
    let control = Arc::clone(&a.control);
    let moved = loop {
        if control.move_shard(ShardId(before.of("a")[0]), Some(name("b"))).await.is_ok() {
            break stopped.elapsed();
        }
    };
    println!("etcd leader stopped: a wish is recorded after {} ms", moved.as_millis());
    control.move_shard(ShardId(before.of("a")[0]), None).await.unwrap();
    a.sees("fresh", |view| view.fresh && view.leaders.iter().all(Option::is_some)).await;
    let after = witness.shared_out(&["a", "b"]).await;
    let gaps = after.losses[before.losses.len()..].iter().map(|(at, _, shard)| {
        after.gains.iter().find(|gain| gain.2 == *shard && gain.0 > *at).map_or(Duration::ZERO, |gain| gain.0 - *at)
    });
    report("etcd leader stopped: a shard without a leader", gaps.collect());
    servers.resume(leader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_etcd_every_node_fences_itself_and_comes_back_by_itself() {
    let _turn = turn().await;
    let Some(mut servers) = EtcdServers::start(3).await else { return };
    let witness = Witness::new();
    let mut a = Node::start(config(&servers), "a", &witness).await;
    let _b = Node::start(config(&servers), "b", &witness).await;
    witness.shared_out(&["a", "b"]).await;
    for member in 0..3 {
        servers.pause(member);
    }
    let stopped = Instant::now();
    let board = witness.until("nobody leads", |board| board.led.is_empty()).await;
    let last = board.losses.iter().map(|loss| loss.0).max().unwrap();
    println!("etcd stopped: the last shard is given up after {} ms", (last - stopped).as_millis());
    assert!(last - stopped < Duration::from_millis(2_000), "no later than the lease");
    a.sees("that it is not fresh", |view| !view.fresh).await;
    // One that changes nothing, should etcd find it when it wakes.
    let unavailable = a.control.drain(name("b"), false).await;
    assert!(matches!(unavailable, Err(ControlError::Unavailable(_))), "{unavailable:?}");
    for member in 0..3 {
        servers.resume(member);
        servers.kill(member);
        servers.restart(member);
    }
    let restarted = Instant::now();
    witness.shared_out(&["a", "b"]).await;
    println!("etcd restarted: everything is led again after {} ms", restarted.elapsed().as_millis());
    a.sees("fresh", |view| view.fresh).await;
}
