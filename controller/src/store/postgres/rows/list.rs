//! Lists for people: the newest first, by the rarest property that the filter names; each row found is checked as a whole.

use flotilla_protocol::id::{ShardId, TenantId};
use tokio_postgres::Row;

use super::super::session::{Failure, Session, bytes, id, int, signed};
use super::{Found, HOUR_MS, first_id, hour_of, page_limit};
use crate::domain::event::Inbound;
use crate::domain::message::Priority;
use crate::domain::record::MessageRecord;
use crate::store::rows::{Cursor, InboundFilter, MessageFilter, Page, Paged};
use crate::store::search::{self, Property, class_code};
use crate::store::{StoreError, codec};

/// Most rows that one page looks at: tens of milliseconds. The page then ends early, with a cursor.
const EXAMINED_MAX: usize = 20_000;
/// Rows of one question: what a page needs at first, more when few of them fit.
const STEP_MAX: usize = 1_024;
/// Hours of one question, growing.
const HOURS_MAX: usize = 64;
/// An id is made before the message is accepted, perhaps on another machine.
const SLACK_MS: u64 = HOUR_MS;

/// Where a walk is: everything at or above it has been looked at.
#[derive(Debug, Clone, Copy)]
struct Place {
    id: [u8; 16],
    order: (i64, i64),
}

const TOP: Place = Place { id: [0xff; 16], order: (i64::MAX, i64::MAX) };

pub(super) async fn messages(
    session: &mut Session,
    tenant: TenantId,
    shard: ShardId,
    filter: MessageFilter,
    page: Page,
) -> Found<Paged<MessageRecord>> {
    let mut below = TOP;
    if let Some(Cursor(cursor)) = page.cursor {
        let sql = "SELECT id, record FROM message WHERE id = $1 AND tenant = $2";
        let rows = session.query(sql, &[&cursor.as_slice(), &tenant.to_bytes().as_slice()]).await?;
        let Some(row) = rows.first() else { return Ok(Err(StoreError::Cursor)) };
        match message(row)? {
            Ok((place, _)) => below = place,
            Err(error) => return Ok(Err(error)),
        }
    }
    let limit = page_limit(page.limit);
    let mut walk = Walk::new(tenant, shard, &filter);
    let (mut items, mut examined, mut step) = (Vec::new(), 0, (limit + 1).min(STEP_MAX));
    loop {
        let rows = walk.next(session, below, step).await?;
        if rows.is_empty() {
            return Ok(Ok(Paged { items, next: None }));
        }
        let last = rows.len() - 1;
        for (n, row) in rows.iter().enumerate() {
            let (place, record) = match message(row)? {
                Ok(found) => found,
                Err(error) => return Ok(Err(error)),
            };
            below = place;
            examined += 1;
            let here = Cursor::of_message(record.submission.id);
            if record.submission.tenant == tenant && search::matches(&record, &filter) {
                items.push(record);
            }
            if items.len() == limit || examined >= EXAMINED_MAX {
                let more = n < last || !walk.next(session, below, 1).await?.is_empty();
                return Ok(Ok(Paged { items, next: more.then_some(here) }));
            }
        }
        step = (step * 2).clamp(64, STEP_MAX);
    }
}

fn message(row: &Row) -> Found<(Place, MessageRecord)> {
    let id = id(row, 0)?;
    Ok(codec::decode_record(bytes(row, 1)?).map(|record| {
        let order = (int(record.order.0), i64::from(record.order.1));
        (Place { id, order }, record)
    }))
}

/// Names and reads rows in falling order.
enum Walk {
    /// All of a tenant.
    Tenant { tenant: [u8; 16], from: [u8; 16], until: [u8; 16] },
    /// Those with any of some properties, the youngest hours first.
    Terms { properties: Vec<i64>, from: [u8; 16], until: [u8; 16], hours: Option<Vec<i64>>, span: usize },
    /// Those in some open states, in the order of acceptance.
    Open { shard: i64, tenant: [u8; 16], states: Vec<i64>, classes: Vec<i64> },
}

impl Walk {
    fn new(tenant: TenantId, shard: ShardId, filter: &MessageFilter) -> Self {
        let rarer = filter.to.is_some() || filter.client_ref.is_some() || filter.tag.is_some();
        if !rarer && !filter.states.is_empty() && filter.states.iter().all(|state| !state.is_final()) {
            let classes = filter.priority.as_ref().map_or(Priority::ALL.as_slice(), std::slice::from_ref);
            return Self::Open {
                shard: shard.0.into(),
                tenant: tenant.to_bytes(),
                states: filter.states.iter().map(|state| state.code().into()).collect(),
                classes: classes.iter().map(|class| class_code(*class).into()).collect(),
            };
        }
        let from = first_id(filter.from_ms.unwrap_or(0).saturating_sub(SLACK_MS));
        let until = filter.until_ms.map_or([0xff; 16], |until| first_id(until.saturating_add(SLACK_MS)));
        let properties = search::message_properties(tenant, filter);
        if properties == [Property::tenant(tenant)] {
            return Self::Tenant { tenant: tenant.to_bytes(), from, until };
        }
        let properties = properties.into_iter().map(|property| property.0.into()).collect();
        Self::Terms { properties, from, until, hours: None, span: 1 }
    }

