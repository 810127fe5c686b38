//! MessageBird on the wire: JSON byte for byte, reports, and signatures by the SDK's own vectors.

use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::*;
use crate::makers::probe::{self, CALLBACK, NOW_MS};

/// Key and time of the SDK's vectors.
const KEY: &str = "36efdd1aace2e26cd490f0d951138253bef2f7c6d34d18981da781555cc4cebb";
const THEN_MS: u64 = 1_625_479_200_000;

fn account() -> Account {
    probe::account(&[], &[("access_key", "live_1"), ("signing_key", KEY)])
}

fn request(method: Method, url: &str, token: &str, body: &str) -> Callback {
    probe::callback(method, url, &[("messagebird-signature-jwt", token)], body.as_bytes())
}

fn signed(method: Method, url: &str, body: &str) -> Callback {
    let now_s = NOW_MS / 1000;
    let url_hash = kit::sha256_hex(url.as_bytes());
    let mut claims = json!({"iss": "MessageBird", "nbf": now_s, "exp": now_s + 60, "jti": "1", "url_hash": url_hash});
    if !body.is_empty() {
        claims["payload_hash"] = kit::sha256_hex(body.as_bytes()).into();
    }
    let key = EncodingKey::from_secret(KEY.as_bytes());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
    request(method, url, &token, body)
}

fn read(params: &[(&str, &str)]) -> Result<CallbackReply, CallbackError> {
    let url = format!("{CALLBACK}?{}", kit::form(params.iter().copied()));
    MessageBird.callback(&account(), &signed(Method::GET, &url, ""), NOW_MS)
}

#[test]
fn a_message_is_one_object() {
    let call =
        MessageBird.submit(&account(), &[probe::outgoing(447_700_900_123, "+31612345678", "Hi")], NOW_MS).unwrap();
    let expected = "POST https://rest.messagebird.com/messages\n\
        accept: application/json\n\
        authorization: AccessKey live_1\n\
        content-type: application/json\n\n\
        {\"body\":\"Hi\",\"datacoding\":\"plain\",\"mclass\":1,\"originator\":\"31612345678\",\"recipients\":[447700900123],\
        \"reference\":\"msg_0123456789abcdef0123456789-1\",\
        \"reportUrl\":\"https://sms.example/v1/callbacks/maker/prv_1/tok\",\"validity\":3600}";
    assert_eq!(probe::wire(&call), expected);
    let account = Account { callback_url: None, ..account() };
    let mut message = probe::outgoing(447_700_900_123, "Acme", "hé");
    message.flash = true;
    let call = MessageBird.submit(&account, &[message], NOW_MS).unwrap();
    let body = "{\"body\":\"hé\",\"datacoding\":\"unicode\",\"mclass\":0,\"originator\":\"Acme\",\
        \"recipients\":[447700900123],\"reference\":\"msg_0123456789abcdef0123456789-1\",\"validity\":3600}";
    assert_eq!(std::str::from_utf8(&call.body).unwrap(), body);
}

#[test]
fn other_requests_are_plain_gets() {
    let get = |path: &str| {
        format!(
            "GET https://rest.messagebird.com/{path}\naccept: application/json\nauthorization: AccessKey live_1\n\n"
        )
    };
    assert_eq!(probe::wire(&MessageBird.test(&account(), NOW_MS).unwrap()), get("balance"));
    assert_eq!(probe::wire(&MessageBird.balance(&account(), NOW_MS).unwrap().unwrap()), get("balance"));
    assert_eq!(
        probe::wire(&MessageBird.poll(&account(), &["e807".into()], NOW_MS).unwrap().unwrap()),
        get("messages/e807")
    );
    assert!(MessageBird.poll(&account(), &["../x".into()], NOW_MS).is_none());
    assert_eq!(MessageBird.check(&account()), Ok(()));
    assert_eq!(&*MessageBird.check(&probe::account(&[], &[])).unwrap_err().field, "access_key");
}

