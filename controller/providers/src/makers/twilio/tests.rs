//! Twilio on the wire: requests byte for byte, answers, reports, and signatures by the SDK's own vectors.

use std::collections::BTreeSet;

use http::Method;

use super::*;
use crate::makers::probe::{self, CALLBACK, NOW_MS};

fn account() -> Account {
    probe::account(&[("account_sid", "AC0123")], &[("auth_token", "12345")])
}

/// Signs a form as Twilio does, over an address.
fn signature(url: &str, params: &[(&str, &str)]) -> String {
    let pairs: BTreeSet<_> = params.iter().collect();
    let text = pairs.iter().fold(url.to_owned(), |text, (name, value)| text + name + value);
    BASE64.encode(kit::hmac_of(HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"12345", text.as_bytes()).as_ref())
}

fn report(params: &[(&str, &str)]) -> Callback {
    let url = format!("{CALLBACK}?ref=msg_1-1");
    let signature = signature(&url, params);
    probe::callback(
        Method::POST,
        &url,
        &[("x-twilio-signature", &signature)],
        kit::form(params.iter().copied()).as_bytes(),
    )
}

fn read(params: &[(&str, &str)]) -> Result<CallbackReply, CallbackError> {
    Twilio.callback(&account(), &report(params), NOW_MS)
}

#[test]
fn a_message_is_one_form() {
    let message = probe::outgoing(447_700_900_123, "+15005550006", "Hello & good-bye");
    let call = Twilio.submit(&account(), &[message], NOW_MS).unwrap();
    let expected = "POST https://api.twilio.com/2010-04-01/Accounts/AC0123/Messages.json\n\
        accept: application/json\n\
        authorization: Basic QUMwMTIzOjEyMzQ1\n\
        content-type: application/x-www-form-urlencoded\n\n\
        To=%2B447700900123&From=%2B15005550006&Body=Hello+%26+good-bye&ValidityPeriod=3600&StatusCallback=\
        https%3A%2F%2Fsms.example%2Fv1%2Fcallbacks%2Fmaker%2Fprv_1%2Ftok%3Fref%3Dmsg_0123456789abcdef0123456789-1";
    assert_eq!(probe::wire(&call), expected);
}

#[test]
fn a_service_a_key_and_a_base_address_are_used() {
    let mut account = probe::account(
        &[("account_sid", "AC0123"), ("api_key_sid", "SK9")],
        &[("auth_token", "12345"), ("api_key_secret", "s")],
    );
    account.callback_url = None;
    account.base_url = Some(Url::parse("http://127.0.0.1:9/x/").unwrap());
    let mut message = probe::outgoing(447_700_900_123, "MG0123456789abcdef0123456789abcdef", "hé");
    message.validity_s = 1_000_000;
    let call = Twilio.submit(&account, &[message], NOW_MS).unwrap();
    let expected = "POST http://127.0.0.1:9/x/2010-04-01/Accounts/AC0123/Messages.json\n\
        accept: application/json\n\
        authorization: Basic U0s5OnM=\n\
        content-type: application/x-www-form-urlencoded\n\n\
        To=%2B447700900123&MessagingServiceSid=MG0123456789abcdef0123456789abcdef&Body=h%C3%A9&ValidityPeriod=36000";
    assert_eq!(probe::wire(&call), expected);
}

#[test]
fn other_requests_are_plain_gets() {
    let account = account();
    let wire = |call: Result<Call, FieldError>| probe::wire(&call.unwrap());
    let get = |path: &str| {
        format!(
            "GET https://api.twilio.com/2010-04-01/Accounts/AC0123{path}\naccept: application/json\nauthorization: Basic QUMwMTIzOjEyMzQ1\n\n"
        )
    };
    assert_eq!(wire(Twilio.test(&account, NOW_MS)), get(".json"));
    assert_eq!(wire(Twilio.balance(&account, NOW_MS).unwrap()), get("/Balance.json"));
    assert_eq!(wire(Twilio.poll(&account, &["SM1".into()], NOW_MS).unwrap()), get("/Messages/SM1.json"));
    assert!(Twilio.poll(&account, &["../x".into()], NOW_MS).is_none());
}

