//! The modem, its SIM and its network. Time is an argument.

use std::collections::{BTreeMap, VecDeque};

use flotilla_protocol::sms::tpdu::{Status, StatusReport, Submit, Timestamp};

use super::super::at::{hex, to_hex};
use super::profile::Profile;

/// An unacknowledged direct delivery is taken back by the network after so long, and indications are switched off
/// (3GPP TS 27.005 3.4.1 and 3.4.4).
const ACKNOWLEDGE_WITHIN_MS: u64 = 15_000;
/// More would be a runaway test.
const INPUT_BYTES_MAX: usize = 4096;
/// SMSC +255754000000 in front of every PDU that comes from the network.
const SMSC: &str = "0791527504000000";

/// What goes wrong with the next `AT+CMGS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The command is swallowed: no prompt, no answer.
    NoPrompt,
    /// Refused before the prompt.
    SetupError(&'static str),
    /// Refused by the network after the PDU.
    Refused(&'static str),
    /// The PDU is taken and nothing is said.
    Mute,
    /// The cable is pulled once the PDU is there.
    UnplugAfterPdu,
    /// The cable is pulled at the prompt.
    UnplugAtPrompt,
    /// Taken without any fault.
    None,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Log {
    /// A command line.
    Command(String),
    /// A PDU was handed over: the TPDU, and the TP-MR the network was given.
    Submitted { tpdu: Vec<u8>, reference: u8 },
    /// A direct delivery was acknowledged.
    Acknowledged,
    /// A stored message was deleted.
    Deleted { memory: String, index: u16 },
    /// A PIN was entered.
    Pin(String),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Command,
    /// After the prompt, for a TPDU of so many octets.
    Pdu(usize),
}

/// A message on its way to the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Coming {
    pub(super) tpdu: Vec<u8>,
    pub(super) is_report: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// 0 unread, 1 read, 2 and 3 written by the user.
    pub(super) status: u8,
    pub(super) tpdu: Vec<u8>,
    pub(super) is_report: bool,
}

/// What a SIM does when it is asked for its PIN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sim {
    Ready,
    Locked { pin: String, tries_left: u8 },
    Puk,
    Absent,
}

#[derive(Debug)]
pub struct Machine {
    pub(super) profile: Profile,
    pub(super) now_ms: u64,
    pub(super) echo: bool,
    pub(super) mode: Mode,
    input: Vec<u8>,
    /// Bytes and when they are said, in the order of saying.
    output: VecDeque<(u64, Vec<u8>)>,
    pub(super) sim: Sim,
    pub(super) iccid: String,
    pub(super) registration: u8,
    pub(super) phase_2_plus: bool,
    /// `AT+CNMI`.
    pub(super) indications: [u8; 5],
    pub(super) numeric_operator: bool,
    pub(super) selected: String,
    pub(super) receiving: String,
    pub(super) stored: BTreeMap<(String, u16), Place>,
    /// Waits for the terminal: not yet told, or not yet room.
    coming: VecDeque<Coming>,
    /// Told directly, not acknowledged, and when the network gives up waiting.
    unacknowledged: Option<(u64, Coming)>,
    /// Status reports and USSD replies, by time.
    later: Vec<(u64, Later)>,
    reference: u8,
    faults: VecDeque<Fault>,
    pub(super) log: Vec<Log>,
    /// Nothing is answered any more.
    pub(super) muted: bool,
    pub(super) unplugged: bool,
    pub(super) restarts: u32,
    chatter_at: usize,
    /// TP-ST of reports, and how long after the submission they come. None: never.
    pub report: Option<(u8, u64)>,
    pub ussd_reply: String,
    /// Unix milliseconds at time 0, for time stamps.
    pub epoch_ms: u64,
}

#[derive(Clone, Debug)]
enum Later {
    Report(Vec<u8>),
    Line(String),
}

impl Machine {
    pub fn new(profile: Profile) -> Self {
        let memory = profile.memories.first().copied().unwrap_or("SM").to_owned();
        let mut machine = Self {
            now_ms: 0,
            echo: profile.echo,
            mode: Mode::Command,
            input: Vec::new(),
            output: VecDeque::new(),
            sim: Sim::Ready,
            iccid: "8925501000000000004".to_owned(),
            registration: 1,
            phase_2_plus: false,
            indications: [0; 5],
            numeric_operator: false,
            selected: memory.clone(),
            receiving: memory,
            stored: BTreeMap::new(),
            coming: VecDeque::new(),
            unacknowledged: None,
            later: Vec::new(),
            reference: 100,
            faults: VecDeque::new(),
            log: Vec::new(),
            muted: false,
            unplugged: false,
            restarts: 0,
            chatter_at: 0,
            report: Some((0, 50)),
            ussd_reply: "Balance: 5.20 TZS".to_owned(),
            epoch_ms: 1_767_000_000_000,
            profile,
        };
        machine.greet();
        machine
    }

