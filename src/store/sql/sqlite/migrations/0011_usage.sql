-- What tenants used. The rows of hours go after a while, those of days stay as long as the tenant.
CREATE TABLE usage (
    tenant_id     TEXT NOT NULL REFERENCES tenant (id),
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

-- Until when a tenant need not be told of a limit again.
CREATE TABLE limit_warning (
    tenant_id    TEXT NOT NULL REFERENCES tenant (id),
    environment  TEXT NOT NULL,
    period       TEXT NOT NULL,             -- minute or day, in UTC
    kind         TEXT NOT NULL,             -- of the event
    resets_us    BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, environment, period, kind)
) WITHOUT ROWID;

-- Of the key that was refused.
ALTER TABLE rejection ADD COLUMN environment TEXT NOT NULL DEFAULT 'live';
