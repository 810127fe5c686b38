//! A thread that owns a value and runs closures on it, one after the other.

use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::sync::{Semaphore, oneshot};

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// Most jobs that wait; callers beyond that wait for their turn to wait.
const WAITING_MAX: usize = 1_024;

pub(super) struct Worker<T> {
    jobs: Option<mpsc::Sender<Job<T>>>,
    room: Semaphore,
    thread: Option<JoinHandle<()>>,
}

/// The thread is gone: its job panicked beyond what it catches.
pub(super) struct Gone;

/// What follows the journal gives way to it when processors are scarce: on two busy cores a commit thread that has to queue
/// behind a follower turns a flush of 0.1 ms into one of 4 ms. A quarter of a core's share keeps followers going.
pub(super) const FOLLOWER_NICE: i32 = 5;

/// Lowers this thread's priority. Where the system does not allow it, things are as they were.
pub(super) fn give_way(nice: i32) {
    if nice != 0 {
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), nice);
    }
}

impl<T: Send + 'static> Worker<T> {
    pub(super) fn start(name: &str, nice: i32, mut value: T) -> std::io::Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job<T>>();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            give_way(nice);
            for job in inbox {
                job(&mut value);
            }
        })?;
        Ok(Self { jobs: Some(jobs), room: Semaphore::new(WAITING_MAX), thread: Some(thread) })
    }

    pub(super) async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, Gone> {
        let _room = self.room.acquire().await.map_err(|_| Gone)?;
        let (answer, result) = oneshot::channel();
        let job: Job<T> = Box::new(move |value| {
            // Nobody may be waiting any more; the job was to be done all the same.
            let _ = answer.send(job(value));
        });
        self.jobs.as_ref().ok_or(Gone)?.send(job).map_err(|_| Gone)?;
        result.await.map_err(|_| Gone)
    }
}

impl<T> Drop for Worker<T> {
    /// Waits for the jobs under way, so that the files are closed when the store is gone.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
