-- Events of a type that concerns no message are few among those of messages.
CREATE INDEX event_without_message_by_type ON event (kind, id) WHERE message_id IS NULL;
