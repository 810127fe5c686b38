//! Looking after the SIM: unlocked, identified, registered, how strong its signal is, and whether it is still the same.

use flotilla_protocol::number::{Iccid, Plmn};
use flotilla_protocol::wire::{Registration, SimHealth, SimState};
use tokio::time::{Instant, sleep};

use super::super::at::Command;
use super::super::channel::ChannelError;
use super::super::sim::{self, Lock};
use super::End;
use super::session::Session;

/// Makers have their own names for it.
const ICCID_COMMANDS: [&str; 5] = ["AT+CCID", "AT+ICCID", "AT^ICCID?", "AT+QCCID", "AT#CCID"];
/// READ BINARY of EF_ICCID and EF_AD (3GPP TS 27.007 8.18, TS 31.102 4.2.18 and TS 102.221 13.2).
const READ_ICCID: &str = "AT+CRSM=176,12258,0,0,10";
const READ_AD: &str = "AT+CRSM=176,28589,0,0,4";

impl Session<'_> {
    /// One look, and when the next is due.
    pub(super) async fn look(&mut self) -> Result<(), End> {
        // Set before the look, so that a notice during it brings another.
        let timing = self.driver.timing;
        self.last_look = Some(Instant::now());
        self.health_due = Instant::now() + timing.health;
        if !self.is_up && !self.bring_up().await? {
            self.health_due = Instant::now() + timing.registration.max(timing.health / 4);
            return Ok(());
        }
        self.watch_sim().await?;
        if !self.is_up {
            self.health_due = Instant::now();
            return Ok(());
        }
        let health = self.measure().await?;
        let registration = health.registration;
        let state = match registration {
            Registration::Home | Registration::Roaming => SimState::Ready,
            Registration::Denied => SimState::Blocked,
            Registration::Unknown | Registration::NotRegistered | Registration::Searching => SimState::NotRegistered,
        };
        let operator = health.operator.clone();
        let update = |sim: &mut flotilla_protocol::wire::SimInfo| {
            sim.state = state;
            sim.operator = operator;
        };
        self.driver.status.update(update).await;
        self.driver.status.measured(health).await;
        if !sim::is_registered(registration) {
            self.health_due = self.health_due.min(Instant::now() + timing.registration);
        }
        Ok(())
    }

    /// From a modem that answers to one that receives. False when the SIM does not let it.
    async fn bring_up(&mut self) -> Result<bool, ChannelError> {
        let lock = self.unlock().await?;
        if lock != Lock::Open {
            self.driver.status.set_state(lock.state()).await;
            return Ok(false);
        }
        self.identify().await?;
        if !self.abilities.set_up(&mut self.channel).await? {
            tracing::error!(modem = self.driver.label, "the modem has no PDU mode");
            self.driver.status.set_state(SimState::Faulty).await;
            return Ok(false);
        }
        self.is_up = true;
        self.sweep_due = true;
        Ok(true)
    }

    /// Asks for the lock, uses the PIN at most once, and waits for a SIM that is still starting.
    async fn unlock(&mut self) -> Result<Lock, ChannelError> {
        let until = Instant::now() + self.driver.timing.sim_ready;
        loop {
            let answer = self.channel.ask("AT+CPIN?").await?;
            let lock = Lock::from_answer(&answer.end, answer.first());
            match lock {
                Lock::Open => self.driver.guard.opened(),
                Lock::Pin if self.enter_pin().await? => {
                    sleep(self.driver.timing.gap).await;
                    continue;
                }
                Lock::Busy if Instant::now() < until => {
                    sleep(self.driver.timing.registration).await;
                    continue;
                }
                _ => {}
            }
            return Ok(lock);
        }
    }

    /// True when the PIN was tried now, whatever came of it.
    async fn enter_pin(&mut self) -> Result<bool, ChannelError> {
        let Some(pin) = self.driver.pin.clone() else {
            tracing::warn!(modem = self.driver.label, "the SIM wants a PIN; set `pin` in the modem's section");
            return Ok(false);
        };
        match self.driver.guard.may_try(&pin) {
            Ok(true) => {
                let command = Command::new(format!("AT+CPIN=\"{}\"", pin.digits()));
                let entered = self.channel.command(command, self.channel.slow()).await?;
                tracing::info!(modem = self.driver.label, accepted = entered.is_ok(), "PIN entered");
                Ok(true)
            }
            Ok(false) => {
                let note = self.driver.guard.path().display();
                tracing::error!(modem = self.driver.label, %note, "the PIN was refused before and is not tried again; set the right `pin`, or remove the note");
                Ok(false)
            }
            Err(error) => {
                tracing::error!(modem = self.driver.label, %error, "a try of the PIN can not be noted, so it is not tried");
                Ok(false)
            }
        }
    }

    async fn identify(&mut self) -> Result<(), ChannelError> {
        let iccid = self.read_iccid().await?;
        let imsi = self.channel.ask("AT+CIMI").await?.first().and_then(sim::imsi);
        let digits = match imsi {
            Some(_) => self.channel.ask(READ_AD).await?.first().and_then(sim::mnc_digits),
            None => None,
        };
        let numbers = self.channel.ask("AT+CNUM").await?;
        let msisdn = numbers.lines.iter().filter(|_| numbers.is_ok()).find_map(|line| sim::own_number(line));
        let home = imsi.and_then(|imsi| sim::home(&imsi, digits));
        let update = |sim: &mut flotilla_protocol::wire::SimInfo| {
            sim.iccid = iccid;
            sim.imsi = imsi;
            sim.msisdn = msisdn;
            sim.home = home;
        };
        self.driver.status.update(update).await;
        Ok(())
    }

    async fn read_iccid(&mut self) -> Result<Option<Iccid>, ChannelError> {
        let known = self.abilities.iccid_command;
        for text in known.into_iter().chain(ICCID_COMMANDS.into_iter().filter(|_| known.is_none())) {
            let command = Command::new(text).also("+ICCID").also("+CCID").also("^ICCID");
            let answer = self.channel.command(command, self.driver.timing.command).await?;
            if let Some(iccid) = answer.first().and_then(sim::iccid) {
                self.abilities.iccid_command = Some(text);
                return Ok(Some(iccid));
            }
        }
        Ok(self.channel.ask(READ_ICCID).await?.first().and_then(sim::iccid_file))
    }

    /// Notices a SIM that was locked, taken out or changed, and settings that the modem has lost.
    async fn watch_sim(&mut self) -> Result<(), End> {
        let answer = self.channel.ask("AT+CPIN?").await?;
        match Lock::from_answer(&answer.end, answer.first()) {
            Lock::Open | Lock::Busy => {}
            _ => {
                self.is_up = false;
                return Ok(());
            }
        }
        let known = self.driver.status.sim().iccid;
        if known.is_some() {
            let now = self.read_iccid().await?;
            if now.is_some() && now != known {
                tracing::warn!(modem = self.driver.label, "the SIM has changed");
                return Err(End::Renewed);
            }
        }
        match &self.abilities.indications {
            // Without indications, storage is looked through now and then.
            None => self.sweep_due = true,
            Some(set) => {
                let now = self.channel.ask("AT+CNMI?").await?;
                // By a restart that went unnoticed, or after an acknowledgement that came too late.
                if now.first().is_some_and(|line| line != set) {
                    tracing::warn!(modem = self.driver.label, "the modem has lost its settings");
                    self.is_up = false;
                }
            }
        }
        Ok(())
    }

    async fn measure(&mut self) -> Result<SimHealth, ChannelError> {
        let signal_dbm = self.channel.ask("AT+CSQ").await?.first().and_then(sim::signal_dbm);
        let mut registration = Registration::Unknown;
        for command in ["AT+CREG?", "AT+CEREG?"] {
            let answer = self.channel.ask(command).await?;
            registration = sim::better(registration, answer.first().map_or(Registration::Unknown, sim::registration));
        }
        let before = self.driver.status.health().clone();
        let (serving, operator) = match sim::is_registered(registration) {
            true => self.serving(before.serving, before.operator).await?,
            false => (None, String::new()),
        };
        let sim = self.driver.status.sim();
        Ok(SimHealth { slot: sim.slot, state: sim.state, signal_dbm, registration, serving, operator })
    }

    /// The serving network's code, and its name, which is asked for only when the code is another one.
    async fn serving(&mut self, known: Option<Plmn>, name: String) -> Result<(Option<Plmn>, String), ChannelError> {
        self.channel.ask("AT+COPS=3,2").await?;
        let code = self.channel.command(Command::new("AT+COPS?"), self.channel.slow()).await?;
        let plmn = code.first().and_then(sim::operator).and_then(|digits| Plmn::parse(&digits).ok());
        if plmn.is_some() && plmn == known && !name.is_empty() {
            return Ok((plmn, name));
        }
        self.channel.ask("AT+COPS=3,0").await?;
        let named = self.channel.command(Command::new("AT+COPS?"), self.channel.slow()).await?;
        Ok((plmn, named.first().and_then(sim::operator).unwrap_or_default()))
    }
}
