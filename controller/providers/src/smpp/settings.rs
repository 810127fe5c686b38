//! How an account at an SMSC is set, read from the fields and secrets of an [`Account`] and checked once.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use jiff::tz::TimeZone;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::account::{Account, FieldError};
use crate::maker::Capabilities;

/// For lists of makers: SMPP stands among them with these fields.
pub static CAPABILITIES: Capabilities = Capabilities {
    name: "smpp",
    title: "SMPP",
    fields: &[
        ("host", false, "name or address of the SMSC; it has to be there unless `base_url` is smpp://host:port"),
        ("system_id", true, "who we are there, at most 15 characters"),
        ("port", false, "2775, or 3550 with TLS"),
        ("tls", false, "true or false (default)"),
        ("ca_pem", false, "certificates (PEM) to trust in place of the system's"),
        ("server_name", false, "the name in the SMSC's certificate, when it is not `host`"),
        ("version", false, "3.3, 3.4 (default) or 5.0"),
        ("bind", false, "transceiver (default), transmitter, receiver, or pair (a transmitter and a receiver)"),
        ("system_type", false, "at most 12 characters"),
        ("address_range", false, "which addresses a receiver serves, at most 40 characters"),
        ("address_range_ton", false, "type of number of `address_range`, 0 (default) to 6"),
        ("address_range_npi", false, "numbering plan of `address_range`, 0 (default) to 18"),
        ("window", false, "submits without an answer at once, 1 to 500; default 10"),
        ("rate_per_s", false, "submits in any second, 1 to 10000; default unlimited"),
        ("response_timeout_ms", false, "how long an answer may take, 100 to 120000; default 10000"),
        ("connect_timeout_ms", false, "how long connecting and TLS may take, 100 to 120000; default 10000"),
        ("enquire_link_ms", false, "silence after which the link is tested, 100 to 3600000; default 30000"),
        ("reconnect_min_ms", false, "first pause before a new try, 10 to 600000; default 1000"),
        ("reconnect_max_ms", false, "longest pause, 10 to 3600000; default 60000"),
        ("throttle_pause_ms", false, "first pause when throttled, 10 to 60000; default 1000"),
        ("long_text", false, "udh (default), sar, payload or single"),
        ("wide_reference", false, "udh with a reference of 16 bits: true or false (default)"),
        ("alphabet", false, "of texts that fit GSM-7: gsm7 (default), latin1 or ascii"),
        ("data_coding", false, "of such texts, 0 to 255; default 0 for gsm7, 3 for latin1, 1 for ascii"),
        ("national_tables", false, "GSM-7 national tables, with udh only: true or false (default)"),
        ("source_ton", false, "auto (default) or 0 to 6"),
        ("source_npi", false, "auto (default) or 0 to 18"),
        ("dest_ton", false, "auto (default) or 0 to 6"),
        ("dest_npi", false, "auto (default) or 0 to 18"),
        ("validity", false, "relative (default), absolute or none"),
        ("receipts", false, "final (default), failure, none, or all (intermediate states too)"),
        ("priority", false, "priority_flag, 0 (default) to 3"),
        ("service_type", false, "at most 5 characters"),
        ("message_ids", false, "auto (default), text, hex (in answers; decimal in receipts) or dec (the reverse)"),
        ("receipt_time_zone", false, "of the dates in receipts, such as Africa/Nairobi; default UTC"),
        ("unmarked_receipts", false, "take receipts that esm_class does not mark: true or false (default)"),
    ],
    secrets: &[("password", true, "at most 8 characters; 64 where the SMSC takes longer ones")],
    batch_max: 1,
    batch: "one message at a time, many at once within the window",
    callbacks: false,
    signature: None,
    polls: false,
    balance: false,
    inbound: true,
    echoes_reference: false,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V33,
    V34,
    V50,
}

impl Version {
    /// `interface_version`.
    pub fn octet(self) -> u8 {
        match self {
            Self::V33 => 0x33,
            Self::V34 => 0x34,
            Self::V50 => 0x50,
        }
    }

