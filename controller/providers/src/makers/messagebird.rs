//! MessageBird's REST API for SMS (now Bird). Sources: <https://developers.messagebird.com/api/sms-messaging/>,
//! <https://developers.messagebird.com/api/#verifying-http-requests>, messagebird/php-rest-api (requests, signatures and their
//! vectors).
//!
//! MessageBird takes one text for up to 50 recipients under one id; our messages have a text and a reference each, so a
//! request carries one. Not confirmed: the full list of reasons in reports, the names of the price parameters, and the
//! parameters of received messages (`originator`, `recipient`, `body`); reasons that are not known count as passing.

use flotilla_protocol::wire::ErrorClass;
use http::Method;
use serde_json::{Value, json};

use super::kit;
use crate::errors::ErrorTable;
use crate::errors::meaning;
use crate::errors::messagebird::{ANSWER, NETWORK, REASON};
use crate::maker::{
    Balance, CallbackError, CallbackReply, Capabilities, Inbound, Judged, Maker, Outgoing, Receipt, ReceiptState,
    Refusal, Submitted,
};
use crate::{Account, Answer, Call, Callback, FieldError};

const BASE: &str = "https://rest.messagebird.com";
const NAME: &str = "messagebird";
/// Tokens live for a minute; our clock may be off by as much.
const LEEWAY_MS: u64 = 60_000;

static CAPABILITIES: Capabilities = Capabilities {
    name: NAME,
    title: "MessageBird",
    fields: &[],
    secrets: &[
        ("access_key", true, "a live access key of the account"),
        ("signing_key", false, "the account's signing key; checks the callbacks"),
    ],
    batch_max: 1,
    batch: "one message a request",
    callbacks: true,
    signature: Some("JWT with the hashes of address and body, `MessageBird-Signature-JWT`"),
    polls: true,
    balance: true,
    inbound: true,
    echoes_reference: true,
};

pub(crate) struct MessageBird;

impl Maker for MessageBird {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn errors(&self) -> &'static [ErrorTable] {
        crate::errors::messagebird::TABLES
    }

    fn check(&self, account: &Account) -> Result<(), FieldError> {
        kit::required(account, &CAPABILITIES)?;
        account.url(BASE, "/").map(|_| ())
    }

    fn submit(&self, account: &Account, batch: &[Outgoing], _now_ms: u64) -> Result<Call, FieldError> {
        let [message] = batch else { return Err(kit::wrong("batch", "holds more than one message")) };
        let mut body = json!({
            "originator": kit::bare_sender(&message.sender),
            "recipients": [message.to.as_u64()],
            "body": message.text,
            "reference": message.reference,
            "validity": message.validity_s.max(1),
            "datacoding": if message.unicode { "unicode" } else { "plain" },
            "mclass": u8::from(!message.flash),
        });
        if let Some(url) = &account.callback_url {
            body["reportUrl"] = url.as_str().into();
        }
        authorized(account, kit::post_json(account.url(BASE, "/messages")?, &body))
    }

    fn submitted(&self, _account: &Account, batch: &[Outgoing], answer: &Answer) -> Vec<Submitted> {
        batch.iter().map(|_| outcome(answer)).collect()
    }

    fn callback(&self, account: &Account, request: &Callback, now_ms: u64) -> Result<CallbackReply, CallbackError> {
        verify(account, request, now_ms)?;
        let params = params(request);
        let id = kit::value_of(&params, "id").and_then(kit::bounded);
        let id = id.ok_or(CallbackError::Malformed("`id` is missing"))?;
        match kit::value_of(&params, "status") {
            Some(status) => receipt(&params, id, status),
            None => inbound(&params, id),
        }
    }

    fn poll_max(&self) -> usize {
        1
    }

    fn poll(&self, account: &Account, ids: &[Box<str>], _now_ms: u64) -> Option<Result<Call, FieldError>> {
        let id = ids.first().filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric()))?;
        Some(account.url(BASE, &format!("/messages/{id}")).and_then(|url| authorized(account, kit::get(url))))
    }

    fn polled(&self, _account: &Account, _ids: &[Box<str>], answer: &Answer) -> Vec<Receipt> {
        let Some(body) = kit::json(&answer.body).filter(|_| answer.status.is_success()) else { return Vec::new() };
        let word = |pointer| kit::word(&body, pointer);
        let (Some(id), Some(status)) = (word("/id"), word("/recipients/items/0/status")) else { return Vec::new() };
        let reason = word("/recipients/items/0/statusReason");
        let code = word("/recipients/items/0/statusErrorCode");
        let Some(state) = state(&status, reason.as_deref(), code.as_deref()) else { return Vec::new() };
        let at_ms = word("/recipients/items/0/statusDatetime").as_deref().and_then(kit::rfc3339_ms);
        let reference = word("/reference").as_deref().and_then(kit::reference);
        vec![Receipt { reference, id: Some(id), segment: None, state, at_ms, price: None }]
    }

    fn balance(&self, account: &Account, _now_ms: u64) -> Option<Result<Call, FieldError>> {
        Some(self.test(account, 0))
    }

    /// An account counts in credits or in a currency, which it names in words.
    fn balance_of(&self, _account: &Account, answer: &Answer) -> Option<Balance> {
        let body = kit::json(&answer.body).filter(|_| answer.status.is_success())?;
        let kind = kit::word(&body, "/type")?;
        let currency = match &*kind {
            "euros" => "EUR",
            "dollars" => "USD",
            "pounds" => "GBP",
            other => other,
        };
        Some(Balance { micros: kit::micros_at(&body, "/amount")?, currency: currency.into() })
    }

    fn test(&self, account: &Account, _now_ms: u64) -> Result<Call, FieldError> {
        authorized(account, kit::get(account.url(BASE, "/balance")?))
    }

    fn judge(&self, _account: &Account, answer: &Answer) -> Judged {
        kit::judged(answer)
    }
}

