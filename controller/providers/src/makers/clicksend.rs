//! ClickSend, REST v3.
//!
//! Sources: the maker's SDK `ClickSend/clicksend-php` (`SmsMessage`: `custom_string` comes back with all reports; `/sms/send`,
//! `/sms/receipts/{message_id}`, `/account`), `developers.clicksend.com/docs` (response codes) and
//! `help.clicksend.com/article/8cc479qlbb-list-of-sms-gateway-error-codes` (error codes 1 to 20 of reports, complete).
//!
//! Our reference is `custom_string`. A refused message may come back without it; then its number decides, where only one of the
//! batch has it.
//!
//! Not confirmed: whether a message with the status `INTERNAL_ERROR`, `SOMETHING_IS_WRONG` or `ALREADY_EXISTS` was queued, so these
//! leave a doubt; the names of a report's fields when it is sent as a form (`message_id` and the older `messageid` are both read);
//! signatures (none are described).

use flotilla_protocol::wire::ErrorClass::{Route, Transient};
use serde_json::{Value, json};

use super::kit::{
    self, by_status, doubt, e164, get, judged, micros_at, pairs, post_json, refusal, refusal_of, seconds_at, text,
    unclear, unsigned_allowed, word,
};
use crate::account::{Account, FieldError};
use crate::errors::ErrorTable;
use crate::errors::clicksend::{ANSWER, REPORT};
use crate::errors::meaning;
use crate::http_call::{Answer, Call, Callback};
use crate::maker::{
    Balance, CallbackError, CallbackReply, Capabilities, Inbound, Judged, Maker, Outgoing, Receipt, ReceiptState,
    Submitted,
};

const NAME: &str = "clicksend";
const BASE: &str = "https://rest.clicksend.com";

/// `error_code` of a report that will never come.
const RECEIPT_EXPIRED: &str = "20";

static CAPABILITIES: Capabilities = Capabilities {
    name: NAME,
    title: "ClickSend",
    fields: &[("username", true, "the account's user name")],
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

pub(crate) struct ClickSend;

fn signed(call: Call, account: &Account) -> Result<Call, FieldError> {
    call.basic(account.field("username")?, account.secret("api_key")?)
}

fn message(message: &Outgoing) -> Value {
    let mut body = json!({
        "body": &*message.text,
        "custom_string": &*message.reference,
        "from": &*message.sender,
        "source": "flotilla",
        "to": e164(message.to),
    });
    if let Some(fields) = body.as_object_mut().filter(|_| message.sender.is_empty()) {
        fields.remove("from");
    }
    body
}

/// The entry with our reference; else the only one without any that has the number, where no other of the batch has it.
fn entry_of<'a>(entries: &'a [Value], batch: &[Outgoing], message: &Outgoing) -> Option<&'a Value> {
    let custom = |entry: &Value| word(entry, "/custom_string");
    if let Some(entry) = entries.iter().find(|entry| custom(entry).as_deref() == Some(&message.reference)) {
        return Some(entry);
    }
    // One answer to one message is about it, however the maker writes its number.
    if let ([entry], [_]) = (entries, batch) {
        return custom(entry).is_none().then_some(entry);
    }
    let number = e164(message.to);
    let mut same =
        entries.iter().filter(|entry| custom(entry).is_none() && word(entry, "/to").is_some_and(|to| *to == *number));
    let alone = batch.iter().filter(|other| other.to == message.to).count() == 1;
    match (same.next(), same.next()) {
        (Some(entry), None) if alone => Some(entry),
        _ => None,
    }
}

fn result(entry: &Value, currency: Option<&str>, answer: &Answer) -> Submitted {
    match word(entry, "/status").as_deref() {
        Some("SUCCESS") => {
            let price = micros_at(entry, "/message_price").map(i64::unsigned_abs);
            Submitted::Accepted { id: word(entry, "/message_id"), price: price.zip(currency.map(Into::into)) }
        }
        Some(code) if meaning(ANSWER, code).is_some() => Submitted::Refused(refusal_of(NAME, ANSWER, code, Route)),
        Some(code) => doubt(NAME, code),
        None => unclear(answer),
    }
}

/// The whole request was refused, if the maker says with what code; else by its HTTP status.
fn whole(body: Option<&Value>, answer: &Answer) -> Submitted {
    match body.and_then(|body| word(body, "/response_code")) {
        Some(code) if !answer.status.is_server_error() && meaning(ANSWER, &code).is_some() => {
            let mut refusal = refusal_of(NAME, ANSWER, &code, Route);
            refusal.retry_after_ms = kit::retry_after_ms(&answer.headers);
            Submitted::Refused(refusal)
        }
        _ => by_status(NAME, answer),
    }
}

fn state(entry: &Value) -> ReceiptState {
    let error = word(entry, "/error_code").unwrap_or_default();
    match (word(entry, "/status_code").as_deref(), &*error) {
        (Some("201"), _) => ReceiptState::Delivered,
        (Some("301" | "302"), RECEIPT_EXPIRED) => ReceiptState::Expired,
        (Some("301" | "302"), "") => {
            ReceiptState::Failed(refusal(NAME, Transient, "301", "not delivered; the maker gives no reason", None))
        }
        (Some("301" | "302"), error) => ReceiptState::Failed(refusal_of(NAME, REPORT, error, Transient)),
        _ => ReceiptState::Pending,
    }
}

