//! The database in PostgreSQL.

use super::Seen;
use crate::config::Config;
use crate::store::{Access, DatabaseStatus, StoreOptions, database_status};

const IN_SQLITE: &str = "the database is in SQLite, in the data directory";

/// What there is of the database.
pub async fn gather(config: &Config) -> Seen<DatabaseStatus> {
    let options = match StoreOptions::new(config, Access::Manage) {
        Ok(StoreOptions::Postgres(options)) => *options,
        Ok(StoreOptions::Sqlite(_)) => return Seen::NotAsked(IN_SQLITE),
        Err(error) => return Seen::Failed(error.to_string()),
    };
    database_status(options).await.map_or_else(|error| Seen::Failed(error.to_string()), Seen::Value)
}
