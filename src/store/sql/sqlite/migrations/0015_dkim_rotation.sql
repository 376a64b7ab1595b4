-- Whether a DKIM key ever signed, and since when another does in its place.

ALTER TABLE dkim_key ADD COLUMN has_signed INTEGER NOT NULL DEFAULT 0;
UPDATE dkim_key SET has_signed = 1 WHERE state <> 'pending';

-- Set exactly while the state is retiring. What such a key signed so far is no younger than the youngest message.
ALTER TABLE dkim_key ADD COLUMN retiring_since_us BIGINT;
UPDATE dkim_key SET retiring_since_us = COALESCE((SELECT MAX(created_us) FROM message), created_us)
    WHERE state = 'retiring';
CREATE INDEX dkim_key_retiring ON dkim_key (retiring_since_us) WHERE retiring_since_us IS NOT NULL;
