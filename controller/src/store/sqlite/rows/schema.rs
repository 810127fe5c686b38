//! The tables of the rows file.

use rusqlite::Connection;

/// "FLrw"
pub(super) const APPLICATION: i32 = 0x464c_7277;
pub(super) const VERSION: u32 = 1;
/// Rows of 300 to 800 bytes: measured a tenth cheaper than 4 KiB, 16 KiB is no better.
pub(super) const PAGE_BYTES: u32 = 8_192;

const SCHEMA: &str = "
    CREATE TABLE shard (
        id INTEGER PRIMARY KEY,
        -- Journal sequence.
        position INTEGER NOT NULL
    ) STRICT;

    -- Tenants by a small number: it stands in every open message's index entry.
    CREATE TABLE tenant (
        n INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE
    ) STRICT;

    -- `n` grows in the order of acceptance within a shard; 2^16 of them are a block.
    CREATE TABLE message (
        n INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        shard INTEGER NOT NULL,
        tenant INTEGER NOT NULL,
        state INTEGER NOT NULL,
        class INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        place INTEGER NOT NULL,
        next_try_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        record BLOB NOT NULL
    ) STRICT;
    -- 1 scheduled, 2 queued, 3 dispatching, 4 unknown, 5 sent; above, they are final and leave these indexes.
    CREATE INDEX message_open ON message (shard, state, class, tenant, seq, place) WHERE state <= 5;
    CREATE INDEX message_due ON message (shard, next_try_ms) WHERE state = 1;
    CREATE INDEX message_overdue ON message (shard, expires_ms) WHERE state <= 5;

    CREATE TABLE inbound (
        n INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        shard INTEGER NOT NULL,
        record BLOB NOT NULL
    ) STRICT;
    CREATE TABLE inbound_position (
        shard INTEGER NOT NULL,
        device BLOB NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (shard, device)
    ) STRICT, WITHOUT ROWID;

    -- What rows can be found by: see terms.rs. The blocks tell which times each covers.
    CREATE TABLE message_term (term INTEGER PRIMARY KEY) STRICT;
    CREATE TABLE message_block (block INTEGER PRIMARY KEY, from_ms INTEGER NOT NULL, until_ms INTEGER NOT NULL) STRICT;
    CREATE TABLE inbound_term (term INTEGER PRIMARY KEY) STRICT;
    CREATE TABLE inbound_block (block INTEGER PRIMARY KEY, from_ms INTEGER NOT NULL, until_ms INTEGER NOT NULL) STRICT;

    -- By the hour first, so that writes stay together and old hours go as a whole.
    CREATE TABLE idempotency (
        hour INTEGER NOT NULL,
        tenant INTEGER NOT NULL,
        key BLOB NOT NULL,
        request BLOB NOT NULL,
        at_ms INTEGER NOT NULL,
        messages BLOB NOT NULL,
        PRIMARY KEY (hour, tenant, key)
    ) STRICT, WITHOUT ROWID;
";

pub(super) fn create(connection: &Connection, shards: u16) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(SCHEMA)?;
    for shard in 0..shards {
        transaction.execute("INSERT INTO shard VALUES (?1, 0)", [shard])?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}
