//! Webhook deliveries.

use std::collections::HashMap;

use super::{backlog, webhooks};
use crate::mail::Timestamp;
use crate::model::{DisabledReason, EventId, EventKind, WebhookDeliveryId, WebhookDeliveryState, WebhookId};
use crate::store::database::{self, Connection, Engine, OptionalExtension, Row, WriterLock, params};
use crate::store::sql::events::{AppendedEvent, Subject, read_event};
use crate::store::sql::keyset::List;
use crate::store::sql::sql_types::{count, json_if_any, sql_limit, time_if_any, us};
use crate::store::sql::unit_of_work::Tx;
use crate::store::{Page, PageRequest, Result, Webhook, WebhookDelivery, WebhookWork, WebhooksInFlight};

/// Later events of a message wait for this many attempts of an earlier one: about five minutes. After that, the delay costs
/// more than the wrong order.
pub(super) const TRIES_IN_ORDER: u32 = 3;

fn read_row(row: &Row<'_>) -> database::Result<WebhookDelivery> {
    Ok(WebhookDelivery {
        id: row.get("id")?,
        webhook_id: row.get("webhook_id")?,
        event: read_event(row, "event_id")?,
        state: row.get("state")?,
        attempts: row.get("attempts")?,
        next_attempt_at: time_if_any(row, "next_attempt_us")?,
        last_attempt: json_if_any(row, "last_attempt")?,
    })
}

/// Pending deliveries.
pub(super) fn count_open(connection: &Connection) -> Result<u64> {
    let sql = "SELECT coalesce(sum(deliveries), 0) FROM webhook_backlog";
    Ok(connection.prepare_cached(sql)?.query_row([], |row| count(row, 0))?)
}

impl Tx<'_> {
    /// Writes a delivery for each webhook that subscribes to the event.
    pub(in crate::store::sql) fn enqueue_for_webhooks(&self, event: &AppendedEvent<'_>) -> Result<()> {
        let Subject { tenant_id, environment, .. } = event.subject;
        let subscribed = loop {
            match self.subscriptions.wanting(event.kind, tenant_id, environment) {
                Some(webhooks) => break webhooks,
                // Another lane may forget them before they are used.
                None => self.subscriptions.load(webhooks::enabled(self)?),
            }
        };
        for id in subscribed {
            if !backlog::is_full(self, id)? {
                insert(self, id, event)?;
                backlog::add(self, id, event.data.len());
            } else if self.lock == WriterLock::Exclusive {
                webhooks::disable(self, id, DisabledReason::BacklogFull, event.at)?;
            } else {
                // That is announced, so a job that runs alone does it.
                self.full_webhooks.borrow_mut().push((id, event.at));
            }
        }
        Ok(())
    }
}

/// With an index look-up for each webhook with pending deliveries, however many these are.
const FIRST_DUE: &str = "
    WITH RECURSIVE first (webhook_id, at_us) AS (
        (SELECT webhook_id, next_attempt_us FROM webhook_delivery WHERE next_attempt_us IS NOT NULL
         ORDER BY webhook_id, next_attempt_us LIMIT 1)
        UNION ALL
        SELECT next.webhook_id, next.next_attempt_us FROM first JOIN LATERAL (
            SELECT webhook_id, next_attempt_us FROM webhook_delivery
            WHERE next_attempt_us IS NOT NULL AND webhook_id > first.webhook_id
            ORDER BY webhook_id, next_attempt_us LIMIT 1) AS next ON TRUE)
    SELECT first.webhook_id, first.at_us FROM first JOIN webhook ON webhook.id = first.webhook_id
    WHERE webhook.status = 'enabled'";

