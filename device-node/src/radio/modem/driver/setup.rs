//! What a modem can do, and setting it up for messages.

use super::super::at::{Command, after_colon, fields, number, ranges};
use super::super::channel::{Channel, ChannelError};
use super::super::ussd::Dialect;

/// Storages that a modem is asked for, best first. `SR` holds status reports.
const MEMORIES: [&str; 3] = ["SM", "ME", "SR"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Maker {
    Huawei,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    pub(super) maker: Maker,
    /// Phase 2+ (`AT+CSMS=1`): direct deliveries wait for `AT+CNMA`.
    pub(super) acknowledges: bool,
    /// The present `AT+CNMI` setting as the modem prints it, or none when it could not be set: then storage is polled.
    pub(super) indications: Option<String>,
    /// Storages that are read.
    pub(super) memories: Vec<String>,
    /// The one that reading and deleting work on now.
    pub(super) selected: Option<String>,
    /// `AT+CMMS`: keeps the link open between segments.
    pub(super) more_to_send: bool,
    /// `AT+CMGL` works.
    pub(super) lists: bool,
    /// How this modem wants a positive `AT+CNMA`.
    pub(super) acknowledgement: &'static str,
    /// The command that gave the ICCID.
    pub(super) iccid_command: Option<&'static str>,
}

impl Abilities {
    /// First words: no echo, numeric errors, radio on, who are you.
    pub(super) async fn probe(channel: &mut Channel, label: &str) -> Result<Self, ChannelError> {
        channel.ask("ATE0").await?;
        // Words, not digits, as result codes: a modem may have been left otherwise.
        channel.ask("ATV1").await?;
        if !channel.ask("AT+CMEE=1").await?.is_ok() {
            channel.ask("AT+CMEE=2").await?;
        }
        let maker = identity(channel, &["AT+CGMI", "AT+GMI", "ATI"]).await?;
        let model = identity(channel, &["AT+CGMM", "AT+GMM"]).await?;
        tracing::info!(modem = label, maker, model, "modem answers");
        let radio = channel.ask("AT+CFUN?").await?;
        if radio.first().is_some_and(|line| matches!(number(&fields(line), 0), Some(0u8 | 4))) {
            channel.command(Command::new("AT+CFUN=1"), channel.slow()).await?;
        }
        let maker = if maker.to_ascii_lowercase().contains("huawei") { Maker::Huawei } else { Maker::Other };
        Ok(Self {
            maker,
            acknowledges: false,
            indications: None,
            memories: Vec::new(),
            selected: None,
            more_to_send: false,
            lists: true,
            acknowledgement: "AT+CNMA",
            iccid_command: None,
        })
    }

    pub(super) fn ussd_dialects(&self) -> [Dialect; 2] {
        match self.maker {
            Maker::Huawei => [Dialect::Packed, Dialect::Plain],
            Maker::Other => [Dialect::Plain, Dialect::Packed],
        }
    }

    /// Sets the message service up. Everything but PDU mode may be missing.
    pub(super) async fn set_up(&mut self, channel: &mut Channel) -> Result<bool, ChannelError> {
        self.acknowledges = channel.ask("AT+CSMS=1").await?.is_ok();
        if !self.acknowledges {
            channel.ask("AT+CSMS=0").await?;
        }
        if !channel.ask("AT+CMGF=0").await?.is_ok() {
            return Ok(false);
        }
        if !channel.ask("AT+CSCS=\"IRA\"").await?.is_ok() {
            channel.ask("AT+CSCS=\"GSM\"").await?;
        }
        self.choose_memories(channel).await?;
        self.indicate(channel).await?;
        self.more_to_send = channel.ask("AT+CMMS=?").await?.is_ok();
        // Notices of registration save waiting for the next look; not every modem has them.
        channel.ask("AT+CREG=1").await?;
        channel.ask("AT+CEREG=1").await?;
        Ok(true)
    }

    async fn choose_memories(&mut self, channel: &mut Channel) -> Result<(), ChannelError> {
        let offered = channel.command(Command::new("AT+CPMS=?"), channel.slow()).await?;
        let lists: Vec<Vec<String>> =
            offered.first().map(|line| fields(line).iter().map(|list| names(list)).collect()).unwrap_or_default();
        let offers =
            |list: usize, memory: &str| lists.get(list).is_none_or(|list| list.iter().any(|name| name == memory));
        self.memories = match lists.first() {
            Some(first) => MEMORIES
                .iter()
                .filter(|memory| first.iter().any(|name| name == *memory))
                .map(|m| (*m).to_owned())
                .collect(),
            None => Vec::new(),
        };
        self.selected = None;
        for memory in ["SM", "ME"] {
            if (0..3).all(|list| offers(list, memory)) {
                let command = format!("AT+CPMS=\"{memory}\",\"{memory}\",\"{memory}\"");
                if channel.command(Command::new(command), channel.slow()).await?.is_ok() {
                    self.selected = Some(memory.to_owned());
                    break;
                }
            }
        }
        if self.memories.is_empty() {
            self.memories.extend(self.selected.clone());
        }
        Ok(())
    }

    /// Chooses how received messages are told: directly where they wait for our acknowledgement, else stored, since a
    /// message that is delivered without either is lost when we die at that moment. Status reports directly.
    async fn indicate(&mut self, channel: &mut Channel) -> Result<(), ChannelError> {
        let offered = channel.ask("AT+CNMI=?").await?.first().map(ranges).unwrap_or_default();
        let offers = |field: usize, value: u8| {
            offered.get(field).is_none_or(|values| values.is_empty() || values.contains(&value))
        };
        let mode = [2, 1, 3, 0].into_iter().find(|mode| offers(0, *mode)).unwrap_or(2);
        let bfr = u8::from(!offers(4, 0));
        let direct_first: &[u8] = if self.acknowledges { &[2, 1] } else { &[1, 2] };
        for mt in direct_first.iter().filter(|mt| offers(1, **mt)) {
            for ds in [1, 2, 0].into_iter().filter(|ds| offers(3, *ds)) {
                if channel.ask(&format!("AT+CNMI={mode},{mt},0,{ds},{bfr}")).await?.is_ok() {
                    return self.remember_indications(channel).await;
                }
            }
        }
        // Some old modems take the first two values only.
        if channel.ask("AT+CNMI=2,1").await?.is_ok() || channel.ask("AT+CNMI=1,1").await?.is_ok() {
            return self.remember_indications(channel).await;
        }
        self.indications = None;
        Ok(())
    }

    async fn remember_indications(&mut self, channel: &mut Channel) -> Result<(), ChannelError> {
        self.indications = Some(channel.ask("AT+CNMI?").await?.first().unwrap_or_default().to_owned());
        Ok(())
    }

    /// Makes reading and deleting work on `memory`.
    pub(super) async fn select(&mut self, channel: &mut Channel, memory: &str) -> Result<bool, ChannelError> {
        if self.selected.as_deref() == Some(memory) {
            return Ok(true);
        }
        let command = Command::new(format!("AT+CPMS=\"{memory}\""));
        let selected = channel.command(command, channel.slow()).await?.is_ok();
        self.selected = selected.then(|| memory.to_owned());
        Ok(selected)
    }
}

/// The first of `commands` that is answered.
async fn identity(channel: &mut Channel, commands: &[&str]) -> Result<String, ChannelError> {
    for command in commands {
        let answer = channel.ask(command).await?;
        if let Some(line) = answer.first() {
            return Ok(after_colon(line).trim_matches('"').chars().take(40).collect());
        }
    }
    Ok(String::new())
}

/// `("SM","ME")`
fn names(list: &str) -> Vec<String> {
    let list = list.trim_start_matches('(').trim_end_matches(')');
    list.split(',').map(|name| name.trim().trim_matches('"').to_ascii_uppercase()).collect()
}
