//! Deliveries: takes what the courier gives, says it to the endpoints, writes down what became of it.
//!
//! Two tasks: one sends and reads what is next from the store, one writes outcomes, many in a transaction. A kill between an
//! answer and its write sends that event again, with the same `webhook-id`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_protocol::id::{MessageId, TenantId, WebhookId};
use metrics::{counter, gauge, histogram};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::body::{self, Subject};
use super::courier::{LineId, PARALLEL_MAX, PARALLEL_PRESSED, Parcel, Tried};
use super::endpoint::{Endpoint, EndpointError, SigningSecret, callbacks_of};
use super::queue::Settled;
use super::sender::{Answer, Letter, Sender};
use super::shared::{Mark, Shared};
use crate::clock::Clock;
use crate::follow::RowsReader;
use crate::store::SqlError;

/// Deliveries of this node under way.
const UNDER_WAY_MAX: usize = 512;
/// Outcomes that wait for the store; nothing is sent while there are more.
const OUTCOMES_MAX: usize = 10_000;
/// An endpoint to which nothing could be delivered for so long is disabled.
const FAILING_MS_MAX: u64 = 2 * 86_400_000;
const SECRETS_MS: u64 = 60_000;
const PRUNE_MS: u64 = 3_600_000;
const STORE_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Delivery {
    pub(super) shared: Arc<Shared>,
    pub(super) rows: RowsReader,
    pub(super) sender: Sender,
    pub(super) clock: Arc<dyn Clock>,
}

/// Why there is nothing to send.
enum Trouble {
    /// The store does not answer.
    Store(String),
    /// It has what cannot be sent.
    Own(String),
}

impl Delivery {
    /// Until `stop`; what is under way then is told again after the next start.
    pub(super) async fn run(self, stop: CancellationToken) {
        let settler = tokio::spawn(self.clone().settle_all(stop.clone()));
        let mut under_way = JoinSet::new();
        while !stop.is_cancelled() {
            let now_ms = self.now_ms();
            let may_send = self.shared.outcomes.lock().settled.len() < OUTCOMES_MAX;
            if may_send {
                let (most, parallel) = room_for(under_way.len());
                let taken = self.shared.courier.lock().take(now_ms, most, parallel);
                for (line, parcel) in taken {
                    let delivery = self.clone();
                    under_way.spawn(async move { delivery.deliver(line, parcel).await });
                }
            }
            self.load().await;
            let (most, parallel) = room_for(under_way.len());
            let deadline = self.shared.courier.lock().next_deadline(parallel).filter(|_| may_send && most > 0);
            let wait = deadline.map(|at| Duration::from_millis(at.saturating_sub(self.now_ms()).max(1)));
            tokio::select! {
                () = self.shared.wake.notified() => {}
                Some(_) = under_way.join_next() => {}
                () = pause(wait) => {}
                () = stop.cancelled() => {}
            }
            while under_way.try_join_next().is_some() {}
        }
        under_way.shutdown().await;
        let _ = settler.await;
    }

    fn now_ms(&self) -> u64 {
        self.clock.now().unix_ms
    }

    /// Reads what lines in memory are short of.
    async fn load(&self) {
        let wants = self.shared.courier.lock().wants();
        for (line, after) in wants {
            match self.shared.queue.load(line, after, line.window()).await {
                Ok(parcels) => {
                    let more = parcels.len() == line.window();
                    self.shared.courier.lock().loaded(line, parcels, more);
                    self.shared.wake.notify_one();
                }
                Err(error) => {
                    tracing::warn!(webhook = %line.webhook, %error, "cannot read what waits for a webhook; trying again");
                    self.shared.courier.lock().not_loaded(line);
                    let shared = Arc::clone(&self.shared);
                    tokio::spawn(async move {
                        tokio::time::sleep(STORE_PAUSE).await;
                        shared.wake.notify_one();
                    });
                }
            }
        }
    }

    async fn deliver(&self, line: LineId, parcel: Parcel) {
        let begin = Instant::now();
        let answer = match self.letter(line.webhook, &parcel).await {
            Ok(Some(letter)) => self.sender.send(&letter).await,
            // The endpoint has gone meanwhile, or the message has no address: there is nobody to tell.
            Ok(None) => Answer::Delivered { status: 204 },
            Err(Trouble::Own(error)) => Answer::Failed { error: error.into(), retry_after_ms: None },
            Err(Trouble::Store(error)) => return self.not_tried(line, &parcel, &error),
        };
        histogram!("flotilla_webhook_seconds").record(begin.elapsed().as_secs_f64());
        counter!("flotilla_webhook_deliveries_total", "outcome" => answer.name()).increment(1);
        self.note(line, &parcel, answer).await;
    }

