//! A maker of an online SMS service: what it can do, and how it is spoken to. No IO.

use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::ErrorClass;

use crate::account::{Account, FieldError};
use crate::errors::ErrorTable;
use crate::http_call::{Answer, Call, Callback};

/// What a maker supports; `docs/providers.md` is checked against it.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    /// In paths and settings: `twilio`, `vonage-sms`...
    pub name: &'static str,
    pub title: &'static str,
    /// Fields and secrets of an account, with what they are; `true` for those that have to be there.
    pub fields: &'static [(&'static str, bool, &'static str)],
    pub secrets: &'static [(&'static str, bool, &'static str)],
    /// Most messages in one request.
    pub batch_max: usize,
    pub batch: &'static str,
    /// Reports come to our callback address.
    pub callbacks: bool,
    /// How reports are signed; none when the maker does not sign them.
    pub signature: Option<&'static str>,
    /// Reports can be asked for.
    pub polls: bool,
    pub balance: bool,
    pub inbound: bool,
    /// Reports carry our own reference, so the maker's id need not be remembered.
    pub echoes_reference: bool,
}

/// One message to submit. All of a batch have the same sender.
#[derive(Clone)]
pub struct Outgoing {
    /// Ours for this attempt: `msg_...-<attempt>`, at most 36 ASCII characters.
    pub reference: Box<str>,
    pub to: Msisdn,
    pub sender: Box<str>,
    pub text: Box<str>,
    /// The text does not fit GSM-7.
    pub unicode: bool,
    pub flash: bool,
    pub segments: u8,
    /// How long it is worth delivering.
    pub validity_s: u32,
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing").field("reference", &self.reference).finish_non_exhaustive()
    }
}

/// What became of one message of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Submitted {
    /// Taken. The maker's id, where it has given one, and what it says it costs (millionths, ISO 4217).
    Accepted {
        id: Option<Box<str>>,
        price: Option<(u64, Box<str>)>,
    },
    Refused(Refusal),
    /// It may have been taken: a 5xx after the request was sent whole, an answer that can not be read.
    Unclear(Box<str>),
}

/// Not taken, or given up by the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub class: ErrorClass,
    /// `twilio-21211`: maker and its code. Stable, for programs.
    pub code: Box<str>,
    /// For people; never a number or a text of the message.
    pub text: Box<str>,
    /// The maker asks for a pause: 429, throttled, queue full.
    pub retry_after_ms: Option<u64>,
}

/// News of a message that was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// Our reference, where the maker sends it back.
    pub reference: Option<Box<str>>,
    /// The maker's id.
    pub id: Option<Box<str>>,
    /// Segment from 0, where reports are by segment; none when they are for the whole message, as those of a single segment are.
    pub segment: Option<u8>,
    pub state: ReceiptState,
    /// When it happened (Unix ms), where told.
    pub at_ms: Option<u64>,
    /// What it cost (millionths, ISO 4217), where told.
    pub price: Option<(u64, Box<str>)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ReceiptState {
    /// Queued or on its way: nothing new to us.
    Pending,
    Delivered,
    Failed(Refusal),
    /// The maker has let it expire.
    Expired,
}

/// A message that the maker has received for us.
#[derive(Clone, PartialEq)]
pub struct Inbound {
    /// The maker's id, to drop repetitions.
    pub id: Box<str>,
    pub from: Box<str>,
    pub to: Box<str>,
    pub text: Box<str>,
    pub at_ms: Option<u64>,
}

impl std::fmt::Debug for Inbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbound").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallbackError {
    #[error("the request is not signed; if this maker cannot sign, set `unsigned_callbacks` of the account")]
    Unsigned,
    #[error("the signature is not right")]
    Signature,
    #[error("the signature's time is too far from ours")]
    Replayed,
    #[error("the request cannot be understood: {0}")]
    Malformed(&'static str),
}

/// What a callback told, and what the maker wants to hear.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallbackReply {
    pub receipts: Vec<Receipt>,
    pub inbound: Vec<Inbound>,
    /// Body of the 200 answer; its type is `text/plain` unless it begins with `{` or `<`.
    pub answer: &'static str,
}

/// An amount on the account: millionths of the currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    pub micros: i64,
    /// ISO 4217, or what the maker counts in (`credits`).
    pub currency: Box<str>,
}

/// What a test of an account found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    Works(Box<str>),
    /// The secrets or fields are refused.
    Refused(Box<str>),
    /// The maker cannot tell now.
    Unclear(Box<str>),
}

/// One maker. All functions are pure; `now_ms` is Unix milliseconds.
///
/// Makers whose requests need a token first (OAuth2) ask for it through [`Maker::token`]: the carrier makes that call, keeps
/// the token for as long as it is told, and puts it into `account.secrets["token"]` for the other calls.
pub trait Maker: Send + Sync + 'static {
    fn capabilities(&self) -> &'static Capabilities;

    /// The maker's error codes of consequence. A code that is in none goes by the HTTP status, or by the state it came with.
    fn errors(&self) -> &'static [ErrorTable];

    /// Whether the settings can work, before they are stored.
    fn check(&self, account: &Account) -> Result<(), FieldError>;

    /// One request for 1 to `batch_max` messages of the same sender.
    fn submit(&self, account: &Account, batch: &[Outgoing], now_ms: u64) -> Result<Call, FieldError>;

    /// One result for each message, in order. `batch` is what was asked for.
    fn submitted(&self, account: &Account, batch: &[Outgoing], answer: &Answer) -> Vec<Submitted>;

    /// Whether reports are of parts of a long text, each with an id of its own, and none is of the whole.
    fn reports_parts(&self) -> bool {
        false
    }

    /// The ids of the parts, in their order, of a message that was taken; where [`Maker::reports_parts`].
    fn parts(&self, _answer: &Answer) -> Vec<Box<str>> {
        Vec::new()
    }

    /// Checks the signature first, in constant time, then reads.
    fn callback(&self, account: &Account, request: &Callback, now_ms: u64) -> Result<CallbackReply, CallbackError>;

    /// Most ids in one [`Maker::poll`].
    fn poll_max(&self) -> usize {
        100
    }

    /// Asks for the state of messages by the maker's ids (1 to [`Maker::poll_max`]), where it can be asked.
    fn poll(&self, _account: &Account, _ids: &[Box<str>], _now_ms: u64) -> Option<Result<Call, FieldError>> {
        None
    }

    fn polled(&self, _account: &Account, _ids: &[Box<str>], _answer: &Answer) -> Vec<Receipt> {
        Vec::new()
    }

    fn balance(&self, _account: &Account, _now_ms: u64) -> Option<Result<Call, FieldError>> {
        None
    }

    fn balance_of(&self, _account: &Account, _answer: &Answer) -> Option<Balance> {
        None
    }

    /// A harmless request that only works with right secrets.
    fn test(&self, account: &Account, now_ms: u64) -> Result<Call, FieldError>;

    fn judge(&self, account: &Account, answer: &Answer) -> Judged;

    fn token(&self, _account: &Account, _now_ms: u64) -> Option<Result<Call, FieldError>> {
        None
    }

    /// The token, and for how long it may be used (ms).
    fn token_of(&self, _answer: &Answer) -> Option<(Box<str>, u64)> {
        None
    }
}
