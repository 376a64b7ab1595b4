-- Octets of responses that are stored for an Idempotency-Key, by tenant, on its last day with one.
CREATE TABLE response_usage (
    tenant_id  TEXT NOT NULL REFERENCES tenant (id) ON DELETE CASCADE,
    slot       INTEGER NOT NULL,                -- of the lane that adds
    day_us     INTEGER NOT NULL,
    octets     INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, slot)
) WITHOUT ROWID;
