-- Ends to which a pause moved deliveries that are not all due again: it was lifted, or got an earlier end.
CREATE TABLE ended_pause (
    tenant_id    TEXT NOT NULL,
    destination  TEXT NOT NULL,
    until_us     BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, destination, until_us)
) WITHOUT ROWID;
INSERT INTO ended_pause SELECT tenant_id, destination, until_us FROM pause WHERE is_lifted = 1;
DELETE FROM pause WHERE is_lifted = 1;
ALTER TABLE pause DROP COLUMN is_lifted;
