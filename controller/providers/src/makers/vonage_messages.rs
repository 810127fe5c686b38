//! Vonage's Messages API, channel SMS, version 1. Sources: <https://developer.vonage.com/api/messages>,
//! <https://developer.vonage.com/messages/concepts/messages-status-callbacks>,
//! <https://developer.vonage.com/messages/concepts/multisegment-sms-handling>,
//! <https://developer.vonage.com/getting-started/concepts/webhooks> (signed callbacks), Vonage/vonage-python-sdk.
//!
//! A long text has one report, which comes up to five minutes after the first segment's: it is `rejected` when a single segment was,
//! or has not come by then, so it speaks for that segment only unless it lists all of them as rejected.
//!
//! Requests carry Basic credentials, or a JWT (RS256) when the account names an application. Callbacks carry a JWT (HS256) with
//! the hash of the body. The balance is at another host, unless the account has a `base_url`. Not confirmed: the codes of
//! version 1 where its documents differ from the common table (1150 is both "invalid parameter" and "invalid message class");
//! both are the route's fault.

use flotilla_protocol::wire::ErrorClass;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::{kit, vonage_sms};
use crate::errors::ErrorTable;
use crate::errors::{meaning, vonage::MESSAGES};
use crate::maker::{
    Balance, CallbackError, CallbackReply, Capabilities, Inbound, Judged, Maker, Outgoing, Receipt, ReceiptState,
    Refusal, Submitted,
};
use crate::{Account, Answer, Call, Callback, FieldError};

const BASE: &str = "https://api.nexmo.com";
/// Balances live at another host.
const BALANCE_BASE: &str = "https://rest.nexmo.com";
const NAME: &str = "vonage-messages";
const VALIDITY_S: std::ops::RangeInclusive<u32> = 20..=604_800;
/// How long a token of ours may be used, in seconds.
const TOKEN_S: u64 = 15 * 60;

static CAPABILITIES: Capabilities = Capabilities {
    name: NAME,
    title: "Vonage Messages",
    fields: &[
        ("api_key", true, "the account's API key"),
        ("application_id", false, "an application's id, to send with its key in place of the API secret"),
    ],
    secrets: &[
        ("api_secret", true, "the account's API secret"),
        ("private_key", false, "the application's private key, PEM"),
        ("signature_secret", false, "the account's signature secret; checks the callbacks"),
    ],
    batch_max: 1,
    batch: "one message a request",
    callbacks: true,
    signature: Some("JWT (HS256) with the body's hash, `Authorization`"),
    polls: false,
    balance: true,
    inbound: true,
    echoes_reference: true,
};

pub(crate) struct VonageMessages;