    /// The store does not say what or where. That is no fault of the endpoint: nothing is counted, and no time is lost.
    fn not_tried(&self, line: LineId, parcel: &Parcel, error: &str) {
        counter!("flotilla_webhook_deliveries_total", "outcome" => "not tried").increment(1);
        tracing::debug!(webhook = %line.webhook, error, "an event for a webhook cannot be read; trying again");
        self.shared.courier.lock().tried(line, parcel.place, &Tried::Not, self.now_ms(), 0.5);
        self.shared.wake.notify_one();
    }

    /// What to say and where; `None` when there is nobody to say it to.
    async fn letter(&self, webhook: WebhookId, parcel: &Parcel) -> Result<Option<Letter>, Trouble> {
        let Some(tenant) = self.tenant_of(webhook) else { return Ok(None) };
        let Some(endpoint) = self.shared.directory.get(tenant, webhook) else { return Ok(None) };
        let mut subject = Subject::default();
        if parcel.kind.starts_with("message.") {
            let found = self.rows.get(tenant, MessageId::from_bytes(parcel.subject)).await;
            let Some(record) = found.map_err(|error| Trouble::Store(error.to_string()))? else { return Ok(None) };
            subject = Subject::of(record.submission);
        }
        let url = if endpoint.is_callbacks() { subject.callback_url.clone() } else { Some(endpoint.url.clone()) };
        let Some(url) = url else { return Ok(None) };
        let secrets = self.secrets(&endpoint).await?;
        let body = body::compose(&parcel.kind, parcel.at_ms, &parcel.data, &subject, endpoint.include_text);
        let body = body.map_err(Trouble::Own)?;
        let id = body::id_of(webhook, parcel.place);
        Ok(Some(Letter { url, id, body, secrets, at_ms: self.now_ms() }))
    }

    fn tenant_of(&self, webhook: WebhookId) -> Option<TenantId> {
        self.shared.directory.tenant_of(webhook)
    }

    async fn secrets(&self, endpoint: &Endpoint) -> Result<Arc<[SigningSecret]>, Trouble> {
        let now_ms = self.now_ms();
        if let Some((secrets, until_ms)) = self.shared.secrets.lock().get(&endpoint.id)
            && now_ms < *until_ms
        {
            return Ok(Arc::clone(secrets));
        }
        let found = self.shared.endpoints.secrets(endpoint.tenant, endpoint.id, now_ms).await;
        let secrets: Arc<[_]> = found
            .map_err(|error| match error {
                EndpointError::Sql(error) => Trouble::Store(error.to_string()),
                other => Trouble::Own(other.to_string()),
            })?
            .into();
        self.shared.secrets.lock().insert(endpoint.id, (Arc::clone(&secrets), now_ms + SECRETS_MS));
        Ok(secrets)
    }

    async fn note(&self, line: LineId, parcel: &Parcel, answer: Answer) {
        let now_ms = self.now_ms();
        let (tried, error, gone) = match answer {
            Answer::Delivered { .. } => (Tried::Delivered, None, false),
            Answer::Failed { error, retry_after_ms } => (Tried::Refused { retry_after_ms }, Some(error), false),
            Answer::Gone => {
                (Tried::Refused { retry_after_ms: None }, Some("HTTP 410: it asks for nothing more".into()), true)
            }
        };
        let verdict = self.shared.courier.lock().tried(line, parcel.place, &tried, now_ms, rand::random());
        let Some(tenant) = self.tenant_of(line.webhook) else { return };
        if let Some(verdict) = verdict {
            let mut outcomes = self.shared.outcomes.lock();
            let error = error.clone();
            outcomes.settled.push(Settled {
                webhook: line.webhook,
                place: parcel.place,
                verdict,
                at_ms: now_ms,
                error,
            });
        }
        self.mark(tenant, line.webhook, error, now_ms);
        let failing = self.shared.directory.failing(line.webhook, tried == Tried::Delivered, now_ms);
        let is_callbacks = line.webhook == callbacks_of(tenant);
        if !is_callbacks && (gone || failing.is_some_and(|since| now_ms.saturating_sub(since) >= FAILING_MS_MAX)) {
            let why = if gone { "it answered 410 Gone" } else { "nothing could be delivered for two days" };
            self.disable(tenant, line.webhook, why).await;
        }
        self.shared.settle.notify_one();
        self.shared.wake.notify_one();
    }

