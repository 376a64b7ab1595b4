-- The schema of PostgreSQL. Columns are those of SQLite; texts compare by their octets (COLLATE "C"), as ids and cursors need.
-- Tables that each message writes to have no foreign keys: their checks would lock the row of the tenant in each
-- transaction. Statements look up what may be missing.

-- Functions that SQLite has.
CREATE FUNCTION max(BIGINT, BIGINT) RETURNS BIGINT LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
AS 'SELECT CASE WHEN $1 > $2 THEN $1 ELSE $2 END';
CREATE FUNCTION min(BIGINT, BIGINT) RETURNS BIGINT LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
AS 'SELECT CASE WHEN $1 < $2 THEN $1 ELSE $2 END';
CREATE FUNCTION instr(TEXT, TEXT) RETURNS INTEGER LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
AS 'SELECT strpos($1, $2)';

CREATE TABLE tenant (
    id                  TEXT COLLATE "C" PRIMARY KEY,
    name                TEXT COLLATE "C" NOT NULL,
    slug                TEXT COLLATE "C" NOT NULL UNIQUE,
    external_ref        TEXT COLLATE "C",
    metadata            TEXT COLLATE "C" NOT NULL,
    settings            TEXT COLLATE "C" NOT NULL,
    rate_limit          TEXT COLLATE "C" NOT NULL,
    smart_host          TEXT COLLATE "C",
    smart_host_password BYTEA,                  -- sealed
    retention_days      BIGINT,
    status              TEXT COLLATE "C" NOT NULL,
    created_us          BIGINT NOT NULL,
    updated_us          BIGINT NOT NULL,
    source_pool TEXT COLLATE "C",
    resumed_us BIGINT,
    weight BIGINT NOT NULL DEFAULT 10,
    body_retention_days BIGINT,
    archived_us BIGINT,
    deletable_us BIGINT
);

CREATE TABLE domain (
    id                TEXT COLLATE "C" PRIMARY KEY,
    tenant_id         TEXT COLLATE "C" REFERENCES tenant (id),
    name              TEXT COLLATE "C" NOT NULL,
    status            TEXT COLLATE "C" NOT NULL,
    verification      TEXT COLLATE "C" NOT NULL,
    subdomains        BOOLEAN NOT NULL,
    ownership_token   TEXT COLLATE "C" NOT NULL,
    last_check        TEXT COLLATE "C",
    checked_us        BIGINT,
    failing_since_us  BIGINT,
    verified_us       BIGINT,
    created_us        BIGINT NOT NULL,
    return_path_mode TEXT COLLATE "C",
    return_path_host TEXT COLLATE "C",
    return_path_status TEXT COLLATE "C" NOT NULL DEFAULT 'pending'
);

CREATE TABLE key (
    id                  TEXT COLLATE "C" PRIMARY KEY,
    tenant_id           TEXT COLLATE "C" REFERENCES tenant (id),
    name                TEXT COLLATE "C" NOT NULL,
    environment         TEXT COLLATE "C" NOT NULL,
    scopes              TEXT COLLATE "C" NOT NULL,
    allowed_domain_ids  TEXT COLLATE "C" NOT NULL,
    allowed_cidrs       TEXT COLLATE "C" NOT NULL,
    digest              BYTEA NOT NULL UNIQUE,
    last_four           TEXT COLLATE "C" NOT NULL,
    created_us          BIGINT NOT NULL,
    expires_us          BIGINT,
    last_used_us        BIGINT,
    revoked_us          BIGINT,
    scram BYTEA,
    restricted_to_domains BOOLEAN NOT NULL DEFAULT FALSE,
    rotated_us BIGINT,
    next_notice_us BIGINT
);

CREATE TABLE message (
    id                 TEXT COLLATE "C" PRIMARY KEY,
    tenant_id          TEXT COLLATE "C" NOT NULL,
    key_id             TEXT COLLATE "C",
    environment        TEXT COLLATE "C" NOT NULL,
    reverse_path       TEXT COLLATE "C" NOT NULL, -- empty is the null path
    body               TEXT COLLATE "C" NOT NULL,
    smtputf8           BOOLEAN NOT NULL,
    size               BIGINT NOT NULL,
    subject            TEXT COLLATE "C",
    header_from        TEXT COLLATE "C",
    header_message_id  TEXT COLLATE "C",
    dkim_domain        TEXT COLLATE "C",
    created_us         BIGINT NOT NULL,
    expires_us         BIGINT NOT NULL,
    return_content TEXT COLLATE "C",
    envelope_id TEXT COLLATE "C",
    require_tls BOOLEAN NOT NULL DEFAULT FALSE,
    release_us BIGINT,
    tags TEXT COLLATE "C",
    metadata TEXT COLLATE "C",
    kind TEXT COLLATE "C" NOT NULL DEFAULT 'message',
    sender_domain TEXT COLLATE "C",
    list TEXT COLLATE "C"
);

CREATE TABLE webhook (
    id                 TEXT COLLATE "C" PRIMARY KEY,
    tenant_id          TEXT COLLATE "C" REFERENCES tenant (id),
    url                TEXT COLLATE "C" NOT NULL,
    kinds              TEXT COLLATE "C" NOT NULL, -- names of events; none for all
    status             TEXT COLLATE "C" NOT NULL,
    disabled_reason    TEXT COLLATE "C",        -- set exactly while it is disabled
    failing_since_us   BIGINT,
    secret             BYTEA NOT NULL,          -- sealed
    created_us         BIGINT NOT NULL,
    updated_us         BIGINT NOT NULL,
    environments TEXT COLLATE "C" NOT NULL DEFAULT '["live","test"]'
);

