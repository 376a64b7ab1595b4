//! Due deliveries: pages of them, and the rows of claimed ones.

use std::collections::HashMap;
use std::sync::Arc;

use super::damage::DamagedDelivery;
use crate::mail::Timestamp;
use crate::model::{DeliveryId, MessageId, TenantId, TenantStatus};
use crate::store::database::{self, Connection, DatabaseError, Row, ValueRef, params};
use crate::store::memory::DueFloors;
use crate::store::sql::queue::pauses;
use crate::store::sql::sql_types::{sql_limit, us};
use crate::store::sql::{delivery_rows, message_rows};
use crate::store::{Delivery, DueCursor, DuePage, DueRange, DueRow, Message, Result, SpoolChange, SpoolFeed};

pub(in crate::store::sql) const DUE_ROWS: &str = "
    SELECT next_attempt_us, id, destination FROM queue
    WHERE tenant_id = ?1 AND owner = 0
        AND (next_attempt_us, id) > (?2, ?3) AND (next_attempt_us, id) <= (?4, ?5)
    ORDER BY next_attempt_us, id LIMIT ?6";
pub(in crate::store::sql) const FIRST_AFTER: &str =
    "SELECT min(next_attempt_us) FROM queue WHERE tenant_id = ?1 AND owner = 0 AND next_attempt_us > ?2";

/// A look for due rows.
pub(super) struct DueRows<'a> {
    pub(super) connection: &'a Connection,
    /// Where looks begin, in a database with several nodes.
    pub(super) floors: Option<&'a DueFloors>,
    pub(super) now: Timestamp,
    /// Rows that cannot be read.
    pub(super) damaged: Vec<DamagedDelivery>,
}

impl DueRows<'_> {
    /// A page of rows without the damaged ones, which are added to `damaged`.
    pub(super) fn page(&mut self, range: &DueRange) -> Result<DuePage> {
        let look = self.floors.filter(|_| range.after.is_none()).map(|floors| floors.begin(range.tenant_id));
        let bound = |at: DueCursor| (at.next_attempt_us, at.id.to_string());
        let after = range.after.map_or((look.map_or(i64::MIN, |look| look.from_us), String::new()), bound);
        // Sorts after all ids.
        let until = range.until.map_or((us(self.now), "~".to_owned()), bound);
        let mut statement = self.connection.prepare_cached(DUE_ROWS)?;
        let bounds = params![range.tenant_id, after.0, after.1, until.0, until.1, sql_limit(range.rows_max)];
        let mut read = statement.query(bounds)?;
        let (mut rows, mut count, damaged_before) = (Vec::new(), 0, self.damaged.len());
        while let Some(row) = read.next()? {
            count += 1;
            match due_row(&row) {
                Ok(due) => rows.push(due),
                Err(error) => self.damaged.push(DamagedDelivery::new(raw_text(&row, 1)?, error)?),
            }
        }
        let has_damaged = self.damaged.len() > damaged_before;
        if let (Some(floors), Some(look), false) = (self.floors, look, has_damaged) {
            let first_us = rows.first().map_or(until.0, |row: &DueRow| row.at.next_attempt_us);
            floors.raise(range.tenant_id, look, first_us);
        }
        // A page without a readable row ends the scan. By the next one, the damaged rows are quarantined.
        let is_last = count < range.rows_max || rows.is_empty();
        let next_due_us = match is_last {
            true if has_damaged => Some(us(self.now)),
            true => first_after(self.connection, range.tenant_id, self.now)?,
            false => None,
        };
        Ok(DuePage { rows, is_last, next_due_us })
    }
}

fn due_row(row: &Row<'_>) -> database::Result<DueRow> {
    let at = DueCursor { next_attempt_us: row.get(0)?, id: row.get(1)? };
    Ok(DueRow { at, destination: row.get(2)? })
}

/// The octets of a text that may be damaged.
fn raw_text(row: &Row<'_>, column: usize) -> database::Result<Vec<u8>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(octets) | ValueRef::Blob(octets) => octets.to_vec(),
        _ => Vec::new(),
    })
}