    fn mark(&self, tenant: TenantId, webhook: WebhookId, error: Option<Box<str>>, now_ms: u64) {
        let mut outcomes = self.shared.outcomes.lock();
        let (_, mark) = outcomes.marks.entry(webhook).or_insert_with(|| (tenant, Mark::default()));
        match error {
            None => mark.success_ms = Some(now_ms),
            Some(error) => (mark.failure_ms, mark.error) = (Some(now_ms), Some(error)),
        }
    }

    async fn disable(&self, tenant: TenantId, webhook: WebhookId, why: &'static str) {
        let now_ms = self.now_ms();
        match self.shared.endpoints.disable(tenant, webhook, why, now_ms).await {
            Ok(Some(endpoint)) => {
                tracing::warn!(%webhook, why, "a webhook is disabled");
                self.shared.put(endpoint);
                if let Err(error) = self.shared.queue.give_up_all(webhook, why, now_ms).await {
                    tracing::warn!(%webhook, %error, "what waits for a disabled webhook still does");
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%webhook, %error, "a webhook should be disabled; trying again with its next failure")
            }
        }
    }

    /// Writes outcomes down as they come.
    async fn settle_all(self, stop: CancellationToken) {
        let mut pruned_ms = 0;
        loop {
            let ending = stop.is_cancelled();
            match self.settle().await {
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(%error, "what became of webhook events cannot be written; trying again");
                    tokio::time::sleep(STORE_PAUSE).await;
                    self.shared.settle.notify_one();
                }
            }
            if ending {
                return;
            }
            let now_ms = self.now_ms();
            if now_ms.saturating_sub(pruned_ms) >= PRUNE_MS {
                pruned_ms = now_ms;
                if let Err(error) = self.shared.queue.prune(now_ms).await {
                    tracing::warn!(%error, "old webhook events are not forgotten");
                }
            }
            tokio::select! {
                () = self.shared.settle.notified() => {}
                () = stop.cancelled() => {}
            }
        }
    }

    async fn settle(&self) -> Result<(), SqlError> {
        let (settled, loose, marks) = {
            let mut outcomes = self.shared.outcomes.lock();
            let taken = std::mem::take(&mut *outcomes);
            (taken.settled, taken.loose, taken.marks)
        };
        gauge!("flotilla_webhook_outcomes_waiting").set(settled.len() as f64);
        if !settled.is_empty()
            && let Err(error) = self.shared.queue.settle(settled.clone()).await
        {
            let mut outcomes = self.shared.outcomes.lock();
            outcomes.settled.splice(0..0, settled);
            outcomes.loose.splice(0..0, loose);
            for (webhook, mark) in marks {
                outcomes.marks.entry(webhook).or_insert(mark);
            }
            return Err(error);
        }
        if !loose.is_empty() {
            match self.shared.queue.write(Vec::new(), loose.clone()).await {
                Ok(()) => self.shared.append(loose.into_iter().map(|(_, webhook, parcel)| (webhook, parcel))),
                Err(error) => {
                    counter!("flotilla_webhook_events_dropped_total").increment(loose.len() as u64);
                    tracing::warn!(%error, events = loose.len(), "events of the fleet are not told to webhooks");
                }
            }
        }
        self.shared.endpoints.mark(marks).await
    }
}

/// How many more may be sent, and how many of an endpoint at once. Half of the room is for those that do not hold much of it.
fn room_for(under_way: usize) -> (usize, usize) {
    match (UNDER_WAY_MAX / 2).checked_sub(under_way) {
        Some(most @ 1..) => (most, PARALLEL_MAX),
        _ => (UNDER_WAY_MAX.saturating_sub(under_way), PARALLEL_PRESSED),
    }
}

async fn pause(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_endpoints_leave_room_for_others() {
        assert_eq!(room_for(0), (UNDER_WAY_MAX / 2, PARALLEL_MAX));
        assert_eq!(room_for(UNDER_WAY_MAX / 2 - 1), (1, PARALLEL_MAX));
        assert_eq!(room_for(UNDER_WAY_MAX / 2), (UNDER_WAY_MAX / 2, PARALLEL_PRESSED));
        assert_eq!(room_for(UNDER_WAY_MAX + 9).0, 0);
    }
}
