//! From the opening of a port to its failure: one loop over notices, deletions, orders and deadlines.
//!
//! What the network waits for comes first: direct deliveries are acknowledged before anything else that is queued.

use std::collections::VecDeque;
use std::convert::Infallible;

use flotilla_protocol::wire::NotSent;
use tokio::time::{Duration, Instant, sleep_until};

use super::super::at::{SimNotice, Urc};
use super::super::channel::{Channel, ChannelError, RESYNC_TRIES};
use super::super::inbox::Source;
use super::super::ussd;
use super::setup::Abilities;
use super::{Driver, End, Order};

/// More than to find a clean start: some modems adapt their speed to the first characters.
const WAKE_TRIES: u32 = 5;

pub(super) struct Session<'a> {
    pub(super) driver: &'a mut Driver,
    pub(super) channel: Channel,
    pub(super) abilities: Abilities,
    /// The SIM is open and the modem is set up for messages.
    pub(super) is_up: bool,
    /// The storage is to be read through.
    pub(super) sweep_due: bool,
    pub(super) memory_full: bool,
    /// To be deleted.
    pub(super) trash: VecDeque<Source>,
    pub(super) health_due: Instant,
    pub(super) last_look: Option<Instant>,
    ussd: Option<PendingUssd>,
}

struct PendingUssd {
    request: u32,
    deadline: Instant,
}

