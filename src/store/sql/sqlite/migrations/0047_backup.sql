-- Backups.

-- Which master key encrypts, so that a backup can name the key without having it. Null until a server of this version opens
-- the database.
ALTER TABLE seal_check ADD COLUMN fingerprint TEXT;

-- The restored backup whose open deliveries wait to be released; at most one row.
CREATE TABLE restoration (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    taken_us     BIGINT NOT NULL,
    restored_us  BIGINT NOT NULL,
    deliveries   BIGINT NOT NULL            -- that were open at `taken_us`
);