impl Maker for VonageMessages {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn errors(&self) -> &'static [ErrorTable] {
        crate::errors::vonage::MESSAGES_TABLES
    }

    fn check(&self, account: &Account) -> Result<(), FieldError> {
        kit::required(account, &CAPABILITIES)?;
        if account.optional("application_id").is_some() {
            private_key(account)?;
        }
        account.url(BASE, "/").map(|_| ())
    }

    fn submit(&self, account: &Account, batch: &[Outgoing], now_ms: u64) -> Result<Call, FieldError> {
        let [message] = batch else { return Err(kit::wrong("batch", "holds more than one message")) };
        let mut body = json!({
            "message_type": "text",
            "channel": "sms",
            "to": kit::digits(message.to),
            "from": kit::bare_sender(&message.sender),
            "text": message.text,
            "client_ref": message.reference,
            "ttl": message.validity_s.clamp(*VALIDITY_S.start(), *VALIDITY_S.end()),
            "sms": {"encoding_type": if message.unicode { "unicode" } else { "text" }},
        });
        if let Some(url) = &account.callback_url {
            body["webhook_url"] = url.as_str().into();
            body["webhook_version"] = "v1".into();
        }
        let call = kit::post_json(account.url(BASE, "/v1/messages")?, &body);
        match account.optional("application_id") {
            Some(application) => {
                let token = token(account, application, &message.reference, now_ms)?;
                call.authorization(&format!("Bearer {token}"), "private_key")
            }
            None => call.basic(account.field("api_key")?, account.secret("api_secret")?),
        }
    }

    fn submitted(&self, _account: &Account, batch: &[Outgoing], answer: &Answer) -> Vec<Submitted> {
        batch.iter().map(|_| outcome(answer)).collect()
    }

    fn callback(&self, account: &Account, request: &Callback, now_ms: u64) -> Result<CallbackReply, CallbackError> {
        verify(account, request, now_ms)?;
        let body = kit::json(&request.body).ok_or(CallbackError::Malformed("the body is not JSON"))?;
        let id = kit::word(&body, "/message_uuid").ok_or(CallbackError::Malformed("`message_uuid` is missing"))?;
        match kit::word(&body, "/status") {
            Some(status) => receipt(&body, id, &status),
            None => inbound(&body, id),
        }
    }

    fn balance(&self, account: &Account, _now_ms: u64) -> Option<Result<Call, FieldError>> {
        Some(self.test(account, 0))
    }

    fn balance_of(&self, _account: &Account, answer: &Answer) -> Option<Balance> {
        vonage_sms::balance_of(answer)
    }

    fn test(&self, account: &Account, _now_ms: u64) -> Result<Call, FieldError> {
        vonage_sms::balance_call(account, account.url(BALANCE_BASE, "/account/get-balance")?)
    }

    fn judge(&self, _account: &Account, answer: &Answer) -> Judged {
        kit::judged(answer)
    }
}

fn private_key(account: &Account) -> Result<EncodingKey, FieldError> {
    EncodingKey::from_rsa_pem(account.secret("private_key")?.as_bytes())
        .map_err(|_| kit::wrong("private_key", "is no RSA key in PEM; give the file that the application came with"))
}

/// Each token has an id of its own: the attempt and the time.
fn token(account: &Account, application: &str, reference: &str, now_ms: u64) -> Result<String, FieldError> {
    let now_s = now_ms / 1000;
    let id = kit::sha256_hex(format!("{reference}/{now_ms}").as_bytes());
    let claims = json!({"application_id": application, "iat": now_s, "exp": now_s + TOKEN_S, "jti": &id[..32]});
    jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &private_key(account)?)
        .map_err(|_| kit::wrong("private_key", "cannot sign; give the file that the application came with"))
}

fn outcome(answer: &Answer) -> Submitted {
    let body = kit::json(&answer.body);
    if answer.status.is_success() {
        return match body.and_then(|body| kit::word(&body, "/message_uuid")) {
            Some(id) => Submitted::Accepted { id: Some(id), price: None },
            None => kit::unclear(answer),
        };
    }
    let refusal = body.filter(|_| answer.status.is_client_error()).and_then(|body| {
        if wrong_recipient(&body) {
            let text = "the recipient's number is not valid";
            return Some(kit::refusal(NAME, ErrorClass::Permanent, "invalid-to", text, Some(answer)));
        }
        let code = code(&body)?;
        let (class, text) = meaning(MESSAGES, &code)?;
        Some(kit::refusal(NAME, class, &code, text, Some(answer)))
    });
    refusal.map_or_else(|| kit::by_status(NAME, answer), Submitted::Refused)
}

/// The answer names the recipient as the parameter that is wrong.
fn wrong_recipient(body: &Value) -> bool {
    let parameters = body.pointer("/invalid_parameters").and_then(Value::as_array);
    parameters
        .is_some_and(|all| !all.is_empty() && all.iter().all(|one| kit::word(one, "/name").as_deref() == Some("to")))
}

