//! Asking the API: the address, the key, and what comes back.
//!
//! What may be repeated (reading, and sending with an idempotency key) is repeated when the controller says when to come
//! back, so that a long list or a long wait goes on at the pace of the key's rate limit.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Method, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::sleep;

use super::error::{CliError, Problem, causes};
use super::note;
use crate::api::auth::TENANT_HEADER;
use crate::api::messages::send::IDEMPOTENCY_HEADER;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A device may take a minute for a USSD code.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);
const REPEATS_MAX: u32 = 5;
/// Whoever says to come back later than this is told to the user instead.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// A controller, and who we are to it.
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    url: String,
    pub(super) body: Bytes,
}

/// A request that is not sent yet.
pub(super) struct Ask<'a> {
    client: &'a Client,
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<Bytes>,
    repeatable: bool,
}

impl Client {
    pub(super) fn new(url: Option<&str>, key: Option<&str>, tenant: Option<&str>) -> Result<Self, CliError> {
        let (url, key) = match (given(url), given(key)) {
            (Some(url), Some(key)) => (url, key),
            (None, None) => return Err(CliError::Missing("both")),
            (None, _) => return Err(CliError::Missing("the url")),
            (_, None) => return Err(CliError::Missing("the key")),
        };
        let base = base(url)?;
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, secret(&format!("Bearer {key}")).ok_or(CliError::Header("the key"))?);
        if let Some(tenant) = given(tenant) {
            let value = HeaderValue::from_str(tenant).map_err(|_| CliError::Header("the tenant"))?;
            headers.insert(HeaderName::from_static(TENANT_HEADER), value);
        }
        // Another part of the process may have installed it.
        drop(rustls::crypto::ring::default_provider().install_default());
        // A redirect would carry the key to a place that nobody named.
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("flotilla/", env!("CARGO_PKG_VERSION")));
        if base.scheme() == "http" {
            // Without TLS nobody needs the system's roots, and small machines have none.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| CliError::Tls(causes(&error)))?;
        Ok(Self { http, base })
    }

    pub(super) fn get(&self, path: &[&str]) -> Ask<'_> {
        Ask { repeatable: true, ..self.ask(Method::GET, path) }
    }

    pub(super) fn delete(&self, path: &[&str]) -> Ask<'_> {
        self.ask(Method::DELETE, path)
    }

    pub(super) fn post(&self, path: &[&str]) -> Ask<'_> {
        self.ask(Method::POST, path)
    }

    pub(super) fn put(&self, path: &[&str]) -> Ask<'_> {
        self.ask(Method::PUT, path)
    }

    pub(super) fn patch(&self, path: &[&str]) -> Ask<'_> {
        self.ask(Method::PATCH, path)
    }

    /// `path` is below `/v1`; its parts are escaped.
    fn ask(&self, method: Method, path: &[&str]) -> Ask<'_> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        Ask { client: self, method, url, headers: HeaderMap::new(), body: None, repeatable: false }
    }
}