CREATE TABLE report (
    id             TEXT COLLATE "C" PRIMARY KEY,
    tenant_id      TEXT COLLATE "C" REFERENCES tenant (id), -- null: nothing proves whom it is about
    environment    TEXT COLLATE "C",
    message_id     TEXT COLLATE "C" REFERENCES message (id),
    delivery_id    TEXT COLLATE "C",
    kind           TEXT COLLATE "C" NOT NULL,
    rule           TEXT COLLATE "C" NOT NULL,   -- the rule of the reader that decided the kind
    effect         TEXT COLLATE "C" NOT NULL,
    action         TEXT COLLATE "C",
    status         TEXT COLLATE "C",
    bounce_class   TEXT COLLATE "C",
    feedback_type  TEXT COLLATE "C",
    recipient      TEXT COLLATE "C",            -- as the report names it
    reply          TEXT COLLATE "C",            -- the words of the remote server
    reporter       TEXT COLLATE "C" NOT NULL,   -- JSON
    digest         BYTEA NOT NULL,              -- of what it says, not of its octets
    times          BIGINT NOT NULL,
    created_us     BIGINT NOT NULL,             -- `keyset::List` filters by this name
    last_us        BIGINT NOT NULL
);

CREATE TABLE acme_account (
    directory    TEXT COLLATE "C" PRIMARY KEY,
    account_url  TEXT COLLATE "C" NOT NULL,
    credentials  BYTEA NOT NULL,                -- encrypted
    created_us   BIGINT NOT NULL
);

