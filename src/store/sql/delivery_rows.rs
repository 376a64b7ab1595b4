//! The rows of deliveries and of their attempts.

use super::keyset::read_rows;
use super::sql_types::{count, parsed_if_any, sql_limit, time, time_of};
use crate::mail::{Address, RcptParameters, Timestamp};
use crate::model::{DeliveryId, DeliveryState, MessageId};
use crate::store::database::{self, Connection, OptionalExtension, Row, params};
use crate::store::{Attempt, Delivery, Page, Result, is_held};

fn read_row(row: &Row<'_>) -> database::Result<Delivery> {
    Ok(Delivery {
        id: row.get("id")?,
        message_id: row.get("message_id")?,
        recipient: row.get("recipient")?,
        parameters: RcptParameters {
            notify: row.get("notify")?,
            original_recipient: row.get("original_recipient")?,
        },
        state: row.get("state")?,
        attempts: row.get("attempts")?,
        next_attempt_at: next_attempt_at(row)?,
        last_reply: row.get("last_reply")?,
        bounce_class: row.get("bounce_class")?,
        updated_at: time(row, "updated_us")?,
    })
}

/// `None` also while the delivery waits for a person: then its column is no time.
fn next_attempt_at(row: &Row<'_>) -> database::Result<Option<Timestamp>> {
    let next_us: Option<i64> = row.get("next_attempt_us")?;
    next_us.filter(|next_us| !is_held(*next_us)).map(time_of).transpose()
}

pub(super) fn find(connection: &Connection, id: DeliveryId) -> database::Result<Option<Delivery>> {
    let mut statement = connection.prepare_cached("SELECT * FROM delivery WHERE id = ?1")?;
    statement.query_row([id], read_row).optional()
}

pub(super) fn of_message(connection: &Connection, message: MessageId) -> Result<Vec<Delivery>> {
    let mut statement =
        connection.prepare_cached("SELECT * FROM delivery WHERE message_id = ?1 ORDER BY position")?;
    let deliveries = statement.query_map([message], read_row)?;
    Ok(deliveries.collect::<database::Result<_>>()?)
}

/// The only delivery of a message; `None` if it has several.
pub(super) fn only_of(connection: &Connection, message: MessageId) -> Result<Option<Delivery>> {
    let mut statement = connection.prepare_cached("SELECT * FROM delivery WHERE message_id = ?1 LIMIT 2")?;
    let mut deliveries = statement.query_map([message], read_row)?;
    let (first, second) = (deliveries.next().transpose()?, deliveries.next());
    Ok(first.filter(|_| second.is_none()))
}

/// The recipients of a message in order, at most `limit`.
pub(super) fn recipients(connection: &Connection, message: MessageId, limit: usize) -> Result<Vec<Address>> {
    let sql = "SELECT recipient FROM delivery WHERE message_id = ?1 ORDER BY position LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let recipients = statement.query_map(params![message, sql_limit(limit)], |row| row.get(0))?;
    Ok(recipients.collect::<database::Result<_>>()?)
}

/// The number of deliveries of a message in each state.
pub(super) fn states(connection: &Connection, message: MessageId) -> Result<Vec<(DeliveryState, u64)>> {
    let sql = "SELECT state, count(*) FROM delivery WHERE message_id = ?1 GROUP BY state";
    let mut statement = connection.prepare_cached(sql)?;
    let states = statement.query_map([message], |row| Ok((row.get(0)?, count(row, 1)?)))?;
    Ok(states.collect::<database::Result<_>>()?)
}

/// The last reply to a delivery of a message in this state.
pub(super) fn last_reply(
    connection: &Connection,
    message: MessageId,
    state: DeliveryState,
) -> Result<Option<String>> {
    let sql =
        "SELECT last_reply FROM delivery WHERE message_id = ?1 AND state = ?2 AND last_reply IS NOT NULL
               ORDER BY updated_us DESC, position LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row(params![message, state], |row| row.get(0)).optional()?)
}

/// The status of a message.
pub(super) fn status(connection: &Connection, message: MessageId) -> Result<DeliveryState> {
    let states: Vec<_> = states(connection, message)?.into_iter().map(|(state, _)| state).collect();
    Ok(DeliveryState::combine(&states))
}

pub(super) fn attempts(
    connection: &Connection,
    message: MessageId,
    delivery: Option<DeliveryId>,
    limit: usize,
) -> Result<Page<Attempt>> {
    let sql = "SELECT attempt.id, attempt.message_id, attempt.delivery_id, attempt.started_us, attempt.duration_ms,
                      attempt.host, attempt.address, attempt.source, attempt.tls, attempt.tls_policy, attempt.code,
                      attempt.enhanced, attempt.text, attempt.outcome, attempt.bounce_class, attempt.reason,
                      coalesce(shared.transcript, attempt.transcript) AS said
               FROM attempt LEFT JOIN attempt shared ON shared.id = attempt.transcript_of
               WHERE attempt.message_id = ?1 AND (attempt.delivery_id = ?2 OR ?2 IS NULL)
               ORDER BY attempt.started_us, attempt.id LIMIT ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query(params![message, delivery, sql_limit(limit.saturating_add(1))])?;
    read_rows(rows, limit, |row| {
        Ok(Attempt {
            id: row.get("id")?,
            message_id: row.get("message_id")?,
            delivery_id: row.get("delivery_id")?,
            started_at: time(row, "started_us")?,
            duration_ms: count(row, "duration_ms")?,
            host: row.get("host")?,
            address: parsed_if_any(row, "address")?,
            source: parsed_if_any(row, "source")?,
            tls: row.get("tls")?,
            tls_policy: row.get("tls_policy")?,
            code: row.get("code")?,
            enhanced: row.get("enhanced")?,
            text: row.get("text")?,
            transcript: row.get::<_, String>("said")?.into(),
            outcome: row.get("outcome")?,
            bounce_class: row.get("bounce_class")?,
            reason: row.get("reason")?,
        })
    })
}
