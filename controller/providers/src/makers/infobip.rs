//! Infobip, SMS API v3.
//!
//! Sources: the maker's SDK `infobip/infobip-api-python-client` (models `Sms*`, `MessageGeneralStatus`, `MessageErrorGroup`,
//! `ValidityPeriod`, and `tests/test_sms_api.py`), and `infobip.com/docs/essentials/api-essentials/response-status-and-error-codes`
//! and `.../error-code-reference` for statuses and errors.
//!
//! The message id is ours: it is our reference. So an answer that is lost costs nothing but a doubt, reports find their message, and
//! a repetition is refused as `REJECTED_DUPLICATE_MESSAGE_ID`, which says that the first one was taken: it leaves a doubt, never
//! another try.
//!
//! State comes from the status group, with one exception: `DELIVERED_TO_OPERATOR` is in the group `DELIVERED` and is on its way.
//! Polling asks the logs, not the reports: reports are given out once only, to whoever asks first.
//!
//! Not confirmed: signatures of reports (none are described for an address that is given with the message).

use flotilla_protocol::wire::ErrorClass::{self, Permanent, Route, Transient};
use serde_json::{Map, Value, json};

use super::kit::{
    self, bare_sender, by_status, digits, doubt, get, judged, micros_at, post_json, refusal, rfc3339_ms, text, unclear,
    unsigned_allowed, word,
};
use crate::account::{Account, FieldError};
use crate::errors::ErrorTable;
use crate::errors::infobip::{ERROR, STATUS};
use crate::errors::meaning;
use crate::http_call::{Answer, Call, Callback};
use crate::maker::{
    Balance, CallbackError, CallbackReply, Capabilities, Inbound, Judged, Maker, Outgoing, Receipt, ReceiptState,
    Refusal, Submitted,
};

const NAME: &str = "infobip";
const BASE: &str = "https://api.infobip.com";
/// The maker sets longer ones to this.
const VALIDITY_MAX_S: u32 = 48 * 3600;
/// Of one callback or one log.
const RESULTS_MAX: usize = 10_000;

/// Status groups.
const ACCEPTED: u64 = 0;
const PENDING: u64 = 1;
const UNDELIVERABLE: u64 = 2;
const DELIVERED: u64 = 3;
const EXPIRED: u64 = 4;
const REJECTED: u64 = 5;

const DELIVERED_TO_OPERATOR: u64 = 2;
const DUPLICATE_MESSAGE_ID: u64 = 23;

static CAPABILITIES: Capabilities = Capabilities {
    name: NAME,
    title: "Infobip",
    fields: &[],
    secrets: &[("api_key", true, "the API key")],
    batch_max: 100,
    batch: "any messages in one request",
    callbacks: true,
    signature: None,
    polls: true,
    balance: true,
    inbound: true,
    echoes_reference: true,
};

pub(crate) struct Infobip;

fn signed(call: Call, account: &Account) -> Result<Call, FieldError> {
    let key = account.secret("api_key")?;
    call.authorization(&format!("App {key}"), "api_key")
}

fn message(account: &Account, message: &Outgoing) -> Value {
    let mut options = Map::new();
    if message.flash {
        options.insert("flash".into(), true.into());
    }
    let validity_s = message.validity_s.clamp(1, VALIDITY_MAX_S);
    options.insert("validityPeriod".into(), json!({"amount": validity_s, "timeUnit": "SECONDS"}));
    let mut body = json!({
        "content": {"text": &*message.text},
        "destinations": [{"messageId": &*message.reference, "to": digits(message.to)}],
        "options": options,
        "sender": bare_sender(&message.sender),
    });
    if let Some(url) = &account.callback_url {
        body["webhooks"] = json!({
            "callbackData": &*message.reference,
            "contentType": "application/json",
            "delivery": {"url": url.as_str()},
        });
    }
    body
}

fn number(value: &Value, pointer: &str) -> Option<u64> {
    value.pointer(pointer)?.as_u64()
}

