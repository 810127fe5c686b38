//! What the maker tells afterwards, by callbacks and when it is asked: whose message it is of, and what the shard hears of it.

use std::sync::Arc;

use flotilla_protocol::wire::ErrorClass;
use flotilla_providers::{Receipt, ReceiptState, Refusal, Submitted};
use ractor::ActorRef;
use tokio::sync::oneshot;

use super::super::news::{News, by_reference, inbound_message};
use super::super::references::Known;
use super::parts::Part;
use super::{Message, State, Way};
use crate::domain::Now;

/// Callbacks that wait, and the reports in all of them.
const EARLY_MAX: usize = 1_000;
const EARLY_RECEIPTS_MAX: usize = 10_000;
/// Room at which those go on that had none: not for every report that is acknowledged.
const SLICE: usize = 1_000;

/// Reports of a callback that wait for the answers of requests under way, or for room.
pub(super) struct Early {
    /// What is not told yet; with the attempt, where that is known.
    receipts: Vec<(Option<Known>, Receipt)>,
    /// There was no room for the rest.
    short: bool,
    /// The last batch at that time: when it and all before are answered, nobody will ever know.
    batch: u64,
    position: u64,
    reply: Option<oneshot::Sender<()>>,
}

/// A message that was submitted, while it is fresh.
#[derive(Clone)]
pub(super) struct Fresh {
    pub(super) known: Known,
    pub(super) country: Option<Box<str>>,
}

impl State {
    /// What a callback has told. Reports about what nobody knows yet wait until the requests under way are answered. One may
    /// make more reports than there is room for: it is told in slices, as the shard acknowledges them.
    pub(super) fn news(&mut self, news: News, now: Now) {
        if !self.agent.has_room(news.inbound.len().max(1)) {
            // Nobody is told that it was taken, so the maker repeats it.
            return;
        }
        let batch = self.agent.batches().max().unwrap_or(0);
        let mut early = Early { receipts: news.receipts, short: false, batch, position: 0, reply: news.reply };
        for inbound in news.inbound {
            let slot = self.slots.of(&inbound.to);
            let message = inbound_message(self.provider.id, slot, inbound, now.unix_ms);
            self.live.lock().counters.inbound += 1;
            early.position = self.agent.inbound(message, now.unix_ms);
        }
        self.tell(&mut early, now);
        let receipts: usize = self.early.iter().map(|early| early.receipts.len()).sum();
        let fits = self.early.len() < EARLY_MAX && receipts + early.receipts.len() <= EARLY_RECEIPTS_MAX;
        // What is told already and is repeated with the rest does no harm.
        if fits || early.receipts.is_empty() {
            self.keep(early);
        }
    }

    /// A request was answered: some may be known now.
    pub(super) fn retry_early(&mut self, now: Now) {
        self.tell_early(|_| true, now);
    }

    /// The shard has acknowledged reports.
    pub(super) fn room_again(&mut self, now: Now) {
        if self.early.iter().any(|early| early.short) && self.agent.has_room(SLICE) {
            self.tell_early(|early| early.short, now);
        }
    }

    fn tell_early(&mut self, which: impl Fn(&Early) -> bool, now: Now) {
        for mut early in std::mem::take(&mut self.early) {
            if which(&early) {
                self.tell(&mut early, now);
            }
            self.keep(early);
        }
    }

    fn keep(&mut self, early: Early) {
        if !early.receipts.is_empty() {
            self.early.push(early);
        } else if let Some(reply) = early.reply {
            self.waiting.push((early.position, reply));
        }
    }

    /// Tells the shard what can be told now. The rest stays, in its order.
    fn tell(&mut self, early: &mut Early, now: Now) {
        let first = self.agent.batches().min().unwrap_or(u64::MAX);
        early.short = false;
        for (known, receipt) in std::mem::take(&mut early.receipts) {
            let known = known.or_else(|| self.fresh(&receipt));
            let is_early = known.is_none() && first <= early.batch;
            early.short |= !is_early && !self.agent.has_room(known.map_or(1, |known| reports_of(known, &receipt)));
            if is_early || early.short {
                early.receipts.push((known, receipt));
                continue;
            }
            let position = match known {
                Some(known) => self.receipt(known, &receipt, now),
                None => self.nobodys(&receipt, now),
            };
            early.position = early.position.max(position);
        }
    }

    /// Of what nobody knows by its maker's id: from another life of the account, older than what is remembered, or of a message
    /// whose answer was lost. Makers that report each part tell at least which message that was.
    fn nobodys(&mut self, receipt: &Receipt, now: Now) -> u64 {
        let Some(known) = by_reference(receipt) else {
            self.live.lock().counters.unknown_reports += 1;
            return 0;
        };
        match &receipt.state {
            ReceiptState::Delivered if known.segments > 1 => {
                let taken = Submitted::Accepted { id: None, price: None };
                self.agent.answered_late(known.attempt, known.segments, &taken, now)
            }
            _ if known.segments > 1 => self.receipt(Known { segment: Some(0), ..known }, receipt, now),
            _ => self.receipt(known, receipt, now),
        }
    }