fn created(status: &str, more: &str) -> String {
    let item = format!(
        r#"{{"recipient":31612345678,"status":"{status}","statusDatetime":"2015-07-03T07:55:31+00:00"{more}}}"#
    );
    format!(r#"{{"id":"e8077d80","reference":"msg_1-1","recipients":{{"totalCount":1,"items":[{item}]}}}}"#)
}

#[test]
fn answers_are_taken_refused_or_in_doubt() {
    let account = account();
    for status in ["sent", "scheduled", "buffered", "odd"] {
        let taken = probe::answer(201, &created(status, ""));
        let accepted = Submitted::Accepted { id: Some("e8077d80".into()), price: None };
        assert_eq!(probe::one(&MessageBird, &account, &taken), accepted, "{status}");
    }
    let class = |status, body: &str| probe::class(&MessageBird, &account, &probe::answer(status, body));
    let failed = created("delivery_failed", r#","statusReason":"opted_out""#);
    assert_eq!(class(201, &failed), (ErrorClass::Permanent, "messagebird-opted-out".into()));
    let error = |code: &str, parameter: &str| {
        format!(r#"{{"errors":[{{"code":{code},"description":"31612345678 is bad","parameter":{parameter}}}]}}"#)
    };
    for (code, expected, _) in ANSWER {
        assert_eq!(class(422, &error(code, "null")), (*expected, format!("messagebird-{code}")));
    }
    for (code, parameter) in [("9", "\"recipient\""), ("10", "\"recipients\"")] {
        let answer = probe::answer(422, &error(code, parameter));
        assert_eq!(
            probe::class(&MessageBird, &account, &answer),
            (ErrorClass::Permanent, "messagebird-invalid-recipient".into())
        );
        assert!(!probe::refused(&MessageBird, &account, &answer).text.contains("316"));
    }
    assert_eq!(class(422, &error("10", "\"originator\"")).0, ErrorClass::Route);
    assert_eq!(class(422, &error("77", "null")), (ErrorClass::Route, "messagebird-http-422".into()));
    assert_eq!(class(401, &error("2", "\"access_key\"")).0, ErrorClass::Route);
    assert_eq!(class(429, "").0, ErrorClass::Transient);
    probe::in_doubt(&MessageBird, &account, &probe::answer(500, &error("99", "null")));
    probe::survives_anything(&MessageBird, &account);
}

#[test]
fn each_status_has_its_state() {
    let receipt = |status: &str, reason: &str, code: &str| {
        let params = [
            ("id", "e8077d80"),
            ("reference", "msg_1-1"),
            ("recipient", "31612345678"),
            ("status", status),
            ("statusReason", reason),
            ("statusErrorCode", code),
            ("statusDatetime", "2015-07-03T07:55:31+00:00"),
            ("price[amount]", "0.075"),
            ("price[currency]", "EUR"),
        ];
        read(&params).map(|mut reply| (reply.receipts.remove(0), reply.answer))
    };
    let delivered = Receipt {
        reference: Some("msg_1-1".into()),
        id: Some("e8077d80".into()),
        segment: None,
        state: ReceiptState::Delivered,
        at_ms: Some(1_435_910_131_000),
        price: Some((75_000, "EUR".into())),
    };
    assert_eq!(receipt("delivered", "successfully delivered", ""), Ok((delivered, "OK")));
    for pending in ["scheduled", "buffered", "sent"] {
        assert_eq!(receipt(pending, "pending DLR", "").unwrap().0.state, ReceiptState::Pending);
    }
    assert_eq!(receipt("expired", "DLR not received", "").unwrap().0.state, ReceiptState::Expired);
    assert!(matches!(receipt("odd", "", ""), Err(CallbackError::Malformed(_))));
    let failed = |reason: &str, code: &str| match receipt("delivery_failed", reason, code).unwrap().0.state {
        ReceiptState::Failed(refusal) => (refusal.class, String::from(refusal.code)),
        other => panic!("{other:?}"),
    };
    for (reason, class, _) in REASON {
        let code = format!("messagebird-{}", reason.replace(' ', "-"));
        for written in [reason.to_string(), reason.replace(' ', "_"), reason.replace(' ', "+").to_uppercase()] {
            assert_eq!(failed(&written, "9999"), (*class, code.clone()), "{written}");
        }
    }
    for (code, class, _) in NETWORK {
        assert_eq!(failed("carrier rejected", code), (*class, format!("messagebird-network-{code}")));
    }
    assert_eq!(failed("", ""), (ErrorClass::Transient, "messagebird-generic-delivery-failure".into()));
    assert_eq!(failed("something new", ""), (ErrorClass::Transient, "messagebird-something-new".into()));
}

#[test]
fn a_received_message_is_inbound_however_it_comes() {
    let params = [
        ("id", "in1"),
        ("originator", "31612345678"),
        ("recipient", "447700900000"),
        ("body", "Hello & bye"),
        ("createdDatetime", "2015-07-03T07:55:31+00:00"),
    ];
    let form = kit::form(params);
    let json =
        Value::Object(params.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()).to_string();
    let requests = [
        signed(Method::GET, &format!("{CALLBACK}?{form}"), ""),
        signed(Method::POST, CALLBACK, &form),
        signed(Method::POST, CALLBACK, &json),
    ];
    for request in requests {
        let expected = Inbound {
            id: "in1".into(),
            from: "31612345678".into(),
            to: "447700900000".into(),
            text: "Hello & bye".into(),
            at_ms: Some(1_435_910_131_000),
        };
        assert_eq!(MessageBird.callback(&account(), &request, NOW_MS).unwrap().inbound, [expected]);
    }
    assert!(matches!(read(&[("id", "in1")]), Err(CallbackError::Malformed(_))));
    assert!(matches!(read(&[("status", "sent")]), Err(CallbackError::Malformed(_))));
}

const HS256: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.";
const PLAIN: &str = "eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3OTIwMCwiZXhwIjoxNjI1NDc5MjYwLCJqdGkiOiI1OWEyNDRkYy1lOWFkLTRlMjMtOTc3OC0zNzFmYWEyMzhmNzIiLCJ1cmxfaGFzaCI6IjBmMTE1ZGIwNjJiN2MwZGQwMzBiMTY4NzhjOTlkZWE1YzM1NGI0OWRjMzdiMzhlYjg4NDYxNzljNzc4M2U5ZDcifQ.";

fn verified(url: &str, token: &str, body: &str) -> Result<(), CallbackError> {
    verify(&account(), &request(Method::POST, url, token, body), THEN_MS)
}

#[test]
fn signatures_are_those_of_the_sdk() {
    let root = "https://example.com/";
    let plain = format!("{HS256}{PLAIN}6Fp0rVOsRr1fj9S2GidXAfkmPVofKr8_RTffC6G6r2E");
    assert_eq!(verified(root, &plain, ""), Ok(()));
    let sha384 = format!(
        "eyJhbGciOiJIUzM4NCIsInR5cCI6IkpXVCJ9.{PLAIN}KNMW-29X77lZeuPmThmHWc_RUAvTkaDkpxIZK6mqE08v8mWKiU9Edh4QXwAJO2nv"
    );
    assert_eq!(verified(root, &sha384, ""), Ok(()));
    let sha512 = format!(
        "eyJhbGciOiJIUzUxMiIsInR5cCI6IkpXVCJ9.{PLAIN}rd6r0iMyNGnVPCwurETphE3Y8rpAyvvnUK0S8WvGUkt2E1QSRAZ7NZJZBHw1Y_Wb5W-sK9HJr_PRL2vz4jRT3Q"
    );
    assert_eq!(verified(root, &sha512, ""), Ok(()));
    let query = "https://example.com/path?bar=1&foo=2";
    let token = format!(
        "{HS256}eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3OTIwMCwiZXhwIjoxNjI1NDc5MjYwLCJqdGkiOiJjOTQ2YWY3Ny1lMTgyLTRlYWEtYjJmZi0xYTU0NWI1ZTk5MWEiLCJ1cmxfaGFzaCI6IjQxZjA1ZjBkZGQwYTIyYWIyMDlhYzQ2ZjQ3YzQ1NzJkOWNlZmEyNTdlZDc0YjI0MDA0YmFlNzUzZWNlNmMyNjAifQ.huo2ou6JDoDc7sV25d75UMWeYhBeavQlLsqIibSZuac"
    );
    assert_eq!(verified(query, &token, ""), Ok(()));
    assert_eq!(verified("https://example.com/path?foo=2&bar=1", &token, ""), Err(CallbackError::Signature));
    let body = format!(
        "{HS256}eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3OTIwMCwiZXhwIjoxNjI1NDc5MjYwLCJqdGkiOiI5M2U1NTAwNi1hMGU4LTQ1MjYtYTE5MC1mYTVmZjAwZWExMTYiLCJ1cmxfaGFzaCI6IjQxZjA1ZjBkZGQwYTIyYWIyMDlhYzQ2ZjQ3YzQ1NzJkOWNlZmEyNTdlZDc0YjI0MDA0YmFlNzUzZWNlNmMyNjAiLCJwYXlsb2FkX2hhc2giOiJkZmZkNjAyMWJiMmJkNWIwYWY2NzYyOTA4MDllYzNhNTMxOTFkZDgxYzdmNzBhNGIyODY4OGEzNjIxODI5ODZmIn0._H--TOuYFLpeEH39-rg5E3IHVkjHozBcaKVWPRC5m9I"
    );
    assert_eq!(verified(query, &body, "Hello, World!"), Ok(()));
    assert_eq!(verified(query, &body, "Hello, World?"), Err(CallbackError::Signature));
    assert_eq!(verified(query, &body, ""), Err(CallbackError::Signature), "the payload was removed");
    assert_eq!(verified(root, &plain, "Hello, World!"), Err(CallbackError::Signature), "a payload was added");
    let port = format!(
        "{HS256}eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3OTIwMCwiZXhwIjoxNjI1NDc5MjYwLCJqdGkiOiI1OWEyNDRkYy1lOWFkLTRlMjMtOTc3OC0zNzFmYWEyMzhmNzIiLCJ1cmxfaGFzaCI6IjA3Zjc4NjFhNjliMTNjMjI5YzZhZTU5NmQxOThiMjc2M2IwNTRjZjVlMDAwZDczNmQxYzQ4MTAyZDc3MGNmZmMifQ.vcpa0IicGAbpo064dOjiA2VbVOR2S5uZBEaBOP16sS8"
    );
    assert_eq!(verified("https://example.com:8080/", &port, ""), Ok(()));
    let special = format!(
        "{HS256}eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3OTIwMCwiZXhwIjoxNjI1NDc5MjYwLCJqdGkiOiI1OWEyNDRkYy1lOWFkLTRlMjMtOTc3OC0zNzFmYWEyMzhmNzIiLCJ1cmxfaGFzaCI6IjhhZmYzNzQ4ZDc4OWM0MzMzNTczZTFjMzFmZTViMDA0OTQwY2I1ZmM0NzQ2MGVkM2QwZTY1NGY3ZmM0ZTVmYWUifQ.mJBCMfEjKmN3IMuzqPXPHktWETrcu0iNdF3agE8PDyI"
    );
    let url = "https://example.com/?obj%5Bfield1%5D=val1&obj%5Bfield2%5D=val2&param=value+with+spaces";
    assert_eq!(verified(url, &special, ""), Ok(()));
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJpc3MiOiJNZXNzYWdlQmlyZCIsImlhdCI6MTYyNTQ3OTIwMCwiZXhwIjoxNjI1NDc5MjYwLCJqdGkiOiI1OWEyNDRkYy1lOWFkLTRlMjMtOTc3OC0zNzFmYWEyMzhmNzIiLCJ1cmxfaGFzaCI6IjBmMTE1ZGIwNjJiN2MwZGQwMzBiMTY4NzhjOTlkZWE1YzM1NGI0OWRjMzdiMzhlYjg4NDYxNzljNzc4M2U5ZDcifQ.";
    assert_eq!(verified(root, none, ""), Err(CallbackError::Signature));
    let old = format!(
        "{HS256}eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3NTYwMCwiZXhwIjoxNjI1NDc1NjYwLCJqdGkiOiI1ZjAyZjUyMi02MDMwLTQ2YzgtYjVhMy0wMTI0NjQ3OGQ4YmMiLCJ1cmxfaGFzaCI6IjBmMTE1ZGIwNjJiN2MwZGQwMzBiMTY4NzhjOTlkZWE1YzM1NGI0OWRjMzdiMzhlYjg4NDYxNzljNzc4M2U5ZDcifQ.45MSST3B_2PsjNUeiuW54_vUQgVw4rBXrdWrOUEz3lM"
    );
    assert_eq!(verified(root, &old, ""), Err(CallbackError::Replayed));
    let early = format!(
        "{HS256}eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ4MjgwMCwiZXhwIjoxNjI1NDgyODYwLCJqdGkiOiJmOWY4YzM4Mi0yNDQ5LTQzMTEtYjcyYi0xZGY3MTY4NzkzMWUiLCJ1cmxfaGFzaCI6IjBmMTE1ZGIwNjJiN2MwZGQwMzBiMTY4NzhjOTlkZWE1YzM1NGI0OWRjMzdiMzhlYjg4NDYxNzljNzc4M2U5ZDcifQ.ZELgDFNGhjZH9CffQKcq3sytBe2I0KciLxpBhcfstHQ"
    );
    assert_eq!(verified(root, &early, ""), Err(CallbackError::Replayed));
}

#[test]
fn keys_and_times_are_checked() {
    let good = signed(Method::GET, &format!("{CALLBACK}?id=1&status=sent"), "");
    let read = |account: &Account, now_ms| MessageBird.callback(account, &good, now_ms);
    assert!(read(&account(), NOW_MS).is_ok());
    // The token lives a minute; our clock may be off by one more.
    assert!(read(&account(), NOW_MS + 120_000).is_ok() && read(&account(), NOW_MS - 60_000).is_ok());
    assert_eq!(read(&account(), NOW_MS + 120_001), Err(CallbackError::Replayed));
    assert_eq!(read(&account(), NOW_MS - 60_001), Err(CallbackError::Replayed));
    let mut other = account();
    other.secrets.insert("signing_key".into(), "other".into());
    assert_eq!(read(&other, NOW_MS), Err(CallbackError::Signature));
    other.secrets.remove("signing_key");
    assert_eq!(read(&other, NOW_MS), Err(CallbackError::Signature), "nothing to check it with");
    let bare = probe::callback(Method::GET, good.url.as_str(), &[], b"");
    assert_eq!(MessageBird.callback(&account(), &bare, NOW_MS), Err(CallbackError::Unsigned));
    let lax = Account { unsigned_callbacks: true, ..account() };
    assert!(MessageBird.callback(&lax, &bare, NOW_MS).is_ok());
}

#[test]
fn polls_and_balances_are_read() {
    let polled = |status, body: &str| MessageBird.polled(&account(), &[], &probe::answer(status, body));
    let receipt = polled(200, &created("delivery_failed", r#","statusErrorCode":1"#)).remove(0);
    assert_eq!((receipt.reference.as_deref(), receipt.at_ms), (Some("msg_1-1"), Some(1_435_910_131_000)));
    assert!(matches!(receipt.state, ReceiptState::Failed(refusal) if refusal.class == ErrorClass::Permanent));
    assert_eq!(polled(200, &created("delivered", ""))[0].state, ReceiptState::Delivered);
    assert!(polled(404, &created("delivered", "")).is_empty() && polled(200, "{}").is_empty());
    let balance = |body: &str| MessageBird.balance_of(&account(), &probe::answer(200, body));
    for (kind, currency) in [("euros", "EUR"), ("dollars", "USD"), ("pounds", "GBP"), ("credits", "credits")] {
        let body = format!(r#"{{"payment":"prepaid","type":"{kind}","amount":9.2}}"#);
        assert_eq!(balance(&body), Some(Balance { micros: 9_200_000, currency: currency.into() }));
    }
    assert_eq!(balance("{}"), None);
    assert!(matches!(MessageBird.judge(&account(), &probe::answer(401, "")), Judged::Refused(_)));
    assert!(matches!(MessageBird.judge(&account(), &probe::answer(200, "{}")), Judged::Works(_)));
}
