//! From the SIM a client wishes for to one that is its own: looked up in the catalog, and remembered for a moment.

use std::time::{Duration, Instant};

use flotilla_protocol::id::TenantId;
use flotilla_routing::choice::sender_hash;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::validate::Wish;
use crate::api::catalog_problem;
use crate::api::problem::Problem;
use crate::domain::message::Pin;
use crate::fleet::devices::{DeviceError, DeviceState, Devices};
use crate::fleet::sims::{SimError, Sims};
use crate::providers::accounts::Accounts;

/// A SIM changes its device or number seldom, and whoever sends ten thousand messages by one asks ten thousand times.
const FRESH: Duration = Duration::from_secs(5);
const REMEMBERED_MAX: usize = 10_000;

pub struct Pins {
    devices: Devices,
    sims: Sims,
    accounts: Accounts,
    remembered: Mutex<FxHashMap<(TenantId, Wish), (Pin, Instant)>>,
}

impl Pins {
    pub fn new(devices: Devices, sims: Sims, accounts: Accounts) -> Self {
        Self { devices, sims, accounts, remembered: Mutex::default() }
    }

    /// What a message may be sent by: its pin, and whether anybody can show its sender.
    pub async fn resolve(&self, tenant: TenantId, wish: Wish, sender: Option<&str>) -> Result<Pin, Problem> {
        let pin = self.pin(tenant, wish).await?;
        match sender {
            Some(sender) if pin == Pin::Any && !self.has_sender(tenant, sender) => {
                let detail = "none of your SIMs has this number, and none of your providers this sender; list them with \
                    GET /v1/sims and GET /v1/providers";
                Err(Problem::field("from", detail))
            }
            _ => Ok(pin),
        }
    }

    /// By the accounts in memory, compared as routes compare them.
    fn has_sender(&self, tenant: TenantId, sender: &str) -> bool {
        let wanted = sender_hash(sender);
        let accounts = self.accounts.all();
        let mut own = accounts.iter().filter(|account| account.tenant == tenant);
        own.any(|account| account.settings.senders.iter().any(|known| sender_hash(&known.from) == wanted))
    }

    /// Another tenant's SIM is as unknown as one that does not exist.
    async fn pin(&self, tenant: TenantId, wish: Wish) -> Result<Pin, Problem> {
        if wish == Wish::Any {
            return Ok(Pin::Any);
        }
        let known = self.remembered.lock().get(&(tenant, wish)).copied();
        if let Some((pin, at)) = known
            && at.elapsed() < FRESH
        {
            return Ok(pin);
        }
        let pin = self.look_up(tenant, wish).await?;
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert((tenant, wish), (pin, Instant::now()));
        Ok(pin)
    }

    async fn look_up(&self, tenant: TenantId, wish: Wish) -> Result<Pin, Problem> {
        match wish {
            Wish::Any => Ok(Pin::Any),
            Wish::Sim(id) => match self.sims.get(tenant, id).await {
                Ok(sim) => Ok(Pin::Sim(sim.id)),
                Err(SimError::Sql(error)) => Err(catalog_problem(&error)),
                Err(_) => Err(Problem::field("sim", "no such SIM; list yours with GET /v1/sims")),
            },
            Wish::Device(id) => match self.devices.get(tenant, id).await {
                Ok(device) if device.state == DeviceState::Revoked => {
                    Err(Problem::field("device", "this device is revoked; use another one"))
                }
                Ok(device) => Ok(Pin::Device(device.id)),
                Err(DeviceError::Sql(error)) => Err(catalog_problem(&error)),
                Err(_) => Err(Problem::field("device", "no such device; list yours with GET /v1/devices")),
            },
            Wish::From(number) => match self.sims.by_number(tenant, number).await {
                Ok(sim) => Ok(Pin::Sim(sim.id)),
                Err(SimError::Sql(error)) => Err(catalog_problem(&error)),
                // Then it is a provider's, or nobody's.
                Err(_) => Ok(Pin::Any),
            },
        }
    }
}
