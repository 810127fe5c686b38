//! Bandwidth. Sources: <https://dev.bandwidth.com/apis/messaging>, <https://dev.bandwidth.com/docs/messaging/webhooks>,
//! Bandwidth/python-sdk.
//!
//! More than one recipient would make a group message, so a request carries one. Our reference is the message's `tag`. Callbacks
//! are not signed: Bandwidth answers our endpoint's HTTP Basic with what is set for the application's callback. Bandwidth
//! promises that an error status means that nothing was sent; that is believed where the error has its form, not of a proxy's
//! page. Not confirmed: whether the list of messages that tests an account asks for other parameters.

use data_encoding::BASE64;
use flotilla_protocol::wire::ErrorClass;
use jiff::Timestamp;
use serde_json::{Value, json};
use url::Url;

use super::kit;
use crate::errors::ErrorTable;
use crate::errors::bandwidth::BANDWIDTH;
use crate::maker::{
    CallbackError, CallbackReply, Capabilities, Inbound, Judged, Maker, Outgoing, Receipt, ReceiptState, Refusal,
    Submitted,
};
use crate::{Account, Answer, Call, Callback, FieldError};

const BASE: &str = "https://messaging.bandwidth.com/api/v2";
const NAME: &str = "bandwidth";
/// Most events of one callback that are read.
const EVENTS_MAX: usize = 10_000;

static CAPABILITIES: Capabilities = Capabilities {
    name: NAME,
    title: "Bandwidth",
    fields: &[
        ("account_id", true, "the account's id"),
        ("application_id", true, "the messaging application's id, which the senders are linked to"),
        ("username", true, "the API user"),
        ("callback_username", false, "the user name that the application's callbacks are set to send"),
    ],
    secrets: &[
        ("password", true, "the API user's password"),
        ("callback_password", false, "the password that the application's callbacks are set to send"),
    ],
    batch_max: 1,
    batch: "one message a request",
    callbacks: true,
    signature: Some("HTTP Basic, as set for the application's callbacks"),
    polls: false,
    balance: false,
    inbound: true,
    echoes_reference: true,
};

pub(crate) struct Bandwidth;

impl Maker for Bandwidth {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn errors(&self) -> &'static [ErrorTable] {
        crate::errors::bandwidth::TABLES
    }

    fn check(&self, account: &Account) -> Result<(), FieldError> {
        kit::required(account, &CAPABILITIES)?;
        if account.optional("callback_username").is_some() {
            account.secret("callback_password")?;
        }
        resource(account).map(|_| ())
    }

    fn submit(&self, account: &Account, batch: &[Outgoing], now_ms: u64) -> Result<Call, FieldError> {
        let [message] = batch else { return Err(kit::wrong("batch", "holds more than one message")) };
        let mut body = json!({
            "applicationId": account.field("application_id")?,
            "to": [kit::e164(message.to)],
            "from": message.sender,
            "text": message.text,
            "tag": message.reference,
        });
        if let Some(expiration) = expiration(message.validity_s, now_ms) {
            body["expiration"] = expiration.into();
        }
        authorized(account, kit::post_json(resource(account)?, &body))
    }

    fn submitted(&self, _account: &Account, batch: &[Outgoing], answer: &Answer) -> Vec<Submitted> {
        batch.iter().map(|_| outcome(answer)).collect()
    }

    fn callback(&self, account: &Account, request: &Callback, _now_ms: u64) -> Result<CallbackReply, CallbackError> {
        verify(account, request)?;
        let body = kit::json(&request.body).ok_or(CallbackError::Malformed("the body is not JSON"))?;
        let events = match &body {
            Value::Array(events) => events.as_slice(),
            Value::Object(_) => std::slice::from_ref(&body),
            _ => return Err(CallbackError::Malformed("the body is no list of events")),
        };
        let mut reply = CallbackReply::default();
        for event in events.iter().take(EVENTS_MAX) {
            read(event, &mut reply)?;
        }
        Ok(reply)
    }

    /// The newest failed message: nothing is sent, and nothing is changed.
    fn test(&self, account: &Account, _now_ms: u64) -> Result<Call, FieldError> {
        let mut url = resource(account)?;
        url.query_pairs_mut().append_pair("messageStatus", "FAILED").append_pair("limit", "1");
        authorized(account, kit::get(url))
    }

    fn judge(&self, _account: &Account, answer: &Answer) -> Judged {
        kit::judged(answer)
    }
}

fn resource(account: &Account) -> Result<Url, FieldError> {
    account.url(BASE, &format!("/users/{}/messages", kit::path_word(account, "account_id")?))
}

