-- The configured pool of source addresses that a tenant's mail leaves from.
ALTER TABLE tenant ADD COLUMN source_pool TEXT;
