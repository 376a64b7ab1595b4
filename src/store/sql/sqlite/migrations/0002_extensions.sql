-- What MAIL and RCPT asked for beside the paths (RFC 3461, RFC 8689, RFC 4865), and repeated submissions.

ALTER TABLE message ADD COLUMN return_content TEXT;         -- RET
ALTER TABLE message ADD COLUMN envelope_id TEXT;            -- ENVID, as it stood on the wire
ALTER TABLE message ADD COLUMN require_tls INTEGER NOT NULL DEFAULT 0;
ALTER TABLE message ADD COLUMN release_us BIGINT;           -- not before this time

ALTER TABLE delivery ADD COLUMN notify TEXT;                -- NOTIFY
ALTER TABLE delivery ADD COLUMN original_recipient TEXT;    -- ORCPT, as it stood on the wire

-- Which message a tenant's key stands for, for a day.
CREATE TABLE submission_key (
    tenant_id    TEXT NOT NULL REFERENCES tenant (id),
    environment  TEXT NOT NULL,
    name         TEXT NOT NULL,                             -- the client's
    digest       BLOB NOT NULL,                             -- of message and envelope
    message_id   TEXT NOT NULL,
    created_us   BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, environment, name)
) WITHOUT ROWID;
CREATE INDEX submission_key_by_age ON submission_key (created_us);
