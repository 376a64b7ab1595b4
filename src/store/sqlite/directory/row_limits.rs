//! Limits on objects of a tenant. Counting stops at the limit; the count of suppressions, which may be a million, is
//! stored.

use rusqlite::{Connection, params};

use crate::model::{Environment, TenantId};
use crate::store::sqlite::sql_types::sql_limit;
use crate::store::{Conflict, Limited, Result, StoreError};

pub(in crate::store::sqlite) const MORE_SUPPRESSIONS: &str =
    "SELECT 1 FROM suppression_count WHERE tenant_id = ?1 AND environment = ?2 AND suppressions > ?3";

/// Fails with [`Conflict::LimitReached`] if `more` rows exceed the limit. Objects of the platform have no limit.
pub(in crate::store::sqlite) fn require(
    connection: &Connection,
    what: Limited,
    tenant: Option<TenantId>,
    more: usize,
) -> Result<()> {
    let Some(tenant) = tenant else { return Ok(()) };
    let Some(rows_max) = what.rows_max().checked_sub(more) else {
        return Err(StoreError::Conflict(Conflict::LimitReached(what)));
    };
    let table = match what {
        Limited::Domains => "domain",
        Limited::Inboxes => "inbox",
        Limited::Keys => "key",
        Limited::Suppressions => "suppression",
        Limited::Templates => "template",
        Limited::Webhooks => "webhook",
    };
    let sql = format!("SELECT 1 FROM {table} WHERE tenant_id = ?1 ORDER BY id LIMIT 1 OFFSET ?2");
    if connection.prepare_cached(&sql)?.exists(params![tenant, sql_limit(rows_max)])? {
        return Err(StoreError::Conflict(Conflict::LimitReached(what)));
    }
    Ok(())
}

/// Fails with [`Conflict::LimitReached`] if `more` suppressions exceed the limit, which each environment of a tenant has.
pub(in crate::store::sqlite) fn require_suppressions(
    connection: &Connection,
    (tenant, environment): (Option<TenantId>, Environment),
    more: usize,
) -> Result<()> {
    let Some(tenant) = tenant else { return Ok(()) };
    let is_exceeded = match Limited::Suppressions.rows_max().checked_sub(more) {
        Some(rows_max) => connection.prepare_cached(MORE_SUPPRESSIONS)?.exists(params![
            tenant,
            environment,
            sql_limit(rows_max)
        ])?,
        None => true,
    };
    if is_exceeded {
        Err(StoreError::Conflict(Conflict::LimitReached(Limited::Suppressions)))
    } else {
        Ok(())
    }
}
