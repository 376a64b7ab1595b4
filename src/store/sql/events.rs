//! Appends to the journal and reads it by ids, which are in the order of commits if one connection writes, as on SQLite. For
//! PostgreSQL, see `journal::commit_order`.

use serde::Serialize;
use serde_json::Value;
use ulid::Ulid;

use super::bounds::Bounds;
use super::keyset::{PageOctets, Range, read_rows, ulid_at};
use super::message_rows;
use super::slices::{ReadSlice, SliceEnd, Sliced};
use super::sql_types::{json, sql_limit, time, to_json, us};
use super::unit_of_work::Tx;
use crate::mail::{SignedDuration, Timestamp};
use crate::model::{DeliveryId, Environment, EventId, EventKind, MessageId, TenantId, WebhookDeliveryId};
use crate::store::database::{self, Connection, Row, params};
use crate::store::memory::EventClock;
use crate::store::{
    Event, EventFilter, EventPage, JournalCursor, JournalEntry, PAGE_OBJECTS_MAX, Page, PageRequest, Result,
    UsageCounts,
};

/// Continues after the last event, the last webhook delivery and the position of the search index, because the events
/// themselves may have been deleted.
pub(super) fn open_clock(connection: &Connection) -> database::Result<EventClock> {
    let event: Option<EventId> = connection.query_row("SELECT max(id) FROM event", [], |row| row.get(0))?;
    let copy: Option<WebhookDeliveryId> =
        connection.query_row("SELECT max(id) FROM webhook_delivery", [], |row| row.get(0))?;
    let indexed: Option<JournalCursor> =
        connection.query_row("SELECT max(cursor) FROM search_progress", [], |row| row.get(0))?;
    let last = [event.map(Ulid::from).map(u128::from), copy.map(Ulid::from).map(u128::from)];
    let indexed = indexed.filter(|cursor| cursor.commit_position().is_none()).map(JournalCursor::bits);
    let last = last.into_iter().chain([indexed]).flatten().max();
    Ok(EventClock::behind(last.unwrap_or(0)))
}

/// The position after all committed events of SQLite.
pub(super) fn end_of_journal(clock: &EventClock) -> JournalCursor {
    JournalCursor::from_bits(clock.last())
}

/// A time after all committed events.
pub(super) fn time_behind(clock: &EventClock) -> Timestamp {
    // Ids have milliseconds.
    let last = EventId::from(Ulid::from(clock.last())).created_at();
    last.checked_add(SignedDuration::from_millis(1)).unwrap_or(Timestamp::MAX)
}

/// The tenant, environment, message and delivery of an event. Without an environment, it is about an object that both
/// environments share.
#[derive(Clone, Copy, Default)]
pub(super) struct Subject {
    pub(super) tenant_id: Option<TenantId>,
    pub(super) environment: Option<Environment>,
    pub(super) message_id: Option<MessageId>,
    pub(super) delivery_id: Option<DeliveryId>,
}

impl Tx<'_> {
    /// Appends an event, and a delivery for each subscribed webhook.
    pub(super) fn append(
        &self,
        kind: EventKind,
        subject: Subject,
        data: &impl Serialize,
        at: Timestamp,
    ) -> Result<()> {
        let sql =
            "INSERT INTO event (id, kind, tenant_id, message_id, delivery_id, data, created_us, environment)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let Subject { tenant_id, environment, message_id, delivery_id } = subject;
        debug_assert!(message_id.is_none() || kind.names_message(), "{kind} names a message");
        let id = EventId::from(self.clock.next(at));
        self.inserted_row.note("event", id);
        let data = to_json(data)?;
        let row = params![id, kind, tenant_id, message_id, delivery_id, data, us(at), environment];
        self.prepare_cached(sql)?.post(row)?;
        self.usage.note_event(kind);
        if kind == EventKind::MessageComplained
            && let Some(message) = message_id
        {
            self.count_delivery(message, at, UsageCounts { complained: 1, ..UsageCounts::default() })?;
        }
        self.enqueue_for_webhooks(&AppendedEvent { id, kind, subject, data: &data, at })
    }
}