    pub(super) fn fresh(&self, receipt: &Receipt) -> Option<Known> {
        self.submitted.get(receipt.id.as_deref()?).map(|fresh| fresh.known)
    }

    /// Answers the position of its last report, 0 when there is nothing to report.
    pub(super) fn receipt(&mut self, known: Known, receipt: &Receipt, now: Now) -> u64 {
        let fresh = receipt.id.as_deref().and_then(|id| self.submitted.get(id)).cloned();
        if let (Some(price), Some(fresh)) = (&receipt.price, fresh) {
            self.note_price(fresh.country, price, now);
        }
        if let Some(id) = receipt.id.as_deref().filter(|_| receipt.state != ReceiptState::Pending) {
            // Told by a callback: there is nothing left to ask.
            self.polls.settle(id);
        }
        let at_ms = receipt.at_ms.unwrap_or(now.unix_ms);
        let Known { attempt, segments, segment, .. } = known;
        let segment = receipt.segment.or(segment);
        let planned = planned(known, receipt);
        let undelivered = |state: &mut Self, refusal: &Refusal| {
            state.live.lock().counters.undelivered += 1;
            // More parts than were planned: the shard cannot know that others than this one may have arrived. A receipt that
            // names its part is of a text that was cut, however few its account has been told of.
            let more = segments > 1 || receipt.segment.is_some();
            let others = segment.is_some() && planned == 1 && more;
            let class = if others { ErrorClass::Permanent } else { refusal.class };
            state.agent.undelivered(attempt, segment, &Refusal { class, ..refusal.clone() }, at_ms)
        };
        match &receipt.state {
            ReceiptState::Pending => 0,
            ReceiptState::Delivered => {
                self.live.lock().counters.delivered += 1;
                let Some(number) = segment else { return self.agent.delivered(attempt, planned, None, at_ms) };
                let told = self.parts_of.delivered(attempt, Part { number, parts: segments }, planned);
                told.fold(0, |_, segment| self.agent.delivered(attempt, planned, Some(segment), at_ms))
            }
            ReceiptState::Failed(refusal) => undelivered(self, refusal),
            ReceiptState::Expired => {
                let code = format!("{}-expired", self.maker()).into();
                let text = "the provider has let it expire".into();
                undelivered(self, &Refusal { class: ErrorClass::Transient, code, text, retry_after_ms: None })
            }
        }
    }

    pub(super) fn pollable(&mut self, known: Vec<(Box<str>, Known, u64)>, now: Now) {
        known.into_iter().for_each(|(id, known, sent_ms)| self.polls.restored(&id, known, sent_ms, now.unix_ms));
    }

    pub(super) fn poll(&mut self, myself: &ActorRef<Message>, now: Now) {
        let Way::Http(line) = &self.way else { return };
        if self.polling {
            return;
        }
        let asked = self.polls.due(line.maker().poll_max(), now.unix_ms);
        if asked.is_empty() {
            return;
        }
        let (line, myself) = (Arc::clone(line), myself.clone());
        self.polling = true;
        tokio::spawn(self.tasks.0.clone().run_until_cancelled_owned(async move {
            let receipts = line.poll(&asked).await;
            let _ = myself.cast(Message::Polled { asked, receipts });
        }));
    }

    pub(super) fn polled(&mut self, asked: &[Box<str>], receipts: Vec<Receipt>, now: Now) {
        self.polling = false;
        let mut settled = Vec::new();
        for receipt in receipts {
            // An answer about what was not asked is none.
            let Some(id) = receipt.id.as_ref().filter(|id| asked.contains(id)).cloned() else { continue };
            let Some(known) = self.polls.known(&id).or_else(|| self.fresh(&receipt)) else { continue };
            if receipt.state != ReceiptState::Pending && self.polls.settle(&id) {
                settled.push(id);
            }
            self.receipt(known, &receipt, now);
        }
        if settled.is_empty() {
            return;
        }
        let (references, id) = (self.parts.references.clone(), self.provider.id);
        tokio::spawn(async move {
            if let Err(error) = references.settle(id, settled).await {
                tracing::debug!(provider = %id, %error, "settled messages will be asked about once more");
            }
        });
    }
}

/// Segments that the shard knows of; a maker may have made more of it, or fewer.
fn planned(known: Known, receipt: &Receipt) -> u8 {
    by_reference(receipt).map_or(known.segments, |named| named.segments)
}

/// The most reports that a receipt makes.
fn reports_of(known: Known, receipt: &Receipt) -> usize {
    match receipt.state {
        ReceiptState::Pending => 0,
        ReceiptState::Delivered => usize::from(planned(known, receipt).max(1)),
        ReceiptState::Failed(_) | ReceiptState::Expired => 1,
    }
}
