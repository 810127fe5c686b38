//! Any service that takes a message by an HTTP request: small makers without a file of their own, and a tenant's own webhooks.
//!
//! The account's field `settings` is JSON (`settings.rs`): the request as templates (`template.rs`), where the answer has the
//! maker's id and code and what they mean, where a report has its parts, and how it is signed (`signature.rs`). Settings are
//! checked, and an example is rendered, before they are stored. `docs/providers.md` has two whole accounts; the tests take
//! them from there.
//!
//! An answer means what the first rule says that fits. Without one, a success is accepted, or in doubt when it should have an
//! id and has none; anything else goes by its HTTP status. No rule makes an error (400 and above) a success, and a rule that does
//! not name a 5xx does not speak of one.

mod settings;
mod signature;
mod template;

use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::ErrorClass;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use serde_json::{Value, json};
use url::Url;

use self::settings::{Find, Means, Reading, Reply, Reports, Request, Rule, Settings, Verb, compiled};
use self::template::{Place, Renderer};
use super::kit::{self, bounded, by_status, callback_with, digits, e164, judged, micros, pairs, reference_in, refusal};
use crate::account::{Account, FieldError};
use crate::errors::ErrorTable;
use crate::http_call::{Answer, Call, Callback};
use crate::maker::{
    Balance, CallbackError, CallbackReply, Capabilities, Inbound, Judged, Maker, Outgoing, Receipt, ReceiptState,
    Submitted,
};

const NAME: &str = "generic-http";
/// Reports in one request.
const REPORTS_MAX: usize = 10_000;

static CAPABILITIES: Capabilities = Capabilities {
    name: NAME,
    title: "Generic HTTP",
    fields: &[
        ("settings", true, "how to speak to the service, as JSON"),
        ("username", false, "`{{ fields.username }}` in the templates"),
        ("account", false, "`{{ fields.account }}` in the templates"),
    ],
    secrets: &[
        ("api_key", false, "`{{ secrets.api_key }}` in the templates"),
        ("api_secret", false, "`{{ secrets.api_secret }}` in the templates"),
        ("password", false, "`{{ secrets.password }}` in the templates"),
        ("callback_secret", false, "what reports are signed with"),
    ],
    batch_max: 1,
    batch: "one message in a request",
    callbacks: true,
    signature: Some("as set: shared secret, HMAC, Standard Webhooks"),
    polls: false,
    balance: true,
    inbound: true,
    // Only where the settings make it so; the id is remembered for all others.
    echoes_reference: false,
};

pub(crate) struct GenericHttp;

/// What templates can use.
fn values(account: &Account, message: Option<&Outgoing>, now_ms: u64) -> Value {
    let mut values = json!({"fields": account.fields, "secrets": account.secrets, "now_s": now_ms / 1000});
    // The settings themselves are of no use in a template.
    if let Some(fields) = values["fields"].as_object_mut() {
        fields.remove("settings");
    }
    if let Some(message) = message {
        let callback = callback_with(account, &message.reference);
        let more = json!({
            "callback_url": callback.as_ref().map_or("", Url::as_str),
            "flash": message.flash,
            "from": &*message.sender,
            "reference": &*message.reference,
            "segments": message.segments,
            "text": &*message.text,
            "to": e164(message.to),
            "to_digits": digits(message.to),
            "unicode": message.unicode,
            "validity_min": message.validity_s.div_ceil(60),
            "validity_s": message.validity_s,
        });
        if let (Some(values), Value::Object(more)) = (values.as_object_mut(), more) {
            values.extend(more);
        }
    }
    values
}

