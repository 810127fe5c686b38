//! Africa's Talking, bulk SMS.
//!
//! Sources: `developers.africastalking.com/docs/sms/sending/bulk` and `.../sms/notifications` (also at
//! `docs.africastalking.com/sms/deliveryreports`), and the maker's SDK `AfricasTalkingLtd/africastalking-node.js`
//! (`lib/sms.js`, `lib/common.js`): a form with `username`, `to`, `message`, `from`, `bulkSMSMode`, the header `apiKey`, 201.
//!
//! A request has one text for all its recipients, so one message goes in one request. Report addresses are set in the
//! dashboard and reports carry the maker's id only; they are not signed.
//!
//! Not confirmed: whether a message on `RiskHold` (401) can be released later, and what the network did with one of
//! `GatewayError` (501): both leave a doubt. The report states `Expired` and `AbsentSubscriber` are in newer documents only.

use flotilla_protocol::wire::ErrorClass::{self, Route, Transient};
use http::HeaderName;
use serde_json::Value;

use super::kit::{
    by_status, doubt, e164, get, json, judged, micros, pairs, post_form, refusal, refusal_of, rfc3339_ms, text,
    unclear, unsigned_allowed, utc_ms, value_of, word,
};
use crate::account::{Account, FieldError};
use crate::errors::ErrorTable;
use crate::errors::africas_talking::{ANSWER, REPORT, WORDS};
use crate::http_call::{Answer, Call, Callback};
use crate::maker::{
    Balance, CallbackError, CallbackReply, Capabilities, Inbound, Judged, Maker, Outgoing, Receipt, ReceiptState,
    Refusal, Submitted,
};

const NAME: &str = "africas-talking";
const LIVE: &str = "https://api.africastalking.com";
const SANDBOX: &str = "https://api.sandbox.africastalking.com";
const API_KEY: HeaderName = HeaderName::from_static("apikey");

static CAPABILITIES: Capabilities = Capabilities {
    name: NAME,
    title: "Africa's Talking",
    fields: &[("username", true, "the application's user name; `sandbox` for the sandbox")],
    secrets: &[("api_key", true, "the application's API key")],
    batch_max: 1,
    batch: "one message in a request",
    callbacks: true,
    signature: None,
    polls: false,
    balance: true,
    inbound: true,
    echoes_reference: false,
};

pub(crate) struct AfricasTalking;

fn base(account: &Account) -> &'static str {
    if account.optional("username") == Some("sandbox") { SANDBOX } else { LIVE }
}

fn signed(call: Call, account: &Account) -> Result<Call, FieldError> {
    call.secret_header(API_KEY, account.secret("api_key")?, "api_key")
}

/// `KES 0.8000`.
fn money(text: &str) -> Option<(i64, Box<str>)> {
    let (currency, amount) = text.trim().split_once(' ')?;
    let iso = currency.len() == 3 && currency.bytes().all(|byte| byte.is_ascii_uppercase());
    iso.then(|| micros(amount)).flatten().map(|amount| (amount, currency.into()))
}

fn recipient(entry: &Value, answer: &Answer) -> Submitted {
    let Some(code) = word(entry, "/statusCode") else { return unclear(answer) };
    match &*code {
        "100" | "101" | "102" => {
            let price = word(entry, "/cost").and_then(|cost| money(&cost));
            let id = word(entry, "/messageId").filter(|id| &**id != "None");
            Submitted::Accepted { id, price: price.map(|(amount, currency)| (amount.unsigned_abs(), currency)) }
        }
        code if crate::errors::meaning(ANSWER, code).is_some() => {
            Submitted::Refused(refusal_of(NAME, ANSWER, code, Route))
        }
        code => doubt(NAME, code),
    }
}

/// No recipients in the answer: nobody was sent anything if the maker says why, or counts none.
fn nobody(data: &Value, answer: &Answer) -> Submitted {
    let message = text(data, "/Message").unwrap_or_default();
    if crate::errors::meaning(WORDS, &message).is_some() {
        return Submitted::Refused(refusal_of(NAME, WORDS, &message, Route));
    }
    if message.starts_with("Sent to 0/") {
        return Submitted::Refused(refusal(NAME, Route, "sent-to-none", "the maker has sent nothing", None));
    }
    unclear(answer)
}

fn failure(pairs: &[(String, String)], status: &str, class: ErrorClass) -> Refusal {
    match value_of(pairs, "failureReason") {
        Some(reason) => refusal_of(NAME, REPORT, reason, class),
        None => refusal(NAME, class, status, "not delivered; the maker gives no reason", None),
    }
}