impl Ask<'_> {
    pub(super) fn query(mut self, name: &str, value: Option<impl AsRef<str>>) -> Self {
        if let Some(value) = value {
            self.url.query_pairs_mut().append_pair(name, value.as_ref());
        }
        self
    }

    pub(super) fn json(mut self, body: &Value) -> Self {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.body = Some(body.to_string().into());
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Result<Self, CliError> {
        let value = HeaderValue::from_str(value).map_err(|_| CliError::Header(name))?;
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(self)
    }

    /// With this key a repetition is accepted once.
    pub(super) fn idempotent(self, key: &str) -> Result<Self, CliError> {
        Ok(Self { repeatable: true, ..self.header(IDEMPOTENCY_HEADER, key)? })
    }

    /// The whole answer, if the controller did what it was asked.
    pub(super) async fn answer(self) -> Result<Answer, CliError> {
        let mut repeats = 0;
        loop {
            let response = self.send_once().await?;
            let (status, wait) = (response.status(), retry_after(response.headers()));
            let error = match whole(response).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let later = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
            match wait {
                Some(wait) if later && self.repeatable && repeats < REPEATS_MAX && wait <= RETRY_AFTER_MAX => {
                    note(&format!("{error}; asking again in {} s", wait.as_secs()));
                    sleep(wait).await;
                    repeats += 1;
                }
                _ => return Err(error),
            }
        }
    }

    async fn send_once(&self) -> Result<Response, CliError> {
        let request = self.client.http.request(self.method.clone(), self.url.clone()).headers(self.headers.clone());
        let request = match &self.body {
            Some(body) => request.body(body.clone()),
            None => request,
        };
        request.timeout(ANSWER_TIMEOUT).send().await.map_err(|error| unreachable(&self.url, &error))
    }

    /// Sends a body of any length, and waits for the answer as long as it takes.
    pub(super) async fn upload(self, body: reqwest::Body) -> Result<Response, CliError> {
        let request = self.client.http.request(self.method, self.url.clone()).headers(self.headers).body(body);
        request.send().await.map_err(|error| unreachable(&self.url, &error))
    }

    /// An answer that is read as it comes, once its head says that all is well.
    pub(super) async fn open(self) -> Result<Response, CliError> {
        let request = self.client.http.request(self.method, self.url.clone()).headers(self.headers);
        let response = request.send().await.map_err(|error| unreachable(&self.url, &error))?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(refusal(response).await?),
        }
    }
}

impl Answer {
    pub(super) fn view<T: DeserializeOwned>(&self) -> Result<T, CliError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| CliError::Unexpected { url: self.url.clone(), cause: error.to_string() })
    }

    /// The document as it came, on a line of its own.
    pub(super) fn line(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        format!("{}\n", text.trim_end_matches('\n'))
    }
}

fn given(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

fn base(text: &str) -> Result<Url, CliError> {
    let wrong = || CliError::Url(text.to_owned());
    let mut url = Url::parse(text).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong());
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// Where a request went, without what it asked for.
fn place(url: &Url) -> String {
    url.origin().ascii_serialization()
}

pub(super) fn unreachable(url: &Url, error: &reqwest::Error) -> CliError {
    // What is above it is "error sending request for url", with the whole query.
    let cause = match (error.is_timeout(), std::error::Error::source(error)) {
        (true, _) => "it took too long".to_owned(),
        (false, Some(below)) => causes(below),
        (false, None) => causes(error),
    };
    CliError::Connect { url: place(url), cause }
}

/// Reads an answer to its end.
pub(super) async fn whole(response: Response) -> Result<Answer, CliError> {
    if !response.status().is_success() {
        return Err(refusal(response).await?);
    }
    let url = response.url().clone();
    let body = response.bytes().await.map_err(|error| unreachable(&url, &error))?;
    Ok(Answer { url: place(&url), body })
}

/// Reads an answer to its end, whatever its status, if a controller gave it.
pub(super) async fn read(response: Response) -> Result<Answer, CliError> {
    let (url, status) = (response.url().clone(), response.status());
    let body = response.bytes().await.map_err(|error| unreachable(&url, &error))?;
    match serde_json::from_slice::<&RawValue>(&body) {
        Ok(_) => Ok(Answer { url: place(&url), body }),
        Err(_) => Err(CliError::NotOurs { url: place(&url), status: status.as_u16() }),
    }
}

/// What an answer that is not a success says.
async fn refusal(response: Response) -> Result<CliError, CliError> {
    let (url, status) = (response.url().clone(), response.status());
    if status.is_redirection() {
        let to = response.headers().get(LOCATION).map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
        return Ok(CliError::Elsewhere { url: place(&url), to: to.unwrap_or_else(|| "nowhere".to_owned()) });
    }
    let body = response.bytes().await.map_err(|error| unreachable(&url, &error))?;
    Ok(match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => CliError::Problem(problem),
        Err(_) => CliError::NotOurs { url: place(&url), status: status.as_u16() },
    })
}
