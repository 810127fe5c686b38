-- Accounts at online SMS services and SMSCs, and which of our attempts their ids mean.

CREATE TABLE providers (
    id {bytes} PRIMARY KEY,
    tenant {bytes} NOT NULL REFERENCES tenants (id),
    maker TEXT NOT NULL,
    name TEXT NOT NULL,
    enabled {int} NOT NULL DEFAULT 1,
    -- A JSON object: address, fields, senders, limits.
    settings TEXT NOT NULL,
    -- A JSON object of texts, sealed for this row.
    secrets_sealed {bytes} NOT NULL,
    -- 128 random bits in the path of its callbacks.
    callback_token {bytes} NOT NULL,
    -- Grows with each change; how other controllers notice it.
    version {int} NOT NULL,
    created_ms {int} NOT NULL,
    changed_ms {int} NOT NULL,
    -- A JSON object of what its maker has told: balance, prices.
    noted TEXT NOT NULL DEFAULT '{}'
) {strict};
CREATE INDEX providers_by_tenant ON providers (tenant, id);

CREATE TABLE provider_references (
    provider {bytes} NOT NULL,
    -- The maker's id.
    reference TEXT NOT NULL,
    message {bytes} NOT NULL,
    attempt {int} NOT NULL,
    segments {int} NOT NULL,
    -- From 0, where each segment has an id of its own.
    segment {int},
    at_ms {int} NOT NULL,
    PRIMARY KEY (provider, reference)
) {strict};
CREATE INDEX provider_references_by_age ON provider_references (at_ms);
