//! A modem and its network. It goes on when the program beside it dies; what it has received it keeps until it is told that
//! it was stored.

use std::collections::{BTreeMap, VecDeque};

use flotilla_device_node::radio::{Delivery, RadioEvent, ReportKey, SendJob, SendOutcome};
use flotilla_protocol::address::Address;
use flotilla_protocol::wire::{Attempt, Body, ErrorClass, ErrorDomain, NotSent, SendError};
use flotilla_routing::route::Route;

use super::{Device, DeviceEvent};
use crate::sim::Flaw;
use crate::sim::rng::Rng;
use crate::sim::world::{Cx, Event};

pub(super) struct Modem {
    rng: Rng,
    device: usize,
    jobs: BTreeMap<Attempt, Job>,
    next: u64,
    /// Not yet stored, by token.
    owed: BTreeMap<u64, RadioEvent>,
    /// Said while the program was stopped.
    kept: VecDeque<RadioEvent>,
    /// Delivery reports on their way.
    coming: usize,
}

struct Job {
    /// Of its kind: a job that a crash has ended is another one.
    number: u64,
    job: SendJob,
    segments: u8,
    fate: Fate,
    /// Nobody waits for its result any more.
    abandoned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Sent,
    /// So many segments leave before the error.
    Fails {
        after: u8,
        class: ErrorClass,
    },
    /// It leaves, or not, and the modem does not answer.
    Silent {
        after: u8,
    },
}

impl Modem {
    pub(super) fn new(rng: Rng, device: usize) -> Self {
        Self { rng, device, jobs: BTreeMap::new(), next: 0, owed: BTreeMap::new(), kept: VecDeque::new(), coming: 0 }
    }

    pub(super) fn at_rest(&self) -> bool {
        self.jobs.is_empty() && self.owed.is_empty() && self.kept.is_empty() && self.coming == 0
    }

    pub(super) fn send(&mut self, job: SendJob, cx: &mut Cx) {
        cx.check.handed_over(job.attempt);
        self.next += 1;
        let segments = match &job.body {
            Body::Text(text) => text.parse().unwrap_or(1),
            Body::Data { .. } => 1,
        };
        let fate = match self.rng.below(100) {
            0..85 => Fate::Sent,
            n @ 85..95 => {
                let class = [ErrorClass::Permanent, ErrorClass::Route, ErrorClass::Transient][n as usize % 3];
                Fate::Fails { after: self.rng.below(u64::from(segments)) as u8, class }
            }
            _ => Fate::Silent { after: self.rng.below(u64::from(segments) + 1) as u8 },
        };
        let attempt = job.attempt;
        cx.log(|| format!("d{}: {}/{} to the modem", self.device, told(attempt), attempt.number));
        let number = self.next;
        self.jobs.insert(attempt, Job { number, job, segments, fate, abandoned: false });
        let delay = self.rng.between(0, 400);
        cx.after(delay, Event::ToDevice(self.device, DeviceEvent::Begin { attempt, job: number }));
    }

    /// The program has died: what it had ordered goes out, or is forgotten.
    pub(super) fn abandoned(&mut self) {
        let rng = &mut self.rng;
        self.jobs.retain(|_, _| rng.percent(50));
        self.jobs.values_mut().for_each(|job| job.abandoned = true);
        self.kept.clear();
    }

    pub(super) fn crash(&mut self) {
        self.jobs.clear();
    }

    pub(super) fn stored(&mut self, token: u64, cx: &mut Cx) {
        if let Some(RadioEvent::Inbound { digest, .. }) = self.owed.remove(&token) {
            cx.check.inbound_let_go(digest);
        }
    }

    /// Everything that was never stored, for a new life of the program.
    pub(super) fn owed(&mut self) -> Vec<RadioEvent> {
        self.kept.clear();
        self.owed.values().cloned().collect()
    }

    pub(super) fn keep(&mut self, event: RadioEvent) {
        self.kept.push_back(event);
    }

    pub(super) fn kept(&mut self) -> VecDeque<RadioEvent> {
        std::mem::take(&mut self.kept)
    }

    pub(super) fn receives(&mut self, digest: u64) -> RadioEvent {
        let from = Address::Short("12345".into());
        self.owe(|token| RadioEvent::Inbound {
            slot: 0,
            from,
            text: digest.to_string(),
            segments: 1,
            sent_ms: None,
            digest,
            token,
        })
    }

