-- Archived tenants: since when, and from when they may be deleted.

ALTER TABLE tenant ADD COLUMN archived_us BIGINT;
ALTER TABLE tenant ADD COLUMN deletable_us BIGINT;
