//! Beem: the request on the wire, every code, and asking for reports.

use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};
use http::Method;

use super::*;
use crate::makers::probe::{self, answer, callback, class, in_doubt, one, outgoing, wire};

const MAKER: Beem = Beem;

fn account() -> Account {
    probe::account(&[], &[("api_key", "key"), ("secret_key", "secret")])
}

#[test]
fn the_request_is_exact() {
    let call = MAKER.submit(&account(), &[outgoing(255_712_345_678, "ACME", "Habari")], 0).unwrap();
    assert_eq!(
        wire(&call),
        "POST https://apisms.beem.africa/v1/send\naccept: application/json\nauthorization: Basic a2V5OnNlY3JldA==\n\
         content-type: application/json\n\n\
         {\"encoding\":0,\"message\":\"Habari\",\"recipients\":[{\"dest_addr\":\"255712345678\",\"recipient_id\":1}],\
         \"schedule_time\":\"\",\"source_addr\":\"ACME\"}"
    );
    let unicode = MAKER.submit(&account(), &[outgoing(255_712_345_678, "ACME", "\u{263a}")], 0).unwrap();
    assert!(std::str::from_utf8(&unicode.body).unwrap().starts_with("{\"encoding\":8,"));
}

#[test]
fn every_code_is_read() {
    for (code, wanted) in
        [(101, Permanent), (102, Route), (104, Route), (105, Route), (106, Route), (107, Route), (108, Route)]
    {
        for body in [format!("{{\"code\":{code}}}"), format!("{{\"data\":{{\"code\":\"{code}\",\"message\":\"x\"}}}}")]
        {
            assert_eq!(class(&MAKER, &account(), &answer(400, &body)), (wanted, format!("beem-{code}")));
        }
    }
    in_doubt(&MAKER, &account(), &answer(400, "{\"code\":103,\"message\":\"Network timeout\"}"));
    in_doubt(&MAKER, &account(), &answer(500, "{\"code\":100,\"request_id\":1}"));
    in_doubt(&MAKER, &account(), &answer(500, "{\"code\":101}"));
    in_doubt(&MAKER, &account(), &answer(200, "{\"code\":199}"));
    assert_eq!(class(&MAKER, &account(), &answer(401, "{\"code\":120}")), (Route, "beem-http-401".into()));
}

#[test]
fn success_counts_who_was_valid() {
    let taken = |valid, invalid| {
        let body = format!(
            "{{\"successful\":true,\"request_id\":35918915,\"code\":100,\"message\":\"Message Submitted Successfully\",\
             \"valid\":{valid},\"invalid\":{invalid},\"duplicates\":0}}"
        );
        one(&MAKER, &account(), &answer(200, &body))
    };
    let Submitted::Accepted { id: Some(id), price: None } = taken(1, 0) else { panic!("not taken") };
    assert_eq!(split(&id), Some(("35918915", Msisdn::from_u64(447_700_900_123).unwrap())));
    assert!(!id.contains("447700900123"), "an id shows no number");
    let Submitted::Refused(refusal) = taken(0, 1) else { panic!("not refused") };
    assert_eq!((refusal.class, &*refusal.code), (Permanent, "beem-invalid"));
    assert!(matches!(taken(0, 0), Submitted::Unclear(_)));
}

#[test]
fn reports_are_asked_for_one_by_one() {
    assert_eq!(MAKER.poll_max(), 1);
    let id = join("35918915", Msisdn::from_u64(255_712_345_678).unwrap()).unwrap();
    let call = MAKER.poll(&account(), std::slice::from_ref(&id), 0).unwrap().unwrap();
    assert_eq!(
        wire(&call),
        "GET https://dlrapi.beem.africa/public/v1/delivery-reports?dest_addr=255712345678&request_id=35918915\n\
         accept: application/json\nauthorization: Basic a2V5OnNlY3JldA==\n\n"
    );
    assert!(MAKER.poll(&account(), &["nonsense".into()], 0).is_none());
    let polled = |status: u16, body: &str| MAKER.polled(&account(), std::slice::from_ref(&id), &answer(status, body));
    let state = |body: &str| {
        let receipts = polled(200, body);
        assert_eq!((receipts.len(), receipts[0].id.as_ref()), (1, Some(&id)));
        receipts[0].state.clone()
    };
    let one = |status: &str| state(&format!("{{\"dest_addr\":\"255\",\"request_id\":1,\"status\":\"{status}\"}}"));
    assert_eq!(one("delivered"), ReceiptState::Delivered);
    assert_eq!(state("[{\"status\":\"DELIVERED\"}]"), ReceiptState::Delivered);
    for status in ["pending", "retry", "PENDING", "new"] {
        assert_eq!(one(status), ReceiptState::Pending, "{status}");
    }
    for (status, wanted) in [("failed", Transient), ("UNDELIVERED", Transient), ("rejected", Route)] {
        assert!(matches!(one(status), ReceiptState::Failed(refusal) if refusal.class == wanted), "{status}");
    }
    assert_eq!(one("expired"), ReceiptState::Expired);
    assert_eq!(polled(404, "{\"status\":\"delivered\"}"), []);
    assert_eq!(polled(200, "{\"error\":\"no report\"}"), []);
}

#[test]
fn it_takes_no_reports() {
    let request = callback(Method::POST, probe::CALLBACK, &[], b"{}");
    let open = Account { unsigned_callbacks: true, ..account() };
    assert!(matches!(MAKER.callback(&open, &request, 0), Err(CallbackError::Malformed(_))));
}

#[test]
fn the_balance_is_read() {
    let call = MAKER.balance(&account(), 0).unwrap().unwrap();
    assert_eq!(call.url.as_str(), "https://apisms.beem.africa/public/v1/vendors/balance");
    let balance = MAKER.balance_of(&account(), &answer(200, "{\"data\":{\"credit_balance\":250.5}}"));
    assert_eq!(balance, Some(Balance { micros: 250_500_000, currency: "credits".into() }));
    assert_eq!(MAKER.check(&probe::account(&[], &[("api_key", "k")])).unwrap_err().field.as_ref(), "secret_key");
}

#[test]
fn nothing_makes_it_panic() {
    probe::survives_anything(&MAKER, &account());
    for id in ["", "-", "1-", "1-zzzzzzzzzzzzzzzzzzzzzz", "1-0", "\u{263a}-1"] {
        assert_eq!(split(id), None, "{id}");
    }
}