/// An event that is being appended.
pub(super) struct AppendedEvent<'a> {
    pub(super) id: EventId,
    pub(super) kind: EventKind,
    pub(super) subject: Subject,
    /// As JSON.
    pub(super) data: &'a str,
    pub(super) at: Timestamp,
}

fn read_row(row: &Row<'_>) -> database::Result<Event> {
    read_event(row, "id")
}

/// The columns of [`read_event`] that an event in the journal gets from its tenant and message, if the condition holds.
macro_rules! context_columns {
    ($condition:literal) => {
        concat!(
            "CASE WHEN ",
            $condition,
            " THEN (SELECT external_ref FROM tenant WHERE id = event.tenant_id) END AS external_ref,
             CASE WHEN ",
            $condition,
            " THEN (SELECT tags FROM message WHERE id = event.message_id) END AS tags,
             CASE WHEN ",
            $condition,
            " THEN (SELECT metadata FROM message WHERE id = event.message_id) END AS metadata"
        )
    };
}
pub(super) use context_columns;

/// Reads an event from a row; `id` is the column with its id.
pub(super) fn read_event(row: &Row<'_>, id: &str) -> database::Result<Event> {
    let kind = row.get("kind")?;
    let data: Value = json(row, "data")?;
    let external_ref = match kind {
        EventKind::TenantDeleted => data["external_ref"].as_str().map(str::to_owned),
        _ => row.get("external_ref")?,
    };
    Ok(Event {
        id: row.get(id)?,
        kind,
        tenant_id: row.get("tenant_id")?,
        environment: row.get("environment")?,
        message_id: row.get("message_id")?,
        delivery_id: row.get("delivery_id")?,
        external_ref,
        annotations: message_rows::annotations(row)?,
        data,
        created_at: time(row, "created_us")?,
    })
}

/// The tenant whose events a filter takes; empty for those of the platform.
pub(super) fn owner(filter: &EventFilter) -> Option<String> {
    if filter.of_platform { Some(String::new()) } else { filter.tenant_id.map(|tenant| tenant.to_string()) }
}

/// Without the index, these few would be looked for among all events of messages.
const OF_TYPE_WITHOUT_MESSAGE: &str = "event INDEXED BY event_without_message_by_type WHERE message_id IS NULL AND kind = ?5 AND CAST(?3 AS TEXT) IS NULL";

/// A page of events, newest first, that is being read.
pub(super) struct EventSearch {
    filter: EventFilter,
    /// The part of the page that is not read yet.
    rest: PageRequest,
    items: Vec<Event>,
    octets: PageOctets,
    /// The last examined event.
    last: Option<EventId>,
    examined: usize,
    bounds: Bounds,
}

impl EventSearch {
    pub(super) fn new(filter: EventFilter, page: PageRequest, bounds: Bounds) -> Self {
        Self {
            bounds,
            filter,
            rest: page,
            items: Vec::new(),
            octets: PageOctets::default(),
            last: None,
            examined: 0,
        }
    }

    /// The rest, after the last examined event.
    fn rest_after_last(mut self, range: &Range) -> ReadSlice<Self> {
        let cursor = if range.is_upwards { &mut self.rest.before } else { &mut self.rest.after };
        *cursor = self.last.map(|last| last.to_string());
        ReadSlice::Rest(self)
    }

    fn complete(mut self, next: Option<EventId>, range: &Range) -> ReadSlice<Self> {
        if range.is_upwards {
            self.items.reverse();
        }
        ReadSlice::Complete(EventPage { items: self.items, next })
    }
}

impl Sliced for EventSearch {
    type Page = EventPage;

