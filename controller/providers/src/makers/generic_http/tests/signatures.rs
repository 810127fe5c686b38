//! Signatures of reports: good, bad, missing, replayed, by every kind; with vectors from outside.

use data_encoding::{BASE64, HEXLOWER, HEXUPPER};
use ring::hmac;

use super::*;
use crate::makers::kit::hmac_of;

const KEY: &str = "0123456789abcdef";
const BODY: &str = r#"{"id":"9","s":"D"}"#;

fn account(signature: Value) -> Account {
    let settings = json!({
        "request": {"method": "GET", "url": "https://x.example/"},
        "callback": {"id": "/id", "state": "/s", "states": {"delivered": ["D"]}, "signature": signature},
    });
    // Signed reports need no consent to unsigned ones.
    let account = Account { unsigned_callbacks: false, ..with(&settings) };
    assert_eq!(MAKER.check(&account), Ok(()));
    account
}

fn judge(account: &Account, url: &str, headers: &[(&'static str, &str)], body: &str) -> Result<(), CallbackError> {
    MAKER.callback(account, &callback(Method::POST, url, headers, body.as_bytes()), NOW_MS).map(drop)
}

/// A report signed by Standard Webhooks at one time, that comes at another.
pub(super) fn standard(
    account: &Account,
    secret: &str,
    body: &str,
    at_ms: u64,
    now_ms: u64,
) -> Result<CallbackReply, CallbackError> {
    let key = BASE64.decode(secret.strip_prefix("whsec_").unwrap().as_bytes()).unwrap();
    let at = (at_ms / 1000).to_string();
    let tag = BASE64.encode(hmac_of(hmac::HMAC_SHA256, &key, format!("evt_1.{at}.{body}").as_bytes()).as_ref());
    let signature = format!("v1,AAAA v1,{tag}");
    let headers =
        [("webhook-id", "evt_1"), ("webhook-timestamp", at.as_str()), ("webhook-signature", signature.as_str())];
    MAKER.callback(account, &callback(Method::POST, CALLBACK, &headers, body.as_bytes()), now_ms)
}

#[test]
fn a_shared_secret_is_compared() {
    let header = account(json!({"kind": "shared", "place": "header", "name": "x-token", "secret": "callback_secret"}));
    assert_eq!(judge(&header, CALLBACK, &[("x-token", KEY)], BODY), Ok(()));
    assert_eq!(judge(&header, CALLBACK, &[("x-token", "0123456789abcdeF")], BODY), Err(CallbackError::Signature));
    assert_eq!(judge(&header, CALLBACK, &[], BODY), Err(CallbackError::Unsigned));
    let query = account(json!({"kind": "shared", "place": "query", "name": "token", "secret": "callback_secret"}));
    assert_eq!(judge(&query, &format!("{CALLBACK}?token={KEY}"), &[], BODY), Ok(()));
    assert_eq!(judge(&query, &format!("{CALLBACK}?token=x"), &[], BODY), Err(CallbackError::Signature));
    assert_eq!(judge(&query, CALLBACK, &[("token", KEY)], BODY), Err(CallbackError::Unsigned));
}

#[test]
fn an_hmac_is_over_the_body() {
    for (algorithm, ring) in
        [("sha1", hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY), ("sha256", hmac::HMAC_SHA256), ("sha512", hmac::HMAC_SHA512)]
    {
        let tag = hmac_of(ring, KEY.as_bytes(), BODY.as_bytes());
        let forms = [
            ("hex", HEXLOWER.encode(tag.as_ref())),
            ("hex", HEXUPPER.encode(tag.as_ref())),
            ("base64", BASE64.encode(tag.as_ref())),
        ];
        for (encoding, text) in forms {
            let account = account(json!({"kind": "hmac", "algorithm": algorithm, "encoding": encoding,
                "header": "X-Signature", "prefix": "sig=", "secret": "callback_secret"}));
            let given = format!("sig={text}");
            assert_eq!(judge(&account, CALLBACK, &[("x-signature", &given)], BODY), Ok(()), "{algorithm} {encoding}");
            let changed = BODY.replace('9', "8");
            assert_eq!(judge(&account, CALLBACK, &[("x-signature", &given)], &changed), Err(CallbackError::Signature));
            for wrong in [text.as_str(), "sig=", "sig=zz", "sig=00"] {
                let verdict = judge(&account, CALLBACK, &[("x-signature", wrong)], BODY);
                assert_eq!(verdict, Err(CallbackError::Signature), "{wrong}");
            }
            assert_eq!(judge(&account, CALLBACK, &[], BODY), Err(CallbackError::Unsigned));
        }
    }
}

#[test]
fn an_address_that_is_not_signed_names_no_message() {
    let account = account(json!({"kind": "hmac", "algorithm": "sha256", "encoding": "hex", "header": "x-signature",
        "secret": "callback_secret"}));
    let tag = HEXLOWER.encode(hmac_of(hmac::HMAC_SHA256, KEY.as_bytes(), BODY.as_bytes()).as_ref());
    let request = callback(Method::POST, &format!("{CALLBACK}?ref=msg_2-1"), &[("x-signature", &tag)], BODY.as_bytes());
    let receipt = MAKER.callback(&account, &request, NOW_MS).unwrap().receipts.remove(0);
    assert_eq!((receipt.reference, receipt.id.as_deref()), (None, Some("9")));
}

#[test]
fn what_the_signature_does_not_cover_says_nothing() {
    let settings = json!({
        "request": {"method": "GET", "url": "https://x.example/"},
        "callback": {"id": "id", "state": "s", "states": {"delivered": ["D"], "permanent": ["F"]}, "signature":
            {"kind": "hmac", "algorithm": "sha256", "encoding": "hex", "header": "x-signature", "secret": "callback_secret"}},
    });
    let account = Account { unsigned_callbacks: false, ..with(&settings) };
    let call = |query: &str, body: &str| {
        let tag = HEXLOWER.encode(hmac_of(hmac::HMAC_SHA256, KEY.as_bytes(), body.as_bytes()).as_ref());
        let url = format!("{CALLBACK}?{query}");
        MAKER.callback(&account, &callback(Method::POST, &url, &[("x-signature", &tag)], body.as_bytes()), NOW_MS)
    };
    let receipt = call("id=8&s=F", "id=9&s=D").unwrap().receipts.remove(0);
    assert_eq!((receipt.id.as_deref(), receipt.state), (Some("9"), ReceiptState::Delivered));
    assert!(matches!(call("id=8&s=F", "other=1"), Err(CallbackError::Malformed(_))));
    assert_eq!(call("id=8&s=F", ""), Err(CallbackError::Signature), "the signature of nothing fits every address");
}

#[test]
fn an_hmac_is_the_one_of_rfc_4231() {
    // Test case 2: key "Jefe", data "what do ya want for nothing?".
    let tag = hmac_of(hmac::HMAC_SHA256, b"Jefe", b"what do ya want for nothing?");
    assert_eq!(HEXLOWER.encode(tag.as_ref()), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

/// The vector of the Standard Webhooks specification's reference libraries.
#[test]
fn standard_webhooks_knows_the_published_vector() {
    let mut account = account(json!({"kind": "standard-webhooks", "secret": "callback_secret"}));
    account.secrets.insert("callback_secret".into(), SECRET.into());
    let headers = [
        ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    ];
    let request = callback(Method::POST, CALLBACK, &headers, br#"{"test": 2432232314}"#);
    let at = |now_ms| MAKER.callback(&account, &request, now_ms);
    assert!(matches!(at(1_614_265_330_000), Err(CallbackError::Malformed(_))), "signed, but no report");
    assert_eq!(at(1_614_265_330_000 + 301_000), Err(CallbackError::Replayed));
}

#[test]
fn standard_webhooks_are_checked_in_every_part() {
    let account = own();
    let body = json!({"events": [{"id": "9", "state": "delivered"}]}).to_string();
    assert!(standard(&account, SECRET, &body, NOW_MS, NOW_MS).is_ok());
    assert!(standard(&account, SECRET, &body, NOW_MS - 299_000, NOW_MS).is_ok());
    for at_ms in [NOW_MS - 301_000, NOW_MS + 301_000] {
        assert_eq!(standard(&account, SECRET, &body, at_ms, NOW_MS), Err(CallbackError::Replayed));
    }
    let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    assert_eq!(standard(&account, other, &body, NOW_MS, NOW_MS), Err(CallbackError::Signature));
    assert_eq!(judge(&account, CALLBACK, &[], &body), Err(CallbackError::Unsigned));
    let partly = [("webhook-id", "a"), ("webhook-timestamp", "x"), ("webhook-signature", "v1,")];
    assert_eq!(judge(&account, CALLBACK, &partly, &body), Err(CallbackError::Signature));
}

#[test]
fn a_secret_that_is_gone_lets_nobody_in() {
    let mut account = account(
        json!({"kind": "hmac", "algorithm": "sha256", "encoding": "hex", "header": "x", "secret": "callback_secret"}),
    );
    account.secrets.insert("callback_secret".into(), "".into());
    let tag = HEXLOWER.encode(hmac_of(hmac::HMAC_SHA256, b"", BODY.as_bytes()).as_ref());
    assert_eq!(judge(&account, CALLBACK, &[("x", &tag)], BODY), Err(CallbackError::Signature));
}

#[test]
fn without_a_signature_the_account_has_to_agree() {
    let strict = account(json!({"kind": "none"}));
    assert_eq!(judge(&strict, CALLBACK, &[], BODY), Err(CallbackError::Unsigned));
    let open = Account { unsigned_callbacks: true, ..strict };
    assert_eq!(judge(&open, CALLBACK, &[], BODY), Ok(()));
}