/// The earliest due time of each webhook with pending deliveries.
pub(in crate::store::sql) fn first_due(connection: &Connection) -> database::Result<HashMap<WebhookId, i64>> {
    let sql = match connection.engine() {
        Engine::Sqlite => {
            "SELECT webhook_id, min(next_attempt_us) FROM webhook_delivery
             WHERE next_attempt_us IS NOT NULL GROUP BY webhook_id"
        }
        Engine::Postgres => FIRST_DUE,
    };
    let mut statement = connection.prepare_cached(sql)?;
    let due = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    due.collect()
}

/// The due time of the last pending event of a message for a webhook, for which a new one waits.
macro_rules! last_waiting {
    ($of_message:literal, $order:literal) => {
        concat!(
            "SELECT CASE WHEN attempts < 3 THEN next_attempt_us END FROM webhook_delivery WHERE ",
            $of_message,
            " AND next_attempt_us IS NOT NULL ORDER BY ",
            $order,
            " LIMIT 1"
        )
    };
}

/// Waiting deliveries are never due before the event that they wait for, or every claim would have to skip them.
macro_rules! insert_delivery {
    ($of_message:literal, $order:literal) => {
        concat!(
            "INSERT INTO webhook_delivery (id, webhook_id, event_id, kind, tenant_id, message_id, delivery_id, data,
                                           created_us, state, attempts, next_attempt_us, external_ref, tags,
                                           metadata, environment)
             VALUES (?1, (SELECT id FROM webhook WHERE id = ?2), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 0,
                     max(?9, coalesce((",
            last_waiting!($of_message, $order),
            "), ?9)), (SELECT external_ref FROM tenant WHERE id = ?5), (SELECT tags FROM message WHERE id = ?6),
                     (SELECT metadata FROM message WHERE id = ?6), ?11)"
        )
    };
}

const INSERT: &str = insert_delivery!("webhook_id = ?2 AND message_id = ?6", "id DESC");
/// Only the right index has this order. From another one, which seems as good while the table is small, PostgreSQL would read
/// all deliveries of the webhook, and keep that plan.
const INSERT_IN_POSTGRES: &str = insert_delivery!(
    "(webhook_id, message_id, id) > (?2, ?6, '') AND (webhook_id, message_id, id) < (?2, ?6, '~')",
    "webhook_id DESC, message_id DESC, id DESC"
);

#[cfg(test)]
pub(in crate::store::sql) const LAST_WAITING: &str =
    last_waiting!("webhook_id = ?1 AND message_id = ?2", "id DESC");

/// Adds a delivery of an event, due as soon as its order allows.
pub(super) fn insert(
    tx: &Tx<'_>,
    webhook: WebhookId,
    event: &AppendedEvent<'_>,
) -> Result<WebhookDeliveryId> {
    let id = WebhookDeliveryId::from(tx.clock.next(event.at));
    let sql = match tx.engine() {
        Engine::Sqlite => INSERT,
        Engine::Postgres => INSERT_IN_POSTGRES,
    };
    let Subject { tenant_id, environment, message_id, delivery_id } = event.subject;
    // The message may be accepted in this transaction.
    tx.prepare_cached(sql)?.post_last(params![
        id,
        webhook,
        event.id,
        event.kind,
        tenant_id,
        message_id,
        delivery_id,
        event.data,
        us(event.at),
        WebhookDeliveryState::Pending,
        environment,
    ])?;
    tx.touched_webhooks.touch(webhook, us(event.at));
    Ok(id)
}

/// Adds a test delivery.
pub(super) fn insert_test(tx: &Tx<'_>, webhook: &Webhook, now: Timestamp) -> Result<Option<WebhookDelivery>> {
    let subject = webhooks::subject_of(webhook);
    let id = EventId::from(tx.clock.next(now));
    let event = AppendedEvent { id, kind: EventKind::WebhookTest, subject, data: "{}", at: now };
    backlog::require_capacity(tx, webhook.id)?;
    let id = insert(tx, webhook.id, &event)?;
    find(tx, id)
}

pub(super) fn find(connection: &Connection, id: WebhookDeliveryId) -> Result<Option<WebhookDelivery>> {
    let mut statement = connection.prepare_cached("SELECT * FROM webhook_delivery WHERE id = ?1")?;
    Ok(statement.query_row([id], read_row).optional()?)
}

pub(super) fn list(
    connection: &Connection,
    webhook: WebhookId,
    state: Option<WebhookDeliveryState>,
    page: &PageRequest,
) -> Result<Page<WebhookDelivery>> {
    let mut list = List::of("webhook_delivery", WebhookDeliveryId::PREFIX);
    list.only("webhook_id = ?", &webhook)?;
    list.only_if("state = ?", &state)?;
    list.read(connection, page, read_row)
}

/// Makes a delivery due now as if it had not been attempted.
pub(super) fn replay(tx: &Tx<'_>, id: WebhookDeliveryId, now: Timestamp) -> Result<Option<WebhookDelivery>> {
    let Some(before) = find(tx, id)? else { return Ok(None) };
    if before.next_attempt_at.is_none() {
        backlog::require_capacity(tx, before.webhook_id)?;
    }
    let sql = "UPDATE webhook_delivery SET state = ?2, attempts = 0, next_attempt_us = ?3 WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![id, WebhookDeliveryState::Pending, us(now)])?;
    tx.touched_webhooks.touch(before.webhook_id, us(now));
    find(tx, id)
}

/// Due deliveries that may be sent, without those in flight.
pub(super) fn claim(
    connection: &Connection,
    webhook: WebhookId,
    in_flight: &WebhooksInFlight,
    limit: usize,
    now: Timestamp,
) -> Result<WebhookWork> {
    let sql = "SELECT * FROM webhook_delivery d WHERE webhook_id = ?1 AND next_attempt_us <= ?2
               AND NOT EXISTS (SELECT 1 FROM webhook_delivery earlier
                               WHERE earlier.webhook_id = ?1 AND earlier.message_id = d.message_id
                               AND earlier.next_attempt_us IS NOT NULL AND earlier.id < d.id
                               AND earlier.attempts < ?3)
               ORDER BY next_attempt_us, id LIMIT ?4";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = sql_limit(limit + in_flight.deliveries.len());
    let found = statement.query_map(params![webhook, us(now), TRIES_IN_ORDER, rows], read_row)?;
    let mut work = WebhookWork::default();
    let mut messages = in_flight.messages.clone();
    for delivery in found {
        let delivery = delivery?;
        let message = delivery.event.message_id;
        let is_busy = message.is_some_and(|id| messages.contains(&id));
        if !is_busy && !in_flight.deliveries.contains(&delivery.id) && work.deliveries.len() < limit {
            messages.extend(message);
            work.deliveries.push(delivery);
        }
    }
    let sql =
        "SELECT min(next_attempt_us) FROM webhook_delivery WHERE webhook_id = ?1 AND next_attempt_us > ?2";
    let mut statement = connection.prepare_cached(sql)?;
    work.next_due_at = statement.query_row(params![webhook, us(now)], |row| time_if_any(row, 0))?;
    Ok(work)
}

/// Selects deliveries that retention may delete: the server attempts the pending ones of an enabled webhook, also after a
/// replay.
pub(in crate::store::sql) const IS_REMOVABLE: &str = "(d.next_attempt_us IS NULL OR EXISTS
    (SELECT 1 FROM webhook w WHERE w.id = d.webhook_id AND w.status = 'disabled'))";

/// Deletes deliveries whose retention has ended.
pub(in crate::store::sql) fn remove(tx: &Tx<'_>, ids: &[String]) -> Result<u64> {
    let mut delete =
        tx.prepare_cached(&format!("DELETE FROM webhook_delivery AS d WHERE id = ?1 AND {IS_REMOVABLE}"))?;
    let mut removed = 0;
    for id in ids {
        removed += delete.execute([id])? as u64;
    }
    Ok(removed)
}
