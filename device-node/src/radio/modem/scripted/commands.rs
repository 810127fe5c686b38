//! The commands a scripted modem knows. Unknown ones are errors, as with real ones.

use super::super::at::{fields, number, to_hex};
use super::super::ussd;
use super::machine::{Log, Machine, Sim};
use super::profile::UssdManner;

const IMSI: &str = "640021234567890";
const HOME: &str = "64002";

impl Machine {
    pub(super) fn command(&mut self, line: &str) {
        let upper = line.to_ascii_uppercase();
        let Some(body) = upper.strip_prefix("AT") else { return self.fail(None) };
        let (name, argument) = match body.split_once('=') {
            Some((name, argument)) => (name, Some(argument.to_owned())),
            None => (body, None),
        };
        match (name, argument.as_deref()) {
            ("" | "V1", None) => self.answer(&[], "OK"),
            ("E0", None) => {
                self.echo = self.profile.echo_forever;
                self.answer(&[], "OK");
            }
            ("+CMEE" | "+CREG" | "+CEREG" | "+CSCS" | "+CMGF" | "+CFUN", Some(_)) => self.answer(&[], "OK"),
            ("+CGMI", None) => self.inform(self.profile.maker.to_owned()),
            ("+CGMM", None) => self.inform(self.profile.model.to_owned()),
            ("+CFUN?", None) => self.inform("+CFUN: 1".to_owned()),
            ("+CPIN?", None) => self.tell_lock(),
            ("+CPIN", Some(pin)) => self.enter_pin(pin.trim_matches('"')),
            _ if self.sim != Sim::Ready => self.fail(Some((10, "SIM not inserted"))),
            ("+CSQ", None) => self.inform("+CSQ: 20,99".to_owned()),
            ("+CREG?", None) => self.inform(format!("+CREG: 1,{}", self.registration)),
            ("+COPS", Some(format)) => {
                self.numeric_operator = format == "3,2";
                self.answer(&[], "OK");
            }
            ("+COPS?", None) => {
                let line = if self.numeric_operator {
                    format!("+COPS: 0,2,\"{HOME}\",2")
                } else {
                    "+COPS: 0,0,\"Tigo TZ\",2".to_owned()
                };
                self.inform(line);
            }
            ("+CIMI", None) => self.inform(IMSI.to_owned()),
            ("+CNUM", None) => self.inform("+CNUM: \"\",\"+255754123456\",145".to_owned()),
            _ if upper == self.profile.iccid.0 => self.inform(format!("{}{}", self.profile.iccid.1, self.iccid)),
            ("+CMMS", Some(_)) if self.profile.more_to_send => self.answer(&[], "OK"),
            ("+CUSD", Some(argument)) => self.ussd(argument),
            _ => self.message_command(name, argument.as_deref()),
        }
    }

    fn message_command(&mut self, name: &str, argument: Option<&str>) {
        match (name, argument) {
            ("+CSMS", Some("1")) if !self.profile.phase_2_plus => self.fail(Some((302, "Operation not allowed"))),
            ("+CSMS", Some(service)) => {
                self.phase_2_plus = service == "1";
                self.inform("+CSMS: 1,1,1".to_owned());
            }
            ("+CNMI", Some("?")) => self.inform(format!("+CNMI: {}", self.profile.indications)),
            ("+CNMI", Some(values)) => self.indicate(values),
            ("+CNMI?", None) => {
                let values: Vec<_> = self.indications.iter().map(u8::to_string).collect();
                self.inform(format!("+CNMI: {}", values.join(",")));
            }
            ("+CPMS", Some("?")) => {
                let list = self.profile.memories.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(",");
                let writable = list.replace(",\"SR\"", "");
                self.inform(format!("+CPMS: ({list}),({writable}),({writable})"));
            }
            ("+CPMS", Some(names)) => self.select(names),
            ("+CPMS?", None) => {
                let line = format!("+CPMS: \"{}\",{}", self.selected, self.fill());
                self.inform(line);
            }
            ("+CNMA", _) => match self.acknowledge() {
                true => self.answer(&[], "OK"),
                false => self.fail(Some((340, "no +CNMA acknowledgement expected"))),
            },
            ("+CMGL", Some("4")) if self.profile.lists => self.list(),
            ("+CMGR", Some(index)) => self.read(index.parse().ok()),
            ("+CMGD", Some(index)) => self.remove(index.parse().ok()),
            ("+CMGS", Some(octets)) => match octets.parse() {
                Ok(octets) => self.begin_submit(octets),
                Err(_) => self.fail(Some((304, "Invalid PDU mode parameter"))),
            },
            _ => self.fail(None),
        }
    }

    fn inform(&mut self, line: String) {
        self.answer(&[line], "OK");
    }

    /// An error with a code of `+CMS ERROR` from 300 and of `+CME ERROR` below, in number or words.
    fn fail(&mut self, code: Option<(u16, &str)>) {
        let end = match code {
            None => "ERROR".to_owned(),
            Some((code, text)) => {
                let name = if code < 300 { "+CME ERROR" } else { "+CMS ERROR" };
                if self.profile.text_errors { format!("{name}: {text}") } else { format!("{name}: {code}") }
            }
        };
        self.answer(&[], &end);
    }

