//! An account at an SMSC: the SMPP client of its session, and what it tells.
//!
//! The client keeps its links up by itself. While there is none the session takes no work, so that messages go elsewhere. What
//! the SMSC delivers is acknowledged to it when the shard has it durable; until then it keeps it and sends it again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_protocol::id::ProviderId;
use flotilla_providers::smpp::{self, Ack, Candidate, Event, Handle, State};
use flotilla_providers::{FieldError, Judged, Outgoing, Receipt, Submitted};
use ractor::ActorRef;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::account::Provider;
use super::line::Told;
use super::news::News;
use super::references::{Known, References, parse};
use super::session::Message;
use crate::net_guard::NetGuard;

/// Events that may wait for the session; the SMSC waits behind them.
const EVENTS_MAX: usize = 64;

pub(super) struct SmppLine {
    handle: Handle,
    /// Another client has taken its place: what it says of itself counts no more.
    replaced: CancellationToken,
}

/// What became of a message, with the SMSC's ids by segment.
pub(super) struct SmppTold {
    pub(super) told: Told,
    pub(super) ids: Vec<(Box<str>, Option<u8>)>,
}

/// The client's settings. What the account itself says about pace holds where the fields say nothing.
pub(super) fn settings_of(provider: &Provider, guard: NetGuard) -> Result<smpp::Settings, FieldError> {
    let mut settings = smpp::Settings::from_account(&provider.account(None))?;
    let is_set = |name: &str| provider.settings.fields.get(name).is_some_and(|value| !value.trim().is_empty());
    if !is_set("window") {
        settings.window = provider.settings.window.into();
    }
    if !is_set("rate_per_s") {
        settings.rate_per_s = provider.settings.requests_per_second.map(u32::from);
    }
    if !is_set("response_timeout_ms") {
        settings.response_timeout_ms = provider.settings.timeout_ms.into();
    }
    settings.may_connect = Some(Arc::new(move |ip| guard.allows(ip)));
    Ok(settings)
}

/// Binds and unbinds.
pub(super) async fn test(provider: &Provider, guard: NetGuard) -> Judged {
    match settings_of(provider, guard) {
        Ok(settings) => smpp::judge(settings).await,
        Err(error) => Judged::Refused(error.to_string().into()),
    }
}

impl SmppLine {
    pub(super) fn start(
        settings: smpp::Settings,
        provider: ProviderId,
        references: References,
        session: ActorRef<Message>,
    ) -> Self {
        let (events, told) = mpsc::channel(EVENTS_MAX);
        let handle = smpp::start(settings, events);
        let replaced = CancellationToken::new();
        tokio::spawn(listen(provider, references, session, told, replaced.clone()));
        Self { handle, replaced }
    }

    /// In line when this returns. Nothing of it goes out after `within`.
    pub(super) fn submit(&self, outgoing: Outgoing, within: Duration) -> impl Future<Output = SmppTold> + Send + use<> {
        let outcome = self.handle.submit_before(outgoing, Instant::now() + within);
        async move {
            let outcome = outcome.await;
            let ids = outcome.ids.into_iter().zip(0u8..);
            let segment = |segment: u8| (!outcome.whole).then_some(segment);
            let ids = ids.filter_map(|(id, place)| Some((id?, segment(place)))).collect();
            let left = outcome.segments_accepted;
            SmppTold { told: Told { results: vec![outcome.submitted], left, ..Told::default() }, ids }
        }
    }

    /// Answers that are due come first; then it unbinds.
    pub(super) fn end(&self) {
        self.replaced.cancel();
        let handle = self.handle.clone();
        tokio::spawn(async move { handle.shutdown().await });
    }
}

/// Hands on what the SMSC tells, until the client has ended.
async fn listen(
    provider: ProviderId,
    references: References,
    session: ActorRef<Message>,
    mut told: mpsc::Receiver<Event>,
    replaced: CancellationToken,
) {
    while let Some(event) = told.recv().await {
        match event {
            Event::Receipt { receipt, ids, ack } => {
                let Some((known, receipt)) = recognise(&references, provider, receipt, ids).await else { continue };
                let news = News { receipts: vec![(known, receipt)], inbound: Vec::new(), reply: None };
                hand_on(&session, news, ack);
            }
            Event::Inbound { inbound, ack } => {
                hand_on(&session, News { receipts: Vec::new(), inbound: vec![inbound], reply: None }, ack);
            }
            Event::State(_) if replaced.is_cancelled() => {}
            Event::State(state) => {
                let (bound, why) = match state {
                    State::Bound { .. } => (true, None),
                    State::Binding | State::Stopped => (false, None),
                    State::Refused { code, text, .. } => (false, Some(format!("{code}: {text}"))),
                    State::BackingOff { reason, .. } => (false, Some(reason.into())),
                };
                let _ = session.cast(Message::Bound { bound, why });
            }
            Event::Late { reference, segment, submitted } => {
                let Some(known) = parse(&reference) else { continue };
                if let Submitted::Accepted { id: Some(id), .. } = &submitted {
                    let known = Known { segment: Some(segment), ..known };
                    references.keep(provider, vec![(id.clone(), known)]).await;
                }
                let _ = session.cast(Message::Late(known, submitted));
            }
            Event::Congestion(percent) => tracing::debug!(%provider, percent, "the SMSC is congested"),
        }
    }
}

/// The attempt behind the first of the ids that anybody knows. `None` when the store does not answer: the SMSC shall come
/// again.
async fn recognise(
    references: &References,
    provider: ProviderId,
    receipt: Receipt,
    ids: Vec<Candidate>,
) -> Option<(Option<Known>, Receipt)> {
    let found = references.find(provider, ids.iter().map(|one| one.key.clone()).collect()).await;
    let found = found.inspect_err(|error| tracing::warn!(%provider, %error, "an SMSC's ids cannot be read")).ok()?;
    let known = |one: &Candidate| found.get(&one.key).copied().filter(|known| one.may_mean(known.to));
    let first = ids.iter().find_map(|one| Some((one.key.clone(), known(one)?)));
    Some(match first {
        Some((id, known)) => (Some(known), Receipt { id: Some(id), ..receipt }),
        // What is in the store under its likeliest id is another message.
        None if !found.is_empty() => (None, Receipt { id: None, ..receipt }),
        None => (None, receipt),
    })
}

/// The SMSC may forget it once it is durable.
fn hand_on(session: &ActorRef<Message>, news: News, ack: Ack) {
    let (reply, taken) = oneshot::channel();
    let news = News { reply: Some(reply), ..news };
    if session.cast(Message::News(Box::new(news))).is_ok() {
        tokio::spawn(async move {
            if taken.await.is_ok() {
                ack.taken();
            }
        });
    }
}
