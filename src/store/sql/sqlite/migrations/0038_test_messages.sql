-- Messages of the test environment, which may be few among many.
CREATE INDEX test_message_by_tenant ON message (tenant_id, id) WHERE environment = 'test';
CREATE INDEX test_message_by_id ON message (id) WHERE environment = 'test';
