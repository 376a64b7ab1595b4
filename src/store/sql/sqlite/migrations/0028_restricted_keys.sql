-- A key that was restricted to domains stays restricted when these domains are deleted.
ALTER TABLE key ADD COLUMN restricted_to_domains INTEGER NOT NULL DEFAULT 0;
UPDATE key SET restricted_to_domains = 1, allowed_domain_ids =
    (SELECT json_group_array(value) FROM json_each(key.allowed_domain_ids) WHERE value IN (SELECT id FROM domain))
    WHERE allowed_domain_ids <> '[]';
