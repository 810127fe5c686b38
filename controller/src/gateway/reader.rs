//! The reader of one session: turns bytes into frames and hands them on, reports of one read together.
//!
//! While a device is silent nothing is held but a few words: the buffer lives from the first byte of a frame to its last.

use std::sync::Arc;

use bytes::BytesMut;
use flotilla_protocol::wire::{Down, FrameError, Refusal, Report, Telemetry, Up, decode_frame};

use super::Context;
use super::limits::Budget;
use super::link::Receiver;
use super::peer::Peer;
use super::ports::FleetEvent;
use super::session::Message;
use super::{inventory, renewal};
use crate::fleet::cut;
use crate::fleet::sims::SIMS_MAX;

const LOG_LINE_BYTES_MAX: usize = 512;
const USSD_BYTES_MAX: usize = 1024;
const OPERATOR_BYTES_MAX: usize = 48;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReaderEnd {
    /// The connection is lost or the device has closed its side.
    Left,
    /// The session was told to refuse, and closes on its own.
    Refused,
    Panicked,
}

/// Tells the session how the reader has ended, also when it panics.
struct EndReport {
    peer: Arc<Peer>,
    end: ReaderEnd,
}

impl Drop for EndReport {
    fn drop(&mut self) {
        self.peer.tell(Message::ReaderEnded(self.end));
    }
}

pub(super) async fn run(context: Arc<Context>, peer: Arc<Peer>, recv: Receiver, buffer: BytesMut) {
    let mut report = EndReport { peer: peer.clone(), end: ReaderEnd::Panicked };
    let budget = Budget::new(&context.limits, context.clock.now().mono_ms);
    let reader = Reader { context, peer, budget };
    report.end = reader.read(recv, buffer).await;
}

struct Reader {
    context: Arc<Context>,
    peer: Arc<Peer>,
    budget: Budget,
}

/// A frame that is not simply handed on.
enum Slow {
    Sims(Vec<flotilla_protocol::wire::SimInfo>),
    Renew(Vec<u8>),
}

impl Reader {
    async fn read(mut self, mut recv: Receiver, mut buffer: BytesMut) -> ReaderEnd {
        loop {
            if !buffer.is_empty() {
                let now_ms = self.context.clock.now().mono_ms;
                loop {
                    match self.take_frames(&mut buffer, now_ms) {
                        Ok(None) => break,
                        Ok(Some(Slow::Sims(sims))) => {
                            Box::pin(inventory::changed(&self.context, &self.peer, &sims)).await;
                        }
                        Ok(Some(Slow::Renew(csr_der))) => {
                            Box::pin(renewal::renew(&self.context, &self.peer, &csr_der)).await;
                        }
                        Err((reason, detail)) => {
                            self.peer.refuse(reason, &detail, now_ms);
                            return ReaderEnd::Refused;
                        }
                    }
                }
                if buffer.is_empty() {
                    buffer = BytesMut::new();
                }
            }
            let Some(bytes) = recv.read(&mut buffer).await else { return ReaderEnd::Left };
            let now_ms = self.context.clock.now().mono_ms;
            if !self.budget.read(bytes, now_ms) {
                self.peer.refuse(Refusal::TooFast, "more bytes than a device may send", now_ms);
                return ReaderEnd::Refused;
            }
        }
    }

    /// Hands on all whole frames of the buffer, or those up to one that has to be waited for.
    fn take_frames(&mut self, buffer: &mut BytesMut, now_ms: u64) -> Result<Option<Slow>, (Refusal, String)> {
        let mut reports = Vec::new();
        let (mut frames, mut control) = (0u32, 0u32);
        let slow = loop {
            let frame = match decode_frame::<Up>(buffer) {
                Ok(Some(frame)) => frame,
                Ok(None) => break None,
                Err(error) => return Err((Refusal::BadFrame, bad_frame(&error))),
            };
            frames += 1;
            control += u32::from(!matches!(frame, Up::Report(_) | Up::Accepted { .. }));
            match frame {
                Up::Report(report) => reports.push(report),
                // A hint that nothing depends on.
                Up::Accepted { .. } => {}
                Up::Holding { held, last } => {
                    self.pass(&mut reports);
                    self.peer.shard.held(self.peer.device(), self.peer.session, held, last);
                }
                Up::Sims { sims } => break Some(Slow::Sims(sims)),
                Up::Renew { csr_der } => break Some(Slow::Renew(csr_der)),
                other => self.take_control(other, now_ms)?,
            }
        };
        self.pass(&mut reports);
        metrics::counter!("flotilla_frames_in_total").increment(u64::from(frames));
        if !self.budget.decoded(frames, control, now_ms) {
            return Err((Refusal::TooFast, "more frames than a device may send".into()));
        }
        Ok(slow)
    }

    fn pass(&self, reports: &mut Vec<Report>) {
        if !reports.is_empty() {
            self.peer.shard.reports(self.peer.device(), self.peer.session, std::mem::take(reports));
        }
    }

    fn take_control(&mut self, frame: Up, now_ms: u64) -> Result<(), (Refusal, String)> {
        match frame {
            Up::Ping { device_ms } => {
                // Read now and not at the start of the batch: the pair must never make a lease look longer.
                let controller_ms = self.context.clock.now().mono_ms;
                self.peer.push(vec![Down::Pong { device_ms, controller_ms }]);
            }
            Up::Telemetry(telemetry) => {
                let telemetry = bounded(telemetry);
                let event =
                    FleetEvent::Telemetry { device: self.peer.device(), telemetry: Box::new(telemetry.clone()) };
                self.peer.set_telemetry(telemetry);
                self.context.events.publish(self.peer.tenant(), event);
            }
            Up::UssdReply { request, result } => {
                let result = result.map(|text| cut(&text, USSD_BYTES_MAX)).map_err(|text| cut(&text, USSD_BYTES_MAX));
                self.peer.answer_ussd(request, result);
            }
            Up::Log { level, target, line } => {
                if self.budget.log_line(now_ms) {
                    let (target, line) = (cut(&target, 64), cut(&line, LOG_LINE_BYTES_MAX));
                    tracing::debug!(device = %self.peer.device(), level, target, line, "from a device");
                }
            }
            Up::Hello(_) => return Err((Refusal::BadFrame, "`Hello` comes once, first".into())),
            Up::Report(_) | Up::Accepted { .. } | Up::Holding { .. } | Up::Sims { .. } | Up::Renew { .. } => {}
        }
        Ok(())
    }
}

pub(super) fn bad_frame(error: &FrameError) -> String {
    format!("{error}: update the program on the device")
}

fn bounded(mut telemetry: Telemetry) -> Telemetry {
    telemetry.sims.truncate(SIMS_MAX);
    for sim in &mut telemetry.sims {
        sim.operator = cut(&sim.operator, OPERATOR_BYTES_MAX);
    }
    telemetry.sims.shrink_to_fit();
    telemetry
}
