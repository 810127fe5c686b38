-- Snapshots of the statistics: what the next leader of a shard continues from. See docs/aggregates.md.

CREATE TABLE aggregate_snapshots (
    shard {int} NOT NULL PRIMARY KEY,
    -- The leadership that may write. It is raised when a shard is gained, and from then on lower ones are refused.
    epoch {int} NOT NULL,
    -- Journal sequence up to which the parts are complete; 0 while there is no snapshot.
    position {int} NOT NULL
) {strict};

-- The rows of one shard in one hour or day, packed into numbered pieces. A part is replaced as a whole.
CREATE TABLE aggregate_parts (
    shard {int} NOT NULL,
    -- 1 hours, 2 days; which one since 1970.
    step {int} NOT NULL,
    bucket {int} NOT NULL,
    piece {int} NOT NULL,
    -- Journal sequence up to which this part is complete, at least.
    position {int} NOT NULL,
    codec {int} NOT NULL,
    data {bytes} NOT NULL,
    PRIMARY KEY (shard, step, bucket, piece)
) {strict};
