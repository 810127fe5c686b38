//! Unsolicited lines: what a modem says without having been asked.

use super::value::{after_colon, fields, hex, number};

/// SMSC address and TPDU: 12 + 164 octets by 3GPP TS 23.040, some makers add a little.
const PDU_BYTES_MAX: usize = 256;

/// Lines that may lie between a header and its PDU when another notice was squeezed in.
const PATIENCE: u8 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::radio::modem) enum Urc {
    /// `+CMT`: a message, delivered directly. The TPDU without the SMSC's address.
    Deliver { tpdu: Vec<u8> },
    /// `+CDS`: a status report, delivered directly.
    Report { tpdu: Vec<u8> },
    /// `+CMTI`: a message was stored.
    Stored { storage: String, index: u16 },
    /// `+CDSI`: a status report was stored.
    ReportStored { storage: String, index: u16 },
    /// `+CUSD`: the network's words in a USSD dialogue; `state` is its first field.
    Ussd { state: u8, text: String, dcs: Option<u8> },
    /// Registration has changed: worth asking.
    Registration,
    /// The SIM has been taken out, put in, locked or unlocked: worth asking.
    Sim(SimNotice),
    /// The message storage is full: nothing more arrives until some of it is deleted.
    MemoryFull,
    /// The modem's SMS part works from now on; what was set before may be lost.
    Ready,
    /// The modem has started anew: everything that was set is lost.
    Restarted,
    /// Known to be of no interest, or not known. Its name only.
    Other(String),
}

impl Urc {
    /// The TPDU of a direct delivery.
    pub(in crate::radio::modem) fn direct(&self) -> Option<&[u8]> {
        match self {
            Self::Deliver { tpdu } | Self::Report { tpdu } => Some(tpdu),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::radio::modem) enum SimNotice {
    Removed,
    Changed,
}

/// The first of the two lines of a direct delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    kind: Kind,
    tpdu_octets: Option<usize>,
    patience: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Deliver,
    Report,
    /// Cell broadcast, which nobody has asked for.
    Broadcast,
}

impl Header {
    pub(super) fn parse(line: &str) -> Option<Self> {
        let kind = match name(line)?.to_ascii_uppercase().as_str() {
            "+CMT" => Kind::Deliver,
            "+CDS" => Kind::Report,
            "+CBM" => Kind::Broadcast,
            _ => return None,
        };
        let tpdu_octets = fields(line).last().and_then(|length| length.parse().ok());
        Some(Self { kind, tpdu_octets, patience: PATIENCE })
    }

    /// The notice that `line` completes, or `None` when it is not a PDU.
    pub(super) fn complete(self, line: &str) -> Option<Urc> {
        let pdu = hex(line).filter(|pdu| pdu.len() <= PDU_BYTES_MAX)?;
        let tpdu = tpdu_of(&pdu, self.tpdu_octets)?.to_vec();
        Some(match self.kind {
            Kind::Deliver => Urc::Deliver { tpdu },
            Kind::Report => Urc::Report { tpdu },
            Kind::Broadcast => Urc::Other("+CBM".to_owned()),
        })
    }

