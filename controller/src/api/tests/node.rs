//! The node as a whole: one at a time on a folder, back after a restart, and on its feet after a panic.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::World;
use crate::api::server::{self, ServerLimits, listen};
use crate::app::{self, root_key};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_controller_is_told_who_has_the_folder() {
    let world = World::new().await;
    let error = format!("{:#}", app::start(&world.config).await.err().expect("two controllers on one folder"));
    assert!(error.contains("is in use by process"), "{error}");
    assert!(root_key::reset(&world.config).await.is_err(), "a new root key under a running controller");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let world = World::new().await;
    let id = world.send("remember me").await;
    let World { node, config, root, key, http, _dir, .. } = world;
    node.shutdown().await;
    let node = app::start(&config).await.unwrap();
    assert!(node.new_root_key.is_none());
    assert_eq!(root_key::read(&config).unwrap().expose(), root);
    node.ready().await;
    let url = format!("http://{}/v1/messages/{id}", node.http_addr);
    let found: Value = http.get(url).bearer_auth(&key).send().await.unwrap().json().await.unwrap();
    assert_eq!(found["state"], "queued", "{found}");
    node.shutdown().await;
    // While nobody runs, whoever has the folder can make a new root key.
    let new = root_key::reset(&config).await.unwrap();
    assert_ne!(new.expose(), root);
    assert_eq!(root_key::read(&config).unwrap(), new);
}

fn limits() -> ServerLimits {
    ServerLimits { connections_max: 2, header_timeout: Duration::from_millis(200), drain: Duration::from_secs(5) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_one_500_and_no_more() {
    let router = Router::new()
        .route("/panic", get(async || -> &'static str { panic!("a secret") }))
        .route("/fine", get(async || "fine"));
    let listener = listen(([127, 0, 0, 1], 0).into(), "http.addr").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let server = tokio::spawn(server::serve(listener, router, limits(), stop.clone()));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::new();
    for _ in 0..2 {
        let answer = http.get(format!("http://{addr}/panic")).send().await.unwrap();
        assert_eq!(answer.status(), 500);
        let text = answer.text().await.unwrap();
        assert!(text.contains("\"internal\"") && !text.contains("secret"), "{text}");
        assert_eq!(http.get(format!("http://{addr}/fine")).send().await.unwrap().text().await.unwrap(), "fine");
    }
    stop.cancel();
    server.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_end_before_the_server_does() {
    static DONE: AtomicBool = AtomicBool::new(false);
    let (entered, mut begun) = tokio::sync::mpsc::channel(1);
    let go_on = CancellationToken::new();
    let wait = go_on.clone();
    let slow = move || {
        let (entered, wait) = (entered.clone(), wait.clone());
        async move {
            entered.send(()).await.unwrap();
            wait.cancelled().await;
            DONE.store(true, Ordering::SeqCst);
            "slow"
        }
    };
    let listener = listen(([127, 0, 0, 1], 0).into(), "http.addr").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let server = tokio::spawn(server::serve(listener, Router::new().route("/", get(slow)), limits(), stop.clone()));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let request = tokio::spawn(reqwest::get(format!("http://{addr}/")));
    begun.recv().await.unwrap();
    stop.cancel();
    go_on.cancel();
    assert_eq!(request.await.unwrap().unwrap().text().await.unwrap(), "slow");
    server.await.unwrap();
    assert!(DONE.load(Ordering::SeqCst));
    // The port is free again.
    listen(addr, "http.addr").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_finishes_its_header_is_dropped() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = listen(([127, 0, 0, 1], 0).into(), "http.addr").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let router = Router::new().route("/", get(async || "fine"));
    let server = tokio::spawn(server::serve(listener, router, limits(), stop.clone()));
    let mut client = tokio::net::TcpStream::connect(addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let mut rest = Vec::new();
    // Ends by itself: the server closes.
    client.read_to_end(&mut rest).await.unwrap();
    stop.cancel();
    server.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_address_is_named_with_its_key() {
    let taken = listen(([127, 0, 0, 1], 0).into(), "http.addr").await.unwrap();
    let error = listen(taken.local_addr().unwrap(), "http.addr").await.unwrap_err().to_string();
    assert!(error.contains("http.addr") && error.contains("127.0.0.1:"), "{error}");
}
