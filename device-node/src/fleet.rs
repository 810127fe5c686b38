//! Thousands of simulated devices in one process: they share sockets, outbox and clock, and each is one task.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flotilla_protocol::enroll_code::EnrollCode;
use flotilla_protocol::id::EnrollmentId;
use flotilla_protocol::wire::DeviceInfo;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::agent::{self, AgentError, AgentHandle, Exit, Parts, machine};
use crate::clock::{Clock, SystemClock};
use crate::enroll::{EnrollError, enroll};
use crate::identity::{IdentityError, IdentityStore};
use crate::link::Links;
use crate::outbox::Outbox;
use crate::radio::RadioLog;
use crate::radio::simulated::{FleetProfile, Group, Setup, SimulatedRadio};

/// Enrolments under way at once: more would only queue at the controller.
const ENROLLING_MAX: usize = 64;
/// Handshakes that a controller is asked for in a second when a fleet starts.
const STARTS_PER_S: f64 = 2_000.0;

/// Where a simulated device keeps who it is.
#[derive(Clone)]
pub struct Member {
    pub number: usize,
    pub store: IdentityStore,
}

/// What a fleet runs on.
#[derive(Clone)]
pub struct Shared {
    pub links: Links,
    pub outbox: Outbox,
    pub profile: Arc<FleetProfile>,
    pub radio_log: Option<Arc<RadioLog>>,
    /// How many are connected.
    pub presence: Arc<AtomicUsize>,
    pub seed: u64,
}

fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("devices")
}

fn store(data_dir: &Path, token: EnrollmentId) -> IdentityStore {
    IdentityStore::fleeting(folder(data_dir).join(format!("{token}.identity")))
}

/// The devices that were enrolled here before, in the order of their codes.
pub fn enrolled(data_dir: &Path) -> Result<Vec<IdentityStore>, IdentityError> {
    let folder = folder(data_dir);
    let io = |source| IdentityError::Io { path: folder.clone(), source };
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io)?,
    };
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(io)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "identity"));
    paths.sort();
    Ok(paths.into_iter().map(IdentityStore::fleeting).collect())
}

/// Redeems the codes that were not redeemed here before. Answers how many were, and those that failed.
pub async fn enroll_all(
    links: &Links,
    data_dir: &Path,
    codes: Vec<EnrollCode>,
) -> (usize, Vec<(EnrollmentId, EnrollError)>) {
    let mut seen = HashSet::new();
    let permits = Arc::new(Semaphore::new(ENROLLING_MAX));
    let mut tasks = JoinSet::new();
    for (number, code) in codes.into_iter().filter(|code| seen.insert(code.token)).enumerate() {
        let (links, permits) = (links.clone(), permits.clone());
        let store = store(data_dir, code.token);
        tasks.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let token = code.token;
            enroll(&links, &store, &code, &info(number)).await.map_err(|error| (token, error))
        });
    }
    let (mut enrolled, mut failed) = (0, Vec::new());
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok(Ok(_)) => enrolled += 1,
            Ok(Err(failure)) => failed.push(failure),
            Err(error) => tracing::error!(%error, "an enrolment has panicked"),
        }
    }
    (enrolled, failed)
}

fn info(number: usize) -> DeviceInfo {
    DeviceInfo {
        name: format!("simulated-{number:05}"),
        model: "simulated".into(),
        os: std::env::consts::OS.into(),
        software: software(),
    }
}

/// Program and version.
pub fn software() -> String {
    concat!("flotilla-node/", env!("CARGO_PKG_VERSION")).into()
}

/// A running fleet.
pub struct Fleet {
    pub agents: Vec<AgentHandle>,
    tasks: JoinSet<Result<(), AgentError>>,
    /// Devices that will not come back: revoked, or stopped by an error.
    ended: Arc<AtomicUsize>,
}

impl Fleet {
    pub fn start(shared: &Shared, members: Vec<Member>) -> Self {
        let count = members.len();
        let ended = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let mut agents = Vec::with_capacity(count);
        for member in members {
            let (handle, commands) = agent::handle();
            agents.push(handle.clone());
            let device = Device::new(shared.clone(), member, count);
            let ended = ended.clone();
            tasks.spawn(async move {
                let done = device.run(commands).await;
                ended.fetch_add(1, Ordering::Relaxed);
                done
            });
        }
        Self { agents, tasks, ended }
    }

    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }

    /// Waits until a device ends with an error, or all have ended.
    pub async fn wait(&mut self) -> Result<(), AgentError> {
        while let Some(done) = self.tasks.join_next().await {
            match done {
                Ok(done) => done?,
                Err(error) => tracing::error!(%error, "a simulated device has panicked"),
            }
        }
        Ok(())
    }

    /// Tells all to finish, then waits for them.
    pub async fn stop(mut self) -> Result<(), AgentError> {
        for agent in &self.agents {
            agent.stop().await;
        }
        self.wait().await
    }
}

/// One simulated device with all its lives.
struct Device {
    shared: Shared,
    member: Member,
    group: Group,
    rng: SmallRng,
    start_after: Duration,
}

impl Device {
    fn new(shared: Shared, member: Member, fleet_size: usize) -> Self {
        // Each device has its own stream of chance, whatever the others do.
        let mut rng = SmallRng::seed_from_u64(shared.seed ^ (member.number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let group = shared.profile.group(member.number).cloned().unwrap_or_default();
        let start_after = Duration::from_secs_f64(rng.random::<f64>() * fleet_size as f64 / STARTS_PER_S);
        Self { shared, member, group, rng, start_after }
    }

    async fn run(mut self, mut commands: agent::Commands) -> Result<(), AgentError> {
        sleep(self.start_after).await;
        loop {
            match agent::run(self.parts()?, &mut commands).await? {
                Exit::Stopped => return Ok(()),
                Exit::Revoked { detail } => {
                    tracing::warn!(device = self.member.number, detail, "a simulated device is revoked");
                    return Ok(());
                }
                Exit::RadioGone => {
                    let pause_ms = self.group.sim.iter().map(|sim| sim.crash_pause_ms).max().unwrap_or(0);
                    sleep(Duration::from_millis(u64::from(pause_ms))).await;
                }
            }
        }
    }

    fn parts(&mut self) -> Result<Parts, AgentError> {
        let identity = self.member.store.load()?.ok_or(AgentError::NotEnrolled)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let radio = SimulatedRadio::new(Setup {
            device: identity.device,
            first_slot: 0,
            sims: self.group.sim.clone().into(),
            seed: self.rng.random(),
            clock: clock.clone(),
            log: self.shared.radio_log.clone(),
        });
        Ok(Parts {
            clock,
            links: self.shared.links.clone(),
            outbox: self.shared.outbox.clone(),
            identities: self.member.store.clone(),
            info: info(self.member.number),
            radio: Box::new(radio),
            config: machine::Config { window: self.group.window, ..machine::Config::default() },
            power: None,
            presence: Some(self.shared.presence.clone()),
            seed: self.rng.random(),
        })
    }
}
