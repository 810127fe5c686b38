//! ClickSend: the request on the wire, every code, receipts by JSON, form and query, messages.

use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};
use http::Method;

use super::*;
use crate::makers::probe::{self, CALLBACK, answer, callback, class, in_doubt, one, outgoing, wire};

const MAKER: ClickSend = ClickSend;
const OURS: &str = "msg_0123456789abcdef0123456789-1";
const ID: &str = "4C8F4E2A-1B3F-4D1E-9C1A-0A1B2C3D4E5F";

fn account() -> Account {
    Account { unsigned_callbacks: true, ..probe::account(&[("username", "acme")], &[("api_key", "k3y")]) }
}

fn entry(reference: &str, status: &str) -> Value {
    json!({"to": "+447700900123", "custom_string": reference, "status": status, "message_id": ID,
        "message_price": "0.0770", "message_parts": 1})
}

fn body(entries: &[Value]) -> String {
    json!({"http_code": 200, "response_code": "SUCCESS", "response_msg": "Messages queued for delivery.",
        "data": {"messages": entries, "_currency": {"currency_name_short": "AUD"}}})
    .to_string()
}

fn call(url: &str, body: &str) -> Result<CallbackReply, CallbackError> {
    MAKER.callback(&account(), &callback(Method::POST, url, &[], body.as_bytes()), 0)
}

#[test]
fn the_request_is_exact() {
    let call = MAKER.submit(&account(), &[outgoing(61_411_111_111, "ACME", "G'day")], 0).unwrap();
    assert_eq!(
        wire(&call),
        "POST https://rest.clicksend.com/v3/sms/send\naccept: application/json\nauthorization: Basic YWNtZTprM3k=\n\
         content-type: application/json\n\n\
         {\"messages\":[{\"body\":\"G'day\",\"custom_string\":\"msg_0123456789abcdef0123456789-1\",\"from\":\"ACME\",\
         \"source\":\"flotilla\",\"to\":\"+61411111111\"}]}"
    );
    let call = MAKER.submit(&account(), &[outgoing(61_411_111_111, "", "a")], 0).unwrap();
    assert!(!std::str::from_utf8(&call.body).unwrap().contains("from"));
}

#[test]
fn every_status_is_read() {
    let taken = one(&MAKER, &account(), &answer(200, &body(&[entry(OURS, "SUCCESS")])));
    assert_eq!(taken, Submitted::Accepted { id: Some(ID.into()), price: Some((77_000, "AUD".into())) });
    for (status, wanted, _) in ANSWER {
        let found = class(&MAKER, &account(), &answer(200, &body(&[entry(OURS, status)])));
        assert_eq!(found, (*wanted, format!("clicksend-{status}")));
    }
    for status in ["INTERNAL_ERROR", "SOMETHING_IS_WRONG", "ALREADY_EXISTS", "NEW"] {
        in_doubt(&MAKER, &account(), &answer(200, &body(&[entry(OURS, status)])));
    }
}

