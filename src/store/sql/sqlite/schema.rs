//! Migrations: numbered files, each applied in a transaction of its own; `user_version` is the last applied.

use std::time::Instant;

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, TransactionBehavior};

use crate::mail::fold_address;

/// In order; the first is number 1. A released one never changes.
pub(in crate::store::sql) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_extensions.sql"),
    include_str!("migrations/0003_scram.sql"),
    include_str!("migrations/0004_outcomes.sql"),
    include_str!("migrations/0005_source_pool.sql"),
    include_str!("migrations/0006_holds.sql"),
    include_str!("migrations/0007_weight.sql"),
    include_str!("migrations/0008_webhooks.sql"),
    include_str!("migrations/0009_tls_policy.sql"),
    include_str!("migrations/0010_sending.sql"),
    include_str!("migrations/0011_usage.sql"),
    include_str!("migrations/0012_search.sql"),
    include_str!("migrations/0013_body_retention.sql"),
    include_str!("migrations/0014_tls_report.sql"),
    include_str!("migrations/0015_dkim_rotation.sql"),
    include_str!("migrations/0016_search_recipients.sql"),
    include_str!("migrations/0017_storage_faults.sql"),
    include_str!("migrations/0018_standard_names.sql"),
    include_str!("migrations/0019_suppression_count.sql"),
    include_str!("migrations/0020_message_lifetime.sql"),
    include_str!("migrations/0021_folded_suppressions.sql"),
    include_str!("migrations/0022_default_tenant.sql"),
    include_str!("migrations/0023_reports.sql"),
    include_str!("migrations/0024_events.sql"),
    include_str!("migrations/0025_suppression_environment.sql"),
    include_str!("migrations/0026_event_environment.sql"),
    include_str!("migrations/0027_domain_ownership.sql"),
    include_str!("migrations/0028_restricted_keys.sql"),
    include_str!("migrations/0029_external_ref.sql"),
    include_str!("migrations/0030_one_code.sql"),
    include_str!("migrations/0031_inboxes.sql"),
    include_str!("migrations/0032_usage_parts.sql"),
    include_str!("migrations/0033_brakes.sql"),
    include_str!("migrations/0034_search_metadata.sql"),
    include_str!("migrations/0035_key_rotation.sql"),
    include_str!("migrations/0036_reports.sql"),
    include_str!("migrations/0037_ended_pauses.sql"),
    include_str!("migrations/0038_test_messages.sql"),
    include_str!("migrations/0039_webhook_backlog.sql"),
    include_str!("migrations/0040_webhook_secrets.sql"),
    include_str!("migrations/0041_suppression_expiry.sql"),
    include_str!("migrations/0042_small_scans.sql"),
    include_str!("migrations/0043_provisional_suppressions.sql"),
    include_str!("migrations/0044_rounds_and_counts.sql"),
    include_str!("migrations/0045_pages.sql"),
    include_str!("migrations/0046_events_by_type.sql"),
    include_str!("migrations/0047_backup.sql"),
    include_str!("migrations/0048_acme.sql"),
    include_str!("migrations/0049_archived_tenants.sql"),
    include_str!("migrations/0050_erasures.sql"),
    include_str!("migrations/0051_queue.sql"),
    include_str!("migrations/0052_sign_in.sql"),
    include_str!("migrations/0053_response_usage.sql"),
];

/// Why a database cannot be brought to this program's schema.
pub(in crate::store::sql) enum MigrationError {
    Newer { found: u32, known: u32 },
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for MigrationError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

/// The newest version that this program knows.
pub(in crate::store::sql) fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

/// Whether there is nothing to apply; nor is there to a database that is newer.
pub(in crate::store::sql) fn is_current(connection: &Connection) -> rusqlite::Result<bool> {
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    Ok(found as usize >= MIGRATIONS.len())
}

/// Applies what is missing.
pub(in crate::store::sql) fn migrate(connection: &mut Connection) -> Result<(), MigrationError> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function("folded_address", 1, flags, |call| {
        Ok(fold_address(&call.get::<String>(0)?))
    })?;
    let known = known();
    let mut is_new = false;
    loop {
        // Looked at inside the transaction: another process may be migrating too.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found > known {
            return Err(MigrationError::Newer { found, known });
        }
        let Some(migration) = MIGRATIONS.get(found as usize) else { return Ok(()) };
        let begun = Instant::now();
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", found + 1)?;
        transaction.commit()?;
        is_new |= found == 0;
        if !is_new {
            let seconds = begun.elapsed().as_secs_f64();
            tracing::info!("the database has schema {} now, after {seconds:.1} s", found + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use sha2::{Digest, Sha256};

    use super::MIGRATIONS;

    /// The migrations that databases of users have. A release sets it to the number of all, with their digest: until then an
    /// edit of a newer one passes.
    const RELEASED: usize = 45;
    /// Of their statements.
    const DIGEST: &str = "926aff4005042646033dbdbc530c16b81b2cbf9c826b99097db580cf1c48160d";

    #[test]
    fn the_statements_of_released_migrations_never_change() {
        let without_comments = |line: &str| line.split("--").next().unwrap_or_default().trim().to_owned();
        let statements: String = MIGRATIONS[..RELEASED].concat().lines().map(without_comments).collect();
        assert_eq!(
            HEXLOWER.encode(&Sha256::digest(statements)),
            DIGEST,
            "released statements never change: a new one is a migration of its own"
        );
    }
}
