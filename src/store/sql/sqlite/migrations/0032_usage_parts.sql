-- The days of a deleted tenant stay for its last bill, so usage does not reference the tenant.
CREATE TABLE usage_of_any (
    tenant_id     TEXT NOT NULL,
    span          TEXT NOT NULL,            -- hour or day, in UTC
    start_us      BIGINT NOT NULL,
    environment   TEXT NOT NULL,
    sent          BIGINT NOT NULL,          -- recipients, as the four that follow
    delivered     BIGINT NOT NULL,
    bounced       BIGINT NOT NULL,
    complained    BIGINT NOT NULL,
    suppressed    BIGINT NOT NULL,
    rejected      BIGINT NOT NULL,          -- refusals
    api_requests  BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, span, start_us, environment)
) WITHOUT ROWID;
INSERT INTO usage_of_any SELECT * FROM usage;
DROP TABLE usage;
ALTER TABLE usage_of_any RENAME TO usage;

-- Whose days are kept.
CREATE TABLE deleted_tenant (
    id            TEXT PRIMARY KEY,
    name          TEXT NOT NULL,
    slug          TEXT NOT NULL,
    external_ref  TEXT
) WITHOUT ROWID;

-- Usage of a day (UTC) by key and sending domain; each is empty if there is none.
CREATE TABLE usage_part (
    tenant_id     TEXT NOT NULL,
    start_us      BIGINT NOT NULL,
    environment   TEXT NOT NULL,
    key_id        TEXT NOT NULL,
    domain        TEXT NOT NULL,
    sent          BIGINT NOT NULL,
    delivered     BIGINT NOT NULL,
    bounced       BIGINT NOT NULL,
    complained    BIGINT NOT NULL,
    suppressed    BIGINT NOT NULL,
    rejected      BIGINT NOT NULL,
    api_requests  BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, start_us, environment, key_id, domain)
) WITHOUT ROWID;

-- The domain of the tenant that covers the author, also of a message that is not signed.
ALTER TABLE message ADD COLUMN sender_domain TEXT;
