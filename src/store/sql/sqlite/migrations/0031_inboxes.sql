-- Inboxes: addresses that a tenant may send trial mail to. Of a code only a digest is stored.
CREATE TABLE inbox (
    id               TEXT PRIMARY KEY,
    tenant_id        TEXT NOT NULL REFERENCES tenant (id) ON DELETE CASCADE,
    address          TEXT NOT NULL,
    folded           TEXT NOT NULL,
    code_digest      BLOB,
    code_expires_us  BIGINT,
    attempts         BIGINT NOT NULL DEFAULT 0,             -- wrong codes
    confirmed_us     BIGINT,
    created_us       BIGINT NOT NULL,
    UNIQUE (tenant_id, folded)
);

-- Trial messages and confirmation mails of a tenant in one day.
CREATE TABLE trial_usage (
    tenant_id      TEXT PRIMARY KEY REFERENCES tenant (id) ON DELETE CASCADE,
    day_us         BIGINT NOT NULL,
    messages       BIGINT NOT NULL,
    confirmations  BIGINT NOT NULL
);

-- Lists of confirmation mails use the indexes of reports.
DROP INDEX report_by_tenant;
DROP INDEX report_by_id;
CREATE INDEX report_by_tenant ON message (tenant_id, kind, id) WHERE kind <> 'message';
CREATE INDEX report_by_id ON message (kind, id) WHERE kind <> 'message';
