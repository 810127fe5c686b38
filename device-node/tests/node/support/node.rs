//! A node in a folder: enrol it, start it, kill it, start it again.

use std::sync::Arc;
use std::time::Duration;

use flotilla_device_node::agent::{self, AgentError, AgentHandle, Exit, Parts, machine};
use flotilla_device_node::clock::SystemClock;
use flotilla_device_node::enroll::{EnrollError, enroll};
use flotilla_device_node::identity::{Identity, IdentityStore};
use flotilla_device_node::link::{self, Links};
use flotilla_device_node::outbox::{Options, Outbox};
use flotilla_protocol::wire::DeviceInfo;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Controller, Script, sim, token};

pub struct Node {
    _folder: tempfile::TempDir,
    pub store: IdentityStore,
    pub links: Links,
    outbox: Outbox,
    running: Option<(AgentHandle, JoinHandle<Result<Exit, AgentError>>)>,
}

impl Node {
    pub fn new() -> Self {
        Self::with(link::Options::default())
    }

    pub fn with(options: link::Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path(), Options { reserve_bytes: 0, ..Options::default() }).unwrap();
        let store = IdentityStore::fleeting(folder.path().join("identity"));
        Self { _folder: folder, store, links: Links::bind_with(1, options).unwrap(), outbox, running: None }
    }

    pub async fn enroll(&self, controller: &Controller) -> Result<Identity, EnrollError> {
        let info = DeviceInfo { name: "test".into(), ..DeviceInfo::default() };
        enroll(&self.links, &self.store, &controller.code(token(1)), &info).await
    }

    /// Enrolled at `controller`, with a certificate that is `age` old.
    pub async fn enrolled(controller: &Controller, age: Duration) -> Self {
        let node = Self::new();
        let (enrolled, ()) = tokio::join!(node.enroll(controller), controller.enroll(age, false));
        enrolled.unwrap();
        node
    }

    pub fn start(&mut self) -> Script {
        assert!(self.running.is_none(), "stopped before");
        let (script, radio) = Script::radio(vec![sim()]);
        let parts = Parts {
            clock: Arc::new(SystemClock),
            links: self.links.clone(),
            outbox: self.outbox.clone(),
            identities: self.store.clone(),
            info: DeviceInfo { name: "test".into(), ..DeviceInfo::default() },
            radio,
            config: machine::Config::default(),
            power: None,
            presence: None,
            seed: 1,
        };
        let (handle, mut commands) = agent::handle();
        let task = tokio::spawn(async move { agent::run(parts, &mut commands).await });
        self.running = Some((handle, task));
        script
    }

    pub fn handle(&self) -> AgentHandle {
        self.running.as_ref().unwrap().0.clone()
    }

    /// As `kill -9` does to one device: its task is gone at once.
    pub async fn kill(&mut self) {
        let (_, task) = self.running.take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }

    pub async fn stop(&mut self) -> Exit {
        self.handle().stop().await;
        self.exit().await
    }

    /// Waits until it ends by itself.
    pub async fn exit(&mut self) -> Exit {
        let (_, task) = self.running.take().unwrap();
        timeout(Duration::from_secs(20), task).await.expect("the agent ends").unwrap().unwrap()
    }
}
