//! Plivo on the wire: JSON byte for byte, reports, and signatures of versions 2 and 3.

use super::*;
use crate::makers::probe::{self, CALLBACK, NOW_MS};

fn account() -> Account {
    probe::account(&[("auth_id", "MA0123")], &[("auth_token", "my_auth_token")])
}

fn tag(text: &str) -> String {
    BASE64.encode(kit::hmac_of(HMAC_SHA256, b"my_auth_token", text.as_bytes()).as_ref())
}

fn read(params: &[(&str, &str)]) -> Result<CallbackReply, CallbackError> {
    let url = format!("{CALLBACK}?ref=msg_1-1");
    let headers =
        [("x-plivo-signature-v2", &*tag(&format!("{CALLBACK}12345"))), ("x-plivo-signature-v2-nonce", "12345")];
    let request = probe::callback(Method::POST, &url, &headers, kit::form(params.iter().copied()).as_bytes());
    Plivo.callback(&account(), &request, NOW_MS)
}

#[test]
fn a_message_is_one_object() {
    let call = Plivo.submit(&account(), &[probe::outgoing(447_700_900_123, "+14155550100", "Hi")], NOW_MS).unwrap();
    let expected = "POST https://api.plivo.com/v1/Account/MA0123/Message/\n\
        accept: application/json\n\
        authorization: Basic TUEwMTIzOm15X2F1dGhfdG9rZW4=\n\
        content-type: application/json\n\n\
        {\"dst\":\"+447700900123\",\"message_expiry\":3600,\"method\":\"POST\",\"src\":\"+14155550100\",\"text\":\"Hi\",\
        \"type\":\"sms\",\
        \"url\":\"https://sms.example/v1/callbacks/maker/prv_1/tok?ref=msg_0123456789abcdef0123456789-1\"}";
    assert_eq!(probe::wire(&call), expected);
    let account = Account { callback_url: None, ..account() };
    let mut message = probe::outgoing(447_700_900_123, "5b40a428-bfc7-4daf-9d06-726c558bf3b8", "Hi");
    message.validity_s = 86_400;
    let call = Plivo.submit(&account, &[message], NOW_MS).unwrap();
    let body = "{\"dst\":\"+447700900123\",\"message_expiry\":10800,\
        \"powerpack_uuid\":\"5b40a428-bfc7-4daf-9d06-726c558bf3b8\",\"text\":\"Hi\",\"type\":\"sms\"}";
    assert_eq!(std::str::from_utf8(&call.body).unwrap(), body);
}

#[test]
fn other_requests_are_plain_gets() {
    let get = |path: &str| {
        format!(
            "GET https://api.plivo.com/v1/Account/MA0123/{path}\naccept: application/json\nauthorization: Basic TUEwMTIzOm15X2F1dGhfdG9rZW4=\n\n"
        )
    };
    let wire = |call: Result<Call, FieldError>| probe::wire(&call.unwrap());
    assert_eq!(wire(Plivo.test(&account(), NOW_MS)), get(""));
    assert_eq!(wire(Plivo.balance(&account(), NOW_MS).unwrap()), get(""));
    let id = "5b40a428-bfc7-4daf-9d06-726c558bf3b8";
    assert_eq!(wire(Plivo.poll(&account(), &[id.into()], NOW_MS).unwrap()), get(&format!("Message/{id}/")));
    assert!(Plivo.poll(&account(), &["../../x".into()], NOW_MS).is_none());
    assert_eq!(Plivo.check(&account()), Ok(()));
    assert_eq!(
        &*Plivo.check(&probe::account(&[("auth_id", "a/b")], &[("auth_token", "t")])).unwrap_err().field,
        "auth_id"
    );
    assert_eq!(&*Plivo.check(&probe::account(&[("auth_id", "a")], &[])).unwrap_err().field, "auth_token");
}

