//! Limits on objects of a tenant. Counting stops at the limit; the count of suppressions, which may be a million, is
//! stored.

use rusqlite::{Connection, params};

use crate::model::TenantId;
use crate::store::sqlite::sql_types::sql_limit;
use crate::store::{Conflict, Limited, Result, StoreError};

pub(in crate::store::sqlite) const MORE_SUPPRESSIONS: &str =
    "SELECT 1 FROM suppression_count WHERE tenant_id = ?1 AND suppressions > ?2";

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
    let count_to =
        |table| format!("SELECT 1 FROM {table} WHERE tenant_id = ?1 ORDER BY id LIMIT 1 OFFSET ?2");
    let sql = match what {
        Limited::Domains => count_to("domain"),
        Limited::Keys => count_to("key"),
        Limited::Suppressions => MORE_SUPPRESSIONS.to_owned(),
        Limited::Templates => count_to("template"),
        Limited::Webhooks => count_to("webhook"),
    };
    if connection.prepare_cached(&sql)?.exists(params![tenant, sql_limit(rows_max)])? {
        return Err(StoreError::Conflict(Conflict::LimitReached(what)));
    }
    Ok(())
}
