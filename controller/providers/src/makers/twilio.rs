//! Twilio Programmable Messaging. Sources: <https://www.twilio.com/docs/messaging/api/message-resource>,
//! <https://www.twilio.com/docs/usage/webhooks/webhooks-security>, twilio/twilio-python.
//!
//! One message a request: the API has no batch. Our reference is in the query of `StatusCallback`, which the signature covers.
//! Test credentials and their magic numbers need nothing here: they answer with the codes of the table. The signature has no
//! time, so a repeated report can not be told from a replay; reports are harmless when repeated.

use data_encoding::BASE64;
use flotilla_protocol::wire::ErrorClass;
use http::Method;
use ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY;
use url::{Position, Url};

use super::kit;
use crate::errors::ErrorTable;
use crate::errors::{meaning, twilio::TWILIO};
use crate::maker::{
    Balance, CallbackError, CallbackReply, Capabilities, Inbound, Judged, Maker, Outgoing, Receipt, ReceiptState,
    Refusal, Submitted,
};
use crate::{Account, Answer, Call, Callback, FieldError};

const BASE: &str = "https://api.twilio.com";
const NAME: &str = "twilio";
/// The longest that Twilio keeps a message in its queue, in seconds.
const VALIDITY_MAX_S: u32 = 36_000;

static CAPABILITIES: Capabilities = Capabilities {
    name: NAME,
    title: "Twilio",
    fields: &[
        ("account_sid", true, "the account's SID, `AC...`; a sender may be a number, a name or a service `MG...`"),
        ("api_key_sid", false, "an API key's SID, `SK...`, to send with in place of the auth token"),
    ],
    secrets: &[
        ("auth_token", true, "the account's auth token; callbacks are signed with it"),
        ("api_key_secret", false, "the API key's secret"),
    ],
    batch_max: 1,
    batch: "one message a request",
    callbacks: true,
    signature: Some("HMAC-SHA1 of the address and the form, `X-Twilio-Signature`"),
    polls: true,
    balance: true,
    inbound: true,
    echoes_reference: true,
};

pub(crate) struct Twilio;