#[test]
fn answers_are_taken_refused_or_in_doubt() {
    let account = account();
    let taken = probe::answer(202, r#"{"api_id":"9","message":"message(s) queued","message_uuid":["5b40a428"]}"#);
    assert_eq!(probe::one(&Plivo, &account, &taken), Submitted::Accepted { id: Some("5b40a428".into()), price: None });
    let class = |status, body: &str| probe::class(&Plivo, &account, &probe::answer(status, body));
    let invalid = r#"{"message_uuid":[],"invalid_number":["+4477"]}"#;
    assert_eq!(class(202, invalid), (ErrorClass::Permanent, "plivo-invalid-number".into()));
    let error = r#"{"api_id":"9","error":"dst +447700900123 is bad"}"#;
    for (status, expected) in
        [(400, ErrorClass::Route), (401, ErrorClass::Route), (402, ErrorClass::Route), (429, ErrorClass::Transient)]
    {
        assert_eq!(class(status, error), (expected, format!("plivo-http-{status}")));
    }
    assert_eq!(class(403, error), (ErrorClass::Route, "plivo-http-403".into()));
    assert!(!probe::refused(&Plivo, &account, &probe::answer(403, error)).text.contains("447"));
    for doubt in [r#"{"message_uuid":[]}"#, r#"{"message_uuid":"5b40"}"#] {
        probe::in_doubt(&Plivo, &account, &probe::answer(202, doubt));
    }
    probe::in_doubt(&Plivo, &account, &probe::answer(500, error));
    probe::survives_anything(&Plivo, &account);
}

#[test]
fn each_status_has_its_state() {
    let receipt = |status: &str, code: &str| {
        let params = [
            ("MessageUUID", "5b40a428"),
            ("Status", status),
            ("ErrorCode", code),
            ("PartInfo", "1 of 3"),
            ("TotalAmount", "0.00250"),
        ];
        read(&params).map(|mut reply| reply.receipts.remove(0))
    };
    let delivered = Receipt {
        reference: Some("msg_1-1".into()),
        id: Some("5b40a428".into()),
        segment: None,
        state: ReceiptState::Delivered,
        at_ms: None,
        price: Some((2_500, "USD".into())),
    };
    assert_eq!(receipt("delivered", "000"), Ok(delivered));
    assert_eq!(receipt("read", "").unwrap().state, ReceiptState::Delivered);
    for pending in ["queued", "sent"] {
        assert_eq!(receipt(pending, "").unwrap().state, ReceiptState::Pending);
    }
    assert!(matches!(receipt("odd", ""), Err(CallbackError::Malformed(_))));
    for status in ["failed", "undelivered", "rejected"] {
        let state = |code| receipt(status, code).unwrap().state;
        for (code, class, _) in PLIVO {
            let ReceiptState::Failed(refusal) = state(code) else { panic!("{code}") };
            assert_eq!((refusal.class, String::from(refusal.code)), (*class, format!("plivo-{code}")));
        }
        assert_eq!(state("420"), ReceiptState::Expired);
        let ReceiptState::Failed(refusal) = state("") else { panic!() };
        assert_eq!(refusal.class, if status == "rejected" { ErrorClass::Route } else { ErrorClass::Transient });
    }
}

#[test]
fn a_received_message_is_inbound() {
    let params =
        [("MessageUUID", "u1"), ("From", "447700900123"), ("To", "14155550100"), ("Type", "sms"), ("Text", "Hello")];
    let expected = Inbound {
        id: "u1".into(),
        from: "447700900123".into(),
        to: "14155550100".into(),
        text: "Hello".into(),
        at_ms: None,
    };
    let reply = read(&params).unwrap();
    assert_eq!((reply.inbound, reply.answer), (vec![expected], "<Response></Response>"));
    assert!(matches!(read(&[("MessageUUID", "u1")]), Err(CallbackError::Malformed(_))));
    assert!(matches!(read(&[("Status", "sent")]), Err(CallbackError::Malformed(_))));
}

#[test]
fn version_two_is_that_of_the_sdk() {
    let verified = |url: &str, name: &'static str, signature: &str, nonce: &str| {
        let headers = [(name, signature), ("x-plivo-signature-v2-nonce", nonce)];
        verify(&account(), &probe::callback(Method::POST, url, &headers, b"Status=sent"))
    };
    const GOOD: &str = "ehV3IKhLysWBxC1sy8INm0qGoQYdYsHwuoKjsX7FsXc=";
    // The SDK's vector is of an address without a path, which an HTTP request cannot have: checked on the text.
    assert_eq!(tag("https://answer.url12345"), GOOD);
    let good = tag("https://answer.url/12345");
    let (own, main) = ("x-plivo-signature-v2", "x-plivo-signature-ma-v2");
    assert_eq!(verified("https://answer.url/?ref=1", own, &good, "12345"), Ok(()));
    assert_eq!(verified("https://answer.url/?ref=1", main, &good, "12345"), Ok(()), "by the main account's token");
    assert_eq!(verified("https://answer.url/x", own, &good, "12345"), Err(CallbackError::Signature));
    assert_eq!(verified("https://answer.url/", own, &good, "12346"), Err(CallbackError::Signature));
    assert_eq!(verified("https://answer.url/", own, "%%", "12345"), Err(CallbackError::Signature));
}