    /// Takes bytes from the terminal.
    pub fn input(&mut self, bytes: &[u8], now_ms: u64) {
        self.now_ms = now_ms;
        for byte in bytes {
            if self.unplugged {
                return;
            }
            match (&self.mode, byte) {
                (_, 0x1b) => self.escape(),
                (Mode::Command, b'\r') => self.end_of_command(),
                (Mode::Command, b'\n') => {}
                (Mode::Pdu(_), 0x1a) => self.end_of_pdu(),
                _ if self.input.len() < INPUT_BYTES_MAX => self.input.push(*byte),
                _ => {}
            }
        }
    }

    /// What is to be said by `now_ms`.
    pub fn output(&mut self, now_ms: u64) -> Vec<u8> {
        self.now_ms = now_ms;
        self.run_later();
        let mut said = Vec::new();
        while self.output.front().is_some_and(|(at_ms, _)| *at_ms <= now_ms) {
            said.extend(self.output.pop_front().map(|(_, bytes)| bytes).unwrap_or_default());
        }
        said
    }

    pub fn next_deadline(&self) -> Option<u64> {
        let said = self.output.front().map(|(at_ms, _)| *at_ms);
        let later = self.later.iter().map(|(at_ms, _)| *at_ms).min();
        let taken_back = self.unacknowledged.as_ref().map(|(at_ms, _)| *at_ms);
        [said, later, taken_back].into_iter().flatten().min()
    }

    /// The network brings a message.
    pub fn bring(&mut self, tpdu: Vec<u8>) {
        self.coming.push_back(Coming { tpdu, is_report: false });
        self.deliver();
    }

    /// A message was there before the terminal was.
    pub fn place(&mut self, memory: &str, index: u16, status: u8, tpdu: Vec<u8>) {
        self.stored.insert((memory.to_owned(), index), Place { status, tpdu, is_report: false });
    }

    /// What lies in storage.
    pub fn stored(&self) -> Vec<(String, u16)> {
        self.stored.keys().cloned().collect()
    }

    /// Messages that the network could not bring yet.
    pub fn undelivered(&self) -> usize {
        self.coming.len() + usize::from(self.unacknowledged.is_some())
    }

    pub fn fault(&mut self, fault: Fault) {
        self.faults.push_back(fault);
    }

    pub fn lock(&mut self, pin: &str) {
        self.sim = Sim::Locked { pin: pin.to_owned(), tries_left: 3 };
    }

    pub fn need_puk(&mut self) {
        self.sim = Sim::Puk;
    }

    pub fn pull_sim(&mut self) {
        self.sim = Sim::Absent;
        self.notice("+CPIN: NOT INSERTED");
    }

    /// Another SIM, silently.
    pub fn change_sim(&mut self, iccid: &str) {
        self.sim = Sim::Ready;
        self.iccid = iccid.to_owned();
    }

    /// `<stat>` of `+CREG`.
    pub fn register(&mut self, registration: u8) {
        self.registration = registration;
        self.notice(&format!("+CREG: {registration}"));
    }

    pub fn mute(&mut self, muted: bool) {
        self.muted = muted;
    }

    pub fn is_muted(&self) -> bool {
        self.muted
    }

    pub fn unplug(&mut self) {
        self.unplugged = true;
    }

    pub fn is_unplugged(&self) -> bool {
        self.unplugged
    }

    /// The modem is powered again. Its SIM and its network stay as they are.
    pub fn plug(&mut self) {
        self.unplugged = false;
        self.muted = false;
        self.restart();
    }

