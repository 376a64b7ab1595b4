-- Sending over HTTP: what senders attach to a message for themselves, templates, and answers that may be asked for again.

ALTER TABLE message ADD COLUMN tags TEXT;                   -- a JSON array; absent for none
ALTER TABLE message ADD COLUMN metadata TEXT;               -- a JSON object; absent for none

-- For lists by tag. Messages without tags have no row.
CREATE TABLE message_tag (
    tenant_id   TEXT NOT NULL,
    tag         TEXT NOT NULL,
    message_id  TEXT NOT NULL REFERENCES message (id),
    PRIMARY KEY (tenant_id, tag, message_id)
) WITHOUT ROWID;
CREATE INDEX message_tag_of_message ON message_tag (message_id);

CREATE TABLE template (
    id          TEXT PRIMARY KEY,
    tenant_id   TEXT NOT NULL REFERENCES tenant (id),
    name        TEXT NOT NULL,
    subject     TEXT NOT NULL,
    text        TEXT,
    html        TEXT,
    created_us  BIGINT NOT NULL,
    updated_us  BIGINT NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX template_of_tenant ON template (tenant_id, name);
CREATE INDEX template_by_tenant ON template (tenant_id, id);

-- The first answer to a request with an Idempotency-Key, for a day.
CREATE TABLE kept_answer (
    key_id      TEXT NOT NULL REFERENCES key (id) ON DELETE CASCADE,
    name        TEXT NOT NULL,                              -- the client's
    digest      BLOB NOT NULL,                              -- of method, path and body
    status      INTEGER NOT NULL,
    body        BLOB NOT NULL,                              -- sealed: it may hold a secret that is shown once
    created_us  BIGINT NOT NULL,
    PRIMARY KEY (key_id, name)
) WITHOUT ROWID;
CREATE INDEX kept_answer_by_age ON kept_answer (created_us);
