//! Infobip: the request on the wire, statuses and errors, reports, logs and messages.

use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};
use http::Method;

use super::*;
use crate::makers::probe::{self, CALLBACK, answer, callback, class, in_doubt, one, outgoing, wire};

const MAKER: Infobip = Infobip;
const OURS: &str = "msg_0123456789abcdef0123456789-1";

fn account() -> Account {
    Account { unsigned_callbacks: true, ..probe::account(&[], &[("api_key", "k3y")]) }
}

fn entry(id: &str, group: u64, status: u64, name: &str) -> Value {
    let status = json!({"groupId": group, "groupName": "x", "id": status, "name": name, "description": "d"});
    json!({"messageId": id, "status": status, "destination": "447700900123", "details": {"messageCount": 1}})
}

fn body(entries: &[Value]) -> String {
    json!({"bulkId": "b", "messages": entries}).to_string()
}

fn report(entry: Value) -> CallbackReply {
    let body = json!({"results": [entry]}).to_string();
    MAKER.callback(&account(), &callback(Method::POST, CALLBACK, &[], body.as_bytes()), 0).unwrap()
}

#[test]
fn the_request_is_exact() {
    let call = MAKER.submit(&account(), &[outgoing(41_793_026_727, "InfoSMS", "A \"sample\"")], 0).unwrap();
    assert_eq!(
        wire(&call),
        "POST https://api.infobip.com/sms/3/messages\naccept: application/json\nauthorization: App k3y\n\
         content-type: application/json\n\n\
         {\"messages\":[{\"content\":{\"text\":\"A \\\"sample\\\"\"},\
         \"destinations\":[{\"messageId\":\"msg_0123456789abcdef0123456789-1\",\"to\":\"41793026727\"}],\
         \"options\":{\"validityPeriod\":{\"amount\":3600,\"timeUnit\":\"SECONDS\"}},\"sender\":\"InfoSMS\",\
         \"webhooks\":{\"callbackData\":\"msg_0123456789abcdef0123456789-1\",\"contentType\":\"application/json\",\
         \"delivery\":{\"url\":\"https://sms.example/v1/callbacks/maker/prv_1/tok\"}}}]}"
    );
    let private = Account { callback_url: None, base_url: "https://xyz.api.infobip.com".parse().ok(), ..account() };
    let message = Outgoing { flash: true, validity_s: 1_000_000, ..outgoing(41_793_026_727, "+41793026700", "a") };
    let call = MAKER.submit(&private, &[message], 0).unwrap();
    assert_eq!(call.url.as_str(), "https://xyz.api.infobip.com/sms/3/messages");
    let body = kit::json(&call.body).unwrap();
    let options = json!({"flash": true, "validityPeriod": {"amount": 172_800, "timeUnit": "SECONDS"}});
    assert_eq!(body["messages"][0]["options"], options);
    assert_eq!(body["messages"][0]["sender"], "41793026700");
    assert_eq!(body["messages"][0].get("webhooks"), None);
}

#[test]
fn groups_decide_what_became_of_a_message() {
    for (group, status) in [(0, 0), (1, 26), (1, 7), (3, 5)] {
        let taken = one(&MAKER, &account(), &answer(200, &body(&[entry(OURS, group, status, "x")])));
        assert_eq!(taken, Submitted::Accepted { id: Some(OURS.into()), price: None });
    }
    for (status, _, _) in STATUS {
        let group = if ["4", "9", "31"].contains(status) { UNDELIVERABLE } else { REJECTED };
        let found =
            class(&MAKER, &account(), &answer(200, &body(&[entry(OURS, group, status.parse().unwrap(), "NAME")])));
        assert_eq!(found, (meaning(STATUS, status).unwrap().0, "infobip-NAME".into()), "{status}");
    }
    assert_eq!(
        class(&MAKER, &account(), &answer(200, &body(&[entry(OURS, 5, 8, "A B")]))),
        (Permanent, "infobip-AB".into())
    );
    assert_eq!(
        class(&MAKER, &account(), &answer(200, &body(&[entry(OURS, 5, 777, "NEW")]))),
        (Route, "infobip-NEW".into())
    );
    let by_name = json!({"messageId": OURS, "status": {"groupName": "PENDING"}});
    assert!(matches!(one(&MAKER, &account(), &answer(200, &body(&[by_name]))), Submitted::Accepted { .. }));
    in_doubt(&MAKER, &account(), &answer(200, &body(&[entry(OURS, 9, 1, "x")])));
    in_doubt(&MAKER, &account(), &answer(200, &body(&[entry(OURS, 4, 15, "EXPIRED_EXPIRED")])));
}

