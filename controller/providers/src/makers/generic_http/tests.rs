//! The generic maker: the two accounts of `docs/providers.md` from request to report, every kind of template, rule and signature,
//! and what settings are refused for.

use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};
use http::Method;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::makers::documented::between;
use crate::makers::probe::{self, CALLBACK, NOW_MS, answer, callback, class, in_doubt, one, outgoing, wire};

mod signatures;

const MAKER: GenericHttp = GenericHttp;
const OURS: &str = "msg_0123456789abcdef0123456789-1";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn documented(mark: &str) -> &'static str {
    between(mark).trim().strip_prefix("```json").and_then(|text| text.strip_suffix("```")).expect("a block of JSON")
}

fn quick() -> Account {
    let fields = [("settings", documented("quick")), ("username", "acme")];
    Account { unsigned_callbacks: true, ..probe::account(&fields, &[("password", "p&w")]) }
}

fn own() -> Account {
    probe::account(&[("settings", documented("own"))], &[("api_key", "k3y"), ("callback_secret", SECRET)])
}

/// An account with these settings and a few secrets.
fn with(settings: &Value) -> Account {
    let secrets = [("api_key", "k3y"), ("callback_secret", "0123456789abcdef")];
    let account = probe::account(&[("settings", &settings.to_string()), ("account", "a c")], &secrets);
    Account { unsigned_callbacks: true, ..account }
}

fn request(request: Value) -> Value {
    json!({"request": request})
}

fn plain(answer: Value) -> Value {
    json!({"request": {"method": "GET", "url": "https://x.example/"}, "answer": answer})
}

fn problem(settings: &Value) -> String {
    let error = MAKER.check(&with(settings)).unwrap_err();
    assert_eq!(&*error.field, "settings");
    error.problem.into()
}

#[test]
fn the_quick_account_of_the_docs_works() {
    let account = quick();
    assert_eq!(MAKER.check(&account), Ok(()));
    let call = MAKER.submit(&account, &[outgoing(255_712_345_678, "ACME", "100 % & more")], NOW_MS).unwrap();
    assert_eq!(
        wire(&call),
        "POST https://api.quicksms.example/send.php\ncontent-type: application/x-www-form-urlencoded\n\n\
         dlr_url=https%3A%2F%2Fsms.example%2Fv1%2Fcallbacks%2Fmaker%2Fprv_1%2Ftok%3Fref%3Dmsg_0123456789abcdef0123456789-1\
         &from=ACME&pass=p%26w&text=100+%25+%26+more&to=255712345678&type=text&user=acme"
    );
    let unicode = MAKER.submit(&account, &[outgoing(255_712_345_678, "ACME", "\u{263a}")], NOW_MS).unwrap();
    assert!(std::str::from_utf8(&unicode.body).unwrap().contains("&type=unicode&"));
    let taken = Submitted::Accepted { id: Some("17-a".into()), price: None };
    assert_eq!(one(&MAKER, &account, &answer(200, "OK: 17-a\n")), taken);
    assert_eq!(class(&MAKER, &account, &answer(200, "ERR10 bad")), (Permanent, "generic-http-ERR10".into()));
    assert_eq!(class(&MAKER, &account, &answer(400, "ERR21")), (Route, "generic-http-ERR21".into()));
    assert_eq!(class(&MAKER, &account, &answer(200, "ERR30")).0, Transient);
    for (status, body) in [(200, "OK:"), (200, "ERR99"), (200, ""), (500, "ERR10"), (502, "OK: 1")] {
        in_doubt(&MAKER, &account, &answer(status, body));
    }
    let test = MAKER.test(&account, NOW_MS).unwrap();
    assert_eq!(wire(&test), "GET https://api.quicksms.example/balance.php?user=acme&pass=p%26w\n\n");
    let balance = MAKER.balance_of(&account, &answer(200, "OK: 12.5"));
    assert_eq!(balance, Some(Balance { micros: 12_500_000, currency: "credits".into() }));
    let url = format!("{CALLBACK}?ref={OURS}&msgid=17-a&status=DELIVRD&err=000");
    let reply = MAKER.callback(&account, &callback(Method::GET, &url, &[], b""), NOW_MS).unwrap();
    let receipt = &reply.receipts[0];
    assert_eq!((receipt.reference.as_deref(), receipt.id.as_deref()), (Some(OURS), Some("17-a")));
    assert_eq!((&receipt.state, reply.answer), (&ReceiptState::Delivered, "OK"));
}