fn rendered(request: &Request, path: &str, renderer: &Renderer, account: &Account) -> Result<Call, FieldError> {
    let fail = |part: &str, problem: String| kit::wrong("settings", format!("{path}.{part}: {problem}"));
    let text = renderer.text(Place::Url, &request.url).map_err(|problem| fail("url", problem))?;
    let url = Url::parse(&text).map_err(|error| fail("url", format!("is no address: {error}")))?;
    if !matches!(url.scheme(), "https" | "http") || url.host().is_none() {
        return Err(fail("url", "is no address of `https` or `http`".into()));
    }
    let method = match request.method {
        Verb::Get => Method::GET,
        Verb::Post => Method::POST,
        Verb::Put => Method::PUT,
    };
    let mut call = Call { method, url, headers: HeaderMap::new(), body: bytes::Bytes::new() };
    if let Some(body) = &request.body {
        if request.method == Verb::Get {
            return Err(fail("body", "a GET has none".into()));
        }
        let (content_type, body) = renderer.body(body).map_err(|problem| fail("body", problem))?;
        call.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        call.body = body.into();
    }
    for (name, template) in &request.headers {
        let part = format!("headers.{name}");
        let header: HeaderName = name.parse().map_err(|_| fail(&part, "is no header's name".into()))?;
        if FORBIDDEN.contains(&header.as_str()) {
            return Err(fail(&part, "is set by the one who sends the request".into()));
        }
        let value = renderer.text(Place::Plain, template).map_err(|problem| fail(&part, problem))?;
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| fail(&part, "has characters that no HTTP header can hold".into()))?;
        value.set_sensitive(true);
        call.headers.insert(header, value);
    }
    if let Some(base) = &account.base_url {
        call.url = moved(&call.url, base);
    }
    Ok(call)
}

/// Headers that make the framing of a request, or lead it elsewhere.
const FORBIDDEN: &[&str] = &["host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"];

/// The same request at the address that stands in for the maker's own.
fn moved(url: &Url, base: &Url) -> Url {
    let mut moved = base.clone();
    moved.set_path(&format!("{}{}", base.path().trim_end_matches('/'), url.path()));
    moved.set_query(url.query());
    moved
}

fn found(find: &Find, answer: &Answer) -> Option<Box<str>> {
    match find {
        Find::Pointer(pointer) => {
            let body = kit::json(&answer.body)?;
            match body.pointer(pointer)? {
                Value::Bool(flag) => Some(flag.to_string().into()),
                _ => kit::word(&body, pointer),
            }
        }
        Find::Regex(pattern) => {
            let text = std::str::from_utf8(&answer.body).ok()?;
            let captures = compiled(pattern).ok()?.captures(text)?;
            bounded(captures.get(1).or_else(|| captures.get(0))?.as_str().trim())
        }
        Find::Header(name) => bounded(kit::header(&answer.headers, name)?.trim()),
    }
}

fn result(reading: &Reading, answer: &Answer) -> Submitted {
    let status = answer.status.as_u16();
    let code = reading.code.as_ref().and_then(|find| found(find, answer));
    let id = || reading.id.as_ref().and_then(|find| found(find, answer));
    let accepted = || match (&reading.id, id()) {
        (Some(_), None) => kit::unclear(answer),
        (_, id) => Submitted::Accepted { id, price: None },
    };
    let rule = reading.rules.iter().find(|rule| rule.fits(status, code.as_deref()));
    match rule.map(|rule| (rule.means, rule)) {
        Some((Means::Accepted, _)) => accepted(),
        Some((Means::Unclear, _)) => kit::unclear(answer),
        Some((Means::Permanent, rule)) => refused(ErrorClass::Permanent, rule, code.as_deref(), answer),
        Some((Means::Route, rule)) => refused(ErrorClass::Route, rule, code.as_deref(), answer),
        Some((Means::Transient, rule)) => refused(ErrorClass::Transient, rule, code.as_deref(), answer),
        // With rules for success, one that none of them knows is a doubt.
        None if answer.status.is_success() && reading.rules.iter().any(|rule| rule.means == Means::Accepted) => {
            kit::unclear(answer)
        }
        None if answer.status.is_success() => accepted(),
        None => by_status(NAME, answer),
    }
}