-- Changes that other nodes must learn of, because they keep what was changed in memory.
CREATE TABLE announcement (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    epoch      BIGINT NOT NULL,                 -- of the node that made the change
    kind       TEXT COLLATE "C" NOT NULL,
    tenant_id  TEXT COLLATE "C",
    name       TEXT COLLATE "C",                -- of a domain
    at_us      BIGINT,
    created    TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE attempt (
    id           TEXT COLLATE "C" PRIMARY KEY,
    message_id   TEXT COLLATE "C" NOT NULL,
    delivery_id  TEXT COLLATE "C" NOT NULL,
    started_us   BIGINT NOT NULL,
    duration_ms  BIGINT NOT NULL,
    host         TEXT COLLATE "C" NOT NULL,
    address      TEXT COLLATE "C",
    tls          TEXT COLLATE "C",
    code         BIGINT,
    enhanced     TEXT COLLATE "C",
    text         TEXT COLLATE "C" NOT NULL,
    transcript   TEXT COLLATE "C" NOT NULL,
    outcome      TEXT COLLATE "C" NOT NULL,
    reason       TEXT COLLATE "C" NOT NULL,
    bounce_class TEXT COLLATE "C",
    transcript_of TEXT COLLATE "C",
    tls_policy TEXT COLLATE "C",
    source TEXT COLLATE "C"
);

CREATE TABLE audit (
    id              TEXT COLLATE "C" PRIMARY KEY,
    tenant_id       TEXT COLLATE "C",           -- null: the platform
    number          BIGINT NOT NULL,            -- 1, 2, … of this tenant: bounds the entries of each
    actor           TEXT COLLATE "C" NOT NULL,
    key_id          TEXT COLLATE "C",
    actor_name      TEXT COLLATE "C",
    by_platform     BOOLEAN NOT NULL,
    client_address  TEXT COLLATE "C",
    request_id      TEXT COLLATE "C",
    operation       TEXT COLLATE "C" NOT NULL,
    object          TEXT COLLATE "C",
    object_id       TEXT COLLATE "C",
    before          TEXT COLLATE "C",           -- JSON
    after           TEXT COLLATE "C",           -- JSON
    error           TEXT COLLATE "C",
    created_us      BIGINT NOT NULL
);

CREATE TABLE body (
    message_id          TEXT COLLATE "C" PRIMARY KEY,
    prefix              BYTEA,
    submitted           BYTEA,
    file_prefix_octets  BIGINT,
    octets BIGINT,
    crc32 BIGINT
);
-- Compression would cost more than everything else.
ALTER TABLE body ALTER COLUMN prefix SET STORAGE EXTERNAL, ALTER COLUMN submitted SET STORAGE EXTERNAL;

-- The bodies whose row has `file_prefix_octets`. `number` is 0, 1, …
CREATE TABLE body_piece (
    message_id  TEXT COLLATE "C" NOT NULL,
    number      BIGINT NOT NULL,
    octets      BYTEA NOT NULL,
    PRIMARY KEY (message_id, number)
);
ALTER TABLE body_piece ALTER COLUMN octets SET STORAGE EXTERNAL;

CREATE TABLE brake (
    tenant_id   TEXT COLLATE "C" PRIMARY KEY REFERENCES tenant (id),
    applied_us  BIGINT NOT NULL
);

CREATE TABLE default_tenant_ensured (
    at_us BIGINT NOT NULL
);

CREATE TABLE deleted_tenant (
    id            TEXT COLLATE "C" PRIMARY KEY,
    name          TEXT COLLATE "C" NOT NULL,
    slug          TEXT COLLATE "C" NOT NULL,
    external_ref  TEXT COLLATE "C"
);

CREATE TABLE delivery (
    id               TEXT COLLATE "C" PRIMARY KEY,
    message_id       TEXT COLLATE "C" NOT NULL,
    tenant_id        TEXT COLLATE "C" NOT NULL,
    position         BIGINT NOT NULL,           -- among the recipients of the message
    recipient        TEXT COLLATE "C" NOT NULL,
    destination      TEXT COLLATE "C" NOT NULL,
    state            TEXT COLLATE "C" NOT NULL,
    attempts         BIGINT NOT NULL,
    next_attempt_us  BIGINT,                    -- set exactly while the state is open
    last_reply       TEXT COLLATE "C",
    updated_us       BIGINT NOT NULL,
    notify TEXT COLLATE "C",
    original_recipient TEXT COLLATE "C",
    bounce_class TEXT COLLATE "C",
    complained_us BIGINT
) WITH (fillfactor = 40);                       -- the longer rows with results fit on the page, so that no index changes

-- The open deliveries. Apart from `delivery`, so that results are written there without changing an index.
CREATE TABLE queue (
    id               TEXT COLLATE "C" PRIMARY KEY, -- of the delivery
    tenant_id        TEXT COLLATE "C" NOT NULL,
    destination      TEXT COLLATE "C" NOT NULL,
    next_attempt_us  BIGINT NOT NULL,
    owner            BIGINT NOT NULL            -- the epoch of the node that has it; 0: none
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 0);

-- The deliveries in a rare state. An index of `delivery` by state would change with each result.
CREATE TABLE trouble (
    tenant_id   TEXT COLLATE "C" NOT NULL,
    state       TEXT COLLATE "C" NOT NULL,
    message_id  TEXT COLLATE "C" NOT NULL,
    id          TEXT COLLATE "C" NOT NULL,      -- of the delivery
    PRIMARY KEY (tenant_id, state, message_id, id)
);

-- The processes that serve this database. An epoch is used once.
CREATE TABLE node (
    epoch        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node_id      TEXT COLLATE "C" NOT NULL,     -- of its data directory
    name         TEXT COLLATE "C" NOT NULL,     -- of its host
    version      TEXT COLLATE "C" NOT NULL,
    state        TEXT COLLATE "C" NOT NULL,     -- live, left or dead
    lease_until  TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE dkim_key (
    id           TEXT COLLATE "C" PRIMARY KEY,
    domain_id    TEXT COLLATE "C" NOT NULL REFERENCES domain (id),
    selector     TEXT COLLATE "C" NOT NULL,
    algorithm    TEXT COLLATE "C" NOT NULL,
    state        TEXT COLLATE "C" NOT NULL,
    public_key   TEXT COLLATE "C" NOT NULL,
    private_key  BYTEA NOT NULL,                -- sealed
    created_us   BIGINT NOT NULL,
    has_signed BOOLEAN NOT NULL DEFAULT FALSE,
    retiring_since_us BIGINT
);

CREATE TABLE ended_pause (
    tenant_id    TEXT COLLATE "C" NOT NULL,
    destination  TEXT COLLATE "C" NOT NULL,
    until_us     BIGINT NOT NULL,
    round BIGINT NOT NULL DEFAULT 1,
    PRIMARY KEY (tenant_id, destination, until_us)
);

CREATE TABLE erasure (
    id                 TEXT COLLATE "C" PRIMARY KEY,
    tenant_id          TEXT COLLATE "C",        -- null: of every tenant
    digest             BYTEA NOT NULL,          -- MAC of the folded address under the master key
    keeps_suppression  BOOLEAN NOT NULL,
    created_us         BIGINT NOT NULL,         -- `keyset::List` filters by this name
    applied_us         BIGINT,                  -- null until all rows are changed
    counts             TEXT COLLATE "C" NOT NULL DEFAULT '{}'
);

CREATE TABLE event (
    id           TEXT COLLATE "C" PRIMARY KEY,
    kind         TEXT COLLATE "C" NOT NULL,
    tenant_id    TEXT COLLATE "C",
    message_id   TEXT COLLATE "C",
    delivery_id  TEXT COLLATE "C",
    data         TEXT COLLATE "C" NOT NULL,
    created_us   BIGINT NOT NULL,
    environment TEXT COLLATE "C" DEFAULT 'live',
    -- The order of commits, see journal/commit_order.rs. 0 is the transaction of imported events, which are no news.
    transaction_id BIGINT NOT NULL DEFAULT CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT),
    number       BIGINT GENERATED BY DEFAULT AS IDENTITY (CACHE 100)
);

-- What is added to the ids of transactions, so that they grow also after a restore.
CREATE TABLE transaction_offset (
    added  BIGINT NOT NULL
);
INSERT INTO transaction_offset (added) VALUES (0);

CREATE TABLE idempotent_response (
    key_id      TEXT COLLATE "C" NOT NULL REFERENCES key (id) ON DELETE CASCADE,
    name        TEXT COLLATE "C" NOT NULL,      -- the client's
    digest      BYTEA NOT NULL,                 -- of method, path and body
    status      BIGINT NOT NULL,
    body        BYTEA NOT NULL,                 -- sealed: it may hold a secret that is shown once
    created_us  BIGINT NOT NULL,
    PRIMARY KEY (key_id, name)
);

CREATE TABLE inbox (
    id               TEXT COLLATE "C" PRIMARY KEY,
    tenant_id        TEXT COLLATE "C" NOT NULL REFERENCES tenant (id) ON DELETE CASCADE,
    address          TEXT COLLATE "C" NOT NULL,
    folded           TEXT COLLATE "C" NOT NULL,
    code_digest      BYTEA,
    code_expires_us  BIGINT,
    attempts         BIGINT NOT NULL DEFAULT 0, -- wrong codes
    confirmed_us     BIGINT,
    created_us       BIGINT NOT NULL,
    UNIQUE (tenant_id, folded)
);

CREATE TABLE key_secret (
    digest      BYTEA PRIMARY KEY,
    key_id      TEXT COLLATE "C" NOT NULL REFERENCES key (id) ON DELETE CASCADE,
    scram       BYTEA,                          -- encrypted, as in the row of the key
    expires_us  BIGINT NOT NULL
);

CREATE TABLE limit_warning (
    tenant_id    TEXT COLLATE "C" NOT NULL REFERENCES tenant (id),
    environment  TEXT COLLATE "C" NOT NULL,
    period       TEXT COLLATE "C" NOT NULL,     -- minute or day, in UTC
    kind         TEXT COLLATE "C" NOT NULL,     -- of the event
    resets_us    BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, environment, period, kind)
);

