//! Bandwidth on the wire: JSON byte for byte, lists of events, and HTTP Basic on our endpoint.

use http::Method;

use super::*;
use crate::makers::probe::{self, CALLBACK, NOW_MS};

fn account() -> Account {
    probe::account(
        &[("account_id", "9900000"), ("application_id", "93de2206"), ("username", "user"), ("callback_username", "bw")],
        &[("password", "pass"), ("callback_password", "hook")],
    )
}

fn request(authorization: &str, body: &str) -> Callback {
    probe::callback(Method::POST, CALLBACK, &[("authorization", authorization)], body.as_bytes())
}

fn read(body: &str) -> Result<CallbackReply, CallbackError> {
    // `bw:hook`
    Bandwidth.callback(&account(), &request("Basic Ync6aG9vaw==", body), NOW_MS)
}

fn event(kind: &str, code: Option<&str>) -> Value {
    let mut event = json!({
        "type": kind, "time": "2016-09-14T18:20:16Z", "description": "to +447700900123", "to": "+447700900123",
        "message": {"id": "14762070468292", "tag": "msg_1-1", "to": ["+447700900123"], "from": "+12345678901", "direction": "out"},
    });
    if let Some(code) = code {
        event["errorCode"] = code.parse::<u32>().unwrap().into();
    }
    event
}

#[test]
fn a_message_is_one_object() {
    let call = Bandwidth.submit(&account(), &[probe::outgoing(447_700_900_123, "+12345678901", "Hi")], NOW_MS).unwrap();
    let expected = "POST https://messaging.bandwidth.com/api/v2/users/9900000/messages\n\
        accept: application/json\n\
        authorization: Basic dXNlcjpwYXNz\n\
        content-type: application/json\n\n\
        {\"applicationId\":\"93de2206\",\"expiration\":\"2026-11-20T13:00:00Z\",\"from\":\"+12345678901\",\
        \"tag\":\"msg_0123456789abcdef0123456789-1\",\"text\":\"Hi\",\"to\":[\"+447700900123\"]}";
    assert_eq!(probe::wire(&call), expected);
    let expected = "GET https://messaging.bandwidth.com/api/v2/users/9900000/messages?messageStatus=FAILED&limit=1\n\
        accept: application/json\nauthorization: Basic dXNlcjpwYXNz\n\n";
    assert_eq!(probe::wire(&Bandwidth.test(&account(), NOW_MS).unwrap()), expected);
    assert_eq!(expiration(1, u64::MAX), None);
}

#[test]
fn settings_are_checked_by_name() {
    let without = |name: &str| {
        let mut account = account();
        account.fields.remove(name);
        account.secrets.remove(name);
        Bandwidth.check(&account).map_err(|error| error.field)
    };
    assert_eq!(Bandwidth.check(&account()), Ok(()));
    assert_eq!(without("callback_username"), Ok(()));
    for name in ["account_id", "application_id", "username", "password", "callback_password"] {
        assert_eq!(without(name), Err(name.into()));
    }
}

