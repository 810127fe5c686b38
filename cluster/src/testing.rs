//! Real etcd servers for tests: members on free loopback ports, with their data in a temporary folder, that can be killed,
//! paused and started again. They end with the value.
//!
//! Other crates use it with `flotilla-cluster = { workspace = true, features = ["testing"] }` in their dev-dependencies.
//! The server is `etcd` on the `PATH`, or what `FLOTILLA_ETCD` names.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, TlsOptions};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// On a busy machine.
const START_MAX: Duration = Duration::from_secs(60);
const CALL_MAX: Duration = Duration::from_secs(3);

/// Certificates for servers that speak TLS and demand it of their clients.
#[derive(Debug, Clone)]
pub struct ServerTls {
    pub ca_file: PathBuf,
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// What these helpers use themselves to talk to the servers.
    pub client: TlsOptions,
}

struct Server {
    client_url: String,
    peer_url: String,
    process: Option<Child>,
}

/// An etcd cluster of its own.
pub struct EtcdServers {
    dir: TempDir,
    binary: PathBuf,
    tls: Option<ServerTls>,
    servers: Vec<Server>,
}

impl EtcdServers {
    /// Starts `count` members and waits until they agree on a leader. `None` if this machine has no etcd: the test is to
    /// return then. With `FLOTILLA_TESTS_REQUIRE_ALL=1` that is a failure instead.
    pub async fn start(count: usize) -> Option<Self> {
        Self::start_with(count, None).await
    }

    pub async fn start_with(count: usize, tls: Option<ServerTls>) -> Option<Self> {
        let Some(binary) = binary() else {
            let text = "etcd is missing: install it (Debian: apt-get install etcd-server) or name it in FLOTILLA_ETCD";
            assert!(std::env::var_os("FLOTILLA_TESTS_REQUIRE_ALL").is_none_or(|value| value != "1"), "{text}");
            eprintln!("skipped: {text}");
            return None;
        };
        let dir = TempDir::new().expect("a temporary folder");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let server = |_| Server {
            client_url: format!("{scheme}://127.0.0.1:{}", free_port()),
            peer_url: format!("http://127.0.0.1:{}", free_port()),
            process: None,
        };
        let mut cluster = Self { dir, binary, tls, servers: (0..count).map(server).collect() };
        for member in 0..count {
            cluster.restart(member);
        }
        for member in 0..count {
            cluster.ready(member).await;
        }
        Some(cluster)
    }

    /// Its members' data, and their logs `m0.log`, `m1.log`...
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// For `EtcdConfig::endpoints`.
    pub fn endpoints(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.client_url.clone()).collect()
    }

    /// Starts a member that is not running, with the data it had.
    pub fn restart(&mut self, member: usize) {
        assert!(self.servers[member].process.is_none(), "member {member} runs already");
        let command = self.command(member).spawn();
        self.servers[member].process = Some(command.expect("etcd starts"));
    }

    fn command(&self, member: usize) -> Command {
        let server = &self.servers[member];
        let peers = self.servers.iter().enumerate().map(|(number, server)| format!("m{number}={}", server.peer_url));
        let log = |path: &Path| File::options().create(true).append(true).open(path).expect("a log file");
        let log = log(&self.dir.path().join(format!("m{member}.log")));
        let mut command = ends_with_us(&self.binary);
        command
            .env_clear()
            .current_dir(self.dir.path())
            .args(["--name", &format!("m{member}"), "--data-dir", &format!("m{member}")])
            .args(["--listen-client-urls", &server.client_url, "--advertise-client-urls", &server.client_url])
            .args(["--listen-peer-urls", &server.peer_url, "--initial-advertise-peer-urls", &server.peer_url])
            .args(["--initial-cluster", &peers.collect::<Vec<_>>().join(",")])
            .args(["--logger", "zap", "--log-level", "warn"])
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(tls) = &self.tls {
            command.arg("--trusted-ca-file").arg(&tls.ca_file).arg("--cert-file").arg(&tls.cert_file);
            command.arg("--key-file").arg(&tls.key_file).arg("--client-cert-auth");
        }
        command
    }

    /// Waits until a member answers with the agreement of the others.
    pub async fn ready(&self, member: usize) {
        let began = Instant::now();
        while began.elapsed() < START_MAX {
            if self.answers(member).await {
                return;
            }
            // etcd has no way to tell.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let log = std::fs::read_to_string(self.dir.path().join(format!("m{member}.log"))).unwrap_or_default();
        panic!("etcd member {member} does not answer; its log:\n{log}");
    }

    async fn answers(&self, member: usize) -> bool {
        let ask = async { self.client(member).await?.get("/", None).await };
        matches!(tokio::time::timeout(CALL_MAX, ask).await, Ok(Ok(_) | Err(etcd_client::Error::GRpcStatus(_))))
    }

    /// A client of one member, without a user.
    pub async fn client(&self, member: usize) -> Result<Client, etcd_client::Error> {
        let url = &self.servers[member].client_url;
        let address = url.rsplit('/').next().unwrap_or_default();
        drop(tokio::net::TcpStream::connect(address).await?);
        let options = self.tls.as_ref().map(|tls| ConnectOptions::new().with_tls(tls.client.clone()));
        Client::connect([url], options).await
    }

    /// Which member is etcd's own leader now.
    pub async fn leader(&self) -> usize {
        loop {
            for member in 0..self.servers.len() {
                let ask = async { self.client(member).await?.status().await };
                if let Ok(Ok(status)) = tokio::time::timeout(CALL_MAX, ask).await
                    && status.header().is_some_and(|header| header.member_id() == status.leader())
                {
                    return member;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Like `kill -9`.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut process) = self.servers[member].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// It keeps its connections and answers nothing.
    pub fn pause(&self, member: usize) {
        self.signal(member, Signal::STOP).expect("a running member");
    }

    pub fn resume(&self, member: usize) {
        self.signal(member, Signal::CONT).expect("a paused member");
    }

    fn signal(&self, member: usize, signal: Signal) -> io::Result<()> {
        let process = self.servers[member].process.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let pid = Pid::from_raw(process.id() as i32).ok_or(io::ErrorKind::NotFound)?;
        Ok(kill_process(pid, signal)?)
    }
}

impl Drop for EtcdServers {
    fn drop(&mut self) {
        for member in 0..self.servers.len() {
            self.kill(member);
        }
    }
}

/// A command whose process the kernel kills when the thread that starts it ends, however that happens. Without `setpriv`
/// (util-linux) it ends only with an orderly end of ours.
fn ends_with_us(file: &Path) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(setpriv) = std::env::split_paths(&path).map(|dir| dir.join("setpriv")).find(|file| file.is_file()) else {
        return Command::new(file);
    };
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--"]).arg(file);
    command
}

fn binary() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("FLOTILLA_ETCD") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("etcd")).find(|file| file.is_file())
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    listener.local_addr().expect("an address").port()
}
