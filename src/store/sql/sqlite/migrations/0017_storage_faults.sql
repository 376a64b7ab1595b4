-- What the bytes of a body come to, so that what was cut or altered on the disk is not sent. Older bodies have neither.
ALTER TABLE body ADD COLUMN octets BIGINT;
ALTER TABLE body ADD COLUMN crc32 BIGINT;

-- Messages whose body row is gone and whose file still has to be removed. No other file under bodies/ is ever removed.
CREATE TABLE released_body (
    id TEXT PRIMARY KEY                     -- of the message
) WITHOUT ROWID;

-- Empty. To write to it shows that the database can be written.
CREATE TABLE write_test (
    id      INTEGER PRIMARY KEY,
    filler  BLOB NOT NULL
);
