//! Keeps house: makes the partitions for the weeks to come, and drops what has been ended for longer than it is to be kept.
//!
//! Open messages are never dropped: a week goes when nothing in it is open any more. What lies in no week's partition (ids of a
//! wild clock, or a database without partitions) is deleted slice by slice.

use std::sync::Weak;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use tokio::time::sleep;
use tokio_postgres::error::SqlState;

use super::super::schema::LOCK_SCHEMA;
use super::super::session::{BULK, Connector, Failure, Session, bytes, id, int, signed};
use super::{HOUR_MS, first_id, hour_of};
use crate::store::{codec, search};

const WEEK_HOURS: i64 = 7 * 24;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Partitions are made for ids of at most this many weeks ago, and from now; others are in no partition of their own.
const WEEKS_BACK: i64 = 520;
const WEEKS_AHEAD: i64 = 2;
const EVERY: Duration = Duration::from_secs(1_800);
/// Rows deleted in one transaction.
const SLICE: i64 = 5_000;

pub(in super::super) struct House {
    connector: Connector,
    retention_days: u32,
    partitions: bool,
    /// The weeks that have partitions, or never will.
    weeks: Mutex<FxHashSet<i64>>,
}

impl House {
    pub(super) fn week_of(id: [u8; 16]) -> i64 {
        hour_of(id) / WEEK_HOURS
    }

    pub(in super::super) async fn open(connector: Connector, retention_days: u32) -> Result<Self, Failure> {
        let mut session = connector.connect().await?;
        // Only a database with partitions knows this relation.
        let partitions = match session.query("SELECT 1::bigint FROM message_rest LIMIT 1", &[]).await {
            Ok(_) => true,
            Err(Failure::Refused { state, .. }) if state == SqlState::UNDEFINED_TABLE => false,
            Err(failure) => return Err(failure),
        };
        let rows = session.query("SELECT week FROM message_week", &[]).await?;
        let weeks = rows.iter().map(|row| signed(row, 0)).collect::<Result<_, _>>()?;
        Ok(Self { connector, retention_days, partitions, weeks: Mutex::new(weeks) })
    }

