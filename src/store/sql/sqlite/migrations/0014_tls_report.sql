-- TLS sessions with the hosts of domains, counted until they are reported (RFC 8460).
CREATE TABLE tls_result (
    day         TEXT NOT NULL,                              -- UTC, YYYY-MM-DD
    domain      TEXT NOT NULL,
    policy_type TEXT NOT NULL,
    mx_host     TEXT NOT NULL,                              -- empty where it came to no host
    failure     TEXT NOT NULL,                              -- empty of sessions that were as they should be
    sessions    BIGINT NOT NULL,
    PRIMARY KEY (day, domain, policy_type, mx_host, failure)
);