#[test]
fn the_own_account_of_the_docs_works() {
    let account = own();
    assert_eq!(MAKER.check(&account), Ok(()));
    let call = MAKER.submit(&account, &[outgoing(255_712_345_678, "ACME", "say \"hi\"")], NOW_MS).unwrap();
    assert_eq!(
        wire(&call),
        "POST https://sms.internal.example/v1/outbox\nauthorization: Bearer k3y\ncontent-type: application/json\n\
         idempotency-key: msg_0123456789abcdef0123456789-1\n\n\
         {\"expires_in_s\":3600,\"from\":\"ACME\",\"reference\":\"msg_0123456789abcdef0123456789-1\",\
         \"report_to\":\"https://sms.example/v1/callbacks/maker/prv_1/tok?ref=msg_0123456789abcdef0123456789-1\",\
         \"segments\":1,\"text\":\"say \\\"hi\\\"\",\"to\":\"+255712345678\",\"unicode\":false}"
    );
    let taken = Submitted::Accepted { id: Some("77".into()), price: None };
    assert_eq!(one(&MAKER, &account, &answer(202, r#"{"id": 77}"#)), taken);
    let refused =
        |status, code: &str| class(&MAKER, &account, &answer(status, &json!({"error": {"code": code}}).to_string()));
    assert_eq!(refused(422, "opted_out"), (Permanent, "generic-http-opted_out".into()));
    assert_eq!(refused(503, "queue_full").0, Transient);
    assert_eq!(refused(401, "who").0, Route);
    in_doubt(&MAKER, &account, &answer(503, "{}"));
    in_doubt(&MAKER, &account, &answer(200, "{}"));
    let events = json!({"events": [
        {"reference": OURS, "id": "77", "state": "delivered"},
        {"reference": "msg_2-1", "state": "rejected", "error": "E7"},
        {"reference": "msg_3-1", "state": "thinking"},
        {"id": "in-1", "from": "+255712345678", "to": "12345", "text": "a ".repeat(300)},
        {"state": "delivered"},
    ]});
    let reply = signatures::standard(&account, SECRET, &events.to_string(), NOW_MS, NOW_MS).unwrap();
    let states: Vec<_> = reply.receipts.iter().map(|receipt| receipt.state.clone()).collect();
    assert_eq!(states[0], ReceiptState::Delivered);
    assert!(matches!(&states[1], ReceiptState::Failed(r) if r.class == Permanent && &*r.code == "generic-http-E7"));
    assert_eq!((&states[2], states.len()), (&ReceiptState::Pending, 3));
    assert_eq!((reply.inbound.len(), reply.inbound[0].text.len(), reply.answer), (1, 600, "{}"));
}

#[test]
fn each_place_is_escaped() {
    let message =
        Outgoing { text: "<a href='x'>&\u{1}\n\"%2f / \u{263a}".into(), ..outgoing(255_712_345_678, "A/B", "") };
    let sent = |settings: Value| {
        let account = with(&request(settings));
        assert_eq!(MAKER.check(&account), Ok(()));
        MAKER.submit(&account, std::slice::from_ref(&message), NOW_MS).unwrap()
    };
    let call = sent(
        json!({"method": "GET", "url": "https://x.example/{{ fields.account }}/send?f={{ from }}&t={{ text }}&s={{ now_s }}"}),
    );
    assert_eq!(
        call.url.as_str(),
        "https://x.example/a%20c/send?f=A%2FB&t=%3Ca%20href%3D%27x%27%3E%26%01%0A%22%252f%20%2F%20%E2%98%BA&s=1795176000"
    );
    let body = |body: Value| {
        let call = sent(json!({"method": "PUT", "url": "https://x.example/", "body": body}));
        (call.headers["content-type"].to_str().unwrap().to_owned(), String::from_utf8(call.body.to_vec()).unwrap())
    };
    let (content_type, xml) = body(json!({"xml": "<sms to=\"{{ to }}\">{{ text }}</sms>"}));
    assert_eq!(content_type, "application/xml; charset=utf-8");
    assert_eq!(xml, "<sms to=\"+255712345678\">&lt;a href=&#39;x&#39;&gt;&amp;&#10;&quot;%2f / \u{263a}</sms>");
    let mut reader = quick_xml::Reader::from_str(&xml);
    while !matches!(reader.read_event().unwrap(), quick_xml::events::Event::Eof) {}
    let (_, json_body) = body(
        json!({"json": {"list": ["{{ text }}", "{{ flash }}", 7, null, "n: {{ segments }}"], "m": "{{ validity_min }}"}}),
    );
    let parsed: Value = serde_json::from_str(&json_body).unwrap();
    assert_eq!(parsed, json!({"list": [&*message.text, false, 7, null, "n: 1"], "m": 60}));
    let (content_type, text) = body(
        json!({"plain": "{{ from|lower|upper|trim }} {{ text|json }} {{ 'a b'|urlencode }} {{ '<'|xml }} {{ 'ab'|base64 }}"}),
    );
    assert_eq!(content_type, "text/plain; charset=utf-8");
    assert_eq!(text, "A/B \"<a href='x'>&\\u0001\\n\\\"%2f / \u{263a}\" a%20b &lt; YWI=");
}

#[test]
fn a_value_can_not_add_a_header() {
    let account =
        with(&request(json!({"method": "GET", "url": "https://x.example/", "headers": {"x-text": "{{ text }}"}})));
    let message = outgoing(255_712_345_678, "A", "a\r\nx-evil: 1");
    let error = MAKER.submit(&account, &[message], 0).unwrap_err();
    assert_eq!(&*error.problem, "request.headers.x-text: has characters that no HTTP header can hold");
}

#[test]
fn templates_are_bounded() {
    let url = |url: &str| problem(&request(json!({"method": "GET", "url": url})));
    assert!(url("https://x.example/{{ 'a' * 9999999 }}").starts_with("request.url: has a `*`"));
    for block in [
        "{% for c in text %}{{ c }}{% endfor %}",
        "{% set a = text %}{{ a }}",
        "{%- macro m() %}{% endmacro %}",
        "{% include 'x' %}",
    ] {
        assert!(url(&format!("https://x.example/{block}")).contains("has a block that is not"), "{block}");
    }
    let growing = format!("https://x.example/{{{{ text{} }}}}", "|json".repeat(40));
    assert_eq!(url(&growing), "request.url: can not be rendered: invalid operation");
    let many = |template: &str, times| url(&format!("https://x.example/{}", template.repeat(times)));
    assert_eq!(many("{{ text }}", 1200), "request.url: gives more than 65536 bytes");
    assert_eq!(many("{{ to }}", 1500), "request.url: does too much");
    assert_eq!(many("a", 20_000), "has more than 16384 bytes");
}

#[test]
fn what_is_wrong_is_named_by_its_path() {
    let get = |url: &str| request(json!({"method": "GET", "url": url}));
    let callback =
        |callback: Value| json!({"request": {"method": "GET", "url": "https://x.example/"}, "callback": callback});
    let states = json!({"delivered": ["D"]});
    for (settings, wanted) in [
        (json!({}), "missing field `request`"),
        (json!({"request": {"method": "DELETE", "url": "x"}}), "request.method: unknown variant `DELETE`"),
        (json!({"request": {"method": "GET", "url": "x", "form": {}}}), "request.form: unknown field `form`"),
        (get("https://x.example/{{ nobody }}"), "request.url: uses a name that does not exist"),
        (get("https://x.example/{{ secrets.nobody }}"), "request.url: uses a name that does not exist"),
        (get("https://x.example/{{ text"), "request.url: is not a template: "),
        (get("https://x.example/{{ text|rot13 }}"), "request.url: is not a template: "),
        (get("https://x.example/{{ secrets }}"), "request.url: can not be rendered: "),
        (get("ftp://x.example/"), "request.url: is no address of `https` or `http`"),
        (get("nowhere"), "request.url: is no address: "),
        (
            request(json!({"method": "GET", "url": "https://x.example/", "body": {"plain": "a"}})),
            "request.body: a GET has none",
        ),
        (
            request(json!({"method": "POST", "url": "https://x.example/", "body": {"json": {"a": ["{{ nobody }}"]}}})),
            "request.body: /a/0: uses a name that does not exist",
        ),
        (
            request(json!({"method": "POST", "url": "https://x.example/", "body": {"form": {"a": "{{ nobody }}"}}})),
            "request.body: a: uses a name that does not exist",
        ),
        (
            request(json!({"method": "GET", "url": "https://x.example/", "headers": {"host": "other"}})),
            "request.headers.host: is set by the one who sends the request",
        ),
        (
            request(json!({"method": "GET", "url": "https://x.example/", "headers": {"a b": "c"}})),
            "request.headers.a b: is no header's name",
        ),
        (plain(json!({"id": {"pointer": "id"}})), "answer.id: is no JSON pointer"),
        (plain(json!({"code": {"regex": "("}})), "answer.code: is no pattern"),
        (plain(json!({"code": {"header": "a b"}})), "answer.code: is no header's name"),
        (plain(json!({"rules": [{"means": "route"}]})), "answer.rules[0]: needs `http` or `code`"),
        (plain(json!({"rules": [{"code": ["1"], "means": "route"}]})), "answer.rules[0]: compares `code`"),
        (plain(json!({"rules": [{"http": [500], "means": "accepted"}]})), "answer.rules[0]: takes an error"),
        (plain(json!({"rules": [{"http": [99], "means": "route"}]})), "answer.rules[0]: has an HTTP status"),
        (
            plain(json!({"rules": [{"http": [400], "means": "maybe"}]})),
            "answer.rules[0].means: unknown variant `maybe`",
        ),
        (callback(json!({"state": "s", "states": {}})), "callback.states.delivered: is missing"),
        (
            callback(json!({"state": "s", "states": {"delivered": ["D"], "route": ["D"]}})),
            "callback.states: the same value is in two",
        ),
        (callback(json!({"each": "/e", "state": "s", "states": &states})), "callback.each: is set, so"),
        (callback(json!({"each": "e", "state": "/s", "states": &states})), "callback.each: is no JSON pointer"),
        (
            callback(
                json!({"state": "s", "states": &states, "signature": {"kind": "standard-webhooks", "secret": "gone"}}),
            ),
            "callback.signature.secret: the account has no secret `gone`",
        ),
        (
            callback(
                json!({"state": "s", "states": &states, "signature": {"kind": "standard-webhooks", "secret": "api_key"}}),
            ),
            "callback.signature.secret: `api_key` is shorter than 16 characters",
        ),
        (
            json!({"request": {"method": "GET", "url": "https://x.example/"}, "test": {"method": "GET", "url": "{{ to }}"}}),
            "test.url: uses a name that does not exist",
        ),
    ] {
        let found = problem(&settings);
        assert!(found.contains(wanted), "{settings}\n{found}");
    }
    let mut account = with(&json!({}));
    account.fields.insert("settings".into(), "{} {}".into());
    assert!(MAKER.check(&account).unwrap_err().problem.contains("missing field"));
    assert_eq!(&*MAKER.check(&probe::account(&[], &[])).unwrap_err().field, "settings");
    let untested = MAKER.test(&with(&get("https://x.example/")), 0).unwrap_err();
    assert!(untested.problem.starts_with("test: is missing"));
}

#[test]
fn an_example_that_works_says_nothing_of_secrets() {
    let account = with(&request(json!({"method": "GET", "url": "https://x.example/{{ secrets.api_key|nope }}"})));
    let told = MAKER.check(&account).unwrap_err().to_string();
    assert!(!told.contains("k3y"), "{told}");
    let leak = with(&request(json!({"method": "GET", "url": "https://x.example/{{ fields.settings }}"})));
    assert!(MAKER.check(&leak).is_err(), "settings are no value of a template");
}

#[test]
fn rules_decide_in_their_order() {
    let account = with(&plain(json!({
        "id": {"header": "location"},
        "code": {"pointer": "/ok"},
        "rules": [
            {"http": [200], "code": ["true", "1"], "means": "accepted"},
            {"http": [202], "means": "unclear"},
            {"code": ["no"], "means": "permanent", "text": "no"},
            {"http": [500], "means": "transient"},
        ],
    })));
    assert_eq!(MAKER.check(&account), Ok(()));
    let located = |body| probe::with_header(answer(200, body), "location", "/m/1");
    let taken = Submitted::Accepted { id: Some("/m/1".into()), price: None };
    assert_eq!(one(&MAKER, &account, &located("{\"ok\":true}")), taken);
    assert_eq!(one(&MAKER, &account, &located("{\"ok\":1}")), taken);
    in_doubt(&MAKER, &account, &answer(200, "{\"ok\":true}"));
    in_doubt(&MAKER, &account, &located("{\"ok\":false}"));
    in_doubt(&MAKER, &account, &answer(202, "{\"ok\":\"no\"}"));
    assert_eq!(class(&MAKER, &account, &answer(200, "{\"ok\":\"no\"}")), (Permanent, "generic-http-no".into()));
    assert_eq!(class(&MAKER, &account, &answer(500, "{\"ok\":\"no\"}")), (Transient, "generic-http-http-500".into()));
    in_doubt(&MAKER, &account, &answer(501, "{\"ok\":\"no\"}"));
    let bare = with(&plain(json!({})));
    assert_eq!(one(&MAKER, &bare, &answer(204, "")), Submitted::Accepted { id: None, price: None });
    assert_eq!(class(&MAKER, &bare, &answer(404, "")).0, Route);
    in_doubt(&MAKER, &bare, &answer(504, ""));
}

#[test]
fn an_error_is_never_accepted() {
    let account = with(&plain(json!({"code": {"pointer": "/ok"}, "rules": [{"code": ["yes"], "means": "accepted"}]})));
    assert_eq!(MAKER.check(&account), Ok(()));
    assert_eq!(class(&MAKER, &account, &answer(400, "{\"ok\":\"yes\"}")).0, Route);
    in_doubt(&MAKER, &account, &answer(500, "{\"ok\":\"yes\"}"));
}

#[test]
fn a_base_address_stands_in_for_the_host() {
    let account = Account { base_url: Url::parse("http://127.0.0.1:9/test/").ok(), ..quick() };
    let call = MAKER.test(&account, 0).unwrap();
    assert_eq!(call.url.as_str(), "http://127.0.0.1:9/test/balance.php?user=acme&pass=p%26w");
}

#[test]
fn reports_of_every_state_are_read_from_a_form() {
    let account = with(&json!({
        "request": {"method": "GET", "url": "https://x.example/"},
        "callback": {"reference": "our", "id": "id", "state": "s", "states": {
            "delivered": ["D"], "expired": ["X"], "permanent": ["P"], "route": ["R"], "transient": ["T"]}},
    }));
    let read = |body: &str| MAKER.callback(&account, &callback(Method::POST, CALLBACK, &[], body.as_bytes()), 0);
    let state = |value: &str| {
        let reply = read(&format!("our={OURS}&id=9&s={value}")).unwrap();
        assert_eq!(reply.receipts[0].reference.as_deref(), Some(OURS));
        reply.receipts[0].state.clone()
    };
    assert_eq!(
        (state("D"), state("X"), state("?")),
        (ReceiptState::Delivered, ReceiptState::Expired, ReceiptState::Pending)
    );
    for (value, wanted) in [("P", Permanent), ("R", Route), ("T", Transient)] {
        assert!(matches!(state(value), ReceiptState::Failed(refusal) if refusal.class == wanted));
    }
    for body in ["", "s=D", "id=9", "[]"] {
        assert!(matches!(read(body), Err(CallbackError::Malformed(_))), "{body}");
    }
    let deaf = with(&plain(json!({})));
    let request = callback(Method::POST, CALLBACK, &[], b"s=D&id=9");
    assert!(matches!(MAKER.callback(&deaf, &request, 0), Err(CallbackError::Malformed(_))));
}

#[test]
fn nothing_makes_it_panic() {
    for account in [quick(), own()] {
        probe::survives_anything(&MAKER, &account);
    }
}

proptest! {
    #[test]
    fn no_settings_panic(text in ".{0,200}", template in "[ -~]{0,60}") {
        let mut account = with(&json!({}));
        account.fields.insert("settings".into(), text.into());
        let _ = MAKER.check(&account);
        let body = json!({"form": {"a": template.clone()}, });
        let _ = MAKER.check(&with(&request(json!({"method": "POST", "url": template, "body": body}))));
    }

    #[test]
    fn a_text_never_breaks_out(text in any::<String>()) {
        let account = with(&request(json!({"method": "POST", "url": "https://x.example/a?t={{ text }}&end=1",
            "body": {"json": {"t": "{{ text }}", "end": true}}})));
        let call = MAKER.submit(&account, &[outgoing(255_712_345_678, "A", &text)], 0).unwrap();
        prop_assert_eq!(call.url.host_str(), Some("x.example"));
        let pairs: Vec<_> = call.url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        prop_assert_eq!(pairs, vec![("t".to_owned(), text.clone()), ("end".to_owned(), "1".to_owned())]);
        let body: Value = serde_json::from_slice(&call.body).unwrap();
        prop_assert_eq!(body, json!({"t": text, "end": true}));
    }
}