    /// Milliseconds since the modem was made.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    pub fn log(&self) -> &[Log] {
        &self.log
    }

    /// The network's time stamp for now.
    pub fn timestamp(&self) -> Timestamp {
        Timestamp::utc((self.epoch_ms + self.now_ms) / 1000 * 1000)
    }

    /// A notice, said when what is being said is over.
    pub fn notice(&mut self, line: &str) {
        let text = format!("\r\n{line}\r\n");
        self.say_in(0, &text);
    }

    fn greet(&mut self) {
        for line in self.profile.greeting {
            self.notice(line);
        }
    }

    /// Everything that was set is lost.
    pub(super) fn restart(&mut self) {
        self.echo = self.profile.echo;
        self.mode = Mode::Command;
        self.input.clear();
        self.output.clear();
        self.phase_2_plus = false;
        self.indications = [0; 5];
        self.numeric_operator = false;
        self.restarts += 1;
        if let Some((_, coming)) = self.unacknowledged.take() {
            self.coming.push_front(coming);
        }
        self.greet();
    }

    fn escape(&mut self) {
        self.input.clear();
        if matches!(self.mode, Mode::Pdu(_)) {
            self.mode = Mode::Command;
            self.answer(&[], "OK");
        }
    }

    fn end_of_command(&mut self) {
        let input = std::mem::take(&mut self.input);
        let line = String::from_utf8_lossy(&input).trim().to_owned();
        if line.eq_ignore_ascii_case("AT+CFUN=1,1") {
            self.log.push(Log::Command(line));
            self.muted = false;
            self.restart();
            return;
        }
        if self.muted || line.is_empty() {
            return;
        }
        if self.echo {
            let echo = format!("{line}\r");
            self.say_in(0, &echo);
        }
        self.log.push(Log::Command(line.clone()));
        self.command(&line);
    }

    /// Lines of an answer and its end, with chatter in between.
    pub(super) fn answer(&mut self, lines: &[String], end: &str) {
        let delay_ms = self.profile.answer_delay_ms;
        let line_end = self.profile.line_end;
        for line in lines {
            self.say_in(delay_ms, &format!("{line_end}{line}{line_end}"));
            self.chat();
        }
        self.say_in(delay_ms, &format!("{line_end}{end}{line_end}"));
        self.deliver();
    }

    /// The next of the profile's idle words.
    fn chat(&mut self) {
        let chatter = self.profile.chatter;
        if let Some(line) = chatter.get(self.chatter_at % chatter.len().max(1)) {
            self.chatter_at += 1;
            self.notice(line);
        }
    }

    pub(super) fn say_in(&mut self, delay_ms: u64, text: &str) {
        let last_ms = self.output.back().map_or(0, |(at_ms, _)| *at_ms);
        let at_ms = (self.now_ms + delay_ms).max(last_ms);
        self.output.push_back((at_ms, text.as_bytes().to_vec()));
    }

    pub(super) fn line_in(&mut self, delay_ms: u64, line: String) {
        self.later.push((self.now_ms + delay_ms, Later::Line(line)));
    }

    fn run_later(&mut self) {
        let now_ms = self.now_ms;
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.later).into_iter().partition(|(at_ms, _)| *at_ms <= now_ms);
        self.later = later;
        for (_, later) in due {
            match later {
                Later::Report(tpdu) => self.coming.push_back(Coming { tpdu, is_report: true }),
                Later::Line(line) => self.notice(&line),
            }
        }
        if self.unacknowledged.as_ref().is_some_and(|(at_ms, _)| *at_ms <= now_ms) {
            // RP-ERROR to the network, which will try again; the terminal is held to be gone.
            if let Some((_, coming)) = self.unacknowledged.take() {
                self.coming.push_front(coming);
            }
            self.indications = [0; 5];
        }
        self.deliver();
    }

    pub(super) fn begin_submit(&mut self, octets: usize) {
        match self.faults.front() {
            Some(Fault::NoPrompt) => {
                self.faults.pop_front();
            }
            Some(Fault::SetupError(error)) => {
                let error = *error;
                self.faults.pop_front();
                self.answer(&[], error);
            }
            Some(Fault::UnplugAtPrompt) => {
                self.faults.pop_front();
                self.unplug();
            }
            _ => {
                self.mode = Mode::Pdu(octets);
                let (delay_ms, prompt) = (self.profile.prompt_delay_ms, self.profile.prompt);
                self.say_in(delay_ms, prompt);
            }
        }
    }

    fn end_of_pdu(&mut self) {
        let Mode::Pdu(octets) = std::mem::replace(&mut self.mode, Mode::Command) else { return };
        let input = String::from_utf8_lossy(&std::mem::take(&mut self.input)).into_owned();
        if self.echo {
            self.say_in(0, &format!("{input}\u{1a}"));
        }
        // An empty SMSC address and the announced TPDU, or it is no PDU.
        let tpdu = hex(&input).filter(|pdu| pdu.first() == Some(&0) && pdu.len() == octets + 1);
        let Some(submit) = tpdu.as_ref().and_then(|pdu| Submit::decode(&pdu[1..]).ok()) else {
            return self.answer(&[], "+CMS ERROR: 304");
        };
        let fault = self.faults.pop_front().unwrap_or(Fault::None);
        if let Fault::Refused(error) = fault {
            return self.answer_later(&[], error);
        }
        self.reference = self.reference.wrapping_add(1);
        let tpdu = tpdu.map(|pdu| pdu[1..].to_vec()).unwrap_or_default();
        self.log.push(Log::Submitted { tpdu, reference: self.reference });
        if submit.status_report {
            self.report_on(&submit);
        }
        match fault {
            Fault::Mute => {}
            Fault::UnplugAfterPdu => self.unplug(),
            _ => {
                let line = format!("+CMGS: {}", self.reference);
                self.answer_later(&[line], "OK");
            }
        }
    }

    fn answer_later(&mut self, lines: &[String], end: &str) {
        self.chat();
        self.say_in(self.profile.network_delay_ms, "");
        self.answer(lines, end);
    }

    fn report_on(&mut self, submit: &Submit) {
        let Some((status, delay_ms)) = self.report else { return };
        let report = StatusReport {
            more_messages: false,
            loop_prevention: false,
            about_command: false,
            message_reference: self.reference,
            to: submit.to.clone(),
            sent: Some(self.timestamp()),
            discharged: Some(self.timestamp()),
            status: Status(status),
        };
        let at_ms = self.now_ms + self.profile.network_delay_ms + delay_ms;
        self.later.extend(report.encode().ok().map(|tpdu| (at_ms, Later::Report(tpdu))));
    }

    /// Tells the terminal what it lets itself be told.
    pub(super) fn deliver(&mut self) {
        while self.mode == Mode::Command && self.unacknowledged.is_none() && !self.unplugged {
            let Some(coming) = self.coming.front().cloned() else { return };
            let direct = if coming.is_report { self.indications[3] == 1 } else { self.indications[1] == 2 };
            if direct {
                self.coming.pop_front();
                self.tell(coming);
            } else if coming.is_report && self.indications[3] == 0 {
                // Nobody wants to know.
                self.coming.pop_front();
            } else if !self.store(&coming) {
                return;
            } else {
                self.coming.pop_front();
            }
        }
    }

    fn tell(&mut self, coming: Coming) {
        let octets = coming.tpdu.len();
        let header = if coming.is_report { format!("+CDS: {octets}") } else { format!("+CMT: ,{octets}") };
        let pdu = to_hex(&coming.tpdu);
        self.say_in(0, &format!("\r\n{header}\r\n{SMSC}{pdu}\r\n"));
        if self.phase_2_plus {
            self.unacknowledged = Some((self.now_ms + ACKNOWLEDGE_WITHIN_MS, coming));
        }
    }

    pub(super) fn acknowledge(&mut self) -> bool {
        let expected = self.unacknowledged.take().is_some();
        if expected {
            self.log.push(Log::Acknowledged);
        }
        expected
    }

    fn store(&mut self, coming: &Coming) -> bool {
        let separate = coming.is_report && self.profile.memories.contains(&"SR");
        let memory = if separate { "SR".to_owned() } else { self.receiving.clone() };
        let used = self.stored.keys().filter(|(name, _)| *name == memory).count();
        let free = (1u16..).find(|index| !self.stored.contains_key(&(memory.clone(), *index)));
        let Some(index) = free.filter(|_| used < self.profile.capacity) else { return false };
        let place = Place { status: 0, tpdu: coming.tpdu.clone(), is_report: coming.is_report };
        self.stored.insert((memory.clone(), index), place);
        let wanted = if coming.is_report { self.indications[3] == 2 } else { self.indications[1] == 1 };
        if wanted {
            let name = if coming.is_report { "+CDSI" } else { "+CMTI" };
            self.notice(&format!("{name}: \"{memory}\",{index}"));
        }
        if used + 1 == self.profile.capacity {
            let notice = self.profile.full_notice;
            self.notice(notice);
        }
        true
    }

    pub(super) fn smsc() -> &'static str {
        SMSC
    }
}
