//! A radio without hardware: SIMs that are slow, refuse, fall silent, receive and crash as a profile says.
//!
//! All chance comes from one seeded generator, drawn at the hand-over, so the same jobs in the same order have the same
//! fate. It has no task of its own: what is due waits in a heap behind one timer.

mod profile;
#[cfg(test)]
mod tests;

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use flotilla_protocol::address::Address;
use flotilla_protocol::id::DeviceId;
use flotilla_protocol::number::{Iccid, Imsi, Msisdn, Plmn};
use flotilla_protocol::sms::{EncodeOptions, plan_body};
use flotilla_protocol::wire::{
    Attempt, ErrorClass, ErrorDomain, NotSent, Registration, SendError, SimHealth, SimInfo, SimState,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, Sleep};

use super::log::HandOver;
use super::{Delivery, Outstanding, Radio, RadioEvent, RadioLog, ReportKey, SendJob, SendOutcome};
use crate::clock::Clock;

pub use profile::{Delay, FleetProfile, Group, ProfileError, SimProfile};

/// As the controller plans at most.
const SEGMENTS_MAX: u8 = 32;
const HOUR_MS: f64 = 3_600_000.0;
const INBOUND_TEXTS: [&str; 6] = ["CONFIRM", "Yes", "STOP", "Who is this?", "Asante sana!", "Merci, c'est noté ✓"];

/// What a simulated radio is made of.
pub struct Setup {
    pub device: DeviceId,
    /// Where the numbering of its slots begins.
    pub first_slot: u8,
    pub sims: Arc<[SimProfile]>,
    pub seed: u64,
    pub clock: Arc<dyn Clock>,
    pub log: Option<Arc<RadioLog>>,
}

pub struct SimulatedRadio {
    setup: Setup,
    infos: Vec<SimInfo>,
    rng: SmallRng,
    ready: VecDeque<RadioEvent>,
    due: BinaryHeap<Due>,
    order: u64,
    timer: Option<Pin<Box<Sleep>>>,
    crashed: bool,
    /// Received messages that the agent has not stored yet, by token.
    received: HashMap<u64, String>,
    received_last: u64,
}

/// Ordered by time, then by when it was decided; the earliest is the greatest, as `BinaryHeap` wants it.
struct Due {
    at: Instant,
    order: u64,
    what: What,
}