impl Maker for Twilio {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn errors(&self) -> &'static [ErrorTable] {
        crate::errors::twilio::TABLES
    }

    fn check(&self, account: &Account) -> Result<(), FieldError> {
        kit::required(account, &CAPABILITIES)?;
        if !kit::path_word(account, "account_sid")?.starts_with("AC") {
            return Err(kit::wrong("account_sid", "does not begin with `AC`; take the account's SID from the console"));
        }
        if account.optional("api_key_sid").is_some() {
            account.secret("api_key_secret")?;
        }
        account.url(BASE, "/").map(|_| ())
    }

    fn submit(&self, account: &Account, batch: &[Outgoing], _now_ms: u64) -> Result<Call, FieldError> {
        let [message] = batch else { return Err(kit::wrong("batch", "holds more than one message")) };
        let from =
            if message.sender.starts_with("MG") && message.sender.len() == 34 { "MessagingServiceSid" } else { "From" };
        let to = kit::e164(message.to);
        let callback = kit::callback_with(account, &message.reference);
        let validity = message.validity_s.clamp(1, VALIDITY_MAX_S).to_string();
        let mut pairs = vec![("To", to.as_str()), (from, &message.sender), ("Body", &message.text)];
        pairs.push(("ValidityPeriod", &validity));
        if let Some(url) = &callback {
            pairs.push(("StatusCallback", url.as_str()));
        }
        authorized(account, kit::post_form(resource(account, "/Messages.json")?, pairs))
    }

    fn submitted(&self, _account: &Account, batch: &[Outgoing], answer: &Answer) -> Vec<Submitted> {
        batch.iter().map(|_| outcome(answer)).collect()
    }

    fn callback(&self, account: &Account, request: &Callback, _now_ms: u64) -> Result<CallbackReply, CallbackError> {
        let params = params(request);
        verify(account, request, &params)?;
        let id = kit::value_of(&params, "MessageSid").or_else(|| kit::value_of(&params, "SmsSid"));
        let id = id.and_then(kit::bounded).ok_or(CallbackError::Malformed("`MessageSid` is missing"))?;
        let status = kit::value_of(&params, "MessageStatus").or_else(|| kit::value_of(&params, "SmsStatus"));
        match status {
            None | Some("received" | "receiving") => inbound(&params, id),
            Some(status) => {
                let code = kit::value_of(&params, "ErrorCode").filter(|code| *code != "0");
                let state = state(status, code).ok_or(CallbackError::Malformed("`MessageStatus` is not known"))?;
                let reference = kit::reference_in(&request.url);
                let receipt = Receipt { reference, id: Some(id), segment: None, state, at_ms: None, price: None };
                Ok(CallbackReply { receipts: vec![receipt], ..CallbackReply::default() })
            }
        }
    }

    fn poll_max(&self) -> usize {
        1
    }

    fn poll(&self, account: &Account, ids: &[Box<str>], _now_ms: u64) -> Option<Result<Call, FieldError>> {
        let id = ids.first().filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric()))?;
        let call =
            resource(account, &format!("/Messages/{id}.json")).and_then(|url| authorized(account, kit::get(url)));
        Some(call)
    }

    fn polled(&self, _account: &Account, _ids: &[Box<str>], answer: &Answer) -> Vec<Receipt> {
        let Some(body) = kit::json(&answer.body).filter(|_| answer.status.is_success()) else { return Vec::new() };
        let (Some(id), Some(status)) = (kit::word(&body, "/sid"), kit::word(&body, "/status")) else {
            return Vec::new();
        };
        let Some(state) = state(&status, kit::word(&body, "/error_code").as_deref()) else { return Vec::new() };
        vec![Receipt { reference: None, id: Some(id), segment: None, state, at_ms: None, price: price(&body) }]
    }

    fn balance(&self, account: &Account, _now_ms: u64) -> Option<Result<Call, FieldError>> {
        Some(resource(account, "/Balance.json").and_then(|url| authorized(account, kit::get(url))))
    }

    fn balance_of(&self, _account: &Account, answer: &Answer) -> Option<Balance> {
        let body = kit::json(&answer.body).filter(|_| answer.status.is_success())?;
        Some(Balance {
            micros: kit::micros_at(&body, "/balance")?,
            currency: kit::currency(&kit::word(&body, "/currency")?),
        })
    }

    fn test(&self, account: &Account, _now_ms: u64) -> Result<Call, FieldError> {
        authorized(account, kit::get(resource(account, ".json")?))
    }

    fn judge(&self, _account: &Account, answer: &Answer) -> Judged {
        let body = kit::json(&answer.body).filter(|_| answer.status.is_success());
        match body.as_ref().and_then(|body| kit::word(body, "/status")).as_deref() {
            Some("active") => Judged::Works("the account is active".into()),
            Some("suspended" | "closed") => Judged::Refused("the account is suspended or closed".into()),
            _ => kit::judged(answer),
        }
    }
}

fn resource(account: &Account, rest: &str) -> Result<Url, FieldError> {
    account.url(BASE, &format!("/2010-04-01/Accounts/{}{rest}", kit::path_word(account, "account_sid")?))
}

fn authorized(account: &Account, call: Call) -> Result<Call, FieldError> {
    match account.optional("api_key_sid") {
        Some(key) => call.basic(key, account.secret("api_key_secret")?),
        None => call.basic(account.field("account_sid")?, account.secret("auth_token")?),
    }
}

fn outcome(answer: &Answer) -> Submitted {
    let body = kit::json(&answer.body);
    let word = |pointer| body.as_ref().and_then(|body| kit::word(body, pointer));
    if answer.status.is_success() {
        let Some(id) = word("/sid") else { return kit::unclear(answer) };
        return match word("/status").and_then(|status| state(&status, word("/error_code").as_deref())) {
            Some(ReceiptState::Failed(refusal)) => Submitted::Refused(refusal),
            _ => Submitted::Accepted { id: Some(id), price: body.as_ref().and_then(price) },
        };
    }
    let known = word("/code").and_then(|code| meaning(TWILIO, &code).map(|(class, text)| (code, class, text)));
    match known {
        Some((code, class, text)) if answer.status.is_client_error() => {
            Submitted::Refused(kit::refusal(NAME, class, &code, text, Some(answer)))
        }
        _ => kit::by_status(NAME, answer),
    }
}