    pub fn has_tlvs(self) -> bool {
        self > Self::V33
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    Transmitter,
    Receiver,
    Transceiver,
    /// Two sessions: a transmitter and a receiver.
    Pair,
}

/// How a text of several segments goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongText {
    /// A submit for each segment, with a user data header.
    Udh,
    /// A submit for each segment, with sar_msg_ref_num, sar_total_segments and sar_segment_seqnum.
    Sar,
    /// One submit with the text in message_payload; the SMSC makes the segments.
    Payload,
    /// One submit with up to 254 octets in short_message; the SMSC makes the segments.
    Single,
}

/// In what a text goes over that fits GSM-7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alphabet {
    /// Septets, one in an octet.
    Gsm7,
    Latin1,
    Ascii,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    Relative,
    Absolute,
    None,
}

/// How the ids in answers and in receipts go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageIds {
    /// Found out by comparing with the ids of answers.
    Auto,
    /// The same text in both.
    Text,
    /// Hexadecimal in answers, decimal in receipts.
    Hex,
    /// Decimal in answers, hexadecimal in receipts.
    Dec,
}

#[derive(Clone)]
pub struct Tls {
    /// To trust in place of the system's; empty means the system's.
    pub roots: Vec<CertificateDer<'static>>,
    pub server_name: Option<Box<str>>,
}

/// Whether an address may be connected to: hosts are given by tenants.
pub type AddressRule = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// TON and NPI where they are set, and not found out from the address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbering {
    pub ton: Option<u8>,
    pub npi: Option<u8>,
}

#[derive(Clone)]
pub struct Settings {
    pub host: Box<str>,
    pub port: u16,
    pub tls: Option<Tls>,
    pub version: Version,
    pub bind: Bind,
    pub system_id: Box<str>,
    pub password: Box<str>,
    pub system_type: Box<str>,
    pub address_range: Box<str>,
    pub address_range_ton: u8,
    pub address_range_npi: u8,
    pub window: usize,
    pub rate_per_s: Option<u32>,
    pub response_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    pub enquire_link_ms: u64,
    pub reconnect_min_ms: u64,
    pub reconnect_max_ms: u64,
    pub throttle_pause_ms: u64,
    pub long_text: LongText,
    pub wide_reference: bool,
    pub alphabet: Alphabet,
    pub data_coding: u8,
    pub national_tables: bool,
    pub source: Numbering,
    pub dest: Numbering,
    pub validity: Validity,
    /// `registered_delivery`.
    pub registered_delivery: u8,
    pub priority: u8,
    pub service_type: Box<str>,
    pub message_ids: MessageIds,
    pub receipt_zone: TimeZone,
    pub unmarked_receipts: bool,
    /// None: any address.
    pub may_connect: Option<AddressRule>,
}

