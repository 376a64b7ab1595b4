//! What belongs to SQLite alone: the data directory, its database and lock, backups, checks.

pub(in crate::store::sql) mod backup;
pub(in crate::store::sql) mod checkpoint;
pub(in crate::store::sql) mod leftovers;
pub(in crate::store::sql) mod migration_cost;
pub(in crate::store::sql) mod open;
pub(in crate::store::sql) mod quick_check;
pub(in crate::store::sql) mod schema;