/// The group by its number or, where that is missing, by its name.
fn group(value: &Value) -> Option<u64> {
    number(value, "/status/groupId").or_else(|| match value.pointer("/status/groupName")?.as_str()? {
        "ACCEPTED" => Some(ACCEPTED),
        "PENDING" => Some(PENDING),
        "UNDELIVERABLE" => Some(UNDELIVERABLE),
        "DELIVERED" => Some(DELIVERED),
        "EXPIRED" => Some(EXPIRED),
        "REJECTED" => Some(REJECTED),
        _ => None,
    })
}

fn status_refusal(entry: &Value, otherwise: ErrorClass) -> Refusal {
    let id = word(entry, "/status/id").unwrap_or_default();
    let text = meaning(STATUS, &id).unwrap_or((otherwise, "refused; the maker's status says why"));
    let name = word(entry, "/status/name").unwrap_or_else(|| id.clone());
    refusal(NAME, text.0, &name, text.1, None)
}

/// By the error where there is one, else by the status. An error that is not in the table is permanent where the maker says so and
/// it is the handset's or the user's; an operator's is the route's.
fn failure(entry: &Value) -> Refusal {
    let otherwise = if group(entry) == Some(REJECTED) { Route } else { Transient };
    match word(entry, "/error/id") {
        Some(id) if &*id != "0" => {
            let permanent = entry.pointer("/error/permanent").and_then(Value::as_bool) == Some(true);
            let class = match number(entry, "/error/groupId") {
                Some(1 | 2) if permanent => Permanent,
                Some(3) if permanent => Route,
                _ => otherwise,
            };
            let (class, text) = meaning(ERROR, &id).unwrap_or((class, "not delivered; the maker's error says why"));
            let name = word(entry, "/error/name").unwrap_or_else(|| id.clone());
            refusal(NAME, class, &name, text, None)
        }
        _ => status_refusal(entry, otherwise),
    }
}

fn submitted(entry: &Value, answer: &Answer) -> Submitted {
    let id = word(entry, "/messageId");
    match group(entry) {
        Some(ACCEPTED | PENDING | DELIVERED) => Submitted::Accepted { id, price: None },
        Some(REJECTED | UNDELIVERABLE) if number(entry, "/status/id") == Some(DUPLICATE_MESSAGE_ID) => {
            doubt(NAME, "REJECTED_DUPLICATE_MESSAGE_ID")
        }
        Some(REJECTED | UNDELIVERABLE) => Submitted::Refused(status_refusal(entry, Route)),
        _ => unclear(answer),
    }
}

fn state(entry: &Value) -> ReceiptState {
    match group(entry) {
        Some(DELIVERED) if number(entry, "/status/id") == Some(DELIVERED_TO_OPERATOR) => ReceiptState::Pending,
        Some(DELIVERED) => ReceiptState::Delivered,
        Some(EXPIRED) => ReceiptState::Expired,
        Some(UNDELIVERABLE | REJECTED) => ReceiptState::Failed(failure(entry)),
        _ => ReceiptState::Pending,
    }
}

fn price(entry: &Value) -> Option<(u64, Box<str>)> {
    let one = micros_at(entry, "/price/pricePerMessage")?.unsigned_abs();
    let currency = word(entry, "/price/currency")?;
    let count = number(entry, "/messageCount").unwrap_or(1).max(1);
    Some((one.checked_mul(count)?, currency))
}

/// `2023-08-01T16:10:00.000+0530`: the maker leaves out the colon of the offset.
fn time_ms(text: &str) -> Option<u64> {
    rfc3339_ms(text).or_else(|| {
        let at = text.len().checked_sub(2)?;
        let (head, tail) = (text.get(..at)?, text.get(at..)?);
        rfc3339_ms(&format!("{head}:{tail}"))
    })
}

fn receipt(entry: &Value) -> Option<Receipt> {
    let id = word(entry, "/messageId");
    let reference = word(entry, "/callbackData").or_else(|| id.clone()).and_then(|text| kit::reference(&text));
    if id.is_none() && reference.is_none() || entry.get("status").is_none() {
        return None;
    }
    let at_ms = text(entry, "/doneAt").and_then(|at| time_ms(&at));
    Some(Receipt { reference, id, segment: None, state: state(entry), at_ms, price: price(entry) })
}

