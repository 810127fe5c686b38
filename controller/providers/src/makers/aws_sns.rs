//! AWS SNS: `Publish` to a phone number, signed with SigV4 by AWS's own crate. Sources:
//! <https://docs.aws.amazon.com/sns/latest/api/API_Publish.html>,
//! <https://docs.aws.amazon.com/sns/latest/dg/sms_publish-to-phone.html> (the `AWS.SNS.SMS.*` attributes).
//!
//! SNS reports deliveries to CloudWatch logs only: there are no callbacks, nothing to poll and no balance, so a message that
//! was taken stays `sent`. `PublishBatch` is for topics, not for numbers. Not confirmed: which words `InvalidParameter` uses for
//! a wrong number; the documented example names the parameter (`Invalid parameter: PhoneNumber`), which is what is looked for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use bytes::Bytes;
use flotilla_protocol::wire::ErrorClass;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use serde::Deserialize;

use super::kit;
use crate::errors::ErrorTable;
use crate::errors::{aws_sns::AWS_SNS, meaning};
use crate::maker::{CallbackError, CallbackReply, Capabilities, Judged, Maker, Outgoing, Refusal, Submitted};
use crate::{Account, Answer, Call, Callback, FieldError};

const NAME: &str = "aws-sns";
const VERSION: &str = "2010-03-31";
const FORM: &str = "application/x-www-form-urlencoded";

static CAPABILITIES: Capabilities = Capabilities {
    name: NAME,
    title: "AWS SNS",
    fields: &[
        ("region", true, "the AWS region, `eu-west-1`"),
        ("access_key_id", true, "the access key's id, of a user that may `sns:Publish` and `sns:GetSMSAttributes`"),
        ("sms_type", false, "`Transactional` (default) or `Promotional`"),
    ],
    secrets: &[
        ("secret_access_key", true, "the access key's secret"),
        ("session_token", false, "for temporary credentials"),
    ],
    batch_max: 1,
    batch: "one message a request",
    callbacks: false,
    signature: None,
    polls: false,
    balance: false,
    inbound: false,
    echoes_reference: false,
};

pub(crate) struct AwsSns;

impl Maker for AwsSns {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn errors(&self) -> &'static [ErrorTable] {
        crate::errors::aws_sns::TABLES
    }

    fn check(&self, account: &Account) -> Result<(), FieldError> {
        kit::required(account, &CAPABILITIES)?;
        sms_type(account)?;
        account.url(&base(account)?, "/").map(|_| ())
    }

    fn submit(&self, account: &Account, batch: &[Outgoing], now_ms: u64) -> Result<Call, FieldError> {
        let [message] = batch else { return Err(kit::wrong("batch", "holds more than one message")) };
        let to = kit::e164(message.to);
        let number = message.sender.starts_with('+') || message.sender.bytes().all(|b| b.is_ascii_digit());
        let sender = if number { "AWS.MM.SMS.OriginationNumber" } else { "AWS.SNS.SMS.SenderID" };
        let mut pairs =
            vec![("Action", "Publish"), ("Version", VERSION), ("PhoneNumber", &to), ("Message", &message.text)];
        pairs.extend([
            ("MessageAttributes.entry.1.Name", "AWS.SNS.SMS.SMSType"),
            ("MessageAttributes.entry.1.Value.DataType", "String"),
            ("MessageAttributes.entry.1.Value.StringValue", sms_type(account)?),
        ]);
        if !message.sender.is_empty() {
            pairs.extend([
                ("MessageAttributes.entry.2.Name", sender),
                ("MessageAttributes.entry.2.Value.DataType", "String"),
                ("MessageAttributes.entry.2.Value.StringValue", &message.sender),
            ]);
        }
        signed(account, kit::form(pairs), now_ms)
    }

    fn submitted(&self, _account: &Account, batch: &[Outgoing], answer: &Answer) -> Vec<Submitted> {
        batch.iter().map(|_| outcome(answer)).collect()
    }

    fn callback(&self, _: &Account, _: &Callback, _: u64) -> Result<CallbackReply, CallbackError> {
        Err(CallbackError::Malformed("SNS makes no callbacks about SMS"))
    }

    fn test(&self, account: &Account, now_ms: u64) -> Result<Call, FieldError> {
        signed(account, kit::form([("Action", "GetSMSAttributes"), ("Version", VERSION)]), now_ms)
    }

    fn judge(&self, _account: &Account, answer: &Answer) -> Judged {
        match error(answer) {
            Some((code, (ErrorClass::Transient, text))) => Judged::Unclear(format!("{code}: {text}").into()),
            Some((code, (_, text))) => Judged::Refused(format!("{code}: {text}").into()),
            None => kit::judged(answer),
        }
    }
}