#[test]
fn a_repeated_id_was_taken_before() {
    in_doubt(&MAKER, &account(), &answer(200, &body(&[entry(OURS, 5, 23, "REJECTED_DUPLICATE_MESSAGE_ID")])));
}

#[test]
fn a_batch_is_matched_by_reference() {
    let batch: Vec<_> = (1..=3)
        .map(|n| Outgoing { reference: format!("msg_{n}-1").into(), ..outgoing(41_793_026_727, "S", "a") })
        .collect();
    let answered = body(&[entry("msg_3-1", 1, 26, "x"), entry("stranger", 1, 26, "x"), entry("msg_1-1", 5, 12, "NO")]);
    let all = MAKER.submitted(&account(), &batch, &answer(200, &answered));
    assert!(matches!(&all[0], Submitted::Refused(refusal) if refusal.class == Route));
    assert!(matches!(&all[1], Submitted::Unclear(_)), "missing in the answer");
    assert_eq!(all[2], Submitted::Accepted { id: Some("msg_3-1".into()), price: None });
}

#[test]
fn request_errors_go_by_their_status() {
    let error = r#"{"requestError":{"serviceException":{"messageId":"UNAUTHORIZED","text":"Invalid login details"}}}"#;
    assert_eq!(class(&MAKER, &account(), &answer(401, error)), (Route, "infobip-http-401".into()));
    assert_eq!(class(&MAKER, &account(), &answer(429, "{}")).0, Transient);
    in_doubt(&MAKER, &account(), &answer(500, error));
}

#[test]
fn reports_are_read() {
    let mut delivered = entry(OURS, 3, 5, "DELIVERED_TO_HANDSET");
    delivered["doneAt"] = "2023-08-01T16:10:00.000+0530".into();
    delivered["price"] = json!({"pricePerMessage": 0.0333, "currency": "EUR"});
    delivered["messageCount"] = 2.into();
    delivered["callbackData"] = OURS.into();
    let reply = report(delivered);
    let receipt = &reply.receipts[0];
    assert_eq!((receipt.reference.as_deref(), receipt.id.as_deref()), (Some(OURS), Some(OURS)));
    assert_eq!(receipt.state, ReceiptState::Delivered);
    assert_eq!(receipt.at_ms, Some(1_690_886_400_000));
    assert_eq!(receipt.price, Some((66_600, "EUR".into())));
    let state = |entry| report(entry).receipts[0].state.clone();
    assert_eq!(state(entry(OURS, 3, 2, "DELIVERED_TO_OPERATOR")), ReceiptState::Pending, "positive, but on its way");
    assert_eq!(state(entry(OURS, 1, 7, "PENDING_ENROUTE")), ReceiptState::Pending);
    assert_eq!(state(entry(OURS, 4, 15, "EXPIRED_EXPIRED")), ReceiptState::Expired);
}