CREATE TABLE pause (
    tenant_id    TEXT COLLATE "C" NOT NULL,
    destination  TEXT COLLATE "C" NOT NULL,
    reason       TEXT COLLATE "C",
    since_us     BIGINT NOT NULL,
    until_us     BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, destination)
);

CREATE TABLE rejection (
    id              TEXT COLLATE "C" PRIMARY KEY,
    tenant_id       TEXT COLLATE "C" NOT NULL REFERENCES tenant (id),
    key_id          TEXT COLLATE "C",
    stage           TEXT COLLATE "C" NOT NULL,
    code            TEXT COLLATE "C" NOT NULL,
    message         TEXT COLLATE "C" NOT NULL,
    client_address  TEXT COLLATE "C",
    created_us      BIGINT NOT NULL,
    environment TEXT COLLATE "C" NOT NULL DEFAULT 'live'
);

CREATE TABLE report_count (
    subject     TEXT COLLATE "C" PRIMARY KEY,   -- the id of the delivery or message
    message_id  TEXT COLLATE "C" NOT NULL REFERENCES message (id),
    day_us      BIGINT NOT NULL,
    of_day      BIGINT NOT NULL,
    total       BIGINT NOT NULL
);

CREATE TABLE report_raw (
    report_id  TEXT COLLATE "C" PRIMARY KEY REFERENCES report (id) ON DELETE CASCADE,
    octets     BYTEA NOT NULL
);

CREATE TABLE seal_check (
    id      BIGINT PRIMARY KEY,
    sealed  BYTEA NOT NULL,
    fingerprint TEXT COLLATE "C"
);

CREATE TABLE search_progress (
    id     BIGINT PRIMARY KEY,
    cursor  TEXT COLLATE "C" NOT NULL           -- the last event that was looked at
);

CREATE TABLE sts_policy (
    domain      TEXT COLLATE "C" PRIMARY KEY,
    policy_id   TEXT COLLATE "C" NOT NULL,      -- of the TXT record under which it was fetched
    policy      TEXT COLLATE "C" NOT NULL,      -- the file
    fetched_us  BIGINT NOT NULL,
    expires_us  BIGINT NOT NULL
);

CREATE TABLE submission_key (
    tenant_id    TEXT COLLATE "C" NOT NULL,
    environment  TEXT COLLATE "C" NOT NULL,
    name         TEXT COLLATE "C" NOT NULL,     -- the client's
    digest       BYTEA NOT NULL,                -- of message and envelope
    message_id   TEXT COLLATE "C" NOT NULL,
    created_us   BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, environment, name)
);

CREATE TABLE suppression (
    id          TEXT COLLATE "C" PRIMARY KEY,
    tenant_id   TEXT COLLATE "C" REFERENCES tenant (id),
    address     TEXT COLLATE "C" NOT NULL,      -- folded
    reason      TEXT COLLATE "C" NOT NULL,
    evidence    TEXT COLLATE "C",
    created_us  BIGINT NOT NULL,
    expires_us  BIGINT,
    environment TEXT COLLATE "C" NOT NULL DEFAULT 'live',
    list TEXT COLLATE "C" NOT NULL DEFAULT '',
    report_id TEXT COLLATE "C",
    message_id TEXT COLLATE "C",
    provisional BIGINT NOT NULL DEFAULT 0,
    site TEXT COLLATE "C",
    refused_us BIGINT
);

CREATE TABLE suppression_count (
    tenant_id     TEXT COLLATE "C" NOT NULL REFERENCES tenant (id) ON DELETE CASCADE,
    environment   TEXT COLLATE "C" NOT NULL,
    suppressions  BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, environment)
);

CREATE TABLE suspicious_site (
    site      TEXT COLLATE "C" PRIMARY KEY,
    until_us  BIGINT NOT NULL
);

CREATE TABLE template (
    id          TEXT COLLATE "C" PRIMARY KEY,
    tenant_id   TEXT COLLATE "C" NOT NULL REFERENCES tenant (id),
    name        TEXT COLLATE "C" NOT NULL,
    subject     TEXT COLLATE "C" NOT NULL,
    text        TEXT COLLATE "C",
    html        TEXT COLLATE "C",
    created_us  BIGINT NOT NULL,
    updated_us  BIGINT NOT NULL
);

