-- The search index also has keys, recipient domains and metadata; it is filled anew from the journal.
DELETE FROM search_progress;
DELETE FROM search_place;
INSERT INTO message_search (message_search) VALUES ('delete-all');