fn refused(class: ErrorClass, rule: &Rule, code: Option<&str>, answer: &Answer) -> Submitted {
    let http = format!("http-{}", answer.status.as_u16());
    let text = if rule.text.is_empty() { "refused" } else { &rule.text };
    let code = if rule.code.is_empty() { &http } else { code.unwrap_or(&http) };
    Submitted::Refused(refusal(NAME, class, code, text, Some(answer)))
}

/// The parts of one report or message.
struct Parts<'a> {
    json: Option<&'a Value>,
    pairs: &'a [(String, String)],
}

impl Parts<'_> {
    fn get(&self, name: &str) -> Option<Box<str>> {
        if name.starts_with('/') {
            kit::word(self.json?, name)
        } else {
            kit::value_of(self.pairs, name).and_then(bounded)
        }
    }

    /// The text of a message may be longer than a word.
    fn text(&self, name: &str) -> Option<Box<str>> {
        if name.starts_with('/') {
            kit::text(self.json?, name)
        } else {
            kit::value_of(self.pairs, name).map(Into::into)
        }
    }
}

fn state(reports: &Reports, value: &str, code: Option<&str>) -> ReceiptState {
    let states = &reports.states;
    let is = |values: &[String]| values.iter().any(|known| known == value);
    let failed = |class| {
        ReceiptState::Failed(refusal(NAME, class, code.unwrap_or(value), "not delivered, says the service", None))
    };
    match () {
        () if is(&states.delivered) => ReceiptState::Delivered,
        () if is(&states.expired) => ReceiptState::Expired,
        () if is(&states.permanent) => failed(ErrorClass::Permanent),
        () if is(&states.route) => failed(ErrorClass::Route),
        () if is(&states.transient) => failed(ErrorClass::Transient),
        () => ReceiptState::Pending,
    }
}

fn receipt(reports: &Reports, parts: &Parts<'_>, url: &Url) -> Option<Receipt> {
    let value = parts.get(&reports.state)?;
    let named = reports.reference.as_ref().and_then(|name| parts.get(name)).and_then(|text| kit::reference(&text));
    let reference = named.or_else(|| if reports.address_counts() { reference_in(url) } else { None });
    let id = reports.id.as_ref().and_then(|name| parts.get(name));
    if reference.is_none() && id.is_none() {
        return None;
    }
    let code = reports.code.as_ref().and_then(|name| parts.get(name));
    Some(Receipt {
        reference,
        id,
        segment: None,
        state: state(reports, &value, code.as_deref()),
        at_ms: None,
        price: None,
    })
}

fn inbound(reports: &Reports, parts: &Parts<'_>) -> Option<Inbound> {
    let names = reports.inbound.as_ref()?;
    Some(Inbound {
        id: parts.get(&names.id)?,
        from: parts.get(&names.from)?,
        to: parts.get(&names.to).unwrap_or_default(),
        text: parts.text(&names.text)?,
        at_ms: None,
    })
}

fn read(reports: &Reports, request: &Callback) -> CallbackReply {
    let json = kit::json(&request.body);
    let mut fields = if json.is_none() { pairs(&request.body) } else { Vec::new() };
    if !reports.body_is_signed() {
        fields.extend(pairs(request.url.query().unwrap_or_default().as_bytes()));
    }
    let mut reply = CallbackReply::default();
    let mut take = |json: Option<&Value>| {
        let parts = Parts { json, pairs: &fields };
        match receipt(reports, &parts, &request.url) {
            Some(receipt) => reply.receipts.push(receipt),
            None => reply.inbound.extend(inbound(reports, &parts)),
        }
    };
    match &reports.each {
        None => take(json.as_ref()),
        Some(each) => {
            let entries = json.as_ref().and_then(|json| json.pointer(each)?.as_array());
            entries.into_iter().flatten().take(REPORTS_MAX).for_each(|entry| take(Some(entry)));
        }
    }
    reply
}

