-- The planner knows nothing of transition tables, and keeps the plan of their first use: joins of them compare each row with
-- each other one. So rows of a table are looked up by their keys, and the former and new rows of a delivery found by a group.

CREATE OR REPLACE FUNCTION follow_changed_deliveries() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    one RECORD;
BEGIN
    DELETE FROM queue WHERE id = ANY (ARRAY (SELECT id FROM changed WHERE next_attempt_us IS NULL));
    FOR one IN SELECT id, next_attempt_us FROM changed WHERE next_attempt_us IS NOT NULL LOOP
        UPDATE queue SET next_attempt_us = one.next_attempt_us, owner = 0
        WHERE id = one.id AND next_attempt_us <> one.next_attempt_us;
    END LOOP;
    FOR one IN
        SELECT id, max(tenant_id) AS tenant_id, max(message_id) AS message_id, max(former_state) AS state
        FROM (SELECT id, tenant_id, message_id, state AS former_state, NULL AS state FROM former
              WHERE state <> 'queued'
              UNION ALL SELECT id, NULL, NULL, NULL, state FROM changed) AS states
        GROUP BY id HAVING max(former_state) <> max(state)
    LOOP
        DELETE FROM trouble WHERE tenant_id = one.tenant_id AND state = one.state
            AND message_id = one.message_id AND id = one.id;
    END LOOP;
    INSERT INTO trouble (tenant_id, state, message_id, id)
    SELECT max(tenant_id), max(state), max(message_id), id
    FROM (SELECT id, NULL AS tenant_id, NULL AS message_id, state AS former_state, NULL AS state FROM former
          UNION ALL SELECT id, tenant_id, message_id, NULL, state FROM changed
          WHERE state NOT IN ('queued', 'delivered')) AS states
    GROUP BY id HAVING max(former_state) <> max(state);
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION follow_deleted_deliveries() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    one RECORD;
BEGIN
    DELETE FROM queue WHERE id = ANY (ARRAY (SELECT id FROM former WHERE next_attempt_us IS NOT NULL));
    FOR one IN SELECT tenant_id, state, message_id, id FROM former WHERE state NOT IN ('queued', 'delivered') LOOP
        DELETE FROM trouble WHERE tenant_id = one.tenant_id AND state = one.state
            AND message_id = one.message_id AND id = one.id;
    END LOOP;
    RETURN NULL;
END $$;
