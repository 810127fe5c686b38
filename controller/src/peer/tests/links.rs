//! The links themselves: who may be at their ends, and what an end that goes away leaves behind.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::routing::{get, post};
use flotilla_cluster::{Member, NodeName, View};
use flotilla_protocol::id::{DeviceId, Epoch, TenantId};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use rcgen::KeyPair;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::PATIENCE;
use crate::ca::{Ca, DeviceKey, TrustDomain};
use crate::gateway::tests::client::{Identity, connect, csr, endpoint};
use crate::peer::{ALPN_PEER, Forwarded, PeerLinks, Served, Unreached, bind};
use crate::secrets::ClusterKey;
use crate::store::sqlite;

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

async fn ca(dir: &TempDir, domain: &str) -> Arc<Ca> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let stores = sqlite::open(&dir.path().join(domain), &sqlite::Options::default()).unwrap();
    let (keys, now_s) = (ClusterKey::generate().into(), jiff::Timestamp::now().as_second() as u64);
    let domain = TrustDomain::parse(domain).unwrap();
    Arc::new(Ca::open(stores.catalog, keys, domain, None, now_s).await.unwrap())
}

/// One end: a node's links without the node.
struct End {
    links: PeerLinks,
    address: SocketAddr,
    views: watch::Sender<Arc<View>>,
    _served: Served,
}

impl End {
    fn new(own: &str, ca: &Arc<Ca>, router: Router) -> Self {
        let socket = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        let views = watch::Sender::new(Arc::new(View::default()));
        let links = PeerLinks::open(socket, name(own), ca.clone(), views.subscribe()).unwrap();
        let _served = links.serve(router);
        Self { links, address, views, _served }
    }

    /// Tells this end who is where.
    fn knows(&self, members: &[(&str, SocketAddr, u64)]) {
        let member = |(node, address, since_ms): &(&str, SocketAddr, u64)| Member {
            name: name(node),
            peer: address.to_string(),
            quic: Vec::new(),
            version: "0".to_owned(),
            since_ms: *since_ms,
            draining: false,
        };
        self.views.send_replace(Arc::new(View { members: members.iter().map(member).collect(), ..View::default() }));
    }

    async fn ask(&self, to: &str, request: Request) -> Result<Bytes, String> {
        let call = self.links.call(&name(to)).await.map_err(|error| error.to_string())?;
        let response = call.send(Epoch(7), request).await.map_err(|error| error.to_string())?;
        Ok(response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes())
    }
}

fn request(path: &str) -> Request {
    Request::get(format!("http://elsewhere{path}")).body(Body::empty()).unwrap()
}

