-- What SCRAM-SHA-256 needs of a key's secret: salt, iteration count, StoredKey, ServerKey (RFC 5802 section 5).
-- Sealed. Keys from before have none and log in with PLAIN or LOGIN.
ALTER TABLE key ADD COLUMN scram BLOB;