enum What {
    Say(RadioEvent),
    /// The next inbound message of a slot.
    Inbound(u8),
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl SimulatedRadio {
    pub fn new(setup: Setup) -> Self {
        let rng = SmallRng::seed_from_u64(setup.seed);
        let slots = setup.first_slot..;
        let infos = setup.sims.iter().zip(slots).map(|(sim, slot)| inventory(setup.device, slot, sim)).collect();
        let (ready, due) = (VecDeque::new(), BinaryHeap::new());
        let mut radio = Self {
            setup,
            infos,
            rng,
            ready,
            due,
            order: 0,
            timer: None,
            crashed: false,
            received: HashMap::new(),
            received_last: 0,
        };
        for index in 0..radio.infos.len() {
            let health = radio.measure(index);
            radio.ready.push_back(RadioEvent::Health(health));
            radio.plan_inbound(radio.infos[index].slot);
        }
        radio
    }

    fn measure(&mut self, index: usize) -> SimHealth {
        let info = &self.infos[index];
        SimHealth {
            slot: info.slot,
            state: info.state,
            signal_dbm: Some(self.rng.random_range(-105..=-60)),
            registration: Registration::Home,
            serving: info.home,
            operator: info.operator.clone(),
        }
    }

    fn say(&mut self, after_ms: u64, event: RadioEvent) {
        if after_ms == 0 && self.due.is_empty() {
            return self.ready.push_back(event);
        }
        self.later(after_ms, What::Say(event));
    }

    fn later(&mut self, after_ms: u64, what: What) {
        self.order += 1;
        let at = Instant::now() + Duration::from_millis(after_ms);
        self.due.push(Due { at, order: self.order, what });
    }

    fn plan_inbound(&mut self, slot: u8) {
        let rate = profile(&self.setup.sims, self.setup.first_slot, slot).map_or(0.0, |sim| sim.inbound_per_hour);
        if rate > 0.0 {
            let random: f64 = self.rng.random();
            let pause_ms = -(1.0 - random).max(1e-12).ln() * HOUR_MS / rate;
            self.later(pause_ms as u64, What::Inbound(slot));
        }
    }

    fn inbound(&mut self, slot: u8) -> RadioEvent {
        self.plan_inbound(slot);
        let subscriber = 255_700_000_000 + self.rng.random_range(0..100_000_000);
        let from = Msisdn::from_u64(subscriber).map_or(Address::Short("15000".into()), Address::International);
        let text = INBOUND_TEXTS[self.rng.random_range(0..INBOUND_TEXTS.len())].to_owned();
        let sent_ms = Some(self.setup.clock.now().unix_ms);
        // Status reports have token 0.
        self.received_last += 1;
        let token = self.received_last;
        self.received.insert(token, from.to_string());
        RadioEvent::Inbound { slot, from, text, segments: 1, sent_ms, digest: self.rng.random(), token }
    }

    fn log(&self, job: &SendJob, segments: u8, outcome: &'static str) {
        let Some(log) = &self.setup.log else { return };
        let (at_ms, device) = (self.setup.clock.now().unix_ms, self.setup.device);
        let entry = HandOver { at_ms, device, attempt: job.attempt, slot: job.slot, segments, outcome };
        if let Err(error) = log.write(&entry) {
            tracing::error!(%error, "the radio log can not be written");
        }
    }

    /// All of a job's fate, drawn at once.
    fn hand_over(&mut self, job: &SendJob, profile: &SimProfile) {
        let options = EncodeOptions { segments_max: SEGMENTS_MAX, ..EncodeOptions::from(job.encoding) };
        let Ok(plan) = plan_body(&job.body, &options) else {
            let error = error(ErrorClass::Permanent, ErrorDomain::Device, 1, "the text can not be encoded");
            return self.answer(0, job.attempt, SendOutcome::Failed { error, segments_sent: 0 });
        };
        let segments = plan.segments;
        let latency_ms = profile.latency.draw_ms(self.rng.random());
        let failed = |error| SendOutcome::Failed { error, segments_sent: 0 };
        let mut luck: f64 = self.rng.random();
        let mut strikes = |rate: f64| {
            luck -= rate;
            luck < 0.0
        };
        let (word, outcome) = match () {
            () if strikes(profile.crash) => {
                self.log(job, segments, "crashed");
                self.crashed = true;
                return;
            }
            () if strikes(profile.permanent) => {
                ("permanent", failed(error(ErrorClass::Permanent, ErrorDomain::Cms, 1, "unassigned number")))
            }
            () if strikes(profile.route) => {
                ("route", failed(error(ErrorClass::Route, ErrorDomain::Cms, 8, "operator determined barring")))
            }
            () if strikes(profile.transient) => {
                ("transient", failed(error(ErrorClass::Transient, ErrorDomain::Cms, 42, "congestion")))
            }
            () if strikes(profile.unknown) => ("unknown", SendOutcome::Unknown),
            () => ("sent", SendOutcome::Sent { segments, references: Vec::new() }),
        };
        self.log(job, segments, word);
        let sent = matches!(outcome, SendOutcome::Sent { .. });
        self.answer(latency_ms, job.attempt, outcome);
        if sent && job.report {
            for segment in 0..segments {
                self.deliver(latency_ms, job.attempt, job.slot, segment, profile);
            }
        }
    }

    fn answer(&mut self, after_ms: u64, attempt: Attempt, outcome: SendOutcome) {
        self.say(after_ms, RadioEvent::Result { attempt, outcome });
    }

    fn deliver(&mut self, after_ms: u64, attempt: Attempt, slot: u8, segment: u8, profile: &SimProfile) {
        let after_ms = after_ms + profile.delivery.draw_ms(self.rng.random());
        let luck: f64 = self.rng.random();
        let delivery = match luck {
            luck if luck < profile.silence => return,
            luck if luck < profile.silence + profile.undelivered => Delivery::Undelivered(error(
                ErrorClass::Permanent,
                ErrorDomain::TpStatus,
                0x46,
                "validity period expired",
            )),
            _ => Delivery::Delivered,
        };
        let key = ReportKey::Segment { attempt, segment };
        self.say(after_ms, RadioEvent::StatusReport { slot, key, delivery, token: 0 });
    }
}

impl Radio for SimulatedRadio {
    fn sims(&self) -> Vec<SimInfo> {
        self.infos.clone()
    }

