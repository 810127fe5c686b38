//! Three controllers over a real etcd and a real PostgreSQL: any of them takes a message, one is drained, one is killed, one
//! is stopped. Needs etcd and PostgreSQL on this machine; without them it says so and does nothing, unless
//! `FLOTILLA_TESTS_REQUIRE_ALL=1`.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chaos_tests::process::{Program, Programs};
use flotilla_cluster::testing::EtcdServers;
use flotilla_controller::store::postgres::own::{OwnError, OwnServer};
use flotilla_protocol::id::{ShardId, TenantId};
use reqwest::Method;
use serde_json::{Value, json};

const SHARDS: u16 = 16;
const NODES: [&str; 3] = ["c1", "c2", "c3"];
/// For everything that happens in other processes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

struct Controller {
    name: &'static str,
    url: String,
    folder: PathBuf,
    program: Program,
}

struct Installation {
    controllers: Vec<Controller>,
    flotilla: PathBuf,
    http: reqwest::Client,
    root: String,
    tenant: TenantId,
    key: String,
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn config(name: &str, port: u16, folder: &Path, key_file: &Path, etcd: &[String], database: &str) -> String {
    format!(
        "data_dir = {:?}\n[http]\naddr = \"127.0.0.1:{port}\"\ndrain_s = 2\n[quic]\naddr = \"127.0.0.1:0\"\n\
         [store]\nengine = \"postgres\"\nshards = {SHARDS}\n[store.postgres]\nurl = {database:?}\n\
         [cluster]\ncoordinator = \"etcd\"\nnode = {name:?}\npeer_addr = \"127.0.0.1:0\"\nkey_file = {key_file:?}\n\
         [cluster.etcd]\nendpoints = {etcd:?}\n",
        folder.join("data"),
    )
}

impl Installation {
    async fn start(folder: &Path, etcd: &[String], database: &str) -> anyhow::Result<Self> {
        let flotilla = Programs::built()?.controller;
        let key_file = folder.join("cluster.key");
        command(&flotilla, &["cluster", "key", "--out", &key_file.to_string_lossy()]).await?;
        let mut controllers = Vec::new();
        for name in NODES {
            let (port, folder) = (free_port()?, folder.join(name));
            std::fs::create_dir(&folder)?;
            let file = folder.join("flotilla.toml");
            std::fs::write(&file, config(name, port, &folder, &key_file, etcd, database))?;
            let arguments = ["serve", "-c", &file.to_string_lossy()];
            let mut program = Program::new(&flotilla, &arguments, folder.join("log"));
            program.start()?;
            controllers.push(Controller { name, url: format!("http://127.0.0.1:{port}"), folder, program });
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy().build()?;
        let (root, tenant, key) = (String::new(), TenantId::from_bytes([0; 16]), String::new());
        let mut all = Self { controllers, flotilla, http, root, tenant, key };
        all.begin().await?;
        Ok(all)
    }

    /// Waits until all lead, and makes a tenant with a key.
    async fn begin(&mut self) -> anyhow::Result<()> {
        let keys = |all: &Self| all.controllers.iter().map(|one| one.folder.join("data/root.key")).collect::<Vec<_>>();
        let began = Instant::now();
        self.root = loop {
            for one in &mut self.controllers {
                one.program.check_alive()?;
            }
            let found = keys(self).into_iter().find_map(|file| std::fs::read_to_string(file).ok());
            if let (Some(key), true) = (found, self.up().await) {
                break key.trim().to_owned();
            }
            ensure!(began.elapsed() < PATIENCE, "not up in time");
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        let made = keys(self).iter().filter(|file| file.exists()).count();
        ensure!(made == 1, "{made} root keys");
        self.until("all lead", |cluster| {
            let led = |name: &&str| {
                members(cluster).find(|one| one["name"] == *name).is_some_and(|one| one["shards_led"] != 0)
            };
            NODES.iter().all(led) && ownerless(cluster) == 0
        })
        .await?;
        let created = self.ask(0, Method::POST, "/v1/tenants", &[], json!({"name": "Clinic"})).await?.1;
        let tenant = created["id"].as_str().context("no tenant")?.to_owned();
        let body = json!({"name": "admin", "scopes": ["admin"], "rate_per_min": 0});
        let made = self.ask(1, Method::POST, "/v1/keys", &[("x-tenant", &tenant)], body).await?.1;
        self.key = made["secret"].as_str().context("no key")?.to_owned();
        self.tenant = TenantId::parse(&tenant)?;
        Ok(())
    }

    async fn up(&self) -> bool {
        for one in &self.controllers {
            let answer = self.http.get(format!("{}/readyz", one.url)).send().await;
            if !answer.is_ok_and(|answer| answer.status().is_success()) {
                return false;
            }
        }
        true
    }

    fn shard(&self) -> u16 {
        ShardId::of(self.tenant, SHARDS).0
    }

    /// With the tenant's key once there is one, unless the call is for all tenants.
    async fn ask(
        &self,
        via: usize,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Value,
    ) -> anyhow::Result<(u16, Value)> {
        let own = self.key.is_empty() || path.starts_with("/v1/cluster");
        let mut request = self.http.request(method, format!("{}{path}", self.controllers[via].url));
        request = request.bearer_auth(if own { &self.root } else { &self.key });
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().await?))
    }

    async fn cluster(&self, via: usize) -> anyhow::Result<Value> {
        Ok(self.ask(via, Method::GET, "/v1/cluster", &[], Value::Null).await?.1)
    }

