-- What lists of messages are searched by. Filled behind the journal, so that accepting mail costs nothing more.

-- Places follow the order of ids, which are text; the index knows rows by numbers only.
CREATE TABLE search_place (
    place       INTEGER PRIMARY KEY,
    message_id  TEXT NOT NULL
);
-- SQLite's own full text search: another database has its own. The content is in `message`.
CREATE VIRTUAL TABLE message_search USING fts5 (
    facets, subject,
    content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 2'
);
-- How far the journal has been followed.
CREATE TABLE search_progress (
    id     INTEGER PRIMARY KEY,
    up_to  TEXT NOT NULL               -- the last event that was looked at
);

-- Troubles of everybody, the newest first. What is accepted and delivered at once never enters.
CREATE INDEX delivery_in_trouble_anywhere ON delivery (state, message_id)
    WHERE state <> 'queued' AND state <> 'delivered';

-- Tags are looked for in the index like senders, and nobody writes them while mail is accepted.
DROP TABLE message_tag;
