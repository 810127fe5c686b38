//! Beem (Beem Africa), SMS.
//!
//! Sources: `docs.beem.africa` (SMS) as taken up by two client libraries (`gowelle/laravel-beem-africa`: `SmsResponseCode`,
//! `SmsDeliveryReport`, `SmsBalance`; `beem-africa/python-client`): POST `/v1/send` with Basic `api_key:secret_key`, codes 100 to
//! 108; reports are asked for, one recipient at a time, at another host; the balance is `data.credit_balance`.
//!
//! Reports are asked for by request id *and* recipient. Both are in the id that we keep, the recipient not in plain digits, so that
//! no log of ids shows a number.
//!
//! Not confirmed: what the network did after code 103 (network timeout), which leaves a doubt; the unit of the balance; `encoding` 8
//! for texts outside GSM-7; a callback for reports of ordinary SMS.

use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};
use serde_json::{Value, json};

use super::kit::{
    self, bare_sender, by_status, digits, doubt, get, judged, micros_at, post_json, refusal, refusal_of, unclear, word,
};
use crate::account::{Account, FieldError};
use crate::errors::ErrorTable;
use crate::errors::beem::ANSWER;
use crate::errors::meaning;
use crate::http_call::{Answer, Call, Callback};
use crate::maker::{
    Balance, CallbackError, CallbackReply, Capabilities, Judged, Maker, Outgoing, Receipt, ReceiptState, Submitted,
};

const NAME: &str = "beem";
const BASE: &str = "https://apisms.beem.africa";
const REPORTS: &str = "https://dlrapi.beem.africa";
const BASE_36: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

static CAPABILITIES: Capabilities = Capabilities {
    name: NAME,
    title: "Beem",
    fields: &[],
    secrets: &[("api_key", true, "the API key"), ("secret_key", true, "the secret key")],
    batch_max: 1,
    batch: "one message in a request",
    callbacks: false,
    signature: None,
    polls: true,
    balance: true,
    inbound: false,
    echoes_reference: false,
};

pub(crate) struct Beem;

fn signed(call: Call, account: &Account) -> Result<Call, FieldError> {
    call.basic(account.secret("api_key")?, account.secret("secret_key")?)
}

/// Request id and recipient as one id.
fn join(request_id: &str, to: Msisdn) -> Option<Box<str>> {
    let mut rest = to.as_u64();
    let mut tail = Vec::new();
    while rest > 0 {
        tail.push(BASE_36[(rest % 36) as usize]);
        rest /= 36;
    }
    let tail: String = tail.iter().rev().map(|byte| char::from(*byte)).collect();
    kit::bounded(&format!("{request_id}-{tail}"))
}

/// The way back.
fn split(id: &str) -> Option<(&str, Msisdn)> {
    let (request_id, tail) = id.rsplit_once('-')?;
    let number = u64::from_str_radix(tail, 36).ok()?;
    Some((request_id, Msisdn::from_u64(number).ok()?))
}

/// The code is at the top, or with what the maker calls an error.
fn code_of(body: &Value) -> Option<Box<str>> {
    ["/code", "/data/code", "/error/code"].into_iter().find_map(|pointer| word(body, pointer))
}

fn result(body: &Value, message: &Outgoing, answer: &Answer) -> Submitted {
    let Some(code) = code_of(body) else { return by_status(NAME, answer) };
    match &*code {
        "100" if answer.status.is_success() => accepted(body, message, answer),
        code if meaning(ANSWER, code).is_some() && !answer.status.is_server_error() => {
            Submitted::Refused(refusal_of(NAME, ANSWER, code, Route))
        }
        "103" => doubt(NAME, "103"),
        _ => by_status(NAME, answer),
    }
}

/// Success counts the valid recipients: with none, the only one was refused.
fn accepted(body: &Value, message: &Outgoing, answer: &Answer) -> Submitted {
    let count = |pointer| body.pointer(pointer).and_then(Value::as_u64);
    match (count("/valid"), count("/invalid"), word(body, "/request_id")) {
        (Some(0), Some(1..), _) => Submitted::Refused(refusal(NAME, Permanent, "invalid", "not a phone number", None)),
        (Some(0), ..) => unclear(answer),
        (_, _, request_id) => Submitted::Accepted { id: request_id.and_then(|id| join(&id, message.to)), price: None },
    }
}