    /// One line more that was not the PDU; `None` when it will not come any more.
    pub(super) fn wait(self) -> Option<Self> {
        Some(Self { patience: self.patience.checked_sub(1)?, ..self })
    }
}

/// The TPDU in a modem's PDU, which starts with the SMSC's address: by the announced length where it fits, else by the
/// address's own length octet.
pub(in crate::radio::modem) fn tpdu_of(pdu: &[u8], tpdu_octets: Option<usize>) -> Option<&[u8]> {
    let smsc = 1 + usize::from(*pdu.first()?);
    match tpdu_octets {
        Some(octets) if octets > 0 && (pdu.len() == octets || pdu.len() == octets + smsc) => {
            Some(&pdu[pdu.len() - octets..])
        }
        _ => pdu.get(smsc..).filter(|tpdu| !tpdu.is_empty()),
    }
}

/// `+CMTI` of `+CMTI: "SM",3`, `^RSSI` of `^RSSI:20`. `None` for a line that does not start in this manner.
pub(super) fn name(line: &str) -> Option<&str> {
    if !line.starts_with(['+', '^', '#', '%', '*', '$', '!', '&']) {
        return None;
    }
    let end = line.find(':').unwrap_or(line.len());
    let name = line[..end].trim_end();
    (name.len() > 1 && name.len() <= 24 && !name.contains(['"', ','])).then_some(name)
}

/// What `line` says if it is a single-line notice; a prefixed line with an unknown name is [`Urc::Other`].
pub(super) fn parse(line: &str) -> Option<Urc> {
    let Some(name) = name(line) else { return bare(line) };
    let name = name.to_ascii_uppercase();
    Some(match name.as_str() {
        "+CMTI" | "+CDSI" => stored(&name, line)?,
        "+CUSD" => ussd(line),
        "+CREG" | "+CGREG" | "+CEREG" | "+C5GREG" => Urc::Registration,
        "+CPIN" => Urc::Sim(match after_colon(line).to_ascii_uppercase().as_str() {
            "NOT READY" | "NOT INSERTED" | "SIM REMOVED" | "REMOVED" => SimNotice::Removed,
            _ => SimNotice::Changed,
        }),
        "+SIM REMOVED" | "%SIM REMOVED" => Urc::Sim(SimNotice::Removed),
        "^SIMST" | "+QSIMSTAT" | "#QSS" | "+SIMIND" | "%CPINS" => Urc::Sim(SimNotice::Changed),
        "^SMMEMFULL" | "*SMSFULL" | "%SMSFULL" | "+SMSFULL" | "#SMSFULL" => Urc::MemoryFull,
        "+CIEV" | "+QIND" if line.to_ascii_uppercase().contains("SMSFULL") => indicator(line),
        "+QIND" if line.to_ascii_uppercase().contains("SMS DONE") => Urc::Ready,
        "+PBREADY" | "^SMSREADY" | "+SMSREADY" => Urc::Ready,
        "^SYSSTART" | "+SYSSTART" | "*ATREADY" | "+ATREADY" => Urc::Restarted,
        _ => Urc::Other(name),
    })
}

fn bare(line: &str) -> Option<Urc> {
    let upper = line.to_ascii_uppercase();
    Some(match upper.as_str() {
        "SMS READY" | "SMS DONE" => Urc::Ready,
        "RDY" | "MODEM:STARTUP" | "START" | "ATREADY" | "AT READY" | "APP RDY" => Urc::Restarted,
        "RING" | "NO CARRIER" | "NO ANSWER" | "NO DIALTONE" | "NO DIAL TONE" | "BUSY" | "CALL READY" | "PB DONE"
        | "NORMAL POWER DOWN" | "POWERED DOWN" => Urc::Other(upper),
        _ if upper.starts_with("DST:") || upper.starts_with("RING:") => Urc::Other("DST".to_owned()),
        _ if upper.contains("VOLTAGE") && upper.contains("WARN") => Urc::Other("VOLTAGE".to_owned()),
        _ => return None,
    })
}

fn stored(name: &str, line: &str) -> Option<Urc> {
    let fields = fields(line);
    let (storage, index) = ((*fields.first()?).chars().take(8).collect(), number(&fields, 1)?);
    Some(if name == "+CMTI" { Urc::Stored { storage, index } } else { Urc::ReportStored { storage, index } })
}

fn ussd(line: &str) -> Urc {
    let fields = fields(line);
    let text = fields.get(1).copied().unwrap_or_default().to_owned();
    Urc::Ussd { state: number(&fields, 0).unwrap_or(2), text, dcs: number(&fields, 2) }
}

/// `+CIEV: "SMSFULL",1`, `+QIND: "SMSFULL","SM"`: full, unless the indicator is back at 0.
fn indicator(line: &str) -> Urc {
    match fields(line).get(1) {
        Some(&"0") => Urc::Other("SMSFULL".to_owned()),
        _ => Urc::MemoryFull,
    }
}
