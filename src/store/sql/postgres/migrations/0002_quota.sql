-- What all nodes together have taken of limits. A crash of the server empties the table; hours and days begin again with
-- what is in `usage`.
CREATE UNLOGGED TABLE quota (
    ends_us BIGINT NOT NULL,
    subject TEXT NOT NULL,
    taken BIGINT NOT NULL,
    -- By the last change.
    granted BIGINT NOT NULL,
    PRIMARY KEY (ends_us, subject)
) WITH (fillfactor = 50);
