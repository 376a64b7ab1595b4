-- What comes back: reports about messages, the keys of their addresses, suppressions by list, return hosts.

-- Generations of the keys of report addresses and unsubscribe links; the keys are derived from the master key.
CREATE TABLE token_generation (
    generation  INTEGER PRIMARY KEY,        -- 1, 2, …; its digit in a token is the number modulo 32
    since_us    BIGINT NOT NULL,
    refused_us  BIGINT,                     -- its tokens are refused from this time; null for the newest generation
    links_refused_us BIGINT                 -- its links are refused from this time; set only by a rotation with `at_once`
);
INSERT INTO token_generation (generation, since_us) VALUES (1, 0);

CREATE TABLE report (
    id             TEXT PRIMARY KEY,
    tenant_id      TEXT REFERENCES tenant (id),     -- null: nothing proves whom it is about
    environment    TEXT,
    message_id     TEXT REFERENCES message (id),
    delivery_id    TEXT,
    kind           TEXT NOT NULL,
    rule           TEXT NOT NULL,           -- the rule of the reader that decided the kind
    effect         TEXT NOT NULL,
    action         TEXT,
    status         TEXT,
    bounce_class   TEXT,
    feedback_type  TEXT,
    recipient      TEXT,                    -- as the report names it
    reply          TEXT,                    -- the words of the remote server
    reporter       TEXT NOT NULL,           -- JSON
    digest         BLOB NOT NULL,           -- of what it says, not of its octets
    times          BIGINT NOT NULL,
    created_us     BIGINT NOT NULL,          -- `keyset::List` filters by this name
    last_us        BIGINT NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX report_row_of_delivery ON report (delivery_id, digest) WHERE delivery_id IS NOT NULL;
CREATE INDEX report_row_of_message ON report (message_id, id) WHERE message_id IS NOT NULL;
CREATE INDEX report_row_by_tenant ON report (tenant_id, id);
CREATE INDEX report_row_unattributed ON report (id) WHERE tenant_id IS NULL;

-- The text of a report. It is deleted earlier than the report.
CREATE TABLE report_raw (
    report_id  TEXT PRIMARY KEY REFERENCES report (id) ON DELETE CASCADE,
    octets     BLOB NOT NULL
);

-- How many reports came for a token: 16 in a day, 64 in all.
CREATE TABLE report_count (
    subject     TEXT PRIMARY KEY,           -- the id of the delivery or message
    message_id  TEXT NOT NULL REFERENCES message (id),
    day_us      BIGINT NOT NULL,
    of_day      BIGINT NOT NULL,
    total       BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX report_count_of_message ON report_count (message_id);

-- A suppression stops all mail (''), the mail of every list ('*') or of one list.
ALTER TABLE suppression ADD COLUMN list TEXT NOT NULL DEFAULT '';
ALTER TABLE suppression ADD COLUMN report_id TEXT;
ALTER TABLE suppression ADD COLUMN message_id TEXT;
ALTER TABLE suppression ADD COLUMN provisional INTEGER NOT NULL DEFAULT 0;
DROP INDEX suppression_of_tenant;
DROP INDEX suppression_of_platform;
CREATE UNIQUE INDEX suppression_of_tenant ON suppression (address, tenant_id, environment, list);
CREATE UNIQUE INDEX suppression_of_platform ON suppression (address, environment, list) WHERE tenant_id IS NULL;

ALTER TABLE message ADD COLUMN list TEXT;
ALTER TABLE delivery ADD COLUMN complained_us BIGINT;   -- a complaint counts once

ALTER TABLE domain ADD COLUMN return_path_mode TEXT;    -- null: as the configuration says
ALTER TABLE domain ADD COLUMN return_path_host TEXT;    -- null: the label of the configuration under the domain
ALTER TABLE domain ADD COLUMN return_path_status TEXT NOT NULL DEFAULT 'pending';

ALTER TABLE usage ADD COLUMN bounced_late BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN unsubscribed BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_part ADD COLUMN bounced_late BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_part ADD COLUMN unsubscribed BIGINT NOT NULL DEFAULT 0;
