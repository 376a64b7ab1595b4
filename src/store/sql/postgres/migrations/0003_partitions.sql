-- The tables that grow with mail become partitioned by the time in their ids. What there is becomes the partition
-- `…_future`, which takes every id; the program splits it, see partitions.rs.

-- A partition that others refer to could not be dropped. Messages are looked up in the transaction that refers to them.
ALTER TABLE report DROP CONSTRAINT report_message_id_fkey;
ALTER TABLE report_count DROP CONSTRAINT report_count_message_id_fkey;

DROP TRIGGER delivery_changed ON delivery;
DROP TRIGGER delivery_deleted ON delivery;
DROP TRIGGER delivery_added ON delivery;

DO $$
DECLARE
    partitioned RECORD;
    index RECORD;
    definitions TEXT[];
    definition TEXT;
BEGIN
    FOR partitioned IN SELECT * FROM (VALUES
        ('message', 'id', 'id'), ('delivery', 'id', 'id'), ('attempt', 'id', 'id'), ('event', 'id', 'id'),
        ('message_search', 'message_id', 'message_id'), ('body', 'message_id', 'message_id'),
        ('body_piece', 'message_id', 'message_id, number')) AS t (name, range, key)
    LOOP
        definitions := '{}';
        FOR index IN
            SELECT c.relname AS name, pg_get_indexdef(c.oid) AS definition, i.indisprimary AS is_key
            FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass(partitioned.name)
        LOOP
            EXECUTE format('ALTER INDEX %I RENAME TO %I', index.name, index.name || '_future');
            IF NOT index.is_key THEN
                definitions := definitions || index.definition;
            END IF;
        END LOOP;
        EXECUTE format('ALTER TABLE %I RENAME TO %I', partitioned.name, partitioned.name || '_future');
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL EXCLUDING INDEXES, PRIMARY KEY (%s)) PARTITION BY RANGE (%s)',
            partitioned.name, partitioned.name || '_future', partitioned.key, partitioned.range);
        FOREACH definition IN ARRAY definitions LOOP
            EXECUTE definition;
        END LOOP;
    END LOOP;
END $$;

-- Numbers go on.
SELECT setval(pg_get_serial_sequence('event', 'number'), nextval(pg_get_serial_sequence('event_future', 'number')));
ALTER TABLE event_future ALTER COLUMN number DROP IDENTITY;

DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['message', 'delivery', 'attempt', 'event', 'message_search', 'body', 'body_piece'] LOOP
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (MINVALUE) TO (MAXVALUE)', name, name || '_future');
    END LOOP;
END $$;

CREATE TRIGGER delivery_changed AFTER UPDATE ON delivery REFERENCING OLD TABLE AS former NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION follow_changed_deliveries();
CREATE TRIGGER delivery_deleted AFTER DELETE ON delivery REFERENCING OLD TABLE AS former
FOR EACH STATEMENT EXECUTE FUNCTION follow_deleted_deliveries();
CREATE TRIGGER delivery_added AFTER INSERT ON delivery REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION follow_new_deliveries();
