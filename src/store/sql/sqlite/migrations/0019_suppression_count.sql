-- How many suppressions a tenant has: to count up to a million rows for each new one made a list quadratic. Not a column of
-- the tenant, whose row may be long. The platform's own have no limit.
CREATE TABLE suppression_count (
    tenant_id     TEXT PRIMARY KEY REFERENCES tenant (id) ON DELETE CASCADE,
    suppressions  BIGINT NOT NULL
) WITHOUT ROWID;

INSERT INTO suppression_count (tenant_id, suppressions)
SELECT tenant_id, count(*) FROM suppression WHERE tenant_id IS NOT NULL GROUP BY tenant_id;

CREATE TRIGGER suppression_added AFTER INSERT ON suppression WHEN NEW.tenant_id IS NOT NULL
BEGIN
    INSERT INTO suppression_count (tenant_id, suppressions) VALUES (NEW.tenant_id, 1)
    ON CONFLICT (tenant_id) DO UPDATE SET suppressions = suppressions + 1;
END;

CREATE TRIGGER suppression_removed AFTER DELETE ON suppression WHEN OLD.tenant_id IS NOT NULL
BEGIN
    UPDATE suppression_count SET suppressions = suppressions - 1 WHERE tenant_id = OLD.tenant_id;
END;
