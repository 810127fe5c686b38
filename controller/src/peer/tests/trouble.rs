//! Nodes that fall silent while others need them.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use reqwest::Method;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{Events, Nodes, answer, name};
use crate::peer::Unreached;

/// A network between a node and the others that can be cut: what is sent through it then is lost without a word.
struct Cable {
    address: SocketAddr,
    whole: watch::Sender<bool>,
    /// Datagrams that were lost.
    lost: watch::Receiver<u64>,
    pump: AbortHandle,
    target: Arc<Mutex<Option<SocketAddr>>>,
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl Cable {
    async fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let whole = watch::Sender::new(true);
        let target = Arc::new(Mutex::new(None));
        let (count, lost) = watch::channel(0);
        let pump = tokio::spawn(pump(socket, target.clone(), whole.subscribe(), count)).abort_handle();
        Self { address, whole, lost, pump, target }
    }

    fn leads_to(&self, node: SocketAddr) {
        *self.target.lock() = Some(node);
    }

    fn cut(&self) {
        self.whole.send_replace(false);
    }

    fn mend(&self) {
        self.whole.send_replace(true);
    }
}

/// Carries datagrams between the node and whoever talks to it; each of them gets a socket of its own on the way.
async fn pump(
    socket: UdpSocket,
    target: Arc<Mutex<Option<SocketAddr>>>,
    whole: watch::Receiver<bool>,
    lost: watch::Sender<u64>,
) {
    let socket = Arc::new(socket);
    let mut ways: Vec<(SocketAddr, Arc<UdpSocket>)> = Vec::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(target) = *target.lock() else { continue };
        if !*whole.borrow() {
            lost.send_modify(|lost| *lost += 1);
            continue;
        }
        let known = ways.iter().find(|(peer, _)| *peer == from).map(|(_, way)| way.clone());
        let way = match known {
            Some(way) => way,
            None => {
                let way = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                way.connect(target).await.unwrap();
                tokio::spawn(back(way.clone(), socket.clone(), from, whole.clone()));
                ways.push((from, way.clone()));
                way
            }
        };
        let _ = way.send(&buffer[..length]).await;
    }
}

async fn back(way: Arc<UdpSocket>, socket: Arc<UdpSocket>, to: SocketAddr, whole: watch::Receiver<bool>) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length) = way.recv(&mut buffer).await {
        if *whole.borrow() {
            let _ = socket.send_to(&buffer[..length], to).await;
        }
    }
}

/// Two nodes or more; the first one is reached through a cable.
async fn wired(count: usize) -> (Nodes, Cable) {
    let cable = Cable::new().await;
    let told = cable.address.to_string();
    let nodes = Nodes::prepared(
        count,
        |number, config| {
            if number == 1 {
                config.cluster.peer_advertise = Some(told.clone());
            }
        },
        |first| cable.leads_to(first.api.cluster.links.as_ref().unwrap().local_addr()),
    )
    .await;
    (nodes, cable)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_leader_had_in_hand_has_an_open_outcome() {
    let (nodes, cable) = wired(2).await;
    nodes.send(2, "before").await;
    cable.cut();
    let open = answer(nodes.message(2, "in the air")).await;
    assert_eq!(open.problem(), (502, "outcome_unknown"));
    // Now it is known to be gone: nothing was sent, so nothing is open.
    let refused = answer(nodes.message(2, "nobody there")).await;
    assert_eq!(refused.problem(), (503, "busy"));
    cable.mend();
    nodes.send(2, "after").await;
    nodes.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_repeated_finds_the_next_leader() {
    let (nodes, cable) = wired(3).await;
    let nodes = Arc::new(nodes);
    nodes.send(2, "before").await;
    let mut events = Events::follow(&nodes, 2, None).await;
    assert_eq!(events.next().await.unwrap().kind, "ready");
    cable.cut();
    let mut lost = cable.lost.clone();
    lost.borrow_and_update();
    let reading = {
        let nodes = nodes.clone();
        tokio::spawn(async move { answer(nodes.get(2, "/v1/messages")).await })
    };
    let keyed = |nodes: &Nodes| nodes.message(2, "keyed").header("idempotency-key", "k1");
    let sending = {
        let nodes = nodes.clone();
        tokio::spawn(async move { answer(keyed(&nodes)).await })
    };
    lost.changed().await.unwrap();
    // Its lease ends, and another takes over.
    nodes.shared.cluster.expel(&name(1));
    nodes.place(Some(3));
    let sent = sending.await.unwrap().expect(202);
    assert!(!reading.await.unwrap().expect(200)["items"].as_array().unwrap().is_empty());
    assert_eq!(answer(keyed(&nodes)).await.expect(202), sent);
    assert!(events.next().await.is_none(), "a stream from the dead ends cleanly");
    Arc::into_inner(nodes).unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dials_a_dead_controller_learns_that_it_has_left() {
    let (nodes, cable) = wired(2).await;
    cable.cut();
    let links = nodes.node(2).api.cluster.links.clone().unwrap();
    // The link that there is may be used until it is given up.
    while links.call(&name(1)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let mut lost = cable.lost.clone();
    lost.borrow_and_update();
    let calling = tokio::spawn(async move { links.call(&name(1)).await.map(|_| ()) });
    lost.changed().await.unwrap();
    nodes.shared.cluster.expel(&name(1));
    let unreached = calling.await.unwrap().unwrap_err();
    assert!(matches!(unreached, Unreached::NotAMember(_)), "{unreached}");
    nodes.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_does_not_answer_is_named_and_the_others_are_shown() {
    let (nodes, cable) = wired(3).await;
    nodes.place(Some(3));
    nodes.serves(3).await;
    cable.cut();
    let cluster = answer(nodes.as_root(Method::GET, 2, "/v1/cluster")).await.expect(200);
    let answers: Vec<_> = (0..3).map(|n| cluster["members"][n]["answers"].as_bool().unwrap()).collect();
    assert_eq!(answers, [false, true, true], "{cluster}");
    let tenant = nodes.tenant.to_string();
    let health = nodes.as_root(Method::GET, 2, "/v1/fleet/health").header("x-tenant", tenant);
    let health = answer(health).await.expect(200);
    assert_eq!(health["controllers_missing"], serde_json::json!(["c1"]));
    assert_eq!(health["controllers"].as_array().unwrap().len(), 2);
    cable.mend();
    nodes.shutdown().await;
}
