//! Nodes that come, go in order, and are told where shards belong.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_share_the_shards_and_hand_them_over_in_order() {
    let _turn = turn().await;
    let Some(servers) = EtcdServers::start(3).await else { return };
    let witness = Witness::new();
    let mut a = Node::start(config(&servers), "a", &witness).await;
    let alone = witness.shared_out(&["a"]).await;
    assert!(alone.highest.values().all(|epoch| epoch.0 > 1_000), "above what the store has");
    let mut b = Node::start(config(&servers), "b", &witness).await;
    let c = Node::start(config(&servers), "c", &witness).await;
    let board = witness.shared_out(&["a", "b", "c"]).await;
    let all_led = |view: &View| view.fresh && view.leaders.iter().all(Option::is_some);
    let view = a.sees("everything led", all_led).await;
    for ((node, shard), epoch) in &board.led {
        assert_eq!(view.leader(ShardId(*shard)).map(|(member, epoch)| (&member.name, epoch)), Some((node, *epoch)));
    }
    refuses_a_second_process_of_a_name(&servers, &witness).await;
    refuses_another_number_of_shards(&servers).await;
    moves_a_shard_and_sets_it_free(&mut a, &witness).await;
    drains_a_node_and_takes_it_back(&mut a, &witness).await;

    let before = witness.0.borrow().losses.len();
    let took = c.leave().await;
    let board = witness.shared_out(&["a", "b"]).await;
    report("hand-over of a shard of a node that leaves", hand_overs(&board, before));
    println!("leaving, {} shards: {} ms", board.losses.len() - before, took.as_millis());
    b.sees("the one that left is no member", |view| view.member(&name("c")).is_none()).await;
    for shards in [a.leave().await, b.leave().await] {
        assert!(shards < Duration::from_secs(10), "nobody waits for heirs");
    }
}

/// The time between each loss from the one with this number on and the next gain of the same shard.
fn hand_overs(board: &Board, from: usize) -> Vec<Duration> {
    let next = |(at, _, shard): &(Instant, NodeName, u16)| {
        board.gains.iter().find(|gain| gain.2 == *shard && gain.0 > *at).map(|gain| gain.0 - *at)
    };
    board.losses[from..].iter().filter_map(next).collect()
}

async fn refuses_a_second_process_of_a_name(servers: &EtcdServers, witness: &Witness) {
    let error = Node::try_start(config(servers), "a", witness).await.err();
    assert!(matches!(error, Some(StartError::NameTaken { .. })), "{error:?}");
}

async fn refuses_another_number_of_shards(servers: &EtcdServers) {
    let error = start(config(servers), member("x"), SHARDS * 2, Epoch(0)).await.err();
    assert!(matches!(error, Some(StartError::OtherShards { ours: 128, theirs: 64 })), "{error:?}");
}

async fn moves_a_shard_and_sets_it_free(a: &mut Node, witness: &Witness) {
    let board = witness.0.borrow().clone();
    let shard = board.of("a")[0];
    let began = Instant::now();
    a.control.move_shard(ShardId(shard), Some(name("b"))).await.unwrap();
    let at_b = |board: &Board| board.led.contains_key(&(name("b"), shard));
    witness.until("the shard is where it was moved to", at_b).await;
    println!("moving a shard: {} ms", began.elapsed().as_millis());
    let view = a.sees("the pin", |view| view.pins == [(ShardId(shard), name("b"))]).await;
    assert!(view.fresh);
    a.control.move_shard(ShardId(shard), None).await.unwrap();
    witness.shared_out(&["a", "b", "c"]).await;
    let nobody = a.control.move_shard(ShardId(shard), Some(name("nobody"))).await;
    assert_eq!(nobody, Err(ControlError::NoSuchMember(name("nobody"))));
    assert_eq!(a.control.move_shard(ShardId(64), None).await, Err(ControlError::NoSuchShard(ShardId(64))));
}

async fn drains_a_node_and_takes_it_back(a: &mut Node, witness: &Witness) {
    let before = witness.0.borrow().losses.len();
    a.control.drain(name("b"), true).await.unwrap();
    let board = witness.shared_out(&["a", "c"]).await;
    report("hand-over of a shard of a drained node", hand_overs(&board, before));
    a.sees("that it drains", |view| view.member(&name("b")).is_some_and(|member| member.draining)).await;
    a.control.drain(name("b"), false).await.unwrap();
    witness.shared_out(&["a", "b", "c"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_outlives_the_node_and_epochs_outlive_etcd() {
    let _turn = turn().await;
    let witness = Witness::new();
    let epochs = {
        let Some(servers) = EtcdServers::start(1).await else { return };
        let a = Node::start(config(&servers), "a", &witness).await;
        let b = Node::start(config(&servers), "b", &witness).await;
        witness.shared_out(&["a", "b"]).await;
        a.control.drain(name("b"), true).await.unwrap();
        witness.shared_out(&["a"]).await;
        b.leave().await;
        let b = Node::start(config(&servers), "b", &witness).await;
        a.leave().await;
        let board = witness.shared_out(&["b"]).await;
        let mut a = Node::start(config(&servers), "a", &witness).await;
        a.sees("that b drains still", |view| view.member(&name("b")).is_some_and(|member| member.draining)).await;
        witness.shared_out(&["a"]).await;
        drop(b);
        a.leave().await;
        board.highest
    };
    // An etcd that was made anew begins to count at 1.
    let servers = EtcdServers::start(1).await.unwrap();
    let highest = epochs.values().max().copied().unwrap();
    let cluster = start(config(&servers), member("a"), SHARDS, highest).await.unwrap();
    let mut coordinator = cluster.coordinator;
    for _ in 0..SHARDS {
        let change = coordinator.next().await.unwrap();
        assert!(matches!(change, Leadership::Gained { epoch, .. } if epoch > highest), "{change:?}, before {highest}");
    }
    cluster.membership.shutdown(Duration::ZERO).await;
}
