//! SMS Broadcast (Australia), Advanced HTTP API.
//!
//! Source: `support.smsbroadcast.com.au/hc/en-us/articles/4412014961423-Advanced-API-Documentation`, and clients made from it
//! (`hatchetaustralia/smsbroadcast`, the SMSG module of CMS Made Simple): a form, answers by lines `OK: to:ref`, `BAD:to:reason`,
//! `ERROR: reason`; reports by GET with `to`, `ref`, `smsref`, `status` of `Delivered`, `Expired` and `Failed`.
//!
//! `ref` has 20 characters and our references are longer, so the end of ours goes there for people who look at the maker's lists;
//! reports are matched by `smsref`, the maker's id.
//!
//! Not confirmed: the wording of the reasons beyond `Invalid Number`, so a `BAD` is the number's fault only when it speaks of the number
//! or the recipient; texts outside GSM-7, which the documents do not mention; the fields of a message that came in beyond `to`, `from`,
//! `message` and `ref`.

use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};

use super::kit::{
    bare_sender, bounded, by_status, digits, judged, micros, pairs, post_form, refusal, sha256_hex, unclear,
    unsigned_allowed, value_of,
};
use crate::account::{Account, FieldError};
use crate::errors::ErrorTable;
use crate::http_call::{Answer, Call, Callback};
use crate::maker::{
    Balance, CallbackError, CallbackReply, Capabilities, Inbound, Judged, Maker, Outgoing, Receipt, ReceiptState,
    Submitted,
};

const NAME: &str = "sms-broadcast";
const BASE: &str = "https://api.smsbroadcast.com.au";
const PATH: &str = "api-adv.php";
const REF_MAX: usize = 20;
/// Lines of an answer that are looked at.
const LINES_MAX: usize = 64;

static CAPABILITIES: Capabilities = Capabilities {
    name: NAME,
    title: "SMS Broadcast",
    fields: &[("username", true, "the API user name")],
    secrets: &[("password", true, "the API password")],
    batch_max: 1,
    batch: "one message in a request",
    callbacks: true,
    signature: None,
    polls: false,
    balance: true,
    inbound: true,
    echoes_reference: false,
};

pub(crate) struct SmsBroadcast;

/// The words of a line, at most three: the reason may have colons of its own.
fn lines(answer: &Answer) -> Vec<(String, String, String)> {
    let Ok(text) = std::str::from_utf8(&answer.body) else { return Vec::new() };
    let part = |part: Option<&str>| part.unwrap_or_default().trim().to_owned();
    let line = |line: &str| {
        let mut parts = line.splitn(3, ':');
        (part(parts.next()), part(parts.next()), part(parts.next()))
    };
    text.lines().filter(|line| !line.trim().is_empty()).take(LINES_MAX).map(line).collect()
}

fn result(lines: &[(String, String, String)], message: &Outgoing, answer: &Answer) -> Submitted {
    let to = digits(message.to);
    // A local form (04...) is the same number: its last digits are compared.
    let same = |found: &str| {
        let found: String = found.chars().filter(char::is_ascii_digit).collect();
        let national = found.trim_start_matches('0');
        found == to || (national.len() >= 6 && to.ends_with(national))
    };
    for (word, first, rest) in lines {
        match word.as_str() {
            "OK" if same(first) => return Submitted::Accepted { id: bounded(rest), price: None },
            "BAD" if same(first) || lines.len() == 1 => return Submitted::Refused(bad(rest)),
            "ERROR" => {
                let text = "the whole request is refused; check user name, password, credit and sender";
                return Submitted::Refused(refusal(NAME, Route, "error", text, None));
            }
            _ => {}
        }
    }
    unclear(answer)
}

fn bad(reason: &str) -> crate::maker::Refusal {
    let reason = reason.to_ascii_lowercase();
    if reason.contains("number") || reason.contains("recipient") {
        return refusal(NAME, Permanent, "bad-number", "not a phone number", None);
    }
    refusal(NAME, Route, "bad", "the message is refused", None)
}

/// Repetitions of a request come within minutes; after a quarter of an hour the same words are another message.
const REPEATED_WITHIN_MS: u64 = 15 * 60_000;

/// The maker gives none: the same message again, at about the same time, is the same id. People do answer `YES` twice.
fn inbound_id(from: &str, to: &str, text: &str, reference: &str, now_ms: u64) -> Box<str> {
    let quarter = now_ms / REPEATED_WITHIN_MS;
    sha256_hex(format!("{from}\n{to}\n{reference}\n{quarter}\n{text}").as_bytes())[..32].into()
}