fn state(pairs: &[(String, String)], status: &str) -> ReceiptState {
    match status {
        "Success" => ReceiptState::Delivered,
        "Failed" | "AbsentSubscriber" => ReceiptState::Failed(failure(pairs, status, Transient)),
        "Rejected" => ReceiptState::Failed(failure(pairs, status, Route)),
        "Expired" => ReceiptState::Expired,
        _ => ReceiptState::Pending,
    }
}

impl Maker for AfricasTalking {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn errors(&self) -> &'static [ErrorTable] {
        crate::errors::africas_talking::TABLES
    }

    fn check(&self, account: &Account) -> Result<(), FieldError> {
        self.test(account, 0).map(drop)
    }

    fn submit(&self, account: &Account, batch: &[Outgoing], _now_ms: u64) -> Result<Call, FieldError> {
        let username = account.field("username")?;
        let url = account.url(base(account), "version1/messaging")?;
        let mut form = vec![("username", username)];
        let to = batch.iter().map(|message| e164(message.to)).collect::<Vec<_>>().join(",");
        form.push(("to", &to));
        if let Some(message) = batch.first() {
            form.push(("message", &message.text));
            if !message.sender.is_empty() {
                form.push(("from", &message.sender));
            }
        }
        form.push(("bulkSMSMode", "1"));
        signed(post_form(url, form), account)
    }

    fn submitted(&self, _account: &Account, batch: &[Outgoing], answer: &Answer) -> Vec<Submitted> {
        let data = answer.status.is_success().then(|| json(&answer.body)).flatten();
        let Some(data) = data.and_then(|mut body| body.get_mut("SMSMessageData").map(Value::take)) else {
            return batch.iter().map(|_| by_status(NAME, answer)).collect();
        };
        let Some(entries) = data.get("Recipients").and_then(Value::as_array) else {
            return batch.iter().map(|_| nobody(&data, answer)).collect();
        };
        // One answer to one message is about it, however the maker writes its number.
        let only = (batch.len() == 1 && entries.len() == 1).then(|| &entries[0]);
        let find = |message: &Outgoing| {
            let number = e164(message.to);
            entries.iter().find(|entry| word(entry, "/number").is_some_and(|found| *found == *number)).or(only)
        };
        let result = |message| match find(message) {
            Some(entry) => recipient(entry, answer),
            None if entries.is_empty() => nobody(&data, answer),
            None => unclear(answer),
        };
        batch.iter().map(result).collect()
    }

    fn callback(&self, account: &Account, request: &Callback, _now_ms: u64) -> Result<CallbackReply, CallbackError> {
        unsigned_allowed(account)?;
        let pairs = pairs(&request.body);
        let mut reply = CallbackReply::default();
        match (value_of(&pairs, "id"), value_of(&pairs, "status"), value_of(&pairs, "from")) {
            (Some(id), Some(status), _) => reply.receipts.push(Receipt {
                reference: None,
                id: super::kit::bounded(id),
                segment: None,
                state: state(&pairs, status),
                at_ms: None,
                price: None,
            }),
            (Some(id), None, Some(from)) => reply.inbound.push(Inbound {
                id: super::kit::bounded(id).ok_or(CallbackError::Malformed("`id` is too long"))?,
                from: from.into(),
                to: value_of(&pairs, "to").unwrap_or_default().into(),
                text: value_of(&pairs, "text").unwrap_or_default().into(),
                at_ms: value_of(&pairs, "date").and_then(|date| rfc3339_ms(date).or_else(|| utc_ms(date))),
            }),
            // An opt-out (`senderId`, `phoneNumber`) has no id: later messages are refused with 406.
            (None, None, None) if value_of(&pairs, "phoneNumber").is_some() => {}
            _ => return Err(CallbackError::Malformed("neither a report nor a message")),
        }
        Ok(reply)
    }

    fn balance(&self, account: &Account, now_ms: u64) -> Option<Result<Call, FieldError>> {
        Some(self.test(account, now_ms))
    }

    fn balance_of(&self, _account: &Account, answer: &Answer) -> Option<Balance> {
        let (micros, currency) = money(&text(&json(&answer.body)?, "/UserData/balance")?)?;
        Some(Balance { micros, currency })
    }

    fn test(&self, account: &Account, _now_ms: u64) -> Result<Call, FieldError> {
        let mut url = account.url(base(account), "version1/user")?;
        url.query_pairs_mut().append_pair("username", account.field("username")?);
        signed(get(url), account)
    }

    fn judge(&self, _account: &Account, answer: &Answer) -> Judged {
        judged(answer)
    }
}

#[cfg(test)]
mod tests;
