//! Reads what modems say about SIM, network and signal. Pure.

use flotilla_protocol::number::{Iccid, Imsi, Msisdn, Plmn};
use flotilla_protocol::wire::{Registration, SimState};

use super::at::{Final, after_colon, fields, hex, number};
use super::errors::code_of;
use flotilla_protocol::wire::ErrorDomain;

/// Names of networks are shown to people: no more than this is kept.
const OPERATOR_CHARACTERS_MAX: usize = 32;

/// What `AT+CPIN?` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    Open,
    Pin,
    Puk,
    /// Locked to a network or to another device.
    Personalized,
    /// Not there.
    Absent,
    /// There, and broken.
    Failed,
    /// Still starting: ask again.
    Busy,
}

impl Lock {
    pub(super) fn from_answer(end: &Final, line: Option<&str>) -> Self {
        if *end == Final::Ok {
            return line.map_or(Self::Busy, |line| Self::from_word(after_colon(line)));
        }
        match code_of(end) {
            Some((ErrorDomain::Cme, 10) | (ErrorDomain::Cms, 310)) => Self::Absent,
            Some((ErrorDomain::Cme, 13 | 15) | (ErrorDomain::Cms, 313 | 315)) => Self::Failed,
            Some((ErrorDomain::Cme, 11) | (ErrorDomain::Cms, 311)) => Self::Pin,
            Some((ErrorDomain::Cme, 12) | (ErrorDomain::Cms, 316)) => Self::Puk,
            Some((ErrorDomain::Cme, 5..=7 | 40..=48) | (ErrorDomain::Cms, 312)) => Self::Personalized,
            _ => Self::Busy,
        }
    }

    fn from_word(word: &str) -> Self {
        match word.to_ascii_uppercase().as_str() {
            // PIN2 and PUK2 guard other things than messages.
            "READY" | "SIM PIN2" | "SIM PUK2" => Self::Open,
            "SIM PIN" => Self::Pin,
            "SIM PUK" => Self::Puk,
            "NOT INSERTED" | "SIM REMOVED" => Self::Absent,
            word if word.starts_with("PH-") => Self::Personalized,
            _ => Self::Busy,
        }
    }

    pub(super) fn state(self) -> SimState {
        match self {
            Self::Open => SimState::Ready,
            Self::Pin => SimState::PinRequired,
            Self::Puk => SimState::PukRequired,
            Self::Personalized => SimState::Blocked,
            Self::Absent => SimState::Absent,
            Self::Failed | Self::Busy => SimState::Faulty,
        }
    }
}

/// dBm of `+CSQ: <rssi>,<ber>` (3GPP TS 27.007 8.5; from 100 on, the values of TD-SCDMA modems).
pub(super) fn signal_dbm(line: &str) -> Option<i16> {
    match number::<i16>(&fields(line), 0)? {
        rssi @ 0..=31 => Some(-113 + 2 * rssi),
        rssi @ 100..=191 => Some(-116 + (rssi - 100)),
        _ => None,
    }
}

/// `<stat>` of the answer `+CREG: <n>,<stat>[,...]` (3GPP TS 27.007 7.2): 6 and 7 are *SMS only*, 9 and 10 exclude it.
pub(super) fn registration(line: &str) -> Registration {
    match number::<u8>(&fields(line), 1) {
        Some(0) => Registration::NotRegistered,
        Some(1 | 6) => Registration::Home,
        Some(2) => Registration::Searching,
        Some(3) => Registration::Denied,
        Some(5 | 7) => Registration::Roaming,
        _ => Registration::Unknown,
    }
}

/// A message can go over either domain, so the better of the two counts.
pub(super) fn better(a: Registration, b: Registration) -> Registration {
    let rank = |registration| match registration {
        Registration::Home => 5,
        Registration::Roaming => 4,
        Registration::Searching => 3,
        Registration::Denied => 2,
        Registration::NotRegistered => 1,
        Registration::Unknown => 0,
    };
    if rank(b) > rank(a) { b } else { a }
}

pub(super) fn is_registered(registration: Registration) -> bool {
    matches!(registration, Registration::Home | Registration::Roaming)
}

/// The operator of `+COPS: <mode>,<format>,"<operator>"[,<act>]`.
pub(super) fn operator(line: &str) -> Option<String> {
    let fields = fields(line);
    let name = fields.get(2)?.trim();
    (!name.is_empty()).then(|| name.chars().filter(|c| !c.is_control()).take(OPERATOR_CHARACTERS_MAX).collect())
}

/// The number of `+CNUM: ["name"],"<number>",<type>`. Many SIMs do not know it.
pub(super) fn own_number(line: &str) -> Option<Msisdn> {
    let fields = fields(line);
    let digits = fields.get(1)?.trim();
    match number::<u8>(&fields, 2) {
        Some(145) if !digits.starts_with('+') => Msisdn::parse(&format!("+{digits}")).ok(),
        _ => Msisdn::parse(digits).ok(),
    }
}

/// An ICCID in any of the answers to `AT+CCID` and its relatives; some print it with each pair of digits swapped.
pub(super) fn iccid(line: &str) -> Option<Iccid> {
    let text = fields(line).first().copied()?.to_owned();
    let straight = Iccid::parse(&text).ok().filter(|iccid| iccid.as_str().starts_with("89"));
    straight.or_else(|| {
        let octets: [u8; 10] = hex(&text)?.try_into().ok()?;
        Iccid::from_swapped_bcd(&octets).ok().filter(|iccid| iccid.as_str().starts_with("89"))
    })
}

