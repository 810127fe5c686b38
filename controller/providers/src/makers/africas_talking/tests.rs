//! Africa's Talking: the request on the wire, every code, reports and messages.

use flotilla_protocol::wire::ErrorClass::{self, Permanent, Route, Transient};
use http::Method;
use serde_json::json;

use super::*;
use crate::makers::probe::{self, answer, callback, class, in_doubt, one, outgoing, wire};

const MAKER: AfricasTalking = AfricasTalking;

fn account() -> Account {
    Account { unsigned_callbacks: true, ..probe::account(&[("username", "acme")], &[("api_key", "k3y")]) }
}

fn entry(number: &str, code: u16) -> Value {
    json!({"statusCode": code, "number": number, "cost": "KES 0.8000", "status": "x", "messageId": "ATXid_1"})
}

fn body(message: &str, recipients: &[Value]) -> String {
    json!({"SMSMessageData": {"Message": message, "Recipients": recipients}}).to_string()
}

fn report(form: &str) -> Result<CallbackReply, CallbackError> {
    MAKER.callback(&account(), &callback(Method::POST, probe::CALLBACK, &[], form.as_bytes()), 0)
}

fn state(form: &str) -> ReceiptState {
    let reply = report(form).unwrap();
    assert_eq!(reply.receipts[0].id.as_deref(), Some("ATXid_1"));
    reply.receipts[0].state.clone()
}

#[test]
fn the_request_is_exact() {
    let call = MAKER.submit(&account(), &[outgoing(254_711_000_111, "ACME", "Habari & \u{263a}")], 0).unwrap();
    assert_eq!(
        wire(&call),
        "POST https://api.africastalking.com/version1/messaging\naccept: application/json\napikey: k3y\n\
         content-type: application/x-www-form-urlencoded\n\n\
         username=acme&to=%2B254711000111&message=Habari+%26+%E2%98%BA&from=ACME&bulkSMSMode=1"
    );
    let sandbox = probe::account(&[("username", "sandbox")], &[("api_key", "k")]);
    let call = MAKER.submit(&sandbox, &[outgoing(254_711_000_111, "", "a")], 0).unwrap();
    assert_eq!(call.url.as_str(), "https://api.sandbox.africastalking.com/version1/messaging");
    assert_eq!(&call.body[..], b"username=sandbox&to=%2B254711000111&message=a&bulkSMSMode=1");
    let call = MAKER.test(&account(), 0).unwrap();
    assert_eq!(call.url.as_str(), "https://api.africastalking.com/version1/user?username=acme");
}

#[test]
fn settings_have_to_be_there() {
    let missing = |account: &Account| MAKER.check(account).unwrap_err().field;
    assert_eq!(&*missing(&probe::account(&[], &[("api_key", "k")])), "username");
    assert_eq!(&*missing(&probe::account(&[("username", "a")], &[])), "api_key");
    assert_eq!(&*missing(&probe::account(&[("username", "a")], &[("api_key", "a\nb")])), "api_key");
    assert_eq!(MAKER.check(&account()), Ok(()));
}

#[test]
fn every_code_is_read() {
    let number = "+447700900123";
    for code in [100, 101, 102] {
        let taken = one(&MAKER, &account(), &answer(201, &body("Sent to 1/1", &[entry(number, code)])));
        let price = Some((800_000, "KES".into()));
        assert_eq!(taken, Submitted::Accepted { id: Some("ATXid_1".into()), price });
    }
    for (code, wanted) in [
        (402, Route),
        (403, Permanent),
        (404, Permanent),
        (405, Route),
        (406, Permanent),
        (407, Route),
        (409, Permanent),
        (500, Transient),
        (502, Route),
    ] {
        let found = class(&MAKER, &account(), &answer(201, &body("Sent to 0/1", &[entry(number, code)])));
        assert_eq!(found, (wanted, format!("africas-talking-{code}")));
    }
    for code in [401, 501, 499, 999] {
        in_doubt(&MAKER, &account(), &answer(201, &body("Sent to 1/1", &[entry(number, code)])));
    }
}

