//! Appending to the journal. The order of event ids is the order of events.

use std::cell::Cell;

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use ulid::Ulid;

use super::rows::{json, sql_limit, time, to_json, us};
use super::writer::Tx;
use crate::mail::{DeliveryId, EventId, EventKind, MessageId, TenantId, Timestamp};
use crate::store::{Event, Result, StoreError};

/// Makes ids that grow strictly, also within a millisecond and when the system's clock goes back.
pub(super) struct EventClock(Cell<u128>);

impl EventClock {
    /// Continues behind the last event.
    pub(super) fn open(connection: &Connection) -> rusqlite::Result<Self> {
        let last: Option<String> =
            connection.query_row("SELECT max(id) FROM event", [], |row| row.get(0)).optional()?.flatten();
        let last = last.and_then(|id| Ulid::from_string(id.strip_prefix(EventId::PREFIX)?).ok());
        Ok(Self(Cell::new(last.map_or(0, u128::from))))
    }

    fn next(&self, now: Timestamp) -> String {
        let milliseconds = u64::try_from(now.as_millisecond()).unwrap_or(0);
        let fresh = u128::from(Ulid::from_parts(milliseconds, rand::random::<u128>()));
        let last = self.0.get();
        let next = if fresh >> 80 > last >> 80 { fresh } else { last.saturating_add(1) };
        self.0.set(next);
        format!("{}{}", EventId::PREFIX, Ulid::from(next))
    }
}

/// Whom and what an event is about.
#[derive(Clone, Copy, Default)]
pub(super) struct Subject {
    pub(super) tenant_id: Option<TenantId>,
    pub(super) message_id: Option<MessageId>,
    pub(super) delivery_id: Option<DeliveryId>,
}

impl Tx<'_> {
    /// Appends an event.
    pub(super) fn append(
        &self,
        kind: EventKind,
        subject: Subject,
        data: &impl Serialize,
        at: Timestamp,
    ) -> Result<()> {
        let sql = "INSERT INTO event (id, kind, tenant_id, message_id, delivery_id, data, created_us)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let Subject { tenant_id, message_id, delivery_id } = subject;
        let row =
            params![self.clock.next(at), kind, tenant_id, message_id, delivery_id, to_json(data)?, us(at)];
        self.prepare_cached(sql)?.execute(row)?;
        Ok(())
    }
}

/// The events of a message, oldest first; with a delivery those about it or the whole message.
pub(super) fn of_message(
    connection: &Connection,
    message: MessageId,
    delivery: Option<DeliveryId>,
    limit: usize,
) -> Result<Vec<Event>> {
    let sql = "SELECT * FROM event
               WHERE message_id = ?1 AND (?2 IS NULL OR delivery_id IS NULL OR delivery_id = ?2)
               ORDER BY id LIMIT ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let events = statement.query_map(params![message, delivery, sql_limit(limit)], |row| {
        Ok(Event {
            id: row.get("id")?,
            kind: row.get("kind")?,
            tenant_id: row.get("tenant_id")?,
            message_id: row.get("message_id")?,
            delivery_id: row.get("delivery_id")?,
            data: json(row, "data")?,
            created_at: time(row, "created_us")?,
        })
    })?;
    events.collect::<rusqlite::Result<_>>().map_err(StoreError::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_within_a_millisecond_and_when_the_clock_goes_back() {
        let clock = EventClock(Cell::new(0));
        let late = Timestamp::from_second(1_000).unwrap();
        let early = Timestamp::from_second(999).unwrap();
        let ids = [late, late, early, late].map(|at| clock.next(at));
        assert!(ids.is_sorted() && ids[0] != ids[1] && ids[2] != ids[3]);
        assert!(ids[3].parse::<EventId>().is_ok());
    }
}