fn authorized(account: &Account, call: Call) -> Result<Call, FieldError> {
    call.basic(account.field("username")?, account.secret("password")?)
}

/// When it is no longer worth sending, RFC 3339, whole seconds.
fn expiration(validity_s: u32, now_ms: u64) -> Option<String> {
    let second = i64::try_from(now_ms / 1000).ok()?.checked_add(i64::from(validity_s))?;
    Timestamp::from_second(second).ok().map(|time| time.to_string())
}

fn outcome(answer: &Answer) -> Submitted {
    let body = kit::json(&answer.body);
    let word = |pointer| body.as_ref().and_then(|body| kit::word(body, pointer));
    if answer.status.is_success() {
        return match word("/id") {
            Some(id) => Submitted::Accepted { id: Some(id), price: None },
            None => kit::unclear(answer),
        };
    }
    match (answer.status.as_u16(), word("/type")) {
        (400, Some(_)) if word("/fieldErrors/0/fieldName").is_some_and(|field| field.starts_with("to")) => {
            let text = "the recipient's number is not valid";
            Submitted::Refused(kit::refusal(NAME, ErrorClass::Permanent, "invalid-to", text, Some(answer)))
        }
        (500 | 503, Some(_)) if word("/description").is_some() => {
            let text = "an internal error of the maker; nothing was sent";
            Submitted::Refused(kit::refusal(NAME, ErrorClass::Transient, "internal", text, Some(answer)))
        }
        _ => kit::by_status(NAME, answer),
    }
}

fn read(event: &Value, reply: &mut CallbackReply) -> Result<(), CallbackError> {
    let id = kit::word(event, "/message/id").ok_or(CallbackError::Malformed("`message.id` is missing"))?;
    let kind = kit::word(event, "/type").ok_or(CallbackError::Malformed("`type` is missing"))?;
    let at_ms = kit::word(event, "/time").as_deref().and_then(kit::rfc3339_ms);
    if &*kind == "message-received" {
        let (from, to) = (kit::word(event, "/message/from"), kit::word(event, "/to"));
        let (Some(from), Some(to)) = (from, to) else {
            return Err(CallbackError::Malformed("`from` or `to` is missing"));
        };
        let text = kit::text(event, "/message/text").unwrap_or_default();
        reply.inbound.push(Inbound { id, from, to, text, at_ms });
        return Ok(());
    }
    let code = kit::word(event, "/errorCode");
    let state = state(&kind, code.as_deref()).ok_or(CallbackError::Malformed("`type` is not known"))?;
    let reference = kit::word(event, "/message/tag").as_deref().and_then(kit::reference);
    reply.receipts.push(Receipt { reference, id: Some(id), segment: None, state, at_ms, price: None });
    Ok(())
}

fn state(kind: &str, code: Option<&str>) -> Option<ReceiptState> {
    Some(match kind {
        "message-sending" | "message-sent" => ReceiptState::Pending,
        "message-delivered" | "message-read" => ReceiptState::Delivered,
        "message-failed" => match code {
            Some("4360") => ReceiptState::Expired,
            // Nobody has reported: it may well have arrived.
            Some("9902") => ReceiptState::Pending,
            code => ReceiptState::Failed(failure(code)),
        },
        _ => return None,
    })
}

fn failure(code: Option<&str>) -> Refusal {
    match code {
        // 4xxx is the request's fault, everything else a fault of Bandwidth or the carrier.
        Some(code) => {
            let otherwise = if code.starts_with('4') { ErrorClass::Route } else { ErrorClass::Transient };
            kit::refusal_of(NAME, BANDWIDTH, code, otherwise)
        }
        None => kit::refusal(NAME, ErrorClass::Transient, "failed", "the maker gives no reason", None),
    }
}

fn verify(account: &Account, request: &Callback) -> Result<(), CallbackError> {
    let given = kit::header(&request.headers, "authorization").and_then(|value| value.strip_prefix("Basic "));
    let Some(given) = given else { return kit::unsigned_allowed(account) };
    let (user, password) = (account.optional("callback_username"), account.optional_secret("callback_password"));
    let (Some(user), Some(password)) = (user, password) else { return Err(CallbackError::Signature) };
    let given = BASE64.decode(given.trim().as_bytes()).map_err(|_| CallbackError::Signature)?;
    if kit::same(&given, format!("{user}:{password}").as_bytes()) { Ok(()) } else { Err(CallbackError::Signature) }
}

#[cfg(test)]
mod tests;