    /// Waits until the last controller sees the cluster so.
    async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> anyhow::Result<Duration> {
        let began = Instant::now();
        loop {
            let cluster = self.cluster(2).await?;
            if holds(&cluster) {
                return Ok(began.elapsed());
            }
            ensure!(began.elapsed() < PATIENCE, "{what}: not in time\n{cluster}\n{}", self.logs());
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Sends a message; its id.
    async fn send(&self, via: usize, text: &str) -> anyhow::Result<String> {
        let body = json!({"to": "+255712345678", "text": text});
        let (status, answer) = self.ask(via, Method::POST, "/v1/messages", &[("idempotency-key", text)], body).await?;
        ensure!(status == 202, "{text} through {}: {status} {answer}\n{}", self.controllers[via].name, self.logs());
        Ok(answer["messages"][0]["id"].as_str().context("no id")?.to_owned())
    }

    async fn listed(&self, via: usize) -> anyhow::Result<BTreeSet<String>> {
        let (status, answer) = self.ask(via, Method::GET, "/v1/messages?limit=500", &[], Value::Null).await?;
        let items = answer["items"].as_array().with_context(|| format!("{status} {answer}\n{}", self.logs()))?;
        Ok(items.iter().filter_map(|item| Some(item["id"].as_str()?.to_owned())).collect())
    }

    /// The tenant's shard goes to a controller, and is led there.
    async fn tie(&self, to: &str) -> anyhow::Result<()> {
        let path = format!("/v1/cluster/shards/{}/move", self.shard());
        let (status, answer) = self.ask(2, Method::POST, &path, &[], json!({"to": to})).await?;
        ensure!(status == 202, "{status} {answer}");
        let shard = usize::from(self.shard());
        self.until("the shard moves", |cluster| cluster["shards"][shard]["leader"] == to).await?;
        Ok(())
    }

    fn logs(&self) -> String {
        let log = |one: &Controller| format!("--- {}\n{}\n", one.name, one.program.log_tail());
        self.controllers.iter().map(log).collect()
    }
}

fn members(cluster: &Value) -> impl Iterator<Item = &Value> {
    cluster["members"].as_array().into_iter().flatten()
}

fn ownerless(cluster: &Value) -> usize {
    cluster["shards"].as_array().map_or(usize::MAX, |all| all.iter().filter(|one| one["leader"].is_null()).count())
}

async fn command(flotilla: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = tokio::process::Command::new(flotilla).args(arguments).output().await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    Ok(text(&output.stdout))
}

/// `None` where this machine has no PostgreSQL.
fn database() -> Option<(OwnServer, String)> {
    let server = match OwnServer::start(&[]) {
        Err(error @ (OwnError::Missing | OwnError::NoUser)) => {
            assert!(std::env::var_os("FLOTILLA_TESTS_REQUIRE_ALL").is_none_or(|value| value != "1"), "{error}");
            eprintln!("skipped: {error}");
            return None;
        }
        server => server.expect("PostgreSQL starts"),
    };
    let url = server.database().expect("a database");
    Some((server, url))
}

#[tokio::test(flavor = "multi_thread")]
async fn three_controllers_are_one() {
    let Some(etcd) = EtcdServers::start(1).await else { return };
    let Some((_database, url)) = database() else { return };
    let folder = tempfile::Builder::new().prefix("flotilla-cluster-").tempdir().unwrap();
    let mut all = Installation::start(folder.path(), &etcd.endpoints(), &url).await.unwrap();
    run(&mut all).await.unwrap_or_else(|error| panic!("{error:#}"));
}

async fn run(all: &mut Installation) -> anyhow::Result<()> {
    let mut sent = BTreeSet::new();
    for (via, name) in NODES.iter().enumerate() {
        sent.insert(all.send(via, &format!("first through {name}")).await?);
    }
    for (via, name) in NODES.iter().enumerate() {
        ensure!(all.listed(via).await? == sent, "through {name}");
    }

    // Drained by the command line, which waits for it.
    all.tie("c1").await?;
    let options = ["--url", &all.controllers[2].url, "--key", &all.root];
    let drained = command(&all.flotilla, &[&["cluster", "drain", "c1", "--wait"][..], &options].concat()).await?;
    ensure!(drained.contains("c1 leads nothing"), "{drained}");
    sent.insert(all.send(0, "while c1 is drained").await?);
    ensure!(all.listed(0).await? == sent);
    command(&all.flotilla, &[&["cluster", "resume", "c1"][..], &options].concat()).await?;

    // Killed while it leads the tenant's shard: the next leader has everything.
    all.tie("c2").await?;
    sent.insert(all.send(0, "before the kill").await?);
    all.controllers[1].program.kill().await?;
    let began = Instant::now();
    // A request waits for five seconds; a busy machine may need another.
    let id = loop {
        match all.send(2, "after the kill").await {
            Ok(id) => break id,
            Err(error) => ensure!(began.elapsed() < PATIENCE, "{error:#}"),
        }
    };
    println!("the next message was accepted {:?} after the kill", began.elapsed());
    sent.insert(id);
    ensure!(all.listed(0).await? == sent);
    let took =
        all.until("c2's shards move", |cluster| ownerless(cluster) == 0 && members(cluster).count() == 2).await?;
    println!("and {took:?} later all its shards were led");

    // Back, as the same member.
    all.controllers[1].program.start()?;
    all.until("c2 is back", |cluster| members(cluster).any(|one| one["name"] == "c2" && one["answers"] == true))
        .await?;
    sent.insert(all.send(1, "through c2 again").await?);

    // Stopped in order: it hands over, and no call fails.
    all.tie("c1").await?;
    all.controllers[0].program.stop().await?;
    sent.insert(all.send(2, "after the stop").await?);
    ensure!(all.listed(1).await? == sent);
    for via in [1, 2] {
        all.controllers[via].program.stop().await?;
    }
    Ok(())
}
