//! From what a client wrote to submissions a shard can take. Pure: the time and the resolved pin are arguments.

use std::borrow::Cow;

use data_encoding::BASE64;
use flotilla_protocol::id::{DeviceId, MessageId, SimId, TenantId};
use flotilla_protocol::number::{Msisdn, NumberError};
use flotilla_protocol::sms::{self, EncodeError, EncodeOptions, Plan};
use flotilla_protocol::wire::{self, Body, TextEncoding};
use flotilla_routing::Micros;
use rustc_hash::{FxBuildHasher, FxHashMap};
use smallvec::SmallVec;
use url::Url;

use super::request::{Alphabet, Encoding, RECIPIENTS_MAX, SendRequest, TAGS_MAX, Text};
use crate::api::problem::{Code, Problem};
use crate::domain::message::{Duplicates, Pin, Priority, SEGMENTS_MAX, Submission};

pub const VALID_FOR_S_DEFAULT: u32 = 24 * 3600;
pub const VALID_FOR_S_MIN: u32 = 60;
pub const VALID_FOR_S_MAX: u32 = 7 * 24 * 3600;
const AHEAD_MS_MAX: u64 = 366 * 24 * 3600 * 1000;
/// A client's clock may be this far behind ours before its `send_at` counts as past.
const PAST_MS_MAX: u64 = 5 * 60 * 1000;
const CAMPAIGN_BYTES_MAX: usize = 64;
const TAG_BYTES_MAX: usize = 64;
const CLIENT_REF_BYTES_MAX: usize = 128;
const SENDER_BYTES_MAX: usize = 64;
const PLAN_BYTES_MAX: usize = 64;
const CALLBACK_BYTES_MAX: usize = 2048;

/// Which SIM a client wants, before anybody has looked whether it is its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Wish {
    #[default]
    Any,
    Sim(SimId),
    Device(DeviceId),
    From(Msisdn),
}

/// A request that is right by itself.
#[derive(Debug)]
pub struct Checked {
    pub recipients: SmallVec<[Msisdn; 1]>,
    pub wish: Wish,
    /// The plan that it names, before anybody has looked whether there is one.
    pub plan: Option<Box<str>>,
    pub segments: u8,
    /// Before anybody has looked whether a provider has it.
    pub sender: Option<Box<str>>,
    max_cost: Option<Micros>,
    callback_url: Option<Box<str>>,
    body: Body,
    encoding: TextEncoding,
    flash: bool,
    priority: Priority,
    duplicates: Duplicates,
    accepted_ms: u64,
    due_ms: u64,
    expires_ms: u64,
    campaign: Box<str>,
    tags: Vec<Box<str>>,
    client_ref: Option<Box<str>>,
}

/// Checks a request at a time. `priority` is that of requests that name none.
pub fn check(mut request: SendRequest<'_>, priority: Priority, now_ms: u64) -> Result<Checked, Problem> {
    let recipients = recipients(&request)?;
    let (wish, sender) = wish(&request)?;
    let encoding = text_encoding(request.encoding.unwrap_or_default());
    let (body, segments) = body(&mut request, encoding)?;
    let due_ms = due(request.send_at.as_ref(), now_ms)?;
    let valid_for_s = request.valid_for_s.unwrap_or(VALID_FOR_S_DEFAULT);
    if !(VALID_FOR_S_MIN..=VALID_FOR_S_MAX).contains(&valid_for_s) {
        let detail = format!("give {VALID_FOR_S_MIN} to {VALID_FOR_S_MAX} seconds (a minute to a week)");
        return Err(Problem::field("valid_for_s", detail));
    }
    Ok(Checked {
        recipients,
        wish,
        plan: label("route", request.route.as_ref(), PLAN_BYTES_MAX)?,
        segments,
        sender,
        max_cost: request.max_cost,
        callback_url: request.callback_url.as_ref().map(callback).transpose()?,
        body,
        encoding,
        flash: request.flash,
        priority: request.priority.unwrap_or(priority),
        duplicates: request.duplicates.unwrap_or_default(),
        accepted_ms: now_ms,
        due_ms,
        expires_ms: due_ms + u64::from(valid_for_s) * 1000,
        campaign: label("campaign", request.campaign.as_ref(), CAMPAIGN_BYTES_MAX)?.unwrap_or_default(),
        tags: tags(&request.tags)?,
        client_ref: label("client_ref", request.client_ref.as_ref(), CLIENT_REF_BYTES_MAX)?,
    })
}

