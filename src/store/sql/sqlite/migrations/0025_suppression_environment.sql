-- A suppression stops the mail of one environment, and each environment has its own limit.
ALTER TABLE suppression ADD COLUMN environment TEXT NOT NULL DEFAULT 'live';
DROP INDEX IF EXISTS suppression_of_tenant;
DROP INDEX IF EXISTS suppression_of_platform;
CREATE UNIQUE INDEX suppression_of_tenant ON suppression (address, tenant_id, environment);
CREATE UNIQUE INDEX suppression_of_platform ON suppression (address, environment) WHERE tenant_id IS NULL;

DROP TRIGGER suppression_added;
DROP TRIGGER suppression_removed;
CREATE TABLE suppression_total (
    tenant_id     TEXT NOT NULL REFERENCES tenant (id) ON DELETE CASCADE,
    environment   TEXT NOT NULL,
    suppressions  BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, environment)
) WITHOUT ROWID;
INSERT INTO suppression_total (tenant_id, environment, suppressions)
SELECT tenant_id, 'live', suppressions FROM suppression_count;
DROP TABLE suppression_count;
ALTER TABLE suppression_total RENAME TO suppression_count;

CREATE TRIGGER suppression_added AFTER INSERT ON suppression WHEN NEW.tenant_id IS NOT NULL
BEGIN
    INSERT INTO suppression_count (tenant_id, environment, suppressions) VALUES (NEW.tenant_id, NEW.environment, 1)
    ON CONFLICT (tenant_id, environment) DO UPDATE SET suppressions = suppressions + 1;
END;

CREATE TRIGGER suppression_removed AFTER DELETE ON suppression WHEN OLD.tenant_id IS NOT NULL
BEGIN
    UPDATE suppression_count SET suppressions = suppressions - 1
    WHERE tenant_id = OLD.tenant_id AND environment = OLD.environment;
END;
