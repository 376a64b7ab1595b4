-- Recipients and Message-IDs have no order: of a deep queue each message wrote to two leaves of these that were not in
-- memory. The search looks them up in its own index, which is filled anew from the journal.

DROP INDEX message_by_header_id;
DROP INDEX delivery_to;

DELETE FROM search_progress;
DELETE FROM search_place;
INSERT INTO message_search (message_search) VALUES ('delete-all');
