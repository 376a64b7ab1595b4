-- Octets of responses that are stored for an Idempotency-Key, by tenant, on its last day with one.
CREATE TABLE response_usage (
    tenant_id  TEXT PRIMARY KEY REFERENCES tenant (id) ON DELETE CASCADE,
    day_us     INTEGER NOT NULL,
    octets     INTEGER NOT NULL
) WITHOUT ROWID;