fn authorized(account: &Account, call: Call) -> Result<Call, FieldError> {
    call.authorization(&format!("AccessKey {}", account.secret("access_key")?), "access_key")
}

fn outcome(answer: &Answer) -> Submitted {
    let body = kit::json(&answer.body).unwrap_or(Value::Null);
    if answer.status.is_success() {
        let Some(id) = kit::word(&body, "/id") else { return kit::unclear(answer) };
        let status = kit::word(&body, "/recipients/items/0/status").unwrap_or_default();
        return match state(&status, kit::word(&body, "/recipients/items/0/statusReason").as_deref(), None) {
            Some(ReceiptState::Failed(refusal)) => Submitted::Refused(refusal),
            _ => Submitted::Accepted { id: Some(id), price: None },
        };
    }
    let code = kit::word(&body, "/errors/0/code").filter(|_| answer.status.is_client_error());
    let parameter = kit::word(&body, "/errors/0/parameter").unwrap_or_default();
    match code.as_deref() {
        Some("9" | "10") if parameter.starts_with("recipient") => {
            let text = "the recipient's number is not valid";
            Submitted::Refused(kit::refusal(NAME, ErrorClass::Permanent, "invalid-recipient", text, Some(answer)))
        }
        Some(code) => match meaning(ANSWER, code) {
            Some((class, text)) => Submitted::Refused(kit::refusal(NAME, class, code, text, Some(answer))),
            None => kit::by_status(NAME, answer),
        },
        None => kit::by_status(NAME, answer),
    }
}

fn state(status: &str, reason: Option<&str>, code: Option<&str>) -> Option<ReceiptState> {
    Some(match status {
        "scheduled" | "buffered" | "sent" => ReceiptState::Pending,
        "delivered" => ReceiptState::Delivered,
        "expired" => ReceiptState::Expired,
        "delivery_failed" => ReceiptState::Failed(failure(reason, code)),
        _ => return None,
    })
}

