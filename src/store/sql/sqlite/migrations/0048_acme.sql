-- Accounts at certificate authorities, one for each directory URL.
CREATE TABLE acme_account (
    directory    TEXT PRIMARY KEY,
    account_url  TEXT NOT NULL,
    credentials  BLOB NOT NULL,             -- encrypted
    created_us   BIGINT NOT NULL
) WITHOUT ROWID;