#[test]
fn a_failure_goes_by_its_error() {
    let failed = |error: Value| {
        let mut entry = entry(OURS, 2, 9, "UNDELIVERABLE_NOT_DELIVERED");
        entry["error"] = error;
        match report(entry).receipts[0].state.clone() {
            ReceiptState::Failed(refusal) => (refusal.class, refusal.code.to_string()),
            other => panic!("{other:?}"),
        }
    };
    let error = |id: u64, group: u64, permanent: bool| json!({"id": id, "groupId": group, "name": "EC_X", "permanent": permanent});
    assert_eq!(failed(error(1, 1, true)), (Permanent, "infobip-EC_X".into()));
    assert_eq!(failed(error(27, 1, false)).0, Transient);
    assert_eq!(failed(error(628, 1, true)).0, Transient, "temporary by its name");
    assert_eq!(failed(error(2053, 2, true)).0, Route);
    assert_eq!(failed(error(9999, 1, true)).0, Permanent, "unknown, the recipient's");
    assert_eq!(failed(error(9999, 3, true)).0, Route, "unknown, the operator's");
    assert_eq!(failed(error(9999, 3, false)).0, Transient);
    assert_eq!(failed(error(0, 0, false)), (Transient, "infobip-UNDELIVERABLE_NOT_DELIVERED".into()));
    for (id, class, _) in ERROR {
        assert_eq!(failed(error(id.parse().unwrap(), 3, false)).0, *class, "{id}");
    }
}

#[test]
fn messages_that_came_in_are_told_from_reports() {
    let message = json!({"messageId": "in-1", "from": "41793026727", "to": "41793026700", "text": "KEY hello",
        "cleanText": "hello", "keyword": "KEY", "receivedAt": "2023-08-01T10:40:00.000+0000", "smsCount": 1});
    let reply = report(message);
    assert_eq!(reply.receipts, []);
    assert_eq!((&*reply.inbound[0].id, &*reply.inbound[0].text), ("in-1", "KEY hello"));
    assert_eq!(reply.inbound[0].at_ms, Some(1_690_886_400_000));
}

#[test]
fn bad_reports_are_refused() {
    let call =
        |account: &Account, body: &[u8]| MAKER.callback(account, &callback(Method::POST, CALLBACK, &[], body), 0);
    assert!(matches!(call(&account(), b"x"), Err(CallbackError::Malformed(_))));
    assert!(matches!(call(&account(), b"{}"), Err(CallbackError::Malformed(_))));
    let strict = Account { unsigned_callbacks: false, ..account() };
    assert_eq!(call(&strict, b"{\"results\":[]}"), Err(CallbackError::Unsigned));
}

#[test]
fn logs_are_asked_for_many_at_once() {
    let ids: Vec<Box<str>> = vec![OURS.into(), "msg_2-1".into()];
    let call = MAKER.poll(&account(), &ids, 0).unwrap().unwrap();
    assert_eq!(
        call.url.as_str(),
        "https://api.infobip.com/sms/3/logs?messageId=msg_0123456789abcdef0123456789-1%2Cmsg_2-1"
    );
    let logs = json!({"results": [entry("msg_2-1", 3, 5, "x"), entry("stranger", 3, 5, "x")]}).to_string();
    let receipts = MAKER.polled(&account(), &ids, &answer(200, &logs));
    assert_eq!((receipts.len(), receipts[0].id.as_deref()), (1, Some("msg_2-1")));
    assert_eq!(MAKER.polled(&account(), &ids, &answer(500, &logs)), []);
    let full: Vec<Box<str>> = vec!["msg_".repeat(9).into(); MAKER.poll_max()];
    assert!(full.join(",").len() <= 2048);
}

#[test]
fn the_balance_is_read() {
    let call = MAKER.balance(&account(), 0).unwrap().unwrap();
    assert_eq!(
        wire(&call),
        "GET https://api.infobip.com/account/1/balance\naccept: application/json\nauthorization: App k3y\n\n"
    );
    let balance = MAKER.balance_of(&account(), &answer(200, r#"{"balance":47.79134,"currency":"EUR"}"#));
    assert_eq!(balance, Some(Balance { micros: 47_791_340, currency: "EUR".into() }));
    assert_eq!(MAKER.check(&probe::account(&[], &[])).unwrap_err().field.as_ref(), "api_key");
}

#[test]
fn nothing_makes_it_panic() {
    probe::survives_anything(&MAKER, &account());
    for text in ["", "+", "\u{263a}\u{263a}", "2023-08-01T16:10:00.000+05\u{263a}"] {
        assert_eq!(time_ms(text), None);
    }
}
