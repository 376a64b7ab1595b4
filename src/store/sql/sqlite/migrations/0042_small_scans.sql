-- For queries that walked over all rows.
CREATE INDEX tenant_with_brakes ON tenant (id) WHERE status = 'active' AND instr(settings, '"brakes":{') > 0;
CREATE INDEX sts_policy_by_expiry ON sts_policy (expires_us);
