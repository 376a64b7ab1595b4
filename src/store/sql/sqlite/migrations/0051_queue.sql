-- The open deliveries, under the name of the table that PostgreSQL has for them.
CREATE VIEW queue AS
    SELECT id, tenant_id, destination, next_attempt_us, 0 AS owner FROM delivery WHERE next_attempt_us IS NOT NULL;
