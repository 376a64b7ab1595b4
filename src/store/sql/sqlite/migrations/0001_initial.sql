-- Ids are text (prefix and ULID, so they sort by creation), times are UTC microseconds in columns named *_us,
-- structures that nothing searches are JSON. Plain SQL that PostgreSQL takes too, but for WITHOUT ROWID and BLOB.

CREATE TABLE tenant (
    id                  TEXT PRIMARY KEY,
    name                TEXT NOT NULL,
    slug                TEXT NOT NULL UNIQUE,
    external_ref        TEXT,
    metadata            TEXT NOT NULL,
    settings            TEXT NOT NULL,
    rate_limit          TEXT NOT NULL,
    smart_host          TEXT,
    smart_host_password BLOB,               -- sealed
    retention_days      INTEGER,
    status              TEXT NOT NULL,
    created_us          BIGINT NOT NULL,
    updated_us          BIGINT NOT NULL
) WITHOUT ROWID;

CREATE TABLE domain (
    id                TEXT PRIMARY KEY,
    tenant_id         TEXT REFERENCES tenant (id),
    name              TEXT NOT NULL,
    reversed_name     TEXT NOT NULL,        -- labels from the top, so that all below a name are one range
    status            TEXT NOT NULL,
    verification      TEXT NOT NULL,
    subdomains        INTEGER NOT NULL,
    ownership_token   TEXT NOT NULL,
    last_check        TEXT,
    checked_us        BIGINT,
    failing_since_us  BIGINT,
    verified_us       BIGINT,
    created_us        BIGINT NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX domain_of_tenant ON domain (name, tenant_id);
CREATE UNIQUE INDEX domain_of_platform ON domain (name) WHERE tenant_id IS NULL;
CREATE INDEX domain_by_name ON domain (reversed_name, status);
CREATE INDEX domain_by_tenant ON domain (tenant_id, id);

CREATE TABLE dkim_key (
    id           TEXT PRIMARY KEY,
    domain_id    TEXT NOT NULL REFERENCES domain (id),
    selector     TEXT NOT NULL,
    algorithm    TEXT NOT NULL,
    state        TEXT NOT NULL,
    public_key   TEXT NOT NULL,
    private_key  BLOB NOT NULL,             -- sealed
    created_us   BIGINT NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX dkim_key_selector ON dkim_key (domain_id, selector);

CREATE TABLE key (
    id                  TEXT PRIMARY KEY,
    tenant_id           TEXT REFERENCES tenant (id),
    name                TEXT NOT NULL,
    environment         TEXT NOT NULL,
    scopes              TEXT NOT NULL,
    allowed_domain_ids  TEXT NOT NULL,
    allowed_cidrs       TEXT NOT NULL,
    digest              BLOB NOT NULL UNIQUE,
    last_four           TEXT NOT NULL,
    created_us          BIGINT NOT NULL,
    expires_us          BIGINT,
    last_used_us        BIGINT,
    revoked_us          BIGINT
) WITHOUT ROWID;
CREATE INDEX key_by_tenant ON key (tenant_id, id);

CREATE TABLE suppression (
    id          TEXT PRIMARY KEY,
    tenant_id   TEXT REFERENCES tenant (id),
    address     TEXT NOT NULL,              -- folded
    reason      TEXT NOT NULL,
    evidence    TEXT,
    created_us  BIGINT NOT NULL,
    expires_us  BIGINT
) WITHOUT ROWID;
CREATE UNIQUE INDEX suppression_of_tenant ON suppression (address, tenant_id);
CREATE UNIQUE INDEX suppression_of_platform ON suppression (address) WHERE tenant_id IS NULL;
CREATE INDEX suppression_by_tenant ON suppression (tenant_id, id);

CREATE TABLE message (
    id                 TEXT PRIMARY KEY,
    tenant_id          TEXT NOT NULL REFERENCES tenant (id),
    key_id             TEXT,
    environment        TEXT NOT NULL,
    reverse_path       TEXT NOT NULL,       -- empty is the null path
    body               TEXT NOT NULL,
    smtputf8           INTEGER NOT NULL,
    size               BIGINT NOT NULL,
    subject            TEXT,
    header_from        TEXT,
    header_message_id  TEXT,
    dkim_domain        TEXT,
    created_us         BIGINT NOT NULL,
    expires_us         BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX message_by_tenant ON message (tenant_id, id);
CREATE INDEX message_by_header_id ON message (header_message_id) WHERE header_message_id IS NOT NULL;

-- Either both blobs, or a file under bodies/ with the two one after the other.
CREATE TABLE body (
    message_id          TEXT PRIMARY KEY REFERENCES message (id),
    prefix              BLOB,
    submitted           BLOB,
    file_prefix_octets  BIGINT
);

CREATE TABLE delivery (
    id               TEXT PRIMARY KEY,
    message_id       TEXT NOT NULL REFERENCES message (id),
    tenant_id        TEXT NOT NULL,
    position         INTEGER NOT NULL,      -- among the recipients of the message
    recipient        TEXT NOT NULL,
    destination      TEXT NOT NULL,
    state            TEXT NOT NULL,
    attempts         INTEGER NOT NULL,
    next_attempt_us  BIGINT,                -- set exactly while the state is open
    last_reply       TEXT,
    updated_us       BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX delivery_of_message ON delivery (message_id, position);
CREATE INDEX delivery_to ON delivery (recipient, message_id);
-- Covers the scan for due work, which skips what is claimed and what goes to busy destinations.
CREATE INDEX delivery_due ON delivery (tenant_id, next_attempt_us, id, destination) WHERE next_attempt_us IS NOT NULL;
-- What people look for. The two states that nearly every delivery passes through would cost two writes each.
CREATE INDEX delivery_in_trouble ON delivery (tenant_id, state, message_id)
    WHERE state <> 'queued' AND state <> 'delivered';

CREATE TABLE attempt (
    id           TEXT PRIMARY KEY,
    message_id   TEXT NOT NULL REFERENCES message (id),
    delivery_id  TEXT NOT NULL,
    started_us   BIGINT NOT NULL,
    duration_ms  BIGINT NOT NULL,
    host         TEXT NOT NULL,
    address      TEXT,
    tls          TEXT,
    code         INTEGER,
    enhanced     TEXT,
    text         TEXT NOT NULL,
    transcript   TEXT NOT NULL,
    outcome      TEXT NOT NULL,
    reason       TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX attempt_of_message ON attempt (message_id, started_us);

-- Append-only. The writer makes ids that grow strictly, so the order of ids is the order of events.
CREATE TABLE event (
    id           TEXT PRIMARY KEY,
    kind         TEXT NOT NULL,
    tenant_id    TEXT,
    message_id   TEXT,
    delivery_id  TEXT,
    data         TEXT NOT NULL,
    created_us   BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX event_of_message ON event (message_id, id) WHERE message_id IS NOT NULL;
CREATE INDEX event_without_message ON event (tenant_id, id) WHERE message_id IS NULL;

CREATE TABLE rejection (
    id              TEXT PRIMARY KEY,
    tenant_id       TEXT NOT NULL REFERENCES tenant (id),
    key_id          TEXT,
    stage           TEXT NOT NULL,
    code            TEXT NOT NULL,
    message         TEXT NOT NULL,
    client_address  TEXT,
    created_us      BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX rejection_by_tenant ON rejection (tenant_id, id);

-- One known text under the master key, so that another key is told at once.
CREATE TABLE seal_check (
    id      INTEGER PRIMARY KEY,
    sealed  BLOB NOT NULL
);
