//! A maker as simple as one can be, in the kinds that there are: one that gives ids of its own (`test`), one that sends our
//! references back (`test-echo`), and one that does so for each part of a long text (`test-parts`). Callbacks are signed with HMAC-SHA256 over the body.

use data_encoding::HEXLOWER;
use flotilla_protocol::wire::ErrorClass;
use flotilla_providers::errors::ErrorTable;
use flotilla_providers::{
    Account, Answer, Balance, Call, Callback, CallbackError, CallbackReply, Capabilities, FieldError, Inbound, Judged,
    Maker, Outgoing, Receipt, ReceiptState, Refusal, Submitted,
};
use http::{HeaderMap, HeaderValue, Method, header};
use ring::hmac;
use serde_json::{Value, json};

pub(crate) static MAKERS: &[&dyn Maker] = &[&TestMaker(&PLAIN), &TestMaker(&ECHO), &TestMaker(&PARTS)];

/// What [`TestMaker`] answers its callbacks with.
pub(crate) const THANKS: &str = "thanks";
pub(crate) const SIGNATURE: &str = "x-signature";

static PLAIN: Capabilities = Capabilities { name: "test", echoes_reference: false, ..BASE };
static ECHO: Capabilities = Capabilities { name: "test-echo", echoes_reference: true, polls: false, ..BASE };
static PARTS: Capabilities = Capabilities { name: "test-parts", batch_max: 1, ..ECHO };

const BASE: Capabilities = Capabilities {
    name: "test",
    title: "Test",
    fields: &[("region", false, "anything")],
    secrets: &[("key", true, "signs callbacks"), ("login", false, "gets a token")],
    batch_max: 10,
    batch: "ten",
    callbacks: true,
    signature: Some("HMAC-SHA256"),
    polls: true,
    balance: true,
    inbound: true,
    echoes_reference: false,
};

struct TestMaker(&'static Capabilities);

pub(crate) fn signature(secret: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    HEXLOWER.encode(hmac::sign(&key, body).as_ref())
}

fn call(account: &Account, method: Method, path: &str, body: &Value) -> Result<Call, FieldError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for name in ["key", "token"] {
        if let Some(secret) = account.optional_secret(name) {
            let wrong = |_| FieldError { field: name.into(), problem: "is no header".into() };
            headers.insert(name, HeaderValue::from_str(secret).map_err(wrong)?);
        }
    }
    let url = account.url("https://api.example.org", path)?;
    Ok(Call { method, url, headers, body: body.to_string().into() })
}

fn refusal(class: ErrorClass, code: &str, retry_after_ms: Option<u64>) -> Refusal {
    Refusal { class, code: format!("test-{code}").into(), text: "as asked".into(), retry_after_ms }
}

fn state(text: &str) -> Option<ReceiptState> {
    Some(match text {
        "pending" => ReceiptState::Pending,
        "delivered" => ReceiptState::Delivered,
        "failed" => ReceiptState::Failed(refusal(ErrorClass::Permanent, "13", None)),
        "lost" => ReceiptState::Failed(refusal(ErrorClass::Route, "14", None)),
        "expired" => ReceiptState::Expired,
        _ => return None,
    })
}

fn receipts(value: &Value) -> Vec<Receipt> {
    let text = |value: &Value, name: &str| value[name].as_str().map(Into::into);
    let receipt = |value: &Value| {
        Some(Receipt {
            reference: text(value, "ref"),
            id: text(value, "id"),
            segment: value["segment"].as_u64().and_then(|segment| segment.try_into().ok()),
            state: state(value["state"].as_str()?)?,
            at_ms: None,
            price: value["price"].as_u64().map(|micros| (micros, "USD".into())),
        })
    };
    value.as_array().map(|all| all.iter().filter_map(receipt).collect()).unwrap_or_default()
}