#[test]
fn settings_are_checked_by_name() {
    let field = |fields: &[(&str, &str)], secrets: &[(&str, &str)]| {
        Twilio.check(&probe::account(fields, secrets)).map_err(|error| error.field)
    };
    let token = ("auth_token", "t");
    assert_eq!(field(&[("account_sid", "AC1")], &[token]), Ok(()));
    assert_eq!(field(&[], &[token]), Err("account_sid".into()));
    assert_eq!(field(&[("account_sid", "AC1/..")], &[token]), Err("account_sid".into()));
    assert_eq!(field(&[("account_sid", "SK1")], &[token]), Err("account_sid".into()));
    assert_eq!(field(&[("account_sid", "AC1")], &[]), Err("auth_token".into()));
    assert_eq!(field(&[("account_sid", "AC1"), ("api_key_sid", "SK1")], &[token]), Err("api_key_secret".into()));
}

#[test]
fn answers_are_taken_refused_or_in_doubt() {
    let account = account();
    let taken = r#"{"sid":"SM87105da94bff44b999e4e6eb90d8eb6a","status":"queued","error_code":null,"price":null,"price_unit":"USD"}"#;
    let id = Some("SM87105da94bff44b999e4e6eb90d8eb6a".into());
    assert_eq!(
        probe::one(&Twilio, &account, &probe::answer(201, taken)),
        Submitted::Accepted { id: id.clone(), price: None }
    );
    let priced = taken.replace("null,\"price_unit", "\"-0.00750\",\"price_unit");
    let price = Some((7_500, "USD".into()));
    assert_eq!(probe::one(&Twilio, &account, &probe::answer(201, &priced)), Submitted::Accepted { id, price });
    let failed = r#"{"sid":"SM1","status":"failed","error_code":21610}"#;
    assert_eq!(
        probe::class(&Twilio, &account, &probe::answer(201, failed)),
        (ErrorClass::Permanent, "twilio-21610".into())
    );
    // A 5xx is in doubt whatever it says.
    probe::in_doubt(&Twilio, &account, &probe::answer(500, r#"{"code":20500,"status":500}"#));
    probe::in_doubt(&Twilio, &account, &probe::answer(503, r#"{"code":20429}"#));
    probe::survives_anything(&Twilio, &account);
}

#[test]
fn each_code_has_its_class() {
    let account = account();
    for (code, class, _) in TWILIO {
        let answer = probe::answer(400, &format!(r#"{{"code":{code},"message":"to +447700900123","status":400}}"#));
        assert_eq!(probe::class(&Twilio, &account, &answer), (*class, format!("twilio-{code}")));
        assert!(!probe::refused(&Twilio, &account, &answer).text.contains("447"));
    }
    // The magic numbers of test credentials.
    let class = |code| probe::class(&Twilio, &account, &probe::answer(400, &format!("{{\"code\":{code}}}"))).0;
    for permanent in [21211, 21610, 21614] {
        assert_eq!(class(permanent), ErrorClass::Permanent);
    }
    for route in [21212, 21606, 21612, 21408] {
        assert_eq!(class(route), ErrorClass::Route);
    }
    assert_eq!(class(21611), ErrorClass::Transient);
    // What the table does not know goes by the status.
    let unknown = probe::answer(400, r#"{"code":29999}"#);
    assert_eq!(probe::class(&Twilio, &account, &unknown), (ErrorClass::Route, "twilio-http-400".into()));
    let throttled = probe::with_header(probe::answer(429, r#"{"code":20429}"#), "retry-after", "2");
    let refusal = probe::refused(&Twilio, &account, &throttled);
    assert_eq!((refusal.class, refusal.retry_after_ms), (ErrorClass::Transient, Some(2_000)));
}

#[test]
fn each_status_has_its_state() {
    let state = |status: &str, code: Option<&str>| {
        let mut params = vec![("MessageSid", "SM1"), ("MessageStatus", status)];
        params.extend(code.map(|code| ("ErrorCode", code)));
        let mut reply = read(&params).unwrap();
        assert_eq!((reply.receipts.len(), reply.inbound.len(), reply.answer), (1, 0, ""));
        let receipt = reply.receipts.remove(0);
        assert_eq!((receipt.reference.as_deref(), receipt.id.as_deref()), (Some("msg_1-1"), Some("SM1")));
        receipt.state
    };
    for pending in ["accepted", "scheduled", "queued", "sending", "sent", "partially_delivered"] {
        assert_eq!(state(pending, None), ReceiptState::Pending, "{pending}");
    }
    assert_eq!(state("delivered", None), ReceiptState::Delivered);
    assert_eq!(state("read", Some("0")), ReceiptState::Delivered);
    assert_eq!(state("undelivered", Some("30036")), ReceiptState::Expired);
    let failed = |status, code| match state(status, code) {
        ReceiptState::Failed(refusal) => (refusal.class, String::from(refusal.code)),
        other => panic!("{other:?}"),
    };
    assert_eq!(failed("undelivered", Some("30005")), (ErrorClass::Permanent, "twilio-30005".into()));
    assert_eq!(failed("undelivered", Some("30003")), (ErrorClass::Transient, "twilio-30003".into()));
    assert_eq!(failed("failed", Some("30034")), (ErrorClass::Route, "twilio-30034".into()));
    assert_eq!(failed("failed", Some("39999")), (ErrorClass::Transient, "twilio-39999".into()));
    assert_eq!(failed("failed", None), (ErrorClass::Transient, "twilio-failed".into()));
    assert_eq!(failed("canceled", None), (ErrorClass::Route, "twilio-canceled".into()));
    assert!(matches!(read(&[("MessageSid", "SM1"), ("MessageStatus", "odd")]), Err(CallbackError::Malformed(_))));
    assert!(matches!(read(&[("MessageStatus", "sent")]), Err(CallbackError::Malformed(_))));
}

#[test]
fn a_received_message_is_inbound() {
    let reply = read(&[
        ("MessageSid", "SM2"),
        ("SmsStatus", "received"),
        ("From", "+447700900123"),
        ("To", "+15005550006"),
        ("Body", "STOP é"),
    ]);
    let reply = reply.unwrap();
    let inbound = Inbound {
        id: "SM2".into(),
        from: "+447700900123".into(),
        to: "+15005550006".into(),
        text: "STOP é".into(),
        at_ms: None,
    };
    assert_eq!((reply.inbound, reply.answer), (vec![inbound], "<Response></Response>"));
    assert!(matches!(read(&[("MessageSid", "SM2"), ("From", "+1")]), Err(CallbackError::Malformed(_))));
}

#[test]
fn signatures_are_those_of_the_sdk() {
    const URL: &str = "https://mycompany.com/myapp.php?foo=1&bar=2";
    const FORM: &[u8] =
        b"CallSid=CA1234567890ABCDE&Digits=1234&From=%2B14158675309&To=%2B18005551212&Caller=%2B14158675309";
    let verified = |url: &str, signature: &str, body: &[u8]| {
        let request = probe::callback(Method::POST, url, &[("x-twilio-signature", signature)], body);
        verify(&account(), &request, &params(&request))
    };
    let with_port = URL.replace(".com", ".com:1234");
    assert_eq!(verified(URL, "RSOYDt4T1cUTdK1PDd93/VVr8B8=", FORM), Ok(()));
    assert_eq!(verified(&with_port, "RSOYDt4T1cUTdK1PDd93/VVr8B8=", FORM), Ok(()));
    assert_eq!(verified(&with_port.replace("https", "http"), "Zmvh+3yNM1Phv2jhDCwEM3q5ebU=", FORM), Ok(()));
    assert_eq!(verified(URL, "kvajT1Ptam85bY51eRf/AJRuM3w=", FORM), Ok(()), "signed with port 443");
    assert_eq!(verified(&URL.replace("https", "http"), "0ZXoZLH/DfblKGATFgpif+LLRf4=", FORM), Ok(()), "with port 80");
    let twice = b"Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234&Digits=1234";
    assert_eq!(verified(URL, "IK+Dwps556ElfBT0I3Rgjkr1wJU=", twice), Ok(()));
    let hash = "0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620";
    let json = br#"{"property": "value", "boolean": true}"#;
    let hashed = format!("{URL}&bodySHA256={hash}");
    assert_eq!(verified(&hashed, "a9nBmqA0ju/hNViExpshrM61xv4=", json), Ok(()));

    assert_eq!(verified(&hashed, "a9nBmqA0ju/hNViExpshrM61xv4=", b"{}"), Err(CallbackError::Signature));
    assert_eq!(verified(URL, "RSOYDt4T1cUTdK1PDd93/VVr8B8=", b"Digits=1"), Err(CallbackError::Signature));
    assert_eq!(verified(URL, "SSOYDt4T1cUTdK1PDd93/VVr8B8=", FORM), Err(CallbackError::Signature));
    assert_eq!(verified(URL, "not base64!", FORM), Err(CallbackError::Signature));
    assert_eq!(
        verified("https://evil.example/?foo=1&bar=2", "RSOYDt4T1cUTdK1PDd93/VVr8B8=", FORM),
        Err(CallbackError::Signature)
    );
}

#[test]
fn unsigned_reports_are_taken_only_when_the_account_says_so() {
    let request = probe::callback(Method::POST, CALLBACK, &[], b"MessageSid=SM1&MessageStatus=sent");
    assert_eq!(Twilio.callback(&account(), &request, NOW_MS), Err(CallbackError::Unsigned));
    let lax = Account { unsigned_callbacks: true, ..account() };
    assert!(Twilio.callback(&lax, &request, NOW_MS).is_ok());
    // A wrong signature is wrong for them, too.
    let request = probe::callback(Method::POST, CALLBACK, &[("x-twilio-signature", "AAAA")], &request.body);
    assert_eq!(Twilio.callback(&lax, &request, NOW_MS), Err(CallbackError::Signature));
}

#[test]
fn a_get_is_signed_by_its_address_alone() {
    let url = format!("{CALLBACK}?ref=msg_1-1&MessageSid=SM1&MessageStatus=delivered");
    let request = probe::callback(Method::GET, &url, &[("x-twilio-signature", &signature(&url, &[]))], b"");
    let reply = Twilio.callback(&account(), &request, NOW_MS).unwrap();
    assert_eq!(reply.receipts[0].state, ReceiptState::Delivered);
}

#[test]
fn polls_balances_and_tests_are_read() {
    let account = account();
    let polled = |status, body: &str| Twilio.polled(&account, &["SM1".into()], &probe::answer(status, body));
    let body = r#"{"sid":"SM1","status":"undelivered","error_code":30006,"price":"-0.0075","price_unit":"usd"}"#;
    let receipt = polled(200, body).remove(0);
    assert_eq!((receipt.id.as_deref(), receipt.price), (Some("SM1"), Some((7_500, "USD".into()))));
    assert!(matches!(receipt.state, ReceiptState::Failed(refusal) if refusal.class == ErrorClass::Permanent));
    assert!(polled(404, body).is_empty() && polled(200, "{}").is_empty());

    let balance = |body: &str| Twilio.balance_of(&account, &probe::answer(200, body));
    let expected = Balance { micros: 12_340_000, currency: "USD".into() };
    assert_eq!(balance(r#"{"account_sid":"AC0123","balance":"12.34","currency":"USD"}"#), Some(expected));
    assert_eq!(balance("{}"), None);

    let judged = |status, body: &str| Twilio.judge(&account, &probe::answer(status, body));
    assert!(matches!(judged(200, r#"{"status":"active"}"#), Judged::Works(_)));
    assert!(matches!(judged(200, r#"{"status":"suspended"}"#), Judged::Refused(_)));
    assert!(matches!(judged(401, r#"{"code":20003}"#), Judged::Refused(_)));
    assert!(matches!(judged(503, ""), Judged::Unclear(_)));
}
