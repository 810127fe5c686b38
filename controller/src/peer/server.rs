//! Takes the other controllers' connections and serves the node's own router on their streams. What comes this way is
//! marked [`Forwarded`]; it is authenticated and checked like any other request.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response};
use flotilla_cluster::NodeName;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::gauge;
use quinn::Connection;
use rustls::pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::links::{Inner, PeerLinks};
use super::stream::PeerStream;
use super::{Forwarded, NOT_LEADING_HEADER, NotLeading, code, strip, tls};
use crate::api::server::guarded;

/// Handshakes under way; whoever comes beyond is refused and comes back.
const HANDSHAKES_MAX: usize = 64;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// Between the last answer and the end of the links.
const LINGER: Duration = Duration::from_millis(250);
/// For the last packets.
const GOODBYE: Duration = Duration::from_secs(1);

/// A node that serves its peers.
pub struct Served {
    links: PeerLinks,
    requests: TaskTracker,
    acceptor: JoinHandle<()>,
}

impl PeerLinks {
    pub fn serve(&self, router: Router) -> Served {
        let requests = TaskTracker::new();
        let acceptor = tokio::spawn(accept(Arc::clone(&self.inner), router, requests.clone()));
        Served { links: self.clone(), requests, acceptor }
    }
}

impl Served {
    /// Waits for what is being served, at most so long, then closes all links. Until then new requests are served too: a
    /// node that leads nothing says so at once.
    pub async fn shutdown(self, drain: Duration) {
        self.requests.close();
        let served = async {
            self.requests.wait().await;
            // Closing drops what is not acknowledged yet, answers too, and somebody may have sent a request before he heard of
            // the move.
            sleep(LINGER).await;
            self.requests.wait().await;
        };
        if timeout(drain, served).await.is_err() {
            tracing::warn!("some requests of other controllers did not end in time and are cut off");
        }
        let endpoint = &self.links.inner.endpoint;
        endpoint.close(code::DONE, b"the controller stops");
        let _ = timeout(GOODBYE, endpoint.wait_idle()).await;
        self.acceptor.abort();
    }
}

/// Runs until the endpoint is closed.
async fn accept(inner: Arc<Inner>, router: Router, requests: TaskTracker) {
    let room = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = inner.endpoint.accept().await {
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        match incoming.accept() {
            Ok(connecting) => {
                tokio::spawn(connection(Arc::clone(&inner), connecting, permit, router.clone(), requests.clone()));
            }
            Err(error) => tracing::debug!(%error, "a controller's handshake was malformed"),
        }
    }
}

async fn connection(
    inner: Arc<Inner>,
    connecting: quinn::Connecting,
    permit: OwnedSemaphorePermit,
    router: Router,
    requests: TaskTracker,
) {
    let address = connecting.remote_address();
    let connection = match timeout(HANDSHAKE_DEADLINE, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::warn!(%address, %error, "somebody who is no controller of this cluster came"),
        Err(_) => return,
    };
    drop(permit);
    let Some(from) = identity(&inner, &connection) else {
        return connection.close(code::CANCELLED, b"a controller's certificate is required");
    };
    tracing::debug!(peer = %from, %address, "a controller has opened a link");
    gauge!("flotilla_peer_links_taken").increment(1.0);
    while let Ok(streams) = connection.accept_bi().await {
        requests.spawn(request(PeerStream::new(streams), from.clone(), router.clone()));
    }
    gauge!("flotilla_peer_links_taken").decrement(1.0);
}

/// The handshake has verified it.
fn identity(inner: &Inner, connection: &Connection) -> Option<NodeName> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    tls::controller_of(chain.first()?, inner.ca.trust_domain())
}

async fn request(stream: PeerStream, from: NodeName, router: Router) {
    let service = service_fn(move |request| answer(router.clone(), from.clone(), request));
    let mut http = http1::Builder::new();
    http.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE);
    // A peer that goes away is no news; its stream is reset, and the handler with it.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(router: Router, from: NodeName, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    metrics::counter!("flotilla_peer_requests_total").increment(1);
    let mut request = request.map(Body::new);
    let forwarded = Forwarded::of(request.headers(), from);
    strip(request.headers_mut());
    request.extensions_mut().insert(forwarded);
    let mut response = guarded(router, request).await;
    if response.extensions().get::<NotLeading>().is_some() {
        response.headers_mut().insert(NOT_LEADING_HEADER, HeaderValue::from_static("1"));
    }
    Ok(response)
}
