//! One account's line to its maker: requests of every kind, with the token that some makers want first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_protocol::wire::ErrorClass;
use flotilla_providers::{
    Account, Answer, Balance, Call, FieldError, Judged, Maker, Outgoing, Receipt, Refusal, Submitted,
};
use tokio::sync::Mutex;
use url::Url;

use super::account::Provider;
use super::carrier::{Carrier, CarryError};
use super::kind::Kind;
use crate::clock::Clock;

/// Where makers put the token that they have given.
const TOKEN: &str = "token";
/// A token is not used in the last moments of its life.
const TOKEN_MARGIN_MS: u64 = 30_000;

pub(super) struct Line {
    carrier: Carrier,
    clock: Arc<dyn Clock>,
    provider: Arc<Provider>,
    maker: &'static dyn Maker,
    account: Account,
    token: Mutex<Option<Token>>,
}

struct Token {
    text: Box<str>,
    /// Monotonic.
    until_ms: u64,
}

/// Why there is no answer.
enum Trouble {
    Settings(FieldError),
    Carry(CarryError),
    /// The maker gives no token.
    Token(String),
    /// Its time was over before it could leave.
    Late,
}

impl From<FieldError> for Trouble {
    fn from(error: FieldError) -> Self {
        Self::Settings(error)
    }
}

impl From<CarryError> for Trouble {
    fn from(error: CarryError) -> Self {
        Self::Carry(error)
    }
}

/// What became of a request with messages.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// One for each message.
    pub(super) results: Vec<Submitted>,
    /// Nobody was reached, or nobody has answered; why.
    pub(super) silent: Option<String>,
    /// Nothing was sent, because it was too late for it.
    pub(super) late: bool,
    /// Segments that had left before a refusal.
    pub(super) left: u8,
    /// The ids of the parts of the one message, of makers that report each.
    pub(super) parts: Vec<Box<str>>,
}

impl Line {
    /// `None` for an account that does not speak HTTP.
    pub(super) fn new(
        carrier: Carrier,
        clock: Arc<dyn Clock>,
        provider: Arc<Provider>,
        public_url: Option<&Url>,
    ) -> Option<Self> {
        let Kind::Http(maker) = provider.kind else { return None };
        let account = provider.account(public_url);
        Some(Self { carrier, clock, provider, maker, account, token: Mutex::new(None) })
    }

    pub(super) fn provider(&self) -> &Arc<Provider> {
        &self.provider
    }

    pub(super) fn account(&self) -> &Account {
        &self.account
    }

