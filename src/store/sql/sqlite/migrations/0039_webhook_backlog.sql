-- What a delivery takes: the copied event, and about as much for the rest of its row.
ALTER TABLE webhook_delivery ADD COLUMN octets BIGINT GENERATED ALWAYS AS
    (512 + length(CAST(data AS BLOB)) + coalesce(length(CAST(tags AS BLOB)), 0)
        + coalesce(length(CAST(metadata AS BLOB)), 0)) VIRTUAL;

-- The pending deliveries of each webhook, counted by triggers.
CREATE TABLE webhook_backlog (
    webhook_id  TEXT PRIMARY KEY REFERENCES webhook (id) ON DELETE CASCADE,
    deliveries  BIGINT NOT NULL,
    octets      BIGINT NOT NULL
) WITHOUT ROWID;
INSERT INTO webhook_backlog SELECT id, 0, 0 FROM webhook;
UPDATE webhook_backlog SET (deliveries, octets) =
    (SELECT count(*), coalesce(sum(d.octets), 0) FROM webhook_delivery d
     WHERE d.webhook_id = webhook_backlog.webhook_id AND d.next_attempt_us IS NOT NULL);
CREATE TRIGGER webhook_added AFTER INSERT ON webhook BEGIN
    INSERT INTO webhook_backlog (webhook_id, deliveries, octets) VALUES (NEW.id, 0, 0);
END;
CREATE TRIGGER webhook_delivery_added AFTER INSERT ON webhook_delivery WHEN NEW.next_attempt_us IS NOT NULL BEGIN
    UPDATE webhook_backlog SET deliveries = deliveries + 1, octets = octets + NEW.octets
    WHERE webhook_id = NEW.webhook_id;
END;
CREATE TRIGGER webhook_delivery_finished AFTER UPDATE OF next_attempt_us ON webhook_delivery
WHEN OLD.next_attempt_us IS NOT NULL AND NEW.next_attempt_us IS NULL BEGIN
    UPDATE webhook_backlog SET deliveries = deliveries - 1, octets = octets - NEW.octets
    WHERE webhook_id = NEW.webhook_id;
END;
CREATE TRIGGER webhook_delivery_replayed AFTER UPDATE OF next_attempt_us ON webhook_delivery
WHEN OLD.next_attempt_us IS NULL AND NEW.next_attempt_us IS NOT NULL BEGIN
    UPDATE webhook_backlog SET deliveries = deliveries + 1, octets = octets + NEW.octets
    WHERE webhook_id = NEW.webhook_id;
END;
CREATE TRIGGER webhook_delivery_removed AFTER DELETE ON webhook_delivery WHEN OLD.next_attempt_us IS NOT NULL BEGIN
    UPDATE webhook_backlog SET deliveries = deliveries - 1, octets = octets - OLD.octets
    WHERE webhook_id = OLD.webhook_id;
END;
