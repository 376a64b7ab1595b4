//! The open deliveries of a restored backup. They wait at [`RESTORED_US`] until they are released.

use serde::Serialize;

use crate::mail::{Host, Timestamp};
use crate::model::{DeliveryId, DeliveryState, Environment, EventKind, MessageId, MessageKind, TenantId};
use crate::store::database::{self, Connection, OptionalExtension, Row, params};
use crate::store::sql::Tx;
use crate::store::sql::events::Subject;
use crate::store::sql::spool::due_rows;
use crate::store::sql::sql_types::{count, sql_limit, time, us};
use crate::store::{RESTORED_US, ReleaseMode, Restoration, Result};

/// The last reply of a delivery that ends without another attempt.
const NOT_SENT_AGAIN: &str = "not sent again: it waited in a restored backup";

pub(super) fn read(connection: &Connection) -> Result<Option<Restoration>> {
    let sql = "SELECT taken_us, restored_us, deliveries FROM restoration";
    let found = connection.prepare_cached(sql)?.query_row([], |row| {
        Ok(Restoration { taken_at: time(row, 0)?, restored_at: time(row, 1)?, deliveries: count(row, 2)? })
    });
    match found.optional()? {
        Some(restoration) if has_waiting(connection)? => Ok(Some(restoration)),
        // The last delivery of a restoration may have been cancelled, or its tenant deleted.
        _ => Ok(None),
    }
}

/// Restored deliveries of a tenant, all or those for a destination, after a position.
pub(super) struct Range {
    pub(super) tenant: TenantId,
    pub(super) destination: Option<Host>,
    pub(super) behind: Option<DeliveryId>,
}

impl Range {
    pub(super) fn page(&self, connection: &Connection, rows_max: usize) -> Result<Vec<DeliveryId>> {
        let sql = "SELECT id FROM queue
                   WHERE tenant_id = ?1 AND owner = 0 AND next_attempt_us = ?2 AND id > ?3 AND (destination = ?4 OR ?4 IS NULL)
                   ORDER BY id LIMIT ?5";
        let behind = self.behind.map(|id| id.to_string()).unwrap_or_default();
        let bounds = params![self.tenant, RESTORED_US, behind, self.destination, sql_limit(rows_max)];
        let mut statement = connection.prepare_cached(sql)?;
        let ids = statement.query_map(bounds, |row| row.get(0))?;
        Ok(ids.collect::<database::Result<_>>()?)
    }
}

/// Releases those that still wait. Returns their number.
pub(super) fn release(tx: &Tx<'_>, ids: &[DeliveryId], mode: ReleaseMode, now: Timestamp) -> Result<u64> {
    let mut released = 0;
    for id in ids {
        let is_released = match mode {
            ReleaseMode::Send => send(tx, *id, now)?,
            ReleaseMode::Expire => expire(tx, *id, now)?,
        };
        released += u64::from(is_released);
    }
    Ok(released)
}

/// Makes a delivery due, a scheduled one at its time.
fn send(tx: &Tx<'_>, id: DeliveryId, now: Timestamp) -> Result<bool> {
    let sql = "UPDATE delivery SET next_attempt_us = max(?3, coalesce(
                   (SELECT release_us FROM message WHERE id = delivery.message_id), 0))
               WHERE id = ?1 AND next_attempt_us = ?2";
    Ok(tx.prepare_cached(sql)?.execute(params![id, RESTORED_US, us(now)])? > 0)
}

/// The data of the event.
#[derive(Serialize)]
struct ExpiryData {
    recipient: String,
    reply: &'static str,
    attempts: u32,
}

/// Ends a delivery. No server refused it, so it is not counted among the bounces, which put brakes on a tenant.
fn expire(tx: &Tx<'_>, id: DeliveryId, now: Timestamp) -> Result<bool> {
    let sql = "UPDATE delivery SET state = ?3, next_attempt_us = NULL, last_reply = ?4, updated_us = ?5
               WHERE id = ?1 AND next_attempt_us = ?2 RETURNING message_id, tenant_id, recipient, attempts";
    let row = params![id, RESTORED_US, DeliveryState::Expired, NOT_SENT_AGAIN, us(now)];
    let read = |row: &Row<'_>| {
        let data = ExpiryData { recipient: row.get(2)?, reply: NOT_SENT_AGAIN, attempts: row.get(3)? };
        Ok((row.get(0)?, row.get(1)?, data))
    };
    let expired: Option<(MessageId, TenantId, ExpiryData)> =
        tx.prepare_cached(sql)?.query_row(row, read).optional()?;
    let Some((message, tenant_id, data)) = expired else { return Ok(false) };
    let sql = "SELECT kind, environment FROM message WHERE id = ?1";
    let of_message: Option<(MessageKind, Environment)> =
        tx.prepare_cached(sql)?.query_row([message], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    if let Some((MessageKind::Message, environment)) = of_message {
        let subject = Subject {
            tenant_id: Some(tenant_id),
            environment: Some(environment),
            message_id: Some(message),
            delivery_id: Some(id),
        };
        tx.append(EventKind::MessageExpired, subject, &data, now)?;
    }
    Ok(true)
}

/// Forgets the restoration if no delivery of it waits any more.
pub(super) fn end_if_released(tx: &Tx<'_>) -> Result<()> {
    if !has_waiting(tx)? {
        tx.prepare_cached("DELETE FROM restoration")?.execute([])?;
    }
    Ok(())
}

