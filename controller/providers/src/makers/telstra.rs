//! Telstra Messaging API v3.
//!
//! Source: the maker's OpenAPI document `dev.telstra.com/sites/default/files/Messaging-API-Proxy-OAS3.json` (by
//! `APIs-guru/openapi-directory`, `APIs/telstra.com/3.x`): OAuth2 client credentials at `/v2/oauth/token`, POST
//! `/messaging/v3/messages`, codes of every status, callbacks, `GET /messages/{messageId}`.
//!
//! Our reference goes into the callback address, and as a tag for people who look at the maker's lists. Australian numbers are
//! written as `04...`, all others in E.164.
//!
//! Not confirmed: why a message is `undeliverable` (no reason is given, so another route may try); signatures of reports (none are
//! described); how long a token lives (taken from the answer).

use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};
use http::HeaderValue;
use http::header::{ACCEPT_CHARSET, CONTENT_LANGUAGE};
use serde_json::{Value, json};
use url::Url;

use super::kit::{
    self, by_status, callback_with, e164, get, judged, post_form, post_json, reference_in, refusal, refusal_of,
    rfc3339_ms, text, unclear, unsigned_allowed, word,
};
use crate::account::{Account, FieldError};
use crate::errors::ErrorTable;
use crate::errors::meaning;
use crate::errors::telstra::ANSWER;
use crate::http_call::{Answer, Call, Callback};
use crate::maker::{
    CallbackError, CallbackReply, Capabilities, Inbound, Judged, Maker, Outgoing, Receipt, ReceiptState, Submitted,
};

const NAME: &str = "telstra";
const BASE: &str = "https://products.api.telstra.com";
const SCOPE: &str = "messages:read messages:write";
const RETRY_MAX_MIN: u32 = 1440;
/// A token is given back this long before its end.
const TOKEN_MARGIN_S: u64 = 60;
const TOKEN_MAX_S: u64 = 24 * 3600;

static CAPABILITIES: Capabilities = Capabilities {
    name: NAME,
    title: "Telstra",
    fields: &[("delivery_notification", false, "`no` for plans without delivery reports; else `yes`")],
    secrets: &[("client_id", true, "the application's client id"), ("client_secret", true, "its secret")],
    batch_max: 1,
    batch: "one message in a request",
    callbacks: true,
    signature: None,
    polls: true,
    balance: false,
    inbound: true,
    echoes_reference: true,
};

pub(crate) struct Telstra;

fn signed(mut call: Call, account: &Account) -> Result<Call, FieldError> {
    call.headers.insert(CONTENT_LANGUAGE, HeaderValue::from_static("en-au"));
    call.headers.insert(ACCEPT_CHARSET, HeaderValue::from_static("utf-8"));
    call.authorization(&format!("Bearer {}", account.secret("token")?), "token")
}

/// `0412345678` for Australia, E.164 for the rest of the world.
fn national(number: Msisdn) -> String {
    australian(&e164(number))
}

fn australian(number: &str) -> String {
    match number.strip_prefix("+61") {
        Some(rest) => format!("0{rest}"),
        None => number.to_owned(),
    }
}

fn notifies(account: &Account) -> bool {
    account.callback_url.is_some() && account.optional("delivery_notification") != Some("no")
}

fn refused(error: &Value, answer: &Answer) -> Option<Submitted> {
    let code = word(error, "/code")?;
    let field = text(error, "/field").unwrap_or_default();
    let mut refusal = match (&*code, &*field) {
        ("FIELD_INVALID" | "FIELD_LENGTH_ERR", "to") => refusal(NAME, Permanent, &code, "not a phone number", None),
        ("FIELD_INVALID" | "FIELD_LENGTH_ERR", "messageContent") => {
            refusal(NAME, Permanent, &code, "the text is refused or too long", None)
        }
        ("FIELD_INVALID" | "FIELD_LENGTH_ERR", _) => refusal(NAME, Route, &code, "the request is refused", None),
        (code, _) if meaning(ANSWER, code).is_some() => refusal_of(NAME, ANSWER, code, Route),
        _ => return None,
    };
    refusal.retry_after_ms = kit::retry_after_ms(&answer.headers);
    Some(Submitted::Refused(refusal))
}

fn result(answer: &Answer) -> Submitted {
    let body = kit::json(&answer.body);
    if answer.status.is_success() {
        let id = body.and_then(|body| word(&body, "/messageId").or_else(|| word(&body, "/messageId/0")));
        return id.map_or_else(|| unclear(answer), |id| Submitted::Accepted { id: Some(id), price: None });
    }
    let known = answer.status.is_client_error().then(|| refused(body?.pointer("/errors/0")?, answer)).flatten();
    known.unwrap_or_else(|| by_status(NAME, answer))
}

fn state(status: &str) -> ReceiptState {
    match status {
        "delivered" => ReceiptState::Delivered,
        "expired" => ReceiptState::Expired,
        "undeliverable" => {
            let text = "not delivered; the maker gives no reason";
            ReceiptState::Failed(refusal(NAME, Transient, "undeliverable", text, None))
        }
        _ => ReceiptState::Pending,
    }
}

