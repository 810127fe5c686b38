//! Vonage's SMS API (formerly Nexmo). Sources: <https://developer.vonage.com/api/sms>, Nexmo/api-specification `sms.yml`,
//! Vonage/vonage-python-sdk (signatures and their vectors),
//! <https://developer.vonage.com/getting-started/concepts/signing-messages>.
//!
//! A long text is cut into parts by Vonage, and each has a status of its own in the answer: when one is refused after others
//! were taken, the message is in doubt. Each part has an id of its own in the answer, and a report of its own, which carries our
//! `client-ref` too: the message is delivered when all of its parts are.
//! Not confirmed: whether the plain MD5 method (`md5hash`) is still offered; the SDK of today writes HMAC only.

use data_encoding::HEXLOWER;
use flotilla_protocol::wire::ErrorClass;
use hmac::{Hmac, KeyInit, Mac};
use http::Method;
use md5::{Digest, Md5};
use ring::hmac as ring_hmac;
use serde_json::Value;
use url::Url;

use super::kit;
use crate::errors::ErrorTable;
use crate::errors::vonage::{SMS_RECEIPT, SMS_STATUS};
use crate::maker::{
    Balance, CallbackError, CallbackReply, Capabilities, Inbound, Judged, Maker, Outgoing, Receipt, ReceiptState,
    Refusal, Submitted,
};
use crate::{Account, Answer, Call, Callback, FieldError};

const BASE: &str = "https://rest.nexmo.com";
const NAME: &str = "vonage-sms";
/// How long Vonage tries, at least and at most, in seconds.
const VALIDITY_S: std::ops::RangeInclusive<u32> = 20..=604_800;

static CAPABILITIES: Capabilities = Capabilities {
    name: NAME,
    title: "Vonage SMS",
    fields: &[
        ("api_key", true, "the account's API key"),
        ("signature_method", false, "`md5hash`, `md5`, `sha1`, `sha256` (default) or `sha512`, as in the dashboard"),
    ],
    secrets: &[
        ("api_secret", false, "the account's API secret; without it requests are signed"),
        ("signature_secret", false, "checks the callbacks, and signs requests when there is no API secret"),
    ],
    batch_max: 1,
    batch: "one message a request",
    callbacks: true,
    signature: Some("HMAC or MD5 of the parameters, `sig`"),
    polls: false,
    balance: true,
    inbound: true,
    echoes_reference: true,
};

pub(crate) struct VonageSms;

impl Maker for VonageSms {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn errors(&self) -> &'static [ErrorTable] {
        crate::errors::vonage::SMS_TABLES
    }

    fn check(&self, account: &Account) -> Result<(), FieldError> {
        kit::required(account, &CAPABILITIES)?;
        Signing::of(account)?;
        if account.optional_secret("api_secret").is_none() {
            account.secret("signature_secret").map_err(|_| {
                kit::wrong("api_secret", "is missing; give it or `signature_secret` as a secret of the account")
            })?;
        }
        account.url(BASE, "/").map(|_| ())
    }

    fn submit(&self, account: &Account, batch: &[Outgoing], now_ms: u64) -> Result<Call, FieldError> {
        let [message] = batch else { return Err(kit::wrong("batch", "holds more than one message")) };
        let ttl = u64::from(message.validity_s.clamp(*VALIDITY_S.start(), *VALIDITY_S.end())) * 1000;
        let mut pairs: Vec<(&str, String)> = vec![
            ("api_key", account.field("api_key")?.into()),
            ("from", kit::bare_sender(&message.sender).into()),
            ("to", kit::digits(message.to)),
            ("text", message.text.to_string()),
            ("type", if message.unicode { "unicode" } else { "text" }.into()),
            ("ttl", ttl.to_string()),
            ("client-ref", message.reference.to_string()),
        ];
        if message.flash {
            pairs.push(("message-class", "0".into()));
        }
        if let Some(url) = &account.callback_url {
            pairs.push(("callback", url.to_string()));
        }
        match account.optional_secret("api_secret") {
            Some(secret) => pairs.push(("api_secret", secret.into())),
            None => {
                pairs.push(("timestamp", (now_ms / 1000).to_string()));
                let sorted = sorted(pairs.iter().map(|(name, value)| (*name, value.as_str())));
                let tag = Signing::of(account)?.sign(account.secret("signature_secret")?.as_bytes(), &sorted);
                pairs.push(("sig", HEXLOWER.encode(&tag)));
            }
        }
        Ok(kit::post_form(account.url(BASE, "/sms/json")?, pairs.iter().map(|(name, value)| (*name, value.as_str()))))
    }

    fn submitted(&self, _account: &Account, batch: &[Outgoing], answer: &Answer) -> Vec<Submitted> {
        batch.iter().map(|_| outcome(answer)).collect()
    }

    fn reports_parts(&self) -> bool {
        true
    }

    fn parts(&self, answer: &Answer) -> Vec<Box<str>> {
        let body = kit::json(&answer.body).unwrap_or(Value::Null);
        let parts = body.pointer("/messages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let ids: Option<Vec<_>> = parts.iter().map(|part| kit::word(part, "/message-id")).collect();
        // Without all of them nobody could say when the last one is there.
        ids.unwrap_or_default()
    }

    fn callback(&self, account: &Account, request: &Callback, now_ms: u64) -> Result<CallbackReply, CallbackError> {
        let params = params(request).ok_or(CallbackError::Malformed("neither a form nor JSON"))?;
        verify(account, &params, now_ms)?;
        let id = kit::value_of(&params, "messageId").and_then(kit::bounded);
        let id = id.ok_or(CallbackError::Malformed("`messageId` is missing"))?;
        match kit::value_of(&params, "status") {
            Some(status) => receipt(&params, id, status),
            None => inbound(&params, id),
        }
    }

    fn balance(&self, account: &Account, _now_ms: u64) -> Option<Result<Call, FieldError>> {
        account.optional_secret("api_secret").map(|_| self.test(account, 0))
    }

    fn balance_of(&self, _account: &Account, answer: &Answer) -> Option<Balance> {
        balance_of(answer)
    }

    fn test(&self, account: &Account, _now_ms: u64) -> Result<Call, FieldError> {
        balance_call(account, account.url(BASE, "/account/get-balance")?)
    }

    fn judge(&self, _account: &Account, answer: &Answer) -> Judged {
        kit::judged(answer)
    }
}

