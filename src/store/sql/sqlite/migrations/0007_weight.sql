-- A tenant's part of what there is, against those of others.

ALTER TABLE tenant ADD COLUMN weight INTEGER NOT NULL DEFAULT 10;