/// The network's code says more than the reason, where we know it.
fn failure(reason: Option<&str>, code: Option<&str>) -> Refusal {
    if let Some((code, (class, text))) = code.and_then(|code| Some((code, meaning(NETWORK, code)?))) {
        return kit::refusal(NAME, class, &format!("network-{code}"), text, None);
    }
    let reason = reason.unwrap_or_default().replace(['_', '+'], " ").to_ascii_lowercase();
    let reason = if reason.is_empty() { "generic delivery failure" } else { &reason };
    let (class, text) =
        meaning(REASON, reason).unwrap_or((ErrorClass::Transient, "the maker gives a reason that we do not know"));
    kit::refusal(NAME, class, &reason.replace(' ', "-"), text, None)
}

fn receipt(params: &[(String, String)], id: Box<str>, status: &str) -> Result<CallbackReply, CallbackError> {
    let value = |name| kit::value_of(params, name);
    let state = state(status, value("statusReason"), value("statusErrorCode"));
    let state = state.ok_or(CallbackError::Malformed("`status` is not known"))?;
    let price =
        || Some((kit::price(value("price[amount]")?)?, kit::currency(&kit::bounded(value("price[currency]")?)?)));
    let at_ms = value("statusDatetime").and_then(kit::rfc3339_ms);
    let reference = value("reference").and_then(kit::reference);
    let receipts = vec![Receipt { reference, id: Some(id), segment: None, state, at_ms, price: price() }];
    Ok(CallbackReply { receipts, answer: "OK", ..CallbackReply::default() })
}

fn inbound(params: &[(String, String)], id: Box<str>) -> Result<CallbackReply, CallbackError> {
    let word = |name| kit::value_of(params, name).and_then(kit::bounded);
    let (Some(from), Some(to)) = (word("originator"), word("recipient")) else {
        return Err(CallbackError::Malformed("`originator` or `recipient` is missing"));
    };
    let text = kit::value_of(params, "body").unwrap_or_default().into();
    let at_ms = kit::value_of(params, "createdDatetime").and_then(kit::rfc3339_ms);
    let inbound = vec![Inbound { id, from, to, text, at_ms }];
    Ok(CallbackReply { inbound, answer: "OK", ..CallbackReply::default() })
}

/// Reports come as a query, received messages as a query, a form or a JSON object.
fn params(request: &Callback) -> Vec<(String, String)> {
    if request.method == Method::GET || request.body.is_empty() {
        return kit::pairs(request.url.query().unwrap_or_default().as_bytes());
    }
    match kit::json(&request.body) {
        Some(Value::Object(object)) => object
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
            .collect(),
        _ => kit::pairs(&request.body),
    }
}

fn verify(account: &Account, request: &Callback, now_ms: u64) -> Result<(), CallbackError> {
    let Some(token) = kit::header(&request.headers, "messagebird-signature-jwt") else {
        return kit::unsigned_allowed(account);
    };
    let key = account.optional_secret("signing_key").ok_or(CallbackError::Signature)?;
    let claims = kit::jwt_claims(token.trim(), key.as_bytes()).ok_or(CallbackError::Signature)?;
    let hash = |pointer, data: &[u8]| {
        let claimed = kit::word(&claims, pointer).unwrap_or_default();
        kit::same(claimed.as_bytes(), kit::sha256_hex(data).as_bytes())
    };
    let body = match request.body.is_empty() {
        true => claims.get("payload_hash").is_none(),
        false => hash("/payload_hash", &request.body),
    };
    if kit::word(&claims, "/iss").as_deref() != Some("MessageBird")
        || !body
        || !hash("/url_hash", request.url.as_str().as_bytes())
    {
        return Err(CallbackError::Signature);
    }
    let time = |pointer| kit::seconds_at(&claims, pointer).ok_or(CallbackError::Malformed("the token has no time"));
    let (from_ms, to_ms) = (time("/nbf")?, time("/exp")?);
    let open = from_ms <= now_ms.saturating_add(LEEWAY_MS) && now_ms <= to_ms.saturating_add(LEEWAY_MS);
    if open && kit::fresh(from_ms, now_ms) { Ok(()) } else { Err(CallbackError::Replayed) }
}

#[cfg(test)]
mod tests;
