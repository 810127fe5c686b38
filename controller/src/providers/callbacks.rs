//! What makers tell on their own: reports and received messages.
//!
//! The account's token in the path keeps strangers out, the maker's signature is checked where there is one, and only when the
//! shard has made everything durable is the maker told that we have it. Repetitions and news of what nobody knows are harmless.

use std::sync::Arc;

use flotilla_protocol::id::ProviderId;
use flotilla_providers::{Callback, CallbackError, Receipt};
use parking_lot::Mutex;
use ring::hmac;
use rustc_hash::FxHashMap;

use super::account::Provider;
use super::news::{News, by_reference};
use super::{Providers, session};

/// Callbacks of an account in a second, and at once. Makers send one per message, or several messages in one.
const PER_S: u64 = 1_000;
const BURST: u64 = 2_000;
/// Looks into the store for accounts that are not known here, in a second and for all: a stranger's guesses are not free.
const MISSES_PER_S: u64 = 20;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallbackProblem {
    /// No such account, another maker's, or not its token: all look the same.
    #[error("there is no such callback address")]
    NotFound,
    #[error(transparent)]
    Refused(#[from] CallbackError),
    #[error("too many callbacks of this account at once")]
    TooMany,
    #[error("nobody could take it now")]
    NotTaken,
}

impl Providers {
    /// The account that a callback's path means.
    pub async fn addressed(&self, maker: &str, id: ProviderId, token: &str) -> Result<Arc<Provider>, CallbackProblem> {
        let parts = self.parts();
        let mut known = parts.accounts.known(id);
        if known.is_none() && self.rates().miss(parts.clock.now().mono_ms) {
            // It may have been made by another controller, a moment ago.
            if let Err(error) = parts.accounts.refresh().await {
                tracing::warn!(%error, "accounts cannot be read");
                return Err(CallbackProblem::NotTaken);
            }
            known = parts.accounts.known(id);
        }
        let provider = known.ok_or(CallbackProblem::NotFound)?;
        // Compares in constant time.
        let key = hmac::Key::new(hmac::HMAC_SHA256, &provider.callback_token);
        let expected = hmac::sign(&key, provider.token_text().as_bytes());
        let right = hmac::verify(&key, token.as_bytes(), expected.as_ref()).is_ok();
        if !right || provider.capabilities().name != maker {
            return Err(CallbackProblem::NotFound);
        }
        if !self.rates().callback(id, parts.clock.now().mono_ms) {
            return Err(CallbackProblem::TooMany);
        }
        Ok(provider)
    }

    /// Reads a callback, and hands on what it tells. Where the tenant's shard is led.
    pub async fn called_back(
        &self,
        provider: &Arc<Provider>,
        request: &Callback,
    ) -> Result<&'static str, CallbackProblem> {
        let parts = self.parts();
        let line = session::line_of(parts, provider).ok_or(CallbackProblem::NotFound)?;
        let read = line.maker().callback(line.account(), request, parts.clock.now().unix_ms);
        let outcome = match &read {
            Ok(_) => "taken",
            Err(CallbackError::Unsigned | CallbackError::Signature | CallbackError::Replayed) => "unsigned",
            Err(CallbackError::Malformed(_)) => "malformed",
        };
        let name = provider.capabilities().name;
        metrics::counter!("flotilla_provider_callbacks_total", "maker" => name, "outcome" => outcome).increment(1);
        let reply = read.inspect_err(|error| {
            tracing::warn!(provider = %provider.id, %error, "a callback is refused");
        })?;
        if reply.receipts.is_empty() && reply.inbound.is_empty() {
            return Ok(reply.answer);
        }
        // Our reference names a message, and not which part of it.
        let by_part = line.maker().reports_parts();
        let named = |receipt: &Receipt| by_reference(receipt).filter(|_| !by_part);
        let unnamed = reply.receipts.iter().filter(|receipt| named(receipt).is_none());
        let by_id = self.look_up(provider, unnamed.filter_map(|receipt| receipt.id.clone()).collect()).await?;
        let known = |receipt: &Receipt| named(receipt).or_else(|| by_id.get(receipt.id.as_deref()?).copied());
        let receipts = reply.receipts.into_iter().map(|receipt| (known(&receipt), receipt)).collect();
        let news = News { receipts, inbound: reply.inbound, reply: None };
        self.sessions().tell(provider.id, news).await.map_err(|_| CallbackProblem::NotTaken)?;
        Ok(reply.answer)
    }

    /// The attempts behind makers' ids.
    async fn look_up(
        &self,
        provider: &Provider,
        ids: Vec<Box<str>>,
    ) -> Result<FxHashMap<Box<str>, super::references::Known>, CallbackProblem> {
        if ids.is_empty() {
            return Ok(FxHashMap::default());
        }
        let found = self.parts().references.find(provider.id, ids).await;
        found.map_err(|error| {
            tracing::warn!(%error, "makers' ids cannot be read");
            CallbackProblem::NotTaken
        })
    }
}

/// Bounds of what strangers may cost.
#[derive(Default)]
pub(super) struct Rates {
    accounts: Mutex<FxHashMap<ProviderId, Bucket>>,
    misses: Mutex<Option<Bucket>>,
}

impl Rates {
    fn callback(&self, id: ProviderId, now_ms: u64) -> bool {
        let mut accounts = self.accounts.lock();
        accounts.entry(id).or_insert_with(|| Bucket::new(BURST, now_ms)).take(PER_S, BURST, now_ms)
    }

    fn miss(&self, now_ms: u64) -> bool {
        let mut misses = self.misses.lock();
        misses.get_or_insert_with(|| Bucket::new(MISSES_PER_S, now_ms)).take(MISSES_PER_S, MISSES_PER_S, now_ms)
    }
}

struct Bucket {
    /// Thousandths.
    credit: u64,
    at_ms: u64,
}

impl Bucket {
    fn new(burst: u64, now_ms: u64) -> Self {
        Self { credit: burst * 1_000, at_ms: now_ms }
    }

    fn take(&mut self, per_s: u64, burst: u64, now_ms: u64) -> bool {
        let passed_ms = now_ms.saturating_sub(self.at_ms);
        self.credit = self.credit.saturating_add(passed_ms.saturating_mul(per_s)).min(burst * 1_000);
        self.at_ms = self.at_ms.max(now_ms);
        let free = self.credit >= 1_000;
        self.credit -= if free { 1_000 } else { 0 };
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_refused_and_passes() {
        let rates = Rates::default();
        let id = ProviderId::from_bytes([1; 16]);
        let taken = (0..3_000).filter(|_| rates.callback(id, 5)).count();
        assert_eq!(taken as u64, BURST);
        assert!(rates.callback(ProviderId::from_bytes([2; 16]), 5), "another account is not concerned");
        assert!(rates.callback(id, 6) && !rates.callback(id, 6));
        assert_eq!((0..100).filter(|_| rates.miss(9)).count() as u64, MISSES_PER_S);
    }
}
