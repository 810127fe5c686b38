//! Clients: each request is sent until it is answered, with its idempotency key to another controller; without a key only as
//! long as the answer says that nothing was accepted.

use flotilla_controller::domain::message::{Duplicates, Priority};
use flotilla_controller::domain::shard::CancelOutcome;
use flotilla_protocol::id::{DeviceId, MessageId};

use super::node::{Call, NodeEvent, Reply, Wish};
use super::plan::{Party, Size, Submit};
use super::rng::Rng;
use super::site::Site;
use super::world::{Cx, Event};

const TIMEOUT_MS: u64 = 12_000;
/// A client that gets no answer for so long gives up.
const TRIES_MAX: u32 = 60;
/// Everything else has ended by then: requests stop minutes before the probe.
const PROBE_VALID_MS: u64 = 600_000;

#[derive(Debug)]
pub(super) enum ClientEvent {
    Ask { client: usize },
    Answer { client: usize, attempt: u32, reply: Reply },
    Timeout { client: usize, attempt: u32 },
}

struct Client {
    wish: Wish,
    node: usize,
    attempt: u32,
    done: bool,
    ids: Vec<MessageId>,
}

pub(super) struct Clients {
    rng: Rng,
    size: Size,
    clients: Vec<Client>,
    /// Those that submit, in order, for cancelling.
    submitters: Vec<usize>,
    /// Devices and accounts with the client that tries each.
    probes: Vec<(DeviceId, usize)>,
}

impl Clients {
    pub(super) fn new(seed: u64, size: Size) -> Self {
        Self {
            rng: Rng::new(seed, "clients", 0),
            size,
            clients: Vec::new(),
            submitters: Vec::new(),
            probes: Vec::new(),
        }
    }

    pub(super) fn at_rest(&self) -> bool {
        self.clients.iter().all(|client| client.done)
    }

    pub(super) fn submit(&mut self, op: usize, submit: &Submit, cx: &mut Cx) {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&(op as u64).to_le_bytes());
        let key = submit.with_key.then_some(key);
        self.submitters.push(self.clients.len());
        self.add(Wish::Submit { submit: submit.clone(), key }, submit.node, cx);
    }

    /// The first message of some request that was answered.
    pub(super) fn cancel(&mut self, nth: usize, cx: &mut Cx) {
        let Some(client) = self.submitters.get(nth % self.submitters.len().max(1)).map(|n| &self.clients[*n]) else {
            return;
        };
        let (Some(message), Wish::Submit { submit, .. }) = (client.ids.first().copied(), &client.wish) else { return };
        let tenant = submit.tenant;
        self.add(Wish::Cancel { tenant, message }, nth % self.size.nodes, cx);
    }

    /// A message for each device and account that only it can send.
    pub(super) fn probe(&mut self, site: &Site, cx: &mut Cx) {
        for tenant in 0..self.size.tenants {
            for (place, gateway) in site.gateways_of(tenant).into_iter().enumerate() {
                self.probe_one(tenant, place, gateway, cx);
            }
        }
    }

    fn probe_one(&mut self, tenant: usize, place: usize, gateway: DeviceId, cx: &mut Cx) {
        let node = place % self.size.nodes;
        let submit = Submit {
            tenant,
            messages: 1,
            segments: 1,
            priority: Priority::Urgent,
            duplicates: Duplicates::Never,
            with_key: true,
            pinned: Some(place),
            due_ms: 0,
            // Longer than all that may wait for the same gateway, which may be one with a small limit.
            valid_ms: PROBE_VALID_MS,
            node,
            tagged: false,
            names_plan: false,
        };
        let mut key = [0xff; 16];
        key[0] = place as u8;
        self.probes.push((gateway, self.clients.len()));
        self.add(Wish::Submit { submit, key: Some(key) }, node, cx);
    }

    /// The probes, with their gateways.
    pub(super) fn probes(&self) -> Vec<(DeviceId, Option<MessageId>)> {
        self.probes.iter().map(|(gateway, client)| (*gateway, self.clients[*client].ids.first().copied())).collect()
    }

    fn add(&mut self, wish: Wish, node: usize, cx: &mut Cx) {
        let client = self.clients.len();
        self.clients.push(Client { wish, node, attempt: 0, done: false, ids: Vec::new() });
        self.ask(client, cx);
    }

    pub(super) fn handle(&mut self, event: ClientEvent, cx: &mut Cx) {
        match event {
            ClientEvent::Ask { client } => self.ask(client, cx),
            ClientEvent::Answer { client, attempt, reply } => self.answered(client, attempt, reply, cx),
            ClientEvent::Timeout { client, attempt } => self.timeout(client, attempt, cx),
        }
    }

    fn ask(&mut self, client: usize, cx: &mut Cx) {
        let one = &mut self.clients[client];
        one.attempt += 1;
        let call = Call { client, attempt: one.attempt, wish: one.wish.clone(), from: None };
        if let Some(at) = cx.net.message(Party::Clients, Party::Node(one.node), cx.now) {
            cx.at(at, Event::ToNode(one.node, NodeEvent::Call { call }));
        }
        let attempt = one.attempt;
        cx.after(TIMEOUT_MS, Event::Client(ClientEvent::Timeout { client, attempt }));
    }

    fn answered(&mut self, client: usize, attempt: u32, reply: Reply, cx: &mut Cx) {
        let one = &mut self.clients[client];
        if one.done || one.attempt != attempt {
            return;
        }
        cx.log(|| format!("client {client}: {}", told(&reply)));
        match reply {
            Reply::Accepted { ids } => {
                one.ids = ids;
                one.done = true;
            }
            Reply::Cancelled(CancelOutcome::Requested) | Reply::Cancelled(_) => one.done = true,
            Reply::Refused => self.again(client, true, cx),
            Reply::Undecided => self.again(client, false, cx),
        }
    }

    fn timeout(&mut self, client: usize, attempt: u32, cx: &mut Cx) {
        let one = &self.clients[client];
        if !one.done && one.attempt == attempt {
            self.again(client, false, cx);
        }
    }

    /// Asks another controller after a while, if that can do no harm.
    fn again(&mut self, client: usize, nothing_done: bool, cx: &mut Cx) {
        let nodes = self.size.nodes;
        let one = &mut self.clients[client];
        let harmless = nothing_done || !matches!(one.wish, Wish::Submit { key: None, .. });
        if !harmless || one.attempt >= TRIES_MAX {
            one.done = true;
            return;
        }
        one.node = (one.node + 1) % nodes;
        // The answer to the try before is not waited for any more.
        one.attempt += 1;
        let pause = self.rng.between(200, 3_000);
        cx.after(pause, Event::Client(ClientEvent::Ask { client }));
    }
}

fn told(reply: &Reply) -> String {
    match reply {
        Reply::Accepted { ids } => {
            let ids: Vec<String> = ids.iter().map(|id| super::writes::tail(*id)).collect();
            format!("accepted {}", ids.join(" "))
        }
        other => format!("{other:?}"),
    }
}