#[test]
fn the_whole_request_can_be_refused() {
    let refused = |status, code| {
        class(&MAKER, &account(), &answer(status, &json!({"http_code": status, "response_code": code}).to_string()))
    };
    assert_eq!(refused(401, "INVALID_CREDENTIALS"), (Route, "clicksend-INVALID_CREDENTIALS".into()));
    assert_eq!(refused(400, "BAD_REQUEST"), (Route, "clicksend-http-400".into()));
    assert_eq!(refused(429, "TOO_MANY_REQUESTS").0, Transient);
    in_doubt(&MAKER, &account(), &answer(500, r#"{"response_code":"INSUFFICIENT_CREDIT"}"#));
    in_doubt(&MAKER, &account(), &answer(200, r#"{"response_code":"SUCCESS","data":null}"#));
}

#[test]
fn a_batch_is_matched_by_reference_and_then_by_number() {
    let message = |n: u64, to| Outgoing { reference: format!("msg_{n}-1").into(), ..outgoing(to, "S", "a") };
    let batch = [
        message(1, 61_411_111_111),
        message(2, 61_422_222_222),
        message(3, 61_433_333_333),
        message(4, 61_433_333_333),
    ];
    let bare = |to: &str, status: &str| json!({"to": to, "status": status});
    let odd = answer(200, &body(&[bare("0411 111 111", "INVALID_RECIPIENT")]));
    assert_eq!(class(&MAKER, &account(), &odd).0, Permanent, "the only answer to the only message");
    in_doubt(&MAKER, &account(), &answer(200, &body(&[entry("msg_9-1", "SUCCESS")])));
    let entries = [
        bare("+61433333333", "INVALID_RECIPIENT"),
        bare("+61422222222", "INVALID_RECIPIENT"),
        entry("msg_1-1", "SUCCESS"),
    ];
    let all = MAKER.submitted(&account(), &batch, &answer(200, &body(&entries)));
    assert!(matches!(all[0], Submitted::Accepted { .. }));
    assert!(matches!(&all[1], Submitted::Refused(refusal) if refusal.class == Permanent));
    assert!(matches!(all[2], Submitted::Unclear(_)), "two of the batch have this number");
    assert!(matches!(all[3], Submitted::Unclear(_)));
}

#[test]
fn every_receipt_is_read() {
    let receipt = |status: &str, error: &str| {
        let body = json!({"message_id": ID, "custom_string": OURS, "status_code": status, "error_code": error,
            "timestamp": 1_400_046_380, "message_type": "sms"});
        let reply = call(CALLBACK, &body.to_string()).unwrap();
        let receipt = reply.receipts[0].clone();
        assert_eq!((receipt.reference.as_deref(), receipt.id.as_deref()), (Some(OURS), Some(ID)));
        assert_eq!(receipt.at_ms, Some(1_400_046_380_000));
        receipt.state
    };
    for error in ["1", "2", "3", "6"] {
        assert_eq!(receipt("200", error), ReceiptState::Pending);
    }
    assert_eq!(receipt("201", "4"), ReceiptState::Delivered);
    assert_eq!(receipt("300", "16"), ReceiptState::Pending, "the maker tries again");
    assert_eq!(receipt("301", "20"), ReceiptState::Expired);
    for (code, wanted, _) in REPORT {
        let ReceiptState::Failed(refusal) = receipt("301", code) else { panic!("{code} has not failed") };
        assert_eq!((refusal.class, &*refusal.code), (*wanted, format!("clicksend-{code}").as_str()));
    }
    assert!(matches!(receipt("301", ""), ReceiptState::Failed(refusal) if refusal.class == Transient));
    assert!(matches!(receipt("302", "99"), ReceiptState::Failed(refusal) if refusal.class == Transient));
}

#[test]
fn receipts_come_as_forms_and_queries_too() {
    let form = format!("message_id={ID}&status_code=201&error_code=4&custom_string={OURS}&timestamp=1400046380");
    let query = format!("{CALLBACK}?messageid={ID}&status_code=201&customstring={OURS}");
    for (url, body) in [(CALLBACK, form.as_str()), (query.as_str(), "")] {
        let reply = call(url, body).unwrap();
        assert_eq!((reply.receipts[0].id.as_deref(), &reply.receipts[0].state), (Some(ID), &ReceiptState::Delivered));
        assert_eq!(reply.receipts[0].reference.as_deref(), Some(OURS));
    }
    assert!(matches!(call(CALLBACK, "status_code=201"), Err(CallbackError::Malformed(_))));
    assert!(matches!(call(CALLBACK, ""), Err(CallbackError::Malformed(_))));
    let strict = Account { unsigned_callbacks: false, ..account() };
    let request = callback(Method::POST, CALLBACK, &[], form.as_bytes());
    assert_eq!(MAKER.callback(&strict, &request, 0), Err(CallbackError::Unsigned));
}

#[test]
fn messages_that_came_in_are_read() {
    let body = json!({"message_id": ID, "from": "+61411111111", "to": "+61422222222", "body": "Yes", "timestamp": 1_400_046_380});
    let reply = call(CALLBACK, &body.to_string()).unwrap();
    let wanted = Inbound {
        id: ID.into(),
        from: "+61411111111".into(),
        to: "+61422222222".into(),
        text: "Yes".into(),
        at_ms: Some(1_400_046_380_000),
    };
    assert_eq!((reply.receipts.len(), &reply.inbound[..]), (0, &[wanted][..]));
}

#[test]
fn receipts_are_asked_for() {
    let call = MAKER.poll(&account(), &[ID.into()], 0).unwrap().unwrap();
    assert_eq!(call.url.as_str(), format!("https://rest.clicksend.com/v3/sms/receipts/{ID}"));
    let odd = MAKER.poll(&account(), &["a/../b?c".into()], 0).unwrap().unwrap();
    assert_eq!(odd.url.as_str(), "https://rest.clicksend.com/v3/sms/receipts/a%2F..%2Fb%3Fc");
    let polled = |status, id: &str| {
        let body = json!({"http_code": 200, "data": {"message_id": id, "status_code": 201, "error_code": 4}});
        MAKER.polled(&account(), &[ID.into()], &answer(status, &body.to_string()))
    };
    assert_eq!(polled(200, ID)[0].state, ReceiptState::Delivered);
    assert_eq!(polled(200, "another"), []);
    assert_eq!(polled(404, ID), []);
}

#[test]
fn the_balance_is_read() {
    let call = MAKER.balance(&account(), 0).unwrap().unwrap();
    assert_eq!(call.url.as_str(), "https://rest.clicksend.com/v3/account");
    let body = r#"{"data":{"balance":"15.351400","_currency":{"currency_name_short":"AUD"}}}"#;
    let aud = Balance { micros: 15_351_400, currency: "AUD".into() };
    assert_eq!(MAKER.balance_of(&account(), &answer(200, body)), Some(aud));
    assert_eq!(MAKER.check(&probe::account(&[], &[("api_key", "k")])).unwrap_err().field.as_ref(), "username");
}

#[test]
fn nothing_makes_it_panic() {
    probe::survives_anything(&MAKER, &account());
}
