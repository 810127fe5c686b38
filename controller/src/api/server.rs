//! Takes HTTP connections: a bounded number, each with its own task, closed politely at the end.
//!
//! Written on hyper rather than `axum::serve` for its limits: connections, time for a request's header, time to drain. A
//! panic in a handler becomes a 500 here, once for all routes and without boxing every body.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use metrics::{Counter, Histogram, counter, gauge, histogram};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::problem::{Code, Problem};

#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    pub connections_max: u32,
    pub header_timeout: Duration,
    /// On shutdown, requests under way get this long.
    pub drain: Duration,
}

/// Errors of `accept` such as too many open files pass; trying at once would only burn the CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is counted for every request, found once.
struct Meters {
    /// By the first digit of the status.
    answers: [Counter; 5],
    seconds: Histogram,
}

impl Meters {
    fn new() -> Self {
        let class = |class: &'static str| counter!("flotilla_http_requests_total", "status" => class);
        Self {
            answers: [class("1xx"), class("2xx"), class("3xx"), class("4xx"), class("5xx")],
            seconds: histogram!("flotilla_http_request_seconds"),
        }
    }

    fn note(&self, response: &Response, began: Instant) {
        let class = usize::from(response.status().as_u16() / 100).clamp(1, 5) - 1;
        self.answers[class].increment(1);
        self.seconds.record(began.elapsed().as_secs_f64());
    }
}

/// Serves until `shutdown`, then drains. Returns when the last connection is gone or its time is over.
pub async fn serve(listener: TcpListener, router: Router, limits: ServerLimits, shutdown: CancellationToken) {
    let room = Arc::new(Semaphore::new(limits.connections_max as usize));
    let meters = Arc::new(Meters::new());
    let graceful = GracefulShutdown::new();
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).pipeline_flush(true);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256);
    let builder = Arc::new(builder);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &room) => accepted,
            () = shutdown.cancelled() => break,
        };
        let Some((stream, permit)) = accepted else { continue };
        let (router, meters) = (router.clone(), Arc::clone(&meters));
        let service = service_fn(move |request| answer(router.clone(), Arc::clone(&meters), request));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that goes away is no news.
            let _ = connection.await;
            gauge!("flotilla_http_connections").decrement(1.0);
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("some HTTP requests did not end in time and are cut off");
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    // The room comes first: connections beyond it wait in the kernel's queue.
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            let _ = stream.set_nodelay(true);
            gauge!("flotilla_http_connections").increment(1.0);
            Some((stream, permit))
        }
        Err(error) => {
            tracing::warn!(%error, "can not take a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn answer(
    router: Router,
    meters: Arc<Meters>,
    request: hyper::Request<Incoming>,
) -> Result<Response, Infallible> {
    let began = Instant::now();
    let response = guarded(router, request.map(axum::body::Body::new)).await;
    meters.note(&response, began);
    Ok(response)
}

/// What the router answers, or that it failed.
pub(crate) async fn guarded(mut router: Router, request: Request) -> Response {
    // Handlers keep nothing across a panic but what locks without poisoning and channels guard.
    match AssertUnwindSafe(router.call(request)).catch_unwind().await {
        Ok(Ok(response)) => response,
        Err(_) => {
            Problem::new(Code::Internal, "the controller failed on this request; its log has the cause").into_response()
        }
    }
}

/// Listens, with an error that names the address and the remedy.
pub async fn listen(addr: SocketAddr, key: &str) -> Result<TcpListener, ListenError> {
    TcpListener::bind(addr).await.map_err(|source| ListenError { addr, key: key.to_owned(), source })
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: stop what uses it, or set {key} to another address")]
pub struct ListenError {
    addr: SocketAddr,
    key: String,
    source: std::io::Error,
}
