//! The API of several controllers as a careful client uses it: whichever does not answer in time is left for another one,
//! and what was sent before is sent again under the same idempotency key.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// Pause before a request is repeated; the answer's `Retry-After` is coarser than a test wants.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// A paused or cut off controller takes connections and says nothing.
const ATTEMPT_MAX: Duration = Duration::from_secs(3);
const CONNECT_MAX: Duration = Duration::from_millis(500);

/// Where the controllers are, and which of them the clients' balancer leaves out.
#[derive(Debug)]
struct Addresses {
    urls: Vec<String>,
    left_out: AtomicU64,
    next: AtomicU64,
}

#[derive(Clone, Debug)]
pub struct Nodes {
    http: reqwest::Client,
    addresses: Arc<Addresses>,
    key: String,
    attempt_max: Duration,
}

/// One request, whoever takes it.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    pub method: Method,
    pub path: &'a str,
    pub body: Option<Value>,
    pub idempotency: Option<&'a str>,
    /// For a key over all tenants: the one that is meant.
    pub tenant: Option<&'a str>,
}

impl<'a> Call<'a> {
    pub fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, body: None, idempotency: None, tenant: None }
    }

    pub fn post(path: &'a str, body: Value) -> Self {
        Self { method: Method::POST, path, body: Some(body), idempotency: None, tenant: None }
    }
}

/// An answer that is final, and what it took.
#[derive(Debug)]
pub struct Answer {
    pub value: Value,
    /// Who gave it.
    pub node: usize,
    pub attempts: u32,
    pub took: Duration,
    /// Of this, the attempt that was answered.
    pub last_attempt: Duration,
}

impl Nodes {
    pub fn new(urls: Vec<String>) -> anyhow::Result<Self> {
        // The HTTP client wants a TLS provider even for plain connections; the first one installed wins.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().connect_timeout(CONNECT_MAX).no_proxy().build()?;
        let addresses = Arc::new(Addresses { urls, left_out: AtomicU64::new(0), next: AtomicU64::new(0) });
        Ok(Self { http, addresses, key: String::new(), attempt_max: ATTEMPT_MAX })
    }

    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// With a balancer of its own.
    pub fn apart(&self) -> Self {
        let Addresses { urls, left_out, .. } = &*self.addresses;
        let left_out = AtomicU64::new(left_out.load(Ordering::Relaxed));
        let addresses = Addresses { urls: urls.clone(), left_out, next: AtomicU64::new(0) };
        Self { addresses: Arc::new(addresses), ..self.clone() }
    }

    /// Gives an attempt up sooner.
    pub fn impatient(&self, attempt_max: Duration) -> Self {
        Self { attempt_max, ..self.clone() }
    }

    /// What a balancer does with a controller that is down; for all clones.
    pub fn leave_out(&self, node: usize, out: bool) {
        let bit = 1 << node;
        if out {
            self.addresses.left_out.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.addresses.left_out.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// The controllers in turn, without those that are left out.
    fn pick(&self) -> usize {
        let Addresses { urls, left_out, next } = &*self.addresses;
        let out = left_out.load(Ordering::Relaxed);
        let first = next.fetch_add(1, Ordering::Relaxed) as usize;
        let mut turn = (0..urls.len()).map(|step| (first + step) % urls.len());
        turn.find(|node| out & (1 << node) == 0).unwrap_or(first % urls.len())
    }

    /// One attempt at one controller.
    pub async fn once(&self, node: usize, call: &Call<'_>) -> Result<(StatusCode, Value), reqwest::Error> {
        let url = format!("{}{}", self.addresses.urls[node], call.path);
        let mut request = self.http.request(call.method.clone(), url).timeout(self.attempt_max).bearer_auth(&self.key);
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        if let Some(tenant) = call.tenant {
            request = request.header("x-tenant", tenant);
        }
        if let Some(key) = call.idempotency {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Repeats at one controller after the other until one answers for good. Only for what may be repeated.
    pub async fn insist(&self, call: &Call<'_>, until: Instant) -> anyhow::Result<Answer> {
        let began = Instant::now();
        let mut attempts = 0;
        loop {
            let node = self.pick();
            attempts += 1;
            let attempt = Instant::now();
            let what = || format!("{} {} at controller {node}, attempt {attempts}", call.method, call.path);
            match self.once(node, call).await {
                Ok((status, value)) if status.is_success() => {
                    let (took, last_attempt) = (began.elapsed(), attempt.elapsed());
                    return Ok(Answer { value, node, attempts, took, last_attempt });
                }
                Ok((status, value)) if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                    bail!("{} answered {status}: {value}", what())
                }
                Ok((status, value)) if Instant::now() >= until => bail!("{} still answers {status}: {value}", what()),
                Err(error) if Instant::now() >= until => {
                    return Err(error).with_context(|| format!("{} is still not answered", what()));
                }
                Ok((status, value)) => tracing::debug!(%status, %value, "{}", what()),
                Err(error) => tracing::debug!(%error, "{}", what()),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    pub async fn ask(&self, call: &Call<'_>, within: Duration) -> anyhow::Result<Value> {
        Ok(self.insist(call, Instant::now() + within).await?.value)
    }

    pub async fn is_ready(&self, node: usize) -> bool {
        matches!(self.once(node, &Call::get("/readyz")).await, Ok((status, _)) if status.is_success())
    }

    /// All entries of a listing, page by page.
    pub async fn list(&self, path: &str, within: Duration) -> anyhow::Result<Vec<Value>> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = format!("{path}?limit=500{cursor}");
            let mut page = self.ask(&Call::get(&page), within).await?;
            let Value::Array(items) = page["items"].take() else { bail!("{path} answers without items: {page}") };
            all.extend(items);
            let Some(next) = page["next"].as_str() else { return Ok(all) };
            cursor = format!("&cursor={next}");
        }
    }
}
