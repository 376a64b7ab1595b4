-- Suppressions at a site that refuses addresses which took mail a short time ago end soon.

ALTER TABLE suppression ADD COLUMN site TEXT;           -- the site that said that the address is gone
ALTER TABLE suppression ADD COLUMN refused_us BIGINT;   -- when it said so
CREATE INDEX suppression_at_site ON suppression (site, refused_us) WHERE site IS NOT NULL AND provisional = 0;

CREATE TABLE suspicious_site (
    site      TEXT PRIMARY KEY,
    until_us  BIGINT NOT NULL
) WITHOUT ROWID;
