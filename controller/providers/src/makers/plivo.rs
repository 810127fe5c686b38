//! Plivo. Sources: <https://www.plivo.com/docs/messaging/api/messages>, plivo/plivo-python (requests and signatures),
//! <https://docs.plivo.com/docs/messaging/concepts/signature-validation>.
//!
//! Plivo takes one text for many recipients; our messages have a text and a reference each, so a request carries one. Our
//! reference is in the query of the callback address. Plivo signs callbacks of messages with version 2 (address and nonce) and
//! those of calls with version 3 (also query and form); both are taken, and of several signatures one must be right. Neither has
//! a time, so a repeated report cannot be told from a replay. Reports are for the whole message: Plivo reserves `PartInfo`
//! and `ParentMessageUUID`. Not confirmed: the bounds of `message_expiry`, and `invalid_number` in the answer to one recipient.

use data_encoding::BASE64;
use flotilla_protocol::wire::ErrorClass;
use http::Method;
use ring::hmac::HMAC_SHA256;
use serde_json::{Value, json};
use url::{Position, Url};

use super::kit;
use crate::errors::ErrorTable;
use crate::errors::plivo::PLIVO;
use crate::maker::{
    Balance, CallbackError, CallbackReply, Capabilities, Inbound, Judged, Maker, Outgoing, Receipt, ReceiptState,
    Refusal, Submitted,
};
use crate::{Account, Answer, Call, Callback, FieldError};

const BASE: &str = "https://api.plivo.com";
const NAME: &str = "plivo";
/// How long Plivo keeps a message, at least and at most, in seconds.
const VALIDITY_S: std::ops::RangeInclusive<u32> = 5..=10_800;
/// Most signatures of one header that are looked at.
const SIGNATURES_MAX: usize = 8;

static CAPABILITIES: Capabilities = Capabilities {
    name: NAME,
    title: "Plivo",
    fields: &[("auth_id", true, "the account's Auth ID; a sender may be a number, a name or a powerpack's UUID")],
    secrets: &[("auth_token", true, "the account's Auth Token; callbacks are signed with it")],
    batch_max: 1,
    batch: "one message a request",
    callbacks: true,
    signature: Some("HMAC-SHA256 of the address and a nonce, `X-Plivo-Signature-V2` or `-V3`"),
    polls: true,
    balance: true,
    inbound: true,
    echoes_reference: true,
};

pub(crate) struct Plivo;

