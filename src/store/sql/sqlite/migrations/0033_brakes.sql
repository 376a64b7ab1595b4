-- When the brakes of a tenant were last applied: its rates start again after that.
CREATE TABLE brake (
    tenant_id   TEXT PRIMARY KEY REFERENCES tenant (id),
    applied_us  BIGINT NOT NULL
) WITHOUT ROWID;
