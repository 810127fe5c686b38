//! The online provider of `demo --failover`, played by the demonstration itself: speaks Twilio's API on a loopback port, takes
//! whatever it is given, says so on the terminal, and reports it delivered a moment later, signed as Twilio signs.

use std::future::{Ready, ready};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use data_encoding::BASE64;
use ring::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, Key, sign};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use url::{Url, form_urlencoded};

use crate::command::files::print;
use crate::providers::references;

pub(super) const ACCOUNT: &str = "ACdemo";
const DELIVERED_AFTER: Duration = Duration::from_millis(800);

/// Listens already, and serves from [`DemoProvider::serve`] on.
pub(super) struct DemoProvider {
    pub(super) base_url: String,
    listener: TcpListener,
    router: Router,
}

struct Shared {
    token: String,
    client: reqwest::Client,
    last: AtomicU64,
}

impl DemoProvider {
    pub(super) async fn start(token: &str) -> anyhow::Result<Self> {
        // Another part of the process may have installed it.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client =
            reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().tls_certs_only([]).build()?;
        let shared = Arc::new(Shared { token: token.to_owned(), client, last: AtomicU64::new(0) });
        let account = format!("/2010-04-01/Accounts/{ACCOUNT}");
        let router = Router::new()
            .route(&format!("{account}/Messages.json"), post(take))
            .route(&format!("{account}/Balance.json"), get(|| told(json!({ "balance": "25.00", "currency": "USD" }))))
            .route(&format!("{account}.json"), get(|| told(json!({ "status": "active" }))))
            .with_state(shared);
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(any).await.context("starting the demonstration's provider")?;
        let base_url = format!("http://{}", listener.local_addr()?);
        Ok(Self { base_url, listener, router })
    }

    /// For as long as the process lives.
    pub(super) fn serve(self) {
        tokio::spawn(async move {
            if let Err(error) = axum::serve(self.listener, self.router).await {
                tracing::error!(%error, "the demonstration's provider has ended");
            }
        });
    }
}

fn told(value: Value) -> Ready<Json<Value>> {
    ready(Json(value))
}

fn take(State(shared): State<Arc<Shared>>, form: Bytes) -> Ready<(StatusCode, Json<Value>)> {
    let mut pairs = form_urlencoded::parse(&form);
    let callback = pairs.find(|(name, _)| name == "StatusCallback").and_then(|(_, url)| Url::parse(&url).ok());
    let reference = callback.as_ref().and_then(|url| url.query_pairs().find(|(name, _)| name == "ref"));
    let Some(known) = reference.and_then(|(_, reference)| references::parse(&reference)) else {
        let refusal = json!({ "status": 400, "code": 21609, "message": "no address for reports" });
        return ready((StatusCode::BAD_REQUEST, Json(refusal)));
    };
    let number = shared.last.fetch_add(1, Ordering::Relaxed) + 1;
    let id = format!("SM{number:032x}");
    // Nobody reads the terminal any more: no reason to refuse.
    drop(print(&format!("the provider has taken {}, its attempt {}\n", known.attempt.message, known.attempt.number)));
    if let Some(callback) = callback {
        tokio::spawn(report(Arc::clone(&shared), callback, id.clone()));
    }
    ready((StatusCode::CREATED, Json(json!({ "sid": id, "status": "queued" }))))
}

async fn report(shared: Arc<Shared>, callback: Url, id: String) {
    tokio::time::sleep(DELIVERED_AFTER).await;
    // In the order in which they are signed.
    let pairs = [("MessageSid", id.as_str()), ("MessageStatus", "delivered")];
    let signed = pairs.iter().fold(callback.to_string(), |text, (name, value)| text + name + value);
    let key = Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, shared.token.as_bytes());
    let request = shared
        .client
        .post(callback)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("x-twilio-signature", BASE64.encode(sign(&key, signed.as_bytes()).as_ref()))
        .body(form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish());
    match request.send().await {
        Ok(answer) if answer.status().is_success() => {}
        Ok(answer) => tracing::warn!(status = %answer.status(), "a delivery report is not taken"),
        Err(error) => tracing::warn!(%error, "a delivery report does not arrive"),
    }
}