/// Prices come as what is taken (`-0.00750`), in lower or upper case currencies.
fn price(body: &serde_json::Value) -> Option<(u64, Box<str>)> {
    Some((kit::price(&kit::word(body, "/price")?)?, kit::currency(&kit::word(body, "/price_unit")?)))
}

fn state(status: &str, code: Option<&str>) -> Option<ReceiptState> {
    Some(match status {
        "accepted" | "scheduled" | "queued" | "sending" | "sent" | "partially_delivered" => ReceiptState::Pending,
        "delivered" | "read" => ReceiptState::Delivered,
        "failed" | "undelivered" if code == Some("30036") => ReceiptState::Expired,
        "failed" | "undelivered" => ReceiptState::Failed(failure(status, code)),
        "canceled" => ReceiptState::Failed(failure(status, None)),
        _ => return None,
    })
}

fn failure(status: &str, code: Option<&str>) -> Refusal {
    match code {
        Some(code) => kit::refusal_of(NAME, TWILIO, code, ErrorClass::Transient),
        None if status == "canceled" => {
            kit::refusal(NAME, ErrorClass::Route, status, "it was cancelled at the maker", None)
        }
        None => kit::refusal(NAME, ErrorClass::Transient, status, "the maker gives no reason", None),
    }
}

fn inbound(params: &[(String, String)], id: Box<str>) -> Result<CallbackReply, CallbackError> {
    let word = |name| kit::value_of(params, name).and_then(kit::bounded);
    let (Some(from), Some(to)) = (word("From"), word("To")) else {
        return Err(CallbackError::Malformed("`From` or `To` is missing"));
    };
    let text = kit::value_of(params, "Body").unwrap_or_default().into();
    let inbound = vec![Inbound { id, from, to, text, at_ms: None }];
    Ok(CallbackReply { inbound, answer: "<Response></Response>", ..CallbackReply::default() })
}

fn params(request: &Callback) -> Vec<(String, String)> {
    if request.method == Method::GET {
        kit::pairs(request.url.query().unwrap_or_default().as_bytes())
    } else {
        kit::pairs(&request.body)
    }
}

/// The signature is over the address with or without its port, whichever Twilio had at hand, and over the sorted form. A body
/// that is no form has its hash in the address instead.
fn verify(account: &Account, request: &Callback, params: &[(String, String)]) -> Result<(), CallbackError> {
    let Some(signature) = kit::header(&request.headers, "x-twilio-signature") else {
        return kit::unsigned_allowed(account);
    };
    let tag = BASE64.decode(signature.trim().as_bytes()).map_err(|_| CallbackError::Signature)?;
    let token = account.secret("auth_token").map_err(|_| CallbackError::Signature)?;
    let hash = request.url.query_pairs().find(|(name, _)| name == "bodySHA256").map(|(_, value)| value.into_owned());
    let mut sorted = String::new();
    match hash {
        Some(hash) if !kit::same(hash.as_bytes(), kit::sha256_hex(&request.body).as_bytes()) => {
            return Err(CallbackError::Signature);
        }
        Some(_) => {}
        None if request.method == Method::GET => {}
        None => sorted = sorted_form(params),
    }
    let signed =
        |url: String| kit::signed_by(HMAC_SHA1_FOR_LEGACY_USE_ONLY, token.as_bytes(), (url + &sorted).as_bytes(), &tag);
    let [without, with] = addresses(&request.url);
    if signed(without) | signed(with) { Ok(()) } else { Err(CallbackError::Signature) }
}

/// Names and values of the form, sorted, each pair once.
fn sorted_form(params: &[(String, String)]) -> String {
    let mut pairs: Vec<_> = params.iter().collect();
    pairs.sort();
    pairs.dedup();
    pairs.iter().fold(String::new(), |text, (name, value)| text + name + value)
}

/// The address without a port, and with one.
fn addresses(url: &Url) -> [String; 2] {
    let host = &url[Position::BeforeUsername..Position::AfterHost];
    let rest = &url[Position::BeforePath..];
    let port = url.port_or_known_default().unwrap_or(443);
    [format!("{}://{host}{rest}", url.scheme()), format!("{}://{host}:{port}{rest}", url.scheme())]
}

#[cfg(test)]
mod tests;
