//! Who is connected: at most one session per device, the newest.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flotilla_protocol::id::DeviceId;
use flotilla_protocol::wire::Refusal;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::link::Transport;
use super::peer::Peer;

#[derive(Default)]
pub(super) struct Registry {
    inner: Mutex<Inner>,
    connected: AtomicUsize,
    empty: Notify,
}

#[derive(Default)]
struct Inner {
    peers: FxHashMap<DeviceId, Arc<Peer>>,
    last_session: u64,
    /// Devices that have left since the last look, with the time: their `last_seen` has to be written.
    left: Vec<(DeviceId, u64)>,
    /// Sessions whose place was taken and that have not yet ended.
    superseded: Vec<Arc<Peer>>,
    /// Of `peers`, in the order of `Transport::ALL`.
    by_transport: [usize; Transport::ALL.len()],
}

impl Registry {
    /// Makes the session with the next number and puts it in the place of an older one. `up` runs before anybody else can
    /// register the same device, so that shards hear of sessions in the order of their numbers.
    pub(super) fn register(
        &self,
        now_ms: u64,
        make: impl FnOnce(u64) -> Arc<Peer>,
        up: impl FnOnce(&Arc<Peer>),
    ) -> Arc<Peer> {
        let mut inner = self.inner.lock();
        inner.last_session += 1;
        let peer = make(inner.last_session);
        let older = inner.peers.insert(peer.device(), peer.clone());
        inner.by_transport[peer.connection.transport() as usize] += 1;
        if let Some(older) = older {
            inner.by_transport[older.connection.transport() as usize] -= 1;
            older.refuse(Refusal::Superseded, "the device has connected again", now_ms);
            inner.superseded.push(older);
        }
        up(&peer);
        self.note(&inner);
        peer
    }

    /// True when the device is not connected any more, false when a newer session has taken over.
    pub(super) fn remove(&self, peer: &Peer, now_unix_ms: u64) -> bool {
        let mut inner = self.inner.lock();
        let present = inner.peers.get(&peer.device()).is_some_and(|known| known.session == peer.session);
        if present {
            inner.peers.remove(&peer.device());
            inner.by_transport[peer.connection.transport() as usize] -= 1;
            inner.left.push((peer.device(), now_unix_ms));
            self.note(&inner);
        }
        present
    }

    fn note(&self, inner: &Inner) {
        let connected = inner.peers.len();
        self.connected.store(connected, Ordering::Release);
        for (transport, count) in Transport::ALL.iter().zip(inner.by_transport) {
            metrics::gauge!("flotilla_devices_connected", "transport" => transport.as_str()).set(count as f64);
        }
        if connected == 0 {
            self.empty.notify_waiters();
        }
    }

    pub(super) fn get(&self, device: DeviceId) -> Option<Arc<Peer>> {
        self.inner.lock().peers.get(&device).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.connected.load(Ordering::Acquire)
    }

    pub(super) fn all(&self) -> Vec<Arc<Peer>> {
        self.inner.lock().peers.values().cloned().collect()
    }

    /// Sessions that are writing or closing, for the sweeper.
    pub(super) fn unfinished(&self) -> Vec<Arc<Peer>> {
        let mut inner = self.inner.lock();
        inner.superseded.retain(|peer| !peer.is_ended());
        let busy = |peer: &&Arc<Peer>| peer.outbox.writing_since_ms().is_some() || peer.closing().is_some();
        inner.peers.values().chain(&inner.superseded).filter(busy).cloned().collect()
    }

    /// Sessions of which something is expected, for the sweeper.
    pub(super) fn watched(&self, now_ms: u64) -> Vec<Arc<Peer>> {
        self.inner.lock().peers.values().filter(|peer| peer.is_watched(now_ms)).cloned().collect()
    }

    pub(super) fn take_left(&self) -> Vec<(DeviceId, u64)> {
        std::mem::take(&mut self.inner.lock().left)
    }

    pub(super) async fn wait_empty(&self) {
        loop {
            let emptied = self.empty.notified();
            if self.len() == 0 {
                return;
            }
            emptied.await;
        }
    }
}
