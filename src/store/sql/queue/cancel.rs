//! Cancels deliveries, which the queue manager claimed before.

use serde::Serialize;

use crate::mail::Timestamp;
use crate::model::{DeliveryId, DeliveryState, EventKind, MessageId, MessageKind, TenantId};
use crate::store::database::{Connection, OptionalExtension, params};
use crate::store::sql::events::Subject;
use crate::store::sql::sql_types::us;
use crate::store::sql::{Tx, message_rows};
use crate::store::{OpenDeliveries, OpenDelivery, Result};

/// The data of the event.
#[derive(Serialize)]
struct CancellationData {
    recipient: String,
    attempts: u32,
}

pub(super) fn open_deliveries(
    connection: &Connection,
    message: MessageId,
    epoch: i64,
) -> Result<OpenDeliveries> {
    let sql = "SELECT delivery.tenant_id, delivery.id, delivery.destination,
                      coalesce(queue.owner, 0) NOT IN (0, ?2)
               FROM delivery LEFT JOIN queue ON queue.id = delivery.id
               WHERE delivery.message_id = ?1 AND delivery.next_attempt_us IS NOT NULL
               ORDER BY delivery.position";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![message, epoch])?;
    let mut open = OpenDeliveries::default();
    while let Some(row) = rows.next()? {
        open.tenant_id = Some(row.get(0)?);
        let (id, destination, is_elsewhere) = (row.get(1)?, row.get(2)?, row.get(3)?);
        open.deliveries.push(OpenDelivery { id, destination, is_elsewhere });
    }
    Ok(open)
}

/// Returns those that were open and that no other node has.
pub(super) fn cancel(
    tx: &Tx<'_>,
    message: MessageId,
    ids: &[DeliveryId],
    now: Timestamp,
) -> Result<Vec<DeliveryId>> {
    let sql = "UPDATE delivery SET state = ?2, next_attempt_us = NULL, updated_us = ?3
               WHERE id = ?1 AND message_id = ?4 AND next_attempt_us IS NOT NULL
                   AND EXISTS (SELECT 1 FROM queue WHERE queue.id = ?1 AND queue.owner IN (0, ?5))
               RETURNING tenant_id, recipient, attempts";
    let environment = "SELECT environment FROM message WHERE id = ?1";
    let environment = tx.prepare_cached(environment)?.query_row([message], |row| row.get(0)).optional()?;
    let mut statement = tx.prepare_cached(sql)?;
    let kind = message_rows::kind(tx, message)?;
    let mut cancelled = Vec::new();
    for &id in ids {
        let row = params![id, DeliveryState::Cancelled, us(now), message, tx.lease.epoch()];
        let found: Option<(TenantId, CancellationData)> = statement
            .query_row(row, |row| {
                Ok((row.get(0)?, CancellationData { recipient: row.get(1)?, attempts: row.get(2)? }))
            })
            .optional()?;
        let Some((tenant_id, data)) = found else { continue };
        let subject = Subject {
            tenant_id: Some(tenant_id),
            environment,
            message_id: Some(message),
            delivery_id: Some(id),
        };
        if kind == Some(MessageKind::Message) {
            tx.append(EventKind::MessageCancelled, subject, &data, now)?;
        }
        cancelled.push(id);
    }
    Ok(cancelled)
}
