//! The pending deliveries of webhooks, which triggers of the database count, and their limits: unreachable endpoints must
//! not fill the disk.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::model::{TenantId, WebhookId};
use crate::store::database::{OptionalExtension, Row};
use crate::store::sql::bounds::Bounds;
use crate::store::sql::sql_types::count;
use crate::store::sql::unit_of_work::Tx;
use crate::store::{Conflict, Limited, Result, StoreError};

/// What a row of a delivery takes beside its data, as the database counts.
const ROW_OCTETS: u64 = 512;

/// The pending deliveries of a webhook.
#[derive(Debug, Clone, Copy)]
struct Backlog {
    deliveries: u64,
    octets: u64,
    /// The owner of the webhook.
    tenant: Option<TenantId>,
}

/// Backlogs in a transaction: read once, then counted with what the transaction adds, because each query of them would make
/// the server answer. Without the tags of messages.
#[derive(Default)]
pub(in crate::store::sql) struct Backlogs(RefCell<HashMap<WebhookId, Backlog>>);

impl Backlogs {
    fn of(&self, tx: &Tx<'_>, id: WebhookId) -> Result<Option<Backlog>> {
        if let Some(known) = self.0.borrow().get(&id) {
            return Ok(Some(*known));
        }
        let sql = "SELECT b.deliveries, b.octets, w.tenant_id FROM webhook_backlog b JOIN webhook w ON w.id = b.webhook_id
                   WHERE b.webhook_id = ?1";
        let mut statement = tx.prepare_cached(sql)?;
        let read = |row: &Row<'_>| {
            Ok(Backlog { deliveries: count(row, 0)?, octets: count(row, 1)?, tenant: row.get(2)? })
        };
        let found = statement.query_row([id], read).optional()?;
        self.0.borrow_mut().extend(found.map(|found| (id, found)));
        Ok(found)
    }

    /// Counts a delivery with so many octets of data.
    pub(super) fn add(&self, id: WebhookId, octets: usize) {
        if let Some(known) = self.0.borrow_mut().get_mut(&id) {
            known.deliveries += 1;
            known.octets += ROW_OCTETS + octets as u64;
        }
    }

    /// Forgets what a job that was rolled back has added.
    pub(in crate::store::sql) fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}

/// Whether the pending deliveries of a webhook are at a limit: their number, or the octets of those of all webhooks of its
/// tenant, disabled ones included. A webhook with less than its part of the octets is never full, so one that keeps up is
/// not disabled because of another, and all together take at most twice the maximum. The webhooks of the platform, which
/// get the events of all tenants, have no limit of octets.
pub(super) fn is_full(tx: &Tx<'_>, id: WebhookId) -> Result<bool> {
    let Bounds { webhook_pending_max, webhook_octets_max, .. } = *tx.bounds;
    let Some(Backlog { deliveries, octets, tenant }) = tx.backlogs.of(tx, id)? else { return Ok(false) };
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
