-- Recipients whose data are erased, without their addresses. No foreign keys: a row outlives its tenant, and is applied again
-- to a database that is restored.

CREATE TABLE erasure (
    id                 TEXT PRIMARY KEY,
    tenant_id          TEXT,                -- null: of every tenant
    digest             BLOB NOT NULL,       -- MAC of the folded address under the master key
    keeps_suppression  INTEGER NOT NULL,
    created_us         BIGINT NOT NULL,     -- `keyset::List` filters by this name
    applied_us         BIGINT,              -- null until all rows are changed
    counts             TEXT NOT NULL DEFAULT '{}'
) WITHOUT ROWID;
CREATE INDEX erasure_by_tenant ON erasure (tenant_id, id);
CREATE INDEX erasure_pending ON erasure (id) WHERE applied_us IS NULL;
