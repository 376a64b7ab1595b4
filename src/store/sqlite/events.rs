//! Appending to the journal, and reading it. The order of event ids is the order of events.

use std::cell::Cell;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use ulid::Ulid;

use super::page::List;
use super::rows::{json, sql_limit, time, to_json, us};
use super::writer::Tx;
use crate::mail::{DeliveryId, EventId, EventKind, MessageId, TenantId, Timestamp, WebhookDeliveryId};
use crate::store::{Event, EventFilter, EventPage, Page, PageRequest, Result, StoreError};

/// Makes ids that grow strictly, also within a millisecond and when the system's clock goes back.
pub(super) struct EventClock(Cell<u128>);

impl EventClock {
    /// Continues behind the last event and the last copy of one for a webhook.
    pub(super) fn open(connection: &Connection) -> rusqlite::Result<Self> {
        let last = |table: &str, prefix: &str| -> rusqlite::Result<u128> {
            let sql = format!("SELECT max(id) FROM {table}");
            let last: Option<String> = connection.query_row(&sql, [], |row| row.get(0)).optional()?.flatten();
            let last = last.and_then(|id| Ulid::from_string(id.strip_prefix(prefix)?).ok());
            Ok(last.map_or(0, u128::from))
        };
        let event = last("event", EventId::PREFIX)?;
        Ok(Self(Cell::new(event.max(last("webhook_delivery", WebhookDeliveryId::PREFIX)?))))
    }

    /// Not before any event that was committed, nor after any to come.
    pub(super) fn last(&self) -> EventId {
        Ulid::from(self.0.get()).into()
    }

    pub(super) fn next(&self, now: Timestamp) -> Ulid {
        let milliseconds = u64::try_from(now.as_millisecond()).unwrap_or(0);
        let fresh = u128::from(Ulid::from_parts(milliseconds, rand::random::<u128>()));
        let last = self.0.get();
        let next = if fresh >> 80 > last >> 80 { fresh } else { last.saturating_add(1) };
        self.0.set(next);
        Ulid::from(next)
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
    /// Appends an event, and a copy of it for each webhook that is to be told.
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
        let id = EventId::from(self.clock.next(at));
        let data = to_json(data)?;
        let row = params![id, kind, tenant_id, message_id, delivery_id, data, us(at)];
        self.prepare_cached(sql)?.execute(row)?;
        self.tally.note_event(kind);
        self.tell_webhooks(&Told { id, kind, subject, data: &data, at })
    }
}

/// An event that was just appended.
pub(super) struct Told<'a> {
    pub(super) id: EventId,
    pub(super) kind: EventKind,
    pub(super) subject: Subject,
    /// As JSON.
    pub(super) data: &'a str,
    pub(super) at: Timestamp,
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<Event> {
    read_event(row, "id")
}

/// An event in a row whose column `id` has the event's own id.
pub(super) fn read_event(row: &Row<'_>, id: &str) -> rusqlite::Result<Event> {
    Ok(Event {
        id: row.get(id)?,
        kind: row.get("kind")?,
        tenant_id: row.get("tenant_id")?,
        message_id: row.get("message_id")?,
        delivery_id: row.get("delivery_id")?,
        data: json(row, "data")?,
        created_at: time(row, "created_us")?,
    })
}

/// Events that one page looks at: enough to fill it nearly always, and a bound on what looking costs. An index of each
/// tenant's events would cost every message instead.
const LOOKED_AT_MAX: usize = if cfg!(test) { 50 } else { 20_000 };

/// A page of events, newest first.
pub(super) fn list(connection: &Connection, filter: &EventFilter, page: &PageRequest) -> Result<EventPage> {
    let upwards = page.before.is_some() && page.after.is_none();
    let mut list = List::of("event", EventId::PREFIX);
    list.only_if("tenant_id = ?", &filter.tenant_id)?;
    list.only_if("kind = ?", &filter.kind)?;
    list.only_if("message_id = ?", &filter.message_id)?;
    // Without a filter every event is shown, and those of a message have an index.
    let is_wide = filter.message_id.is_none() && *filter != EventFilter::default();
    let edge = if is_wide { edge_of_look(connection, page, upwards)? } else { None };
    list.only_if(if upwards { "id <= ?" } else { "id >= ?" }, &edge)?;
    let Page { items, has_more } = list.read(connection, page, read_row)?;
    let shown = if upwards { items.first() } else { items.last() };
    let next = if has_more { shown.map(|event| event.id) } else { edge };
    Ok(EventPage { items, next })
}

/// The last event that a page looks at, if there are more behind it.
fn edge_of_look(connection: &Connection, page: &PageRequest, upwards: bool) -> Result<Option<EventId>> {
    let bound = |time: Timestamp, rest| {
        let milliseconds = u64::try_from(time.as_millisecond()).unwrap_or(0);
        EventId::from(Ulid::from_parts(milliseconds, rest)).to_string()
    };
    let lowest = page.created_after.map(|time| bound(time, 0));
    let lowest = page.before.clone().max(lowest).unwrap_or_default();
    let highest = page.created_before.map(|time| bound(time, u128::MAX));
    let highest = [page.after.clone(), highest].into_iter().flatten().min();
    let highest = highest.unwrap_or_else(|| EventId::from(Ulid::from(u128::MAX)).to_string());
    let order = if upwards { "ASC" } else { "DESC" };
    let sql = format!("SELECT id FROM event WHERE id > ?1 AND id < ?2 ORDER BY id {order} LIMIT 1 OFFSET ?3");
    let row = params![lowest, highest, sql_limit(LOOKED_AT_MAX)];
    Ok(connection.prepare_cached(&sql)?.query_row(row, |row| row.get(0)).optional()?)
}

pub(super) fn after(connection: &Connection, after: EventId, limit: usize) -> Result<Vec<Event>> {
    let mut statement =
        connection.prepare_cached("SELECT * FROM event WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let events = statement.query_map(params![after, sql_limit(limit)], read_row)?;
    events.collect::<rusqlite::Result<_>>().map_err(StoreError::from)
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
    let events = statement.query_map(params![message, delivery, sql_limit(limit)], read_row)?;
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
    }
}
