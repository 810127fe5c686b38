//! What several makers need: writing forms and JSON, credentials, signatures, reading with bounds, money, and what an HTTP
//! status means when nothing better is known.
//!
//! Whatever a maker sends us is untrusted: every reader here has a bound and says `None` instead of panicking.

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::ErrorClass;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use ring::{digest, hmac};
use serde_json::Value;
use url::{Url, form_urlencoded};

use crate::account::{Account, FieldError};
use crate::errors::{Table, meaning};
use crate::http_call::{Answer, Call};
use crate::maker::{CallbackError, Capabilities, Judged, Refusal, Submitted};

/// Largest body that is read at all: a callback's bound, above that of an answer.
const BODY_MAX: usize = 1024 * 1024;
/// Most pairs of a form or query that are looked at.
const PAIRS_MAX: usize = 256;
/// Longest id, code or name that is taken from a maker.
const WORD_MAX: usize = 200;
/// Longest code of a maker in a refusal.
const CODE_MAX: usize = 48;
/// Longest pause that a maker can ask for.
const RETRY_AFTER_MAX_MS: u64 = 60 * 60 * 1000;
/// A signature's time may be this far from ours, either way.
const REPLAY_WINDOW_MS: u64 = 5 * 60 * 1000;
/// The query parameter of our callback address that carries our reference.
const REFERENCE: &str = "ref";

// Writing.

/// Pairs as `application/x-www-form-urlencoded`, in their order.
pub(crate) fn form<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// A POST of a form.
pub(crate) fn post_form<'a>(url: Url, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Call {
    let headers = typed("application/x-www-form-urlencoded");
    Call { method: Method::POST, url, headers, body: Bytes::from(form(pairs)) }
}

/// A POST of JSON.
pub(crate) fn post_json(url: Url, body: &Value) -> Call {
    Call { method: Method::POST, url, headers: typed("application/json"), body: Bytes::from(body.to_string()) }
}

pub(crate) fn get(url: Url) -> Call {
    let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
    Call { method: Method::GET, url, headers, body: Bytes::new() }
}

fn typed(content_type: &'static str) -> HeaderMap {
    HeaderMap::from_iter([
        (ACCEPT, HeaderValue::from_static("application/json")),
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
    ])
}

impl Call {
    /// With HTTP Basic credentials.
    pub(crate) fn basic(self, user: &str, password: &str) -> Result<Self, FieldError> {
        let value = format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes()));
        self.authorization(&value, "credentials")
    }

    /// With an `Authorization` header; `field` is whose fault it is when it holds what no header can.
    pub(crate) fn authorization(self, value: &str, field: &str) -> Result<Self, FieldError> {
        self.secret_header(AUTHORIZATION, value, field)
    }

    /// With a header that is not to be shown; `field` is whose fault it is when it holds what no header can.
    pub(crate) fn secret_header(mut self, name: HeaderName, value: &str, field: &str) -> Result<Self, FieldError> {
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| wrong(field, "has characters that no HTTP header can hold; copy it again"))?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(self)
    }
}

/// A field of an account that cannot work, with the remedy.
pub(crate) fn wrong(field: &str, problem: impl Into<Box<str>>) -> FieldError {
    FieldError { field: field.into(), problem: problem.into() }
}

/// Whether all fields and secrets that a maker needs are there.
pub(crate) fn required(account: &Account, capabilities: &Capabilities) -> Result<(), FieldError> {
    for (name, needed, _) in capabilities.fields {
        if *needed {
            account.field(name)?;
        }
    }
    for (name, needed, _) in capabilities.secrets {
        if *needed {
            account.secret(name)?;
        }
    }
    Ok(())
}

/// A field that becomes a part of an address: letters, digits, `-` and `_` only, so that it can not lead elsewhere.
pub(crate) fn path_word<'a>(account: &'a Account, name: &'static str) -> Result<&'a str, FieldError> {
    let value = account.field(name)?;
    let plain = value.len() <= 64 && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if plain {
        Ok(value)
    } else {
        Err(wrong(name, "has other characters than letters, digits, `-` and `_`; copy it again"))
    }
}

/// `+` and the digits.
pub(crate) fn e164(number: Msisdn) -> String {
    format!("+{}", number.as_u64())
}

/// The digits alone, as some makers want them.
pub(crate) fn digits(number: Msisdn) -> String {
    number.as_u64().to_string()
}

/// A sender without the `+` that some makers refuse.
pub(crate) fn bare_sender(sender: &str) -> &str {
    sender.strip_prefix('+').unwrap_or(sender)
}

// Our reference, in our callback address.

/// The callback address with our reference in its query, so that the report brings it back.
pub(crate) fn callback_with(account: &Account, reference: &str) -> Option<Url> {
    let mut url = account.callback_url.clone()?;
    url.query_pairs_mut().append_pair(REFERENCE, reference);
    Some(url)
}

/// The reference that [`callback_with`] has put there.
pub(crate) fn reference_in(url: &Url) -> Option<Box<str>> {
    url.query_pairs().take(PAIRS_MAX).find(|(name, _)| name == REFERENCE).and_then(|(_, value)| reference(&value))
}