/// Asks for the balance; the Messages API has no such thing of its own.
pub(super) fn balance_call(account: &Account, url: Url) -> Result<Call, FieldError> {
    kit::get(url).basic(account.field("api_key")?, account.secret("api_secret")?)
}

/// Vonage's balances are in euros.
pub(super) fn balance_of(answer: &Answer) -> Option<Balance> {
    let body = kit::json(&answer.body).filter(|_| answer.status.is_success())?;
    Some(Balance { micros: kit::micros_at(&body, "/value")?, currency: "EUR".into() })
}

/// All parts taken, all refused, or in doubt.
fn outcome(answer: &Answer) -> Submitted {
    if !answer.status.is_success() {
        return kit::by_status(NAME, answer);
    }
    let body = kit::json(&answer.body).unwrap_or(Value::Null);
    let parts = body.pointer("/messages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let statuses: Option<Vec<_>> = parts.iter().map(|part| kit::word(part, "/status")).collect();
    let Some(statuses) = statuses.filter(|statuses| !statuses.is_empty()) else { return kit::unclear(answer) };
    let refused = statuses.iter().find(|status| &***status != "0");
    match refused {
        None => match kit::word(&parts[0], "/message-id") {
            Some(id) => Submitted::Accepted { id: Some(id), price: price(parts) },
            None => kit::unclear(answer),
        },
        Some(_) if statuses.iter().any(|status| &**status == "0") => {
            Submitted::Unclear("some parts were taken and others were refused".into())
        }
        // The platform's own error while it processed the message does not say how far it came.
        Some(status) if &**status == "5" => Submitted::Unclear("an internal error of the maker".into()),
        Some(status) => Submitted::Refused(kit::refusal_of(NAME, SMS_STATUS, status, ErrorClass::Route)),
    }
}

/// The parts' prices together.
fn price(parts: &[Value]) -> Option<(u64, Box<str>)> {
    let prices: Option<Vec<_>> = parts.iter().map(|part| kit::price(&kit::word(part, "/message-price")?)).collect();
    Some((prices?.iter().sum(), "EUR".into()))
}

fn receipt(params: &[(String, String)], id: Box<str>, status: &str) -> Result<CallbackReply, CallbackError> {
    let code = kit::value_of(params, "err-code").filter(|code| *code != "0");
    let state = match status {
        "delivered" => ReceiptState::Delivered,
        "accepted" | "buffered" | "unknown" => ReceiptState::Pending,
        "expired" => ReceiptState::Expired,
        "failed" | "rejected" => ReceiptState::Failed(failure(status, code)),
        _ => return Err(CallbackError::Malformed("`status` is not known")),
    };
    let price = kit::value_of(params, "price").and_then(kit::price).map(|micros| (micros, "EUR".into()));
    let at_ms = kit::value_of(params, "message-timestamp").and_then(kit::utc_ms);
    let reference = kit::value_of(params, "client-ref").and_then(kit::reference);
    let receipts = vec![Receipt { reference, id: Some(id), segment: None, state, at_ms, price }];
    Ok(CallbackReply { receipts, ..CallbackReply::default() })
}

fn failure(status: &str, code: Option<&str>) -> Refusal {
    match code {
        Some(code) => {
            let mut refusal = kit::refusal_of(NAME, SMS_RECEIPT, code, ErrorClass::Transient);
            refusal.code = format!("{NAME}-dlr-{code}").into();
            refusal
        }
        None => kit::refusal(NAME, ErrorClass::Transient, status, "the maker gives no reason", None),
    }
}

fn inbound(params: &[(String, String)], id: Box<str>) -> Result<CallbackReply, CallbackError> {
    let word = |name| kit::value_of(params, name).and_then(kit::bounded);
    let (Some(from), Some(to)) = (word("msisdn"), word("to")) else {
        return Err(CallbackError::Malformed("`msisdn` or `to` is missing"));
    };
    let text = kit::value_of(params, "text").unwrap_or_default().into();
    let at_ms = kit::value_of(params, "message-timestamp").and_then(kit::utc_ms);
    Ok(CallbackReply { inbound: vec![Inbound { id, from, to, text, at_ms }], ..CallbackReply::default() })
}

/// The parameters of a callback: the query, a form, or a JSON object, as the account is set.
fn params(request: &Callback) -> Option<Vec<(String, String)>> {
    if request.method == Method::GET || request.body.is_empty() {
        return Some(kit::pairs(request.url.query().unwrap_or_default().as_bytes()));
    }
    match kit::json(&request.body) {
        Some(Value::Object(object)) => {
            let text = |value: &Value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            Some(object.iter().map(|(name, value)| (name.clone(), text(value))).collect())
        }
        Some(_) => None,
        None => Some(kit::pairs(&request.body)),
    }
}

fn verify(account: &Account, params: &[(String, String)], now_ms: u64) -> Result<(), CallbackError> {
    let Some(signature) = kit::value_of(params, "sig") else { return kit::unsigned_allowed(account) };
    let secret = account.optional_secret("signature_secret").ok_or(CallbackError::Signature)?;
    let method = Signing::of(account).map_err(|_| CallbackError::Signature)?;
    let tag = HEXLOWER.decode(signature.to_ascii_lowercase().as_bytes()).map_err(|_| CallbackError::Signature)?;
    let others = params.iter().filter(|(name, _)| name != "sig").map(|(name, value)| (name.as_str(), value.as_str()));
    if !kit::same(&method.sign(secret.as_bytes(), &sorted(others)), &tag) {
        return Err(CallbackError::Signature);
    }
    let signed_s = kit::value_of(params, "timestamp").and_then(|text| text.parse::<u64>().ok());
    let signed_s = signed_s.ok_or(CallbackError::Malformed("`timestamp` is missing"))?;
    if kit::fresh(signed_s.saturating_mul(1000), now_ms) { Ok(()) } else { Err(CallbackError::Replayed) }
}

/// What is signed: `&name=value` of each parameter, sorted by name; `&` and `=` in values become `_`.
fn sorted<'a>(params: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut params: Vec<_> = params.collect();
    params.sort();
    params.iter().fold(String::new(), |mut text, (name, value)| {
        text.push('&');
        text.push_str(name);
        text.push('=');
        text.extend(value.chars().map(|c| if matches!(c, '&' | '=') { '_' } else { c }));
        text
    })
}

