-- Unique for new values. Not by the index, because earlier versions accepted a value twice.
CREATE INDEX tenant_by_external_ref ON tenant (external_ref) WHERE external_ref IS NOT NULL;
