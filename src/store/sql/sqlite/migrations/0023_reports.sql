-- Reports that the server generates are no mail of the tenant. The old ones have no key and the null reverse path.
ALTER TABLE message ADD COLUMN kind TEXT NOT NULL DEFAULT 'message';
UPDATE message SET kind = 'report' WHERE key_id IS NULL AND reverse_path = '';
CREATE INDEX report_by_tenant ON message (tenant_id, id) WHERE kind = 'report';
CREATE INDEX report_by_id ON message (id) WHERE kind = 'report';