/// The first segment that was not delivered, of a long text of which others were or may still be.
fn given_up(body: &Value) -> Option<u8> {
    let total: usize = kit::word(body, "/sms/total_count")?.parse().ok()?;
    let segments = body.pointer("/sms/segments").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let has_state = |segment: &Value, states: &[&str]| {
        kit::word(segment, "/status").is_some_and(|status| states.contains(&&*status))
    };
    let rejected = segments.iter().filter(|segment| has_state(segment, &["rejected", "undeliverable"])).count();
    if total <= 1 || rejected >= total {
        return None;
    }
    let first = segments.iter().position(|segment| !has_state(segment, &["delivered", "read"]));
    u8::try_from(first.unwrap_or(segments.len()).min(total - 1)).ok()
}

/// The code of an error: a number, or what follows `#` in its address.
fn code(error: &Value) -> Option<Box<str>> {
    if let Some(code) = kit::word(error, "/code") {
        return Some(code);
    }
    let address = kit::word(error, "/type")?;
    kit::bounded(address.rsplit_once('#')?.1)
}

fn receipt(body: &Value, id: Box<str>, status: &str) -> Result<CallbackReply, CallbackError> {
    let code = body.get("error").and_then(code);
    let state = match status {
        "submitted" => ReceiptState::Pending,
        "delivered" | "read" => ReceiptState::Delivered,
        "rejected" | "undeliverable" if code.as_deref() == Some("1360") => ReceiptState::Expired,
        "rejected" | "undeliverable" => ReceiptState::Failed(failure(status, code.as_deref())),
        _ => return Err(CallbackError::Malformed("`status` is not known")),
    };
    let price = || Some((kit::price(&kit::word(body, "/usage/price")?)?, kit::word(body, "/usage/currency")?));
    let receipt = Receipt {
        reference: kit::word(body, "/client_ref").as_deref().and_then(kit::reference),
        id: Some(id),
        segment: given_up(body).filter(|_| !matches!(state, ReceiptState::Pending | ReceiptState::Delivered)),
        state,
        at_ms: kit::word(body, "/timestamp").as_deref().and_then(kit::rfc3339_ms),
        price: price(),
    };
    Ok(CallbackReply { receipts: vec![receipt], ..CallbackReply::default() })
}

fn failure(status: &str, code: Option<&str>) -> Refusal {
    match code {
        Some(code) => kit::refusal_of(NAME, MESSAGES, code, ErrorClass::Transient),
        None => kit::refusal(NAME, ErrorClass::Transient, status, "the maker gives no reason", None),
    }
}

fn inbound(body: &Value, id: Box<str>) -> Result<CallbackReply, CallbackError> {
    let (Some(from), Some(to)) = (kit::word(body, "/from"), kit::word(body, "/to")) else {
        return Err(CallbackError::Malformed("`from` or `to` is missing"));
    };
    let at_ms = kit::word(body, "/timestamp").as_deref().and_then(kit::rfc3339_ms);
    let text = kit::text(body, "/text").unwrap_or_default();
    Ok(CallbackReply { inbound: vec![Inbound { id, from, to, text, at_ms }], ..CallbackReply::default() })
}

fn verify(account: &Account, request: &Callback, now_ms: u64) -> Result<(), CallbackError> {
    let token = kit::header(&request.headers, "authorization").and_then(|value| value.strip_prefix("Bearer "));
    let Some(token) = token else { return kit::unsigned_allowed(account) };
    let secret = account.optional_secret("signature_secret").ok_or(CallbackError::Signature)?;
    let claims = kit::jwt_claims(token.trim(), secret.as_bytes()).ok_or(CallbackError::Signature)?;
    let hash = kit::word(&claims, "/payload_hash").ok_or(CallbackError::Signature)?;
    if !kit::same(hash.to_ascii_lowercase().as_bytes(), kit::sha256_hex(&request.body).as_bytes()) {
        return Err(CallbackError::Signature);
    }
    let issued_ms = kit::seconds_at(&claims, "/iat").ok_or(CallbackError::Malformed("the token has no `iat`"))?;
    if kit::fresh(issued_ms, now_ms) { Ok(()) } else { Err(CallbackError::Replayed) }
}

#[cfg(test)]
mod tests;