impl Maker for GenericHttp {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    /// Which codes mean what is in the account's settings.
    fn errors(&self) -> &'static [ErrorTable] {
        &[]
    }

    /// Renders an example of each request, so that a template that cannot work is never stored.
    fn check(&self, account: &Account) -> Result<(), FieldError> {
        let settings = Settings::of(account)?;
        settings.check(account)?;
        let example = Outgoing {
            reference: "msg_00000000000000000000000000-1".into(),
            to: Msisdn::from_u64(255_712_345_678).map_err(|_| kit::wrong("settings", "no example"))?,
            sender: "Example".into(),
            text: "An \"example\" & <test> \u{2013} 100 %".into(),
            unicode: true,
            flash: false,
            segments: 1,
            validity_s: 3600,
        };
        self.submit(account, std::slice::from_ref(&example), 0)?;
        let renderer = Renderer::new(&values(account, None, 0));
        for (path, request) in [
            ("test", settings.test.as_ref()),
            ("balance.request", settings.balance.as_ref().map(|balance| &balance.request)),
        ] {
            request.map_or(Ok(()), |request| rendered(request, path, &renderer, account).map(drop))?;
        }
        Ok(())
    }

    fn submit(&self, account: &Account, batch: &[Outgoing], now_ms: u64) -> Result<Call, FieldError> {
        let settings = Settings::of(account)?;
        let renderer = Renderer::new(&values(account, batch.first(), now_ms));
        rendered(&settings.request, "request", &renderer, account)
    }

    fn submitted(&self, account: &Account, batch: &[Outgoing], answer: &Answer) -> Vec<Submitted> {
        let result = match Settings::of(account) {
            Ok(settings) => result(&settings.answer, answer),
            Err(error) => Submitted::Unclear(error.to_string().into()),
        };
        batch.iter().map(|_| result.clone()).collect()
    }

    fn callback(&self, account: &Account, request: &Callback, now_ms: u64) -> Result<CallbackReply, CallbackError> {
        let settings =
            Settings::of(account).map_err(|_| CallbackError::Malformed("the account's settings are wrong"))?;
        let reports = settings.callback.ok_or(CallbackError::Malformed("the account's settings read no reports"))?;
        signature::verify(&reports.signature, account, request, now_ms)?;
        let mut reply = read(&reports, request);
        if reply.receipts.is_empty() && reply.inbound.is_empty() {
            return Err(CallbackError::Malformed("neither a report nor a message where the settings look for one"));
        }
        reply.answer = match reports.reply {
            Reply::Empty => "",
            Reply::Ok => "OK",
            Reply::Json => "{}",
        };
        Ok(reply)
    }

    fn balance(&self, account: &Account, now_ms: u64) -> Option<Result<Call, FieldError>> {
        let settings = Settings::of(account).ok()?;
        let renderer = Renderer::new(&values(account, None, now_ms));
        Some(rendered(&settings.balance?.request, "balance.request", &renderer, account))
    }

    fn balance_of(&self, account: &Account, answer: &Answer) -> Option<Balance> {
        let balance = Settings::of(account).ok()?.balance?;
        let micros = micros(&found(&balance.amount, answer)?).filter(|_| answer.status.is_success())?;
        Some(Balance { micros, currency: balance.currency.into() })
    }

    fn test(&self, account: &Account, now_ms: u64) -> Result<Call, FieldError> {
        let settings = Settings::of(account)?;
        let request = settings.test.ok_or_else(|| {
            kit::wrong("settings", "test: is missing; give a harmless request that only works with right secrets")
        })?;
        rendered(&request, "test", &Renderer::new(&values(account, None, now_ms)), account)
    }

    fn judge(&self, _account: &Account, answer: &Answer) -> Judged {
        judged(answer)
    }
}

#[cfg(test)]
mod tests;
