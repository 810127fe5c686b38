//! One request to another controller: HTTP/1.1 over a stream of its own. Whoever drops it, or the answer's body, before the
//! end resets the stream, and the other side stops working for it.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response, Uri, Version, uri::PathAndQuery};
use flotilla_cluster::NodeName;
use flotilla_protocol::id::Epoch;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio_util::task::AbortOnDropHandle;

use super::stream::PeerStream;
use super::{NOT_LEADING_HEADER, NotLeading, stamp, strip};

/// The link broke after the request had left: whether it was carried out is open.
#[derive(Debug, thiserror::Error)]
#[error("the link to {peer} broke while it had the request: {cause}")]
pub struct Broken {
    peer: NodeName,
    cause: String,
}

/// A stream to another controller on which nothing has been said yet.
pub struct PeerCall {
    own: NodeName,
    peer: NodeName,
    stream: PeerStream,
}

impl PeerCall {
    pub(super) fn new(own: NodeName, peer: NodeName, stream: PeerStream) -> Self {
        Self { own, peer, stream }
    }

    /// Sends the request; the answer's body comes as it is made. An answer with [`NotLeading`] in its extensions means that
    /// the peer has done nothing. `epoch` is the one under which we take the peer for the leader.
    pub async fn send(self, epoch: Epoch, mut request: Request<Body>) -> Result<Response<Body>, Broken> {
        stamp(request.headers_mut(), &self.own, epoch);
        *request.version_mut() = Version::HTTP_11;
        *request.uri_mut() = origin_form(request.uri());
        let peer = self.peer;
        let broken = |error: hyper::Error| {
            let cause = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
            Broken { peer: peer.clone(), cause }
        };
        let io = TokioIo::new(self.stream);
        let (mut sender, connection) = http1::handshake::<_, Body>(io).await.map_err(broken)?;
        let driver = AbortOnDropHandle::new(tokio::spawn(async move {
            // Whatever went wrong, whoever waits for the answer is told.
            let _ = connection.await;
        }));
        let response = sender.send_request(request).await.map_err(broken)?;
        let (mut parts, body) = response.into_parts();
        if parts.headers.contains_key(NOT_LEADING_HEADER) {
            parts.extensions.insert(NotLeading);
        }
        strip(&mut parts.headers);
        Ok(Response::from_parts(parts, Body::new(Answer { body, driver: Some(driver) })))
    }
}

/// What HTTP/1.1 writes into its first line.
fn origin_form(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    Uri::from(path)
}

/// The answer's body, and what reads it.
struct Answer {
    body: Incoming,
    driver: Option<AbortOnDropHandle<()>>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(None) = frame {
            self.driver = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
