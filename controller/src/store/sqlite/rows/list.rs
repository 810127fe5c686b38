//! Lists for people: the newest first, by the rarest property that the filter names; each row found is checked as a whole.

use flotilla_protocol::id::{ShardId, TenantId};
use rusqlite::{Connection, OptionalExtension, params};

use super::super::store_error;
use super::load::Queue;
use super::terms::{self, block_of};
use super::{int, load, page_limit};
use crate::domain::event::Inbound;
use crate::domain::message::Priority;
use crate::domain::record::MessageRecord;
use crate::store::rows::{Cursor, InboundFilter, MessageFilter, Page, Paged};
use crate::store::search::{self, Property, class_code};
use crate::store::{StoreError, codec};

/// Most rows that one page looks at: tens of milliseconds. The page then ends early, with a cursor.
const EXAMINED_MAX: usize = 20_000;
/// Rows that are named before they are read.
const STEP: usize = 256;

pub(super) fn messages(
    connection: &Connection,
    tenant: TenantId,
    filter: MessageFilter,
    page: Page,
) -> Result<Paged<MessageRecord>, StoreError> {
    // One picture for all its statements.
    let _snapshot = connection.unchecked_transaction().map_err(store_error)?;
    let start = start(connection, "message", page.cursor, |bytes| {
        codec::decode_record(bytes).map(|record| record.submission.tenant == tenant)
    })?;
    let rows: Box<dyn Walk + '_> = match open_only(connection, tenant, &filter)? {
        Some(open) => Box::new(open),
        None => Box::new(TermWalk {
            connection,
            table: "message",
            properties: search::message_properties(tenant, &filter),
            from_ms: filter.from_ms,
            until_ms: filter.until_ms,
        }),
    };
    let read = |n| load::by_number(connection, n);
    let fits = |record: &MessageRecord| record.submission.tenant == tenant && search::matches(record, &filter);
    walk(rows.as_ref(), start, page.limit, read, fits, |record| Cursor::of_message(record.submission.id))
}

pub(super) fn inbound(
    connection: &Connection,
    tenant: TenantId,
    filter: InboundFilter,
    page: Page,
) -> Result<Paged<Inbound>, StoreError> {
    let _snapshot = connection.unchecked_transaction().map_err(store_error)?;
    let start = start(connection, "inbound", page.cursor, |bytes| {
        codec::decode_inbound(bytes).map(|inbound| inbound.tenant == tenant)
    })?;
    let property = search::inbound_property(tenant, &filter);
    let (from_ms, until_ms) = (filter.from_ms, filter.until_ms);
    let rows = TermWalk { connection, table: "inbound", properties: vec![property], from_ms, until_ms };
    let read = |n| {
        let find = || {
            let mut select = connection.prepare_cached("SELECT record FROM inbound WHERE n = ?1")?;
            select.query_row([n], |row| Ok(codec::decode_inbound(row.get_ref(0)?.as_blob()?))).optional()
        };
        find().map_err(store_error)?.transpose()
    };
    let fits = |inbound: &Inbound| inbound.tenant == tenant && search::inbound_matches(inbound, &filter);
    walk(&rows, start, page.limit, read, fits, |inbound| Cursor::of_inbound(inbound.id))
}

/// Names rows in falling order.
trait Walk {
    /// The next rows below `below`; empty at the end.
    fn next(&self, below: i64) -> Result<Vec<i64>, StoreError>;
}

fn walk<T>(
    rows: &dyn Walk,
    start: i64,
    limit: usize,
    read: impl Fn(i64) -> Result<Option<T>, StoreError>,
    fits: impl Fn(&T) -> bool,
    cursor: impl Fn(&T) -> Cursor,
) -> Result<Paged<T>, StoreError> {
    let limit = page_limit(limit);
    let mut items = Vec::new();
    let mut examined = 0;
    let mut below = start;
    loop {
        let names = rows.next(below)?;
        if names.is_empty() {
            return Ok(Paged { items, next: None });
        }
        for n in names {
            below = n;
            examined += 1;
            let Some(item) = read(n)? else { continue };
            let here = cursor(&item);
            if fits(&item) {
                items.push(item);
            }
            if items.len() == limit || examined >= EXAMINED_MAX {
                let more = !rows.next(below)?.is_empty();
                return Ok(Paged { items, next: more.then_some(here) });
            }
        }
    }
}

/// The row number that a cursor stands for; above all for none.
fn start(
    connection: &Connection,
    table: &str,
    cursor: Option<Cursor>,
    ours: impl Fn(&[u8]) -> Result<bool, StoreError>,
) -> Result<i64, StoreError> {
    let Some(Cursor(id)) = cursor else { return Ok(terms::N_MAX) };
    let find = || {
        let mut select = connection.prepare_cached(&format!("SELECT n, record FROM {table} WHERE id = ?1"))?;
        select.query_row([id], |row| Ok((row.get(0)?, ours(row.get_ref(1)?.as_blob()?)))).optional()
    };
    match find().map_err(store_error)? {
        Some((n, Ok(true))) => Ok(n),
        Some((_, Err(error))) => Err(error),
        Some((_, Ok(false))) | None => Err(StoreError::Cursor),
    }
}