/// A reference as we make them; anything else did not come from us.
pub(crate) fn reference(text: &str) -> Option<Box<str>> {
    let ours = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (!text.is_empty() && text.len() <= 64 && text.chars().all(ours)).then(|| text.into())
}

// Reading.

/// JSON within the bound.
pub(crate) fn json(body: &[u8]) -> Option<Value> {
    if body.len() > BODY_MAX { None } else { serde_json::from_slice(body).ok() }
}

/// Pairs of a form or a query, at most 256.
pub(crate) fn pairs(text: &[u8]) -> Vec<(String, String)> {
    if text.len() > BODY_MAX {
        return Vec::new();
    }
    form_urlencoded::parse(text).take(PAIRS_MAX).map(|(k, v)| (k.into_owned(), v.into_owned())).collect()
}

/// The first value of that name, not empty.
pub(crate) fn value_of<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
}

pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A string or number at a JSON pointer, as text of at most 200 bytes: ids, codes, states.
pub(crate) fn word(value: &Value, pointer: &str) -> Option<Box<str>> {
    match value.pointer(pointer)? {
        Value::String(text) => bounded(text),
        Value::Number(number) => bounded(&number.to_string()),
        _ => None,
    }
}

/// A string at a JSON pointer, whole: the text of a message.
pub(crate) fn text(value: &Value, pointer: &str) -> Option<Box<str>> {
    value.pointer(pointer)?.as_str().map(Into::into)
}

/// A word of a maker, not empty and not long.
pub(crate) fn bounded(text: &str) -> Option<Box<str>> {
    (!text.is_empty() && text.len() <= WORD_MAX).then(|| text.into())
}

/// A decimal amount in millionths, without its sign (some makers give what is taken as negative), rounded to the nearest.
pub(crate) fn price(text: &str) -> Option<u64> {
    micros(text).map(i64::unsigned_abs)
}

/// A decimal amount (`-12.3456789`) in millionths, rounded to the nearest. None for what is not plain digits: an exponent
/// would be a surprise, and money is no place for one.
pub(crate) fn micros(text: &str) -> Option<i64> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !plain(whole) || !plain(fraction) || whole.len() > 12 {
        return None;
    }
    let mut sum: i64 = if whole.is_empty() { 0 } else { whole.parse::<i64>().ok()? * 1_000_000 };
    let place = [100_000, 10_000, 1_000, 100, 10, 1];
    sum += fraction.bytes().zip(place).map(|(digit, place)| i64::from(digit - b'0') * place).sum::<i64>();
    if fraction.as_bytes().get(6).is_some_and(|digit| *digit >= b'5') {
        sum += 1;
    }
    Some(if negative { -sum } else { sum })
}

/// A JSON number or string at a pointer, in millionths. JSON numbers with an exponent go through `f64`.
pub(crate) fn micros_at(value: &Value, pointer: &str) -> Option<i64> {
    match value.pointer(pointer)? {
        Value::String(text) => micros(text),
        Value::Number(number) => micros(&number.to_string()).or_else(|| {
            let value = number.as_f64()? * 1e6;
            (value.abs() < 1e18).then(|| value.round() as i64)
        }),
        _ => None,
    }
}

/// A currency in capitals, as ISO 4217 has them.
pub(crate) fn currency(text: &str) -> Box<str> {
    text.to_ascii_uppercase().into()
}

/// Unix milliseconds of an RFC 3339 time, or of one with a space in place of the `T`.
pub(crate) fn rfc3339_ms(text: &str) -> Option<u64> {
    let time: Timestamp = text.trim().parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

/// Unix milliseconds of a time without a zone, which is UTC: `2020-01-01 12:00:00`.
pub(crate) fn utc_ms(text: &str) -> Option<u64> {
    let time: jiff::civil::DateTime = text.trim().parse().ok()?;
    u64::try_from(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond()).ok()
}

/// How long the maker asks us to wait, at most an hour: `Retry-After` in seconds, or as a date against the answer's own.
pub(crate) fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    let text = header(headers, RETRY_AFTER.as_str())?.trim();
    let ms = match text.parse::<u64>() {
        Ok(seconds) => seconds.saturating_mul(1000),
        Err(_) => {
            let date = |text| jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp().as_millisecond());
            let (then, now) = (date(text)?, date(header(headers, DATE.as_str())?)?);
            u64::try_from(then.saturating_sub(now)).unwrap_or(0)
        }
    };
    Some(ms.min(RETRY_AFTER_MAX_MS))
}

// Signatures.

/// Whether two secrets are the same, in constant time. Their tags are compared, so their lengths do not show either.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"flotilla: compare");
    hmac::verify(&key, a, hmac::sign(&key, b).as_ref()).is_ok()
}

/// Whether a tag is right, in constant time.
pub(crate) fn signed_by(algorithm: hmac::Algorithm, key: &[u8], data: &[u8], tag: &[u8]) -> bool {
    hmac::verify(&hmac::Key::new(algorithm, key), data, tag).is_ok()
}

pub(crate) fn hmac_of(algorithm: hmac::Algorithm, key: &[u8], data: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(algorithm, key), data)
}

