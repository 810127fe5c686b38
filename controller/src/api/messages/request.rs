//! What clients write, borrowed from the bytes they sent. Nothing is checked here but its shape; `validate` does the rest.
//!
//! Everything borrows because the bulk stream parses hundreds of thousands of these a second.

use std::borrow::Cow;
use std::fmt;

use flotilla_protocol::id::{DeviceId, SimId};
use flotilla_routing::Micros;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::validate::{VALID_FOR_S_MAX, VALID_FOR_S_MIN};
use crate::domain::message::{Duplicates, Priority};

/// Recipients of one request.
pub const RECIPIENTS_MAX: usize = 1000;
pub const TAGS_MAX: usize = 16;

/// A JSON string, copied only when it has escapes. (`Option<Cow<str>>` would always copy.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text<'a>(pub Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(TextVisitor)
    }
}

/// One recipient, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipients<'a> {
    One(Text<'a>),
    Many(Vec<Text<'a>>),
}

impl<'a> Recipients<'a> {
    pub fn as_slice(&self) -> &[Text<'a>] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Recipients<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RecipientsVisitor;

        impl<'de> Visitor<'de> for RecipientsVisitor {
            type Value = Recipients<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a phone number such as \"+255712345678\", or a list of them")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Recipients::One(Text(Cow::Borrowed(text))))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Recipients::One(Text(Cow::Owned(text.to_owned()))))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut many = Vec::new();
                while let Some(text) = list.next_element()? {
                    if many.len() == RECIPIENTS_MAX {
                        let detail = format!("more than {RECIPIENTS_MAX} recipients; use /v1/messages/bulk for more");
                        return Err(de::Error::custom(detail));
                    }
                    many.push(text);
                }
                Ok(Recipients::Many(many))
            }
        }

        deserializer.deserialize_any(RecipientsVisitor)
    }
}

/// `valid_for_s`, with an error that says more than a type of Rust.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    struct SecondsVisitor;

    impl<'de> Visitor<'de> for SecondsVisitor {
        type Value = Option<u32>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a whole number of seconds, {VALID_FOR_S_MIN} to {VALID_FOR_S_MAX}")
        }

        fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_u32(self)
        }

        fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Self::Value, E> {
            let wrong = |_| E::invalid_value(de::Unexpected::Unsigned(seconds), &self);
            u32::try_from(seconds).map(Some).map_err(wrong)
        }
    }

    deserializer.deserialize_option(SecondsVisitor)
}

fn tags<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Text<'a>>, D::Error> {
    struct TagsVisitor;

    impl<'de> Visitor<'de> for TagsVisitor {
        type Value = Vec<Text<'de>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of strings")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut tags = Vec::new();
            while let Some(tag) = list.next_element()? {
                tags.push(tag);
            }
            Ok(tags)
        }
    }

    deserializer.deserialize_seq(TagsVisitor)
}

/// Which alphabet a text is sent in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Alphabet {
    /// The one that needs the fewest segments.
    #[default]
    Auto,
    /// GSM 7 bit only; other characters are an error.
    Gsm7,
    /// UCS-2 (UTF-16), whatever the text.
    Ucs2,
}

/// How a text becomes segments. Left out, the alphabet is chosen by the text, with national tables and without replacements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Encoding {
    #[schema(inline)]
    pub alphabet: Alphabet,
    /// Allow the national language tables of 3GPP TS 23.038. Some old handsets show them wrongly.
    #[schema(default = true)]
    pub national_tables: bool,
    /// Replace typographic characters (curly quotes, dashes, no-break spaces) where that saves segments.
    pub smart: bool,
}

impl Default for Encoding {
    fn default() -> Self {
        Self { alphabet: Alphabet::Auto, national_tables: true, smart: false }
    }
}