/// Whether a restored delivery waits.
fn has_waiting(connection: &Connection) -> Result<bool> {
    let sql = "SELECT 1 FROM queue WHERE tenant_id = ?1 AND owner = 0 AND next_attempt_us = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    for tenant in due_rows::tenants_waiting(connection)? {
        if statement.exists(params![tenant, RESTORED_US])? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::SignedDuration;
    use crate::model::QueueFilter;
    use crate::store::contract::{address, later, new_message, now};
    use crate::store::sql::tests::Bed;
    use crate::store::{DueRange, Journal, Pause, Queue, QueueRequest, Spool};

    /// Lets everything that is open wait, as a restored database does.
    async fn restore(bed: &Bed) {
        let work = |tx: &Tx<'_>| {
            let sql = "UPDATE delivery SET next_attempt_us = ?1 WHERE next_attempt_us IS NOT NULL";
            let deliveries = tx.execute(sql, [RESTORED_US])? as i64;
            let sql = "INSERT INTO restoration (id, taken_us, restored_us, deliveries) VALUES (1, 1, 2, ?1)";
            Ok(tx.execute(sql, [deliveries])?)
        };
        bed.engine().write(work).await.unwrap();
    }

    async fn due(bed: &Bed, tenant_id: TenantId, at: Timestamp) -> usize {
        let range = DueRange { tenant_id, after: None, until: None, rows_max: 10 };
        bed.store.due_pages(vec![range], at).await.unwrap().remove(0).rows.len()
    }

    #[tokio::test]
    async fn restored_deliveries_are_found_by_no_flush_no_retry_and_no_end_of_a_pause() {
        let bed = Bed::without_hand_over().await;
        let tenant = bed.tenant("a").await.id;
        let new = bed.enqueue(tenant, &["x@one.example"]).await;
        restore(&bed).await;
        let part = QueueFilter::destination(address("x@one.example").host().clone());
        let late = later(90 * 24 * 3600);
        assert_eq!(bed.store.flush(QueueFilter::default(), late).await.unwrap(), 0);
        assert_eq!(bed.store.make_due(tenant, vec![new.recipients[0].0], late).await.unwrap(), []);
        for until in [None, Some(now() + SignedDuration::from_secs(60))] {
            bed.store.pause(Pause { part: part.clone(), reason: None, since: now(), until }).await.unwrap();
        }
        assert!(bed.store.resume(part, now()).await.unwrap());
        assert_eq!(due(&bed, tenant, late).await, 0);
        let request = QueueRequest { limit: 10, ..QueueRequest::default() };
        let overview = bed.store.overview(request, Default::default(), late).await.unwrap();
        assert_eq!((overview.totals.paused, overview.groups[0].next_due_at), (1, None));
        let delivery = bed.store.deliveries(new.message.id).await.unwrap().remove(0);
        assert_eq!(delivery.next_attempt_at, None);
        let bed = bed.restart().await;
        bed.store.expire_pauses(late).await.unwrap();
        assert_eq!(due(&bed, tenant, late).await, 0);
    }

    #[tokio::test]
    async fn they_are_released_part_by_part_scheduled_ones_at_their_time() {
        let bed = Bed::without_hand_over().await;
        let (tenant, other) = (bed.tenant("a").await.id, bed.tenant("b").await.id);
        bed.enqueue(tenant, &["x@one.example", "x@two.example"]).await;
        let mut scheduled = new_message(other, &["x@one.example"], "later");
        let release_at = later(3600);
        scheduled.message.parameters.release_at = Some(release_at);
        bed.store.enqueue(scheduled).await.unwrap();
        restore(&bed).await;
        assert_eq!(bed.store.restoration().await.unwrap().map(|restored| restored.deliveries), Some(3));

        let part = QueueFilter {
            tenant_id: Some(tenant),
            destination: Some(address("x@two.example").host().clone()),
        };
        assert_eq!(bed.store.release_restored(part, ReleaseMode::Send, now()).await.unwrap(), 1);
        assert_eq!(due(&bed, tenant, later(0)).await, 1);
        assert!(bed.store.restoration().await.unwrap().is_some());
        let rest = QueueFilter::default();
        assert_eq!(bed.store.release_restored(rest, ReleaseMode::Send, now()).await.unwrap(), 2);
        assert_eq!(bed.store.restoration().await.unwrap(), None);
        assert_eq!((due(&bed, tenant, later(0)).await, due(&bed, other, later(0)).await), (2, 0));
        assert_eq!(due(&bed, other, release_at).await, 1);
    }

    #[tokio::test]
    async fn those_that_end_as_expired_have_an_event_and_count_as_no_bounce() {
        let bed = Bed::without_hand_over().await;
        let tenant = bed.tenant("a").await.id;
        let new = bed.enqueue(tenant, &["x@one.example"]).await;
        restore(&bed).await;
        let rest = QueueFilter::default();
        assert_eq!(bed.store.release_restored(rest, ReleaseMode::Expire, now()).await.unwrap(), 1);
        let delivery = bed.store.deliveries(new.message.id).await.unwrap().remove(0);
        assert_eq!(
            (delivery.state, delivery.last_reply.as_deref()),
            (DeliveryState::Expired, Some(NOT_SENT_AGAIN))
        );
        let events = bed.store.message_events(new.message.id, None, 10).await.unwrap().items;
        assert_eq!(events.last().unwrap().kind, EventKind::MessageExpired);
        assert_eq!(bed.store.restoration().await.unwrap(), None);
    }
}
