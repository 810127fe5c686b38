//! Several nodes in one process, over one store, with real links between them.

mod calls;
mod links;
mod moves;
mod trouble;

use std::time::Duration;

use flotilla_cluster::NodeName;
use flotilla_protocol::id::{ShardId, TenantId};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::app::{self, Node, Shared, root_key};
use crate::config::Config;
use crate::peer::local::LocalCluster;
use crate::secrets::ClusterKeys;
use crate::store::sqlite;

const SHARDS: u16 = 4;
/// Long enough for a machine that does something else; nothing waits so long when all is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// c1, c2... over one store.
struct Nodes {
    nodes: Vec<Option<Node>>,
    shared: Shared,
    root: String,
    tenant: TenantId,
    /// An admin's, without a limit.
    key: String,
    http: reqwest::Client,
    _dir: TempDir,
}

fn name(number: usize) -> NodeName {
    NodeName::parse(&format!("c{number}")).unwrap()
}

fn config(dir: &TempDir, number: usize) -> Config {
    let mut config = Config { data_dir: dir.path().join(format!("c{number}")), ..Config::default() };
    let free = ([127, 0, 0, 1], 0).into();
    (config.http.addr, config.quic.addr, config.cluster.peer_addr) = (free, free, free);
    config.http.drain_s = 2;
    config.cluster.node = Some(name(number).to_string());
    let key_file = dir.path().join("cluster.key");
    ClusterKeys::read_or_create(&key_file).unwrap();
    config.cluster.key_file = Some(key_file);
    config
}

impl Nodes {
    /// So many nodes; the first one leads everything.
    async fn new(count: usize) -> Self {
        Self::prepared(count, |_, _| {}, |_| {}).await
    }

    /// With a look at each configuration, and at the first node before the others come.
    async fn prepared(count: usize, change: impl Fn(usize, &mut Config), look: impl FnOnce(&Node)) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let options = sqlite::Options { shards: SHARDS, ..sqlite::Options::default() };
        let stores = sqlite::open(&dir.path().join("store"), &options).unwrap();
        let cluster = LocalCluster::new(&stores.journal.epochs().await.unwrap());
        let shared = Shared { stores, cluster };
        let mut nodes = Vec::new();
        for number in 1..=count {
            let mut config = config(&dir, number);
            change(number, &mut config);
            nodes.push(Some(app::start_together(&config, &shared).await.unwrap()));
        }
        look(nodes[0].as_ref().unwrap());
        let root = root_key::read(&config(&dir, 1)).unwrap().expose().to_owned();
        let http = reqwest::Client::builder().timeout(PATIENCE).pool_max_idle_per_host(0).build().unwrap();
        let tenant = TenantId::from_bytes([0; 16]);
        let mut all = Self { nodes, shared, root, tenant, key: String::new(), http, _dir: dir };
        all.shared.cluster.place_all(&name(1));
        let (tenant, key) = all.new_tenant("First").await;
        (all.tenant, all.key) = (tenant, key);
        all
    }

    /// A tenant with an admin's key, made through the second node if there is one.
    async fn new_tenant(&self, name: &str) -> (TenantId, String) {
        let via = self.nodes.len().min(2);
        let ask = self.as_root(Method::POST, via, "/v1/tenants").json(&json!({"name": name}));
        let tenant = answer(ask).await.expect(201)["id"].as_str().unwrap().to_owned();
        let body = json!({"name": "admin", "scopes": ["admin"], "rate_per_min": 0});
        let ask = self.as_root(Method::POST, via, "/v1/keys").header("x-tenant", &tenant).json(&body);
        let secret = answer(ask).await.expect(201)["secret"].as_str().unwrap().to_owned();
        (TenantId::parse(&tenant).unwrap(), secret)
    }

    fn node(&self, number: usize) -> &Node {
        self.nodes[number - 1].as_ref().unwrap()
    }

    fn shard(&self) -> ShardId {
        ShardId::of(self.tenant, SHARDS)
    }

    /// The tenant's shard goes there, or to nobody.
    fn place(&self, to: Option<usize>) {
        self.shared.cluster.place(self.shard(), to.map(name).as_ref());
    }

    /// Returns when this node leads the tenant's shard, and it has started.
    async fn serves(&self, number: usize) {
        let shards = &self.node(number).api.shards;
        let mut changes = shards.changes();
        let led = async {
            while shards.serving(self.shard()).is_none() {
                changes.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, led).await.expect("the shard is not led");
    }

    /// Returns when nobody leads the tenant's shard.
    async fn ownerless(&self) {
        let mut views = self.shared.cluster.views();
        timeout(PATIENCE, views.wait_for(|view| view.leader(self.shard()).is_none())).await.unwrap().unwrap();
    }

    fn as_root(&self, method: Method, via: usize, path: &str) -> RequestBuilder {
        self.request(method, via, path, &self.root)
    }

    fn request(&self, method: Method, via: usize, path: &str, key: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.node(via).http_addr)).bearer_auth(key)
    }

    fn get(&self, via: usize, path: &str) -> RequestBuilder {
        self.request(Method::GET, via, path, &self.key)
    }

    fn post(&self, via: usize, path: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, via, path, &self.key).json(body)
    }

    fn message(&self, via: usize, text: &str) -> RequestBuilder {
        self.post(via, "/v1/messages", &json!({"to": "+255712345678", "text": text}))
    }

    /// Sends a message; its id.
    async fn send(&self, via: usize, text: &str) -> String {
        answer(self.message(via, text)).await.expect(202)["messages"][0]["id"].as_str().unwrap().to_owned()
    }

    async fn shutdown(mut self) {
        for node in self.nodes.iter_mut().rev() {
            if let Some(node) = node.take() {
                node.shutdown().await;
            }
        }
    }
}

/// An answer, taken apart.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: Value,
}

impl Answer {
    fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.body
    }

    fn problem(&self) -> (u16, &str) {
        (self.status, self.body["code"].as_str().unwrap_or_default())
    }
}

async fn answer(request: RequestBuilder) -> Answer {
    taken_apart(request.send().await.unwrap()).await
}

async fn taken_apart(response: Response) -> Answer {
    let status = response.status().as_u16();
    let bytes = response.bytes().await.unwrap();
    let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    Answer { status, body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()) }
}

/// A stream of events, read one by one.
struct Events {
    response: Response,
    buffer: String,
}

#[derive(Debug)]
struct Event {
    id: String,
    kind: String,
    data: Value,
}

impl Events {
    async fn follow(nodes: &Nodes, via: usize, last: Option<&str>) -> Self {
        let mut request = nodes.get(via, "/v1/events?types=message.accepted");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        Self { response, buffer: String::new() }
    }

    /// None at the end, which has to be a clean one.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((text, rest)) = self.buffer.split_once("\n\n") {
                let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
                let event = Event {
                    id: field("id: "),
                    kind: field("event: "),
                    data: serde_json::from_str(&field("data: ")).unwrap_or_default(),
                };
                self.buffer = rest.to_owned();
                if !event.kind.is_empty() {
                    return Some(event);
                }
                continue;
            }
            let piece = timeout(PATIENCE, self.response.chunk()).await.expect("no event").expect("a clean end")?;
            self.buffer.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }
}
