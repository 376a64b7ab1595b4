CREATE INDEX suppression_by_expiry ON suppression (expires_us) WHERE expires_us IS NOT NULL;
