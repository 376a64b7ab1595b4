-- Events carry what the sender and the platform attached. A copy for webhooks, because the message or tenant may be gone
-- before the event is posted.
ALTER TABLE webhook_delivery ADD COLUMN external_ref TEXT;
ALTER TABLE webhook_delivery ADD COLUMN tags TEXT;
ALTER TABLE webhook_delivery ADD COLUMN metadata TEXT;

-- The only events that outlive their tenant.
CREATE INDEX event_of_deleted_tenant ON event (id) WHERE kind = 'tenant.deleted';
