-- Which TLS policy held for the host of an attempt, and on what ground.
ALTER TABLE attempt ADD COLUMN tls_policy TEXT;

-- MTA-STS policies of destinations, kept so that a restart does not open a gap (RFC 8461 section 10.2).
CREATE TABLE sts_policy (
    domain      TEXT PRIMARY KEY,
    policy_id   TEXT NOT NULL,                              -- of the TXT record under which it was fetched
    policy      TEXT NOT NULL,                              -- the file
    fetched_us  BIGINT NOT NULL,
    expires_us  BIGINT NOT NULL
);
