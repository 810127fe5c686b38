//! SMS Broadcast: the request on the wire, the lines of answers, reports and messages.

use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};
use http::Method;

use super::*;
use crate::makers::probe::{self, CALLBACK, answer, callback, class, in_doubt, one, outgoing, wire};

const MAKER: SmsBroadcast = SmsBroadcast;

fn account() -> Account {
    Account { unsigned_callbacks: true, ..probe::account(&[("username", "acme")], &[("password", "p&w")]) }
}

fn accepted(id: &str) -> Submitted {
    Submitted::Accepted { id: Some(id.into()), price: None }
}

fn call(query: &str) -> Result<CallbackReply, CallbackError> {
    MAKER.callback(&account(), &callback(Method::GET, &format!("{CALLBACK}?{query}"), &[], b""), 0)
}

#[test]
fn the_request_is_exact() {
    let message = Outgoing { segments: 3, ..outgoing(61_400_111_222, "+61400333444", "Hello & bye") };
    assert_eq!(
        wire(&MAKER.submit(&account(), &[message], 0).unwrap()),
        "POST https://api.smsbroadcast.com.au/api-adv.php\naccept: application/json\n\
         content-type: application/x-www-form-urlencoded\n\n\
         username=acme&password=p%26w&to=61400111222&from=61400333444&message=Hello+%26+bye\
         &ref=89abcdef0123456789-1&maxsplit=3"
    );
    let shared = MAKER.submit(&account(), &[outgoing(61_400_111_222, "", "a")], 0).unwrap();
    assert!(!std::str::from_utf8(&shared.body).unwrap().contains("from="));
}

#[test]
fn lines_say_what_became_of_it() {
    let result = |body: &str| one(&MAKER, &account(), &answer(200, body));
    assert_eq!(result("OK: 447700900123:2942263\n"), accepted("2942263"));
    assert_eq!(result("OK:447700900123:2942263"), accepted("2942263"));
    assert_eq!(result("\r\nOK: 07700900123 : 2942263 \r\n"), accepted("2942263"));
    assert_eq!(
        class(&MAKER, &account(), &answer(200, "BAD:447700900123:Invalid Number")),
        (Permanent, "sms-broadcast-bad-number".into())
    );
    assert_eq!(class(&MAKER, &account(), &answer(200, "BAD:0400abc111:Invalid Number")).0, Permanent);
    assert_eq!(class(&MAKER, &account(), &answer(200, "BAD:447700900123:Something else: x")).0, Route);
    assert_eq!(
        class(&MAKER, &account(), &answer(200, "ERROR: Username or password is incorrect")),
        (Route, "sms-broadcast-error".into())
    );
    for body in ["OK: 61400999888:1", "OK", "BAD:61400999888:Invalid Number\nOK: 61400777666:2", "Hello", "OK: 12:3"] {
        in_doubt(&MAKER, &account(), &answer(200, body));
    }
    assert_eq!(class(&MAKER, &account(), &answer(403, "OK: 447700900123:1")).0, Route);
    in_doubt(&MAKER, &account(), &answer(502, "ERROR: no"));
}

#[test]
fn reports_are_read() {
    let state = |status: &str| {
        let reply = call(&format!("to=61400111222&ref=112233&smsref=1122334455&status={status}")).unwrap();
        assert_eq!((reply.receipts[0].id.as_deref(), &reply.receipts[0].reference), (Some("1122334455"), &None));
        reply.receipts[0].state.clone()
    };
    assert_eq!(state("Delivered"), ReceiptState::Delivered);
    assert_eq!(state("Expired"), ReceiptState::Expired);
    assert_eq!(state("Sent"), ReceiptState::Pending);
    assert!(matches!(state("Failed"), ReceiptState::Failed(refusal) if refusal.class == Transient));
    assert_eq!(call("status=Delivered"), Err(CallbackError::Malformed("`smsref` is missing")));
    assert!(matches!(call(""), Err(CallbackError::Malformed(_))));
    let strict = Account { unsigned_callbacks: false, ..account() };
    let request = callback(Method::GET, &format!("{CALLBACK}?smsref=1&status=Delivered"), &[], b"");
    assert_eq!(MAKER.callback(&strict, &request, 0), Err(CallbackError::Unsigned));
}

#[test]
fn a_repeated_message_has_the_same_id() {
    let inbound = |query: &str| call(query).unwrap().inbound.remove(0);
    let first = inbound("to=61400333444&from=61400111222&message=Yes+please&ref=112233");
    assert_eq!((&*first.from, &*first.to, &*first.text), ("61400111222", "61400333444", "Yes please"));
    assert_eq!(first, inbound("to=61400333444&from=61400111222&message=Yes+please&ref=112233"));
    assert_ne!(first.id, inbound("to=61400333444&from=61400111222&message=No&ref=112233").id);
    assert_eq!(first.id.len(), 32);
}

/// Rows take an id once: the second answer would be lost.
#[test]
fn the_same_words_on_another_day_are_another_message() {
    let query = "to=61400333444&from=61400111222&message=YES&ref=112233";
    let at = |now_ms| {
        let request = callback(Method::GET, &format!("{CALLBACK}?{query}"), &[], b"");
        MAKER.callback(&account(), &request, now_ms).unwrap().inbound.remove(0).id
    };
    assert_eq!(at(900_000_000), at(900_000_000 + 60_000), "repeated a minute later");
    assert_ne!(at(900_000_000), at(900_000_000 + 86_400_000));
}

#[test]
fn the_balance_is_read_and_a_refusal_is_seen() {
    let call = MAKER.balance(&account(), 0).unwrap().unwrap();
    assert_eq!(&call.body[..], b"username=acme&password=p%26w&action=balance");
    let credits = Balance { micros: 5_120_000_000, currency: "credits".into() };
    assert_eq!(MAKER.balance_of(&account(), &answer(200, "OK: 5120")), Some(credits));
    assert_eq!(MAKER.balance_of(&account(), &answer(200, "ERROR: Username or password is incorrect")), None);
    let judge = |status, body| MAKER.judge(&account(), &answer(status, body));
    assert!(matches!(judge(200, "OK: 1"), Judged::Works(_)));
    assert!(matches!(judge(200, "ERROR: no"), Judged::Refused(_)));
    assert!(matches!(judge(200, "<html>"), Judged::Unclear(_)));
    assert!(matches!(judge(503, ""), Judged::Unclear(_)));
    assert_eq!(MAKER.check(&probe::account(&[("username", "a")], &[])).unwrap_err().field.as_ref(), "password");
}

#[test]
fn nothing_makes_it_panic() {
    probe::survives_anything(&MAKER, &account());
}
