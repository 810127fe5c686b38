//! One job: segments planned, submitted one after the other, and the one result.
//!
//! Setting a submission up may be repeated; once a PDU was handed over nothing is. A segment whose outcome is not known
//! makes the whole attempt unknown.

use flotilla_protocol::address::Address;
use flotilla_protocol::sms::tpdu::{Submit, Validity};
use flotilla_protocol::sms::{EncodeOptions, body_segments, plan_body};
use flotilla_protocol::wire::{Attempt, ErrorClass, NotSent, SendError};
use tokio::time::sleep;

use super::super::channel::{ChannelError, Submitted};
use super::super::errors::{device, judge, own};
use super::session::Session;
use crate::radio::{RadioEvent, SendJob, SendOutcome};

const SETUP_TRIES: u32 = 3;
/// `+CMS ERROR: 322`: the storage that the modem needs for sending, or for receiving, is full.
const MEMORY_FULL: u16 = 322;

/// What became of one segment.
enum Step {
    Sent {
        reference: u8,
    },
    /// Nothing was handed over.
    Failed(SendError),
    NotSent(NotSent),
    Unknown,
    /// The port failed, or the modem fell silent, before anything was handed over.
    Broken(ChannelError),
}

impl Session<'_> {
    pub(super) async fn send(&mut self, job: SendJob) -> Result<(), ChannelError> {
        let (outcome, trouble) = self.transmit(&job).await;
        if !matches!(outcome, SendOutcome::Sent { .. }) {
            tracing::info!(slot = job.slot, attempt = ?job.attempt, ?outcome, "not sent");
        }
        if matches!(outcome, SendOutcome::Failed { .. } | SendOutcome::Unknown) {
            // The cause may be one that a look at the SIM shows.
            self.look_soon();
        }
        self.driver.status.emit(RadioEvent::Result { attempt: job.attempt, outcome }).await;
        trouble.map_or(Ok(()), Err)
    }

    /// The outcome, and the channel's error if there was one on the way.
    async fn transmit(&mut self, job: &SendJob) -> (SendOutcome, Option<ChannelError>) {
        let tpdus = match tpdus(job) {
            Ok(tpdus) => tpdus,
            Err(error) => return (SendOutcome::Failed { error, segments_sent: 0 }, None),
        };
        let mut references = Vec::with_capacity(tpdus.len());
        if tpdus.len() > 1 && self.abilities.more_to_send {
            // Keeps the radio link between segments. Not a condition, so its answer does not matter.
            if let Err(error) = self.channel.ask("AT+CMMS=1").await {
                return (SendOutcome::NotSent(NotSent::SimNotReady), Some(error));
            }
        }
        for (index, tpdu) in tpdus.iter().enumerate() {
            let segments_sent = index as u8;
            if index > 0
                && let Err(error) = self.acknowledge_waiting().await
            {
                let cause = own(device::NO_ANSWER, ErrorClass::Transient, "the modem was lost between two segments");
                return (SendOutcome::Failed { error: cause, segments_sent }, Some(error));
            }
            match self.segment(job, index, tpdu).await {
                Step::Sent { reference } => references.push(reference),
                Step::Failed(error) => return (SendOutcome::Failed { error, segments_sent }, None),
                Step::NotSent(reason) => return (SendOutcome::NotSent(reason), None),
                Step::Unknown => return (SendOutcome::Unknown, Some(ChannelError::Silent)),
                Step::Broken(error) if index == 0 => {
                    return (SendOutcome::NotSent(NotSent::SimNotReady), Some(error));
                }
                Step::Broken(error) => {
                    let cause =
                        own(device::NO_ANSWER, ErrorClass::Transient, "the modem was lost between two segments");
                    return (SendOutcome::Failed { error: cause, segments_sent }, Some(error));
                }
            }
        }
        (SendOutcome::Sent { segments: references.len() as u8, references }, None)
    }

    async fn segment(&mut self, job: &SendJob, index: usize, tpdu: &[u8]) -> Step {
        let mut last = own(device::NO_PROMPT, ErrorClass::Transient, "the modem did not ask for the pdu");
        for round in 0..SETUP_TRIES {
            if round > 0 {
                sleep(self.driver.timing.setup_retry).await;
            }
            // A message that has begun is finished: half of it helps nobody.
            let clock = self.driver.clock.clone();
            let allowed = || index > 0 || clock.now().boot_ms <= job.hand_over_by_ms;
            if !allowed() {
                return Step::NotSent(NotSent::LeaseOver);
            }
            match self.channel.submit(tpdu, allowed).await {
                // TP-MR is the second octet of what we wrote; a modem that tells none has used it.
                Ok(Submitted::Accepted { reference }) => return Step::Sent { reference: reference.unwrap_or(tpdu[1]) },
                Ok(Submitted::Withheld) => return Step::NotSent(NotSent::LeaseOver),
                Ok(Submitted::Unclear) => return Step::Unknown,
                Ok(Submitted::Refused(end)) => {
                    let verdict = judge(&end);
                    self.note_memory(&verdict.error);
                    return if verdict.unclear { Step::Unknown } else { Step::Failed(verdict.error) };
                }
                Ok(Submitted::NotSetUp(end)) => {
                    last = judge(&end).error;
                    self.note_memory(&last);
                    if last.class != ErrorClass::Transient {
                        return Step::Failed(last);
                    }
                }
                Ok(Submitted::NoPrompt) => {}
                Err(error) => return Step::Broken(error),
            }
        }
        Step::Failed(last)
    }

    fn note_memory(&mut self, error: &SendError) {
        if error.code == MEMORY_FULL {
            self.memory_full = true;
            self.sweep_due = true;
        }
    }
}

/// The TPDUs of a job, in order.
fn tpdus(job: &SendJob) -> Result<Vec<Vec<u8>>, SendError> {
    let refused = |error: &dyn std::fmt::Display| {
        // What an encoding error shows of a text is one character at most.
        own(device::ENCODING, ErrorClass::Permanent, &error.to_string().chars().take(100).collect::<String>())
    };
    let plan = plan_body(&job.body, &EncodeOptions::from(job.encoding)).map_err(|error| refused(&error))?;
    let segments = body_segments(&job.body, &plan, concatenation_reference(job.attempt));
    let validity = Validity::at_most(u64::from(job.validity_s) * 1000).unwrap_or(Validity::SHORTEST);
    let encode = |segment| {
        let submit = Submit {
            status_report: job.report,
            validity: Some(validity),
            ..Submit::new(Address::International(job.to), segment, job.flash)
        };
        submit.encode().map_err(|error| refused(&error))
    };
    segments.into_iter().map(encode).collect()
}

/// Differs between messages to the same receiver, and is the same whenever this attempt is made.
fn concatenation_reference(attempt: Attempt) -> u16 {
    let bytes = attempt.message.to_bytes();
    let folded =
        bytes.chunks_exact(2).fold(0, |sum: u16, pair| sum.rotate_left(3) ^ u16::from_be_bytes([pair[0], pair[1]]));
    let mixed = folded.wrapping_mul(0x9e37).wrapping_add(attempt.number.wrapping_mul(0x3b));
    mixed ^ mixed >> 8
}
