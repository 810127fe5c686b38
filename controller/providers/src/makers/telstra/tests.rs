//! Telstra: token and requests on the wire, every code, callbacks, polling.

use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};
use http::Method;

use super::*;
use crate::makers::probe::{self, CALLBACK, answer, callback, class, in_doubt, one, outgoing, wire};

const MAKER: Telstra = Telstra;
const ID: &str = "1520b774-46b0-4415-a05f-7bcb1c032c59";

fn account() -> Account {
    let secrets = [("client_id", "id"), ("client_secret", "s3cret"), ("token", "t0ken")];
    Account { unsigned_callbacks: true, ..probe::account(&[], &secrets) }
}

fn errors(code: &str, field: &str) -> String {
    json!({"errors": [{"code": code, "issue": "x", "suggested_action": "y", "field": field}]}).to_string()
}

#[test]
fn a_token_is_fetched_first() {
    let call = MAKER.token(&account(), 0).unwrap().unwrap();
    assert_eq!(
        wire(&call),
        "POST https://products.api.telstra.com/v2/oauth/token\naccept: application/json\n\
         content-type: application/x-www-form-urlencoded\n\n\
         grant_type=client_credentials&client_id=id&client_secret=s3cret&scope=messages%3Aread+messages%3Awrite"
    );
    let token = |status, body: &str| MAKER.token_of(&answer(status, body));
    let lives = |ms| Some((Box::from("abc"), ms));
    assert_eq!(token(200, r#"{"access_token":"abc","token_type":"Bearer","expires_in":"3599"}"#), lives(3_539_000));
    assert_eq!(token(200, r#"{"access_token":"abc","expires_in":30}"#), lives(0));
    assert_eq!(token(200, r#"{"access_token":"abc","expires_in":99999999999}"#), lives(86_340_000));
    assert_eq!(token(200, r#"{"access_token":"","expires_in":3599}"#), None);
    assert_eq!(token(401, r#"{"access_token":"abc","expires_in":3599}"#), None);
}

#[test]
fn the_request_is_exact() {
    let message = Outgoing { validity_s: 600, ..outgoing(61_412_345_678, "+61400111222", "G'day \u{1f44b}") };
    assert_eq!(
        wire(&MAKER.submit(&account(), &[message], 0).unwrap()),
        "POST https://products.api.telstra.com/messaging/v3/messages\naccept-charset: utf-8\naccept: application/json\n\
         authorization: Bearer t0ken\ncontent-language: en-au\ncontent-type: application/json\n\n\
         {\"deliveryNotification\":true,\"from\":\"0400111222\",\"messageContent\":\"G'day \u{1f44b}\",\"retryTimeout\":10,\
         \"statusCallbackUrl\":\"https://sms.example/v1/callbacks/maker/prv_1/tok?ref=msg_0123456789abcdef0123456789-1\",\
         \"tags\":[\"msg_0123456789abcdef0123456789-1\"],\"to\":\"0412345678\"}"
    );
    let mut plain = account();
    plain.fields.insert("delivery_notification".into(), "no".into());
    let message = Outgoing { validity_s: 10_000_000, ..outgoing(441_234_567_890, "ACME", "a") };
    let call = MAKER.submit(&plain, &[message], 0).unwrap();
    assert_eq!(
        std::str::from_utf8(&call.body).unwrap(),
        "{\"deliveryNotification\":false,\"from\":\"ACME\",\"messageContent\":\"a\",\"retryTimeout\":1440,\
         \"tags\":[\"msg_0123456789abcdef0123456789-1\"],\"to\":\"+441234567890\"}"
    );
}

#[test]
fn settings_are_checked() {
    assert_eq!(MAKER.check(&account()), Ok(()));
    let mut odd = account();
    odd.fields.insert("delivery_notification".into(), "maybe".into());
    assert_eq!(MAKER.check(&odd).unwrap_err().field.as_ref(), "delivery_notification");
    assert_eq!(MAKER.check(&probe::account(&[], &[("client_id", "i")])).unwrap_err().field.as_ref(), "client_secret");
    let early = probe::account(&[], &[("client_id", "i"), ("client_secret", "s")]);
    let unsent = MAKER.submit(&early, &[outgoing(61_412_345_678, "S", "a")], 0);
    assert_eq!(unsent.unwrap_err().field.as_ref(), "token", "no request goes out without a token");
}

#[test]
fn every_code_is_read() {
    for body in [json!({"messageId": ID}), json!({"messageId": [ID]})] {
        let taken = one(&MAKER, &account(), &answer(201, &body.to_string()));
        assert_eq!(taken, Submitted::Accepted { id: Some(ID.into()), price: None });
    }
    for (code, wanted, _) in ANSWER {
        let found = class(&MAKER, &account(), &answer(400, &errors(code, "")));
        assert_eq!(found, (*wanted, format!("telstra-{code}")));
    }
    for code in ["FIELD_INVALID", "FIELD_LENGTH_ERR"] {
        for (field, wanted) in [("to", Permanent), ("messageContent", Permanent), ("from", Route), ("", Route)] {
            assert_eq!(class(&MAKER, &account(), &answer(400, &errors(code, field))).0, wanted, "{code} {field}");
        }
    }
    assert_eq!(class(&MAKER, &account(), &answer(400, &errors("NEW", ""))), (Route, "telstra-http-400".into()));
    let throttled = probe::with_header(answer(429, &errors("TOO_MANY_REQUESTS", "")), "retry-after", "60");
    let refusal = probe::refused(&MAKER, &account(), &throttled);
    assert_eq!((refusal.class, refusal.retry_after_ms), (Transient, Some(60_000)));
    for code in ["INTERNAL_TIMEOUT", "INTERNAL_SERVER_ERR", "NETWORK_ERR", "RECIPIENT_OPTOUT"] {
        in_doubt(&MAKER, &account(), &answer(500, &errors(code, "")));
    }
}

#[test]
fn callbacks_are_read() {
    let url = format!("{CALLBACK}?ref=msg_1-1");
    let report = |status: &str| {
        let body = json!({"to": "0476543210", "from": "0401234567", "timestamp": "2022-11-10T05:06:42.823Z",
            "messageId": ID, "status": status});
        let request = callback(Method::POST, &url, &[], body.to_string().as_bytes());
        MAKER.callback(&account(), &request, 0).unwrap().receipts.remove(0)
    };
    let delivered = report("delivered");
    assert_eq!((delivered.reference.as_deref(), delivered.id.as_deref()), (Some("msg_1-1"), Some(ID)));
    assert_eq!((delivered.state, delivered.at_ms), (ReceiptState::Delivered, Some(1_668_056_802_823)));
    assert_eq!(report("queued").state, ReceiptState::Pending);
    assert_eq!(report("sent").state, ReceiptState::Pending);
    assert_eq!(report("expired").state, ReceiptState::Expired);
    assert!(matches!(report("undeliverable").state, ReceiptState::Failed(refusal) if refusal.class == Transient));
}

#[test]
fn replies_are_read() {
    let body = json!({"to": "0476543210", "from": "0401234567", "timestamp": "2022-11-10T05:06:42.823Z",
        "messageId": ID, "messageContent": "Hi, example message"});
    let request = callback(Method::POST, CALLBACK, &[], body.to_string().as_bytes());
    let reply = MAKER.callback(&account(), &request, 0).unwrap();
    assert_eq!((&*reply.inbound[0].from, &*reply.inbound[0].text), ("0401234567", "Hi, example message"));
    for body in ["", "{}", "{\"status\":\"delivered\"}"] {
        let request = callback(Method::POST, CALLBACK, &[], body.as_bytes());
        assert!(matches!(MAKER.callback(&account(), &request, 0), Err(CallbackError::Malformed(_))), "{body}");
    }
    let strict = Account { unsigned_callbacks: false, ..account() };
    assert_eq!(MAKER.callback(&strict, &request, 0), Err(CallbackError::Unsigned));
}

#[test]
fn states_are_asked_for() {
    assert_eq!(MAKER.poll_max(), 1);
    let call = MAKER.poll(&account(), &[ID.into()], 0).unwrap().unwrap();
    assert_eq!(call.url.as_str(), format!("https://products.api.telstra.com/messaging/v3/messages/{ID}"));
    let polled = |status, id: &str| {
        let body = json!({"messageId": id, "status": "delivered", "receivedTimestamp": "2022-11-10T05:06:42.823Z"});
        MAKER.polled(&account(), &[ID.into()], &answer(status, &body.to_string()))
    };
    assert_eq!(
        (&polled(200, ID)[0].state, polled(200, ID)[0].at_ms),
        (&ReceiptState::Delivered, Some(1_668_056_802_823))
    );
    assert_eq!(polled(200, "other"), []);
    assert_eq!(polled(404, ID), []);
    let test = MAKER.test(&account(), 0).unwrap();
    assert_eq!(test.url.as_str(), "https://products.api.telstra.com/messaging/v3/messages?limit=1");
    assert!(matches!(MAKER.judge(&account(), &answer(401, "")), Judged::Refused(_)));
    assert!(MAKER.balance(&account(), 0).is_none());
}

#[test]
fn nothing_makes_it_panic() {
    probe::survives_anything(&MAKER, &account());
}
