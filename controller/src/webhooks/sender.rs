//! Says one event to one address: signed (Standard Webhooks), bounded in time and size, never into a private network.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use reqwest::redirect::Policy;
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook};
use url::Url;

use super::endpoint::SigningSecret;
use crate::net_guard::{GuardError, NetGuard};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(15);

/// One event for one address.
pub(super) struct Letter {
    pub(super) url: String,
    pub(super) id: String,
    pub(super) body: Bytes,
    /// The newest first; all of them sign.
    pub(super) secrets: Arc<[SigningSecret]>,
    pub(super) at_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Delivered {
        status: u16,
    },
    Failed {
        error: Box<str>,
        retry_after_ms: Option<u64>,
    },
    /// 410: the endpoint wants nothing any more.
    Gone,
}

impl Answer {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Delivered { .. } => "delivered",
            Self::Failed { .. } => "failed",
            Self::Gone => "gone",
        }
    }
}

/// Why an address cannot be a webhook's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("give an address such as https://example.org/hooks: {0}")]
    Parse(#[from] url::ParseError),
    #[error("give an address that begins with https://")]
    NotHttps,
    #[error(transparent)]
    Guard(#[from] GuardError),
}

#[derive(Clone)]
pub(super) struct Sender {
    client: reqwest::Client,
    guard: NetGuard,
}

impl Sender {
    pub(super) fn new(guard: NetGuard) -> Result<Self, reqwest::Error> {
        // Another part of the process may have installed it.
        drop(rustls::crypto::ring::default_provider().install_default());
        let builder = || {
            reqwest::Client::builder()
                .redirect(Policy::none())
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(TIMEOUT)
                .dns_resolver(guard.resolver())
                .no_proxy()
        };
        let client = builder().build().or_else(|error| {
            // Small machines have no roots; that is no reason for the controller not to start.
            tracing::warn!(error = reason(&error), "webhooks cannot be reached over TLS: install the CA certificates");
            builder().tls_certs_only([]).build()
        })?;
        Ok(Self { client, guard })
    }

    /// Whether an address may be used, as far as its text tells.
    pub(super) fn check(&self, url: &str) -> Result<Url, UrlError> {
        let url = Url::parse(url)?;
        if url.scheme() != "https" && !self.guard.allow_private {
            return Err(UrlError::NotHttps);
        }
        self.guard.check(&url)?;
        Ok(url)
    }

    pub(super) async fn send(&self, letter: &Letter) -> Answer {
        let failed = |error: String| Answer::Failed { error: error.into(), retry_after_ms: None };
        let url = match self.check(&letter.url) {
            Ok(url) => url,
            Err(error) => return failed(error.to_string()),
        };
        let Some(signature) = signature(letter) else { return failed("it has no secret to sign with".into()) };
        let request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("Flotilla/", env!("CARGO_PKG_VERSION")))
            .header(HEADER_WEBHOOK_ID, &letter.id)
            .header(HEADER_WEBHOOK_TIMESTAMP, (letter.at_ms / 1_000).to_string())
            .header(HEADER_WEBHOOK_SIGNATURE, signature)
            .body(letter.body.clone());
        match request.send().await {
            Ok(answer) => {
                judge(answer.status(), answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()))
            }
            Err(error) => failed(reason(&error)),
        }
    }
}

/// All secrets sign the same, separated by blanks.
fn signature(letter: &Letter) -> Option<String> {
    let sign = |secret: &SigningSecret| {
        Webhook::new(secret.expose()).ok()?.sign(&letter.id, (letter.at_ms / 1_000) as i64, &letter.body).ok()
    };
    let signatures: Vec<String> = letter.secrets.iter().filter_map(sign).collect();
    (!signatures.is_empty()).then(|| signatures.join(" "))
}

fn judge(status: StatusCode, retry_after: Option<&str>) -> Answer {
    if status.is_success() {
        return Answer::Delivered { status: status.as_u16() };
    }
    if status == StatusCode::GONE {
        return Answer::Gone;
    }
    let retry_after_ms = retry_after.and_then(|text| text.parse::<u64>().ok()).map(|s| s.saturating_mul(1_000));
    let redirect = if status.is_redirection() { " (redirects are not followed)" } else { "" };
    Answer::Failed { error: format!("HTTP {}{redirect}", status.as_u16()).into(), retry_after_ms }
}

/// Without the address, which may hold a secret of its own.
fn reason(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() { "no answer in time" } else { "no connection" }.to_owned();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if std::error::Error::source(cause).is_none() {
            text += &format!(": {cause}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_their_status() {
        let of = |status: u16, after: Option<&str>| judge(StatusCode::from_u16(status).unwrap(), after);
        assert_eq!(of(204, None), Answer::Delivered { status: 204 });
        assert_eq!(of(410, None), Answer::Gone);
        let busy = Answer::Failed { error: "HTTP 503".into(), retry_after_ms: Some(7_000) };
        assert_eq!(of(503, Some("7")), busy);
        let moved = Answer::Failed { error: "HTTP 301 (redirects are not followed)".into(), retry_after_ms: None };
        assert_eq!(of(301, Some("soon")), moved);
    }

    #[test]
    fn addresses_inside_are_refused() {
        let sender = Sender::new(NetGuard::default()).unwrap();
        for wrong in
            ["http://example.org/", "https://127.0.0.1/", "https://[::1]/x", "https://10.0.0.8/", "ftp://x/", "x"]
        {
            assert!(sender.check(wrong).is_err(), "{wrong}");
        }
        assert!(sender.check("https://example.org/hooks?x=1").is_ok());
        let inside = Sender::new(NetGuard { allow_private: true }).unwrap();
        assert!(inside.check("http://127.0.0.1:8000/hook").is_ok());
    }

    /// In a process of its own, since the environment belongs to all tests.
    #[test]
    fn a_machine_without_ca_certificates_starts_all_the_same() {
        let this = std::env::current_exe().unwrap();
        let test = concat!(module_path!(), "::addresses_inside_are_refused");
        let test = test.split_once("::").unwrap().1;
        let child = std::process::Command::new(this)
            .args(["--exact", test])
            .env("SSL_CERT_FILE", "/nonexistent/roots.pem")
            .env("SSL_CERT_DIR", "/nonexistent")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout).into_owned();
        assert!(
            child.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&child.stderr)
        );
    }

    #[test]
    fn while_a_secret_is_exchanged_both_sign() {
        let [new, old] = [1u8, 2].map(|n| SigningSecret::new([n; 24]));
        let now_s = jiff::Timestamp::now().as_second() as u64;
        let letter = Letter {
            url: "https://example.org/".into(),
            id: "whk-1-0".into(),
            body: Bytes::from_static(b"{}"),
            secrets: [new.clone(), old.clone()].into(),
            at_ms: now_s * 1_000,
        };
        let mut headers = http::HeaderMap::new();
        headers.insert(HEADER_WEBHOOK_ID, letter.id.parse().unwrap());
        headers.insert(HEADER_WEBHOOK_TIMESTAMP, now_s.to_string().parse().unwrap());
        headers.insert(HEADER_WEBHOOK_SIGNATURE, signature(&letter).unwrap().parse().unwrap());
        for secret in [&new, &old] {
            Webhook::new(secret.expose()).unwrap().verify(&letter.body, &headers).unwrap();
        }
        let other = SigningSecret::new([3; 24]);
        assert!(Webhook::new(other.expose()).unwrap().verify(&letter.body, &headers).is_err());
    }
}
