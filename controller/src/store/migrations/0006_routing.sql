-- What people set about routing, and which card was in which slot.

CREATE TABLE tenant_routing (
    tenant {bytes} PRIMARY KEY REFERENCES tenants (id),
    -- Grows with each change. Whoever changes it says which one they have seen.
    version {int} NOT NULL,
    -- Rules, plans, limits, money: JSON.
    settings TEXT NOT NULL,
    changed_ms {int} NOT NULL
) {strict};

-- The number of each tenant's last change to anything about routing: its settings, its devices' and SIMs'. Numbers grow over
-- all tenants, so whoever has seen one knows what is new by one small query.
CREATE TABLE routing_changes (
    tenant {bytes} PRIMARY KEY REFERENCES tenants (id),
    number {int} NOT NULL
) {strict};
CREATE INDEX routing_changes_by_number ON routing_changes (number);

-- Shared by all SIMs of the device: JSON.
ALTER TABLE devices ADD COLUMN limits TEXT NOT NULL DEFAULT '{}';

-- Limits, windows, price, pools and the like: JSON.
ALTER TABLE sims ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';
-- 1: it took another card's place, and sends nothing until a person confirms it.
ALTER TABLE sims ADD COLUMN held {int} NOT NULL DEFAULT 0;
-- As somebody has told it, in millionths of the tenant's currency.
ALTER TABLE sims ADD COLUMN balance_micros {int};
ALTER TABLE sims ADD COLUMN balance_ms {int};

-- The last card in each slot of a device, whether or not it is still there. Only cards that tell their number.
CREATE TABLE sim_slots (
    device {bytes} NOT NULL REFERENCES devices (id),
    slot {int} NOT NULL,
    sim {bytes} NOT NULL REFERENCES sims (id),
    PRIMARY KEY (device, slot)
) {strict};
INSERT INTO sim_slots (device, slot, sim)
    SELECT device, slot, id FROM sims
    WHERE device IS NOT NULL AND slot IS NOT NULL AND iccid NOT LIKE '%:%'
    ON CONFLICT (device, slot) DO NOTHING;
