//! What an endpoint is told: `{"type": ..., "timestamp": ..., "data": {...}}`, as the Standard Webhooks specification suggests.
//!
//! `data` is the event as the live stream shows it. Of a message its recipient and the client's own marks are added; texts only
//! where the endpoint asks for them.

use bytes::Bytes;
use flotilla_protocol::id::WebhookId;
use flotilla_protocol::wire::Body;
use serde_json::{Map, Value, json};

use super::courier::Place;
use crate::api::time::Time;
use crate::domain::message::Submission;

/// What is added of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) callback_url: Option<String>,
    to: Option<String>,
    text: Option<String>,
    client_ref: Option<String>,
    tags: Vec<Box<str>>,
}

impl Subject {
    pub(super) fn of(submission: Submission) -> Self {
        Self {
            callback_url: submission.callback_url.map(Into::into),
            to: Some(submission.to.to_string()),
            text: match submission.body {
                Body::Text(text) => Some(text),
                _ => None,
            },
            client_ref: submission.client_ref.map(Into::into),
            tags: submission.tags,
        }
    }
}

/// The same for every try of an event, so that the receiver can drop repetitions.
pub(super) fn id_of(webhook: WebhookId, place: Place) -> String {
    // The line's own place is unique within the endpoint; the endpoint's id makes it so everywhere.
    format!("{webhook}-{}-{}", place.seq, place.index)
}

pub(super) fn compose(
    kind: &str,
    at_ms: u64,
    data: &[u8],
    subject: &Subject,
    include_text: bool,
) -> Result<Bytes, String> {
    let mut data: Map<String, Value> = serde_json::from_slice(data).map_err(|error| error.to_string())?;
    if let Some(to) = &subject.to {
        data.insert("to".to_owned(), json!(to));
    }
    if let Some(client_ref) = &subject.client_ref {
        data.insert("client_ref".to_owned(), json!(client_ref));
    }
    if !subject.tags.is_empty() {
        data.insert("tags".to_owned(), json!(subject.tags));
    }
    match (&subject.text, include_text) {
        (Some(text), true) => drop(data.insert("text".to_owned(), json!(text))),
        (_, true) => {}
        // Of a received message.
        (_, false) => drop(data.remove("text")),
    }
    let body = json!({"type": kind, "timestamp": Time(at_ms), "data": data});
    serde_json::to_vec(&body).map(Bytes::from).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composed(data: &str, subject: &Subject, include_text: bool) -> Value {
        let body = compose("message.sent", 1_763_640_000_123, data.as_bytes(), subject, include_text).unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn texts_are_told_only_to_those_who_ask() {
        let subject = Subject {
            to: Some("+255712345678".into()),
            text: Some("Habari".into()),
            client_ref: Some("order 7".into()),
            ..Subject::default()
        };
        let told = composed(r#"{"id":"msg_1","state":"sent"}"#, &subject, false);
        assert_eq!(
            told,
            json!({
                "type": "message.sent",
                "timestamp": "2025-11-20T12:00:00.123Z",
                "data": {"id": "msg_1", "state": "sent", "to": "+255712345678", "client_ref": "order 7"},
            })
        );
        assert_eq!(composed("{}", &subject, true)["data"]["text"], "Habari");
        let received = r#"{"from":"+255700000001","text":"STOP"}"#;
        assert_eq!(composed(received, &Subject::default(), true)["data"]["text"], "STOP");
        assert_eq!(composed(received, &Subject::default(), false)["data"].get("text"), None);
    }
}
