-- Earlier secrets of keys, which work on for a while after a rotation.
CREATE TABLE key_secret (
    digest      BLOB PRIMARY KEY,
    key_id      TEXT NOT NULL REFERENCES key (id) ON DELETE CASCADE,
    scram       BLOB,                       -- encrypted, as in the row of the key
    expires_us  BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX key_secret_of_key ON key_secret (key_id);
ALTER TABLE key ADD COLUMN rotated_us BIGINT;

-- The time of the next event of a key that expires: 14 or 3 days before.
ALTER TABLE key ADD COLUMN next_notice_us BIGINT;
UPDATE key SET next_notice_us = expires_us - 14 * 86400 * 1000000 WHERE expires_us IS NOT NULL AND revoked_us IS NULL;
CREATE INDEX key_notice_due ON key (next_notice_us) WHERE next_notice_us IS NOT NULL;
