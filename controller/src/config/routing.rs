//! What concerns the choice of routes in the whole installation. What a tenant decides is in the catalog, behind the API.

use serde::{Deserialize, Serialize};

use super::Fault;
use crate::fleet::sims::HoldNewSims;

/// A message is dispatched a bounded number of times, whatever is set here.
const RETRIES_MAX: usize = 20;
const RETRY_DELAY_S_MAX: u32 = 86_400;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Routing {
    pub hold_new_sims: HoldNewSims,
    pub retry_delays_s: Vec<u32>,
}

impl Default for Routing {
    fn default() -> Self {
        Self { hold_new_sims: HoldNewSims::Changed, retry_delays_s: vec![0, 300, 1_800, 7_200] }
    }
}

impl Routing {
    pub(super) fn faults(&self, faults: &mut Vec<Fault>) {
        let delays = &self.retry_delays_s;
        if delays.len() > RETRIES_MAX || delays.iter().any(|delay| *delay > RETRY_DELAY_S_MAX) {
            let remedy = format!("give at most {RETRIES_MAX} pauses of 0 to {RETRY_DELAY_S_MAX} seconds");
            faults.push(Fault { key: "routing.retry_delays_s", remedy });
        }
    }

    pub fn retry_delays_ms(&self) -> Vec<u64> {
        self.retry_delays_s.iter().map(|delay| u64::from(*delay) * 1_000).collect()
    }
}