CREATE TABLE tls_result (
    day         TEXT COLLATE "C" NOT NULL,      -- UTC, YYYY-MM-DD
    domain      TEXT COLLATE "C" NOT NULL,
    policy_type TEXT COLLATE "C" NOT NULL,
    mx_host     TEXT COLLATE "C" NOT NULL,      -- empty where it came to no host
    failure     TEXT COLLATE "C" NOT NULL,      -- empty of sessions that were as they should be
    sessions    BIGINT NOT NULL,
    PRIMARY KEY (day, domain, policy_type, mx_host, failure)
);

CREATE TABLE token_generation (
    generation  BIGINT PRIMARY KEY,             -- 1, 2, …; its digit in a token is the number modulo 32
    since_us    BIGINT NOT NULL,
    refused_us  BIGINT,                         -- its tokens are refused from this time; null for the newest generation
    links_refused_us BIGINT                     -- its links are refused from this time; set only by a rotation with `at_once`
);

CREATE TABLE transcript_removal (
    id     BIGINT PRIMARY KEY,
    up_to  TEXT COLLATE "C" NOT NULL            -- the last attempt whose transcript was removed
);

CREATE TABLE trial_usage (
    tenant_id      TEXT COLLATE "C" PRIMARY KEY REFERENCES tenant (id) ON DELETE CASCADE,
    day_us         BIGINT NOT NULL,
    messages       BIGINT NOT NULL,
    confirmations  BIGINT NOT NULL
);

CREATE TABLE unattributed_report_count (
    id       BIGINT PRIMARY KEY CHECK (id = 1),
    reports  BIGINT NOT NULL
);

-- Each lane of the writer adds to rows of its own, so that none waits for the commit of another.
CREATE TABLE usage_by_slot (
    tenant_id     TEXT COLLATE "C" NOT NULL,
    span          TEXT COLLATE "C" NOT NULL,    -- hour or day, in UTC
    start_us      BIGINT NOT NULL,
    environment   TEXT COLLATE "C" NOT NULL,
    slot          BIGINT NOT NULL,
    sent          BIGINT NOT NULL,              -- recipients, as the four that follow
    delivered     BIGINT NOT NULL,
    bounced       BIGINT NOT NULL,
    complained    BIGINT NOT NULL,
    suppressed    BIGINT NOT NULL,
    rejected      BIGINT NOT NULL,              -- refusals
    api_requests  BIGINT NOT NULL,
    bounced_late BIGINT NOT NULL DEFAULT 0,
    unsubscribed BIGINT NOT NULL DEFAULT 0,
    deferred BIGINT NOT NULL DEFAULT 0,
    expired BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, span, start_us, environment, slot)
) WITH (fillfactor = 50);

CREATE VIEW usage AS
SELECT tenant_id, span, start_us, environment,
       CAST(sum(sent) AS BIGINT) AS sent,
       CAST(sum(delivered) AS BIGINT) AS delivered,
       CAST(sum(bounced) AS BIGINT) AS bounced,
       CAST(sum(complained) AS BIGINT) AS complained,
       CAST(sum(suppressed) AS BIGINT) AS suppressed,
       CAST(sum(rejected) AS BIGINT) AS rejected,
       CAST(sum(api_requests) AS BIGINT) AS api_requests,
       CAST(sum(bounced_late) AS BIGINT) AS bounced_late,
       CAST(sum(unsubscribed) AS BIGINT) AS unsubscribed,
       CAST(sum(deferred) AS BIGINT) AS deferred,
       CAST(sum(expired) AS BIGINT) AS expired
FROM usage_by_slot GROUP BY tenant_id, span, start_us, environment;

CREATE TABLE usage_part_by_slot (
    tenant_id     TEXT COLLATE "C" NOT NULL,
    start_us      BIGINT NOT NULL,
    environment   TEXT COLLATE "C" NOT NULL,
    key_id        TEXT COLLATE "C" NOT NULL,
    domain        TEXT COLLATE "C" NOT NULL,
    slot          BIGINT NOT NULL,
    sent          BIGINT NOT NULL,
    delivered     BIGINT NOT NULL,
    bounced       BIGINT NOT NULL,
    complained    BIGINT NOT NULL,
    suppressed    BIGINT NOT NULL,
    rejected      BIGINT NOT NULL,
    api_requests  BIGINT NOT NULL,
    bounced_late BIGINT NOT NULL DEFAULT 0,
    unsubscribed BIGINT NOT NULL DEFAULT 0,
    deferred BIGINT NOT NULL DEFAULT 0,
    expired BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, start_us, environment, key_id, domain, slot)
) WITH (fillfactor = 50);

CREATE VIEW usage_part AS
SELECT tenant_id, start_us, environment, key_id, domain,
       CAST(sum(sent) AS BIGINT) AS sent,
       CAST(sum(delivered) AS BIGINT) AS delivered,
       CAST(sum(bounced) AS BIGINT) AS bounced,
       CAST(sum(complained) AS BIGINT) AS complained,
       CAST(sum(suppressed) AS BIGINT) AS suppressed,
       CAST(sum(rejected) AS BIGINT) AS rejected,
       CAST(sum(api_requests) AS BIGINT) AS api_requests,
       CAST(sum(bounced_late) AS BIGINT) AS bounced_late,
       CAST(sum(unsubscribed) AS BIGINT) AS unsubscribed,
       CAST(sum(deferred) AS BIGINT) AS deferred,
       CAST(sum(expired) AS BIGINT) AS expired
FROM usage_part_by_slot GROUP BY tenant_id, start_us, environment, key_id, domain;

