//! A radio that does what a test says.

use std::task::{Context, Poll};

use flotilla_device_node::radio::{Radio, RadioEvent, SendJob, SendOutcome};
use flotilla_protocol::wire::{Attempt, SimInfo};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The test's end.
pub struct Script {
    pub jobs: UnboundedReceiver<SendJob>,
    events: UnboundedSender<RadioEvent>,
}

struct Scripted {
    sims: Vec<SimInfo>,
    jobs: UnboundedSender<SendJob>,
    events: UnboundedReceiver<RadioEvent>,
}

impl Script {
    pub fn radio(sims: Vec<SimInfo>) -> (Self, Box<dyn Radio>) {
        let (job_sender, jobs) = unbounded_channel();
        let (events, event_receiver) = unbounded_channel();
        (Self { jobs, events }, Box::new(Scripted { sims, jobs: job_sender, events: event_receiver }))
    }

    pub fn say(&self, event: RadioEvent) {
        self.events.send(event).unwrap();
    }

    pub fn sent(&self, attempt: Attempt, references: &[u8]) {
        let outcome = SendOutcome::Sent { segments: references.len() as u8, references: references.to_vec() };
        self.say(RadioEvent::Result { attempt, outcome });
    }
}

impl Radio for Scripted {
    fn sims(&self) -> Vec<SimInfo> {
        self.sims.clone()
    }

    fn send(&mut self, job: SendJob) {
        // The test may have seen enough.
        let _ = self.jobs.send(job);
    }

    fn stored(&mut self, _slot: u8, _token: u64) {}

    fn ussd(&mut self, _request: u32, _slot: u8, _code: String) {}

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<RadioEvent>> {
        self.events.poll_recv(cx)
    }
}
