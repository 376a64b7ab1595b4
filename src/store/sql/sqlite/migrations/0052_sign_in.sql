-- Who is signed in to the pages, and links that sign somebody in; by digests of what the browser has.
CREATE TABLE sign_in (
    digest      BLOB PRIMARY KEY,
    secret      BLOB NOT NULL,      -- digest of the secret of the key
    tenant_id   TEXT,               -- null: the platform
    scopes      TEXT,               -- JSON; null: those of the key
    path        TEXT,               -- the page that a link opens; null: a session
    created_us  INTEGER NOT NULL,
    seen_us     INTEGER NOT NULL,
    ends_us     INTEGER NOT NULL,   -- unless it is used
    expires_us  INTEGER NOT NULL,   -- when the session ends at the latest
    theme       TEXT,
    note        TEXT                -- for the next page
) WITHOUT ROWID;
