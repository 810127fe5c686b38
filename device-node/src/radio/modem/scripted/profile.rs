//! The manners of different makers.

/// How a scripted modem behaves.
#[derive(Clone, Debug)]
pub struct Profile {
    pub name: &'static str,
    pub maker: &'static str,
    pub model: &'static str,
    /// Repeats what is written until told not to.
    pub echo: bool,
    /// Goes on repeating though it was told not to.
    pub echo_forever: bool,
    /// Between lines; one more or less than the standard wants.
    pub line_end: &'static str,
    pub prompt: &'static str,
    pub prompt_delay_ms: u64,
    pub answer_delay_ms: u64,
    /// From the PDU to `+CMGS`.
    pub network_delay_ms: u64,
    /// Said when the modem has started.
    pub greeting: &'static [&'static str],
    /// Said in the middle of answers, and between the prompt and `+CMGS`.
    pub chatter: &'static [&'static str],
    /// The command for the ICCID, and what stands in front of the answer.
    pub iccid: (&'static str, &'static str),
    /// `AT+CSMS=1` is known: direct deliveries wait for `AT+CNMA`.
    pub phase_2_plus: bool,
    /// `AT+CNMI=?`, without its name.
    pub indications: &'static str,
    /// Names of the storages.
    pub memories: &'static [&'static str],
    pub capacity: usize,
    /// `AT+CMGL` is known.
    pub lists: bool,
    /// Errors as text, whatever `AT+CMEE` says.
    pub text_errors: bool,
    /// `AT+CMMS` is known.
    pub more_to_send: bool,
    pub ussd: UssdManner,
    /// What is said when the storage is full.
    pub full_notice: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UssdManner {
    Plain,
    /// Packed septets as hexadecimal digits, both ways.
    Packed,
    /// Plain codes, replies as UCS-2 digits.
    Ucs2,
}

const STANDARD: Profile = Profile {
    name: "standard",
    maker: "Acme",
    model: "M1",
    echo: true,
    echo_forever: false,
    line_end: "\r\n",
    prompt: "\r\n> ",
    prompt_delay_ms: 5,
    answer_delay_ms: 1,
    network_delay_ms: 20,
    greeting: &[],
    chatter: &[],
    iccid: ("AT+CCID", "+CCID: "),
    phase_2_plus: true,
    indications: "(0-2),(0-3),(0-3),(0-2),(0,1)",
    memories: &["SM", "ME", "SR"],
    capacity: 20,
    lists: true,
    text_errors: false,
    more_to_send: true,
    ussd: UssdManner::Plain,
    full_notice: "+CIEV: \"SMSFULL\",1",
};

/// In the manner of a Huawei stick: `^` notices at any time, echo, packed USSD.
const HUAWEI: Profile = Profile {
    name: "huawei",
    maker: "huawei",
    model: "E3131",
    greeting: &["^SYSSTART"],
    chatter: &["^RSSI:17", "^HCSQ:\"WCDMA\",40,33,45", "^MODE:5,4", "^BOOT:20952548,0,0,0,75"],
    iccid: ("AT^ICCID?", "^ICCID: "),
    indications: "(0-2),(0-3),(0,2,3),(0-2),(0,1)",
    ussd: UssdManner::Packed,
    full_notice: "^SMMEMFULL: \"SM\"",
    ..STANDARD
};

/// In the manner of a SIM800: boot words, blank lines, the ICCID bare.
const SIMCOM: Profile = Profile {
    name: "simcom",
    maker: "SIMCOM_Ltd",
    model: "SIMCOM_SIM800L",
    line_end: "\r\n\r\n",
    greeting: &["RDY", "+CFUN: 1", "+CPIN: READY", "Call Ready", "SMS Ready"],
    chatter: &["*PSUTTZ: 2026,1,8,10,21,4,\"+12\",0", "DST: 0", "UNDER-VOLTAGE WARNNING"],
    iccid: ("AT+CCID", ""),
    indications: "(0,1,2),(0,1,2,3),(0,2),(0,1),(0,1)",
    memories: &["SM", "ME"],
    ..STANDARD
};

/// In the manner of an EC25: `+QIND`, UCS-2 in USSD replies.
const QUECTEL: Profile = Profile {
    name: "quectel",
    maker: "Quectel",
    model: "EC25",
    greeting: &["RDY", "+CPIN: READY", "+QUSIM: 1", "+QIND: SMS DONE", "+QIND: PB DONE"],
    chatter: &["+QIND: \"csq\",20,99", "+CGREG: 1"],
    iccid: ("AT+QCCID", "+QCCID: "),
    memories: &["ME", "SM", "SR"],
    ussd: UssdManner::Ucs2,
    full_notice: "+QIND: \"SMSFULL\",\"SM\"",
    ..STANDARD
};

/// In the manner of an HE910: `#` names, no space after the prompt.
const TELIT: Profile = Profile {
    name: "telit",
    maker: "Telit",
    model: "HE910",
    prompt: "\r\n>",
    chatter: &["#QSS: 1", "+CREG: 1"],
    iccid: ("AT#CCID", "#CCID: "),
    memories: &["SM", "ME"],
    lists: false,
    ..STANDARD
};

/// In the manner of a SARA: a prompt without a line of its own, registration notices with areas.
const UBLOX: Profile = Profile {
    name: "ublox",
    maker: "u-blox",
    model: "SARA-U201",
    echo_forever: true,
    prompt: ">",
    chatter: &["+CREG: 1,\"00A1\",\"0B2C\"", "+CIEV: 2,4", "+UUSTS: 0,1"],
    full_notice: "+CMTI: \"SM\",65535",
    ..STANDARD
};

/// Takes its time for everything.
const SLOW: Profile = Profile {
    name: "slow",
    prompt: "\r\n\r\n\r\n> ",
    prompt_delay_ms: 700,
    answer_delay_ms: 150,
    network_delay_ms: 900,
    phase_2_plus: false,
    ..STANDARD
};

/// Delivers directly only, and insists on `AT+CNMA`.
const DIRECT: Profile =
    Profile { name: "direct", indications: "(2),(0,2),(0),(0,1),(1)", more_to_send: false, ..STANDARD };

/// Stores only, reports too.
const STORING: Profile = Profile {
    name: "storing",
    phase_2_plus: false,
    indications: "(0-2),(0,1),(0),(0,2),(0)",
    capacity: 10,
    more_to_send: false,
    ..STANDARD
};

/// Says its errors in words, and knows nothing of storage lists.
const WORDY: Profile = Profile {
    name: "wordy",
    text_errors: true,
    phase_2_plus: false,
    lists: false,
    indications: "(0-2),(0-1),(0),(0-1),(0)",
    ..STANDARD
};

const PROFILES: [Profile; 10] = [STANDARD, HUAWEI, SIMCOM, QUECTEL, TELIT, UBLOX, SLOW, DIRECT, STORING, WORDY];

impl Profile {
    /// The profile with this name.
    pub fn named(name: &str) -> Option<Self> {
        PROFILES.into_iter().find(|profile| profile.name == name)
    }

    /// All names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PROFILES.into_iter().map(|profile| profile.name)
    }
}
