//! A gateway that comes back on its port: devices notice and find their way.

use std::time::Instant;

use quinn::ConnectionError;
use tokio::runtime::Runtime;

use super::client::LinkClient;
use super::*;

/// As after `kill -9`: nothing is said to anybody, and the port is free again.
async fn crash(runtime: Runtime, gateway: GatewayHandle) {
    let gone = tokio::task::spawn_blocking(move || {
        runtime.shutdown_timeout(PATIENCE);
        drop(gateway);
    });
    gone.await.unwrap();
}

#[tokio::test]
async fn a_restart_is_noticed_in_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (parts, clock, notes, tenant) = World::parts(&dir).await;
    let runtime = Runtime::new().unwrap();
    let begin =
        |runtime: &Runtime, port| runtime.spawn(start(World::config(&dir, port, Limits::default()), parts.clone()));
    let first = begin(&runtime, 0).await.unwrap().unwrap();
    let (address, port) = (first.local_addr(), first.local_addr().port());
    let enrolled = {
        let gateway = start(World::config(&dir, 0, Limits::default()), parts.clone()).await.unwrap();
        let helper = World {
            _dir: tempfile::tempdir().unwrap(),
            parts: parts.clone(),
            clock,
            notes,
            tenant,
            gateway,
            over: Transport::Quic,
        };
        helper.device().await
    };
    let (mut link, _) = LinkClient::up(address, &enrolled).await;
    link.ping(1).await;

    crash(runtime, first).await;
    let runtime = Runtime::new().unwrap();
    let second = begin(&runtime, port).await.unwrap().unwrap();
    let restarted = Instant::now();
    let error = link.stream.closed().await;
    assert!(matches!(error, ConnectionError::Reset), "{error}");
    assert!(restarted.elapsed() < Duration::from_secs(5), "{:?}", restarted.elapsed());
    let (mut link, _) = LinkClient::up(address, &enrolled).await;
    link.ping(2).await;
    crash(runtime, second).await;
}
