//! A scripted modem on a stream, and the hand that changes its world meanwhile.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep_until};

use super::machine::Machine;
use super::profile::Profile;

/// Cheap to clone; all clones are one modem.
#[derive(Clone, Debug)]
pub struct Scripted {
    machine: Arc<Mutex<Machine>>,
    /// Counts what has happened, so that one can wait for it.
    changes: Arc<watch::Sender<u64>>,
    origin: Instant,
}

impl Scripted {
    pub fn new(profile: Profile) -> Self {
        let machine = Arc::new(Mutex::new(Machine::new(profile)));
        Self { machine, changes: Arc::new(watch::channel(0).0), origin: Instant::now() }
    }

    /// Looks at the modem or changes its world.
    pub fn with<T>(&self, act: impl FnOnce(&mut Machine) -> T) -> T {
        let result = act(&mut self.machine.lock());
        self.changes.send_modify(|changes| *changes += 1);
        result
    }

    /// Waits until `done` says something of the modem.
    pub async fn until<T>(&self, mut done: impl FnMut(&Machine) -> Option<T>) -> T {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(found) = done(&self.machine.lock()) {
                return found;
            }
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    /// Speaks on `port` until the cable is pulled or the other end is closed.
    pub async fn play(&self, mut port: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
        let mut changes = self.changes.subscribe();
        let mut buffer = [0; 512];
        loop {
            changes.borrow_and_update();
            let (said, deadline, unplugged) = {
                let mut machine = self.machine.lock();
                let said = machine.output(self.now_ms());
                (said, machine.next_deadline(), machine.is_unplugged())
            };
            if unplugged {
                return Ok(());
            }
            if !said.is_empty() {
                port.write_all(&said).await?;
            }
            let deadline = deadline.map(|at_ms| self.origin + Duration::from_millis(at_ms));
            tokio::select! {
                count = port.read(&mut buffer) => match count? {
                    0 => return Ok(()),
                    count => self.with(|machine| machine.input(&buffer[..count], self.now_ms())),
                },
                _ = changes.changed() => {}
                () = sleep_until(deadline.unwrap_or(self.origin)), if deadline.is_some() => {}
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }
}