#[test]
fn version_three_covers_query_and_form() {
    let url = "https://answer.url/path?b=2&a=1&a=0";
    let verified = |url: &str, method: &Method, signature: &str, body: &str| {
        let headers = [("x-plivo-signature-v3", signature), ("x-plivo-signature-v3-nonce", "77")];
        verify(&account(), &probe::callback(method.clone(), url, &headers, body.as_bytes()))
    };
    let (get, post) = (Method::GET, Method::POST);
    let good = tag("https://answer.url/path?a=0&a=1&b=2.StatussentTo447.77");
    let form = "To=447&Status=sent";
    assert_eq!(verified(url, &post, &good, form), Ok(()));
    let several = format!("AAAA,{},{good}", tag("something else"));
    assert_eq!(verified(url, &post, &several, form), Ok(()), "one of several is right");
    assert_eq!(verified(url, &post, &good, "To=447&Status=failed"), Err(CallbackError::Signature));
    assert_eq!(verified("https://answer.url/path?b=2&a=1", &post, &good, form), Err(CallbackError::Signature));
    // The `?` stays when there is a form but no query, and goes when there is neither.
    assert_eq!(
        verified("https://answer.url/path", &post, &tag("https://answer.url/path?StatussentTo447.77"), form),
        Ok(())
    );
    assert_eq!(verified("https://answer.url/path", &post, &tag("https://answer.url/path.77"), ""), Ok(()));
    assert_eq!(verified(url, &post, &tag("https://answer.url/path?a=0&a=1&b=2.77"), ""), Ok(()));
    assert_eq!(verified(url, &get, &tag("https://answer.url/path?a=0&a=1&b=2.77"), ""), Ok(()));
    // A version 3 signature that is wrong is not saved by a version 2 one.
    let second = tag("https://answer.url/path1");
    let headers = [
        ("x-plivo-signature-v3", "AAAA"),
        ("x-plivo-signature-v3-nonce", "77"),
        ("x-plivo-signature-v2", &*second),
        ("x-plivo-signature-v2-nonce", "1"),
    ];
    let request = probe::callback(Method::POST, url, &headers, b"");
    assert_eq!(verify(&account(), &request), Err(CallbackError::Signature));
}

#[test]
fn unsigned_reports_are_taken_only_when_the_account_says_so() {
    let request = probe::callback(Method::POST, CALLBACK, &[], b"MessageUUID=u1&Status=sent");
    assert_eq!(Plivo.callback(&account(), &request, NOW_MS), Err(CallbackError::Unsigned));
    let lax = Account { unsigned_callbacks: true, ..account() };
    assert!(Plivo.callback(&lax, &request, NOW_MS).is_ok());
}

#[test]
fn polls_and_balances_are_read() {
    let body = r#"{"message_state":"undelivered","message_uuid":"5b40","error_code":"50","total_amount":"0.00250"}"#;
    let receipt = Plivo.polled(&account(), &[], &probe::answer(200, body)).remove(0);
    assert_eq!((receipt.id.as_deref(), receipt.price), (Some("5b40"), Some((2_500, "USD".into()))));
    assert!(matches!(receipt.state, ReceiptState::Failed(refusal) if refusal.class == ErrorClass::Permanent));
    let sent = Plivo.polled(
        &account(),
        &[],
        &probe::answer(200, r#"{"message_state":"sent","message_uuid":"5b40","error_code":null}"#),
    );
    assert_eq!(sent[0].state, ReceiptState::Pending);
    assert!(Plivo.polled(&account(), &[], &probe::answer(404, body)).is_empty());
    let balance =
        Plivo.balance_of(&account(), &probe::answer(200, r#"{"cash_credits":"4.88860","billing_mode":"prepaid"}"#));
    assert_eq!(balance, Some(Balance { micros: 4_888_600, currency: "USD".into() }));
    assert!(matches!(Plivo.judge(&account(), &probe::answer(401, "")), Judged::Refused(_)));
    assert!(matches!(Plivo.judge(&account(), &probe::answer(200, "{}")), Judged::Works(_)));
}
