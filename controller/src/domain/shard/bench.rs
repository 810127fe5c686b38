//! How long the machine takes for a message's whole life, without store and network: for `flotilla bench` and for whoever changes
//! something on the way of every message.

mod shares;

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_protocol::id::{DeviceId, Epoch, MessageId, ShardId, SimId, TenantId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{Attempt, Body, Down, Report, ReportKind, TextEncoding};
use flotilla_routing::ledger::Ledger;
use flotilla_routing::settings::Tenants;

use super::{AcceptRequest, Effect, Input, Link, Machine, Restored, RouteSim, ShardSettings};
use crate::domain::Now;
use crate::domain::message::{Duplicates, Pin, Priority, RouteKind, Submission};

pub use shares::{SharesBench, bench_shares};

/// What [`bench_machine`] measured.
#[derive(Clone, Copy, Debug)]
pub struct MachineBench {
    pub messages: usize,
    /// Taking all messages in, while no device is there.
    pub accept: Duration,
    /// Dispatching, sending and delivering them.
    pub deliver: Duration,
    pub inputs: usize,
    pub events: usize,
}

const DEVICES: u64 = 100;
const WINDOW: u16 = 32;
const REQUEST: usize = 10;

/// Queues so many messages, then sends and delivers them over a hundred devices.
pub fn bench_machine(messages: usize) -> MachineBench {
    let mut now = START;
    let mut machine = machine(messages);
    let request = |n: usize| request(tenant(1), n, Priority::ALL[n % 4], ["", "spring"][n % 2], now);
    let requests: Vec<AcceptRequest> = (0..messages / REQUEST).map(request).collect();
    let mut bench = MachineBench {
        messages: requests.len() * REQUEST,
        accept: Duration::ZERO,
        deliver: Duration::ZERO,
        inputs: 0,
        events: 0,
    };

    let begin = Instant::now();
    for (token, request) in (0..).zip(requests) {
        machine.handle(Input::Accept { token, request }, now);
        bench.inputs += 1;
        if machine.undrained() > 4_096 {
            bench.events += machine.drain().events.len();
        }
    }
    bench.accept = begin.elapsed();

    let begin = Instant::now();
    for n in 0..DEVICES {
        connect(&mut machine, tenant(1), n, now);
    }
    let mut positions = vec![0u64; DEVICES as usize];
    loop {
        let output = machine.drain();
        bench.events += output.events.len();
        let mut idle = true;
        for effect in output.effects {
            let Effect::Send { device, session, frames } = effect else { continue };
            let position = &mut positions[session as usize - 1];
            let reports = answers(frames, position, now);
            if !reports.is_empty() {
                idle = false;
                bench.inputs += reports.len();
                machine.handle(Input::Reports { device, session, reports }, now);
            }
        }
        now.unix_ms += 1;
        now.mono_ms += 1;
        if idle {
            break;
        }
    }
    bench.deliver = begin.elapsed();
    bench
}

const START: Now = Now { unix_ms: 1_700_000_000_000, mono_ms: 1_000 };

/// A new shard that keeps so many messages in memory.
fn machine(messages: usize) -> Machine {
    let settings =
        ShardSettings { queued_max: messages, sent_max: messages, look_up_ms: 0, ..ShardSettings::default() };
    let restored = Restored {
        shard: ShardId(0),
        epoch: Epoch(1),
        last_seq: 0,
        in_flight: vec![],
        open: vec![],
        inbound: vec![],
        tenants: Tenants::default(),
        routes: vec![],
        ledger: Ledger::default(),
    };
    Machine::new(settings, restored, START)
}

fn tenant(n: u8) -> TenantId {
    TenantId::from_bytes([n; 16])
}

fn id16(kind: u8, n: u64) -> [u8; 16] {
    let mut bytes = [kind; 16];
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    bytes
}

fn request(tenant: TenantId, n: usize, priority: Priority, campaign: &str, now: Now) -> AcceptRequest {
    let submission = |index: usize| Submission {
        id: MessageId::from_bytes(id16(2, (n * REQUEST + index) as u64)),
        tenant,
        accepted_ms: now.unix_ms,
        to: Msisdn::from_u64(255_712_345_678).unwrap_or_else(|_| unreachable!("it is a number")),
        body: Body::Text("Your code is 123456. It is valid for ten minutes; give it to nobody.".into()),
        encoding: TextEncoding::default(),
        flash: false,
        segments: 1,
        priority,
        duplicates: Duplicates::Never,
        pin: Pin::Any,
        due_ms: now.unix_ms,
        expires_ms: now.unix_ms + 86_400_000,
        campaign: campaign.into(),
        tags: Vec::new(),
        client_ref: None,
        sender: None,
        plan: None,
        max_cost: None,
        callback_url: None,
    };
    AcceptRequest { tenant, idempotency: None, submissions: (0..REQUEST).map(submission).collect() }
}

fn connect(machine: &mut Machine, tenant: TenantId, n: u64, now: Now) {
    let device = DeviceId::from_bytes(id16(3, n));
    let session = n + 1;
    let sim = RouteSim { slot: 0, sim: SimId::from_bytes(id16(4, n)), depth: 2, ready: true, settings: Arc::default() };
    let link = Link {
        device,
        tenant,
        session,
        window: WINDOW,
        epoch_seen: Epoch(0),
        sims: vec![sim],
        accepts_work: true,
        kind: RouteKind::Sim,
    };
    machine.handle(Input::DeviceUp(Box::new(link)), now);
    machine.handle(Input::Held { device, session, held: Vec::new(), last: true }, now);
}

/// Everything that is granted is sent and delivered at once.
fn answers(frames: Vec<Down>, position: &mut u64, now: Now) -> Vec<Report> {
    let mut reports = Vec::new();
    let mut granted = |attempt: Attempt| {
        for kind in [ReportKind::Sent { attempt, segments: 1 }, ReportKind::Delivered { attempt, segment: 0 }] {
            *position += 1;
            reports.push(Report { position: *position, at_ms: now.unix_ms, kind });
        }
    };
    for frame in frames {
        match frame {
            Down::Dispatch(dispatch) if dispatch.granted => granted(dispatch.attempt),
            Down::Go { attempts, .. } => attempts.into_iter().for_each(&mut granted),
            _ => {}
        }
    }
    reports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_of_the_bench_is_delivered() {
        let bench = bench_machine(1_000);
        assert_eq!((bench.messages, bench.events), (1_000, 4 * 1_000));
        let each = |time: Duration| time.as_nanos() / bench.messages as u128;
        println!("accept {} ns, deliver {} ns per message", each(bench.accept), each(bench.deliver));
    }
}