CREATE TABLE webhook_backlog_by_slot (
    webhook_id  TEXT COLLATE "C" NOT NULL REFERENCES webhook (id) ON DELETE CASCADE,
    slot        BIGINT NOT NULL,
    deliveries  BIGINT NOT NULL,                -- of one slot, possibly negative
    octets      BIGINT NOT NULL,
    PRIMARY KEY (webhook_id, slot)
) WITH (fillfactor = 50);

CREATE VIEW webhook_backlog AS
SELECT webhook_id, CAST(sum(deliveries) AS BIGINT) AS deliveries, CAST(sum(octets) AS BIGINT) AS octets
FROM webhook_backlog_by_slot GROUP BY webhook_id;

CREATE TABLE webhook_delivery (
    id               TEXT COLLATE "C" PRIMARY KEY,
    webhook_id       TEXT COLLATE "C" NOT NULL,
    event_id         TEXT COLLATE "C" NOT NULL,
    kind             TEXT COLLATE "C" NOT NULL,
    tenant_id        TEXT COLLATE "C",                  -- whose event it is
    message_id       TEXT COLLATE "C",
    delivery_id      TEXT COLLATE "C",
    data             TEXT COLLATE "C" NOT NULL,
    created_us       BIGINT NOT NULL,
    state            TEXT COLLATE "C" NOT NULL,
    attempts         BIGINT NOT NULL,
    next_attempt_us  BIGINT,                            -- set exactly while the state is pending
    last_attempt     TEXT COLLATE "C",
    external_ref     TEXT COLLATE "C",
    tags             TEXT COLLATE "C",
    metadata         TEXT COLLATE "C",
    environment      TEXT COLLATE "C" DEFAULT 'live',
    octets           BIGINT GENERATED ALWAYS AS
        (512 + octet_length(data) + coalesce(octet_length(tags), 0) + coalesce(octet_length(metadata), 0)) STORED
);

CREATE TABLE webhook_secret (
    id          BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    webhook_id  TEXT COLLATE "C" NOT NULL REFERENCES webhook (id) ON DELETE CASCADE,
    secret      BYTEA NOT NULL,                 -- encrypted, as in the row of the webhook
    expires_us  BIGINT NOT NULL
);

CREATE TABLE write_test (
    id      BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    filler  BYTEA NOT NULL
);

CREATE INDEX announcement_by_age ON announcement (created);
CREATE INDEX attempt_of_message ON attempt (message_id, started_us);
CREATE INDEX audit_by_number ON audit (tenant_id, number);
CREATE INDEX audit_by_object ON audit (object_id, id) WHERE object_id IS NOT NULL;
CREATE INDEX audit_by_tenant ON audit (tenant_id, id);
CREATE INDEX delivery_of_message ON delivery (message_id, position);
CREATE INDEX dkim_key_retiring ON dkim_key (retiring_since_us) WHERE retiring_since_us IS NOT NULL;
CREATE UNIQUE INDEX dkim_key_selector ON dkim_key (domain_id, selector);
CREATE INDEX domain_by_name ON domain (name, status);
CREATE INDEX domain_by_return_host ON domain (return_path_host) WHERE return_path_host IS NOT NULL;
CREATE INDEX domain_by_tenant ON domain (tenant_id, id);
CREATE UNIQUE INDEX domain_of_platform ON domain (name) WHERE tenant_id IS NULL;
CREATE UNIQUE INDEX domain_of_tenant ON domain (name, tenant_id);
CREATE INDEX erasure_by_tenant ON erasure (tenant_id, id);
CREATE INDEX erasure_pending ON erasure (id) WHERE applied_us IS NULL;
CREATE INDEX event_in_commit_order ON event (transaction_id, number);
CREATE INDEX event_of_deleted_tenant ON event (id) WHERE kind = 'tenant.deleted';
CREATE INDEX event_of_message ON event (message_id, id) WHERE message_id IS NOT NULL;
CREATE INDEX event_without_message ON event (tenant_id, id) WHERE message_id IS NULL;
CREATE INDEX event_without_message_by_type ON event (kind, id) WHERE message_id IS NULL;
CREATE INDEX idempotent_response_by_age ON idempotent_response (created_us);
CREATE INDEX key_by_tenant ON key (tenant_id, id);
CREATE INDEX key_notice_due ON key (next_notice_us) WHERE next_notice_us IS NOT NULL;
CREATE INDEX key_secret_of_key ON key_secret (key_id);
CREATE INDEX message_by_tenant ON message (tenant_id, id);
CREATE INDEX node_live ON node (epoch) WHERE state = 'live';
CREATE INDEX queue_due ON queue (tenant_id, next_attempt_us, id) INCLUDE (destination) WHERE owner = 0;
CREATE INDEX rejection_by_tenant ON rejection (tenant_id, id);
CREATE INDEX report_by_id ON message (kind, id) WHERE kind <> 'message';
CREATE INDEX report_by_tenant ON message (tenant_id, kind, id) WHERE kind <> 'message';
CREATE INDEX report_count_of_message ON report_count (message_id);
CREATE INDEX report_row_by_tenant ON report (tenant_id, id);
CREATE UNIQUE INDEX report_row_of_delivery ON report (delivery_id, digest) WHERE delivery_id IS NOT NULL;
CREATE INDEX report_row_of_message ON report (message_id, id) WHERE message_id IS NOT NULL;
CREATE INDEX report_row_unattributed ON report (id) WHERE tenant_id IS NULL;
CREATE INDEX sts_policy_by_expiry ON sts_policy (expires_us);
CREATE INDEX submission_key_by_age ON submission_key (created_us);
CREATE INDEX suppression_at_site ON suppression (site, refused_us) WHERE site IS NOT NULL AND provisional = 0;
CREATE INDEX suppression_by_expiry ON suppression (expires_us) WHERE expires_us IS NOT NULL;
CREATE INDEX suppression_by_tenant ON suppression (tenant_id, id);
CREATE UNIQUE INDEX suppression_of_platform ON suppression (address, environment, list) WHERE tenant_id IS NULL;
CREATE UNIQUE INDEX suppression_of_tenant ON suppression (address, tenant_id, environment, list);
CREATE INDEX template_by_tenant ON template (tenant_id, id);
CREATE UNIQUE INDEX template_of_tenant ON template (tenant_id, name);
CREATE INDEX tenant_by_external_ref ON tenant (external_ref) WHERE external_ref IS NOT NULL;
CREATE INDEX tenant_with_brakes ON tenant (id) WHERE status = 'active' AND instr(settings, '"brakes":{') > 0;
CREATE INDEX test_message_by_id ON message (id) WHERE environment = 'test';
CREATE INDEX test_message_by_tenant ON message (tenant_id, id) WHERE environment = 'test';
CREATE INDEX trouble_by_state ON trouble (state, message_id);
CREATE INDEX usage_by_start ON usage_by_slot (span, start_us);
CREATE INDEX usage_in_slots ON usage_by_slot (start_us) WHERE slot <> 0;
CREATE INDEX usage_part_in_slots ON usage_part_by_slot (start_us) WHERE slot <> 0;
CREATE INDEX webhook_by_tenant ON webhook (tenant_id, id);
CREATE INDEX webhook_delivery_by_tenant ON webhook_delivery (tenant_id, id);
CREATE INDEX webhook_delivery_due ON webhook_delivery (webhook_id, next_attempt_us, id)
    WHERE next_attempt_us IS NOT NULL;
