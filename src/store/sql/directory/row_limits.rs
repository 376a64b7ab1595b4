//! Limits on objects of a tenant. Counting stops at the limit; the count of suppressions, which may be a million, is
//! stored.

use crate::model::TenantId;
use crate::store::database::params;
use crate::store::sql::sql_types::sql_limit;
use crate::store::sql::unit_of_work::Tx;
use crate::store::{Conflict, Limited, Result, StoreError};

pub(in crate::store::sql) const MORE_SUPPRESSIONS: &str =
    "SELECT 1 FROM suppression_count WHERE tenant_id = ?1 AND environment = ?2 AND suppressions > ?3";

/// Fails with [`Conflict::LimitReached`] if `more` rows exceed the limit. Objects of the platform have no limit.
pub(in crate::store::sql) fn require(
    tx: &Tx<'_>,
    what: Limited,
    tenant: Option<TenantId>,
    more: usize,
) -> Result<()> {
    let Some(tenant) = tenant else { return Ok(()) };
    let is_exceeded = match tx.bounds.rows_max(what).checked_sub(more) {
        Some(rows) => has_more(tx, what, tenant, rows)?,
        None => true,
    };
    if is_exceeded { Err(StoreError::Conflict(Conflict::LimitReached(what))) } else { Ok(()) }
}

/// Whether a tenant has more than `rows` of a kind.
fn has_more(tx: &Tx<'_>, what: Limited, tenant: TenantId, rows: usize) -> Result<bool> {
    let table = match what {
        Limited::Domains => "domain",
        Limited::Erasures => "erasure",
        Limited::Inboxes => "inbox",
        Limited::Keys => "key",
        Limited::Suppressions(environment) => {
            let row = params![tenant, environment, sql_limit(rows)];
            return Ok(tx.prepare_cached(MORE_SUPPRESSIONS)?.exists(row)?);
        }
        Limited::Templates => "template",
        Limited::Webhooks => "webhook",
    };
    let sql = format!("SELECT 1 FROM {table} WHERE tenant_id = ?1 ORDER BY id LIMIT 1 OFFSET ?2");
    Ok(tx.prepare_cached(&sql)?.exists(params![tenant, sql_limit(rows)])?)
}
