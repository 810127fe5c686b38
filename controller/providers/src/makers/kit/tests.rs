//! Tables for the shared helpers; the makers' tests cover what they make of them.

use http::header::RETRY_AFTER;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn answer(status: u16) -> Answer {
    Answer { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body: Bytes::new() }
}

#[test]
fn money_is_read_exactly() {
    for (text, micros) in [
        ("0.0333", Some(33_300)),
        ("-0.00750", Some(-7_500)),
        ("15.53590000", Some(15_535_900)),
        (".5", Some(500_000)),
        ("7", Some(7_000_000)),
        ("7.", Some(7_000_000)),
        ("0.0000005", Some(1)),
        ("0.0000004", Some(0)),
        ("", None),
        (".", None),
        ("-", None),
        ("1e3", None),
        ("1,5", None),
        ("1.5 EUR", None),
        ("9999999999999", None),
    ] {
        assert_eq!(super::micros(text), micros, "{text}");
    }
    assert_eq!(price("-0.0075"), Some(7_500));
    let value = json!({"a": 29.18202293, "b": "1.5", "c": 1e-7, "d": null, "e": 1e300});
    let read = |pointer| micros_at(&value, pointer);
    assert_eq!(read("/a"), Some(29_182_023));
    assert_eq!(read("/b"), Some(1_500_000));
    assert_eq!(read("/c"), Some(0));
    assert_eq!((read("/d"), read("/e"), read("/f")), (None, None, None));
}

#[test]
fn retry_after_is_seconds_or_a_date_and_bounded() {
    let with = |pairs: &[(http::HeaderName, &'static str)]| {
        let headers = pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        retry_after_ms(&headers.collect::<HeaderMap>())
    };
    assert_eq!(with(&[]), None);
    assert_eq!(with(&[(RETRY_AFTER, "7")]), Some(7_000));
    assert_eq!(with(&[(RETRY_AFTER, "99999999999999999999")]), None);
    assert_eq!(with(&[(RETRY_AFTER, "18446744073709551615")]), Some(RETRY_AFTER_MAX_MS));
    let date = (DATE, "Wed, 21 Oct 2015 07:28:00 GMT");
    assert_eq!(with(&[(RETRY_AFTER, "Wed, 21 Oct 2015 07:28:30 GMT"), date.clone()]), Some(30_000));
    assert_eq!(with(&[(RETRY_AFTER, "Wed, 21 Oct 2015 07:27:30 GMT"), date]), Some(0));
    assert_eq!(with(&[(RETRY_AFTER, "Wed, 21 Oct 2015 07:28:30 GMT")]), None);
    assert_eq!(with(&[(RETRY_AFTER, "soon")]), None);
}

#[test]
fn only_a_status_below_500_says_that_nothing_was_taken() {
    let class = |status| match by_status("maker", &answer(status)) {
        Submitted::Refused(refusal) => Some((refusal.class, refusal.code)),
        _ => None,
    };
    assert_eq!(class(400), Some((ErrorClass::Route, "maker-http-400".into())));
    assert_eq!(class(401).unwrap().0, ErrorClass::Route);
    assert_eq!(class(402).unwrap().0, ErrorClass::Route);
    for moved in [301, 307, 308] {
        assert_eq!(class(moved).unwrap().0, ErrorClass::Route, "{moved}");
    }
    assert_eq!(class(429).unwrap().0, ErrorClass::Transient);
    // A script that has done its work sends the browser on: 302 by default, 303 by the book.
    for unclear in [200, 202, 302, 303, 500, 502, 503, 504, 599] {
        assert_eq!(class(unclear), None, "{unclear}");
    }
}

#[test]
fn secrets_are_compared_whole() {
    assert!(same(b"secret", b"secret"));
    assert!(!same(b"secret", b"secret2"));
    assert!(!same(b"", b"x"));
    assert!(same(b"", b""));
}

#[test]
fn a_reference_goes_through_the_callback_address() {
    let callback_url = Some(Url::parse("https://sms.example/v1/callbacks/twilio/prv_1/tok?a=b").unwrap());
    let account = Account { callback_url, ..Account::default() };
    let url = callback_with(&account, "msg_01-1").unwrap();
    assert_eq!(url.as_str(), "https://sms.example/v1/callbacks/twilio/prv_1/tok?a=b&ref=msg_01-1");
    assert_eq!(reference_in(&url).as_deref(), Some("msg_01-1"));
    assert_eq!(callback_with(&Account::default(), "msg_01-1"), None);
    for bad in ["", "a b", "ü", &"x".repeat(65)] {
        assert_eq!(reference(bad), None, "{bad}");
    }
}

#[test]
fn a_header_that_cannot_be_is_the_fields_fault() {
    let call = get(Url::parse("https://x.example/").unwrap());
    let error = call.clone().authorization("AccessKey a\nb", "access_key").unwrap_err();
    assert_eq!(&*error.field, "access_key");
    let call = call.basic("AC1", "tok").unwrap();
    assert_eq!(call.headers[AUTHORIZATION], "Basic QUMxOnRvaw==");
    assert!(call.headers[AUTHORIZATION].is_sensitive());
}

#[test]
fn times_are_unix_milliseconds() {
    assert_eq!(rfc3339_ms("2015-07-03T07:55:31+00:00"), Some(1_435_910_131_000));
    assert_eq!(rfc3339_ms("2023-05-01T14:00:00.250Z"), Some(1_682_949_600_250));
    assert_eq!(rfc3339_ms("1900-01-01T00:00:00Z"), None);
    assert_eq!(rfc3339_ms("yesterday"), None);
    assert_eq!(utc_ms("2020-01-01 12:00:00"), Some(1_577_880_000_000));
    assert_eq!(utc_ms(""), None);
    assert!(fresh(1_000_000, 1_300_000) && fresh(1_300_000, 1_000_000));
    assert!(!fresh(1_000_000, 1_300_001) && !fresh(1_300_001, 1_000_000));
}

#[test]
fn a_jwt_without_a_shared_secret_is_none() {
    // The makers' SDK test vector: HS256 over three claims.
    let token = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJPbmxpbmUgSldUIEJ1aWxkZXIiLCJpYXQiOjE2OTc2MzQ2ODAsImV4cCI6\
                 MzMyNTQ1NDA4MjgsImF1ZCI6IiIsInN1YiI6IiJ9.88vJc3I2HhuqEDixHXVhc9R30tA6U_HQHZTC29y6CGM";
    let claims = jwt_claims(token, b"qwertyuiopasdfghjklzxcvbnm123456").unwrap();
    assert_eq!(seconds_at(&claims, "/iat"), Some(1_697_634_680_000));
    assert!(jwt_claims(token, b"asdf").is_none());
    let none = "eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0.e30.";
    assert!(jwt_claims(none, b"").is_none());
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in ".{0,80}") {
        let _ = json(&bytes);
        let _ = pairs(&bytes);
        let _ = (super::micros(&text), rfc3339_ms(&text), utc_ms(&text), reference(&text));
        let _ = jwt_claims(&text, &bytes);
        prop_assert!(!signed_by(hmac::HMAC_SHA256, b"k", text.as_bytes(), &bytes));
        prop_assert_eq!(same(&bytes, text.as_bytes()), bytes == text.as_bytes());
    }

    #[test]
    fn money_round_trips(micros in -1_000_000_000_000i64..1_000_000_000_000) {
        let sign = if micros < 0 { "-" } else { "" };
        let text = format!("{sign}{}.{:06}", micros.abs() / 1_000_000, micros.abs() % 1_000_000);
        prop_assert_eq!(super::micros(&text), Some(micros));
    }
}