CREATE INDEX webhook_delivery_in_order ON webhook_delivery (webhook_id, message_id, id)
    WHERE next_attempt_us IS NOT NULL;
CREATE INDEX webhook_delivery_of ON webhook_delivery (webhook_id, id);
CREATE INDEX webhook_secret_of_webhook ON webhook_secret (webhook_id, id);

-- The full-text index.
CREATE TABLE message_search (
    message_id  TEXT COLLATE "C" PRIMARY KEY,
    doc         TSVECTOR NOT NULL
);
CREATE INDEX message_search_doc ON message_search USING gin (doc);

CREATE TABLE released_body (
    id TEXT COLLATE "C" PRIMARY KEY             -- of the message
);

CREATE TABLE restoration (
    id           BIGINT PRIMARY KEY CHECK (id = 1),
    taken_us     BIGINT NOT NULL,
    restored_us  BIGINT NOT NULL,
    deliveries   BIGINT NOT NULL                -- that were open at `taken_us`
);

INSERT INTO token_generation (generation, since_us) VALUES (1, 0);
INSERT INTO unattributed_report_count (id, reports) VALUES (1, 0);

CREATE FUNCTION count_suppression() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO suppression_count (tenant_id, environment, suppressions) VALUES (NEW.tenant_id, NEW.environment, 1)
        ON CONFLICT (tenant_id, environment) DO UPDATE SET suppressions = suppression_count.suppressions + 1;
    ELSE
        UPDATE suppression_count SET suppressions = suppressions - 1
        WHERE tenant_id = OLD.tenant_id AND environment = OLD.environment;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER suppression_added AFTER INSERT ON suppression
FOR EACH ROW WHEN (NEW.tenant_id IS NOT NULL) EXECUTE FUNCTION count_suppression();
CREATE TRIGGER suppression_removed AFTER DELETE ON suppression
FOR EACH ROW WHEN (OLD.tenant_id IS NOT NULL) EXECUTE FUNCTION count_suppression();

CREATE FUNCTION count_unattributed_report() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE unattributed_report_count SET reports = reports + CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
    RETURN NULL;
END $$;
CREATE TRIGGER unattributed_report_added AFTER INSERT ON report
FOR EACH ROW WHEN (NEW.tenant_id IS NULL) EXECUTE FUNCTION count_unattributed_report();
CREATE TRIGGER unattributed_report_removed AFTER DELETE ON report
FOR EACH ROW WHEN (OLD.tenant_id IS NULL) EXECUTE FUNCTION count_unattributed_report();

CREATE FUNCTION add_webhook_backlog() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO webhook_backlog_by_slot (webhook_id, slot, deliveries, octets) VALUES (NEW.id, 0, 0, 0);
    RETURN NULL;
END $$;
CREATE TRIGGER webhook_added AFTER INSERT ON webhook FOR EACH ROW EXECUTE FUNCTION add_webhook_backlog();

-- The slot of the lane whose session this is.
CREATE FUNCTION writer_slot() RETURNS BIGINT LANGUAGE sql STABLE AS $$
    SELECT CAST(coalesce(nullif(current_setting('pillarbox.slot', TRUE), ''), '0') AS BIGINT)
$$;