    pub(super) fn reported(&mut self, attempt: Attempt, segment: u8, delivered: bool, cx: &mut Cx) -> RadioEvent {
        self.coming -= 1;
        // First attempts may go on elsewhere.
        let class = if attempt.number == 1 { ErrorClass::Transient } else { ErrorClass::Permanent };
        if class == ErrorClass::Permanent && !delivered {
            cx.check.given_up_for_good(attempt);
        }
        let delivery = if delivered { Delivery::Delivered } else { Delivery::Undelivered(error(class)) };
        self.owe(|token| RadioEvent::StatusReport {
            slot: 0,
            key: ReportKey::Segment { attempt, segment },
            delivery,
            token,
        })
    }

    fn owe(&mut self, event: impl FnOnce(u64) -> RadioEvent) -> RadioEvent {
        self.next += 1;
        let event = event(self.next);
        self.owed.insert(self.next, event.clone());
        event
    }

    fn of(&mut self, attempt: Attempt, number: u64) -> Option<&mut Job> {
        self.jobs.get_mut(&attempt).filter(|job| job.number == number)
    }
}

impl Device {
    /// The modem has time for it: is it still wanted?
    pub(super) fn begin(&mut self, attempt: Attempt, number: u64, cx: &mut Cx) {
        let boot_ms = self.clock.mono(cx.now);
        let Some(job) = self.modem.of(attempt, number) else { return };
        if boot_ms >= job.job.hand_over_by_ms {
            let abandoned = job.abandoned;
            self.modem.jobs.remove(&attempt);
            if !abandoned {
                self.answer(attempt, SendOutcome::NotSent(NotSent::LeaseOver), cx);
            }
            return;
        }
        let device = self.number;
        cx.at(cx.now, Event::ToDevice(device, DeviceEvent::Segment { attempt, job: number, segment: 0 }));
    }

    pub(super) fn segment(&mut self, attempt: Attempt, number: u64, segment: u8, cx: &mut Cx) {
        let device = self.number;
        let Some(job) = self.modem.of(attempt, number) else { return };
        let last = match job.fate {
            Fate::Sent => job.segments,
            Fate::Fails { after, .. } | Fate::Silent { after } => after,
        };
        let (wants_report, slot) = (job.job.report, job.job.slot);
        if segment >= last {
            let pause = self.modem.rng.between(100, 1_500);
            return cx.after(pause, Event::ToDevice(device, DeviceEvent::Done { attempt, job: number }));
        }
        if segment == 0 {
            cx.log(|| format!("d{device}: {}/{} is on the air", told(attempt), attempt.number));
            cx.check.sent(attempt, cx.now);
        }
        let route = Route::sim(super::id(device), super::sim(device, slot));
        cx.check.goes_out(attempt, route, 1, cx.now);
        if wants_report && self.modem.rng.percent(85) {
            let delivered = self.modem.rng.percent(95);
            let pause = self.modem.rng.between(300, 40_000);
            self.modem.coming += 1;
            cx.after(pause, Event::ToDevice(device, DeviceEvent::Report { attempt, segment, delivered }));
        }
        let pause = self.modem.rng.between(300, 2_000);
        cx.after(pause, Event::ToDevice(device, DeviceEvent::Segment { attempt, job: number, segment: segment + 1 }));
    }

    pub(super) fn done(&mut self, attempt: Attempt, number: u64, cx: &mut Cx) {
        if self.modem.of(attempt, number).is_none() {
            return;
        }
        let Some(job) = self.modem.jobs.remove(&attempt).filter(|job| !job.abandoned) else { return };
        let outcome = match job.fate {
            Fate::Sent => SendOutcome::Sent { segments: job.segments, references: vec![] },
            Fate::Fails { after, class } => {
                if class == ErrorClass::Permanent {
                    cx.check.refused_for_good(attempt);
                }
                let class = match (cx.flaw, class) {
                    (Some(Flaw::PermanentAsTransient), ErrorClass::Permanent) => ErrorClass::Transient,
                    (_, class) => class,
                };
                SendOutcome::Failed { error: error(class), segments_sent: after }
            }
            Fate::Silent { .. } => SendOutcome::Unknown,
        };
        self.answer(attempt, outcome, cx);
    }

    fn answer(&mut self, attempt: Attempt, outcome: SendOutcome, cx: &mut Cx) {
        self.radio(RadioEvent::Result { attempt, outcome }, cx);
        self.pump(cx);
    }
}

fn error(class: ErrorClass) -> SendError {
    SendError { class, domain: ErrorDomain::Cms, code: 38, text: "network out of order".into() }
}

fn told(attempt: Attempt) -> String {
    crate::sim::writes::tail(attempt.message)
}
