//! Carries makers' requests over HTTP. All of Flotilla's knowledge of what an error on the way means is here: whether a request
//! certainly never reached the maker, or may have.
//!
//! | what happened | then |
//! |---|---|
//! | no address, no connection, no TLS; a refused address | not sent |
//! | the connection broke, no answer in time, an answer that is too long | it may have been taken |
//! | an answer, whatever its status | the maker's own code judges it |
//!
//! A connection has to be there within half of the request's time, and within 3 s: so a host that does not answer at all is
//! always told from one that may have taken the request. Clients are for all accounts (connections are pooled by host), one for
//! each time that a connection may take. Redirects are not followed: a message would be sent to where
//! nobody has meant it to go, perhaps twice.

use std::error::Error as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flotilla_providers::{Answer, Call};
use reqwest::redirect::Policy;

use crate::net_guard::NetGuard;

/// How long a connection may take: the longest of these that is within half of the request's time.
const CONNECT_TIMEOUTS_MS: [u64; 5] = [3_000, 2_000, 1_000, 500, 250];
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
    /// By [`CONNECT_TIMEOUTS_MS`]; made when they are needed.
    clients: Arc<[OnceLock<reqwest::Client>; CONNECT_TIMEOUTS_MS.len()]>,
    guard: NetGuard,
}

#[derive(Debug, thiserror::Error)]
#[error("the HTTP client for providers cannot be made: {0}")]
pub struct CarrierError(String);

impl Carrier {
    pub fn new(guard: NetGuard) -> Result<Self, CarrierError> {
        // Another part of the process may have installed it.
        drop(rustls::crypto::ring::default_provider().install_default());
        let carrier = Self { clients: Arc::default(), guard };
        // What cannot work is told now, not with the first message.
        carrier.client(Duration::MAX)?;
        Ok(carrier)
    }

    /// The client for a request that may take so long.
    fn client(&self, timeout: Duration) -> Result<&reqwest::Client, CarrierError> {
        let fits = |connect_ms: &u64| Duration::from_millis(*connect_ms) <= timeout / 2;
        let place = CONNECT_TIMEOUTS_MS.iter().position(fits).unwrap_or(CONNECT_TIMEOUTS_MS.len() - 1);
        if let Some(client) = self.clients[place].get() {
            return Ok(client);
        }
        let made = make(self.guard, Duration::from_millis(CONNECT_TIMEOUTS_MS[place]))?;
        Ok(self.clients[place].get_or_init(|| made))
    }

    /// One request and its whole answer, within `timeout`.
    pub async fn carry(&self, call: Call, timeout: Duration) -> Result<Answer, CarryError> {
        self.guard.check(&call.url).map_err(|error| CarryError::NotSent(error.to_string()))?;
        let client = self.client(timeout).map_err(|error| CarryError::NotSent(error.to_string()))?;
        let request = client.request(call.method, call.url).headers(call.headers).body(call.body).timeout(timeout);
        let mut response = request.send().await.map_err(|error| judge(&error))?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let body = read(&mut response).await?;
        Ok(Answer { status, headers, body })
    }
}

fn make(guard: NetGuard, connect_timeout: Duration) -> Result<reqwest::Client, CarrierError> {
    let builder = || {
        reqwest::Client::builder()
            .redirect(Policy::none())
            // A proxy would resolve names where nobody guards.
            .no_proxy()
            .retry(reqwest::retry::never())
            .dns_resolver(guard.resolver())
            .connect_timeout(connect_timeout)
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
    client.map_err(|error| CarrierError(causes(&error)))
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use flotilla_providers::Call;
    use url::Url;

    use super::*;

    /// It takes connections, as its system does for it, and never speaks: no TLS, so nothing was sent.
    #[tokio::test]
    async fn a_host_that_never_answers_was_not_reached_however_short_the_time() {
        let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let carrier = Carrier::new(NetGuard { allow_private: true }).unwrap();
        let address = silent.local_addr().unwrap();
        let carry = |scheme: &str| {
            let url = Url::parse(&format!("{scheme}://{address}/")).unwrap();
            let call = Call { method: http::Method::POST, url, headers: http::HeaderMap::new(), body: Bytes::new() };
            carrier.carry(call, Duration::from_millis(500))
        };
        let dead = carry("https").await.err();
        assert!(matches!(dead, Some(CarryError::NotSent(_))), "{dead:?}");
        let slow = carry("http").await.err();
        assert_eq!(slow, Some(CarryError::Unclear("no answer in time".to_owned())), "it has the request");
    }

    #[test]
    fn a_connection_takes_half_of_the_time_at_most() {
        let carrier = Carrier::new(NetGuard::default()).unwrap();
        let made = |ms: u64| {
            carrier.client(Duration::from_millis(ms)).unwrap();
            carrier.clients.iter().zip(CONNECT_TIMEOUTS_MS).filter_map(|(client, ms)| client.get().and(Some(ms))).min()
        };
        let times = [60_000, 6_000, 5_999, 4_000, 3_999, 1_000, 999, 500];
        let least = [3_000, 3_000, 2_000, 2_000, 1_000, 500, 250, 250];
        assert_eq!(times.map(made), least.map(Some));
    }
}
