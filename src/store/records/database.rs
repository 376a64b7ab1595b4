//! A database in PostgreSQL.

use std::time::Duration;

/// What there is of a database in PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseStatus {
    /// Like `postgres://user@host:5432/database`.
    pub name: String,
    /// Of the server, like `15.18`.
    pub version: String,
    /// How long the server takes to answer.
    pub round_trip: Duration,
    /// Whether it has the tables of Pillarbox.
    pub has_tables: bool,
    /// Settings of the server that decide how fast it is.
    pub settings: DatabaseSettings,
}

/// Settings of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseSettings {
    /// `max_wal_size` in octets.
    pub max_wal_octets: u64,
    /// `checkpoint_timeout`.
    pub checkpoint_timeout: Duration,
    /// Whether `wal_compression` is on.
    pub is_wal_compressed: bool,
    /// `autovacuum_naptime`.
    pub autovacuum_naptime: Duration,
}