fn receipt(body: &Value, reference: Option<Box<str>>) -> Option<Receipt> {
    let state = state(&word(body, "/status")?);
    let at_ms = ["/timestamp", "/receivedTimestamp", "/sentTimestamp"]
        .into_iter()
        .find_map(|pointer| text(body, pointer).and_then(|time| rfc3339_ms(&time)));
    Some(Receipt { reference, id: word(body, "/messageId"), segment: None, state, at_ms, price: None })
}

impl Maker for Telstra {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn errors(&self) -> &'static [ErrorTable] {
        crate::errors::telstra::TABLES
    }

    fn check(&self, account: &Account) -> Result<(), FieldError> {
        if !matches!(account.optional("delivery_notification"), None | Some("yes" | "no")) {
            return Err(kit::wrong("delivery_notification", "is `yes` or `no`"));
        }
        self.token(account, 0).map_or(Ok(()), |call| call.map(drop))
    }

    fn submit(&self, account: &Account, batch: &[Outgoing], _now_ms: u64) -> Result<Call, FieldError> {
        let mut body = json!({});
        if let Some(message) = batch.first() {
            body = json!({
                "deliveryNotification": notifies(account),
                "from": australian(&message.sender),
                "messageContent": &*message.text,
                "retryTimeout": (message.validity_s / 60).clamp(1, RETRY_MAX_MIN),
                "statusCallbackUrl": callback_with(account, &message.reference).as_ref().map(Url::as_str),
                "tags": [&*message.reference],
                "to": national(message.to),
            });
            if let Some(fields) = body.as_object_mut().filter(|_| !notifies(account)) {
                fields.remove("statusCallbackUrl");
            }
        }
        signed(post_json(account.url(BASE, "messaging/v3/messages")?, &body), account)
    }

    fn submitted(&self, _account: &Account, batch: &[Outgoing], answer: &Answer) -> Vec<Submitted> {
        batch.iter().map(|_| result(answer)).collect()
    }

    fn callback(&self, account: &Account, request: &Callback, _now_ms: u64) -> Result<CallbackReply, CallbackError> {
        unsigned_allowed(account)?;
        let body = kit::json(&request.body).ok_or(CallbackError::Malformed("not JSON"))?;
        let mut reply = CallbackReply::default();
        if let Some(receipt) = receipt(&body, reference_in(&request.url)) {
            if receipt.id.is_none() && receipt.reference.is_none() {
                return Err(CallbackError::Malformed("`messageId` is missing"));
            }
            reply.receipts.push(receipt);
            return Ok(reply);
        }
        let inbound = || {
            Some(Inbound {
                id: word(&body, "/messageId")?,
                from: word(&body, "/from")?,
                to: word(&body, "/to").unwrap_or_default(),
                text: text(&body, "/messageContent")?,
                at_ms: text(&body, "/timestamp").and_then(|time| rfc3339_ms(&time)),
            })
        };
        reply.inbound.push(inbound().ok_or(CallbackError::Malformed("neither a report nor a message"))?);
        Ok(reply)
    }

    fn poll_max(&self) -> usize {
        1
    }

    fn poll(&self, account: &Account, ids: &[Box<str>], _now_ms: u64) -> Option<Result<Call, FieldError>> {
        let call = account.url(BASE, "messaging/v3/messages").and_then(|mut url| {
            if let Ok(mut path) = url.path_segments_mut() {
                path.extend(ids.first().map(|id| &**id));
            }
            signed(get(url), account)
        });
        Some(call)
    }

    fn polled(&self, _account: &Account, ids: &[Box<str>], answer: &Answer) -> Vec<Receipt> {
        let body = answer.status.is_success().then(|| kit::json(&answer.body)).flatten();
        let found = body.and_then(|body| receipt(&body, None));
        found.into_iter().filter(|receipt| receipt.id.as_ref().is_some_and(|id| ids.contains(id))).collect()
    }

    fn test(&self, account: &Account, _now_ms: u64) -> Result<Call, FieldError> {
        let mut url = account.url(BASE, "messaging/v3/messages")?;
        url.query_pairs_mut().append_pair("limit", "1");
        signed(get(url), account)
    }

    fn judge(&self, _account: &Account, answer: &Answer) -> Judged {
        judged(answer)
    }

    fn token(&self, account: &Account, _now_ms: u64) -> Option<Result<Call, FieldError>> {
        let call = || {
            let pairs = [
                ("grant_type", "client_credentials"),
                ("client_id", account.secret("client_id")?),
                ("client_secret", account.secret("client_secret")?),
                ("scope", SCOPE),
            ];
            Ok(post_form(account.url(BASE, "v2/oauth/token")?, pairs))
        };
        Some(call())
    }

    fn token_of(&self, answer: &Answer) -> Option<(Box<str>, u64)> {
        let body = answer.status.is_success().then(|| kit::json(&answer.body)).flatten()?;
        let token = text(&body, "/access_token").filter(|token| !token.is_empty() && token.len() <= 8192)?;
        let lives_s: u64 = word(&body, "/expires_in")?.parse().ok()?;
        Some((token, lives_s.min(TOKEN_MAX_S).saturating_sub(TOKEN_MARGIN_S) * 1000))
    }
}

#[cfg(test)]
mod tests;
