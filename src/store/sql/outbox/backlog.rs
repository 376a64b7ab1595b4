//! The pending deliveries of webhooks, which triggers of the database count, and their limits: unreachable endpoints must
//! not fill the disk.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::model::{TenantId, WebhookId};
use crate::store::database::{Engine, OptionalExtension, Row};
use crate::store::sql::bounds::Bounds;
use crate::store::sql::sql_types::count;
use crate::store::sql::unit_of_work::Tx;
use crate::store::{Conflict, Limited, Result, StoreError};

/// What a row of a delivery takes beside its data, as the database counts.
const ROW_OCTETS: u64 = 512;

/// How long this process counts by itself what is pending of a webhook that is far from its limits. Others may add to it.
const KNOWN_TIME: Duration = Duration::from_secs(10);
/// Maximum of webhooks that it counts. Beyond it, all are read again.
const KNOWN_MAX: usize = 10_000;

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

    fn add(&self, id: WebhookId, octets: usize) {
        if let Some(known) = self.0.borrow_mut().get_mut(&id) {
            known.add(octets);
        }
    }

    /// Forgets what a job that was rolled back has added.
    pub(in crate::store::sql) fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}

/// Backlogs of webhooks that are far from their limits, because each query of them would make PostgreSQL answer in the middle
/// of a transaction. What is delivered meanwhile is not taken off.
#[derive(Default)]
pub(in crate::store::sql) struct KnownBacklogs(Mutex<HashMap<WebhookId, (Backlog, Instant)>>);

impl KnownBacklogs {
    /// Whether a webhook has less than half of what is allowed; false if that is not known.
    fn is_low(&self, id: WebhookId, bounds: &Bounds) -> bool {
        let known = self.0.lock();
        known.get(&id).is_some_and(|(backlog, read_at)| {
            read_at.elapsed() < KNOWN_TIME
                && backlog.deliveries < bounds.webhook_pending_max / 2
                && backlog.octets < part_of(bounds) / 2
        })
    }

    fn note(&self, id: WebhookId, backlog: Backlog) {
        let mut known = self.0.lock();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(id, (backlog, Instant::now()));
    }

    fn add(&self, id: WebhookId, octets: usize) {
        if let Some((backlog, _)) = self.0.lock().get_mut(&id) {
            backlog.add(octets);
        }
    }
}

impl Backlog {
    fn add(&mut self, octets: usize) {
        self.deliveries += 1;
        self.octets += ROW_OCTETS + octets as u64;
    }
}

/// The octets that a webhook may have however much the others of its tenant have.
fn part_of(bounds: &Bounds) -> u64 {
    bounds.webhook_octets_max / Limited::Webhooks.rows_max() as u64
}

/// Counts a delivery that was added, with so many octets of data.
pub(super) fn add(tx: &Tx<'_>, id: WebhookId, octets: usize) {
    tx.backlogs.add(id, octets);
    tx.known_backlogs.add(id, octets);
}

/// Whether the pending deliveries of a webhook are at a limit: their number, or the octets of those of all webhooks of its
/// tenant, disabled ones included. A webhook with less than its part of the octets is never full, so one that keeps up is
/// not disabled because of another, and all together take at most twice the maximum. The webhooks of the platform, which
/// get the events of all tenants, have no limit of octets.
pub(super) fn is_full(tx: &Tx<'_>, id: WebhookId) -> Result<bool> {
    let Bounds { webhook_pending_max, webhook_octets_max, .. } = *tx.bounds;
    let is_postgres = tx.engine() == Engine::Postgres;
    if is_postgres && tx.known_backlogs.is_low(id, tx.bounds) {
        return Ok(false);
    }
    let Some(backlog) = tx.backlogs.of(tx, id)? else { return Ok(false) };
    if is_postgres {
        tx.known_backlogs.note(id, backlog);
    }
    let Backlog { deliveries, octets, tenant } = backlog;
    if deliveries >= webhook_pending_max {
        return Ok(true);
    }
    let Some(tenant) = tenant.filter(|_| octets >= part_of(tx.bounds)) else { return Ok(false) };
    let sql = "SELECT coalesce(sum(b.octets), 0) FROM webhook w JOIN webhook_backlog b ON b.webhook_id = w.id
               WHERE w.tenant_id = ?1";
    let of_tenant = tx.prepare_cached(sql)?.query_row([tenant], |row| count(row, 0))?;
    Ok(of_tenant >= webhook_octets_max)
}

/// Refuses a requested delivery while too many are pending.
pub(super) fn require_capacity(tx: &Tx<'_>, id: WebhookId) -> Result<()> {
    if is_full(tx, id)? { Err(StoreError::Conflict(Conflict::WebhookBacklog)) } else { Ok(()) }
}