#[test]
fn answers_are_taken_refused_or_in_doubt() {
    let account = account();
    let taken = r#"{"id":"14762070468292kw2fuqty55yp2b2","owner":"+12345678901","segmentCount":1,"tag":"msg_1-1"}"#;
    let id = Some("14762070468292kw2fuqty55yp2b2".into());
    assert_eq!(probe::one(&Bandwidth, &account, &probe::answer(202, taken)), Submitted::Accepted { id, price: None });
    let class = |status, body: &str| probe::class(&Bandwidth, &account, &probe::answer(status, body));
    let invalid = |field: &str| {
        let fields = format!(r#"[{{"fieldName":"{field}","description":"'+447700900123' must be valid"}}]"#);
        format!(r#"{{"type":"request-validation","description":"no","fieldErrors":{fields}}}"#)
    };
    assert_eq!(class(400, &invalid("to")), (ErrorClass::Permanent, "bandwidth-invalid-to".into()));
    assert_eq!(class(400, &invalid("to[0]")).0, ErrorClass::Permanent);
    assert!(!probe::refused(&Bandwidth, &account, &probe::answer(400, &invalid("to"))).text.contains("447"));
    assert_eq!(class(400, &invalid("from")), (ErrorClass::Route, "bandwidth-http-400".into()));
    assert_eq!(class(401, r#"{"type":"unauthorized","description":"x"}"#).0, ErrorClass::Route);
    assert_eq!(class(403, "").0, ErrorClass::Route);
    assert_eq!(class(404, "").0, ErrorClass::Route);
    assert_eq!(class(415, "").0, ErrorClass::Route);
    let full = r#"{"type":"max-message-queue-size-exceeded","description":"full"}"#;
    assert_eq!(class(429, full), (ErrorClass::Transient, "bandwidth-http-429".into()));
    // Bandwidth's own error was not sent; a page of something between us and it says nothing.
    let own = r#"{"type":"internal-server-error","description":"x"}"#;
    assert_eq!(class(500, own), (ErrorClass::Transient, "bandwidth-internal".into()));
    probe::in_doubt(&Bandwidth, &account, &probe::answer(500, "<html>"));
    probe::in_doubt(&Bandwidth, &account, &probe::answer(504, own));
    probe::survives_anything(&Bandwidth, &account);
}

#[test]
fn each_event_has_its_state() {
    let receipt = |kind: &str, code: Option<&str>| {
        read(&json!([event(kind, code)]).to_string()).map(|mut reply| reply.receipts.remove(0))
    };
    let delivered = Receipt {
        reference: Some("msg_1-1".into()),
        id: Some("14762070468292".into()),
        segment: None,
        state: ReceiptState::Delivered,
        at_ms: Some(1_473_877_216_000),
        price: None,
    };
    assert_eq!(receipt("message-delivered", None), Ok(delivered));
    assert_eq!(receipt("message-read", None).unwrap().state, ReceiptState::Delivered);
    for pending in ["message-sending", "message-sent"] {
        assert_eq!(receipt(pending, None).unwrap().state, ReceiptState::Pending);
    }
    assert_eq!(receipt("message-failed", Some("4360")).unwrap().state, ReceiptState::Expired);
    assert_eq!(
        receipt("message-failed", Some("9902")).unwrap().state,
        ReceiptState::Pending,
        "no report is no failure"
    );
    assert!(matches!(receipt("odd", None), Err(CallbackError::Malformed(_))));
    let failed = |code| match receipt("message-failed", code).unwrap().state {
        ReceiptState::Failed(refusal) => (refusal.class, String::from(refusal.code)),
        other => panic!("{other:?}"),
    };
    for (code, class, _) in BANDWIDTH {
        assert_eq!(failed(Some(code)), (*class, format!("bandwidth-{code}")));
    }
    assert_eq!(failed(Some("4999")).0, ErrorClass::Route);
    assert_eq!(failed(Some("5998")).0, ErrorClass::Transient);
    assert_eq!(failed(None), (ErrorClass::Transient, "bandwidth-failed".into()));
}

#[test]
fn events_come_in_lists_and_alone() {
    let inbound = json!({
        "type": "message-received", "time": "2016-09-14T18:20:16Z", "to": "+12345678901", "description": "in",
        "message": {"id": "in1", "to": ["+12345678901"], "from": "+447700900123", "text": "Hello"},
    });
    let reply =
        read(&json!([event("message-sent", None), inbound, event("message-delivered", None)]).to_string()).unwrap();
    let expected = Inbound {
        id: "in1".into(),
        from: "+447700900123".into(),
        to: "+12345678901".into(),
        text: "Hello".into(),
        at_ms: Some(1_473_877_216_000),
    };
    assert_eq!((reply.receipts.len(), reply.inbound), (2, vec![expected]));
    assert_eq!(read(&event("message-sent", None).to_string()).unwrap().receipts.len(), 1);
    assert_eq!(read("[]"), Ok(CallbackReply::default()));
    for bad in ["", "7", "[{}]", r#"[{"type":"message-received","message":{"id":"a"}}]"#, r#"[{"message":{"id":"a"}}]"#]
    {
        assert!(matches!(read(bad), Err(CallbackError::Malformed(_))), "{bad}");
    }
}

#[test]
fn our_endpoint_asks_for_basic() {
    let body = json!([event("message-sent", None)]).to_string();
    let with = |account: &Account, authorization| Bandwidth.callback(account, &request(authorization, &body), NOW_MS);
    assert!(with(&account(), "Basic Ync6aG9vaw==").is_ok());
    for wrong in ["Basic Ync6aG9va3M=", "Basic !", "Basic "] {
        assert_eq!(with(&account(), wrong), Err(CallbackError::Signature), "{wrong}");
    }
    assert_eq!(with(&account(), "Bearer x"), Err(CallbackError::Unsigned));
    let mut unset = account();
    unset.secrets.remove("callback_password");
    assert_eq!(with(&unset, "Basic Ync6"), Err(CallbackError::Signature), "nothing to check it with");
    let bare = probe::callback(Method::POST, CALLBACK, &[], body.as_bytes());
    assert_eq!(Bandwidth.callback(&account(), &bare, NOW_MS), Err(CallbackError::Unsigned));
    let lax = Account { unsigned_callbacks: true, ..account() };
    assert!(Bandwidth.callback(&lax, &bare, NOW_MS).is_ok());
    assert!(matches!(Bandwidth.judge(&account(), &probe::answer(401, "")), Judged::Refused(_)));
    assert!(matches!(Bandwidth.judge(&account(), &probe::answer(200, "{}")), Judged::Works(_)));
}
