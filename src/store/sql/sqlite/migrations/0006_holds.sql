-- What the platform paused, and what became due while a tenant was suspended.

-- An empty name is everybody's or everywhere. A hold that was lifted stays until what it set aside is due again.
CREATE TABLE hold (
    tenant_id    TEXT NOT NULL,
    destination  TEXT NOT NULL,
    reason       TEXT,
    since_us     BIGINT NOT NULL,
    until_us     BIGINT NOT NULL,           -- 253402207200000000 is without end
    is_lifted    INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, destination)
) WITHOUT ROWID;

-- The end of the last suspension or pause of the tenant.
ALTER TABLE tenant ADD COLUMN resumed_us BIGINT;
