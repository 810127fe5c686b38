//! Prices and balance as the maker tells them, and the tasks that ask now and then.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::ProviderId;
use flotilla_providers::Balance;
use flotilla_routing::Micros;
use parking_lot::Mutex;
use ractor::ActorRef;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::account::{NotedBalance, NotedPrice};
use super::super::line::Line;
use super::super::polls::Polls;
use super::super::references::References;
use super::{Message, State};
use crate::domain::Now;
use crate::gateway::FleetEvent;

/// Between two looks at the balance, and at least after an error that may be about credit.
const BALANCE_EVERY: Duration = Duration::from_secs(600);
const BALANCE_PAUSE: Duration = Duration::from_secs(60);
/// Tests do not wait for it.
const POLL_EVERY: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 15_000 });

impl State {
    pub(super) fn note_price(&mut self, country: Option<Box<str>>, price: &(u64, Box<str>), now: Now) {
        let Some(country) = country else { return };
        let noted = NotedPrice { amount: Micros(price.0), currency: price.1.clone(), at_ms: now.unix_ms };
        self.live.lock().noted.prices.insert(country, noted);
        self.noted_dirty = true;
    }

    pub(super) fn balance(&mut self, balance: Balance, now: Now) {
        let noted = NotedBalance { micros: balance.micros, currency: balance.currency, at_ms: now.unix_ms };
        let gauge = metrics::gauge!(
            "flotilla_provider_balance", "maker" => self.maker(), "provider" => self.provider.id.to_string()
        );
        gauge.set(noted.micros as f64 / 1e6);
        let low = self.provider.settings.low_balance.map(|low| i64::try_from(low.0).unwrap_or(i64::MAX));
        let mut live = self.live.lock();
        let is_low = live.falls_low(noted.micros, low);
        live.noted.balance = Some(noted.clone());
        drop(live);
        self.set_balance(noted.clone());
        self.noted_dirty = true;
        self.keep_noted();
        if is_low {
            let event = FleetEvent::ProviderLowBalance { provider: self.provider.id, balance: noted };
            self.parts.events.publish(self.tenant(), event);
        }
    }

    /// It counts in the score of the account's senders.
    fn set_balance(&mut self, noted: NotedBalance) {
        let mut provider = (*self.provider).clone();
        let former = provider.noted.balance.replace(noted).map(|former| former.micros);
        let changed = former != provider.noted.balance.as_ref().map(|noted| noted.micros);
        self.provider = Arc::new(provider);
        if changed {
            self.slots.set(&self.provider);
            self.tell_change();
        }
    }

    pub(super) fn keep_noted(&mut self) {
        if !std::mem::take(&mut self.noted_dirty) {
            return;
        }
        let (accounts, id, noted) = (self.parts.accounts.clone(), self.provider.id, self.live.lock().noted.clone());
        tokio::spawn(async move {
            if let Err(error) = accounts.note(id, noted).await {
                tracing::debug!(provider = %id, %error, "balance and prices are not written down");
            }
        });
    }

    /// Balance and polls, as long as the session lasts.
    pub(super) fn start_tasks(&self, myself: &ActorRef<Message>) {
        let capabilities = self.provider.capabilities();
        if capabilities.balance {
            let (wanted, stop, live) = (Arc::clone(&self.look_at_balance), self.tasks.0.clone(), myself.clone());
            let line = Arc::clone(&self.line);
            tokio::spawn(stop.run_until_cancelled_owned(look_at_balance(line, wanted, live)));
        }
        if capabilities.polls {
            let (references, id, session) = (self.parts.references.clone(), self.provider.id, myself.clone());
            tokio::spawn(self.tasks.0.clone().run_until_cancelled_owned(poll_now_and_then(references, id, session)));
        }
    }
}

async fn look_at_balance(line: Arc<Mutex<Option<Arc<Line>>>>, wanted: Arc<Notify>, session: ActorRef<Message>) {
    loop {
        // The session's own, so that both have one token.
        let present = line.lock().clone();
        let balance = match &present {
            Some(line) => line.balance().await,
            None => None,
        };
        if let Some(balance) = balance
            && session.cast(Message::Balance(balance)).is_err()
        {
            return;
        }
        let _ = session.cast(Message::Upkeep);
        let looked = Instant::now();
        tokio::select! {
            () = sleep(BALANCE_EVERY) => {}
            () = wanted.notified() => sleep_until(looked + BALANCE_PAUSE).await,
        }
    }
}

async fn poll_now_and_then(references: References, id: ProviderId, session: ActorRef<Message>) {
    loop {
        match references.newest(id, Polls::MAX).await {
            Ok(known) => {
                let _ = session.cast(Message::Pollable(known));
                break;
            }
            Err(error) => tracing::debug!(provider = %id, %error, "what was sent before is not known yet"),
        }
        sleep(POLL_EVERY).await;
    }
    loop {
        sleep(POLL_EVERY).await;
        if session.cast(Message::Poll).is_err() {
            return;
        }
    }
}
