-- Who is signed in to the pages, and links that sign somebody in; by digests of what the browser has.
CREATE TABLE sign_in (
    digest      BYTEA PRIMARY KEY,
    secret      BYTEA NOT NULL,             -- digest of the secret of the key
    tenant_id   TEXT COLLATE "C",           -- null: the platform
    scopes      TEXT COLLATE "C",           -- JSON; null: those of the key
    path        TEXT COLLATE "C",           -- the page that a link opens; null: a session
    created_us  BIGINT NOT NULL,
    seen_us     BIGINT NOT NULL,
    ends_us     BIGINT NOT NULL,            -- unless it is used
    expires_us  BIGINT NOT NULL,            -- when the session ends at the latest
    theme       TEXT COLLATE "C",
    note        TEXT COLLATE "C"            -- for the next page
);
