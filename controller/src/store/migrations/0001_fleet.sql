-- Who there is: tenants, their keys, their devices and SIMs; the CA and what it issued; who changed what.

CREATE TABLE tenants (
    id {bytes} PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    disabled {int} NOT NULL DEFAULT 0,
    created_ms {int} NOT NULL
) {strict};

CREATE TABLE api_keys (
    id {bytes} PRIMARY KEY,
    -- Null for the installation's own key, which stands above tenants.
    tenant {bytes} REFERENCES tenants (id),
    name TEXT NOT NULL,
    -- SHA-256 of the secret; the secret itself is shown once and never kept.
    hash {bytes} NOT NULL UNIQUE,
    -- Words separated by spaces: send read admin.
    scopes TEXT NOT NULL,
    -- Null for no limit.
    rate_per_min {int},
    disabled {int} NOT NULL DEFAULT 0,
    created_ms {int} NOT NULL,
    last_used_ms {int}
) {strict};
CREATE INDEX api_keys_by_tenant ON api_keys (tenant, id);

CREATE TABLE devices (
    id {bytes} PRIMARY KEY,
    tenant {bytes} NOT NULL REFERENCES tenants (id),
    name TEXT NOT NULL,
    kind TEXT NOT NULL DEFAULT '',
    model TEXT NOT NULL DEFAULT '',
    os TEXT NOT NULL DEFAULT '',
    software TEXT NOT NULL DEFAULT '',
    -- A JSON object of texts.
    labels TEXT NOT NULL DEFAULT '{}',
    state TEXT NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'draining', 'revoked')),
    -- SHA-256 of the public key that the enrolment was bound to: an expired device recovers with it.
    key_hash {bytes} NOT NULL,
    recoveries {int} NOT NULL DEFAULT 0,
    enrolled_ms {int} NOT NULL,
    last_seen_ms {int}
) {strict};
CREATE INDEX devices_by_tenant ON devices (tenant, id);

CREATE TABLE sims (
    id {bytes} PRIMARY KEY,
    tenant {bytes} NOT NULL REFERENCES tenants (id),
    iccid TEXT NOT NULL,
    imsi TEXT,
    msisdn TEXT,
    operator TEXT NOT NULL DEFAULT '',
    plmn TEXT,
    name TEXT NOT NULL DEFAULT '',
    -- Where it was seen last.
    device {bytes} REFERENCES devices (id),
    slot {int},
    first_seen_ms {int} NOT NULL,
    last_seen_ms {int} NOT NULL,
    UNIQUE (tenant, iccid)
) {strict};
CREATE INDEX sims_by_device ON sims (device, slot);

CREATE TABLE enrollments (
    id {bytes} PRIMARY KEY,
    tenant {bytes} NOT NULL REFERENCES tenants (id),
    secret_hash {bytes} NOT NULL,
    device_name TEXT NOT NULL DEFAULT '',
    created_ms {int} NOT NULL,
    expires_ms {int} NOT NULL,
    -- Set together when a device has used it.
    used_ms {int},
    device {bytes} REFERENCES devices (id),
    key_hash {bytes},
    revoked {int} NOT NULL DEFAULT 0
) {strict};
CREATE INDEX enrollments_by_tenant ON enrollments (tenant, id);

CREATE TABLE certificates (
    serial TEXT PRIMARY KEY,
    tenant {bytes} NOT NULL,
    device {bytes} NOT NULL REFERENCES devices (id),
    not_before_s {int} NOT NULL,
    not_after_s {int} NOT NULL,
    revoked_ms {int},
    replaced_ms {int}
) {strict};
CREATE INDEX certificates_by_device ON certificates (device, not_after_s);

CREATE TABLE ca_keys (
    -- SHA-256 of the public key; the private key is a file beside the store.
    id {bytes} PRIMARY KEY,
    role TEXT NOT NULL CHECK (role IN ('current', 'next', 'previous', 'retired')),
    cert_der {bytes} NOT NULL,
    created_ms {int} NOT NULL
) {strict};

CREATE TABLE audit (
    id {serial},
    at_ms {int} NOT NULL,
    -- Null for what concerns the installation.
    tenant {bytes},
    -- Who: `key_...`, `dev_...`, `cli`, `system`.
    actor TEXT NOT NULL,
    -- What: `device.revoke`.
    action TEXT NOT NULL,
    -- To whom: an id.
    subject TEXT NOT NULL,
    -- A JSON object; no secrets, no message texts.
    detail TEXT NOT NULL DEFAULT '{}'
) {strict};
CREATE INDEX audit_by_tenant ON audit (tenant, id);