fn receipt(entry: &Value) -> Option<Receipt> {
    entry.get("status_code")?;
    let any = |names: [&str; 2]| names.into_iter().find_map(|name| word(entry, name));
    let id = any(["/message_id", "/messageid"]);
    let reference = any(["/custom_string", "/customstring"]).and_then(|text| kit::reference(&text));
    if id.is_none() && reference.is_none() {
        return None;
    }
    let at_ms = seconds(entry, "/timestamp");
    Some(Receipt { reference, id, segment: None, state: state(entry), at_ms, price: None })
}

/// A number, or digits in a string as a form has them.
fn seconds(entry: &Value, pointer: &str) -> Option<u64> {
    seconds_at(entry, pointer).or_else(|| word(entry, pointer)?.parse::<u64>().ok()?.checked_mul(1000))
}

fn inbound(entry: &Value) -> Option<Inbound> {
    Some(Inbound {
        id: word(entry, "/message_id").or_else(|| word(entry, "/messageid"))?,
        from: word(entry, "/from")?,
        to: word(entry, "/to").unwrap_or_default(),
        text: text(entry, "/body").or_else(|| text(entry, "/message"))?,
        at_ms: seconds(entry, "/timestamp"),
    })
}

/// Reports and messages come as JSON, as a form or as a query.
fn fields(request: &Callback) -> Value {
    if let Some(body @ Value::Object(_)) = kit::json(&request.body) {
        return body;
    }
    let mut found = pairs(request.url.query().unwrap_or_default().as_bytes());
    found.extend(pairs(&request.body));
    Value::Object(found.into_iter().map(|(name, value)| (name, value.into())).collect())
}

impl Maker for ClickSend {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn errors(&self) -> &'static [ErrorTable] {
        crate::errors::clicksend::TABLES
    }

    fn check(&self, account: &Account) -> Result<(), FieldError> {
        self.test(account, 0).map(drop)
    }

    fn submit(&self, account: &Account, batch: &[Outgoing], _now_ms: u64) -> Result<Call, FieldError> {
        let messages: Vec<Value> = batch.iter().map(message).collect();
        signed(post_json(account.url(BASE, "v3/sms/send")?, &json!({"messages": messages})), account)
    }

    fn submitted(&self, _account: &Account, batch: &[Outgoing], answer: &Answer) -> Vec<Submitted> {
        let body = kit::json(&answer.body);
        let entries = body.as_ref().and_then(|body| body.pointer("/data/messages")?.as_array());
        let Some(entries) = entries.filter(|_| answer.status.is_success()) else {
            return batch.iter().map(|_| whole(body.as_ref(), answer)).collect();
        };
        let currency = body.as_ref().and_then(|body| word(body, "/data/_currency/currency_name_short"));
        let result = |message| match entry_of(entries, batch, message) {
            Some(entry) => result(entry, currency.as_deref(), answer),
            None => unclear(answer),
        };
        batch.iter().map(result).collect()
    }

    fn callback(&self, account: &Account, request: &Callback, _now_ms: u64) -> Result<CallbackReply, CallbackError> {
        unsigned_allowed(account)?;
        let fields = fields(request);
        let mut reply = CallbackReply::default();
        match (receipt(&fields), inbound(&fields)) {
            (Some(receipt), _) => reply.receipts.push(receipt),
            (None, Some(message)) => reply.inbound.push(message),
            (None, None) => return Err(CallbackError::Malformed("neither a report nor a message")),
        }
        Ok(reply)
    }

    fn poll_max(&self) -> usize {
        1
    }

    fn poll(&self, account: &Account, ids: &[Box<str>], _now_ms: u64) -> Option<Result<Call, FieldError>> {
        let call = account.url(BASE, "v3/sms/receipts").and_then(|mut url| {
            if let Ok(mut path) = url.path_segments_mut() {
                path.extend(ids.first().map(|id| &**id));
            }
            signed(get(url), account)
        });
        Some(call)
    }

    fn polled(&self, _account: &Account, ids: &[Box<str>], answer: &Answer) -> Vec<Receipt> {
        let body = answer.status.is_success().then(|| kit::json(&answer.body)).flatten();
        let found = body.as_ref().and_then(|body| receipt(body.get("data")?));
        found.into_iter().filter(|receipt| receipt.id.as_ref().is_some_and(|id| ids.contains(id))).collect()
    }

    fn balance(&self, account: &Account, now_ms: u64) -> Option<Result<Call, FieldError>> {
        Some(self.test(account, now_ms))
    }

    fn balance_of(&self, _account: &Account, answer: &Answer) -> Option<Balance> {
        let body = kit::json(&answer.body)?;
        let currency = word(&body, "/data/_currency/currency_name_short")?;
        Some(Balance { micros: micros_at(&body, "/data/balance")?, currency })
    }

    fn test(&self, account: &Account, _now_ms: u64) -> Result<Call, FieldError> {
        signed(get(account.url(BASE, "v3/account")?), account)
    }

    fn judge(&self, _account: &Account, answer: &Answer) -> Judged {
        judged(answer)
    }
}

#[cfg(test)]
mod tests;
