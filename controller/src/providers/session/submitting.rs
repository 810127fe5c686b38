//! Batches on their way to the maker, and what the session makes of the answers.
//!
//! Requests run beside the session and outlive it: whatever becomes of them, one answer comes back.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::ProviderId;
use flotilla_protocol::wire::{ErrorClass, NotSent};
use flotilla_providers::smpp::Tail;
use flotilla_providers::{Outgoing, Refusal, Submitted};
use ractor::ActorRef;

use super::super::agent::{Batch, Job};
use super::super::line::{Line, Told};
use super::super::references::{ID_BYTES_MAX, Known, References, reference};
use super::super::smpp_line::SmppTold;
use super::telling::Fresh;
use super::{Message, State, Way};
use crate::domain::Now;

/// Ids of submitted messages in memory: a report that comes quickly needs no look into the store.
const SUBMITTED_MAX: usize = 20_000;

/// What became of a batch.
pub(in crate::providers) struct Answered {
    pub(super) batch: Batch,
    pub(super) told: Told,
    /// The maker's ids, by place in the batch, and what they mean.
    pub(super) ids: Vec<(usize, Box<str>, Known)>,
}

impl Answered {
    /// What is true as long as nothing is known: everything in doubt.
    pub(super) fn nothing(batch: Batch) -> Self {
        let told = Told { silent: Some("the request failed".to_owned()), ..Told::default() };
        Self { batch, told, ids: Vec::new() }
    }
}

/// Tells the session what became of a batch, also when its task panics.
pub(super) struct Report {
    pub(super) myself: ActorRef<Message>,
    pub(super) answered: Option<Box<Answered>>,
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(answered) = self.answered.take() {
            // A session that has ended is not interested.
            let _ = self.myself.cast(Message::Answered(answered));
        }
    }
}

impl State {
    pub(super) fn submit(&self, myself: &ActorRef<Message>, batch: Batch) {
        let sender = self.slots.from(batch.slot);
        let deadline_ms = batch.jobs.iter().map(|job| job.deadline_ms).min().unwrap_or_default();
        let within = Duration::from_millis(deadline_ms.saturating_sub(self.parts.clock.now().mono_ms));
        let outgoing: Vec<Outgoing> = batch.jobs.iter().map(|job| outgoing(job, &sender)).collect();
        let mut report = Report { myself: myself.clone(), answered: Some(Box::new(Answered::nothing(batch))) };
        let references = self.parts.references.clone();
        match &self.way {
            Way::Http(line) => drop(tokio::spawn(submit(Arc::clone(line), references, outgoing, deadline_ms, report))),
            Way::Smpp(line) => {
                // One message: so many SMPP makers take in one request.
                let told = outgoing.into_iter().next().map(|outgoing| line.submit(outgoing, within));
                drop(tokio::spawn(submit_smpp(self.provider.id, told, references, report)));
            }
            Way::Broken(why) => {
                if let Some(answered) = &mut report.answered {
                    let code = format!("{}-settings", self.maker()).into();
                    let refusal =
                        Refusal { class: ErrorClass::Route, code, text: why.as_str().into(), retry_after_ms: None };
                    let results = vec![Submitted::Refused(refusal); answered.batch.jobs.len()];
                    answered.told = Told { results, ..Told::default() };
                }
            }
        }
    }

    pub(super) fn answered(&mut self, answered: Answered, now: Now) {
        let Answered { batch, told, ids } = answered;
        if told.late {
            self.agent.not_submitted(batch.number, NotSent::LeaseOver, now);
            return self.retry_early(now);
        }
        self.note_answer(&told, now);
        for (place, id, known) in ids {
            let Some(job) = batch.jobs.get(place) else { continue };
            let country = job.to.region().map(|region| region.as_str().into());
            self.polls.sent(&id, known, now.unix_ms);
            self.remember(id, Fresh { known, country });
        }
        for (result, job) in told.results.iter().zip(&batch.jobs) {
            if let Submitted::Accepted { price: Some(price), .. } = result {
                self.note_price(job.to.region().map(|region| region.as_str().into()), price, now);
            }
        }
        self.agent.submitted(batch.number, &told.results, told.left, now);
        self.retry_early(now);
    }

