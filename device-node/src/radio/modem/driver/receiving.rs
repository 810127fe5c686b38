//! What arrives: direct deliveries, stored ones, and the reading through of storage.

use super::super::at::{Command, Final, fields, hex, number, tpdu_of};
use super::super::channel::ChannelError;
use super::super::errors::code_of;
use super::super::inbox::{Source, Taken};
use super::session::Session;
use flotilla_protocol::wire::ErrorDomain;

/// Places of a storage that are looked at one by one when it can not be listed.
const PLACES_MAX: u16 = 255;

/// A line pair of `AT+CMGL` or `AT+CMGR`.
struct Entry {
    /// 0 and 1 were received, 2 and 3 were written by somebody.
    status: u8,
    tpdu: Vec<u8>,
}

impl Session<'_> {
    /// A direct delivery: kept, then acknowledged, then understood. What can not be kept is not acknowledged: the network
    /// will bring it again.
    pub(super) async fn take_direct(&mut self, tpdu: &[u8]) -> Result<(), ChannelError> {
        let key = match self.driver.spool.put(tpdu).await {
            Ok(key) => key,
            Err(error) => {
                tracing::error!(modem = self.driver.label, %error, "a received message can not be kept, so it is not acknowledged");
                return Ok(());
            }
        };
        self.acknowledge().await?;
        let taken = self.driver.inbox.take(tpdu, Source::Spool(key), self.driver.clock.now());
        if taken.unreadable {
            tracing::warn!(modem = self.driver.label, octets = tpdu.len(), "a received message can not be read");
            self.trash.push_back(Source::Spool(key));
        }
        self.tell(taken).await;
        Ok(())
    }

    /// Keeps and acknowledges what was delivered directly during a command, before anything else is done.
    pub(super) async fn acknowledge_waiting(&mut self) -> Result<(), ChannelError> {
        while let Some(tpdu) = self.channel.direct_notice() {
            self.take_direct(&tpdu).await?;
        }
        Ok(())
    }

    async fn acknowledge(&mut self) -> Result<(), ChannelError> {
        if !self.abilities.acknowledges {
            return Ok(());
        }
        let answer = self.channel.ask(self.abilities.acknowledgement).await?;
        // 340: no acknowledgement was expected.
        if answer.is_ok() || code_of(&answer.end) == Some((ErrorDomain::Cms, 340)) {
            return Ok(());
        }
        if self.abilities.acknowledgement == "AT+CNMA" && self.channel.ask("AT+CNMA=1").await?.is_ok() {
            self.abilities.acknowledgement = "AT+CNMA=1";
        }
        Ok(())
    }

    /// Reads one stored message.
    pub(super) async fn take_stored(&mut self, memory: String, index: u16) -> Result<(), ChannelError> {
        if !self.abilities.select(&mut self.channel, &memory).await? {
            return Ok(());
        }
        if let Some(entry) = self.read_place(index).await? {
            self.take_entry(entry, Source::Stored { memory, index }).await;
        }
        Ok(())
    }

    /// Reads everything that is stored: at the start, after notices were lost, when the storage is full.
    pub(super) async fn sweep(&mut self) -> Result<(), ChannelError> {
        self.sweep_due = false;
        let is_full = std::mem::take(&mut self.memory_full);
        if is_full {
            tracing::warn!(modem = self.driver.label, "message storage is full");
            self.make_room().await?;
        }
        for memory in self.abilities.memories.clone() {
            if !self.abilities.select(&mut self.channel, &memory).await? {
                continue;
            }
            for (index, entry) in self.list().await? {
                let source = Source::Stored { memory: memory.clone(), index };
                let unreadable = self.take_entry(entry, source.clone()).await;
                if unreadable && is_full {
                    tracing::warn!(
                        modem = self.driver.label,
                        memory,
                        index,
                        "an unreadable message is deleted to make room"
                    );
                    self.trash.push_back(source);
                }
            }
        }
        Ok(())
    }

    /// Moves the parts of incomplete messages from the modem's storage to the spool.
    async fn make_room(&mut self) -> Result<(), ChannelError> {
        for (tag, source, tpdu) in self.driver.inbox.waiting_in_storage() {
            match self.driver.spool.put(&tpdu).await {
                Ok(key) => {
                    self.driver.inbox.moved(tag, Source::Spool(key));
                    self.delete(source).await?;
                }
                Err(error) => {
                    tracing::error!(modem = self.driver.label, %error, "no room can be made in the message storage");
                    break;
                }
            }
        }
        Ok(())
    }

    /// Deletes what the outbox has.
    pub(super) async fn delete(&mut self, source: Source) -> Result<(), ChannelError> {
        match source {
            Source::Spool(key) => {
                if let Err(error) = self.driver.spool.remove(key).await {
                    tracing::warn!(modem = self.driver.label, %error, "a received message stays in the spool");
                }
            }
            Source::Stored { memory, index } => {
                if self.abilities.select(&mut self.channel, &memory).await? {
                    let command = Command::new(format!("AT+CMGD={index}"));
                    let deleted = self.channel.command(command, self.channel.slow()).await?;
                    if !deleted.is_ok() {
                        tracing::warn!(modem = self.driver.label, memory, index, "a stored message can not be deleted");
                    }
                }
            }
        }
        Ok(())
    }

    /// Offers what a former session has kept.
    pub(super) async fn take_spooled(&mut self) {
        let kept = match self.driver.spool.load().await {
            Ok(kept) => kept,
            Err(error) => {
                tracing::error!(modem = self.driver.label, %error, "the spool of received messages can not be read");
                return;
            }
        };
        for (key, tpdu) in kept {
            let taken = self.driver.inbox.take(&tpdu, Source::Spool(key), self.driver.clock.now());
            self.tell(taken).await;
        }
    }

    pub(super) async fn expire_parts(&mut self) {
        for event in self.driver.inbox.expire(self.driver.clock.now()) {
            self.driver.status.emit(event).await;
        }
    }

    /// True when the message was received and can not be read.
    async fn take_entry(&mut self, entry: Entry, source: Source) -> bool {
        if entry.status > 1 {
            return false;
        }
        let taken = self.driver.inbox.take(&entry.tpdu, source, self.driver.clock.now());
        let unreadable = taken.unreadable;
        self.tell(taken).await;
        unreadable
    }

    async fn tell(&mut self, taken: Taken) {
        self.trash.extend(taken.forget);
        for event in taken.events {
            self.driver.status.emit(event).await;
        }
    }

    async fn list(&mut self) -> Result<Vec<(u16, Entry)>, ChannelError> {
        if self.abilities.lists {
            let listed = self.channel.command(Command::new("AT+CMGL=4"), self.channel.slow()).await?;
            if listed.is_ok() {
                let pairs = listed.lines.windows(2).filter(|pair| pair[0].starts_with("+CMGL"));
                return Ok(pairs.filter_map(|pair| Some((number(&fields(&pair[0]), 0)?, entry(pair, 1)?))).collect());
            }
            if listed.end == Final::Error {
                self.abilities.lists = false;
            }
        }
        self.list_one_by_one().await
    }

    async fn list_one_by_one(&mut self) -> Result<Vec<(u16, Entry)>, ChannelError> {
        let sizes = self.channel.ask("AT+CPMS?").await?;
        let fields = sizes.first().map(fields).unwrap_or_default();
        let (used, total) = (number(&fields, 1).unwrap_or(usize::MAX), number(&fields, 2).unwrap_or(PLACES_MAX));
        let mut found = Vec::new();
        // Some makers count places from 0.
        for index in 0..=total.min(PLACES_MAX) {
            if found.len() >= used {
                break;
            }
            if let Some(entry) = self.read_place(index).await? {
                found.push((index, entry));
            }
        }
        Ok(found)
    }

    async fn read_place(&mut self, index: u16) -> Result<Option<Entry>, ChannelError> {
        let read = self.channel.command(Command::new(format!("AT+CMGR={index}")), self.channel.slow()).await?;
        let pair = read.lines.windows(2).find(|pair| pair[0].starts_with("+CMGR"));
        Ok(pair.filter(|_| read.is_ok()).and_then(|pair| entry(pair, 0)))
    }
}

/// Header and PDU; the status is field `status_field` of the header, the TPDU's length its last.
fn entry(pair: &[String], status_field: usize) -> Option<Entry> {
    let header = fields(&pair[0]);
    let pdu = hex(&pair[1])?;
    let tpdu = tpdu_of(&pdu, number(&header, header.len() - 1))?.to_vec();
    Some(Entry { status: number(&header, status_field)?, tpdu })
}