impl<'a> Session<'a> {
    /// Wakes the modem and learns what it is. `answered` becomes true once it has said anything sensible.
    pub(super) async fn start(
        driver: &'a mut Driver,
        mut channel: Channel,
        answered: &mut bool,
    ) -> Result<Session<'a>, End> {
        channel.resync(WAKE_TRIES).await?;
        *answered = true;
        let abilities = Abilities::probe(&mut channel, &driver.label).await?;
        driver.inbox.restart();
        let mut session = Session {
            driver,
            channel,
            abilities,
            is_up: false,
            sweep_due: false,
            memory_full: false,
            trash: VecDeque::new(),
            health_due: Instant::now(),
            last_look: None,
            ussd: None,
        };
        session.take_spooled().await;
        Ok(session)
    }

    pub(super) async fn run(mut self) -> Result<Infallible, End> {
        let end = loop {
            match self.step().await {
                Ok(()) => {}
                Err(End::Lost(ChannelError::Silent)) => match self.channel.resync(RESYNC_TRIES).await {
                    Ok(()) => self.look_soon(),
                    Err(ChannelError::Silent) => break self.reset().await,
                    Err(error) => break error.into(),
                },
                Err(end) => break end,
            }
        };
        if let Some(pending) = self.ussd.take() {
            self.driver.answer_ussd(pending.request, Err("the modem was lost")).await;
        }
        Err(end)
    }

    async fn reset(&mut self) -> End {
        match self.channel.reset().await {
            Ok(()) | Err(ChannelError::Silent) => End::Reset,
            Err(error) => error.into(),
        }
    }

    /// Does what is due, or waits until something is.
    async fn step(&mut self) -> Result<(), End> {
        self.acknowledge_waiting().await?;
        if let Some(urc) = self.channel.notice() {
            return self.notice(urc).await;
        }
        if self.is_up {
            if let Some(source) = self.trash.pop_front() {
                return Ok(self.delete(source).await?);
            }
            if self.channel.take_notices_lost() || self.sweep_due {
                return Ok(self.sweep().await?);
            }
        }
        if Instant::now() >= self.health_due {
            return self.look().await;
        }
        self.expire_parts().await;
        self.expire_ussd().await;
        let deadline = self.next_deadline();
        tokio::select! {
            biased;
            notice = self.channel.wait_notice() => Ok(notice?),
            order = self.driver.orders.recv() => self.order(order.ok_or(End::Closed)?).await,
            () = sleep_until(deadline) => Ok(()),
        }
    }

    fn next_deadline(&self) -> Instant {
        let parts = self.driver.inbox.next_deadline().map(|at_ms| {
            Instant::now() + Duration::from_millis(at_ms.saturating_sub(self.driver.clock.now().boot_ms).max(1))
        });
        let ussd = self.ussd.as_ref().map(|pending| pending.deadline);
        [Some(self.health_due), parts, ussd].into_iter().flatten().min().unwrap_or(self.health_due)
    }

    /// Something may have changed. There is a pause between looks all the same: a modem that comments on every command
    /// with a notice would have us look for ever.
    pub(super) fn look_soon(&mut self) {
        let now = Instant::now();
        let soonest = self.last_look.map_or(now, |last| (last + self.driver.timing.registration).max(now));
        self.health_due = self.health_due.min(soonest);
    }

    async fn order(&mut self, order: Order) -> Result<(), End> {
        match order {
            Order::Send(job) if !self.is_up || !self.driver.status.is_ready() => {
                self.driver.refuse(&job, NotSent::SimNotReady).await;
                Ok(())
            }
            Order::Send(job) => Ok(self.send(job).await?),
            Order::Stored(token) => {
                self.trash.extend(self.driver.inbox.stored(token));
                Ok(())
            }
            Order::Ussd { request, code } => Ok(self.run_ussd(request, &code).await?),
        }
    }

    async fn notice(&mut self, urc: Urc) -> Result<(), End> {
        match urc {
            Urc::Deliver { tpdu } | Urc::Report { tpdu } => self.take_direct(&tpdu).await?,
            Urc::Stored { storage, index } | Urc::ReportStored { storage, index } if self.is_up => {
                self.take_stored(storage, index).await?;
            }
            Urc::Stored { .. } | Urc::ReportStored { .. } => self.sweep_due = true,
            Urc::MemoryFull => {
                self.memory_full = true;
                self.sweep_due = true;
            }
            Urc::Ussd { state, text, dcs } => self.ussd_reply(state, &text, dcs).await?,
            Urc::Registration | Urc::Sim(SimNotice::Changed) => self.look_soon(),
            Urc::Sim(SimNotice::Removed) => {
                self.is_up = false;
                self.health_due = Instant::now();
            }
            // The look finds out whether what was set is still set.
            Urc::Ready => {
                self.sweep_due = true;
                self.look_soon();
            }
            Urc::Restarted => return Err(End::Renewed),
            Urc::Other(_) => {}
        }
        Ok(())
    }

    async fn run_ussd(&mut self, request: u32, code: &str) -> Result<(), ChannelError> {
        if self.ussd.is_some() {
            self.driver.answer_ussd(request, Err("another ussd code is being run; try again later")).await;
            return Ok(());
        }
        for dialect in self.abilities.ussd_dialects() {
            let command = match ussd::request(code, dialect) {
                Ok(command) => command,
                Err(error) => {
                    self.driver.answer_ussd(request, Err(&error.to_string())).await;
                    return Ok(());
                }
            };
            let deadline = Instant::now() + self.driver.timing.ussd;
            match self.channel.ask(&command).await {
                Ok(answer) if answer.is_ok() => {
                    self.ussd = Some(PendingUssd { request, deadline });
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) => {
                    self.driver.answer_ussd(request, Err("the modem did not answer")).await;
                    return Err(error);
                }
            }
        }
        self.driver.answer_ussd(request, Err("the modem refused the ussd code")).await;
        Ok(())
    }

    async fn ussd_reply(&mut self, state: u8, text: &str, dcs: Option<u8>) -> Result<(), ChannelError> {
        // Without a request it is the network's own idea.
        let Some(pending) = self.ussd.take() else { return Ok(()) };
        let text = ussd::decode(text, dcs);
        let result = match (state, text.is_empty()) {
            (_, false) => Ok(text),
            (4, _) => Err("the network does not support this ussd code"),
            (5, _) => Err("the network did not answer in time"),
            _ => Err("the network ended the dialogue without a text"),
        };
        self.driver.answer_ussd(pending.request, result).await;
        if state == 1 {
            // The network waits for a choice that nobody will make.
            self.channel.ask("AT+CUSD=2").await?;
        }
        Ok(())
    }

    async fn expire_ussd(&mut self) {
        if let Some(pending) = self.ussd.take_if(|pending| Instant::now() >= pending.deadline) {
            self.driver.answer_ussd(pending.request, Err("the network did not answer in time")).await;
        }
    }
}
