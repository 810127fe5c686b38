//! The API over real HTTP, with the real store and shards, and no devices.

mod access;
mod admin;
mod bulk;
mod description;
mod device;
mod events;
mod messages;
mod node;
mod providers;
mod routing;
mod webhooks;

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::app::{self, Node, root_key};
use crate::config::Config;

/// A running node with one tenant.
pub(super) struct World {
    pub(super) node: Node,
    pub(super) config: Config,
    pub(super) root: String,
    pub(super) tenant: String,
    /// The tenant's admin key, without a limit.
    pub(super) key: String,
    pub(super) http: reqwest::Client,
    _dir: TempDir,
}

/// An answer, taken apart.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: reqwest::header::HeaderMap,
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Status and code of a problem, which has to look like one.
    pub(super) fn problem(&self) -> (u16, &str) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        assert_eq!(self.body["status"], self.status, "{self:?}");
        assert!(self.body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{self:?}");
        (self.status, self.body["code"].as_str().unwrap_or_default())
    }
}

pub(super) fn config(dir: &TempDir) -> Config {
    let mut config = Config { data_dir: dir.path().join("data"), ..Config::default() };
    config.http.addr = ([127, 0, 0, 1], 0).into();
    config.quic.addr = ([127, 0, 0, 1], 0).into();
    config.store.shards = 4;
    config.http.drain_s = 2;
    config
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(&dir);
        change(&mut config);
        let node = app::start(&config).await.unwrap();
        node.ready().await;
        let root = root_key::read(&config).unwrap().expose().to_owned();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
        let (tenant, key) = (String::new(), String::new());
        let mut world = Self { node, config, root, tenant, key, http, _dir: dir };
        (world.tenant, world.key) = world.new_tenant("First").await;
        world
    }

    /// A further tenant, and an admin key for it.
    pub(super) async fn new_tenant(&self, name: &str) -> (String, String) {
        let created = self.call(self.post("/v1/tenants", &self.root).json(&json!({"name": name}))).await;
        assert_eq!(created.status, 201, "{created:?}");
        let tenant = created.body["id"].as_str().unwrap().to_owned();
        let body = json!({"name": "admin", "scopes": ["admin"], "rate_per_min": 0});
        let made = self.call(self.post("/v1/keys", &self.root).header("x-tenant", &tenant).json(&body)).await;
        assert_eq!(made.status, 201, "{made:?}");
        (tenant, made.body["secret"].as_str().unwrap().to_owned())
    }

    /// A key of the first tenant: id and secret.
    pub(super) async fn new_key(&self, scopes: &[&str], rate_per_min: u32) -> (String, String) {
        let body = json!({"name": "k", "scopes": scopes, "rate_per_min": rate_per_min});
        let made = self.call(self.post("/v1/keys", &self.key).json(&body)).await;
        assert_eq!(made.status, 201, "{made:?}");
        (made.body["id"].as_str().unwrap().to_owned(), made.body["secret"].as_str().unwrap().to_owned())
    }

    pub(super) fn request(&self, method: Method, path: &str, key: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.node.http_addr)).bearer_auth(key)
    }

    pub(super) fn get(&self, path: &str, key: &str) -> RequestBuilder {
        self.request(Method::GET, path, key)
    }

    pub(super) fn post(&self, path: &str, key: &str) -> RequestBuilder {
        self.request(Method::POST, path, key)
    }

    pub(super) async fn call(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status, headers, body }
    }

    /// Sends one message; its id.
    pub(super) async fn send(&self, text: &str) -> String {
        let body = json!({"to": "+255712345678", "text": text});
        let sent = self.call(self.post("/v1/messages", &self.key).json(&body)).await;
        assert_eq!(sent.status, 202, "{sent:?}");
        sent.body["messages"][0]["id"].as_str().unwrap().to_owned()
    }
}