/// Rows with any of some properties, block by block.
struct TermWalk<'a> {
    connection: &'a Connection,
    table: &'static str,
    properties: Vec<Property>,
    from_ms: Option<u64>,
    until_ms: Option<u64>,
}

impl Walk for TermWalk<'_> {
    fn next(&self, below: i64) -> Result<Vec<i64>, StoreError> {
        self.step(below).map_err(store_error)
    }
}

impl TermWalk<'_> {
    fn step(&self, below: i64) -> rusqlite::Result<Vec<i64>> {
        // Whether a block has rows in the time that is asked for is known without looking into it.
        let mut blocks = self.connection.prepare_cached(&format!(
            "SELECT block FROM {}_block WHERE block <= ?1 AND until_ms >= ?2 AND from_ms < ?3 ORDER BY block DESC",
            self.table
        ))?;
        let (from, until) = (int(self.from_ms.unwrap_or(0)), self.until_ms.map_or(i64::MAX, int));
        let mut blocks = blocks.query(params![block_of(below), from, until])?;
        while let Some(row) = blocks.next()? {
            let found = self.in_block(row.get(0)?, below)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    fn in_block(&self, block: i64, below: i64) -> rusqlite::Result<Vec<i64>> {
        let mut select = self.connection.prepare_cached(&format!(
            "SELECT term FROM {}_term WHERE term >= ?1 AND term <= ?2 ORDER BY term DESC LIMIT ?3",
            self.table
        ))?;
        let mut found = Vec::new();
        for property in &self.properties {
            let (first, last) = terms::range(block, *property);
            let last = if block_of(below) == block { terms::term(below, *property) - 1 } else { last };
            let terms = select.query_map(params![first, last, STEP as i64], |row| row.get(0).map(terms::row_of))?;
            for n in terms {
                found.push(n?);
            }
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.dedup();
        // What a longer list has beyond this is not known to be complete.
        found.truncate(STEP);
        Ok(found)
    }
}

/// Rows in some open states, by the index of the open ones.
struct OpenWalk<'a> {
    connection: &'a Connection,
    shard: u16,
    queues: Vec<Queue>,
}

impl Walk for OpenWalk<'_> {
    fn next(&self, below: i64) -> Result<Vec<i64>, StoreError> {
        // The index is in the order of acceptance, and so are the numbers of one tenant's rows.
        let step = || {
            let mut bound = self.connection.prepare_cached("SELECT seq, place FROM message WHERE n = ?1")?;
            let bound = bound.query_row([below], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            let (seq, place): (i64, u32) = bound.unwrap_or((i64::MAX, u32::MAX));
            let mut select = self.connection.prepare_cached(
                "SELECT n FROM message INDEXED BY message_open WHERE state <= 5 AND shard = ?1 AND state = ?2 AND class = ?3 AND tenant = ?4
                 AND (seq, place) < (?5, ?6) ORDER BY seq DESC, place DESC LIMIT ?7",
            )?;
            let mut found = Vec::new();
            for Queue { state, class, tenant } in &self.queues {
                let params = params![self.shard, state, class, tenant, seq, place, STEP as i64];
                for n in select.query_map(params, |row| row.get::<_, i64>(0))? {
                    found.push(n?);
                }
            }
            found.sort_unstable_by(|a, b| b.cmp(a));
            found.truncate(STEP);
            Ok(found)
        };
        step().map_err(store_error)
    }
}

/// The walk over queues, when the filter has open states only and nothing rarer.
fn open_only<'a>(
    connection: &'a Connection,
    tenant: TenantId,
    filter: &MessageFilter,
) -> Result<Option<OpenWalk<'a>>, StoreError> {
    let rarer = filter.to.is_some() || filter.client_ref.is_some() || filter.tag.is_some();
    if rarer || filter.states.is_empty() || filter.states.iter().any(|state| state.is_final()) {
        return Ok(None);
    }
    let shard = ShardId::of(tenant, load::shards(connection)?).0;
    let mut queues = Vec::new();
    // A tenant that is not known has none.
    if let Some(tenant) = load::tenant_number(connection, tenant)? {
        let classes = filter.priority.as_ref().map_or(Priority::ALL.as_slice(), std::slice::from_ref);
        for state in &filter.states {
            let queue = |class| Queue { state: state.code(), class: class_code(class), tenant };
            queues.extend(classes.iter().copied().map(queue));
        }
    }
    Ok(Some(OpenWalk { connection, shard, queues }))
}