/// A message to send.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(title = "SendRequest", example = json!({"to": "+255712345678", "text": "Your code is 4711"}))]
pub struct SendRequest<'a> {
    /// One number in international form, or a list of up to 1000.
    #[serde(borrow)]
    #[schema(value_type = RecipientsSchema)]
    pub to: Recipients<'a>,
    /// The text. Up to 32 segments. Either `text` or `data`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, example = "Your code is 4711")]
    pub text: Option<Text<'a>>,
    /// 8-bit data in base64.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    pub data: Option<Text<'a>>,
    /// Application port of `data` (3GPP TS 23.040 9.2.3.24.4).
    #[serde(default)]
    pub port: Option<u16>,
    /// Who the recipient is to see: the number of one of your SIMs, or a sender's name or number at one of your providers. Up
    /// to 64 bytes.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, max_length = 64, example = "+255700000001")]
    pub from: Option<Text<'a>>,
    /// The plan by which its route is chosen: one of your own, or `sims-first`, `providers-first`, `sims-only`,
    /// `providers-only`, `cheapest`. Your rules decide when left out.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, max_length = 64, example = "cheapest")]
    pub route: Option<Text<'a>>,
    /// What all its attempts together may cost, in your currency: a decimal text or a number. Routes that cost more are not
    /// taken.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "0.05")]
    pub max_cost: Option<Micros>,
    /// Its events are sent here as well: `http` or `https`, up to 2048 bytes.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, max_length = 2048, example = "https://example.com/sms-events")]
    pub callback_url: Option<Text<'a>>,
    /// `urgent` never waits behind `bulk`.
    #[serde(default)]
    #[schema(value_type = Option<PrioritySchema>)]
    pub priority: Option<Priority>,
    /// Not before this time: RFC 3339 with an offset, at most 366 days ahead.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, format = DateTime, example = "2026-12-24T18:00:00+03:00")]
    pub send_at: Option<Text<'a>>,
    /// The message expires this long after `send_at`, or after now. 60 to 604800; a day when left out.
    #[serde(default, deserialize_with = "seconds")]
    #[schema(minimum = 60, maximum = 604800, default = 86400)]
    pub valid_for_s: Option<u32>,
    /// What to do when nobody can tell whether an attempt was sent: `never` waits for the device, `allowed` sends again.
    #[serde(default)]
    #[schema(value_type = Option<DuplicatesSchema>)]
    pub duplicates: Option<Duplicates>,
    /// Send by this SIM only.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub sim: Option<SimId>,
    /// Send by this device only.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub device: Option<DeviceId>,
    /// Capacity is shared fairly between the campaigns of a tenant. At most 64 bytes.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, max_length = 64)]
    pub campaign: Option<Text<'a>>,
    /// Up to 16 of at most 64 bytes each.
    #[serde(borrow, default, deserialize_with = "tags")]
    #[schema(value_type = Option<Vec<String>>, max_items = 16)]
    pub tags: Vec<Text<'a>>,
    /// Your own name for the message, up to 128 bytes; it comes back in every answer and can be searched.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, max_length = 128)]
    pub client_ref: Option<Text<'a>>,
    #[serde(default)]
    #[schema(value_type = Option<Encoding>)]
    pub encoding: Option<Encoding>,
    /// Show on the screen at once (class 0).
    #[serde(default)]
    pub flash: bool,
}

/// A text to look at without sending it.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(title = "PreviewRequest", example = json!({"text": "Güle güle! Görüşürüz"}))]
pub struct PreviewRequest<'a> {
    #[serde(borrow)]
    #[schema(value_type = String)]
    pub text: Text<'a>,
    #[serde(default)]
    #[schema(value_type = Option<Encoding>)]
    pub encoding: Option<Encoding>,
}

/// Shapes for OpenAPI, of types whose crates do not know it.
#[derive(ToSchema)]
#[schema(title = "Recipients")]
#[serde(untagged)]
pub enum RecipientsSchema {
    #[schema(example = "+255712345678")]
    One(String),
    Many(Vec<String>),
}

#[derive(ToSchema)]
#[schema(title = "Priority")]
#[serde(rename_all = "lowercase")]
pub enum PrioritySchema {
    Urgent,
    High,
    Normal,
    Bulk,
}

#[derive(ToSchema)]
#[schema(title = "Duplicates")]
#[serde(rename_all = "lowercase")]
pub enum DuplicatesSchema {
    Never,
    Allowed,
}
