-- Earlier secrets of webhooks, which also sign for a while after a rotation.
CREATE TABLE webhook_secret (
    id          INTEGER PRIMARY KEY,
    webhook_id  TEXT NOT NULL REFERENCES webhook (id) ON DELETE CASCADE,
    secret      BLOB NOT NULL,              -- encrypted, as in the row of the webhook
    expires_us  BIGINT NOT NULL
);
CREATE INDEX webhook_secret_of_webhook ON webhook_secret (webhook_id, id);
INSERT INTO webhook_secret (webhook_id, secret, expires_us)
    SELECT id, previous_secret, previous_until_us FROM webhook
    WHERE previous_secret IS NOT NULL AND previous_until_us IS NOT NULL;
ALTER TABLE webhook DROP COLUMN previous_secret;