CREATE FUNCTION count_new_webhook_deliveries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO webhook_backlog_by_slot (webhook_id, slot, deliveries, octets)
    SELECT webhook_id, writer_slot(), sum(deliveries), sum(octets) FROM (SELECT webhook_id, 1 AS deliveries, octets FROM added WHERE next_attempt_us IS NOT NULL) AS waiting
    GROUP BY webhook_id HAVING sum(deliveries) <> 0 OR sum(octets) <> 0 ORDER BY webhook_id
    ON CONFLICT (webhook_id, slot) DO UPDATE SET deliveries = webhook_backlog_by_slot.deliveries + excluded.deliveries,
        octets = webhook_backlog_by_slot.octets + excluded.octets;
    RETURN NULL;
END $$;
CREATE TRIGGER webhook_delivery_insert AFTER INSERT ON webhook_delivery REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION count_new_webhook_deliveries();

CREATE FUNCTION count_changed_webhook_deliveries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO webhook_backlog_by_slot (webhook_id, slot, deliveries, octets)
    SELECT webhook_id, writer_slot(), sum(deliveries), sum(octets) FROM (SELECT webhook_id, 1 AS deliveries, octets FROM added WHERE next_attempt_us IS NOT NULL
        UNION ALL SELECT webhook_id, -1 AS deliveries, -octets AS octets FROM former WHERE next_attempt_us IS NOT NULL) AS waiting
    GROUP BY webhook_id HAVING sum(deliveries) <> 0 OR sum(octets) <> 0 ORDER BY webhook_id
    ON CONFLICT (webhook_id, slot) DO UPDATE SET deliveries = webhook_backlog_by_slot.deliveries + excluded.deliveries,
        octets = webhook_backlog_by_slot.octets + excluded.octets;
    RETURN NULL;
END $$;
CREATE TRIGGER webhook_delivery_update AFTER UPDATE ON webhook_delivery REFERENCING OLD TABLE AS former NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION count_changed_webhook_deliveries();

CREATE FUNCTION count_deleted_webhook_deliveries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO webhook_backlog_by_slot (webhook_id, slot, deliveries, octets)
    SELECT webhook_id, writer_slot(), sum(deliveries), sum(octets) FROM (SELECT webhook_id, -1 AS deliveries, -octets AS octets FROM former WHERE next_attempt_us IS NOT NULL) AS waiting
    GROUP BY webhook_id HAVING sum(deliveries) <> 0 OR sum(octets) <> 0 ORDER BY webhook_id
    ON CONFLICT (webhook_id, slot) DO UPDATE SET deliveries = webhook_backlog_by_slot.deliveries + excluded.deliveries,
        octets = webhook_backlog_by_slot.octets + excluded.octets;
    RETURN NULL;
END $$;
CREATE TRIGGER webhook_delivery_delete AFTER DELETE ON webhook_delivery REFERENCING OLD TABLE AS former
FOR EACH STATEMENT EXECUTE FUNCTION count_deleted_webhook_deliveries();

-- `queue` and `trouble` follow `delivery`. What has another due time belongs to no node. Sequential scans would be chosen
-- while the tables are small, and kept when they have grown.
CREATE FUNCTION follow_changed_deliveries() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    DELETE FROM queue USING changed WHERE queue.id = changed.id AND changed.next_attempt_us IS NULL;
    UPDATE queue SET next_attempt_us = changed.next_attempt_us, owner = 0
    FROM changed WHERE queue.id = changed.id AND queue.next_attempt_us <> changed.next_attempt_us;
    DELETE FROM trouble USING former, changed
    WHERE former.id = changed.id AND former.state <> changed.state AND former.state <> 'queued'
        AND trouble.tenant_id = former.tenant_id AND trouble.state = former.state
        AND trouble.message_id = former.message_id AND trouble.id = former.id;
    INSERT INTO trouble (tenant_id, state, message_id, id)
    SELECT changed.tenant_id, changed.state, changed.message_id, changed.id FROM changed JOIN former USING (id)
    WHERE changed.state <> former.state AND changed.state NOT IN ('queued', 'delivered');
    RETURN NULL;
END $$;
CREATE TRIGGER delivery_changed AFTER UPDATE ON delivery REFERENCING OLD TABLE AS former NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION follow_changed_deliveries();

CREATE FUNCTION follow_deleted_deliveries() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    DELETE FROM queue USING former WHERE queue.id = former.id;
    DELETE FROM trouble USING former
    WHERE trouble.tenant_id = former.tenant_id AND trouble.state = former.state
        AND trouble.message_id = former.message_id AND trouble.id = former.id;
    RETURN NULL;
END $$;
CREATE TRIGGER delivery_deleted AFTER DELETE ON delivery REFERENCING OLD TABLE AS former
FOR EACH STATEMENT EXECUTE FUNCTION follow_deleted_deliveries();

-- Imported deliveries may be in any state.
CREATE FUNCTION follow_new_deliveries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO trouble (tenant_id, state, message_id, id)
    SELECT tenant_id, state, message_id, id FROM added WHERE state NOT IN ('queued', 'delivered');
    RETURN NULL;
END $$;
CREATE TRIGGER delivery_added AFTER INSERT ON delivery REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION follow_new_deliveries();

-- Held until the end of the transaction: a node is not declared dead while its transaction runs, and a dead one writes nothing.
CREATE FUNCTION require_live_node(BIGINT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1, $1::int);
    IF NOT EXISTS (SELECT FROM node WHERE epoch = $1 AND state = 'live') THEN
        RAISE EXCEPTION 'another node has taken over the deliveries of this one' USING ERRCODE = 'PB001';
    END IF;
END $$;