impl Maker for Plivo {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn errors(&self) -> &'static [ErrorTable] {
        crate::errors::plivo::TABLES
    }

    fn check(&self, account: &Account) -> Result<(), FieldError> {
        kit::required(account, &CAPABILITIES)?;
        resource(account, "/").map(|_| ())
    }

    fn submit(&self, account: &Account, batch: &[Outgoing], _now_ms: u64) -> Result<Call, FieldError> {
        let [message] = batch else { return Err(kit::wrong("batch", "holds more than one message")) };
        let sender = if is_uuid(&message.sender) { "powerpack_uuid" } else { "src" };
        let mut body = json!({
            sender: message.sender,
            "dst": kit::e164(message.to),
            "text": message.text,
            "type": "sms",
            "message_expiry": message.validity_s.clamp(*VALIDITY_S.start(), *VALIDITY_S.end()),
        });
        if let Some(url) = kit::callback_with(account, &message.reference) {
            body["url"] = url.as_str().into();
            body["method"] = "POST".into();
        }
        authorized(account, kit::post_json(resource(account, "/Message/")?, &body))
    }

    fn submitted(&self, _account: &Account, batch: &[Outgoing], answer: &Answer) -> Vec<Submitted> {
        batch.iter().map(|_| outcome(answer)).collect()
    }

    fn callback(&self, account: &Account, request: &Callback, _now_ms: u64) -> Result<CallbackReply, CallbackError> {
        verify(account, request)?;
        let get = request.method == Method::GET;
        let params = kit::pairs(if get { request.url.query().unwrap_or_default().as_bytes() } else { &request.body });
        let id = kit::value_of(&params, "MessageUUID").and_then(kit::bounded);
        let id = id.ok_or(CallbackError::Malformed("`MessageUUID` is missing"))?;
        match kit::value_of(&params, "Status").or_else(|| kit::value_of(&params, "MessageState")) {
            Some(status) => receipt(request, &params, id, status),
            None => inbound(&params, id),
        }
    }

    fn poll_max(&self) -> usize {
        1
    }

    fn poll(&self, account: &Account, ids: &[Box<str>], _now_ms: u64) -> Option<Result<Call, FieldError>> {
        let id = ids.first().filter(|id| is_uuid(id))?;
        Some(resource(account, &format!("/Message/{id}/")).and_then(|url| authorized(account, kit::get(url))))
    }

    fn polled(&self, _account: &Account, _ids: &[Box<str>], answer: &Answer) -> Vec<Receipt> {
        let Some(body) = kit::json(&answer.body).filter(|_| answer.status.is_success()) else { return Vec::new() };
        let (Some(id), Some(status)) = (kit::word(&body, "/message_uuid"), kit::word(&body, "/message_state")) else {
            return Vec::new();
        };
        let Some(state) = state(&status, kit::word(&body, "/error_code").as_deref()) else { return Vec::new() };
        let price = kit::word(&body, "/total_amount").as_deref().and_then(kit::price).map(in_dollars);
        vec![Receipt { reference: None, id: Some(id), segment: None, state, at_ms: None, price }]
    }

    fn balance(&self, account: &Account, _now_ms: u64) -> Option<Result<Call, FieldError>> {
        Some(self.test(account, 0))
    }

    fn balance_of(&self, _account: &Account, answer: &Answer) -> Option<Balance> {
        let body = kit::json(&answer.body).filter(|_| answer.status.is_success())?;
        Some(Balance { micros: kit::micros_at(&body, "/cash_credits")?, currency: "USD".into() })
    }

    fn test(&self, account: &Account, _now_ms: u64) -> Result<Call, FieldError> {
        authorized(account, kit::get(resource(account, "/")?))
    }

    fn judge(&self, _account: &Account, answer: &Answer) -> Judged {
        kit::judged(answer)
    }
}

fn resource(account: &Account, rest: &str) -> Result<Url, FieldError> {
    account.url(BASE, &format!("/v1/Account/{}{rest}", kit::path_word(account, "auth_id")?))
}

