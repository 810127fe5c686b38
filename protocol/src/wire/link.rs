//! The device link: what goes down to a device and up from it.
//!
//! Three rules make a message safe to move to another device (docs/adr/0002):
//! 1. A device hands a message to a radio only once it is *granted*, by `Dispatch { granted: true }` or a later `Go`.
//!    Whatever was never granted on this link may move at once when the link is gone.
//! 2. A grant is a lease: it ends at controller time `sent_ms + send_within_ms`, which a device computes from the clock
//!    pairs of `Welcome` and `Pong`, on a clock that also counts suspended time. Frames that were stuck in a
//!    sleeping phone's buffers are therefore dead on arrival.
//! 3. After each connect a device repeats its unacknowledged reports, then lists what it still holds (`Holding`).
//!    What is in neither never arrived.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::address::Address;
use crate::id::{Epoch, InboundId, MessageId, SimId};
use crate::number::{Iccid, Imsi, Msisdn, Plmn};

use super::DeviceInfo;

/// One try of one message on one route; the number starts at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attempt {
    pub message: MessageId,
    pub number: u16,
}

/// From a controller to a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Down {
    /// The link is up. First frame, or else `Redirect` or `Refused`.
    Welcome(Welcome),
    /// Another controller leads this tenant's shard: connect to one of these, the first ones first. Also on a link that is up
    /// (since 2), as its last frame.
    Redirect {
        controllers: Vec<String>,
    },
    Refused {
        reason: Refusal,
        detail: String,
    },
    Dispatch(Dispatch),
    /// Grants attempts that were dispatched without a grant, or that `Holding` has listed as waiting.
    Go {
        attempts: SmallVec<[Attempt; 4]>,
        sent_ms: u64,
        send_within_ms: u32,
    },
    /// Not wanted any more: answered by `NotSent { Cancelled }` unless already handed over.
    Cancel {
        attempts: SmallVec<[Attempt; 4]>,
    },
    /// Every report up to this position is durable at the controller.
    AckReports {
        position: u64,
    },
    Settings(Settings),
    /// The ids of the SIMs that a device has announced, by slot.
    Sims {
        sims: Vec<(u8, SimId)>,
    },
    Ussd {
        request: u32,
        slot: u8,
        code: String,
    },
    /// The controller goes away on purpose: finish what is granted, connect elsewhere or come back.
    Drain,
    Pong {
        device_ms: u64,
        controller_ms: u64,
    },
    /// The answer to `Renew`.
    Certificate {
        chain_der: Vec<Vec<u8>>,
        roots_der: Vec<Vec<u8>>,
    },
    RenewRefused {
        detail: String,
    },
    /// The controller has forgotten what came over this link: do as after `Welcome`, that is, repeat the unacknowledged
    /// reports, then list what is held (`Holding`). Whatever was granted stays granted.
    Resume,
    /// `host:port` of every controller, in the place of those in `Welcome` (since 2).
    Controllers {
        controllers: Vec<String>,
    },
}

/// From a device to a controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Up {
    /// First frame.
    Hello(Hello),
    /// The attempt is in the device's outbox. A hint for the trace: nothing depends on its arrival.
    Accepted {
        attempt: Attempt,
    },
    Report(Report),
    /// Attempts without a result, listed once after `Welcome` and after the repeated reports; the last list says so.
    Holding {
        held: Vec<Held>,
        last: bool,
    },
    Telemetry(Telemetry),
    /// The inventory has changed.
    Sims {
        sims: Vec<SimInfo>,
    },
    UssdReply {
        request: u32,
        result: Result<String, String>,
    },
    Log {
        level: u8,
        target: String,
        line: String,
    },
    Ping {
        device_ms: u64,
    },
    Renew {
        csr_der: Vec<u8>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u16,
    pub info: DeviceInfo,
    /// The device's clock now: milliseconds, monotonic, counting suspended time.
    pub device_ms: u64,
    /// Attempts that the device takes in before their results are reported; the controller keeps below it.
    pub window: u16,
    /// The highest epoch this device has obeyed. A controller with an older one is refused by the device.
    pub epoch_seen: Epoch,
    pub sims: Vec<SimInfo>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    pub epoch: Epoch,
    /// Echo of `Hello::device_ms`, and the controller's clock when it was read. Any origin, monotonic.
    pub device_ms: u64,
    pub controller_ms: u64,
    pub sims: Vec<(u8, SimId)>,
    pub settings: Settings,
    /// `host:port` of every controller, to be kept for reconnects.
    pub controllers: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    UnsupportedProtocol,
    UnknownDevice,
    Revoked,
    /// The certificate has been replaced: use the newer one.
    StaleCertificate,
    BadFrame,
    /// The same device has connected again.
    Superseded,
    TooFast,
    Busy,
    ShuttingDown,
}

/// What a controller sets on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub telemetry_interval_s: u32,
    /// Clock pairs are refreshed this often, so that drift stays far below a lease.
    pub ping_interval_s: u32,
    /// Remote logs at this level and above: 0 off, 1 error ... 5 trace.
    pub log_level: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self { telemetry_interval_s: 60, ping_interval_s: 60, log_level: 0 }
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    Text(String),
    Data { bytes: Vec<u8>, port: Option<u16> },
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Data { bytes, port } => write!(f, "Data({} bytes, port {port:?})", bytes.len()),
        }
    }
}