fn inbound(entry: &Value) -> Option<Inbound> {
    Some(Inbound {
        id: word(entry, "/messageId")?,
        from: word(entry, "/from").or_else(|| word(entry, "/sender"))?,
        to: word(entry, "/to").or_else(|| word(entry, "/destination")).unwrap_or_default(),
        text: text(entry, "/text")?,
        at_ms: text(entry, "/receivedAt").and_then(|at| time_ms(&at)),
    })
}

fn results(body: &Value) -> Option<impl Iterator<Item = &Value>> {
    Some(body.get("results")?.as_array()?.iter().take(RESULTS_MAX))
}

impl Maker for Infobip {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn errors(&self) -> &'static [ErrorTable] {
        crate::errors::infobip::TABLES
    }

    fn check(&self, account: &Account) -> Result<(), FieldError> {
        self.test(account, 0).map(drop)
    }

    fn submit(&self, account: &Account, batch: &[Outgoing], _now_ms: u64) -> Result<Call, FieldError> {
        let messages: Vec<Value> = batch.iter().map(|outgoing| message(account, outgoing)).collect();
        signed(post_json(account.url(BASE, "sms/3/messages")?, &json!({"messages": messages})), account)
    }

    fn submitted(&self, _account: &Account, batch: &[Outgoing], answer: &Answer) -> Vec<Submitted> {
        let body = answer.status.is_success().then(|| kit::json(&answer.body)).flatten();
        let Some(entries) = body.as_ref().and_then(|body| body.get("messages")?.as_array()) else {
            return batch.iter().map(|_| by_status(NAME, answer)).collect();
        };
        let find =
            |reference: &str| entries.iter().find(|entry| word(entry, "/messageId").as_deref() == Some(reference));
        let result = |message: &Outgoing| find(&message.reference).map(|entry| submitted(entry, answer));
        batch.iter().map(|message| result(message).unwrap_or_else(|| unclear(answer))).collect()
    }

    fn callback(&self, account: &Account, request: &Callback, _now_ms: u64) -> Result<CallbackReply, CallbackError> {
        unsigned_allowed(account)?;
        let body = kit::json(&request.body).ok_or(CallbackError::Malformed("not JSON"))?;
        let mut reply = CallbackReply::default();
        for entry in results(&body).ok_or(CallbackError::Malformed("`results` is missing"))? {
            match receipt(entry) {
                Some(receipt) => reply.receipts.push(receipt),
                None => reply.inbound.extend(inbound(entry)),
            }
        }
        Ok(reply)
    }

    /// Ids are 36 characters at most, and the maker takes 2,048 of them.
    fn poll_max(&self) -> usize {
        50
    }

    fn poll(&self, account: &Account, ids: &[Box<str>], _now_ms: u64) -> Option<Result<Call, FieldError>> {
        let call = account.url(BASE, "sms/3/logs").and_then(|mut url| {
            url.query_pairs_mut().append_pair("messageId", &ids.join(","));
            signed(get(url), account)
        });
        Some(call)
    }

    fn polled(&self, _account: &Account, ids: &[Box<str>], answer: &Answer) -> Vec<Receipt> {
        let Some(body) = answer.status.is_success().then(|| kit::json(&answer.body)).flatten() else {
            return Vec::new();
        };
        let asked = |receipt: &Receipt| receipt.id.as_ref().is_some_and(|id| ids.contains(id));
        results(&body).map(|entries| entries.filter_map(receipt).filter(asked).collect()).unwrap_or_default()
    }

    fn balance(&self, account: &Account, now_ms: u64) -> Option<Result<Call, FieldError>> {
        Some(self.test(account, now_ms))
    }

    fn balance_of(&self, _account: &Account, answer: &Answer) -> Option<Balance> {
        let body = kit::json(&answer.body)?;
        Some(Balance { micros: micros_at(&body, "/balance")?, currency: word(&body, "/currency")? })
    }

    fn test(&self, account: &Account, _now_ms: u64) -> Result<Call, FieldError> {
        signed(get(account.url(BASE, "account/1/balance")?), account)
    }

    fn judge(&self, _account: &Account, answer: &Answer) -> Judged {
        judged(answer)
    }
}

#[cfg(test)]
mod tests;