/// The password stays out.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls.is_some())
            .field("version", &self.version)
            .field("bind", &self.bind)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads and checks an account. `base_url` (`smpp://host:port` or `smpps://host:port`) may stand for host, port and tls.
    pub fn from_account(account: &Account) -> Result<Self, FieldError> {
        let read = Fields { account };
        read.known()?;
        let version = read.choice(
            "version",
            Version::V34,
            &[("3.3", Version::V33), ("3.4", Version::V34), ("5.0", Version::V50)],
        )?;
        let (host, port, tls) = read.address()?;
        let alphabet = read.choice(
            "alphabet",
            Alphabet::Gsm7,
            &[("gsm7", Alphabet::Gsm7), ("latin1", Alphabet::Latin1), ("ascii", Alphabet::Ascii)],
        )?;
        let default_coding = match alphabet {
            Alphabet::Gsm7 => 0,
            Alphabet::Ascii => 1,
            Alphabet::Latin1 => 3,
        };
        let settings = Self {
            host,
            port,
            tls,
            version,
            bind: read.bind(version)?,
            system_id: read.required("system_id", 15)?,
            password: read.password()?,
            system_type: read.text("system_type", 12)?,
            address_range: read.text("address_range", 40)?,
            address_range_ton: read.number("address_range_ton", 0, 0..=6)? as u8,
            address_range_npi: read.number("address_range_npi", 0, 0..=18)? as u8,
            window: read.number("window", 10, 1..=500)? as usize,
            rate_per_s: read.optional("rate_per_s", 1..=10_000)?.map(|rate| rate as u32),
            response_timeout_ms: read.number("response_timeout_ms", 10_000, 100..=120_000)?,
            connect_timeout_ms: read.number("connect_timeout_ms", 10_000, 100..=120_000)?,
            enquire_link_ms: read.number("enquire_link_ms", 30_000, 100..=3_600_000)?,
            reconnect_min_ms: read.number("reconnect_min_ms", 1_000, 10..=600_000)?,
            reconnect_max_ms: read.number("reconnect_max_ms", 60_000, 10..=3_600_000)?,
            throttle_pause_ms: read.number("throttle_pause_ms", 1_000, 10..=60_000)?,
            long_text: read.choice(
                "long_text",
                LongText::Udh,
                &[
                    ("udh", LongText::Udh),
                    ("sar", LongText::Sar),
                    ("payload", LongText::Payload),
                    ("single", LongText::Single),
                ],
            )?,
            wide_reference: read.flag("wide_reference")?,
            alphabet,
            data_coding: read.number("data_coding", default_coding, 0..=255)? as u8,
            national_tables: read.flag("national_tables")?,
            source: Numbering { ton: read.auto("source_ton", 0..=6)?, npi: read.auto("source_npi", 0..=18)? },
            dest: Numbering { ton: read.auto("dest_ton", 0..=6)?, npi: read.auto("dest_npi", 0..=18)? },
            validity: read.choice(
                "validity",
                Validity::Relative,
                &[("relative", Validity::Relative), ("absolute", Validity::Absolute), ("none", Validity::None)],
            )?,
            registered_delivery: read.choice(
                "receipts",
                0x01,
                &[("final", 0x01), ("failure", 0x02), ("none", 0x00), ("all", 0x11)],
            )?,
            priority: read.number("priority", 0, 0..=3)? as u8,
            service_type: read.text("service_type", 5)?,
            message_ids: read.choice(
                "message_ids",
                MessageIds::Auto,
                &[
                    ("auto", MessageIds::Auto),
                    ("text", MessageIds::Text),
                    ("hex", MessageIds::Hex),
                    ("dec", MessageIds::Dec),
                ],
            )?,
            receipt_zone: read.time_zone()?,
            unmarked_receipts: read.flag("unmarked_receipts")?,
            may_connect: None,
        };
        settings.agree()?;
        Ok(settings)
    }

    /// What no single field can tell.
    fn agree(&self) -> Result<(), FieldError> {
        if !self.version.has_tlvs() && matches!(self.long_text, LongText::Sar | LongText::Payload) {
            return Err(wrong("long_text", "version 3.3 has no optional parameters; use udh or single".into()));
        }
        if self.national_tables && (self.long_text != LongText::Udh || self.alphabet != Alphabet::Gsm7) {
            return Err(wrong("national_tables", "needs `long_text` udh and `alphabet` gsm7".into()));
        }
        if self.reconnect_max_ms < self.reconnect_min_ms {
            return Err(wrong("reconnect_max_ms", "is less than `reconnect_min_ms`; make it at least as long".into()));
        }
        Ok(())
    }

    pub fn may_send(&self) -> bool {
        self.bind != Bind::Receiver
    }

    pub fn may_receive(&self) -> bool {
        self.bind != Bind::Transmitter
    }
}

fn wrong(field: &str, problem: String) -> FieldError {
    FieldError { field: field.into(), problem: problem.into() }
}

/// Typed reading of an account's fields. An empty field counts as not set.
struct Fields<'a> {
    account: &'a Account,
}

