//! Reads all keys whenever they may have changed, and every second in any case. A watch only says when to look: what it
//! leaves out, repeats or delivers late changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use etcd_client::WatchStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use super::clock::now_ms;
use super::driver::Event;
use super::store::{Store, pause};

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Says that the keys should be read now.
#[derive(Debug, Default)]
pub(super) struct Hint {
    notify: Notify,
    /// The revision of the last read.
    revision: AtomicI64,
}

impl Hint {
    pub(super) fn give(&self) {
        self.notify.notify_one();
    }
}

/// Reads for ever, one at a time, and tells the driver in order.
pub(super) async fn read(store: Arc<Store>, hint: Arc<Hint>, events: mpsc::Sender<Event>) {
    let mut failures = 0;
    loop {
        let began_ms = now_ms();
        let event = match store.read().await {
            Ok(contents) => {
                failures = 0;
                hint.revision.store(contents.revision as i64, Ordering::Relaxed);
                Event::Read { contents: Arc::new(contents), began_ms }
            }
            Err(error) => {
                failures += 1;
                Event::Unreadable(error)
            }
        };
        if events.send(event).await.is_err() {
            return;
        }
        if failures == 0 {
            // Time passing is as good a reason as a hint.
            let _ = timeout(LOOK_EVERY, hint.notify.notified()).await;
        } else {
            sleep(pause(failures)).await;
        }
    }
}

/// Turns changes into hints for ever.
pub(super) async fn watch(store: Arc<Store>, hint: Arc<Hint>) {
    let mut failures = 0;
    loop {
        let from = hint.revision.load(Ordering::Relaxed) + 1;
        match store.etcd.watch(store.keys.all(), from).await {
            Ok(stream) => {
                failures = 0;
                tokio::select! {
                    () = follow(stream, &hint) => {}
                    () = store.etcd.moved() => tracing::debug!("watching from another endpoint"),
                }
                // Whatever happened in between is read.
                hint.give();
            }
            Err(error) => tracing::debug!(%error, "no watch"),
        }
        sleep(pause(failures)).await;
        failures += 1;
    }
}

/// Ends with the stream, and when etcd has compacted what it would have to tell.
async fn follow(mut stream: WatchStream, hint: &Hint) {
    while let Ok(Some(answer)) = stream.message().await {
        if answer.canceled() {
            return;
        }
        let read = hint.revision.load(Ordering::Relaxed);
        let newest = answer.events().iter().filter_map(|event| event.kv()).map(|kv| kv.mod_revision()).max();
        if newest.is_some_and(|newest| newest > read) {
            hint.give();
        }
    }
}