/// How the account signs, as set in Vonage's dashboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signing {
    Md5Hash,
    Md5,
    Sha1,
    Sha256,
    Sha512,
}

impl Signing {
    fn of(account: &Account) -> Result<Self, FieldError> {
        Ok(match account.optional("signature_method").unwrap_or("sha256") {
            "md5hash" => Self::Md5Hash,
            "md5" => Self::Md5,
            "sha1" => Self::Sha1,
            "sha256" => Self::Sha256,
            "sha512" => Self::Sha512,
            _ => return Err(kit::wrong("signature_method", "is none of `md5hash`, `md5`, `sha1`, `sha256`, `sha512`")),
        })
    }

    fn sign(self, secret: &[u8], text: &str) -> Vec<u8> {
        let hmac = |algorithm| kit::hmac_of(algorithm, secret, text.as_bytes()).as_ref().to_vec();
        match self {
            Self::Md5Hash => Md5::new().chain_update(text).chain_update(secret).finalize().to_vec(),
            Self::Md5 => match Hmac::<Md5>::new_from_slice(secret) {
                Ok(mac) => mac.chain_update(text).finalize().into_bytes().to_vec(),
                // HMAC takes keys of any length.
                Err(_) => Vec::new(),
            },
            Self::Sha1 => hmac(ring_hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            Self::Sha256 => hmac(ring_hmac::HMAC_SHA256),
            Self::Sha512 => hmac(ring_hmac::HMAC_SHA512),
        }
    }
}

#[cfg(test)]
mod tests;
