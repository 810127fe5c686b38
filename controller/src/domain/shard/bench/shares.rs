//! Shares: ten tenants with very many queued messages in two campaigns each, of which the second came after all of the first.
//! Who is served when half of the work is done, and how long an urgent message that comes on top waits for its grant.

use std::time::{Duration, Instant};

use flotilla_protocol::id::{DeviceId, MessageId};
use flotilla_protocol::wire::{Down, Report};
use rustc_hash::FxHashMap;

use super::{START, answers, connect, machine, request, tenant};
use crate::domain::Now;
use crate::domain::message::Priority;
use crate::domain::shard::{Effect, Input, Machine};

const TENANTS: u8 = 10;
const CAMPAIGNS: [&str; 2] = ["", "spring"];
const DEVICES_OF_TENANT: u64 = 10;
const REQUEST: usize = super::REQUEST;
/// An urgent message after so many rounds.
const URGENT_EVERY: usize = 20;

/// What [`bench_shares`] measured.
#[derive(Clone, Debug)]
pub struct SharesBench {
    pub messages: usize,
    /// Granted messages of each tenant when half of all were.
    pub tenants: Vec<u64>,
    /// The same of each tenant and campaign.
    pub campaigns: Vec<u64>,
    /// From the input of an urgent message to its grant, each.
    pub urgent: Vec<Duration>,
}

struct World {
    machine: Machine,
    now: Now,
    positions: Vec<u64>,
    /// Tenant and campaign of each queued message; urgent ones are not in it.
    owners: FxHashMap<MessageId, usize>,
    granted: Vec<u64>,
    urgent: FxHashMap<MessageId, Instant>,
    took: Vec<Duration>,
}

/// Queues so many messages, then sends half of them.
pub fn bench_shares(messages: usize) -> SharesBench {
    let lanes = usize::from(TENANTS) * CAMPAIGNS.len();
    let each = (messages / lanes / REQUEST).max(1);
    let mut world = World {
        machine: machine(messages + messages / 10),
        now: START,
        positions: vec![0; usize::from(TENANTS) * DEVICES_OF_TENANT as usize],
        owners: FxHashMap::default(),
        granted: vec![0; lanes],
        urgent: FxHashMap::default(),
        took: Vec::new(),
    };
    let mut n = 0;
    for lane in 0..lanes {
        for _ in 0..each {
            world.queue(lane, n);
            n += 1;
        }
    }
    for device in 0..world.positions.len() as u64 {
        connect(&mut world.machine, tenant((device / DEVICES_OF_TENANT) as u8 + 1), device, world.now);
    }
    let total = (n * REQUEST) as u64;
    let mut round = 0;
    while world.granted.iter().sum::<u64>() < total / 2 {
        if round % URGENT_EVERY == 0 {
            world.urge((round / URGENT_EVERY) % usize::from(TENANTS), n);
            n += 1;
        }
        world.round();
        round += 1;
    }
    let of_tenant = |lanes: &[u64]| lanes.iter().sum();
    SharesBench {
        messages: total as usize,
        tenants: world.granted.chunks(CAMPAIGNS.len()).map(of_tenant).collect(),
        campaigns: world.granted,
        urgent: world.took,
    }
}

impl World {
    fn queue(&mut self, lane: usize, n: usize) {
        let (owner, campaign) = (tenant((lane / CAMPAIGNS.len()) as u8 + 1), CAMPAIGNS[lane % CAMPAIGNS.len()]);
        let request = request(owner, n, Priority::Bulk, campaign, self.now);
        self.owners.extend(request.submissions.iter().map(|submission| (submission.id, lane)));
        self.machine.handle(Input::Accept { token: n as u64, request }, self.now);
        self.machine.drain();
    }

    fn urge(&mut self, of: usize, n: usize) {
        let mut request = request(tenant(of as u8 + 1), n, Priority::Urgent, "", self.now);
        request.submissions.truncate(1);
        self.urgent.extend(request.submissions.iter().map(|submission| (submission.id, Instant::now())));
        self.machine.handle(Input::Accept { token: n as u64, request }, self.now);
    }

    /// Every device sends what it was granted.
    fn round(&mut self) {
        for effect in self.machine.drain().effects {
            let Effect::Send { device, session, frames } = effect else { continue };
            self.note(&frames);
            let position = &mut self.positions[session as usize - 1];
            let reports = answers(frames, position, self.now);
            self.answer(device, session, reports);
        }
        self.now.unix_ms += 1;
        self.now.mono_ms += 1;
    }

    fn note(&mut self, frames: &[Down]) {
        let granted = frames.iter().flat_map(|frame| match frame {
            Down::Dispatch(dispatch) if dispatch.granted => vec![dispatch.attempt.message],
            Down::Go { attempts, .. } => attempts.iter().map(|attempt| attempt.message).collect(),
            _ => Vec::new(),
        });
        for message in granted.collect::<Vec<_>>() {
            if let Some(since) = self.urgent.remove(&message) {
                self.took.push(since.elapsed());
            } else if let Some(lane) = self.owners.get(&message) {
                self.granted[*lane] += 1;
            }
        }
    }

    fn answer(&mut self, device: DeviceId, session: u64, reports: Vec<Report>) {
        if !reports.is_empty() {
            self.machine.handle(Input::Reports { device, session, reports }, self.now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::WINDOW;
    use super::*;

    #[test]
    fn tenants_and_campaigns_have_equal_shares_and_urgent_messages_overtake() {
        let bench = bench_shares(20_000);
        let spread = |shares: &[u64]| shares.iter().max().unwrap() - shares.iter().min().unwrap();
        let in_flight = u64::from(WINDOW) * DEVICES_OF_TENANT;
        assert!(spread(&bench.tenants) <= in_flight, "{:?}", bench.tenants);
        assert!(spread(&bench.campaigns) <= in_flight, "{:?}", bench.campaigns);
        assert!(!bench.urgent.is_empty());
    }
}