#[test]
fn an_answer_without_the_recipient_says_what_it_can() {
    let none = |message| class(&MAKER, &account(), &answer(201, &body(message, &[])));
    assert_eq!(none("InvalidSenderId"), (Route, "africas-talking-InvalidSenderId".into()));
    assert_eq!(none("UserInBlacklist"), (Permanent, "africas-talking-UserInBlacklist".into()));
    assert_eq!(none("Sent to 0/1 Total Cost: 0"), (Route, "africas-talking-sent-to-none".into()));
    in_doubt(&MAKER, &account(), &answer(201, &body("Sent to 1/1", &[])));
    let odd = answer(201, &body("Sent to 0/1", &[entry("447700900123 ", 403)]));
    assert_eq!(class(&MAKER, &account(), &odd).0, Permanent, "the only answer to the only message");
    let strangers = [entry("+254711000999", 101), entry("+254711000998", 101)];
    in_doubt(&MAKER, &account(), &answer(201, &body("Sent to 2/2", &strangers)));
    let others = [entry("+254711000999", 403), entry("+447700900123", 101)];
    assert!(matches!(one(&MAKER, &account(), &answer(201, &body("", &others))), Submitted::Accepted { .. }));
}

#[test]
fn statuses_without_a_body_decide() {
    assert_eq!(class(&MAKER, &account(), &answer(401, "The supplied authentication is invalid")).0, Route);
    assert_eq!(class(&MAKER, &account(), &answer(429, "")).0, Transient);
    in_doubt(&MAKER, &account(), &answer(500, &body("Sent to 0/1", &[])));
}

#[test]
fn reports_are_read() {
    for status in ["Sent", "Submitted", "Buffered", "SomethingNew"] {
        assert_eq!(state(&format!("id=ATXid_1&status={status}&phoneNumber=%2B254711000111")), ReceiptState::Pending);
    }
    assert_eq!(state("id=ATXid_1&status=Success"), ReceiptState::Delivered);
    assert_eq!(state("id=ATXid_1&status=Expired"), ReceiptState::Expired);
    let failed = |reason: &str, status: &str| match state(&format!("id=ATXid_1&status={status}{reason}")) {
        ReceiptState::Failed(refusal) => (refusal.class, refusal.code.to_string()),
        other => panic!("{other:?}"),
    };
    let code = |class: ErrorClass, code: &str| (class, format!("africas-talking-{code}"));
    assert_eq!(failed("&failureReason=UserInBlackList", "Failed"), code(Permanent, "UserInBlackList"));
    assert_eq!(failed("&failureReason=DeliveryFailure", "Failed"), code(Transient, "DeliveryFailure"));
    assert_eq!(failed("&failureReason=New%20%2B255", "Rejected"), code(Route, "New255"));
    assert_eq!(failed("", "Rejected"), code(Route, "Rejected"));
    assert_eq!(failed("", "AbsentSubscriber"), code(Transient, "AbsentSubscriber"));
}

#[test]
fn messages_and_opt_outs_are_told_apart() {
    let reply = report("date=2026-01-02+03%3A04%3A05&from=%2B254711000111&id=in-1&text=STOP&to=20880").unwrap();
    assert_eq!(reply.receipts, []);
    let inbound = &reply.inbound[0];
    assert_eq!(
        (&*inbound.id, &*inbound.from, &*inbound.to, &*inbound.text),
        ("in-1", "+254711000111", "20880", "STOP")
    );
    assert_eq!(inbound.at_ms, Some(1_767_323_045_000));
    assert_eq!(report("senderId=ACME&phoneNumber=%2B254711000111"), Ok(CallbackReply::default()));
    assert!(matches!(report("hello"), Err(CallbackError::Malformed(_))));
}

#[test]
fn reports_are_refused_unless_unsigned_ones_are_allowed() {
    let strict = Account { unsigned_callbacks: false, ..account() };
    let request = callback(Method::POST, probe::CALLBACK, &[], b"id=1&status=Success");
    assert_eq!(MAKER.callback(&strict, &request, 0), Err(CallbackError::Unsigned));
}

#[test]
fn the_balance_has_its_currency() {
    let balance = |body: &str| MAKER.balance_of(&account(), &answer(200, body));
    let kes = Balance { micros: 1_785_500_000, currency: "KES".into() };
    assert_eq!(balance(r#"{"UserData": {"balance": "KES 1785.50"}}"#), Some(kes));
    assert_eq!(balance(r#"{"UserData": {"balance": "1785.50"}}"#), None);
}

#[test]
fn nothing_makes_it_panic() {
    probe::survives_anything(&MAKER, &account());
}