impl Checked {
    /// One submission for each recipient, with ids from `fresh_id`.
    pub fn submissions(
        self,
        tenant: TenantId,
        pin: Pin,
        mut fresh_id: impl FnMut() -> MessageId,
        out: &mut Vec<Submission>,
    ) {
        let Some((last, others)) = self.recipients.split_last() else { return };
        let template = Submission {
            id: fresh_id(),
            tenant,
            accepted_ms: self.accepted_ms,
            to: others.first().copied().unwrap_or(*last),
            body: self.body,
            encoding: self.encoding,
            flash: self.flash,
            segments: self.segments,
            priority: self.priority,
            duplicates: self.duplicates,
            pin,
            due_ms: self.due_ms,
            expires_ms: self.expires_ms,
            campaign: self.campaign,
            tags: self.tags,
            client_ref: self.client_ref,
            // A SIM has its own number.
            sender: self.sender.filter(|_| pin == Pin::Any),
            plan: self.plan,
            max_cost: self.max_cost,
            callback_url: self.callback_url,
        };
        if others.is_empty() {
            out.push(template);
            return;
        }
        out.push(template.clone());
        for to in &others[1..] {
            out.push(Submission { id: fresh_id(), to: *to, ..template.clone() });
        }
        out.push(Submission { id: fresh_id(), to: *last, ..template });
    }
}

/// Counts a text's segments as sending it would.
pub fn plan(text: &str, encoding: Encoding) -> Result<Plan, Problem> {
    plan_text(text, text_encoding(encoding))
}

fn plan_text(text: &str, encoding: TextEncoding) -> Result<Plan, Problem> {
    if text.contains('\0') {
        return Err(Problem::new(Code::InvalidText, "has a NUL character (U+0000); remove it").at("text"));
    }
    let options = EncodeOptions { segments_max: SEGMENTS_MAX, ..encoding.into() };
    sms::plan(text, &options).map_err(|error| encode_problem("text", &error))
}

fn encode_problem(field: &'static str, error: &EncodeError) -> Problem {
    let (code, detail): (_, Cow<'static, str>) = match error {
        EncodeError::TooManySegments { segments, max } => {
            let detail = format!("needs {segments} segments or more and {max} are allowed; shorten it or split it");
            (Code::TextTooLong, detail.into())
        }
        EncodeError::NotInGsm7 { .. } => {
            let detail = "has a character that GSM-7 lacks; use \"alphabet\": \"auto\", or replace the character";
            (Code::NotEncodable, detail.into())
        }
        other @ EncodeError::NoSegments => (Code::InvalidField, other.to_string().into()),
    };
    Problem::new(code, detail).at(field)
}

fn text_encoding(encoding: Encoding) -> TextEncoding {
    TextEncoding {
        alphabet: match encoding.alphabet {
            Alphabet::Auto => wire::Alphabet::Auto,
            Alphabet::Gsm7 => wire::Alphabet::Gsm7,
            Alphabet::Ucs2 => wire::Alphabet::Ucs2,
        },
        national_tables: encoding.national_tables,
        smart: encoding.smart,
    }
}

fn recipients(request: &SendRequest<'_>) -> Result<SmallVec<[Msisdn; 1]>, Problem> {
    let list = request.to.as_slice();
    if list.is_empty() {
        return Err(Problem::field("to", "the list is empty; give at least one number"));
    }
    if list.len() > RECIPIENTS_MAX {
        return Err(Problem::field("to", format!("give at most {RECIPIENTS_MAX} numbers, or use bulk")));
    }
    let one = list.len() == 1;
    let parse = |(index, text): (usize, &Text<'_>)| {
        Msisdn::parse(text).map_err(|error| {
            let field = if one { Cow::Borrowed("to") } else { format!("to[{index}]").into() };
            number_problem(field, &error)
        })
    };
    let numbers = list.iter().enumerate().map(parse).collect::<Result<SmallVec<[Msisdn; 1]>, Problem>>()?;
    if !one {
        each_once(&numbers)?;
    }
    Ok(numbers)
}

/// Nobody means to send one text twice to the same number: it is a slip in a list.
fn each_once(numbers: &[Msisdn]) -> Result<(), Problem> {
    let mut seen = FxHashMap::with_capacity_and_hasher(numbers.len(), FxBuildHasher);
    for (index, number) in numbers.iter().enumerate() {
        if let Some(first) = seen.insert(*number, index) {
            return Err(Problem::field(format!("to[{index}]"), format!("repeats to[{first}]; give each number once")));
        }
    }
    Ok(())
}

fn number_problem(field: Cow<'static, str>, error: &NumberError) -> Problem {
    Problem::new(Code::InvalidNumber, error.to_string()).at(field)
}

/// The route that it wants, and whom the recipient is to see. A number is that of a SIM, or a provider's: whoever knows the
/// tenant's says which.
fn wish(request: &SendRequest<'_>) -> Result<(Wish, Option<Box<str>>), Problem> {
    match (&request.from, request.sim, request.device) {
        (None, None, None) => Ok((Wish::Any, None)),
        (None, Some(sim), None) => Ok((Wish::Sim(sim), None)),
        (None, None, Some(device)) => Ok((Wish::Device(device), None)),
        (Some(from), None, None) if from.starts_with('+') => {
            let number = Msisdn::parse(from).map_err(|error| number_problem("from".into(), &error))?;
            Ok((Wish::From(number), Some(number.to_string().into())))
        }
        (from @ Some(_), None, None) => Ok((Wish::Any, label("from", from.as_ref(), SENDER_BYTES_MAX)?)),
        (None, ..) => Err(Problem::field("device", "give either sim or device, not both")),
        (Some(_), ..) => Err(Problem::field("from", "give only one of from, sim and device")),
    }
}

