//! Calls to etcd that end: each has a time, and each endpoint gets its turn.
//!
//! `etcd-client` spreads calls over its endpoints, and one that is dead keeps getting its share of them; a stopped one
//! answers nothing at all. So there is a client of its own for each endpoint, opened when it is needed and thrown away when
//! it fails, and calls stay with the endpoint that answered last. Every call here may be made twice without harm: an answer
//! that was lost is found again by whoever looks (see `campaign`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, Error, WatchOptions, WatchStream};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

use super::config::{ConfigError, EtcdConfig, address_of};

/// etcd closes connections that are asked "are you there" more often than every 5 s, or while nothing is under way.
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallError {
    #[error("no endpoint answers; the last one said: {0}")]
    Unavailable(String),
    #[error("etcd refuses: {0}")]
    Refused(String),
    #[error("the lease is over")]
    LeaseGone,
}

struct Endpoint {
    url: String,
    client: Mutex<Option<Client>>,
}

pub(super) struct Etcd {
    endpoints: Vec<Endpoint>,
    current: AtomicUsize,
    /// Another endpoint is current now: what streams from the former one should come from it instead.
    moved: Notify,
    options: ConnectOptions,
    call_timeout: Duration,
}

impl Etcd {
    /// `first` chooses the endpoint to begin with, so that nodes spread over them.
    pub(super) fn new(config: &EtcdConfig, first: usize) -> Result<Self, ConfigError> {
        config.check()?;
        let mut options = ConnectOptions::new()
            .with_keep_alive(PING_EVERY, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(tls) = config.tls()? {
            options = options.with_tls(tls);
        }
        if let (Some(user), Some(password)) = (&config.user, &config.password) {
            options = options.with_user(user, password);
        }
        let endpoint = |url: &String| Endpoint { url: url.clone(), client: Mutex::new(None) };
        Ok(Self {
            endpoints: config.endpoints.iter().map(endpoint).collect(),
            current: AtomicUsize::new(first % config.endpoints.len()),
            moved: Notify::new(),
            options,
            call_timeout: Duration::from_millis(config.call_timeout_ms.into()),
        })
    }

    /// Makes a call with the current endpoint, and with the others in turn as long as none answers.
    pub(super) async fn call<T, F, Answer>(&self, name: &'static str, operation: F) -> Result<T, CallError>
    where
        F: Fn(Client) -> Answer,
        Answer: Future<Output = Result<T, Error>>,
    {
        let mut last = CallError::Unavailable(String::new());
        for _ in 0..self.endpoints.len() {
            let at = self.current.load(Ordering::Relaxed);
            let began = Instant::now();
            let result = self.attempt(&self.endpoints[at], &operation).await;
            let label = match &result {
                Ok(_) => "ok",
                Err(CallError::Unavailable(_)) => "unavailable",
                Err(_) => "refused",
            };
            metrics::counter!("flotilla_etcd_calls_total", "call" => name, "result" => label).increment(1);
            metrics::histogram!("flotilla_etcd_call_seconds", "call" => name).record(began.elapsed().as_secs_f64());
            match result {
                Err(error @ CallError::Unavailable(_)) => {
                    tracing::debug!(call = name, endpoint = self.endpoints[at].url, %error, "an etcd call failed");
                    self.leave(at);
                    last = error;
                }
                answer => return answer,
            }
        }
        Err(last)
    }

    /// A stream of changes from the current endpoint. Comes to nothing when that endpoint is left, see [`Self::moved`].
    pub(super) async fn watch(&self, prefix: &str, from_revision: i64) -> Result<WatchStream, CallError> {
        let options = WatchOptions::new().with_prefix().with_start_revision(from_revision).with_progress_notify();
        self.call("watch", |mut client| {
            let options = options.clone();
            async move { client.watch(prefix, Some(options)).await }
        })
        .await
    }

    /// Ends when calls have moved to another endpoint since the last time.
    pub(super) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// Lets go of an endpoint that did not answer, unless that has happened already.
    fn leave(&self, at: usize) {
        let next = (at + 1) % self.endpoints.len();
        if self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.moved.notify_one();
        }
    }

    async fn attempt<T, F, Answer>(&self, endpoint: &Endpoint, operation: &F) -> Result<T, CallError>
    where
        F: Fn(Client) -> Answer,
        Answer: Future<Output = Result<T, Error>>,
    {
        let client = timeout(self.call_timeout * 2, self.client(endpoint)).await.map_err(|_| timed_out(endpoint))??;
        let answer = timeout(self.call_timeout, operation(client)).await;
        let result = answer.map_err(|_| timed_out(endpoint)).and_then(|answer| answer.map_err(judge));
        if matches!(result, Err(CallError::Unavailable(_))) {
            *endpoint.client.lock().await = None;
        }
        result
    }

    async fn client(&self, endpoint: &Endpoint) -> Result<Client, CallError> {
        let mut slot = endpoint.client.lock().await;
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        // The client connects only with its first call and keeps a refused connection to itself until that call's time is
        // over. This tells at once.
        let address = address_of(&endpoint.url).unwrap_or_default();
        let unreachable = |error| CallError::Unavailable(format!("{}: {error}", endpoint.url));
        drop(TcpStream::connect(address).await.map_err(unreachable)?);
        let client = Client::connect([&endpoint.url], Some(self.options.clone())).await.map_err(judge)?;
        *slot = Some(client.clone());
        Ok(client)
    }
}

fn timed_out(endpoint: &Endpoint) -> CallError {
    CallError::Unavailable(format!("{}: no answer in time", endpoint.url))
}

/// Tells what another endpoint, or another time, may change from what none will.
fn judge(error: Error) -> CallError {
    const INVALID_ARGUMENT: i32 = 3;
    const NOT_FOUND: i32 = 5;
    const PERMISSION_DENIED: i32 = 7;
    const UNAUTHENTICATED: i32 = 16;
    match &error {
        Error::GRpcStatus(status) => match i32::from(status.code()) {
            NOT_FOUND if status.message().contains("lease not found") => CallError::LeaseGone,
            // The token was made before users were changed; the next client gets a new one.
            INVALID_ARGUMENT if status.message().contains("auth store") => CallError::Unavailable(error.to_string()),
            INVALID_ARGUMENT | PERMISSION_DENIED | UNAUTHENTICATED => CallError::Refused(status.message().to_owned()),
            _ => CallError::Unavailable(status.message().to_owned()),
        },
        // What the client makes of a lease whose remaining time is 0.
        Error::LeaseKeepAliveError(text) if text.contains("not found") => CallError::LeaseGone,
        Error::InvalidArgs(_) | Error::InvalidUri(_) => CallError::Refused(error.to_string()),
        _ => CallError::Unavailable(error.to_string()),
    }
}
