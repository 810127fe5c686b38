//! The installation of a run: its processes, its providers, and what was set.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use super::Options;
use super::fleet::{DEVICES, FLEETS, Kind};
use crate::client::Client;
use crate::fleet::{self, Fleet, radio_logs};
use crate::process::{Program, Programs};
use crate::provider_server::{ProviderServer, Script, Settings};
use crate::scenario::{free_tcp_address, free_udp_address, path};

const START_DEADLINE: Duration = Duration::from_secs(60);
/// Behind the validity of the last message, for what follows it.
const END_GRACE: Duration = Duration::from_secs(60);
const POLL_PAUSE: Duration = Duration::from_millis(500);
/// Of requests to providers.
const TIMEOUT_MS: u64 = 2_000;
/// Segments per minute of the first provider; the second one takes what comes.
const PROVIDER_PER_MINUTE: u32 = 900;

pub(super) struct Provider {
    /// The account's id.
    pub id: String,
    pub server: ProviderServer,
}

pub(super) struct Site {
    pub controller: Program,
    pub fleets: Vec<Program>,
    /// Ids of the devices, by fleet.
    pub devices: Vec<Vec<String>>,
    pub providers: Vec<Provider>,
    pub client: Client,
    /// By device and slot, or account and 0.
    pub per_minute: BTreeMap<(String, u8), u32>,
    pub folder: PathBuf,
}

impl Site {
    pub(super) async fn start(options: &Options) -> anyhow::Result<Self> {
        let folder = options.folder.clone();
        let (http, quic) = (free_tcp_address()?, free_udp_address()?);
        let data = folder.join("controller");
        let file = folder.join("flotilla.toml");
        std::fs::write(&file, config(path(&data)?, &http, &quic))?;
        let arguments = ["serve", "--config", path(&file)?];
        let mut controller = Program::new(&options.programs.controller, &arguments, folder.join("controller.log"));
        controller.start()?;
        let anonymous = Client::new(&format!("http://{http}"), "")?;
        anonymous.ready(START_DEADLINE).await.with_context(|| controller.log_tail())?;
        let root = anonymous.with_key(std::fs::read_to_string(data.join("root.key"))?.trim());
        let tenant = root.call(Method::POST, "/v1/tenants", Some(json!({ "name": "routing" }))).await?;
        let body = json!({ "name": "routing", "scopes": ["admin"], "rate_per_min": 0 });
        let key = root.in_tenant(text(&tenant, "id")?).call(Method::POST, "/v1/keys", Some(body)).await?;
        let client = root.with_key(text(&key, "secret")?);
        let mut site = Self {
            controller,
            fleets: Vec::new(),
            devices: Vec::new(),
            providers: Vec::new(),
            client,
            per_minute: BTreeMap::new(),
            folder,
        };
        for (n, script) in scripts().into_iter().enumerate() {
            site.add_provider(n, script, options.seed).await?;
        }
        site.set_plans().await?;
        for fleet in &FLEETS {
            site.add_fleet(&options.programs, fleet, options.seed).await?;
        }
        Ok(site)
    }

    async fn add_provider(&mut self, n: usize, script: Script, seed: u64) -> anyhow::Result<()> {
        let (account, token) = (format!("ACtest{n}"), format!("token{n}"));
        let log = Some(self.folder.join(format!("provider-{n}.log")));
        let settings = Settings { account: account.clone(), token: token.clone(), script, seed: seed ^ n as u64, log };
        let server = ProviderServer::start("127.0.0.1:0".parse()?, settings).await?;
        let limits = if n == 0 { json!({ "per_minute": PROVIDER_PER_MINUTE }) } else { json!({}) };
        let body = json!({
            "maker": "twilio",
            "name": format!("provider {n}"),
            "base_url": server.base_url(),
            "fields": { "account_sid": account },
            "secrets": { "auth_token": token },
            "senders": [{ "from": format!("+1500555000{n}"), "limits": limits }],
            "window": 32,
            "timeout_ms": TIMEOUT_MS,
            "price": { "per_segment": "0.02" },
        });
        let created = self.client.call(Method::POST, "/v1/providers", Some(body)).await?;
        let id = text(&created, "id")?.to_owned();
        let tested = self.client.call(Method::POST, &format!("/v1/providers/{id}/test"), Some(json!({}))).await?;
        ensure!(tested["verdict"] == "works", "the test of the account says {tested}");
        if n == 0 {
            self.per_minute.insert((id.clone(), 0), PROVIDER_PER_MINUTE);
        }
        self.providers.push(Provider { id, server });
        Ok(())
    }

    /// SIMs first, then one provider, then the other; a part of the messages goes the other way round.
    async fn set_plans(&self) -> anyhow::Result<()> {
        let [first, second] = &self.providers[..] else { anyhow::bail!("there are not two providers") };
        let step = |routes: Value| json!({ "routes": [routes], "patience_s": 2 });
        let (one, other) = (step(json!({ "provider": first.id })), step(json!({ "provider": second.id })));
        let sims = step(json!("sims"));
        let body = json!({
            "plans": {
                "chain": { "steps": [sims.clone(), one.clone(), other.clone()] },
                "online": { "steps": [one, other, sims] },
            },
            "rules": [{ "name": "a-fifth-online", "plan": "online", "share_percent": 20 }],
            "default_plan": "chain",
        });
        self.client.put_any("/v1/routing", &body).await.map(drop)
    }

