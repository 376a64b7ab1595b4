//! The rows of deliveries and of their attempts.

use rusqlite::{Connection, OptionalExtension, Row};

use crate::mail::{DeliveryId, MessageId, RcptParameters};
use crate::store::sqlite::rows::{count, parsed_if_any, time, time_if_any};
use crate::store::{Attempt, Delivery, Result};

fn read_row(row: &Row<'_>) -> rusqlite::Result<Delivery> {
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
        next_attempt_at: time_if_any(row, "next_attempt_us")?,
        last_reply: row.get("last_reply")?,
        updated_at: time(row, "updated_us")?,
    })
}

pub(in crate::store::sqlite) fn find(connection: &Connection, id: DeliveryId) -> Result<Option<Delivery>> {
    let mut statement = connection.prepare_cached("SELECT * FROM delivery WHERE id = ?1")?;
    Ok(statement.query_row([id], read_row).optional()?)
}

pub(super) fn of_message(connection: &Connection, message: MessageId) -> Result<Vec<Delivery>> {
    let mut statement =
        connection.prepare_cached("SELECT * FROM delivery WHERE message_id = ?1 ORDER BY position")?;
    let deliveries = statement.query_map([message], read_row)?;
    Ok(deliveries.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn attempts(connection: &Connection, message: MessageId) -> Result<Vec<Attempt>> {
    let mut statement =
        connection.prepare_cached("SELECT * FROM attempt WHERE message_id = ?1 ORDER BY started_us, id")?;
    let attempts = statement.query_map([message], |row| {
        Ok(Attempt {
            id: row.get("id")?,
            message_id: row.get("message_id")?,
            delivery_id: row.get("delivery_id")?,
            started_at: time(row, "started_us")?,
            duration_ms: count(row, "duration_ms")?,
            host: row.get("host")?,
            address: parsed_if_any(row, "address")?,
            tls: row.get("tls")?,
            code: row.get("code")?,
            enhanced: row.get("enhanced")?,
            text: row.get("text")?,
            transcript: row.get("transcript")?,
            outcome: row.get("outcome")?,
            reason: row.get("reason")?,
        })
    })?;
    Ok(attempts.collect::<rusqlite::Result<_>>()?)
}