pub(crate) fn sha256_hex(data: &[u8]) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, data).as_ref())
}

/// Whether a signature's time (Unix ms) is within five minutes of ours.
pub(crate) fn fresh(signed_ms: u64, now_ms: u64) -> bool {
    signed_ms.abs_diff(now_ms) <= REPLAY_WINDOW_MS
}

/// The claims of a JWT that is signed with a shared secret by HS256, HS384 or HS512. Times are not looked at: the clock is
/// the caller's.
pub(crate) fn jwt_claims(token: &str, secret: &[u8]) -> Option<Value> {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
    let algorithm = decode_header(token).ok()?.alg;
    if !matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
        return None;
    }
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    decode::<Value>(token, &DecodingKey::from_secret(secret), &validation).ok().map(|data| data.claims)
}

/// Seconds or fractions of one at a JSON pointer, as milliseconds.
pub(crate) fn seconds_at(value: &Value, pointer: &str) -> Option<u64> {
    let number = value.pointer(pointer)?;
    match number.as_u64() {
        Some(seconds) => seconds.checked_mul(1000),
        None => number.as_f64().filter(|s| *s >= 0.0 && *s < 1e13).map(|s| (s * 1000.0) as u64),
    }
}

/// Reports of makers that sign nothing are taken only where the account says so.
pub(crate) fn unsigned_allowed(account: &Account) -> Result<(), CallbackError> {
    if account.unsigned_callbacks { Ok(()) } else { Err(CallbackError::Unsigned) }
}

// What an answer means.

/// A refusal with a maker's code. `text` is for people and holds no number and no text of the message; of the code only letters,
/// digits, `-`, `_` and `.` are kept, so that it can not carry any either.
pub(crate) fn refusal(maker: &str, class: ErrorClass, code: &str, text: &str, answer: Option<&Answer>) -> Refusal {
    Refusal {
        class,
        code: format!("{maker}-{}", plain(code)).into(),
        text: text.into(),
        retry_after_ms: answer.and_then(|answer| retry_after_ms(&answer.headers)),
    }
}

fn plain(code: &str) -> String {
    code.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).take(CODE_MAX).collect()
}

/// What a table says of a code, or `otherwise` when it is not there.
pub(crate) fn refusal_of(maker: &str, table: Table, code: &str, otherwise: ErrorClass) -> Refusal {
    match meaning(table, code) {
        Some((class, text)) => refusal(maker, class, code, text, None),
        None => refusal(maker, otherwise, code, "the maker gives a code that we do not know", None),
    }
}

/// What an HTTP status means for a message that was submitted, when the answer says no more that we know.
///
/// Below 500 nothing was taken: the maker has read the request and refused it. From 500 on it may have been taken, and so it
/// may after a success that cannot be read, and after the redirects that many programs answer with when a form's work is done
/// (302, 303). A bad request is the route's fault, not the number's: another route may well do.
pub(crate) fn by_status(maker: &str, answer: &Answer) -> Submitted {
    let status = answer.status;
    let (class, text) = match status.as_u16() {
        401 | 403 => (ErrorClass::Route, "the account's credentials or rights are refused"),
        402 => (ErrorClass::Route, "the account has no credit"),
        408 | 425 | 429 => (ErrorClass::Transient, "too many requests or too slow"),
        300 | 301 | 304..=399 => (ErrorClass::Route, "the address has moved; set `base_url` of the account"),
        400..=499 => (ErrorClass::Route, "the request is refused"),
        _ => return unclear(answer),
    };
    Submitted::Refused(refusal(maker, class, &format!("http-{}", status.as_u16()), text, Some(answer)))
}

/// It may have been taken.
pub(crate) fn unclear(answer: &Answer) -> Submitted {
    let what = match answer.status {
        status if status.is_success() => "an answer that cannot be read",
        status if status.is_redirection() => "a redirect, perhaps after its work; check `base_url` of the account",
        _ => "an error after the request",
    };
    Submitted::Unclear(format!("HTTP {}: {what}", answer.status.as_u16()).into())
}

/// A code after which the message may be on its way.
pub(crate) fn doubt(maker: &str, code: &str) -> Submitted {
    Submitted::Unclear(format!("{maker}-{}: it may have been taken", plain(code)).into())
}

/// What the answer to a harmless authenticated request says of the account, when its body says no more.
pub(crate) fn judged(answer: &Answer) -> Judged {
    match answer.status {
        status if status.is_success() => Judged::Works("the account answers".into()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Judged::Refused(format!("HTTP {}: the credentials are refused", answer.status.as_u16()).into())
        }
        StatusCode::NOT_FOUND => Judged::Refused("HTTP 404: no such account; check its fields and `base_url`".into()),
        StatusCode::TOO_MANY_REQUESTS => Judged::Unclear("HTTP 429: too many requests; try again later".into()),
        status if status.is_client_error() => Judged::Refused(format!("HTTP {}: refused", status.as_u16()).into()),
        status => Judged::Unclear(format!("HTTP {}: the maker cannot tell now", status.as_u16()).into()),
    }
}

#[cfg(test)]
mod tests;