    async fn add_fleet(&mut self, programs: &Programs, kind: &Kind, seed: u64) -> anyhow::Result<()> {
        let n = self.fleets.len();
        let names = (0..DEVICES).map(|device| format!("{} {device}", kind.name));
        let codes = fleet::invite(&self.client, names).await?;
        let fleet = Fleet { folder: &self.folder, number: n, codes: &codes, profile: kind.profile, seed };
        self.fleets.push(fleet.start(programs)?);
        let (client, devices) = (self.client.clone(), self.fleets.len() * DEVICES);
        fleet::wait_until_online(&client, devices, || self.check_alive()).await?;
        self.know_devices(kind).await
    }

    /// The SIMs that have come with a fleet get their limits.
    async fn know_devices(&mut self, kind: &Kind) -> anyhow::Result<()> {
        let sims = self.client.call(Method::GET, "/v1/sims?limit=500", None).await?;
        let known: Vec<String> = self.devices.concat();
        let mut devices = Vec::new();
        for sim in sims["items"].as_array().context("no SIMs in the answer")? {
            let device = text(sim, "device")?.to_owned();
            if known.contains(&device) {
                continue;
            }
            let slot = sim["slot"].as_u64().context("a SIM without slot")? as u8;
            if let Some(limit) = kind.per_minute {
                let body = json!({ "limits": { "per_minute": limit } });
                let path = format!("/v1/sims/{}", text(sim, "id")?);
                self.client.call(Method::PATCH, &path, Some(body)).await?;
                self.per_minute.insert((device.clone(), slot), limit);
            }
            devices.push(device);
        }
        ensure!(devices.len() == DEVICES, "{} devices have SIMs", devices.len());
        self.devices.push(devices);
        Ok(())
    }

    pub(super) fn radio_logs(&self) -> Vec<PathBuf> {
        radio_logs(&self.folder, self.fleets.len())
    }

    /// What people call it.
    pub(super) fn name_of(&self, route: &str) -> String {
        if let Some(n) = self.providers.iter().position(|provider| provider.id == route) {
            return format!("provider {n}");
        }
        let place = |devices: &Vec<String>| devices.iter().position(|device| device == route);
        let found = self.devices.iter().zip(&FLEETS).find_map(|(devices, fleet)| Some((fleet, place(devices)?)));
        found.map_or_else(|| route.to_owned(), |(fleet, n)| format!("{} {n}", fleet.name))
    }

    pub(super) fn check_alive(&mut self) -> anyhow::Result<()> {
        self.controller.check_alive()?;
        self.fleets.iter_mut().try_for_each(Program::check_alive)
    }

    /// Waits until no message is open any more, or until every deadline has passed.
    pub(super) async fn wait_for_the_end(&mut self, options: &Options) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(options.valid_for_s) + END_GRACE;
        loop {
            self.check_alive()?;
            let stats = self.client.totals().await?;
            let sum = |name: &str| -> u64 {
                stats["rows"].as_array().map_or(0, |rows| rows.iter().filter_map(|row| row[name].as_u64()).sum())
            };
            let ended = sum("delivered") + sum("failed") + sum("expired") + sum("cancelled");
            if ended >= sum("accepted") || Instant::now() >= until {
                return Ok(());
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }

    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        for fleet in &mut self.fleets {
            fleet.stop().await?;
        }
        self.controller.stop().await
    }
}

fn config(data: &str, http: &str, quic: &str) -> String {
    format!(
        "data_dir = \"{data}\"\n\
        [http]\naddr = \"{http}\"\npublic_url = \"http://{http}\"\n\
        [quic]\naddr = \"{quic}\"\n\
        [store]\nshards = 4\n\
        [routing]\nretry_delays_s = [0, 2, 5, 10]\n\
        [providers]\nallow_private_addresses = true\n"
    )
}

/// The first provider is moody, the second one worse.
fn scripts() -> [Script; 2] {
    let first = Script {
        latency_ms: 60,
        throttled: 0.02,
        broken: 0.002,
        broken_after_taking: 0.002,
        slow: 0.002,
        slow_after_taking: 0.004,
        slow_ms: 2 * TIMEOUT_MS,
        closed: 0.004,
        garbage: 0.002,
        permanent: 0.005,
        route: 0.005,
        report_ms: 2_000,
        silent: 0.01,
        undelivered: 0.01,
        forged: 0.2,
        twice: 0.2,
        disordered: 0.2,
    };
    let second = Script { throttled: 0.05, route: 0.02, slow_after_taking: 0.01, latency_ms: 200, ..first.clone() };
    [first, second]
}

fn text<'a>(value: &'a Value, field: &str) -> anyhow::Result<&'a str> {
    value[field].as_str().with_context(|| format!("no {field} in the answer"))
}
