//! The driver against scripted modems: in memory with paused time, and over a real pseudo-terminal.

mod console;
mod faults;
mod receiving;
mod sending;
mod watching;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::sync::Arc;

use flotilla_protocol::address::Address;
use flotilla_protocol::id::MessageId;
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::sms::tpdu::Submit;
use flotilla_protocol::sms::{Event, Reassembler};
use flotilla_protocol::wire::{Attempt, Body, SimState, TextEncoding};
use tokio::time::Instant;

use super::channel::{Opener, Port};
use super::scripted::{Log, Machine, Profile, Scripted};
use super::settings::Timing;
use super::{Modem, ModemConfig};
use crate::clock::{Clock, Now};
use crate::radio::{Radio, RadioEvent, SendJob, SendOutcome};

const TO: u64 = 255_754_000_001;
/// The device's clocks when a test starts.
const BOOT_MS: u64 = 1_000_000;

/// Both clocks follow tokio's time, which tests pause.
struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now(&self) -> Now {
        let passed = self.0.elapsed().as_millis() as u64;
        Now { boot_ms: BOOT_MS + passed, unix_ms: 1_767_000_000_000 + passed }
    }
}

/// A cable in memory.
struct Cable(Scripted);

impl Opener for Cable {
    fn open(&self) -> io::Result<Box<dyn Port>> {
        if self.0.with(|machine| machine.is_unplugged()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (ours, theirs) = tokio::io::duplex(4096);
        let scripted = self.0.clone();
        tokio::spawn(async move { scripted.play(theirs).await });
        Ok(Box::new(ours))
    }
}

struct Rig {
    modem: Modem,
    scripted: Scripted,
    clock: Arc<TokioClock>,
    /// Events that were passed over.
    passed: VecDeque<RadioEvent>,
    messages: u8,
}

impl Rig {
    fn new(profile: &str, dir: &Path) -> Self {
        Self::with(Scripted::new(Profile::named(profile).unwrap()), &ModemConfig::new("cable"), dir)
    }

    fn with(scripted: Scripted, config: &ModemConfig, dir: &Path) -> Self {
        let clock = Arc::new(TokioClock(Instant::now()));
        let cable = Box::new(Cable(scripted.clone()));
        let modem = Modem::start_with(config, 3, dir, clock.clone(), cable, Timing::default()).unwrap();
        Self { modem, scripted, clock, passed: VecDeque::new(), messages: 0 }
    }

    async fn ready(profile: &str, dir: &Path) -> Self {
        let mut rig = Self::new(profile, dir);
        rig.until_state(SimState::Ready).await;
        rig
    }

    fn machine<T>(&self, act: impl FnOnce(&mut Machine) -> T) -> T {
        self.scripted.with(act)
    }

    async fn event(&mut self) -> RadioEvent {
        poll_fn(|cx| self.modem.poll_event(cx)).await.expect("the modem's task has ended")
    }

    /// The first event, passed over or new, of which `wanted` makes something.
    async fn until<T>(&mut self, mut wanted: impl FnMut(&RadioEvent) -> Option<T>) -> T {
        for at in 0..self.passed.len() {
            if let Some(found) = wanted(&self.passed[at]) {
                self.passed.remove(at);
                return found;
            }
        }
        loop {
            let event = self.event().await;
            match wanted(&event) {
                Some(found) => return found,
                None => self.passed.push_back(event),
            }
        }
    }

    async fn until_state(&mut self, state: SimState) {
        while self.modem.sims()[0].state != state {
            let event = self.event().await;
            if !matches!(event, RadioEvent::Sims(_) | RadioEvent::Health(_)) {
                self.passed.push_back(event);
            }
        }
    }

    fn order(&mut self, text: &str) -> Attempt {
        self.messages += 1;
        let attempt = Attempt { message: MessageId::from_bytes([self.messages; 16]), number: 1 };
        self.modem.send(job(attempt, text));
        attempt
    }

    async fn result(&mut self, attempt: Attempt) -> SendOutcome {
        self.until(|event| match event {
            RadioEvent::Result { attempt: of, outcome } if *of == attempt => Some(outcome.clone()),
            _ => None,
        })
        .await
    }

    async fn send(&mut self, text: &str) -> SendOutcome {
        let attempt = self.order(text);
        self.result(attempt).await
    }

    /// Text, number of segments, digest and token of the next message received.
    async fn inbound(&mut self) -> Received {
        self.until(|event| match event {
            RadioEvent::Inbound { slot: 3, from, text, segments, digest, token, .. } => Some(Received {
                from: from.clone(),
                text: text.clone(),
                segments: *segments,
                digest: *digest,
                token: *token,
            }),
            _ => None,
        })
        .await
    }

    /// The command lines so far.
    fn commands(&self) -> Vec<String> {
        self.machine(|machine| {
            let commands = machine.log().iter().filter_map(|entry| match entry {
                Log::Command(line) => Some(line.clone()),
                _ => None,
            });
            commands.collect()
        })
    }

    fn submitted(&self) -> Vec<Vec<u8>> {
        self.machine(|machine| submitted(machine.log()))
    }

    async fn until_logged(&self, wanted: impl Fn(&Log) -> bool) {
        self.scripted.until(|machine| machine.log().iter().any(&wanted).then_some(())).await;
    }
}

struct Received {
    from: Address,
    text: String,
    segments: u8,
    digest: u64,
    token: u64,
}

fn job(attempt: Attempt, text: &str) -> SendJob {
    SendJob {
        attempt,
        slot: 3,
        to: Msisdn::from_u64(TO).unwrap(),
        body: Body::Text(text.to_owned()),
        encoding: TextEncoding::default(),
        flash: false,
        report: true,
        validity_s: 3600,
        hand_over_by_ms: u64::MAX,
    }
}

fn submitted(log: &[Log]) -> Vec<Vec<u8>> {
    let tpdus = log.iter().filter_map(|entry| match entry {
        Log::Submitted { tpdu, .. } => Some(tpdu.clone()),
        _ => None,
    });
    tpdus.collect()
}

/// What a phone would show of these SUBMITs.
fn read(tpdus: &[Vec<u8>]) -> String {
    let mut reader = Reassembler::default();
    for tpdu in tpdus {
        let submit = Submit::decode(tpdu).unwrap();
        assert_eq!(submit.to, Address::International(Msisdn::from_u64(TO).unwrap()));
        let content = submit.user_data.content(submit.coding).unwrap();
        for event in reader.push(submit.to.clone(), content, None, (), 0) {
            if let Event::Message(message) = event {
                return message.text();
            }
        }
    }
    panic!("not all segments are there");
}