    /// The next rows below a place, with their records; empty at the end.
    async fn next(&mut self, session: &mut Session, below: Place, step: usize) -> Result<Vec<Row>, Failure> {
        let limit = step as i64;
        match self {
            Self::Tenant { tenant, from, until } => {
                let sql = "SELECT id, record FROM message WHERE tenant = $1 AND id >= $2 AND id < $3 ORDER BY id DESC LIMIT $4";
                let below = below.id.min(*until);
                session.query(sql, &[&tenant.as_slice(), &from.as_slice(), &below.as_slice(), &limit]).await
            }
            Self::Open { shard, tenant, states, classes } => {
                let sql = "SELECT m.id, m.record FROM (
                        SELECT o.id, o.seq, o.place FROM unnest($3::bigint[]) AS s (state)
                        CROSS JOIN unnest($4::bigint[]) AS c (class) CROSS JOIN LATERAL (
                            SELECT id, seq, place FROM message_open WHERE shard = $1 AND tenant = $2 AND state = s.state
                            AND class = c.class AND (seq, place) < ($5, $6) ORDER BY seq DESC, place DESC LIMIT $7
                        ) AS o ORDER BY o.seq DESC, o.place DESC LIMIT $7
                    ) AS f JOIN message AS m ON m.id = f.id ORDER BY f.seq DESC, f.place DESC";
                let (seq, place) = below.order;
                session.query(sql, &[shard, &tenant.as_slice(), states, classes, &seq, &place, &limit]).await
            }
            Self::Terms { properties, from, until, hours, span } => {
                let below = below.id.min(*until);
                let hours = match hours {
                    Some(hours) => hours,
                    none => none.insert(all_hours(session, hour_of(*from), hour_of(below)).await?),
                };
                in_hours(session, properties, from, below, hours, span, limit).await
            }
        }
    }
}

/// The hours that have rows, the youngest first.
async fn all_hours(session: &mut Session, from: i64, until: i64) -> Result<Vec<i64>, Failure> {
    let sql = "SELECT hour FROM message_hour WHERE hour BETWEEN $1 AND $2 ORDER BY hour DESC";
    session.query(sql, &[&from, &until]).await?.iter().map(|row| signed(row, 0)).collect()
}

async fn in_hours(
    session: &mut Session,
    properties: &[i64],
    from: &[u8; 16],
    below: [u8; 16],
    hours: &mut Vec<i64>,
    span: &mut usize,
    limit: i64,
) -> Result<Vec<Row>, Failure> {
    let sql = "SELECT m.id, m.record FROM (
            SELECT DISTINCT t.id FROM unnest($1::bigint[]) AS h (hour) CROSS JOIN unnest($2::bigint[]) AS p (property)
            CROSS JOIN LATERAL (
                SELECT id FROM message_term WHERE hour = h.hour AND property = p.property AND id >= $3 AND id < $4
                ORDER BY id DESC LIMIT $5
            ) AS t ORDER BY t.id DESC LIMIT $5
        ) AS f JOIN message AS m ON m.id = f.id ORDER BY m.id DESC";
    let youngest = hour_of(below);
    hours.retain(|hour| *hour <= youngest);
    while !hours.is_empty() {
        let some = &hours[..hours.len().min(*span)];
        let rows = session.query(sql, &[&some, &properties, &from.as_slice(), &below.as_slice(), &limit]).await?;
        if !rows.is_empty() {
            return Ok(rows);
        }
        hours.drain(..some.len());
        *span = (*span * 4).min(HOURS_MAX);
    }
    Ok(Vec::new())
}

pub(super) async fn inbound(
    session: &mut Session,
    tenant: TenantId,
    filter: InboundFilter,
    page: Page,
) -> Found<Paged<Inbound>> {
    let sql = "SELECT i.n, i.record FROM inbound_term AS t JOIN inbound AS i ON i.n = t.n
        WHERE t.property = $1 AND t.n < $2 ORDER BY t.n DESC LIMIT $3";
    let mut below = i64::MAX;
    if let Some(Cursor(cursor)) = page.cursor {
        let find = "SELECT n FROM inbound WHERE id = $1 AND tenant = $2";
        let rows = session.query(find, &[&cursor.as_slice(), &tenant.to_bytes().as_slice()]).await?;
        let Some(row) = rows.first() else { return Ok(Err(StoreError::Cursor)) };
        below = signed(row, 0)?;
    }
    let property = i64::from(search::inbound_property(tenant, &filter).0);
    let limit = page_limit(page.limit);
    let (mut items, mut examined, mut step) = (Vec::new(), 0, (limit + 1).min(STEP_MAX));
    loop {
        let rows = session.query(sql, &[&property, &below, &(step as i64)]).await?;
        if rows.is_empty() {
            return Ok(Ok(Paged { items, next: None }));
        }
        let last = rows.len() - 1;
        for (n, row) in rows.iter().enumerate() {
            let inbound = match codec::decode_inbound(bytes(row, 1)?) {
                Ok(inbound) => inbound,
                Err(error) => return Ok(Err(error)),
            };
            below = signed(row, 0)?;
            examined += 1;
            let here = Cursor::of_inbound(inbound.id);
            if inbound.tenant == tenant && search::inbound_matches(&inbound, &filter) {
                items.push(inbound);
            }
            if items.len() == limit || examined >= EXAMINED_MAX {
                let more = n < last || !session.query(sql, &[&property, &below, &1i64]).await?.is_empty();
                return Ok(Ok(Paged { items, next: more.then_some(here) }));
            }
        }
        step = (step * 2).clamp(64, STEP_MAX);
    }
}