impl Fields<'_> {
    /// A field that nobody reads is a slip that would be noticed late.
    fn known(&self) -> Result<(), FieldError> {
        let unknown = |name: &str, known: &[(&str, bool, &str)]| !known.iter().any(|(field, _, _)| *field == name);
        let strange = self.account.fields.keys().find(|name| unknown(name, CAPABILITIES.fields));
        let strange = strange.or_else(|| self.account.secrets.keys().find(|name| unknown(name, CAPABILITIES.secrets)));
        match strange {
            Some(name) => Err(wrong(name, "is not a setting of SMPP accounts; see the list of its fields".into())),
            None => Ok(()),
        }
    }

    fn value(&self, name: &'static str) -> Option<&str> {
        self.account.optional(name).map(str::trim).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &'static str, characters_max: usize) -> Result<Box<str>, FieldError> {
        let value = self.value(name).unwrap_or_default();
        c_string(name, value, characters_max)
    }

    fn required(&self, name: &'static str, characters_max: usize) -> Result<Box<str>, FieldError> {
        c_string(name, self.account.field(name)?.trim(), characters_max)
    }

    fn password(&self) -> Result<Box<str>, FieldError> {
        c_string("password", self.account.secret("password")?, 64)
    }

    fn optional(&self, name: &'static str, range: RangeInclusive<u64>) -> Result<Option<u64>, FieldError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value.parse::<u64>() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(wrong(name, format!("is not a number from {} to {}", range.start(), range.end()))),
        }
    }

    fn number(&self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> Result<u64, FieldError> {
        Ok(self.optional(name, range)?.unwrap_or(default))
    }

    fn auto(&self, name: &'static str, range: RangeInclusive<u64>) -> Result<Option<u8>, FieldError> {
        match self.value(name) {
            None | Some("auto") => Ok(None),
            Some(_) => Ok(self.optional(name, range)?.map(|number| number as u8)),
        }
    }

    fn flag(&self, name: &'static str) -> Result<bool, FieldError> {
        self.choice(name, false, &[("true", true), ("false", false)])
    }

    fn choice<T: Copy>(&self, name: &'static str, default: T, choices: &[(&str, T)]) -> Result<T, FieldError> {
        let Some(value) = self.value(name) else { return Ok(default) };
        match choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(value)) {
            Some((_, choice)) => Ok(*choice),
            None => {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                Err(wrong(name, format!("is not one of {}", words.join(", "))))
            }
        }
    }

    fn bind(&self, version: Version) -> Result<Bind, FieldError> {
        let choices = [
            ("transceiver", Bind::Transceiver),
            ("transmitter", Bind::Transmitter),
            ("receiver", Bind::Receiver),
            ("pair", Bind::Pair),
        ];
        let default = if version == Version::V33 { Bind::Pair } else { Bind::Transceiver };
        match self.choice("bind", default, &choices)? {
            Bind::Transceiver if version == Version::V33 => {
                Err(wrong("bind", "version 3.3 has no transceiver; use pair, transmitter or receiver".into()))
            }
            bind => Ok(bind),
        }
    }

    fn time_zone(&self) -> Result<TimeZone, FieldError> {
        match self.value("receipt_time_zone") {
            None => Ok(TimeZone::UTC),
            Some(name) => TimeZone::get(name)
                .map_err(|_| wrong("receipt_time_zone", "is not a time zone; give one such as Africa/Nairobi".into())),
        }
    }

    fn address(&self) -> Result<(Box<str>, u16, Option<Tls>), FieldError> {
        let (host, port, tls) = match &self.account.base_url {
            None => {
                let tls = self.flag("tls")?;
                let port = self.number("port", if tls { 3550 } else { 2775 }, 1..=65_535)? as u16;
                (self.required("host", 253)?, port, tls)
            }
            Some(url) => {
                let tls = match url.scheme() {
                    "smpp" => self.flag("tls")?,
                    "smpps" | "ssmpp" => true,
                    _ => return Err(wrong("base_url", "does not begin with smpp:// or smpps://".into())),
                };
                let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
                (host.into(), url.port().unwrap_or(if tls { 3550 } else { 2775 }), tls)
            }
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '@' | '?' | '#')) {
            return Err(wrong("host", "is not a name or an address; give it without scheme and port".into()));
        }
        Ok((host, port, if tls { Some(self.tls()?) } else { None }))
    }

    fn tls(&self) -> Result<Tls, FieldError> {
        let roots = match self.value("ca_pem") {
            None => Vec::new(),
            Some(pem) => {
                let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
                match roots {
                    Ok(roots) if !roots.is_empty() => roots,
                    _ => return Err(wrong("ca_pem", "has no certificate; give one or more in PEM".into())),
                }
            }
        };
        let server_name = self.value("server_name").map(Box::from);
        Ok(Tls { roots, server_name })
    }
}

/// A C-octet string: ASCII without NUL.
fn c_string(name: &'static str, value: &str, characters_max: usize) -> Result<Box<str>, FieldError> {
    if value.len() > characters_max {
        return Err(wrong(name, format!("has more than {characters_max} characters; shorten it")));
    }
    if !value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Err(wrong(name, "has a character that is not plain ASCII; remove it".into()));
    }
    Ok(value.into())
}

#[cfg(test)]
mod tests;