/// Where its events go. Whether that is an address which may be asked is looked at when they go.
fn callback(text: &Text<'_>) -> Result<Box<str>, Problem> {
    let wrong = |detail: &'static str| Problem::field("callback_url", detail);
    if text.len() > CALLBACK_BYTES_MAX {
        return Err(wrong("longer than 2048 bytes; shorten it"));
    }
    let url = Url::parse(text).map_err(|_| wrong("no URL; give one such as https://example.com/sms-events"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("give a URL that begins with https:// or http://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("has a user or a password in it; events are signed instead"));
    }
    Ok(url.as_str().into())
}

/// Takes the text out of the request: one that was copied already is not copied again.
fn body(request: &mut SendRequest<'_>, encoding: TextEncoding) -> Result<(Body, u8), Problem> {
    match (request.text.take(), &request.data) {
        (Some(_), Some(_)) => Err(Problem::field("data", "give either text or data, not both")),
        (None, None) => Err(Problem::new(Code::MissingField, "give a text, or data in base64").at("text")),
        (Some(_), None) if request.port.is_some() => {
            Err(Problem::field("port", "only data goes to a port; leave it out or send data"))
        }
        (Some(text), None) => {
            if text.is_empty() {
                return Err(Problem::field("text", "the text is empty; give at least one character"));
            }
            let plan = plan_text(&text, encoding)?;
            Ok((Body::Text(text.0.into_owned()), plan.segments))
        }
        (None, Some(data)) => binary(data, request),
    }
}

fn binary(data: &str, request: &SendRequest<'_>) -> Result<(Body, u8), Problem> {
    if request.encoding.is_some() {
        return Err(Problem::field("encoding", "data has no alphabet; leave encoding out"));
    }
    let bytes = BASE64
        .decode(data.as_bytes())
        .map_err(|_| Problem::field("data", "not base64 (RFC 4648 section 4, with padding); encode the bytes again"))?;
    if bytes.is_empty() {
        return Err(Problem::field("data", "the data is empty; give at least one byte"));
    }
    let options = EncodeOptions { segments_max: SEGMENTS_MAX, ..EncodeOptions::default() };
    let plan = sms::plan_data(bytes.len(), request.port, &options).map_err(|error| encode_problem("data", &error))?;
    Ok((Body::Data { bytes, port: request.port }, plan.segments))
}

fn due(send_at: Option<&Text<'_>>, now_ms: u64) -> Result<u64, Problem> {
    let Some(text) = send_at else { return Ok(now_ms) };
    let wrong = |detail: &'static str| Problem::field("send_at", detail);
    let at: jiff::Timestamp =
        text.parse().map_err(|_| wrong("give RFC 3339 with an offset, such as 2026-12-24T18:00:00+03:00"))?;
    let at_ms = u64::try_from(at.as_millisecond()).unwrap_or(0);
    if at_ms.saturating_add(PAST_MS_MAX) < now_ms {
        return Err(wrong("this time is past; leave it out to send now"));
    }
    if at_ms > now_ms + AHEAD_MS_MAX {
        return Err(wrong("this time is more than 366 days ahead; send the message later"));
    }
    Ok(at_ms.max(now_ms))
}

fn tags(tags: &[Text<'_>]) -> Result<Vec<Box<str>>, Problem> {
    if tags.len() > TAGS_MAX {
        return Err(Problem::field("tags", format!("give at most {TAGS_MAX} tags")));
    }
    let check = |(index, tag): (usize, &Text<'_>)| {
        let tag = bounded(tag, TAG_BYTES_MAX).map_err(|detail| Problem::field(format!("tags[{index}]"), detail))?;
        Ok(Box::from(tag))
    };
    tags.iter().enumerate().map(check).collect()
}

fn label(field: &'static str, text: Option<&Text<'_>>, bytes_max: usize) -> Result<Option<Box<str>>, Problem> {
    let Some(text) = text else { return Ok(None) };
    bounded(text, bytes_max).map(|text| Some(text.into())).map_err(|detail| Problem::field(field, detail))
}

/// A name that somebody will read and search for: not empty, not long, nothing invisible in it.
pub fn bounded(text: &str, bytes_max: usize) -> Result<&str, String> {
    if text.is_empty() {
        Err("empty; leave it out or give a name".to_owned())
    } else if text.len() > bytes_max {
        Err(format!("longer than {bytes_max} bytes; shorten it"))
    } else if text.chars().any(char::is_control) {
        Err("has control characters; remove them".to_owned())
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