fn first_after(connection: &Connection, tenant: TenantId, now: Timestamp) -> Result<Option<i64>> {
    Ok(connection.prepare_cached(FIRST_AFTER)?.query_row(params![tenant, us(now)], |row| row.get(0))?)
}

/// The deliveries that are open. The damaged ones are added to `damaged` instead.
pub(super) fn take(
    connection: &Connection,
    ids: &[DeliveryId],
    damaged: &mut Vec<DamagedDelivery>,
) -> Result<Vec<(Arc<Message>, Delivery)>> {
    let mut known: HashMap<MessageId, Arc<Message>> = HashMap::new();
    let mut taken = Vec::with_capacity(ids.len());
    for &id in ids {
        match take_one(connection, id, &mut known) {
            Ok(found) => taken.extend(found),
            Err(error) => damaged.push(DamagedDelivery::new(id.to_string().into_bytes(), error)?),
        }
    }
    Ok(taken)
}

fn take_one(
    connection: &Connection,
    id: DeliveryId,
    known: &mut HashMap<MessageId, Arc<Message>>,
) -> database::Result<Option<(Arc<Message>, Delivery)>> {
    let delivery = delivery_rows::find(connection, id)?.filter(|delivery| delivery.state.is_open());
    let Some(delivery) = delivery else { return Ok(None) };
    if let Some(message) = known.get(&delivery.message_id) {
        return Ok(Some((Arc::clone(message), delivery)));
    }
    let Some(message) = message_rows::find(connection, delivery.message_id)? else { return Ok(None) };
    let message = Arc::new(message);
    known.insert(message.id, Arc::clone(&message));
    Ok(Some((message, delivery)))
}

/// Initial state of the feed: tenants that do not send, pauses, and tenants with open deliveries.
pub(in crate::store::sql) fn begin_feed(connection: &Connection, feed: &SpoolFeed) -> database::Result<()> {
    let mut tenants = connection.prepare_cached(
        "SELECT id, status, resumed_us FROM tenant WHERE status <> 'active' OR resumed_us IS NOT NULL",
    )?;
    let mut rows = tenants.query([])?;
    while let Some(row) = rows.next()? {
        let tenant_id = row.get(0)?;
        if !row.get::<_, TenantStatus>(1)?.sends() {
            feed.send(SpoolChange::TenantSuspended(tenant_id));
        }
        if let Some(at_us) = row.get(2)? {
            feed.send(SpoolChange::TenantWasResumed { tenant_id, at_us });
        }
    }
    for (part, until_us) in pauses::read_ends(connection)? {
        feed.send(SpoolChange::Paused { part, until_us });
    }
    for tenant_id in tenants_waiting(connection)? {
        feed.send(SpoolChange::Due { tenant_id, at: Timestamp::MIN });
    }
    Ok(())
}

/// Tenants with open deliveries.
pub(in crate::store::sql) fn tenants_waiting(connection: &Connection) -> database::Result<Vec<TenantId>> {
    // Jumps from the first row of one tenant to that of the next, whatever the number of rows.
    let mut waiting = connection.prepare_cached(
        "WITH RECURSIVE waiting (tenant_id) AS (
             SELECT min(tenant_id) FROM queue WHERE owner = 0
             UNION ALL
             SELECT (SELECT min(tenant_id) FROM queue
                     WHERE owner = 0 AND tenant_id > waiting.tenant_id)
             FROM waiting WHERE waiting.tenant_id IS NOT NULL)
         SELECT tenant_id FROM waiting WHERE tenant_id IS NOT NULL",
    )?;
    let tenants = waiting.query_map([], |row| row.get(0))?;
    // A delivery with a damaged tenant belongs to nobody, and keeps no other mail from being delivered.
    tenants.filter(|tenant| !tenant.as_ref().is_err_and(DatabaseError::is_damage)).collect()
}