    /// Makes the partitions of these weeks, where there are none.
    pub(super) async fn make_weeks(&self, weeks: &FxHashSet<i64>) -> Result<(), Failure> {
        if !self.partitions {
            return Ok(());
        }
        let now = Self::week_of(first_id(now_ms()));
        let missing: Vec<i64> = {
            let known = self.weeks.lock();
            let near = (now - WEEKS_BACK)..=(now + WEEKS_AHEAD);
            weeks.iter().copied().filter(|week| near.contains(week) && !known.contains(week)).collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        let mut session = self.connector.connect().await?;
        for week in missing {
            make_week(&mut session, week).await?;
            self.weeks.lock().insert(week);
        }
        Ok(())
    }

    /// One round: the weeks to come, and what is too old.
    pub(in super::super) async fn round(&self, now_ms: u64) -> Result<(), Failure> {
        let now = Self::week_of(first_id(now_ms));
        self.make_weeks(&(now..=now + 1).collect()).await?;
        if self.retention_days > 0 {
            self.forget(now_ms.saturating_sub(u64::from(self.retention_days) * DAY_MS)).await?;
        }
        Ok(())
    }

    /// Drops what was accepted before a time and is ended.
    async fn forget(&self, before_ms: u64) -> Result<(), Failure> {
        let mut session = self.connector.connect().await?;
        session.patient(BULK).await?;
        let end = Self::week_of(first_id(before_ms));
        let rows = session.query("SELECT week FROM message_week WHERE week < $1 ORDER BY week", &[&end]).await?;
        for row in &rows {
            let week = signed(row, 0)?;
            session.batch("BEGIN").await?;
            let dropped = drop_week(&mut session, week).await;
            let done = if dropped.is_ok() { "COMMIT" } else { "ROLLBACK" };
            session.batch(done).await?;
            if dropped? {
                self.weeks.lock().remove(&week);
                tracing::info!(week, "dropped a week of messages");
            }
        }
        forget_rest(&mut session, self.partitions, before_ms).await?;
        while forget_inbound(&mut session, before_ms).await? {}
        Ok(())
    }
}

/// Keeps house until the store is gone.
pub(super) async fn keep(house: Weak<House>) {
    loop {
        let Some(here) = house.upgrade() else { return };
        if let Err(failure) = here.round(now_ms()).await {
            tracing::warn!(%failure, "weeks of messages could not be made or dropped; trying again later");
        }
        drop(here);
        sleep(EVERY).await;
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// First id and first hour of a week.
fn bounds(week: i64) -> ([u8; 16], i64) {
    let hour = week * WEEK_HOURS;
    (first_id(hour.cast_unsigned() * HOUR_MS), hour)
}

async fn make_week(session: &mut Session, week: i64) -> Result<(), Failure> {
    let ((first, from), (end, until)) = (bounds(week), bounds(week + 1));
    let hex = |id: &[u8]| data_encoding::HEXLOWER.encode(id);
    let made = session
        .batch(&format!(
            "BEGIN; SELECT id FROM flotilla_lock WHERE id = {LOCK_SCHEMA} FOR UPDATE;
             CREATE TABLE IF NOT EXISTS message_w{week} PARTITION OF message FOR VALUES FROM ('\\x{}') TO ('\\x{}');
             CREATE TABLE IF NOT EXISTS message_term_w{week} PARTITION OF message_term FOR VALUES FROM ({from}) TO ({until});
             INSERT INTO message_week VALUES ({week}) ON CONFLICT DO NOTHING; COMMIT",
            hex(&first),
            hex(&end),
        ))
        .await;
    match made {
        // Rows of that week lie where no week's are, since before it was made. They stay there.
        Err(Failure::Refused { state, .. }) if state == SqlState::CHECK_VIOLATION => {
            tracing::warn!(week, "a week of messages gets no partition: some of its messages were here before");
            session.batch("ROLLBACK").await
        }
        Err(failure) => {
            let _ = session.batch("ROLLBACK").await;
            Err(failure)
        }
        Ok(()) => Ok(()),
    }
}

/// False when something in it is still open.
async fn drop_week(session: &mut Session, week: i64) -> Result<bool, Failure> {
    let ((first, from), (end, until)) = (bounds(week), bounds(week + 1));
    session.query("SELECT id FROM flotilla_lock WHERE id = $1 FOR UPDATE", &[&LOCK_SCHEMA]).await?;
    let sql = "SELECT id FROM message_open WHERE id >= $1 AND id < $2 LIMIT 1";
    if !session.query(sql, &[&first.as_slice(), &end.as_slice()]).await?.is_empty() {
        return Ok(false);
    }
    session
        .batch(&format!(
            "DROP TABLE IF EXISTS message_w{week}; DROP TABLE IF EXISTS message_term_w{week};
             DELETE FROM message_week WHERE week = {week}; DELETE FROM message_hour WHERE hour >= {from} AND hour < {until}"
        ))
        .await?;
    Ok(true)
}

/// What lies in no week's partition.
async fn forget_rest(session: &mut Session, partitions: bool, before_ms: u64) -> Result<(), Failure> {
    let (messages, terms) = match partitions {
        true => (
            "DELETE FROM message_rest WHERE id IN (SELECT id FROM message_rest AS m WHERE id < $1
             AND NOT EXISTS (SELECT 1 FROM message_open AS o WHERE o.id = m.id) ORDER BY id LIMIT $2)",
            "DELETE FROM message_term_rest WHERE (hour, property, id) IN (SELECT hour, property, id FROM message_term_rest AS t
             WHERE hour < $1 AND NOT EXISTS (SELECT 1 FROM message_open AS o WHERE o.id = t.id) LIMIT $2)",
        ),
        false => (
            "DELETE FROM message WHERE id IN (SELECT id FROM message AS m WHERE id < $1
             AND NOT EXISTS (SELECT 1 FROM message_open AS o WHERE o.id = m.id) ORDER BY id LIMIT $2)",
            "DELETE FROM message_term WHERE (hour, property, id) IN (SELECT hour, property, id FROM message_term AS t
             WHERE hour < $1 AND NOT EXISTS (SELECT 1 FROM message_open AS o WHERE o.id = t.id) LIMIT $2)",
        ),
    };
    let before = first_id(before_ms);
    while session.execute(messages, &[&before.as_slice(), &SLICE]).await? > 0 {}
    while session.execute(terms, &[&int(before_ms / HOUR_MS), &SLICE]).await? > 0 {}
    Ok(())
}

/// A slice of the inbound messages; true when there may be more.
async fn forget_inbound(session: &mut Session, before_ms: u64) -> Result<bool, Failure> {
    let sql = "SELECT n, record, id FROM inbound WHERE received_ms < $1 ORDER BY received_ms LIMIT $2";
    let rows = session.query(sql, &[&int(before_ms), &SLICE]).await?;
    let (mut numbers, mut properties, mut of) = (Vec::new(), Vec::new(), Vec::new());
    for row in &rows {
        let n = signed(row, 0)?;
        numbers.push(n);
        // Terms of what does not decode stay, and mislead nobody.
        match codec::decode_inbound(bytes(row, 1)?) {
            Ok(inbound) => search::of_inbound(&inbound).iter().for_each(|property| {
                properties.push(i64::from(property.0));
                of.push(n);
            }),
            Err(error) => {
                tracing::warn!(%error, id = data_encoding::HEXLOWER.encode(&id(row, 2)?), "forgot an inbound message")
            }
        }
    }
    if numbers.is_empty() {
        return Ok(false);
    }
    let terms = "DELETE FROM inbound_term WHERE (property, n) IN (SELECT * FROM unnest($1::bigint[], $2::bigint[]))";
    session.execute(terms, &[&properties, &of]).await?;
    session.execute("DELETE FROM inbound WHERE n = ANY($1)", &[&numbers]).await?;
    Ok(true)
}