/// How a text becomes user data. Controller and device plan segments from the same text and the same value of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TextEncoding {
    pub alphabet: Alphabet,
    /// The national language tables of 3GPP TS 23.038 may be used. Some old handsets show them wrongly.
    pub national_tables: bool,
    /// Typographic characters become their GSM equivalents where that saves segments.
    pub smart: bool,
}

impl Default for TextEncoding {
    fn default() -> Self {
        Self { alphabet: Alphabet::Auto, national_tables: true, smart: false }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Alphabet {
    #[default]
    Auto,
    Gsm7,
    Ucs2,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dispatch {
    pub attempt: Attempt,
    pub epoch: Epoch,
    /// Slot of the SIM that shall send.
    pub slot: u8,
    pub to: Msisdn,
    pub body: Body,
    pub encoding: TextEncoding,
    pub flash: bool,
    /// Ask the network for a delivery report of each segment.
    pub report: bool,
    /// For TP-VP: how long the network may try, in seconds from now.
    pub validity_s: u32,
    /// The controller's clock when this was sent; the lease counts from here.
    pub sent_ms: u64,
    pub send_within_ms: u32,
    pub granted: bool,
}

/// A result, kept by the device until it is acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Grows by one with each report of this device, for ever.
    pub position: u64,
    /// The device's wall clock, Unix milliseconds.
    pub at_ms: u64,
    pub kind: ReportKind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ReportKind {
    /// All segments are handed to the network.
    Sent {
        attempt: Attempt,
        segments: u8,
    },
    /// Never handed over, and never will be: safe to send elsewhere.
    NotSent {
        attempt: Attempt,
        reason: NotSent,
    },
    /// The radio or the network refused; `segments_sent` of them had left before.
    Failed {
        attempt: Attempt,
        error: SendError,
        segments_sent: u8,
    },
    /// The device stopped between handing over and learning the result.
    Unknown {
        attempt: Attempt,
    },
    /// The network delivered this segment (counted from 0).
    Delivered {
        attempt: Attempt,
        segment: u8,
    },
    /// The network gave up on this segment.
    Undelivered {
        attempt: Attempt,
        segment: u8,
        error: SendError,
    },
    Inbound(InboundMessage),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotSent {
    LeaseOver,
    Cancelled,
    StaleEpoch,
    OutboxFull,
    NoSuchSim,
    SimNotReady,
}

/// What an error means for the message, whatever its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorClass {
    /// The message can not be delivered by anyone: wrong number, refused content.
    Permanent,
    /// This SIM can not send: blocked, no credit, not registered.
    Route,
    /// Worth another try.
    Transient,
}

/// Whose numbering an error code is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorDomain {
    /// `+CMS ERROR` (3GPP TS 27.005 3.2.5), which includes RP causes below 128 and TP-FCS from 128.
    Cms,
    /// `+CME ERROR` (3GPP TS 27.007 9.2).
    Cme,
    /// TP-Status of a status report (3GPP TS 23.040 9.2.3.15).
    TpStatus,
    /// `SmsManager.RESULT_*`.
    Android,
    /// Flotilla's own.
    Device,
    /// An online provider's. They have texts as codes, so `code` is 0 and `text` begins with the code, up to the first `: `.
    Provider,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendError {
    pub class: ErrorClass,
    pub domain: ErrorDomain,
    pub code: u16,
    /// At most 120 bytes, never a phone number or message text.
    pub text: String,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct InboundMessage {
    pub id: InboundId,
    pub slot: u8,
    pub from: Address,
    pub text: String,
    pub segments: u8,
    /// The network's time stamp (TP-SCTS), Unix milliseconds.
    pub sent_ms: Option<u64>,
}

impl std::fmt::Debug for InboundMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InboundMessage").field("id", &self.id).field("slot", &self.slot).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub attempt: Attempt,
    /// True from the moment the device has decided to hand it over.
    pub sending: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SimState {
    #[default]
    Ready,
    Absent,
    PinRequired,
    PukRequired,
    Blocked,
    NotRegistered,
    Faulty,
}

/// One subscription as its device sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimInfo {
    pub slot: u8,
    pub state: SimState,
    pub iccid: Option<Iccid>,
    pub imsi: Option<Imsi>,
    pub msisdn: Option<Msisdn>,
    /// The subscription's home network.
    pub home: Option<Plmn>,
    pub operator: String,
    /// How many attempts may be granted at once: what the radio can work on without waiting.
    pub depth: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Registration {
    #[default]
    Unknown,
    NotRegistered,
    Searching,
    Denied,
    Home,
    Roaming,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimHealth {
    pub slot: u8,
    pub state: SimState,
    pub signal_dbm: Option<i16>,
    pub registration: Registration,
    pub serving: Option<Plmn>,
    pub operator: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Telemetry {
    pub sims: Vec<SimHealth>,
    pub battery_percent: Option<u8>,
    pub charging: Option<bool>,
    /// Attempts in the outbox without a result, and reports without an acknowledgement.
    pub outbox_open: u32,
    pub reports_open: u32,
    pub disk_free_bytes: Option<u64>,
}
