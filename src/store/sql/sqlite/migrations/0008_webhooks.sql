-- Where events are to be told, and what is still to be told there.

CREATE TABLE webhook (
    id                 TEXT PRIMARY KEY,
    tenant_id          TEXT REFERENCES tenant (id),
    url                TEXT NOT NULL,
    kinds              TEXT NOT NULL,           -- names of events; none for all
    status             TEXT NOT NULL,
    disabled_reason    TEXT,                    -- set exactly while it is disabled
    failing_since_us   BIGINT,
    secret             BLOB NOT NULL,           -- sealed
    previous_secret    BLOB,                    -- likewise, as `secret` was
    previous_until_us  BIGINT,
    created_us         BIGINT NOT NULL,
    updated_us         BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX webhook_by_tenant ON webhook (tenant_id, id);

-- The event stands here as a copy: the journal may forget it before it is told. Ids come from the clock of events, so
-- their order is the order of events.
CREATE TABLE webhook_delivery (
    id               TEXT PRIMARY KEY,
    webhook_id       TEXT NOT NULL REFERENCES webhook (id),
    event_id         TEXT NOT NULL,
    kind             TEXT NOT NULL,
    tenant_id        TEXT,                      -- whose event it is
    message_id       TEXT,
    delivery_id      TEXT,
    data             TEXT NOT NULL,
    created_us       BIGINT NOT NULL,
    state            TEXT NOT NULL,
    attempts         INTEGER NOT NULL,
    next_attempt_us  BIGINT,                    -- set exactly while the state is pending
    last_attempt     TEXT
) WITHOUT ROWID;
CREATE INDEX webhook_delivery_due ON webhook_delivery (webhook_id, next_attempt_us, id)
    WHERE next_attempt_us IS NOT NULL;
CREATE INDEX webhook_delivery_in_order ON webhook_delivery (webhook_id, message_id, id)
    WHERE next_attempt_us IS NOT NULL;
CREATE INDEX webhook_delivery_of ON webhook_delivery (webhook_id, id);
CREATE INDEX webhook_delivery_by_tenant ON webhook_delivery (tenant_id, id);
