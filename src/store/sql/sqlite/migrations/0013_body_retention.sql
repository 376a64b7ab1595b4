-- How long a tenant's bodies are kept, if not as long as those of others.
ALTER TABLE tenant ADD COLUMN body_retention_days INTEGER;
