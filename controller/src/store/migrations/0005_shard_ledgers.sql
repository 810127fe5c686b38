-- The ledger of each shard: what the journal says about routes, up to a position. The next leader continues from it, and the
-- journal is trimmed behind it. From this step on events and records have routes of providers, charges and reasons, which older
-- programs cannot read.

CREATE TABLE shard_ledgers (
    shard {int} NOT NULL PRIMARY KEY,
    -- The leadership that may write. It is raised when a shard is gained, and from then on lower ones are refused.
    epoch {int} NOT NULL,
    -- Journal sequence up to which the data are complete.
    position {int} NOT NULL,
    data {bytes} NOT NULL
) {strict};
