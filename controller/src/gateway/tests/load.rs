//! Storms, full gateways and floods: live links stay well, newcomers are refused or made to wait.

use std::time::Instant;

use flotilla_protocol::wire::ALPN_LINK;

use super::client::{self, LinkClient};
use super::*;

/// Live links keep their pace while many times more devices come than the door lets in at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_handshakes_leaves_live_sessions_alone() {
    const STORM: usize = 500;
    let world = Arc::new(World::with(Limits { retry_above: 16, handshakes_per_s: 200, ..Limits::default() }).await);
    let live = world.device().await;
    let mut devices = Vec::new();
    for _ in 0..10 {
        devices.push(Arc::new(world.device().await));
    }
    let (mut link, _) = LinkClient::up(world.address(), &live).await;

    let mut storm = tokio::task::JoinSet::new();
    for n in 0..STORM {
        let (world, device) = (world.clone(), devices[n % devices.len()].clone());
        storm.spawn(async move {
            let endpoint = client::endpoint();
            let connected = client::connect(&endpoint, world.address(), &device.roots_der, Some(&device), ALPN_LINK);
            connected.await.is_ok()
        });
    }
    let mut slowest = Duration::ZERO;
    let mut pings = 0u64;
    let mut connected = 0;
    while !storm.is_empty() {
        let asked = Instant::now();
        link.ping(pings).await;
        slowest = slowest.max(asked.elapsed());
        pings += 1;
        // Not faster than the budget of a session allows.
        let pause = tokio::time::sleep(Duration::from_millis(100));
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                done = storm.join_next() => match done {
                    Some(done) => connected += usize::from(done.unwrap()),
                    None => break,
                },
            }
        }
    }
    assert_eq!(connected, STORM, "everybody gets in at last");
    assert!(pings >= 5, "the storm was over after {pings} pings");
    // The storm's own 500 clients work on the same cores.
    assert!(slowest < Duration::from_secs(2), "a ping took {slowest:?}");
}

#[tokio::test]
async fn under_load_an_address_is_proved_first() {
    let world = World::with(Limits { retry_above: 0, ..Limits::default() }).await;
    let device = world.device().await;
    let (mut link, _) = LinkClient::up(world.address(), &device).await;
    link.ping(1).await;
}

#[tokio::test]
async fn a_full_gateway_refuses_newcomers_only() {
    let world = World::with(Limits { connections_max: 1, ..Limits::default() }).await;
    let (one, two) = (world.device().await, world.device().await);
    let (mut link, _) = LinkClient::up(world.address(), &one).await;
    let endpoint = client::endpoint();
    let refused = client::connect(&endpoint, world.address(), &two.roots_der, Some(&two), ALPN_LINK).await;
    assert!(refused.is_err());
    link.ping(1).await;
}
