-- Octets of responses that are stored for an Idempotency-Key, by tenant, on its last day with one.
CREATE TABLE response_usage (
    tenant_id  TEXT COLLATE "C" NOT NULL REFERENCES tenant (id) ON DELETE CASCADE,
    slot       BIGINT NOT NULL,                 -- of the lane that adds
    day_us     BIGINT NOT NULL,
    octets     BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, slot)
);