fn state(status: &str) -> ReceiptState {
    match status.to_ascii_lowercase().as_str() {
        "delivered" => ReceiptState::Delivered,
        "failed" | "undelivered" => ReceiptState::Failed(refusal(
            NAME,
            Transient,
            "undelivered",
            "not delivered; the maker gives no reason",
            None,
        )),
        "expired" => ReceiptState::Expired,
        "rejected" => {
            ReceiptState::Failed(refusal(NAME, Route, "rejected", "the network has refused the message", None))
        }
        _ => ReceiptState::Pending,
    }
}

impl Maker for Beem {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn errors(&self) -> &'static [ErrorTable] {
        crate::errors::beem::TABLES
    }

    fn check(&self, account: &Account) -> Result<(), FieldError> {
        self.test(account, 0).map(drop)
    }

    fn submit(&self, account: &Account, batch: &[Outgoing], _now_ms: u64) -> Result<Call, FieldError> {
        let first = batch.first();
        let recipient =
            |(at, message): (usize, &Outgoing)| json!({"dest_addr": digits(message.to), "recipient_id": at + 1});
        let body = json!({
            "encoding": if first.is_some_and(|message| message.unicode) { 8 } else { 0 },
            "message": first.map_or("", |message| &message.text),
            "recipients": batch.iter().enumerate().map(recipient).collect::<Vec<_>>(),
            "schedule_time": "",
            "source_addr": first.map_or("", |message| bare_sender(&message.sender)),
        });
        signed(post_json(account.url(BASE, "v1/send")?, &body), account)
    }

    fn submitted(&self, _account: &Account, batch: &[Outgoing], answer: &Answer) -> Vec<Submitted> {
        match kit::json(&answer.body) {
            Some(body) => batch.iter().map(|message| result(&body, message, answer)).collect(),
            None => batch.iter().map(|_| by_status(NAME, answer)).collect(),
        }
    }

    fn callback(&self, _account: &Account, _request: &Callback, _now_ms: u64) -> Result<CallbackReply, CallbackError> {
        Err(CallbackError::Malformed("this maker is asked for reports and sends none"))
    }

    fn poll_max(&self) -> usize {
        1
    }

    fn poll(&self, account: &Account, ids: &[Box<str>], _now_ms: u64) -> Option<Result<Call, FieldError>> {
        let (request_id, to) = split(ids.first()?)?;
        let call = account.url(REPORTS, "public/v1/delivery-reports").and_then(|mut url| {
            url.query_pairs_mut().append_pair("dest_addr", &digits(to)).append_pair("request_id", request_id);
            signed(get(url), account)
        });
        Some(call)
    }

    fn polled(&self, _account: &Account, ids: &[Box<str>], answer: &Answer) -> Vec<Receipt> {
        let body = answer.status.is_success().then(|| kit::json(&answer.body)).flatten();
        let (Some(id), Some(body)) = (ids.first(), body) else { return Vec::new() };
        let status = ["/status", "/0/status", "/data/status", "/data/0/status"];
        let Some(status) = status.into_iter().find_map(|pointer| word(&body, pointer)) else { return Vec::new() };
        let state = state(&status);
        vec![Receipt { reference: None, id: Some(id.clone()), segment: None, state, at_ms: None, price: None }]
    }

    fn balance(&self, account: &Account, now_ms: u64) -> Option<Result<Call, FieldError>> {
        Some(self.test(account, now_ms))
    }

    fn balance_of(&self, _account: &Account, answer: &Answer) -> Option<Balance> {
        let micros = micros_at(&kit::json(&answer.body)?, "/data/credit_balance")?;
        Some(Balance { micros, currency: "credits".into() })
    }

    fn test(&self, account: &Account, _now_ms: u64) -> Result<Call, FieldError> {
        signed(get(account.url(BASE, "public/v1/vendors/balance")?), account)
    }

    fn judge(&self, _account: &Account, answer: &Answer) -> Judged {
        judged(answer)
    }
}

#[cfg(test)]
mod tests;
