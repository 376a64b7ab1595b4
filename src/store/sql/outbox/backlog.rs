//! The pending deliveries of webhooks, which triggers of the database count, and their limits: unreachable endpoints must
//! not fill the disk.

use crate::model::{TenantId, WebhookId};
use crate::store::database::OptionalExtension;
use crate::store::sql::bounds::Bounds;
use crate::store::sql::sql_types::count;
use crate::store::sql::unit_of_work::Tx;
use crate::store::{Conflict, Limited, Result, StoreError};

/// Whether the pending deliveries of a webhook are at a limit: their number, or the octets of those of all webhooks of its
/// tenant, disabled ones included. A webhook with less than its part of the octets is never full, so one that keeps up is
/// not disabled because of another, and all together take at most twice the maximum. The webhooks of the platform, which
/// get the events of all tenants, have no limit of octets.
pub(super) fn is_full(tx: &Tx<'_>, id: WebhookId) -> Result<bool> {
    let Bounds { webhook_pending_max, webhook_octets_max, .. } = *tx.bounds;
    let sql = "SELECT b.deliveries, b.octets, w.tenant_id FROM webhook_backlog b JOIN webhook w ON w.id = b.webhook_id
               WHERE b.webhook_id = ?1";
    let found: Option<(u64, u64, Option<TenantId>)> = tx
        .prepare_cached(sql)?
        .query_row([id], |row| Ok((count(row, 0)?, count(row, 1)?, row.get(2)?)))
        .optional()?;
    let Some((deliveries, octets, tenant)) = found else { return Ok(false) };
    if deliveries >= webhook_pending_max {
        return Ok(true);
    }
    let part = webhook_octets_max / Limited::Webhooks.rows_max() as u64;
    let Some(tenant) = tenant.filter(|_| octets >= part) else { return Ok(false) };
    let sql = "SELECT coalesce(sum(b.octets), 0) FROM webhook w JOIN webhook_backlog b ON b.webhook_id = w.id
               WHERE w.tenant_id = ?1";
    let of_tenant = tx.prepare_cached(sql)?.query_row([tenant], |row| count(row, 0))?;
    Ok(of_tenant >= webhook_octets_max)
}

/// Refuses a requested delivery while too many are pending.
pub(super) fn require_capacity(tx: &Tx<'_>, id: WebhookId) -> Result<()> {
    if is_full(tx, id)? { Err(StoreError::Conflict(Conflict::WebhookBacklog)) } else { Ok(()) }
}
