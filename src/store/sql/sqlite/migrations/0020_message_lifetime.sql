-- The setting has the name of its option. No other text in the JSON can match: a quotation mark inside a value is escaped.
UPDATE tenant SET settings = replace(settings, '"expiry_hours":', '"message_lifetime_hours":');