    pub(super) fn maker(&self) -> &'static dyn Maker {
        self.maker
    }

    fn name(&self) -> &'static str {
        self.provider.capabilities().name
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.provider.settings.timeout_ms.into())
    }

    fn now_ms(&self) -> u64 {
        self.clock.now().unix_ms
    }

    /// Submits 1 to `batch_max` messages of one sender, if they can leave before `deadline_ms` (monotonic).
    pub(super) async fn submit(&self, batch: &[Outgoing], deadline_ms: u64) -> Told {
        let maker = self.maker();
        let begun = Instant::now();
        let make = |account: &Account, now_ms| match self.clock.now().mono_ms < deadline_ms {
            true => Ok(maker.submit(account, batch, now_ms)?),
            false => Err(Trouble::Late),
        };
        let answer = self.ask(make).await;
        metrics::histogram!("flotilla_provider_seconds", "maker" => self.name()).record(begun.elapsed().as_secs_f64());
        let told = self.judge_submit(batch, answer);
        for result in &told.results {
            let outcome = match result {
                Submitted::Accepted { .. } => "accepted",
                Submitted::Refused(_) => "refused",
                Submitted::Unclear(_) => "unclear",
            };
            metrics::counter!("flotilla_provider_requests_total", "maker" => self.name(), "outcome" => outcome)
                .increment(1);
        }
        told
    }

    fn judge_submit(&self, batch: &[Outgoing], answer: Result<(Account, Answer), Trouble>) -> Told {
        let all = |result: Submitted| vec![result; batch.len()];
        let told = |results, silent| Told { results, silent, ..Told::default() };
        let refused = |code: &str, text: String| {
            let code = format!("{}-{code}", self.name()).into();
            all(Submitted::Refused(Refusal { class: ErrorClass::Route, code, text: text.into(), retry_after_ms: None }))
        };
        match answer {
            Ok((account, answer)) => {
                let results = self.maker().submitted(&account, batch, &answer);
                // A maker that has lost count has lost all.
                let results = match results.len() == batch.len() {
                    true => results,
                    false => all(Submitted::Unclear("the answer does not fit the request".into())),
                };
                let is_taken = matches!(results[..], [Submitted::Accepted { .. }]);
                let parts = if is_taken { self.maker().parts(&answer) } else { Vec::new() };
                Told { parts, ..told(results, None) }
            }
            Err(Trouble::Settings(error)) => told(refused("settings", error.to_string()), None),
            Err(Trouble::Token(why)) => told(refused("token", why), None),
            Err(Trouble::Late) => Told { late: true, ..Told::default() },
            Err(Trouble::Carry(CarryError::NotSent(why))) => told(refused("unreachable", why.clone()), Some(why)),
            Err(Trouble::Carry(CarryError::Unclear(why))) => {
                told(all(Submitted::Unclear(why.as_str().into())), Some(why))
            }
        }
    }

    /// Asks what has become of messages, by the maker's ids.
    pub(super) async fn poll(&self, ids: &[Box<str>]) -> Vec<Receipt> {
        let mut receipts = Vec::new();
        for ids in ids.chunks(self.maker().poll_max().max(1)) {
            receipts.extend(self.poll_some(ids).await);
        }
        receipts
    }

    /// One request, for as many ids as the maker takes.
    async fn poll_some(&self, ids: &[Box<str>]) -> Vec<Receipt> {
        let maker = self.maker();
        if maker.poll(&self.account, ids, self.now_ms()).is_none() {
            return Vec::new();
        }
        match self.ask(|account, now_ms| Ok(maker.poll(account, ids, now_ms).unwrap_or_else(unable)?)).await {
            Ok((account, answer)) => maker.polled(&account, ids, &answer),
            Err(trouble) => {
                tracing::debug!(provider = %self.provider.id, why = trouble.text(), "a poll has failed");
                Vec::new()
            }
        }
    }

    /// `None` when the maker does not tell.
    pub(super) async fn balance(&self) -> Option<Balance> {
        let maker = self.maker();
        drop(maker.balance(&self.account, self.now_ms())?);
        match self.ask(|account, now_ms| Ok(maker.balance(account, now_ms).unwrap_or_else(unable)?)).await {
            Ok((account, answer)) => maker.balance_of(&account, &answer),
            Err(trouble) => {
                tracing::debug!(provider = %self.provider.id, why = trouble.text(), "the balance is not known");
                None
            }
        }
    }

    /// Whether the account works, without sending anything.
    pub(super) async fn test(&self) -> Judged {
        let maker = self.maker();
        match self.ask(|account, now_ms| Ok(maker.test(account, now_ms)?)).await {
            Ok((account, answer)) => maker.judge(&account, &answer),
            Err(Trouble::Carry(error)) => Judged::Unclear(error.to_string().into()),
            Err(trouble) => Judged::Refused(trouble.text().into()),
        }
    }

    /// One request, and once more with a fresh token if the maker does not want the present one: it has done nothing then.
    /// With the answer comes the account as it was asked, token and all.
    async fn ask(&self, make: impl Fn(&Account, u64) -> Result<Call, Trouble>) -> Result<(Account, Answer), Trouble> {
        let (account, with_token) = self.with_token().await?;
        let call = make(&account, self.now_ms())?;
        let answer = self.carrier.carry(call, self.timeout()).await?;
        if !with_token || answer.status != http::StatusCode::UNAUTHORIZED {
            return Ok((account, answer));
        }
        // Another request may have replaced it already.
        self.token.lock().await.take_if(|token| Some(&token.text) == account.secrets.get(TOKEN));
        let (account, _) = self.with_token().await?;
        let call = make(&account, self.now_ms())?;
        let answer = self.carrier.carry(call, self.timeout()).await?;
        Ok((account, answer))
    }

    async fn with_token(&self) -> Result<(Account, bool), Trouble> {
        let maker = self.maker();
        let Some(call) = maker.token(&self.account, self.now_ms()) else { return Ok((self.account.clone(), false)) };
        // Held while it is asked for: everybody waits for the same one.
        let mut token = self.token.lock().await;
        let now_ms = self.clock.now().mono_ms;
        let fresh = token.take().filter(|token| token.until_ms > now_ms);
        let fresh = match fresh {
            Some(token) => token,
            // That the token's answer is lost is no doubt about a message.
            None => match self.carrier.carry(call?, self.timeout()).await {
                Ok(answer) => {
                    let refused = || Trouble::Token(format!("no token was given (status {})", answer.status.as_u16()));
                    let (text, for_ms) = maker.token_of(&answer).ok_or_else(refused)?;
                    Token { text, until_ms: now_ms + for_ms.saturating_sub(TOKEN_MARGIN_MS) }
                }
                Err(CarryError::NotSent(why) | CarryError::Unclear(why)) => {
                    return Err(CarryError::NotSent(why).into());
                }
            },
        };
        let mut account = self.account.clone();
        account.secrets.insert(TOKEN.into(), fresh.text.clone());
        *token = Some(fresh);
        Ok((account, true))
    }
}

impl Trouble {
    fn text(&self) -> String {
        match self {
            Self::Settings(error) => error.to_string(),
            Self::Carry(error) => error.to_string(),
            Self::Token(why) => why.clone(),
            Self::Late => "too late".to_owned(),
        }
    }
}

fn unable() -> Result<Call, FieldError> {
    Err(FieldError { field: "maker".into(), problem: "cannot be asked that".into() })
}
