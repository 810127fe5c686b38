//! The API as a careful client uses it: it repeats what was not answered, under the same idempotency key.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Pause before a request is repeated; the answer's `Retry-After` is coarser than a test wants.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
    /// For a key over all tenants: the one that is meant.
    tenant: Option<String>,
}

/// One message of the listing.
#[derive(Debug, Clone, Deserialize)]
pub struct Listed {
    pub id: String,
    pub state: String,
}

impl Client {
    pub fn new(url: &str, key: &str) -> anyhow::Result<Self> {
        // The HTTP client wants a TLS provider even for plain connections; the first one installed wins.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).no_proxy().build()?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), key: key.to_owned(), tenant: None })
    }

    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), tenant: None, ..self.clone() }
    }

    pub fn in_tenant(&self, tenant: &str) -> Self {
        Self { tenant: Some(tenant.to_owned()), ..self.clone() }
    }

    async fn once(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        idempotency: Option<&str>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(tenant) = &self.tenant {
            request = request.header("x-tenant", tenant);
        }
        if let Some(key) = idempotency {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// A request that has to succeed now.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let (status, answer) = self.once(method.clone(), path, body.as_ref(), None).await?;
        if !status.is_success() {
            bail!("{method} {path} answered {status}: {answer}");
        }
        Ok(answer)
    }

    /// A request that is repeated until it is answered for good; only for what may be repeated.
    async fn insist(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        idempotency: Option<&str>,
        until: Instant,
    ) -> anyhow::Result<Value> {
        loop {
            let outcome = self.once(method.clone(), path, body, idempotency).await;
            match outcome {
                Ok((status, answer)) if status.is_success() => return Ok(answer),
                Ok((status, answer)) if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                    bail!("{method} {path} answered {status}: {answer}")
                }
                Ok(_) | Err(_) if Instant::now() < until => tokio::time::sleep(RETRY_PAUSE).await,
                Ok((status, answer)) => bail!("{method} {path} still answers {status}: {answer}"),
                Err(error) => return Err(error.context(format!("{method} {path} is still not answered"))),
            }
        }
    }

    /// Waits until the controller answers that it is ready.
    pub async fn ready(&self, within: Duration) -> anyhow::Result<()> {
        self.insist(Method::GET, "/readyz", None, None, Instant::now() + within).await.map(drop)
    }

    /// Replaces a document whatever its version is.
    pub async fn put_any(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.http.put(format!("{}{path}", self.url)).bearer_auth(&self.key).header("if-match", "*");
        let answer = request.json(body).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            bail!("PUT {path} answered {status}: {text}");
        }
        Ok(serde_json::from_str(&text)?)
    }

    /// Sends one text to some recipients and gives the ids that were promised.
    pub async fn send(
        &self,
        to: &[String],
        text: &str,
        valid_for_s: u64,
        key: &str,
        until: Instant,
    ) -> anyhow::Result<Vec<String>> {
        self.send_body(&json!({ "to": to, "text": text, "valid_for_s": valid_for_s }), key, until).await
    }

    /// The same for any request.
    pub async fn send_body(&self, body: &Value, key: &str, until: Instant) -> anyhow::Result<Vec<String>> {
        let answer = self.insist(Method::POST, "/v1/messages", Some(body), Some(key), until).await?;
        let ids = answer["messages"].as_array().context("no messages in the answer")?;
        ids.iter().map(|m| Ok(m["id"].as_str().context("a message without id")?.to_owned())).collect()
    }

    /// Every message of the tenant, page by page.
    pub async fn list_all(&self) -> anyhow::Result<Vec<Listed>> {
        self.list_all_as().await
    }

    /// The same, as much of each as is wanted.
    pub async fn list_all_as<T: DeserializeOwned>(&self) -> anyhow::Result<Vec<T>> {
        let (mut all, mut path) = (Vec::new(), "/v1/messages?limit=500".to_owned());
        loop {
            let until = Instant::now() + Duration::from_secs(60);
            let mut page = self.insist(Method::GET, &path, None, None, until).await?;
            let items: Vec<T> = serde_json::from_value(page["items"].take()).context("reading a page")?;
            all.extend(items);
            let Some(cursor) = page["next"].as_str() else { return Ok(all) };
            path = format!("/v1/messages?limit=500&cursor={cursor}");
        }
    }

    /// Counters of the tenant since the beginning.
    pub async fn totals(&self) -> anyhow::Result<Value> {
        let until = Instant::now() + Duration::from_secs(60);
        let stats = self.insist(Method::GET, "/v1/stats?step=total", None, None, until).await?;
        Ok(stats)
    }
}
