-- The environment of an event; null if it is about an object that both environments share.
ALTER TABLE event ADD COLUMN environment TEXT DEFAULT 'live';
UPDATE event SET environment = 'test'
WHERE message_id IN (SELECT id FROM message WHERE environment = 'test');
UPDATE event SET environment = CASE
    WHEN kind LIKE 'domain.%' OR kind LIKE 'tenant.%' OR kind = 'login.banned' THEN NULL
    WHEN kind LIKE 'send_limit.%' OR kind LIKE 'key.%' THEN json_extract(data, '$.environment')
    ELSE coalesce(
        (SELECT environment FROM rejection WHERE id = json_extract(event.data, '$.rejection_id')), 'live')
    END
WHERE message_id IS NULL;

ALTER TABLE webhook_delivery ADD COLUMN environment TEXT DEFAULT 'live';
UPDATE webhook_delivery SET environment = event.environment FROM event WHERE event.id = webhook_delivery.event_id;

-- The environments whose events a webhook gets, as JSON. Until now each got both.
ALTER TABLE webhook ADD COLUMN environments TEXT NOT NULL DEFAULT '["live","test"]';
