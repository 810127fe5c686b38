//! The accounts that tenants have, by seed.

use std::sync::Arc;

use flotilla_controller::providers::agent::Config;
use flotilla_controller::shard::RouteSim;
use flotilla_protocol::id::{DeviceId, ProviderId, SenderId, SimId};
use flotilla_routing::route::Route;

use crate::sim::Flaw;
use crate::sim::plan::Size;
use crate::sim::rng::Rng;
use crate::sim::site;

/// An account, and what its maker can do.
#[derive(Clone, Debug)]
pub(in crate::sim) struct Account {
    pub number: usize,
    pub tenant: usize,
    pub config: Config,
    pub timeout_ms: u64,
    /// Sends our reference back with its reports; else they have its own id only.
    pub echoes: bool,
    pub calls_back: bool,
    pub polls: bool,
    /// Reports each segment by itself.
    pub by_segment: bool,
    pub senders: Vec<Sender>,
    /// Segments a minute of all its senders together.
    pub per_minute: Option<u32>,
}

/// What is set for a sender.
#[derive(Clone, Debug)]
pub(in crate::sim) struct Sender {
    pub per_minute: Option<u32>,
    pub has_gap: bool,
    pub has_windows: bool,
}

/// Half of the tenants have one or two accounts with one or two senders each; in some seeds nobody has any.
pub(in crate::sim) fn draw(seed: u64, size: Size) -> Vec<Account> {
    let mut rng = Rng::new(seed, "accounts", 0);
    let mut accounts = Vec::new();
    if rng.percent(10) {
        return accounts;
    }
    for tenant in 0..size.tenants {
        let count = [0, 0, 0, 1, 1, 2][rng.index(6)];
        for _ in 0..count {
            let account = one(accounts.len(), tenant, &mut rng);
            accounts.push(account);
        }
    }
    accounts
}

fn one(number: usize, tenant: usize, rng: &mut Rng) -> Account {
    let per_minute = |rng: &mut Rng, percent: u32, most: u64| rng.percent(percent).then(|| rng.between(3, most) as u32);
    let sender = |rng: &mut Rng| Sender {
        per_minute: per_minute(rng, 25, 6),
        has_gap: rng.percent(15),
        has_windows: rng.percent(15),
    };
    let config = Config {
        window: rng.between(1, 12) as u16,
        batch_max: if rng.percent(30) { rng.between(2, 10) as usize } else { 1 },
        requests_per_s: rng.percent(30).then(|| rng.between(1, 5) as u16),
    };
    let senders = (0..rng.between(1, 2)).map(|_| sender(rng)).collect();
    let per_minute = per_minute(rng, 25, 8);
    let (echoes, by_segment) = (rng.percent(50), rng.percent(25));
    let calls_back = rng.percent(85);
    let polls = rng.percent(50) || !calls_back;
    Account {
        number,
        tenant,
        config,
        timeout_ms: rng.between(2_000, 10_000),
        echoes,
        calls_back,
        polls,
        by_segment,
        senders,
        per_minute,
    }
}

impl Account {
    /// It takes the place of a device.
    pub(in crate::sim) fn id(&self) -> DeviceId {
        let mut bytes = [0xee; 16];
        bytes[15] = self.number as u8;
        DeviceId::from_bytes(bytes)
    }

    pub(in crate::sim) fn provider(&self) -> ProviderId {
        ProviderId::from_bytes(self.id().to_bytes())
    }

    pub(in crate::sim) fn route(&self, slot: u8) -> Route {
        Route::provider(self.provider(), SenderId::from_bytes(self.sender(slot).to_bytes()))
    }

    fn sender(&self, slot: u8) -> SimId {
        let mut bytes = self.id().to_bytes();
        bytes[0] = slot;
        SimId::from_bytes(bytes)
    }

    pub(in crate::sim) fn slots(&self) -> impl Iterator<Item = u8> {
        0..self.senders.len() as u8
    }

    pub(in crate::sim) fn sims(&self, ready: bool, flaw: Option<Flaw>) -> Vec<RouteSim> {
        let sim = |slot| RouteSim {
            slot,
            sim: self.sender(slot),
            depth: u8::try_from(self.config.window).unwrap_or(u8::MAX),
            ready,
            settings: Arc::new(site::spoiled(site::of_sender(self, slot), flaw)),
        };
        self.slots().map(sim).collect()
    }
}