impl Maker for TestMaker {
    fn capabilities(&self) -> &'static Capabilities {
        self.0
    }

    fn errors(&self) -> &'static [ErrorTable] {
        &[]
    }

    fn check(&self, account: &Account) -> Result<(), FieldError> {
        account.secret("key").map(drop)
    }

    fn submit(&self, account: &Account, batch: &[Outgoing], _now_ms: u64) -> Result<Call, FieldError> {
        let message = |one: &Outgoing| {
            json!({"ref": one.reference, "to": one.to.to_string(), "from": one.sender, "text": one.text,
                "segments": one.segments, "unicode": one.unicode})
        };
        let messages: Vec<Value> = batch.iter().map(message).collect();
        call(account, Method::POST, "send", &json!({ "messages": messages }))
    }

    fn submitted(&self, _account: &Account, batch: &[Outgoing], answer: &Answer) -> Vec<Submitted> {
        let all = |result: Submitted| vec![result; batch.len()];
        match answer.status.as_u16() {
            200 => {}
            401 => return all(Submitted::Refused(refusal(ErrorClass::Route, "401", None))),
            429 => {
                let seconds =
                    answer.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                let pause = seconds.map(|seconds: u64| seconds * 1_000);
                return all(Submitted::Refused(refusal(ErrorClass::Route, "429", pause)));
            }
            _ => return all(Submitted::Unclear("it has trouble".into())),
        }
        let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let Some(results) = value["results"].as_array() else { return all(Submitted::Unclear("garbage".into())) };
        let result = |value: &Value| match value["error"].as_str() {
            Some("permanent") => Submitted::Refused(refusal(ErrorClass::Permanent, "21", None)),
            Some(_) => Submitted::Refused(refusal(ErrorClass::Route, "22", None)),
            None => Submitted::Accepted {
                id: value["id"].as_str().map(Into::into),
                price: value["price"].as_u64().map(|micros| (micros, "USD".into())),
            },
        };
        results.iter().map(result).collect()
    }

    fn reports_parts(&self) -> bool {
        self.0.name == PARTS.name
    }

    fn parts(&self, answer: &Answer) -> Vec<Box<str>> {
        let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let parts = value["results"][0]["parts"].as_array().cloned().unwrap_or_default();
        let ids = parts.iter().filter_map(|id| Some(id.as_str()?.into())).collect();
        if self.reports_parts() { ids } else { Vec::new() }
    }

    fn callback(&self, account: &Account, request: &Callback, _now_ms: u64) -> Result<CallbackReply, CallbackError> {
        let secret = account.secret("key").map_err(|_| CallbackError::Signature)?;
        match request.headers.get(SIGNATURE) {
            Some(given) if given.as_bytes() == signature(secret, &request.body).as_bytes() => {}
            Some(_) => return Err(CallbackError::Signature),
            None if account.unsigned_callbacks => {}
            None => return Err(CallbackError::Unsigned),
        }
        let value: Value = serde_json::from_slice(&request.body).map_err(|_| CallbackError::Malformed("no JSON"))?;
        let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().into();
        let inbound = |value: &Value| Inbound {
            id: text(value, "id"),
            from: text(value, "from"),
            to: text(value, "to"),
            text: text(value, "text"),
            at_ms: None,
        };
        let all = value["inbound"].as_array().map(|all| all.iter().map(inbound).collect());
        Ok(CallbackReply { receipts: receipts(&value["reports"]), inbound: all.unwrap_or_default(), answer: THANKS })
    }

    fn poll(&self, account: &Account, ids: &[Box<str>], _now_ms: u64) -> Option<Result<Call, FieldError>> {
        self.0.polls.then(|| call(account, Method::POST, "poll", &json!({ "ids": ids })))
    }

    fn polled(&self, _account: &Account, _ids: &[Box<str>], answer: &Answer) -> Vec<Receipt> {
        let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        receipts(&value["reports"])
    }

    fn balance(&self, account: &Account, _now_ms: u64) -> Option<Result<Call, FieldError>> {
        Some(call(account, Method::GET, "balance", &Value::Null))
    }

    fn balance_of(&self, _account: &Account, answer: &Answer) -> Option<Balance> {
        let value: Value = serde_json::from_slice(&answer.body).ok()?;
        Some(Balance { micros: value["micros"].as_i64()?, currency: "USD".into() })
    }

    fn test(&self, account: &Account, _now_ms: u64) -> Result<Call, FieldError> {
        call(account, Method::GET, "test", &Value::Null)
    }

    fn judge(&self, _account: &Account, answer: &Answer) -> Judged {
        match answer.status.as_u16() {
            200 => Judged::Works("it answers".into()),
            401 => Judged::Refused("it does not know the key".into()),
            _ => Judged::Unclear("it has trouble".into()),
        }
    }

    fn token(&self, account: &Account, _now_ms: u64) -> Option<Result<Call, FieldError>> {
        let login = account.optional_secret("login")?;
        Some(call(account, Method::POST, "token", &json!({ "login": login })))
    }

    fn token_of(&self, answer: &Answer) -> Option<(Box<str>, u64)> {
        let value: Value = serde_json::from_slice(&answer.body).ok()?;
        Some((value["token"].as_str()?.into(), 3_600_000))
    }
}
