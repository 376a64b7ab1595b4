-- One row once the default tenant was made, so that a tenant that was renamed or deleted since is not made again.
CREATE TABLE default_tenant_ensured (at_us BIGINT NOT NULL);
