//! Carries makers' requests over HTTP. All of Flotilla's knowledge of what an error on the way means is here: whether a request
//! certainly never reached the maker, or may have.
//!
//! | what happened | then |
//! |---|---|
//! | no address, no connection, no TLS; a refused address | not sent |
//! | the connection broke, no answer in time, an answer that is too long | it may have been taken |
//! | an answer, whatever its status | the maker's own code judges it |
//!
//! One client for all accounts (connections are pooled by host). Redirects are not followed: a message would be sent to where
//! nobody has meant it to go, perhaps twice.

use std::error::Error as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flotilla_providers::{Answer, Call};
use reqwest::redirect::Policy;

use crate::net_guard::NetGuard;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections that are kept for the next request, per host.
const IDLE_MAX: usize = 64;
/// Kept shorter than servers usually do, so that few requests meet a connection that is being closed.
const IDLE_FOR: Duration = Duration::from_secs(20);
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Why there is no answer. The text is for people and has neither number nor message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CarryError {
    /// The request never reached anybody.
    #[error("{0}")]
    NotSent(String),
    /// Nobody knows.
    #[error("{0}")]
    Unclear(String),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Carrier {
    client: reqwest::Client,
    guard: NetGuard,
}

#[derive(Debug, thiserror::Error)]
#[error("the HTTP client for providers cannot be made: {0}")]
pub struct CarrierError(String);

impl Carrier {
    pub fn new(guard: NetGuard) -> Result<Self, CarrierError> {
        // Another part of the process may have installed it.
        drop(rustls::crypto::ring::default_provider().install_default());
        let builder = || {
            reqwest::Client::builder()
                .redirect(Policy::none())
                // A proxy would resolve names where nobody guards.
                .no_proxy()
                .retry(reqwest::retry::never())
                .dns_resolver(guard.resolver())
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_idle_timeout(IDLE_FOR)
                .pool_max_idle_per_host(IDLE_MAX)
                .tcp_nodelay(true)
                .user_agent(concat!("flotilla/", env!("CARGO_PKG_VERSION")))
        };
        let client = builder().build().or_else(|error| {
            // Small machines have no roots. What stands in the same network may do without TLS.
            tracing::warn!(error = causes(&error), "providers cannot be reached over TLS: install the CA certificates");
            builder().tls_certs_only([]).build()
        });
        let client = client.map_err(|error| CarrierError(causes(&error)))?;
        Ok(Self { client, guard })
    }

    /// One request and its whole answer, within `timeout`.
    pub async fn carry(&self, call: Call, timeout: Duration) -> Result<Answer, CarryError> {
        self.guard.check(&call.url).map_err(|error| CarryError::NotSent(error.to_string()))?;
        let request = self.client.request(call.method, call.url).headers(call.headers).body(call.body).timeout(timeout);
        let mut response = request.send().await.map_err(|error| judge(&error))?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let body = read(&mut response).await?;
        Ok(Answer { status, headers, body })
    }
}

async fn read(response: &mut reqwest::Response) -> Result<Bytes, CarryError> {
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body.freeze()),
            Ok(Some(piece)) if body.len() + piece.len() <= ANSWER_BYTES_MAX => body.extend_from_slice(&piece),
            Ok(Some(_)) => {
                return Err(CarryError::Unclear(format!("the answer is longer than {ANSWER_BYTES_MAX} bytes")));
            }
            Err(error) => return Err(CarryError::Unclear(text(&error))),
        }
    }
}

fn judge(error: &reqwest::Error) -> CarryError {
    // A connection that was never made, and a request that could not even be written down.
    if error.is_connect() || error.is_builder() {
        CarryError::NotSent(text(error))
    } else {
        CarryError::Unclear(text(error))
    }
}

/// Without the address: it may hold secrets.
fn text(error: &reqwest::Error) -> String {
    match (error.is_timeout(), error.is_connect()) {
        (true, false) => "no answer in time".to_owned(),
        _ => error.source().map_or_else(|| "the request failed".to_owned(), causes),
    }
}

fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Many repeat what they come from.
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
}