    fn tell_lock(&mut self) {
        match &self.sim {
            Sim::Ready => self.inform("+CPIN: READY".to_owned()),
            Sim::Locked { .. } => self.inform("+CPIN: SIM PIN".to_owned()),
            Sim::Puk => self.inform("+CPIN: SIM PUK".to_owned()),
            Sim::Absent => self.fail(Some((10, "SIM not inserted"))),
        }
    }

    fn enter_pin(&mut self, entered: &str) {
        self.log.push(Log::Pin(entered.to_owned()));
        match &mut self.sim {
            Sim::Locked { pin, .. } if pin == entered => {
                self.sim = Sim::Ready;
                self.answer(&[], "OK");
            }
            Sim::Locked { tries_left, .. } => {
                *tries_left -= 1;
                if *tries_left == 0 {
                    self.sim = Sim::Puk;
                }
                self.fail(Some((16, "incorrect password")));
            }
            _ => self.fail(Some((3, "operation not allowed"))),
        }
    }

    fn indicate(&mut self, values: &str) {
        let offered = super::super::at::ranges(&format!("+CNMI: {}", self.profile.indications));
        let values: Vec<u8> = values.split(',').filter_map(|value| value.parse().ok()).collect();
        let fits = values.iter().zip(&offered).all(|(value, offered)| offered.contains(value));
        if !fits || values.len() > 5 || values.is_empty() {
            return self.fail(Some((303, "Operation not supported")));
        }
        for (place, value) in self.indications.iter_mut().zip(&values) {
            *place = *value;
        }
        self.answer(&[], "OK");
    }

    fn select(&mut self, names: &str) {
        let names: Vec<_> = names.split(',').map(|name| name.trim_matches('"').to_owned()).collect();
        let known = |name: &String| self.profile.memories.contains(&name.as_str());
        if !names.iter().all(known) || names.is_empty() {
            return self.fail(Some((302, "Operation not allowed")));
        }
        self.selected.clone_from(&names[0]);
        if let Some(receiving) = names.get(2) {
            self.receiving.clone_from(receiving);
        }
        let line = format!("+CPMS: {}", self.fill());
        self.inform(line);
    }

    fn fill(&self) -> String {
        let used = self.stored.keys().filter(|(memory, _)| *memory == self.selected).count();
        format!("{used},{}", self.profile.capacity)
    }

    fn list(&mut self) {
        let here = self.stored.iter().filter(|((memory, _), _)| *memory == self.selected);
        let lines: Vec<String> = here
            .flat_map(|((_, index), place)| {
                let header = format!("+CMGL: {index},{},,{}", place.status, place.tpdu.len());
                [header, format!("{}{}", Self::smsc(), to_hex(&place.tpdu))]
            })
            .collect();
        self.answer_glued(&lines);
    }

    fn read(&mut self, index: Option<u16>) {
        let place = index.and_then(|index| self.stored.get_mut(&(self.selected.clone(), index)));
        let Some(place) = place else { return self.fail(Some((321, "Invalid memory index"))) };
        let header = format!("+CMGR: {},,{}", place.status, place.tpdu.len());
        let lines = [header, format!("{}{}", Self::smsc(), to_hex(&place.tpdu))];
        place.status = place.status.max(1);
        self.answer_glued(&lines);
    }

    /// Header and PDU lie on neighbouring lines, whatever else is said.
    fn answer_glued(&mut self, lines: &[String]) {
        let joined: Vec<String> = lines.chunks(2).map(|pair| pair.join("\r\n")).collect();
        self.answer(&joined, "OK");
    }

    fn remove(&mut self, index: Option<u16>) {
        let Some(index) = index else { return self.fail(Some((321, "Invalid memory index"))) };
        let memory = self.selected.clone();
        if self.stored.remove(&(memory.clone(), index)).is_some() {
            self.log.push(Log::Deleted { memory, index });
        }
        self.answer(&[], "OK");
    }

    fn ussd(&mut self, argument: &str) {
        let line = format!("+CUSD: {argument}");
        let given = fields(&line);
        if number::<u8>(&given, 0) != Some(1) {
            return self.answer(&[], "OK");
        }
        let code = given.get(1).copied().unwrap_or_default();
        let is_packed = code.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_packed != (self.profile.ussd == UssdManner::Packed) {
            return self.fail(None);
        }
        let reply = self.ussd_reply.clone();
        let (text, dcs) = match self.profile.ussd {
            UssdManner::Plain => (reply, 15),
            UssdManner::Packed => (ussd::packed_text(&reply), 15),
            UssdManner::Ucs2 => (reply.encode_utf16().map(|unit| format!("{unit:04X}")).collect(), 72),
        };
        self.answer(&[], "OK");
        self.line_in(self.profile.network_delay_ms, format!("+CUSD: 1,\"{text}\",{dcs}"));
    }
}
