-- Endpoints that are told of events, what waits for them, and how far the journal has been taken. See docs/webhooks.md.

CREATE TABLE webhooks (
    id {bytes} NOT NULL PRIMARY KEY,
    tenant {bytes} NOT NULL,
    -- Empty for the tenant's callbacks: each message has its own address.
    url TEXT NOT NULL,
    name TEXT NOT NULL,
    -- Patterns of events, separated by blanks.
    events TEXT NOT NULL,
    include_text {int} NOT NULL,
    enabled {int} NOT NULL,
    -- Why it was disabled by the controller.
    disabled_why TEXT,
    rate_per_s {int} NOT NULL,
    -- Sealed.
    secret {bytes} NOT NULL,
    former_secret {bytes},
    former_until_ms {int},
    created_ms {int} NOT NULL,
    last_success_ms {int},
    last_failure_ms {int},
    last_error TEXT,
    -- Since when nothing was delivered, while it fails.
    failing_since_ms {int}
) {strict};

CREATE INDEX webhooks_tenant ON webhooks (tenant, id);

CREATE TABLE webhook_parcels (
    webhook {bytes} NOT NULL,
    shard {int} NOT NULL,
    -- Place in the line: journal sequence and index.
    seq {int} NOT NULL,
    place {int} NOT NULL,
    subject {bytes} NOT NULL,
    kind TEXT NOT NULL,
    at_ms {int} NOT NULL,
    -- From when its two days count.
    since_ms {int} NOT NULL,
    data {bytes} NOT NULL,
    attempts {int} NOT NULL,
    next_ms {int} NOT NULL,
    -- 0 waits, 1 given up.
    dead {int} NOT NULL,
    dead_ms {int},
    last_error TEXT,
    PRIMARY KEY (webhook, dead, seq, place)
) {strict};

CREATE TABLE webhook_positions (
    shard {int} NOT NULL PRIMARY KEY,
    -- The leadership that may write.
    epoch {int} NOT NULL,
    position {int} NOT NULL
) {strict};
