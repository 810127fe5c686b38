//! What the makers' tests share: messages, answers and callbacks in one line, and the exact request on the wire.

use bytes::Bytes;
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::ErrorClass;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use url::Url;

use crate::maker::{Maker, Outgoing, Refusal, Submitted};
use crate::{Account, Answer, Call, Callback};

pub(crate) const CALLBACK: &str = "https://sms.example/v1/callbacks/maker/prv_1/tok";
/// 2026-11-20 12:00:00 UTC.
pub(crate) const NOW_MS: u64 = 1_795_176_000_000;

pub(crate) fn account(fields: &[(&str, &str)], secrets: &[(&str, &str)]) -> Account {
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let callback_url = Some(Url::parse(CALLBACK).unwrap());
    Account { fields: map(fields), secrets: map(secrets), callback_url, ..Account::default() }
}

pub(crate) fn outgoing(to: u64, sender: &str, text: &str) -> Outgoing {
    Outgoing {
        reference: "msg_0123456789abcdef0123456789-1".into(),
        to: Msisdn::from_u64(to).unwrap(),
        sender: sender.into(),
        text: text.into(),
        unicode: !text.is_ascii(),
        flash: false,
        segments: 1,
        validity_s: 3_600,
    }
}

pub(crate) fn answer(status: u16, body: &str) -> Answer {
    Answer {
        status: StatusCode::from_u16(status).unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

pub(crate) fn with_header(mut answer: Answer, name: &'static str, value: &'static str) -> Answer {
    answer.headers.insert(name, HeaderValue::from_static(value));
    answer
}

pub(crate) fn callback(method: Method, url: &str, headers: &[(&'static str, &str)], body: &[u8]) -> Callback {
    let pair =
        |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    Callback {
        method,
        url: Url::parse(url).unwrap(),
        headers: headers.iter().map(pair).collect(),
        body: Bytes::copy_from_slice(body),
    }
}

/// The request as it goes over the wire: method and address, headers by name, an empty line, the body.
pub(crate) fn wire(call: &Call) -> String {
    let mut headers: Vec<_> =
        call.headers.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap())).collect();
    headers.sort();
    let body = String::from_utf8(call.body.to_vec()).unwrap();
    format!("{} {}\n{}\n{body}", call.method, call.url, headers.concat())
}

/// What became of one message of a batch of one.
pub(crate) fn one(maker: &dyn Maker, account: &Account, answer: &Answer) -> Submitted {
    let batch = [outgoing(447_700_900_123, "Sender", "hello")];
    let mut all = maker.submitted(account, &batch, answer);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// The refusal of a batch of one.
#[track_caller]
pub(crate) fn refused(maker: &dyn Maker, account: &Account, answer: &Answer) -> Refusal {
    match one(maker, account, answer) {
        Submitted::Refused(refusal) => refusal,
        other => panic!("HTTP {}: {other:?}", answer.status),
    }
}

/// Class and code of the refusal of a batch of one.
#[track_caller]
pub(crate) fn class(maker: &dyn Maker, account: &Account, answer: &Answer) -> (ErrorClass, String) {
    let refusal = refused(maker, account, answer);
    (refusal.class, refusal.code.into())
}

/// The message may have been taken.
#[track_caller]
pub(crate) fn in_doubt(maker: &dyn Maker, account: &Account, answer: &Answer) {
    match one(maker, account, answer) {
        Submitted::Unclear(_) => {}
        other => panic!("HTTP {}: {other:?}", answer.status),
    }
}

/// What holds for every maker whatever comes back: no panic, one result for each message, and never a claim about an answer
/// from a broken server or one that cannot be read.
pub(crate) fn survives_anything(maker: &dyn Maker, account: &Account) {
    for status in [200, 201, 202, 500, 502, 503, 504] {
        for body in ["", "<html>oops</html>", "{}", "[]", "null", "\"x\"", "{\"messages\":[]}"] {
            in_doubt(maker, account, &answer(status, body));
        }
    }
    let batch: Vec<_> = (0..3).map(|n| outgoing(447_700_900_100 + n, "Sender", "hello")).collect();
    let ids = ["a".into(), "b".into()];
    let json =
        "\\{\"(status|messages|errors|id|message|type|code)\":(\\[|\\{|null|\"[a-z0-9]*\"|[0-9]*)[\\]\\}\" ]*\\}?";
    let bytes = prop_oneof![prop::collection::vec(any::<u8>(), 0..200), json.prop_map(String::into_bytes)];
    let input = (bytes, 200u16..600, any::<bool>(), "[ -~]{0,40}");
    TestRunner::default()
        .run(&input, |(bytes, status, post, header)| {
            let answer = Answer { body: bytes.clone().into(), ..answer(status, "") };
            for count in 1..=batch.len().min(maker.capabilities().batch_max) {
                let all = maker.submitted(account, &batch[..count], &answer);
                prop_assert_eq!(all.len(), count);
                let taken = all.iter().any(|one| matches!(one, Submitted::Accepted { .. }));
                prop_assert!(status < 300 || !taken, "HTTP {} counts as taken", status);
            }
            let _ = (maker.polled(account, &ids, &answer), maker.balance_of(account, &answer));
            let _ = (maker.judge(account, &answer), maker.token_of(&answer));
            let url = format!("{CALLBACK}?{}", String::from_utf8_lossy(&bytes).escape_default());
            let method = if post { Method::POST } else { Method::GET };
            let names = ["authorization", "messagebird-signature-jwt", "x-twilio-signature", "x-plivo-signature-v3"];
            let headers: Vec<_> = names.iter().map(|name| (*name, header.as_str())).collect();
            for unsigned_callbacks in [false, true] {
                let account = Account { unsigned_callbacks, ..account.clone() };
                let _ = maker.callback(&account, &callback(method.clone(), &url, &headers, &bytes), NOW_MS);
                let _ = maker.callback(&account, &callback(method.clone(), &url, &[], &bytes), NOW_MS);
            }
            Ok(())
        })
        .unwrap();
}