/// EF_ICCID by `+CRSM: 144,0,"<20 digits>"`.
pub(super) fn iccid_file(line: &str) -> Option<Iccid> {
    let octets: [u8; 10] = record(line)?.try_into().ok()?;
    Iccid::from_swapped_bcd(&octets).ok()
}

/// How many digits the home network's MNC has, by EF_AD (3GPP TS 31.102 4.2.18).
pub(super) fn mnc_digits(line: &str) -> Option<u8> {
    record(line)?.get(3).map(|octet| octet & 0x0f).filter(|digits| matches!(digits, 2 | 3))
}

fn record(line: &str) -> Option<Vec<u8>> {
    let fields = fields(line);
    (number::<u8>(&fields, 0)? == 144).then(|| hex(fields.get(2)?))?
}

pub(super) fn imsi(line: &str) -> Option<Imsi> {
    Imsi::parse(after_colon(line)).ok()
}

/// The home network; without EF_AD, three digits are taken for North America only.
pub(super) fn home(imsi: &Imsi, mnc_digits: Option<u8>) -> Option<Plmn> {
    let by_country = match imsi.as_str().get(..3)?.parse::<u16>().ok()? {
        302 | 310..=316 | 334 => 3,
        _ => 2,
    };
    imsi.home(mnc_digits.unwrap_or(by_country)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_read_from_words_and_errors() {
        let ok = |line| Lock::from_answer(&Final::Ok, Some(line));
        assert_eq!(ok("+CPIN: READY"), Lock::Open);
        assert_eq!(ok("+CPIN: SIM PIN"), Lock::Pin);
        assert_eq!(ok("+CPIN: SIM PUK"), Lock::Puk);
        assert_eq!(ok("+CPIN: SIM PIN2"), Lock::Open);
        assert_eq!(ok("+CPIN: PH-NET PIN"), Lock::Personalized);
        assert_eq!(ok("+CPIN: NOT READY"), Lock::Busy);
        for (end, lock) in [
            (Final::Cme("10".to_owned()), Lock::Absent),
            (Final::Cme("SIM not inserted".to_owned()), Lock::Absent),
            (Final::Cms("310".to_owned()), Lock::Absent),
            (Final::Cme("13".to_owned()), Lock::Failed),
            (Final::Cme("14".to_owned()), Lock::Busy),
            (Final::Error, Lock::Busy),
        ] {
            assert_eq!(Lock::from_answer(&end, None), lock, "{end:?}");
        }
    }

    #[test]
    fn signal_and_registration() {
        assert_eq!(signal_dbm("+CSQ: 15,99"), Some(-83));
        assert_eq!(signal_dbm("+CSQ: 31,0"), Some(-51));
        assert_eq!(signal_dbm("+CSQ: 99,99"), None);
        assert_eq!(signal_dbm("+CSQ: 150,99"), Some(-66));
        assert_eq!(registration("+CREG: 0,1"), Registration::Home);
        assert_eq!(registration("+CREG: 2,5,\"00A1\",\"0B2C\",7"), Registration::Roaming);
        assert_eq!(registration("+CEREG: 1,3"), Registration::Denied);
        assert_eq!(registration("+CREG: "), Registration::Unknown);
        assert_eq!(better(Registration::Denied, Registration::Home), Registration::Home);
        assert_eq!(better(Registration::Searching, Registration::Unknown), Registration::Searching);
    }

    #[test]
    fn identities_in_every_manner() {
        let iccid_text = "8925501000000000004";
        assert!(Iccid::parse(iccid_text).is_ok(), "the example itself");
        for line in [
            iccid_text.to_owned(),
            format!("+CCID: \"{iccid_text}\""),
            format!("+ICCID: {iccid_text}F"),
            format!("^ICCID: {iccid_text}"),
            format!("#CCID: {iccid_text}"),
            format!("ICCID: {iccid_text}"),
            "^ICCID: 985205010000000000F4".to_owned(),
        ] {
            assert_eq!(iccid(&line).map(|iccid| iccid.to_string()).as_deref(), Some(iccid_text), "{line}");
        }
        assert_eq!(iccid_file("+CRSM: 144,0,\"985205010000000000F4\"").unwrap().as_str(), iccid_text);
        assert_eq!(iccid_file("+CRSM: 106,130,\"\""), None);
        assert_eq!(imsi("640021234567890").unwrap().as_str(), "640021234567890");
        assert_eq!(mnc_digits("+CRSM: 144,0,\"00000003\""), Some(3));
        let american = imsi("+CIMI: 310150123456789").unwrap();
        assert_eq!(home(&american, None), Plmn::parse("310150").ok());
        assert_eq!(home(&american, Some(2)), Plmn::parse("31015").ok());
        assert_eq!(own_number("+CNUM: \"\",\"255754000001\",145").map(Msisdn::as_u64), Some(255_754_000_001));
        assert_eq!(own_number("+CNUM: ,\"+255754000001\",145").map(Msisdn::as_u64), Some(255_754_000_001));
        assert_eq!(own_number("+CNUM: \"\",\"\",129"), None);
        assert_eq!(operator("+COPS: 0,0,\"Vodacom TZ\",7").as_deref(), Some("Vodacom TZ"));
        assert_eq!(operator("+COPS: 0"), None);
    }
}