    fn read_slice(mut self, connection: &Connection) -> Result<ReadSlice<Self>> {
        let range = Range::of(EventId::PREFIX, &self.rest);
        let EventFilter { environment, kind, message_id, .. } = &self.filter;
        let owner = owner(&self.filter);
        let rows = match (message_id, kind) {
            (Some(_), _) => "event WHERE message_id = ?3",
            (None, Some(kind)) if !kind.names_message() => OF_TYPE_WITHOUT_MESSAGE,
            (None, _) => "event WHERE CAST(?3 AS TEXT) IS NULL",
        };
        let sql = format!(
            "SELECT event.*, {} FROM (
                SELECT event.*, (coalesce(tenant_id, '') = ?4 OR ?4 IS NULL) AND (kind = ?5 OR ?5 IS NULL)
                    AND (environment IS NULL OR environment = ?8 OR ?8 IS NULL)
                    AND (created_us >= ?6 OR ?6 IS NULL) AND (created_us < ?7 OR ?7 IS NULL) AS is_meant
                FROM {rows} AND id > ?1 AND id < ?2) AS event
             ORDER BY id {} LIMIT {}",
            context_columns!("is_meant"),
            range.order(),
            self.bounds.slice_rows_max
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let (since_us, until_us) = (self.rest.created_after.map(us), self.rest.created_before.map(us));
        let mut rows = statement.query(params![
            range.low,
            range.high,
            message_id,
            owner,
            kind,
            since_us,
            until_us,
            environment
        ])?;
        let limit = self.rest.limit.clamp(1, PAGE_OBJECTS_MAX);
        let (mut end, mut rows_read) = (SliceEnd::new(&self.bounds), 0);
        while let Some(row) = rows.next()? {
            rows_read += 1;
            let id: EventId = row.get("id")?;
            if let Some(last) = self.last.filter(|_| self.examined >= self.bounds.page_events_examined_max)
                && let Some(edge) = edge_between(last, id)
            {
                return Ok(self.complete(Some(edge), &range));
            }
            if end.is_reached() {
                return Ok(self.rest_after_last(&range));
            }
            (self.last, self.examined) = (Some(id), self.examined + 1);
            if !row.get("is_meant")? {
                continue;
            }
            if self.items.len() == limit || !self.octets.take(&row)? {
                let next = self.items.last().map(|event: &Event| event.id);
                return Ok(self.complete(next, &range));
            }
            self.items.push(read_row(&row)?);
        }
        if rows_read == self.bounds.slice_rows_max {
            return Ok(self.rest_after_last(&range));
        }
        Ok(self.complete(None, &range))
    }
}

/// The boundary of a millisecond between two events, if there is one. It is a cursor that reveals no id, because the events
/// may belong to another tenant.
fn edge_between(last: EventId, next: EventId) -> Option<EventId> {
    let [made_at, next_at] = [last.created_at(), next.created_at()];
    let rest = if next_at < made_at { 0 } else { u128::MAX };
    (next_at != made_at).then(|| ulid_at(made_at, rest).into())
}

/// The position after an event on SQLite, where positions are derived from ids.
pub(super) fn cursor_after(event: EventId) -> JournalCursor {
    JournalCursor::from_bits(Ulid::from(event).into())
}

/// The event before a position.
pub(super) fn last_before(cursor: JournalCursor) -> EventId {
    EventId::from(Ulid::from(cursor.bits()))
}

pub(super) fn after(
    connection: &Connection,
    after: JournalCursor,
    limit: usize,
) -> Result<Page<JournalEntry>> {
    let sql = concat!(
        "SELECT event.*, ",
        context_columns!("TRUE"),
        " FROM event WHERE id > ?1 ORDER BY id LIMIT ?2"
    );
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query(params![last_before(after), sql_limit(limit.saturating_add(1))])?;
    read_rows(rows, limit, |row| {
        let event = read_row(row)?;
        Ok(JournalEntry { cursor: cursor_after(event.id), event })
    })
}

pub(super) const OF_MESSAGE: &str = concat!(
    "SELECT event.*, ",
    context_columns!("TRUE"),
    " FROM event WHERE message_id = ?1 AND (delivery_id IS NULL OR delivery_id = ?2 OR ?2 IS NULL)
      ORDER BY id LIMIT ?3"
);

/// The events of a message, oldest first; with a delivery, only its events and those of the whole message.
pub(super) fn of_message(
    connection: &Connection,
    message: MessageId,
    delivery: Option<DeliveryId>,
    limit: usize,
) -> Result<Page<Event>> {
    let mut statement = connection.prepare_cached(OF_MESSAGE)?;
    let rows = statement.query(params![message, delivery, sql_limit(limit.saturating_add(1))])?;
    read_rows(rows, limit, read_row)
}