    pub(super) fn note_answer(&mut self, told: &Told, now: Now) {
        let mut credit = false;
        let mut live = self.live.lock();
        for result in &told.results {
            match result {
                Submitted::Accepted { .. } => live.counters.accepted += 1,
                Submitted::Refused(refusal) => {
                    live.counters.refused += 1;
                    credit |= refusal.class == ErrorClass::Route;
                    live.last_error = Some((format!("{}: {}", refusal.code, refusal.text), now.unix_ms));
                }
                Submitted::Unclear(why) => {
                    live.counters.unclear += 1;
                    live.last_error = Some((why.to_string(), now.unix_ms));
                }
            }
        }
        let turn = match &told.silent {
            Some(why) => live.silent(why.clone(), now.unix_ms),
            None => live.answered(),
        };
        drop(live);
        if credit && told.silent.is_none() {
            self.look_at_balance.notify_one();
        }
        if let Some(turn) = turn {
            self.publish(turn, told.silent.as_deref().unwrap_or_default());
        }
    }

    pub(super) fn remember(&mut self, id: Box<str>, fresh: Fresh) {
        self.submitted_order.push_back(id.clone());
        self.submitted.insert(id, fresh);
        if self.submitted_order.len() > SUBMITTED_MAX
            && let Some(oldest) = self.submitted_order.pop_front()
        {
            self.submitted.remove(&oldest);
        }
    }
}

fn outgoing(job: &Job, sender: &str) -> Outgoing {
    Outgoing {
        reference: reference(job.attempt, job.segments),
        to: job.to,
        sender: sender.into(),
        text: job.text.clone(),
        unicode: job.unicode,
        flash: job.flash,
        segments: job.segments,
        validity_s: job.validity_s,
    }
}

/// One request, from beginning to end. Goes on when its session ends: what it learns then is kept for later reports.
async fn submit(
    line: Arc<Line>,
    references: References,
    outgoing: Vec<Outgoing>,
    deadline_ms: u64,
    mut report: Report,
) {
    let Some(answered) = report.answered.as_mut() else { return };
    let jobs = &answered.batch.jobs;
    let told = line.submit(&outgoing, deadline_ms).await;
    let ids = match told.parts.len() {
        0 | 1 => whole_ids(jobs, &told),
        _ => part_ids(jobs, &told),
    };
    let capabilities = line.provider().capabilities();
    if !capabilities.echoes_reference || capabilities.polls || told.parts.len() > 1 {
        references.keep(line.provider().id, kept(&ids)).await;
    }
    (answered.told, answered.ids) = (told, ids);
}

/// One message to an SMSC, which is in line already.
async fn submit_smpp(
    provider: ProviderId,
    told: Option<impl Future<Output = SmppTold>>,
    references: References,
    mut report: Report,
) {
    let (Some(answered), Some(told)) = (report.answered.as_mut(), told) else { return };
    let SmppTold { told, ids } = told.await;
    let Some(job) = answered.batch.jobs.first() else { return };
    let known = |segment| Known { attempt: job.attempt, segments: job.segments, segment, to: Some(Tail::of(job.to)) };
    let ids: Vec<_> = ids.into_iter().map(|(id, segment)| (0, id, known(segment))).collect();
    references.keep(provider, kept(&ids)).await;
    (answered.told, answered.ids) = (told, ids);
}

/// An id for each message that was taken.
fn whole_ids(jobs: &[Job], told: &Told) -> Vec<(usize, Box<str>, Known)> {
    let id = |(place, (result, job)): (usize, (&Submitted, &Job))| match result {
        Submitted::Accepted { id: Some(id), .. } if id.len() <= ID_BYTES_MAX => {
            let known = Known { attempt: job.attempt, segments: job.segments, segment: None, to: None };
            Some((place, id.clone(), known))
        }
        _ => None,
    };
    told.results.iter().zip(jobs).enumerate().filter_map(id).collect()
}

/// Ids of the parts of the one message, of makers that report each.
fn part_ids(jobs: &[Job], told: &Told) -> Vec<(usize, Box<str>, Known)> {
    let Some(job) = jobs.first() else { return Vec::new() };
    let segments = u8::try_from(told.parts.len()).unwrap_or(u8::MAX);
    let known = |number| Known { attempt: job.attempt, segments, segment: Some(number), to: None };
    let parts = told.parts.iter().zip(0..segments).filter(|(id, _)| id.len() <= ID_BYTES_MAX);
    parts.map(|(id, number)| (0, id.clone(), known(number))).collect()
}

fn kept(ids: &[(usize, Box<str>, Known)]) -> Vec<(Box<str>, Known)> {
    ids.iter().map(|(_, id, known)| (id.clone(), *known)).collect()
}