fn authorized(account: &Account, call: Call) -> Result<Call, FieldError> {
    call.basic(account.field("auth_id")?, account.secret("auth_token")?)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

fn outcome(answer: &Answer) -> Submitted {
    if answer.status.as_u16() == 403 {
        let text = "the account may not do this, or not send to this country";
        return Submitted::Refused(kit::refusal(NAME, ErrorClass::Route, "http-403", text, Some(answer)));
    }
    if !answer.status.is_success() {
        return kit::by_status(NAME, answer);
    }
    let body = kit::json(&answer.body).unwrap_or(Value::Null);
    let invalid = body.pointer("/invalid_number").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
    match kit::word(&body, "/message_uuid/0") {
        Some(id) => Submitted::Accepted { id: Some(id), price: None },
        None if invalid => {
            let text = "the recipient's number is not valid";
            Submitted::Refused(kit::refusal(NAME, ErrorClass::Permanent, "invalid-number", text, None))
        }
        None => kit::unclear(answer),
    }
}

fn in_dollars(micros: u64) -> (u64, Box<str>) {
    (micros, "USD".into())
}

fn state(status: &str, code: Option<&str>) -> Option<ReceiptState> {
    let code = code.filter(|code| !matches!(*code, "0" | "000"));
    Some(match status {
        "queued" | "sent" => ReceiptState::Pending,
        "delivered" | "read" => ReceiptState::Delivered,
        "failed" | "undelivered" | "rejected" if code == Some("420") => ReceiptState::Expired,
        "failed" | "undelivered" | "rejected" => ReceiptState::Failed(failure(status, code)),
        _ => return None,
    })
}

fn failure(status: &str, code: Option<&str>) -> Refusal {
    match code {
        Some(code) => kit::refusal_of(NAME, PLIVO, code, ErrorClass::Transient),
        None if status == "rejected" => kit::refusal(NAME, ErrorClass::Route, status, "the maker refused it", None),
        None => kit::refusal(NAME, ErrorClass::Transient, status, "the maker gives no reason", None),
    }
}

fn receipt(
    request: &Callback,
    params: &[(String, String)],
    id: Box<str>,
    status: &str,
) -> Result<CallbackReply, CallbackError> {
    let state = state(status, kit::value_of(params, "ErrorCode"));
    let state = state.ok_or(CallbackError::Malformed("`Status` is not known"))?;
    let price = kit::value_of(params, "TotalAmount").and_then(kit::price).map(in_dollars);
    let reference = kit::reference_in(&request.url);
    let receipts = vec![Receipt { reference, id: Some(id), segment: None, state, at_ms: None, price }];
    Ok(CallbackReply { receipts, ..CallbackReply::default() })
}

fn inbound(params: &[(String, String)], id: Box<str>) -> Result<CallbackReply, CallbackError> {
    let word = |name| kit::value_of(params, name).and_then(kit::bounded);
    let (Some(from), Some(to)) = (word("From"), word("To")) else {
        return Err(CallbackError::Malformed("`From` or `To` is missing"));
    };
    let text = kit::value_of(params, "Text").unwrap_or_default().into();
    let inbound = vec![Inbound { id, from, to, text, at_ms: None }];
    Ok(CallbackReply { inbound, answer: "<Response></Response>", ..CallbackReply::default() })
}

fn verify(account: &Account, request: &Callback) -> Result<(), CallbackError> {
    let header = |name: &str| kit::header(&request.headers, name).unwrap_or_default();
    let third =
        (header("x-plivo-signature-v3"), header("x-plivo-signature-ma-v3"), header("x-plivo-signature-v3-nonce"));
    let second =
        (header("x-plivo-signature-v2"), header("x-plivo-signature-ma-v2"), header("x-plivo-signature-v2-nonce"));
    let (signatures, text) = if third.0.is_empty() && third.1.is_empty() {
        if second.0.is_empty() && second.1.is_empty() {
            return kit::unsigned_allowed(account);
        }
        ([second.0, second.1], format!("{}{}", bare(&request.url), second.2))
    } else {
        ([third.0, third.1], format!("{}.{}", third_base(request), third.2))
    };
    let token = account.secret("auth_token").map_err(|_| CallbackError::Signature)?;
    let tags = signatures.iter().flat_map(|header| header.split(',').take(SIGNATURES_MAX));
    let good = tags
        .filter_map(|text| BASE64.decode(text.trim().as_bytes()).ok())
        .fold(false, |good, tag| kit::signed_by(HMAC_SHA256, token.as_bytes(), text.as_bytes(), &tag) | good);
    if good { Ok(()) } else { Err(CallbackError::Signature) }
}

/// The address up to its path.
fn bare(url: &Url) -> &str {
    &url[..Position::AfterPath]
}

/// What version 3 signs, but for the nonce: the address with its query sorted, and for a POST with a form `.` and its sorted
/// names and values. The `?` stays when there is a form but no query.
fn third_base(request: &Callback) -> String {
    let query = sorted(request.url.query().unwrap_or_default().as_bytes(), "=", "&");
    let form = if request.method == Method::GET { String::new() } else { sorted(&request.body, "", "") };
    let mut base = bare(&request.url).to_owned();
    if !query.is_empty() || !form.is_empty() {
        base.push('?');
        base.push_str(&query);
    }
    if !query.is_empty() && !form.is_empty() {
        base.push('.');
    }
    base + &form
}

fn sorted(text: &[u8], between: &str, after: &str) -> String {
    let mut pairs = kit::pairs(text);
    pairs.sort();
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}{between}{value}")).collect();
    pairs.join(after)
}

#[cfg(test)]
mod tests;
