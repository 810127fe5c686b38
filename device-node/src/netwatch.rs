//! Notices that the machine has moved to another network, or has slept, long before a keep-alive does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::agent::AgentHandle;
use crate::clock::Clock;
use crate::link::Links;

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Asleep for longer than this, the NAT on the way has forgotten us.
const SLEPT_MS: u64 = 10_000;

/// Watches until it is dropped. `controller` is a `host:port` whose route is looked at.
pub async fn watch(links: Links, agent: AgentHandle, clock: Arc<dyn Clock>, controller: String) {
    let mut source = None;
    let mut awake = Instant::now();
    let mut boot_ms = clock.now().boot_ms;
    loop {
        sleep(LOOK_EVERY).await;
        let slept_ms = clock.now().boot_ms.saturating_sub(boot_ms + awake.elapsed().as_millis() as u64);
        (awake, boot_ms) = (Instant::now(), clock.now().boot_ms);
        let found = source_address(&controller).await;
        if found.is_some() && source.is_some() && found != source {
            tracing::info!("the network has changed");
            match links.network_changed() {
                Ok(()) => agent.network_changed().await,
                Err(error) => {
                    tracing::warn!(%error, "no new socket: connecting anew");
                    agent.reconnect().await;
                }
            }
        } else if slept_ms > SLEPT_MS {
            tracing::info!(slept_ms, "the machine has slept: connecting anew");
            agent.reconnect().await;
        }
        source = found.or(source);
    }
}

/// Our address on the way to the controller. Asks the routing table; sends nothing.
async fn source_address(controller: &str) -> Option<IpAddr> {
    let target = tokio::net::lookup_host(controller).await.ok()?.next()?;
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_way_to_this_machine_starts_on_it() {
        assert_eq!(source_address("127.0.0.1:9").await, Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        assert_eq!(source_address("not a host").await, None);
    }
}
