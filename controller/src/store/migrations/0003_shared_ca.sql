-- The CA moves into the store, so that every controller of a cluster has the same one.

-- The private key (PKCS #8), sealed with the cluster's key (see `secrets`).
ALTER TABLE ca_keys ADD COLUMN key_sealed {bytes};

CREATE TABLE ca_state (
    -- There is one CA: one row, number 1. The first insert wins.
    id {int} PRIMARY KEY CHECK (id = 1),
    -- Grows with each step of a rotation; a step takes place only on the version that it was decided on.
    version {int} NOT NULL,
    trust_domain TEXT NOT NULL
) {strict};

-- What was revoked lately: each controller asks every few seconds.
CREATE INDEX certificates_by_revocation ON certificates (revoked_ms);