/// Answers who has forwarded the request, and under which epoch.
fn who() -> Router {
    let who = async |request: Request| match request.extensions().get::<Forwarded>() {
        Some(Forwarded { from, epoch }) => format!("{from} {epoch} {}", request.headers().len()),
        None => "nobody".to_owned(),
    };
    Router::new().route("/who", get(who))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_says_who_has_sent_it_whatever_its_headers_say() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca(&dir, "one.example").await;
    let (a, b) = (End::new("a", &ca, who()), End::new("b", &ca, who()));
    a.knows(&[("b", b.address, 1)]);
    let mut request = request("/who");
    for (name, value) in [("x-flotilla-forwarded", "c"), ("x-flotilla-epoch", "99"), ("connection", "x-hop, close")] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request.headers_mut().append("x-hop", "1".parse().unwrap());
    assert_eq!(a.ask("b", request).await.unwrap(), "a 7 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_named_controller_of_the_same_installation_is_talked_to() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (ca(&dir, "one.example").await, ca(&dir, "other.example").await);
    let a = End::new("a", &one, who());
    let (b, stranger) = (End::new("b", &one, who()), End::new("b", &other, who()));
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    a.knows(&[
        ("b", b.address, 1),
        ("c", b.address, 1),
        ("stranger", stranger.address, 1),
        ("silent", nobody.local_addr().unwrap(), 1),
    ]);
    a.ask("b", request("/who")).await.unwrap();
    for wrong in ["c", "stranger", "silent"] {
        let refused = a.links.call(&name(wrong)).await.err();
        assert!(matches!(refused, Some(Unreached::Dial { .. })), "{wrong}: {refused:?}");
    }
    assert_eq!(a.links.call(&name("d")).await.err(), Some(Unreached::NotAMember(name("d"))));
    // And the stranger finds no open door, whatever it believes.
    stranger.knows(&[("a", a.address, 1)]);
    assert!(stranger.ask("a", request("/who")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_devices_certificate_opens_no_link() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca(&dir, "one.example").await;
    let a = End::new("a", &ca, who());
    let key = KeyPair::generate().unwrap();
    let (device, tenant) = (DeviceId::from_bytes([1; 16]), TenantId::from_bytes([2; 16]));
    let now_s = jiff::Timestamp::now().as_second() as u64;
    let certificate = ca.issue_device(&DeviceKey::from_csr(&csr(&key)).unwrap(), tenant, device, now_s).unwrap();
    let roots_der = ca.roots_der();
    let identity = Identity { device, tenant, key, chain_der: certificate.chain_der, roots_der: roots_der.clone() };
    for identity in [Some(&identity), None] {
        let endpoint = endpoint();
        // A client learns of the refusal after its own half of the handshake.
        let refused = match connect(&endpoint, a.address, &roots_der, identity, ALPN_PEER).await {
            Ok(connection) => timeout(PATIENCE, connection.closed()).await.expect("it is let in"),
            Err(error) => error,
        };
        assert!(matches!(refused, quinn::ConnectionError::ConnectionClosed(_)), "{refused:?}");
    }
}

/// Tells when it is dropped.
struct Told(mpsc::UnboundedSender<&'static str>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_away_takes_the_work_along() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca(&dir, "one.example").await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let (handler, body) = (tell.clone(), tell);
    let router = Router::new()
        .route(
            "/never",
            get(async move || {
                let _told = Told(handler.clone());
                let _ = handler.send("began");
                std::future::pending::<()>().await;
            }),
        )
        .route(
            "/endless",
            get(async move || {
                let told = Told(body);
                let _ = told.0.send("began");
                let pieces =
                    futures_util::stream::once(async { Ok::<_, std::convert::Infallible>(Bytes::from("one")) });
                Body::from_stream(pieces.chain(futures_util::stream::pending()).map(move |piece| {
                    let _keep = &told;
                    piece
                }))
            }),
        );
    let (a, b) = (End::new("a", &ca, who()), End::new("b", &ca, router));
    a.knows(&[("b", b.address, 1)]);
    let hear = async |told: &mut mpsc::UnboundedReceiver<_>| timeout(PATIENCE, told.recv()).await.expect("no word");

    let call = a.links.call(&name("b")).await.unwrap();
    let asking = tokio::spawn(call.send(Epoch(0), request("/never")));
    assert_eq!(hear(&mut told).await, Some("began"));
    asking.abort();
    assert_eq!(hear(&mut told).await, Some("dropped"));

    let call = a.links.call(&name("b")).await.unwrap();
    let response = call.send(Epoch(0), request("/endless")).await.unwrap();
    assert_eq!(hear(&mut told).await, Some("began"));
    let mut pieces = response.into_body().into_data_stream();
    assert_eq!(pieces.next().await.unwrap().unwrap(), "one");
    drop(pieces);
    assert_eq!(hear(&mut told).await, Some("dropped"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_any_size_pass_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca(&dir, "one.example").await;
    let echo = Router::new().route("/echo", post(async |request: Request| request.into_body()));
    let (a, b) = (End::new("a", &ca, who()), End::new("b", &ca, echo));
    a.knows(&[("b", b.address, 1)]);
    let bytes: Bytes = (0..8_000_000u32).map(|n| (n % 251) as u8).collect();
    let pieces: Vec<_> =
        bytes.chunks(65_521).map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece))).collect();
    let body = Body::from_stream(futures_util::stream::iter(pieces));
    let request = Request::post("/echo").body(body).unwrap();
    assert!(timeout(PATIENCE, a.ask("b", request)).await.unwrap().unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_began_anew_or_left_is_another_peer() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca(&dir, "one.example").await;
    let endless = Router::new().route("/endless", get(async || std::future::pending::<()>().await));
    let (a, b) = (End::new("a", &ca, who()), End::new("b", &ca, endless.merge(who())));
    a.knows(&[("b", b.address, 1)]);
    a.ask("b", request("/who")).await.unwrap();
    for members in [&[("b", b.address, 2)][..], &[]] {
        let call = a.links.call(&name("b")).await.unwrap();
        let asking = tokio::spawn(call.send(Epoch(0), request("/endless")));
        a.knows(members);
        let broken = timeout(PATIENCE, asking).await.expect("nobody has told it").unwrap();
        assert!(broken.is_err());
    }
}
