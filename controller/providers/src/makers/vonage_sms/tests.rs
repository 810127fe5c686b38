//! Vonage SMS on the wire: forms byte for byte, parts with a status each, reports, and signatures by the SDK's own vectors.

use super::*;
use crate::makers::probe::{self, CALLBACK, NOW_MS};

const NOW_S: &str = "1795176000";

fn account() -> Account {
    probe::account(&[("api_key", "abcd1234")], &[("api_secret", "s3cret"), ("signature_secret", "signature_secret")])
}

fn signed(params: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = params.iter().map(|(name, value)| (String::from(*name), String::from(*value))).collect();
    let text = sorted(params.iter().copied());
    pairs.push(("sig".into(), HEXLOWER.encode(&Signing::Sha256.sign(b"signature_secret", &text)).to_uppercase()));
    pairs
}

fn form(pairs: &[(String, String)]) -> String {
    kit::form(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

fn read(params: &[(&str, &str)]) -> Result<CallbackReply, CallbackError> {
    let mut params = params.to_vec();
    params.push(("timestamp", NOW_S));
    let request = probe::callback(Method::POST, CALLBACK, &[], form(&signed(&params)).as_bytes());
    VonageSms.callback(&account(), &request, NOW_MS)
}

#[test]
fn a_message_is_one_form() {
    let call = VonageSms.submit(&account(), &[probe::outgoing(447_700_900_123, "+447700900000", "Hi & bye")], NOW_MS);
    let expected = "POST https://rest.nexmo.com/sms/json\n\
        accept: application/json\n\
        content-type: application/x-www-form-urlencoded\n\n\
        api_key=abcd1234&from=447700900000&to=447700900123&text=Hi+%26+bye&type=text&ttl=3600000&\
        client-ref=msg_0123456789abcdef0123456789-1&\
        callback=https%3A%2F%2Fsms.example%2Fv1%2Fcallbacks%2Fmaker%2Fprv_1%2Ftok&api_secret=s3cret";
    assert_eq!(probe::wire(&call.unwrap()), expected);
}

#[test]
fn a_flash_in_unicode_is_signed_when_there_is_no_secret() {
    let account = Account {
        callback_url: None,
        ..probe::account(&[("api_key", "k"), ("signature_method", "md5")], &[("signature_secret", "x")])
    };
    let mut message = probe::outgoing(447_700_900_123, "Acme", "a=é");
    (message.flash, message.validity_s) = (true, 1);
    let call = VonageSms.submit(&account, &[message], NOW_MS).unwrap();
    let text = "&api_key=k&client-ref=msg_0123456789abcdef0123456789-1&from=Acme&message-class=0&text=a_é\
        &timestamp=1795176000&to=447700900123&ttl=20000&type=unicode";
    let tag = HEXLOWER.encode(&Signing::Md5.sign(b"x", text));
    let body = format!(
        "api_key=k&from=Acme&to=447700900123&text=a%3D%C3%A9&type=unicode&ttl=20000&\
        client-ref=msg_0123456789abcdef0123456789-1&message-class=0&timestamp=1795176000&sig={tag}"
    );
    assert_eq!(std::str::from_utf8(&call.body).unwrap(), body);
    assert!(VonageSms.balance(&account, NOW_MS).is_none(), "the balance needs the secret");
}

#[test]
fn test_and_balance_are_one_get() {
    let expected = "GET https://rest.nexmo.com/account/get-balance\n\
        accept: application/json\nauthorization: Basic YWJjZDEyMzQ6czNjcmV0\n\n";
    assert_eq!(probe::wire(&VonageSms.test(&account(), NOW_MS).unwrap()), expected);
    assert_eq!(probe::wire(&VonageSms.balance(&account(), NOW_MS).unwrap().unwrap()), expected);
    let balance = VonageSms.balance_of(&account(), &probe::answer(200, r#"{"value":29.18202293,"autoReload":false}"#));
    assert_eq!(balance, Some(Balance { micros: 29_182_023, currency: "EUR".into() }));
    assert!(matches!(VonageSms.judge(&account(), &probe::answer(401, "")), Judged::Refused(_)));
    assert!(matches!(VonageSms.judge(&account(), &probe::answer(200, "{}")), Judged::Works(_)));
}

#[test]
fn settings_are_checked_by_name() {
    let field = |fields: &[(&str, &str)], secrets: &[(&str, &str)]| {
        VonageSms.check(&probe::account(fields, secrets)).map_err(|error| error.field)
    };
    let key = ("api_key", "k");
    assert_eq!(field(&[key], &[("api_secret", "s")]), Ok(()));
    assert_eq!(field(&[key], &[("signature_secret", "s")]), Ok(()));
    assert_eq!(field(&[key], &[]), Err("api_secret".into()));
    assert_eq!(field(&[], &[("api_secret", "s")]), Err("api_key".into()));
    assert_eq!(field(&[key, ("signature_method", "crc")], &[("api_secret", "s")]), Err("signature_method".into()));
}

fn parts(parts: &[&str]) -> Answer {
    probe::answer(200, &format!(r#"{{"message-count":"{}","messages":[{}]}}"#, parts.len(), parts.join(",")))
}

const TAKEN: &str = r#"{"to":"1234567890","message-id":"3295d748","status":"0","remaining-balance":"38.07","message-price":"0.04120000","network":"23420"}"#;

#[test]
fn all_parts_count() {
    let account = account();
    let one = |answer: &Answer| probe::one(&VonageSms, &account, answer);
    let accepted = |micros| Submitted::Accepted { id: Some("3295d748".into()), price: Some((micros, "EUR".into())) };
    assert_eq!(one(&parts(&[TAKEN])), accepted(41_200));
    assert_eq!(one(&parts(&[TAKEN, &TAKEN.replace("3295", "72ff")])), accepted(82_400));
    let two = VonageSms.parts(&parts(&[TAKEN, &TAKEN.replace("3295", "72ff")]));
    assert_eq!(two, ["3295d748", "72ffd748"].map(Box::<str>::from), "each is reported by its own id");
    assert!(VonageSms.parts(&parts(&[TAKEN, r#"{"status":"0"}"#])).is_empty());
    let unpriced = one(&parts(&[r#"{"message-id":"a","status":"0"}"#]));
    assert_eq!(unpriced, Submitted::Accepted { id: Some("a".into()), price: None });

    let barred = r#"{"status":"7","error-text":"Number barred."}"#;
    let throttled = r#"{"status":"1","error-text":"Throttled"}"#;
    assert_eq!(probe::class(&VonageSms, &account, &parts(&[barred])), (ErrorClass::Permanent, "vonage-sms-7".into()));
    assert_eq!(probe::class(&VonageSms, &account, &parts(&[throttled, throttled])).0, ErrorClass::Transient);
    // The first parts are on their way; so are later ones when the first was refused.
    for doubt in [&[TAKEN, throttled][..], &[throttled, TAKEN], &[TAKEN, TAKEN, barred]] {
        probe::in_doubt(&VonageSms, &account, &parts(doubt));
    }
    // Parts without a status or an id, and the platform's own error.
    for doubt in [&[][..], &[r#"{"message-id":"a"}"#], &[r#"{"status":"0"}"#], &[TAKEN, "{}"], &["7"]] {
        probe::in_doubt(&VonageSms, &account, &parts(doubt));
    }
    probe::in_doubt(&VonageSms, &account, &parts(&[r#"{"status":"5","error-text":"Internal error"}"#]));
    probe::survives_anything(&VonageSms, &account);
}

#[test]
fn each_status_of_an_answer_has_its_class() {
    for (code, class, _) in SMS_STATUS.iter().filter(|(code, ..)| *code != "5") {
        let answer = parts(&[&format!(r#"{{"status":"{code}","error-text":"to 447700900123"}}"#)]);
        assert_eq!(probe::class(&VonageSms, &account(), &answer), (*class, format!("vonage-sms-{code}")));
        assert!(!probe::refused(&VonageSms, &account(), &answer).text.contains("447"));
    }
    let answer = parts(&[r#"{"status":77}"#]);
    assert_eq!(probe::class(&VonageSms, &account(), &answer), (ErrorClass::Route, "vonage-sms-77".into()));
    assert_eq!(probe::class(&VonageSms, &account(), &probe::answer(429, "")).0, ErrorClass::Transient);
    assert_eq!(probe::class(&VonageSms, &account(), &probe::answer(401, "")).0, ErrorClass::Route);
}

#[test]
fn each_status_of_a_report_has_its_state() {
    let receipt = |status: &str, code: &str| {
        let params = [
            ("msisdn", "447700900123"),
            ("to", "Acme"),
            ("messageId", "0A0000001234567B"),
            ("price", "0.03330000"),
            ("status", status),
            ("err-code", code),
            ("client-ref", "msg_1-1"),
            ("message-timestamp", "2020-01-01 12:00:00"),
        ];
        read(&params).map(|mut reply| reply.receipts.remove(0))
    };
    let delivered = Receipt {
        reference: Some("msg_1-1".into()),
        id: Some("0A0000001234567B".into()),
        segment: None,
        state: ReceiptState::Delivered,
        at_ms: Some(1_577_880_000_000),
        price: Some((33_300, "EUR".into())),
    };
    assert_eq!(receipt("delivered", "0"), Ok(delivered));
    for pending in ["accepted", "buffered", "unknown"] {
        assert_eq!(receipt(pending, "0").unwrap().state, ReceiptState::Pending, "{pending}");
    }
    assert_eq!(receipt("expired", "2").unwrap().state, ReceiptState::Expired);
    for (code, class, _) in SMS_RECEIPT {
        for status in ["failed", "rejected"] {
            let ReceiptState::Failed(refusal) = receipt(status, code).unwrap().state else { panic!("{code}") };
            assert_eq!((refusal.class, String::from(refusal.code)), (*class, format!("vonage-sms-dlr-{code}")));
        }
    }
    let ReceiptState::Failed(refusal) = receipt("failed", "0").unwrap().state else { panic!() };
    assert_eq!((refusal.class, &*refusal.code), (ErrorClass::Transient, "vonage-sms-failed"));
    assert!(matches!(receipt("odd", "0"), Err(CallbackError::Malformed(_))));
    assert!(matches!(read(&[("status", "delivered")]), Err(CallbackError::Malformed(_))));
}

#[test]
fn a_received_message_is_inbound() {
    let params = [
        ("msisdn", "447700900001"),
        ("to", "447700900000"),
        ("messageId", "0A1"),
        ("text", "Hello & world="),
        ("type", "text"),
        ("message-timestamp", "2020-01-01 12:00:00"),
    ];
    let expected = Inbound {
        id: "0A1".into(),
        from: "447700900001".into(),
        to: "447700900000".into(),
        text: "Hello & world=".into(),
        at_ms: Some(1_577_880_000_000),
    };
    assert_eq!(read(&params).unwrap().inbound, [expected]);
    assert!(matches!(read(&[("messageId", "0A1"), ("text", "x")]), Err(CallbackError::Malformed(_))));
}

#[test]
fn signatures_are_those_of_the_sdk() {
    let params = [("param2", "value2"), ("timestamp", "1234567890"), ("param1", "value1")];
    let sign = |method: Signing, params: &[(&str, &str)]| {
        HEXLOWER.encode(&method.sign(b"signature_secret", &sorted(params.iter().copied())))
    };
    assert_eq!(sign(Signing::Sha256, &params), "280c4320703dbc98bfa22db676655ed2acfbfe8792b062ff7622e67f1183c287");
    assert_eq!(sign(Signing::Md5, &params), "724c2bf6ca423c36e20631b11d1c5753");
    let special = [("param1", "value&1"), ("param2", "value=2"), ("timestamp", "1234567890")];
    assert_eq!(sign(Signing::Md5, &special), "2bbf0abafb2c55e5af6231513896a2ac");
    assert_eq!(
        sign(Signing::Md5, &[("param", "value"), ("timestamp", "1234567890")]),
        "655a4d0b7f064dff438defc52b012cf5"
    );
    // Worked out apart from this code, for what the SDK has no vector of.
    assert_eq!(sign(Signing::Sha1, &params), "e4ebfd0ecd877fed7b414b5c87d0d7dfebb10a19");
    assert_eq!(sign(Signing::Md5Hash, &params), "d72f75ac8cda9bbce891c4fa62bee6cd");
    let sha512 = "740ea4cd4c004c619d3b4cf060484278290d43d2b9d6693ada7b4c4ac48b18f3\
        9675710a5a878cde6f4349bd19e8b8e033e3f0b4816b805a969e0f24ae726292";
    assert_eq!(sign(Signing::Sha512, &params), sha512);
}

#[test]
fn reports_are_verified_however_they_come() {
    let params = signed(&[("messageId", "0A1"), ("status", "delivered"), ("timestamp", NOW_S)]);
    let json = Value::Object(params.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect());
    let query = format!("{CALLBACK}?{}", form(&params));
    let good = [
        probe::callback(Method::POST, CALLBACK, &[], form(&params).as_bytes()),
        probe::callback(Method::POST, CALLBACK, &[], json.to_string().as_bytes()),
        probe::callback(Method::GET, &query, &[], b""),
    ];
    for request in good {
        let read = |account: &Account, now_ms| VonageSms.callback(account, &request, now_ms);
        assert!(read(&account(), NOW_MS).is_ok());
        assert!(read(&account(), NOW_MS + 300_000).is_ok());
        assert_eq!(read(&account(), NOW_MS + 301_000), Err(CallbackError::Replayed));
        assert_eq!(read(&account(), NOW_MS - 301_000), Err(CallbackError::Replayed));
        let mut other = account();
        other.secrets.insert("signature_secret".into(), "other".into());
        assert_eq!(read(&other, NOW_MS), Err(CallbackError::Signature));
        other.secrets.remove("signature_secret");
        assert_eq!(read(&other, NOW_MS), Err(CallbackError::Signature), "nothing to check it with");
        let other = Account { fields: [("signature_method".into(), "sha512".into())].into(), ..account() };
        assert_eq!(read(&other, NOW_MS), Err(CallbackError::Signature));
    }
    let changed = form(&params).replace("delivered", "failed");
    let read = |account: &Account, body: &str| {
        VonageSms.callback(account, &probe::callback(Method::POST, CALLBACK, &[], body.as_bytes()), NOW_MS)
    };
    assert_eq!(read(&account(), &changed), Err(CallbackError::Signature));
    let timeless = form(&signed(&[("messageId", "0A1"), ("status", "delivered")]));
    assert!(matches!(read(&account(), &timeless), Err(CallbackError::Malformed(_))));
    let bare = "messageId=0A1&status=delivered";
    assert_eq!(read(&account(), bare), Err(CallbackError::Unsigned));
    assert!(read(&Account { unsigned_callbacks: true, ..account() }, bare).is_ok());
}