    fn send(&mut self, job: SendJob) {
        if self.crashed {
            return;
        }
        let sims = self.setup.sims.clone();
        match profile(&sims, self.setup.first_slot, job.slot) {
            Some(_) if self.setup.clock.now().boot_ms >= job.hand_over_by_ms => {
                self.answer(0, job.attempt, SendOutcome::NotSent(NotSent::LeaseOver));
            }
            Some(profile) => self.hand_over(&job, profile),
            None => self.answer(0, job.attempt, SendOutcome::NotSent(NotSent::NoSuchSim)),
        }
    }

    /// The network still owes the reports of what an earlier life has sent.
    fn resume(&mut self, outstanding: Vec<Outstanding>) {
        let sims = self.setup.sims.clone();
        for Outstanding { attempt, slot, segment } in outstanding {
            if let Some(profile) = profile(&sims, self.setup.first_slot, slot) {
                self.deliver(0, attempt, slot, segment, profile);
            }
        }
    }

    /// From now on a received message must not be lost, so it goes into the log.
    fn stored(&mut self, slot: u8, token: u64) {
        let (Some(from), Some(log)) = (self.received.remove(&token), &self.setup.log) else { return };
        if let Err(error) = log.write_received(self.setup.clock.now().unix_ms, self.setup.device, slot, &from) {
            tracing::error!(%error, "the radio log can not be written");
        }
    }

    fn ussd(&mut self, request: u32, slot: u8, code: String) {
        let latency =
            profile(&self.setup.sims, self.setup.first_slot, slot).map_or(Delay::default(), |sim| sim.latency);
        let latency_ms = latency.draw_ms(self.rng.random());
        let result = match code.as_str() {
            "*100#" | "*144#" => Ok(format!("Balance: {}.00. Valid for 30 days.", self.rng.random_range(0..5_000))),
            _ => Err("unknown code".to_owned()),
        };
        self.say(latency_ms, RadioEvent::Ussd { request, result });
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<RadioEvent>> {
        if self.crashed {
            return Poll::Ready(None);
        }
        if let Some(event) = self.ready.pop_front() {
            return Poll::Ready(Some(event));
        }
        loop {
            let Some(next) = self.due.peek() else { return Poll::Pending };
            let at = next.at;
            if at <= Instant::now()
                && let Some(due) = self.due.pop()
            {
                return Poll::Ready(Some(match due.what {
                    What::Say(event) => event,
                    What::Inbound(slot) => self.inbound(slot),
                }));
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.timer = None;
        }
    }
}

fn profile(sims: &[SimProfile], first_slot: u8, slot: u8) -> Option<&SimProfile> {
    sims.get(usize::from(slot.checked_sub(first_slot)?))
}

fn error(class: ErrorClass, domain: ErrorDomain, code: u16, text: &str) -> SendError {
    SendError { class, domain, code, text: text.to_owned() }
}

/// The same device has the same SIMs in every life.
fn inventory(device: DeviceId, slot: u8, profile: &SimProfile) -> SimInfo {
    let bytes = device.to_bytes();
    let mut tail = [0; 8];
    tail.copy_from_slice(&bytes[8..]);
    let number = (u64::from_be_bytes(tail).wrapping_mul(31).wrapping_add(u64::from(slot))) % 1_000_000_000;
    SimInfo {
        slot,
        state: SimState::Ready,
        iccid: Iccid::parse(&with_check_digit(&format!("8925504{number:09}{slot:02}"))).ok(),
        imsi: Imsi::parse(&format!("640{slot:02}0{number:09}")).ok(),
        msisdn: Msisdn::from_u64(255_000_000_000 + number).ok(),
        home: Plmn::parse("64001").ok(),
        operator: profile.operator.clone(),
        depth: profile.depth,
    }
}

/// Appends the Luhn digit that an ICCID ends with (ITU-T E.118).
fn with_check_digit(digits: &str) -> String {
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(index, digit)| {
            let value = u32::from(digit - b'0');
            let weighted = if index % 2 == 0 { value * 2 } else { value };
            weighted / 10 + weighted % 10
        })
        .sum();
    format!("{digits}{}", (10 - sum % 10) % 10)
}