fn base(account: &Account) -> Result<String, FieldError> {
    let region = kit::path_word(account, "region")?;
    // China's regions are a partition of their own.
    let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
    Ok(format!("https://sns.{region}.amazonaws.com{suffix}"))
}

fn sms_type(account: &Account) -> Result<&str, FieldError> {
    match account.optional("sms_type").unwrap_or("Transactional") {
        kind @ ("Transactional" | "Promotional") => Ok(kind),
        _ => Err(kit::wrong("sms_type", "is neither `Transactional` nor `Promotional`")),
    }
}

/// A POST of a form to the region's endpoint, signed for this time.
fn signed(account: &Account, body: String, now_ms: u64) -> Result<Call, FieldError> {
    let url = account.url(&base(account)?, "/")?;
    let region = account.field("region")?;
    let token = account.optional_secret("session_token").map(str::to_owned);
    let (key, secret) = (account.field("access_key_id")?, account.secret("secret_access_key")?);
    let identity = Credentials::new(key, secret, token, None, "account").into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("sns")
        .time(time(now_ms))
        .settings(SigningSettings::default())
        .build()
        .map_err(|_| unsignable())?
        .into();
    let headers = [(CONTENT_TYPE.as_str(), FORM)];
    let body_bytes = SignableBody::Bytes(body.as_bytes());
    let request = SignableRequest::new("POST", url.as_str(), headers.into_iter(), body_bytes);
    let (instructions, _) = sign(request.map_err(|_| unsignable())?, &params).map_err(|_| unsignable())?.into_parts();
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(FORM))]);
    let mut call = Call { method: Method::POST, url, headers, body: Bytes::from(body) };
    for header in instructions.into_parts().0 {
        let name = HeaderName::from_static(header.name());
        call = call.secret_header(name, header.value(), "access_key_id")?;
    }
    Ok(call)
}

fn unsignable() -> FieldError {
    kit::wrong("secret_access_key", "does not make a signature; copy the key again")
}

fn time(now_ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(now_ms)
}

#[derive(Deserialize)]
struct Published {
    #[serde(rename = "PublishResult")]
    result: PublishedId,
}

#[derive(Deserialize)]
struct PublishedId {
    #[serde(rename = "MessageId")]
    id: String,
}

#[derive(Deserialize)]
struct Failed {
    #[serde(rename = "Error")]
    error: FailedBecause,
}

#[derive(Deserialize)]
struct FailedBecause {
    #[serde(rename = "Code")]
    code: String,
    #[serde(rename = "Message", default)]
    message: String,
}

fn xml<T: for<'de> Deserialize<'de>>(answer: &Answer) -> Option<T> {
    quick_xml::de::from_str(std::str::from_utf8(&answer.body).ok()?).ok()
}

fn outcome(answer: &Answer) -> Submitted {
    if answer.status.is_success() {
        return match xml::<Published>(answer).and_then(|published| kit::bounded(&published.result.id)) {
            Some(id) => Submitted::Accepted { id: Some(id), price: None },
            None => kit::unclear(answer),
        };
    }
    match error(answer).filter(|_| answer.status.is_client_error()) {
        Some((code, (class, text))) => Submitted::Refused(refusal(class, &code, text, answer)),
        None => kit::by_status(NAME, answer),
    }
}

fn refusal(class: ErrorClass, code: &str, text: &str, answer: &Answer) -> Refusal {
    kit::refusal(NAME, class, code, text, Some(answer))
}

/// A code that we know, and what it means. Of a wrong parameter, only the number makes it the message's own fault.
fn error(answer: &Answer) -> Option<(Box<str>, (ErrorClass, &'static str))> {
    let error = xml::<Failed>(answer)?.error;
    let code = kit::bounded(&error.code)?;
    let number = error.message.contains("Invalid parameter: PhoneNumber");
    if number && matches!(&*code, "InvalidParameter" | "InvalidParameterValue" | "ParameterValueInvalid") {
        return Some((code, (ErrorClass::Permanent, "the recipient's number is not valid")));
    }
    let known = meaning(AWS_SNS, &code)?;
    Some((code, known))
}

#[cfg(test)]
mod tests;
