//! What a request may say, as tables: each wrong field is named, each right one kept.

use super::*;
use crate::api::json;

const NOW_MS: u64 = 1_763_640_000_000;

fn checked(body: &str) -> Result<Checked, Problem> {
    check(json::parse(body.as_bytes())?, Priority::Normal, NOW_MS)
}

fn with(fields: &str) -> String {
    format!(r#"{{"to":"+255712345678","text":"hi"{fields}}}"#)
}

#[test]
fn wrong_requests_name_the_field() {
    let long = "x".repeat(153 * 32 + 1);
    let many_tags = format!(r#","tags":[{}]"#, vec![r#""a""#; 17].join(","));
    let many_to = format!(r#"{{"to":[{}],"text":"hi"}}"#, vec![r#""+255712345678""#; 1001].join(","));
    let too_long = format!(r#"{{"to":"+255712345678","text":"{long}"}}"#);
    let cases: Vec<(String, Code, &str)> = vec![
        ("{}".into(), Code::MissingField, "to"),
        (r#"{"to":"+255712345678"}"#.into(), Code::MissingField, "text"),
        (r#"{"to":[],"text":"hi"}"#.into(), Code::InvalidField, "to"),
        (r#"{"to":7,"text":"hi"}"#.into(), Code::InvalidField, "to"),
        (r#"{"to":["+255712345678",7],"text":"hi"}"#.into(), Code::InvalidField, "to[1]"),
        (r#"{"to":"0712345678","text":"hi"}"#.into(), Code::InvalidNumber, "to"),
        (r#"{"to":["+255712345678","+999"],"text":"hi"}"#.into(), Code::InvalidNumber, "to[1]"),
        (many_to, Code::InvalidField, "to"),
        (
            r#"{"to":["+255712345678","+41791234567","+255 712 345 678"],"text":"hi"}"#.into(),
            Code::InvalidField,
            "to[2]",
        ),
        (r#"{"to":"+255712345678","text":"a\u0000b"}"#.into(), Code::InvalidText, "text"),
        (r#"{"to":"+255712345678","text":""}"#.into(), Code::InvalidField, "text"),
        (r#"{"to":"+255712345678","text":7}"#.into(), Code::InvalidField, "text"),
        (too_long, Code::TextTooLong, "text"),
        (with(r#","data":"aGk=""#), Code::InvalidField, "data"),
        (with(r#","port":5"#), Code::InvalidField, "port"),
        (r#"{"to":"+255712345678","data":"a"}"#.into(), Code::InvalidField, "data"),
        (r#"{"to":"+255712345678","data":""}"#.into(), Code::InvalidField, "data"),
        (r#"{"to":"+255712345678","data":"aGk=","encoding":{}}"#.into(), Code::InvalidField, "encoding"),
        (with(r#","callback_url":"example.org""#), Code::InvalidField, "callback_url"),
        (with(r#","callback_url":"ftp://example.org/x""#), Code::InvalidField, "callback_url"),
        (with(r#","callback_url":"https://me:secret@example.org""#), Code::InvalidField, "callback_url"),
        (
            with(&format!(r#","callback_url":"https://example.org/{}""#, "x".repeat(2048))),
            Code::InvalidField,
            "callback_url",
        ),
        (with(r#","route":"""#), Code::InvalidField, "route"),
        (with(r#","routes":"x""#), Code::UnknownField, "routes"),
        (with(r#","max_cost":"cheap""#), Code::InvalidField, "max_cost"),
        (with(r#","max_cost":-1"#), Code::InvalidField, "max_cost"),
        (with(r#","max_cost":"0.0000001""#), Code::InvalidField, "max_cost"),
        (with(r#","priority":"fast""#), Code::InvalidField, "priority"),
        (with(r#","duplicates":"maybe""#), Code::InvalidField, "duplicates"),
        (with(r#","duplicates":true"#), Code::InvalidJson, "duplicates"),
        (with(r#","valid_for_s":59"#), Code::InvalidField, "valid_for_s"),
        (with(r#","valid_for_s":604801"#), Code::InvalidField, "valid_for_s"),
        (with(r#","valid_for_s":-1"#), Code::InvalidField, "valid_for_s"),
        (with(r#","send_at":"2025-11-20T12:00:00""#), Code::InvalidField, "send_at"),
        (with(r#","send_at":"2020-01-01T00:00:00Z""#), Code::InvalidField, "send_at"),
        (with(r#","send_at":"2099-01-01T00:00:00Z""#), Code::InvalidField, "send_at"),
        (with(r#","sim":"dev_00000000000e00800000000000""#), Code::InvalidField, "sim"),
        (with(r#","from":"+0700""#), Code::InvalidNumber, "from"),
        (with(&format!(r#","from":"{}""#, "x".repeat(65))), Code::InvalidField, "from"),
        (with(r#","from":"BANK","sim":"sim_00000000000e00800000000000""#), Code::InvalidField, "from"),
        (with(r#","from":"+255712345678","sim":"sim_00000000000e00800000000000""#), Code::InvalidField, "from"),
        (
            with(r#","device":"dev_00000000000e00800000000000","sim":"sim_00000000000e00800000000000""#),
            Code::InvalidField,
            "device",
        ),
        (with(r#","campaign":"""#), Code::InvalidField, "campaign"),
        (with(r#","tags":["ok","a\nb"]"#), Code::InvalidField, "tags[1]"),
        (with(&many_tags), Code::InvalidField, "tags"),
        (with(&format!(r#","client_ref":"{}""#, "x".repeat(129))), Code::InvalidField, "client_ref"),
        (with(r#","encoding":{"alphabet":"utf8"}"#), Code::InvalidField, "encoding.alphabet"),
        (with(r#","encoding":{"locale":"tr"}"#), Code::UnknownField, "encoding.locale"),
        (r#"{"to":"+255712345678","text":"漢","encoding":{"alphabet":"gsm7"}}"#.into(), Code::NotEncodable, "text"),
    ];
    for (body, code, field) in cases {
        let problem = checked(&body).unwrap_err();
        assert_eq!((problem.code(), problem.field_name()), (code, Some(field)), "{body:.120}: {problem}");
    }
}

#[test]
fn wrong_types_are_told_in_words() {
    let cases = [
        (r#","valid_for_s":-1"#, "a whole number of seconds, 60 to 604800"),
        (r#","valid_for_s":"1h""#, "a whole number of seconds, 60 to 604800"),
        (r#","valid_for_s":5000000000"#, "a whole number of seconds, 60 to 604800"),
        (r#","tags":"a""#, "a list of strings"),
    ];
    for (fields, expected) in cases {
        let problem = checked(&with(fields)).unwrap_err();
        assert_eq!(problem.code(), Code::InvalidField);
        assert!(problem.to_string().contains(expected), "{problem}");
    }
    assert!(checked(&with(r#","valid_for_s":null"#)).is_ok());
}

#[test]
fn defaults_are_a_day_once_and_now() {
    let checked = checked(&with("")).unwrap();
    let mut out = Vec::new();
    let tenant = TenantId::new(1, [1; 10]);
    let mut n = 0;
    let fresh = || {
        n += 1;
        MessageId::new(NOW_MS, [n; 10])
    };
    checked.submissions(tenant, Pin::Any, fresh, &mut out);
    let [message] = out.as_slice() else { panic!("one message, not {}", out.len()) };
    assert_eq!((message.priority, message.duplicates), (Priority::Normal, Duplicates::Never));
    assert_eq!((message.due_ms, message.expires_ms - message.due_ms), (NOW_MS, 86_400_000));
    assert_eq!((message.segments, &message.body), (1, &Body::Text("hi".into())));
}

#[test]
fn a_list_becomes_one_submission_each_in_order() {
    let body = r#"{"to":["+255712345678","+255 712 345 679","+41791234567"],"text":"a\nb","tags":["x"],"flash":true,
        "client_ref":"order-7","campaign":"spring","priority":"urgent","duplicates":"allowed"}"#;
    let checked = checked(body).unwrap();
    let (mut out, mut n) = (Vec::new(), 0);
    let fresh = || {
        n += 1;
        MessageId::new(NOW_MS, [n; 10])
    };
    checked.submissions(TenantId::new(1, [1; 10]), Pin::Any, fresh, &mut out);
    let numbers: Vec<String> = out.iter().map(|message| message.to.to_string()).collect();
    assert_eq!(numbers, ["+255712345678", "+255712345679", "+41791234567"]);
    let ids: std::collections::HashSet<_> = out.iter().map(|message| message.id).collect();
    assert_eq!(ids.len(), 3);
    let same = |m: &Submission| {
        m.flash && &*m.campaign == "spring" && m.client_ref.as_deref() == Some("order-7") && m.tags.len() == 1
    };
    assert!(out.iter().all(same));
    assert!(out.iter().all(|message| message.body == Body::Text("a\nb".into())));
}

#[test]
fn schedule_and_validity_count_from_send_at() {
    let checked = checked(&with(r#","send_at":"2025-11-20T13:00:00+00:00","valid_for_s":60"#)).unwrap();
    let at: jiff::Timestamp = "2025-11-20T13:00:00Z".parse().unwrap();
    let at_ms = at.as_millisecond() as u64;
    assert_eq!((checked.due_ms, checked.expires_ms), (at_ms, at_ms + 60_000));
    // A client whose clock is a little behind still gets its message sent.
    let late = check(
        json::parse(with(r#","send_at":"2025-11-20T13:00:00Z""#).as_bytes()).unwrap(),
        Priority::Bulk,
        at_ms + PAST_MS_MAX,
    );
    assert_eq!(late.unwrap().due_ms, at_ms + PAST_MS_MAX);
}

#[test]
fn data_is_counted_with_its_port() {
    let data = BASE64.encode(&[7; 134]);
    let body = |port: &str| format!(r#"{{"to":"+255712345678","data":"{data}"{port}}}"#);
    assert_eq!(checked(&body("")).unwrap().segments, 1);
    assert_eq!(checked(&body(r#","port":2948"#)).unwrap().segments, 2);
}

#[test]
fn routes_are_wished_for_in_many_ways() {
    let body = r#"{"to":"+255712345678","text":"hi","from":"BANK","route":"cheapest","max_cost":"0.05",
        "callback_url":"HTTPS://Example.org/events?x=1"}"#;
    let checked = checked(body).unwrap();
    assert_eq!((checked.wish, checked.plan.as_deref()), (Wish::Any, Some("cheapest")));
    let mut out = Vec::new();
    checked.submissions(TenantId::new(1, [1; 10]), Pin::Any, || MessageId::new(1, [1; 10]), &mut out);
    let message = &out[0];
    assert_eq!((message.sender.as_deref(), message.plan.as_deref()), (Some("BANK"), Some("cheapest")));
    assert_eq!(message.max_cost, Some(Micros(50_000)));
    assert_eq!(message.callback_url.as_deref(), Some("https://example.org/events?x=1"));
    let body = with(r#","from":"+255700000001","max_cost":0.05"#);
    let number = Msisdn::parse("+255700000001").unwrap();
    assert_eq!(
        super::check(json::parse(body.as_bytes()).unwrap(), Priority::Normal, NOW_MS).unwrap().wish,
        Wish::From(number)
    );
}
