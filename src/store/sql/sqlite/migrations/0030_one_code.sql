-- One code for a domain that the submitter may not use.
UPDATE rejection SET code = 'domain_not_allowed_for_key'
    WHERE code IN ('sender_domain_not_owned', 'from_domain_not_owned');
