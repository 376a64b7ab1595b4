-- Why a try did not deliver.
ALTER TABLE attempt ADD COLUMN class TEXT;
ALTER TABLE delivery ADD COLUMN last_class TEXT;

-- The deliveries of one batch are tried together: the transcript stands in one of the attempts, named here by the others.
ALTER TABLE attempt ADD COLUMN transcript_of TEXT;

-- How far the removal of old transcripts has come, so that no row is looked at twice.
CREATE TABLE transcript_removal (
    id     INTEGER PRIMARY KEY,
    up_to  TEXT NOT NULL               -- the last attempt whose transcript was removed
);
