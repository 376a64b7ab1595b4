-- Only the same name excludes other tenants, so nothing looks for names below another.
DROP INDEX domain_by_name;
ALTER TABLE domain DROP COLUMN reversed_name;
CREATE INDEX domain_by_name ON domain (name, status);
UPDATE domain SET status = 'pending' WHERE status = 'taken' AND NOT EXISTS
    (SELECT 1 FROM domain owned WHERE owned.name = domain.name AND owned.status = 'verified');