impl Maker for SmsBroadcast {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    /// Answers say what is wrong in words, not in codes.
    fn errors(&self) -> &'static [ErrorTable] {
        &[]
    }

    fn check(&self, account: &Account) -> Result<(), FieldError> {
        self.test(account, 0).map(drop)
    }

    fn submit(&self, account: &Account, batch: &[Outgoing], _now_ms: u64) -> Result<Call, FieldError> {
        let to = batch.iter().map(|message| digits(message.to)).collect::<Vec<_>>().join(",");
        let mut form = vec![("username", account.field("username")?), ("password", account.secret("password")?)];
        form.push(("to", &to));
        let splits;
        if let Some(message) = batch.first() {
            if !message.sender.is_empty() {
                form.push(("from", bare_sender(&message.sender)));
            }
            let start = message.reference.len().saturating_sub(REF_MAX);
            splits = message.segments.max(1).to_string();
            form.push(("message", &message.text));
            form.push(("ref", message.reference.get(start..).unwrap_or_default()));
            form.push(("maxsplit", &splits));
        }
        Ok(post_form(account.url(BASE, PATH)?, form))
    }

    fn submitted(&self, _account: &Account, batch: &[Outgoing], answer: &Answer) -> Vec<Submitted> {
        if !answer.status.is_success() {
            return batch.iter().map(|_| by_status(NAME, answer)).collect();
        }
        let lines = lines(answer);
        batch.iter().map(|message| result(&lines, message, answer)).collect()
    }

    fn callback(&self, account: &Account, request: &Callback, now_ms: u64) -> Result<CallbackReply, CallbackError> {
        unsigned_allowed(account)?;
        let mut pairs = pairs(request.url.query().unwrap_or_default().as_bytes());
        pairs.extend(super::kit::pairs(&request.body));
        let mut reply = CallbackReply::default();
        if let Some(status) = value_of(&pairs, "status") {
            let id = value_of(&pairs, "smsref").and_then(bounded);
            let id = Some(id.ok_or(CallbackError::Malformed("`smsref` is missing"))?);
            let state = match status {
                "Delivered" => ReceiptState::Delivered,
                "Expired" => ReceiptState::Expired,
                "Failed" => {
                    let text = "not delivered: the number is wrong or not in service, or the network failed";
                    ReceiptState::Failed(refusal(NAME, Transient, "failed", text, None))
                }
                _ => ReceiptState::Pending,
            };
            reply.receipts.push(Receipt { reference: None, id, segment: None, state, at_ms: None, price: None });
            return Ok(reply);
        }
        let (Some(from), Some(text)) = (value_of(&pairs, "from"), value_of(&pairs, "message")) else {
            return Err(CallbackError::Malformed("neither a report nor a message"));
        };
        let to = value_of(&pairs, "to").unwrap_or_default();
        let id = inbound_id(from, to, text, value_of(&pairs, "ref").unwrap_or_default(), now_ms);
        reply.inbound.push(Inbound { id, from: from.into(), to: to.into(), text: text.into(), at_ms: None });
        Ok(reply)
    }

    fn balance(&self, account: &Account, now_ms: u64) -> Option<Result<Call, FieldError>> {
        Some(self.test(account, now_ms))
    }

    fn balance_of(&self, _account: &Account, answer: &Answer) -> Option<Balance> {
        let (word, amount, _) = lines(answer).into_iter().next()?;
        let micros = (word == "OK" && answer.status.is_success()).then(|| micros(&amount)).flatten()?;
        Some(Balance { micros, currency: "credits".into() })
    }

    fn test(&self, account: &Account, _now_ms: u64) -> Result<Call, FieldError> {
        let secrets = [
            ("username", account.field("username")?),
            ("password", account.secret("password")?),
            ("action", "balance"),
        ];
        Ok(post_form(account.url(BASE, PATH)?, secrets))
    }

    /// Refusals come with status 200.
    fn judge(&self, _account: &Account, answer: &Answer) -> Judged {
        match lines(answer).first().map(|(word, ..)| word.as_str()) {
            Some("OK") if answer.status.is_success() => Judged::Works("the account answers".into()),
            Some("ERROR") => Judged::Refused("the user name or the password is refused".into()),
            _ if answer.status.is_success() => Judged::Unclear("an answer that cannot be read".into()),
            _ => judged(answer),
        }
    }
}

#[cfg(test)]
mod tests;
