-- The audit log, and what statistics need of the usage.

-- No foreign keys: entries stay when their tenant, key or object is deleted.
CREATE TABLE audit (
    id              TEXT PRIMARY KEY,
    tenant_id       TEXT,                   -- null: the platform
    number          BIGINT NOT NULL,        -- 1, 2, … of this tenant: bounds the entries of each
    actor           TEXT NOT NULL,
    key_id          TEXT,
    actor_name      TEXT,
    by_platform     INTEGER NOT NULL,
    client_address  TEXT,
    request_id      TEXT,
    operation       TEXT NOT NULL,
    object          TEXT,
    object_id       TEXT,
    before          TEXT,                   -- JSON
    after           TEXT,                   -- JSON
    error           TEXT,
    created_us      BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX audit_by_tenant ON audit (tenant_id, id);
CREATE INDEX audit_by_number ON audit (tenant_id, number);
CREATE INDEX audit_by_object ON audit (object_id, id) WHERE object_id IS NOT NULL;

-- Deferrals, and the part of `bounced` that expired. `usage_by_start` sums all tenants; an update of counts does not touch it.
ALTER TABLE usage ADD COLUMN deferred BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN expired BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_part ADD COLUMN deferred BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_part ADD COLUMN expired BIGINT NOT NULL DEFAULT 0;
CREATE INDEX usage_by_start ON usage (span, start_us);

-- The search index also has lists: if there are any, it is filled anew from the journal.
INSERT INTO message_search (message_search) SELECT 'delete-all' WHERE EXISTS (SELECT 1 FROM message WHERE list IS NOT NULL);
DELETE FROM search_place WHERE EXISTS (SELECT 1 FROM message WHERE list IS NOT NULL);
DELETE FROM search_progress WHERE EXISTS (SELECT 1 FROM message WHERE list IS NOT NULL);

-- The own address that an attempt was made from, for SPF and the timeline.
ALTER TABLE attempt ADD COLUMN source TEXT;
