//! The order of events on PostgreSQL. Several processes and connections commit at once, so neither ids nor transaction ids
//! come in the order in which events become visible. Events are ordered by the id of their transaction, and a reader stops
//! before the first transaction that is in progress: what commits later is behind everything that was read.

use super::index_rounds::IndexedEvent;
use crate::mail::{Address, SignedDuration};
use crate::model::{EventId, MessageId};
use crate::store::database::{self, Connection, OptionalExtension, Row, params};
use crate::store::sql::bounds::Bounds;
use crate::store::sql::events::{self, context_columns};
use crate::store::sql::keyset::{PageOctets, read_rows, ulid_at};
use crate::store::sql::message_rows;
use crate::store::sql::slices::{ReadSlice, SliceEnd, Sliced};
use crate::store::sql::sql_types::sql_limit;
use crate::store::{
    CommitPosition, EventFilter, JournalCursor, JournalEntry, Message, PAGE_OBJECTS_MAX, Page, Result,
};

/// A transaction is committed within this time of the ids of its events, with the differences of clocks.
const COMMIT_TIME_MAX: SignedDuration = SignedDuration::from_mins(10);
/// Events after an unknown one that are examined to find its position.
const NEIGHBOURS_MAX: usize = 1_000;

/// The first transaction that is in progress in a session of ours, or that will begin. The snapshot of the statement is
/// older than its look at the sessions, so a transaction that has no session any more is visible to the next statement. The
/// sessions of others are left out: they append no events, and may last for hours. Sessions have the lower 32 bits of ids.
const HORIZON: &str = "
    SELECT o.added + least(s.next, (
        SELECT min(s.next - ((s.next - CAST(CAST(a.backend_xid AS TEXT) AS BIGINT) + 6442450944) % 4294967296 - 2147483648))
        FROM pg_stat_activity a
        WHERE a.application_name LIKE 'pillarbox%' AND a.datname = current_database() AND a.backend_xid IS NOT NULL))
    FROM transaction_offset o,
         (SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT) AS next) s";

/// The position up to which the journal is complete. Not in a transaction, whose statements would have one snapshot.
pub(in crate::store::sql) fn end(connection: &Connection) -> Result<JournalCursor> {
    let horizon: i64 = connection.query_row(HORIZON, [], |row| row.get(0))?;
    let sql = "SELECT transaction_id, number FROM event WHERE transaction_id < ?1
               ORDER BY transaction_id DESC, number DESC LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    let last = statement.query_row([horizon], position).optional()?;
    Ok(last.unwrap_or_default().into())
}

/// Continues the order in a database that was restored where transactions have lower ids than those of its events.
pub(in crate::store::sql) fn continue_after_restore(connection: &Connection) -> Result<()> {
    let transaction = connection.transaction()?;
    let newest: Option<i64> =
        transaction.query_row("SELECT max(transaction_id) FROM event", [], |row| row.get(0))?;
    let indexed: Option<JournalCursor> = transaction
        .query_row("SELECT cursor FROM search_progress WHERE id = 1", [], |row| row.get(0))
        .optional()?;
    let indexed = indexed.and_then(JournalCursor::commit_position).unwrap_or_default();
    let sql = "SELECT added, CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) FROM transaction_offset";
    let (added, own): (i64, i64) = transaction.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let newest = newest.unwrap_or(0).max(indexed.transaction);
    if newest >= own + added {
        let added = newest + 1 - own;
        transaction.execute("UPDATE transaction_offset SET added = ?1", [added])?;
        transaction.execute_batch(&format!(
            "ALTER TABLE event ALTER COLUMN transaction_id
             SET DEFAULT CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) + {added}"
        ))?;
    }
    Ok(transaction.commit()?)
}

fn position(row: &Row<'_>) -> database::Result<CommitPosition> {
    Ok(CommitPosition { transaction: row.get("transaction_id")?, number: row.get("number")? })
}

/// The position after an event. For one that is gone, or that was imported, it is before all that were committed after it.
fn position_after(connection: &Connection, event: EventId) -> Result<CommitPosition> {
    let sql = "SELECT transaction_id, number FROM event WHERE id = ?1 AND transaction_id > 0";
    let found = connection.prepare_cached(sql)?.query_row([event], position).optional()?;
    if let Some(found) = found {
        return Ok(found);
    }
    let earliest = event.created_at().checked_sub(COMMIT_TIME_MAX).unwrap_or_default();
    let sql = "SELECT min(transaction_id) FROM
                   (SELECT transaction_id FROM event WHERE id >= ?1 AND transaction_id > 0 ORDER BY id LIMIT ?2) AS later";
    let parameters = params![EventId::from(ulid_at(earliest, 0)), sql_limit(NEIGHBOURS_MAX)];
    let first: Option<i64> = connection.prepare_cached(sql)?.query_row(parameters, |row| row.get(0))?;
    Ok(CommitPosition { transaction: first.unwrap_or(i64::MAX), number: 0 })
}

/// The cursor after an event, up to which the journal is complete.
pub(super) fn cursor_after(
    connection: &Connection,
    event: EventId,
    until: JournalCursor,
) -> Result<JournalCursor> {
    Ok(JournalCursor::from(position_after(connection, event)?).min(until))
}

/// A part of the journal: what is after a position, as far as the journal is complete.
#[derive(Clone, Copy)]
struct Span {
    /// Exclusive.
    after: CommitPosition,
    /// Inclusive.
    until: CommitPosition,
}

impl Span {
    /// A cursor of another engine is the id of an event.
    fn new(connection: &Connection, after: JournalCursor, until: JournalCursor) -> Result<Self> {
        let until = until.commit_position().unwrap_or_default();
        let after = match after.commit_position() {
            Some(after) => after,
            // Also if nothing is known of the event, what comes next is read.
            None => position_after(connection, events::last_before(after))?.min(until),
        };
        Ok(Self { after, until })
    }
}

/// At most `limit` events between two positions, oldest first.
pub(super) fn events_after(
    connection: &Connection,
    after: JournalCursor,
    until: JournalCursor,
    limit: usize,
) -> Result<Page<JournalEntry>> {
    let Span { after, until } = Span::new(connection, after, until)?;
    let sql = concat!(
        "SELECT event.*, ",
        context_columns!("TRUE"),
        " FROM event WHERE (transaction_id, number) > (?1, ?2) AND (transaction_id, number) <= (?3, ?4)
         ORDER BY transaction_id, number LIMIT ?5"
    );
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query(params![
        after.transaction,
        after.number,
        until.transaction,
        until.number,
        sql_limit(limit.saturating_add(1))
    ])?;
    read_rows(rows, limit, read_entry)
}

fn read_entry(row: &Row<'_>) -> database::Result<JournalEntry> {
    Ok(JournalEntry { cursor: position(row)?.into(), event: events::read_event(row, "id")? })
}

/// The next events between two positions for the search index.
pub(super) fn next_to_index(
    connection: &Connection,
    after: JournalCursor,
    until: JournalCursor,
    limit: usize,
) -> Result<Vec<IndexedEvent>> {
    let sql = "SELECT transaction_id, number, kind, message_id FROM event
               WHERE (transaction_id, number) > (?1, ?2) AND (transaction_id, number) <= (?3, ?4)
               ORDER BY transaction_id, number LIMIT ?5";
    let Span { after, until } = Span::new(connection, after, until)?;
    let mut statement = connection.prepare_cached(sql)?;
    let parameters =
        params![after.transaction, after.number, until.transaction, until.number, sql_limit(limit)];
    let rows = statement.query_map(parameters, |row| {
        let (kind, message_id) = (row.get("kind")?, row.get("message_id")?);
        Ok(IndexedEvent { cursor: position(row)?.into(), kind, message_id })
    })?;
    Ok(rows.collect::<database::Result<_>>()?)
}

/// The messages that were accepted between two positions.
pub(super) fn accepted_messages(
    connection: &Connection,
    after: JournalCursor,
    until: JournalCursor,
) -> Result<Vec<Message>> {
    let sql = "SELECT message.* FROM event JOIN message ON message.id = event.message_id
               WHERE event.kind = 'message.accepted'
                 AND (transaction_id, number) > (?1, ?2) AND (transaction_id, number) <= (?3, ?4)";
    let mut statement = connection.prepare_cached(sql)?;
    let Span { after, until } = Span::new(connection, after, until)?;
    let parameters = params![after.transaction, after.number, until.transaction, until.number];
    let rows = statement.query_map(parameters, message_rows::read_row)?;
    Ok(rows.collect::<database::Result<_>>()?)
}

/// Their recipients, those of a message in their order.
pub(super) fn accepted_recipients(
    connection: &Connection,
    after: JournalCursor,
    until: JournalCursor,
) -> Result<Vec<(MessageId, Address)>> {
    let sql = "SELECT delivery.message_id, delivery.recipient
               FROM event JOIN delivery ON delivery.message_id = event.message_id
               WHERE event.kind = 'message.accepted'
                 AND (transaction_id, number) > (?1, ?2) AND (transaction_id, number) <= (?3, ?4)
               ORDER BY delivery.message_id, delivery.position";
    let mut statement = connection.prepare_cached(sql)?;
    let Span { after, until } = Span::new(connection, after, until)?;
    let parameters = params![after.transaction, after.number, until.transaction, until.number];
    let rows = statement.query_map(parameters, |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<database::Result<_>>()?)
}

/// The events of a part that a filter takes, oldest first, which are being read.
pub(super) struct FilteredEvents {
    filter: EventFilter,
    after: JournalCursor,
    until: JournalCursor,
    items: Vec<JournalEntry>,
    octets: PageOctets,
    examined: usize,
    bounds: Bounds,
}

impl FilteredEvents {
    pub(super) fn new(
        filter: EventFilter,
        after: JournalCursor,
        until: JournalCursor,
        bounds: Bounds,
    ) -> Self {
        Self { filter, after, until, items: Vec::new(), octets: PageOctets::default(), examined: 0, bounds }
    }
}

impl Sliced for FilteredEvents {
    /// The events, and where to continue, unless the part ends.
    type Page = (Vec<JournalEntry>, Option<JournalCursor>);

    fn read_slice(mut self, connection: &Connection) -> Result<ReadSlice<Self>> {
        let Span { after, until } = Span::new(connection, self.after, self.until)?;
        let EventFilter { environment, kind, message_id, .. } = &self.filter;
        let of_message = if message_id.is_some() { "message_id = ?7" } else { "CAST(?7 AS TEXT) IS NULL" };
        let sql = format!(
            "SELECT event.*, {} FROM (
                SELECT event.*, (coalesce(tenant_id, '') = ?5 OR ?5 IS NULL) AND (kind = ?6 OR ?6 IS NULL)
                    AND (environment IS NULL OR environment = ?8 OR ?8 IS NULL) AS is_meant
                FROM event WHERE {of_message}
                    AND (transaction_id, number) > (?1, ?2) AND (transaction_id, number) <= (?3, ?4)
                ORDER BY transaction_id, number LIMIT {}) AS event
             ORDER BY transaction_id, number",
            context_columns!("is_meant"),
            self.bounds.slice_rows_max
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![
            after.transaction,
            after.number,
            until.transaction,
            until.number,
            events::owner(&self.filter),
            kind,
            message_id,
            environment
        ])?;
        let (mut end, mut rows_read) = (SliceEnd::new(&self.bounds), 0);
        while let Some(row) = rows.next()? {
            if end.is_reached() {
                return Ok(ReadSlice::Rest(self));
            }
            let is_meant = row.get("is_meant")?;
            if self.examined >= self.bounds.page_events_examined_max
                || is_meant && (self.items.len() == PAGE_OBJECTS_MAX || !self.octets.take(&row)?)
            {
                return Ok(ReadSlice::Complete((self.items, Some(self.after))));
            }
            (rows_read, self.examined) = (rows_read + 1, self.examined + 1);
            self.after = position(&row)?.into();
            if is_meant {
                self.items.push(read_entry(&row)?);
            }
        }
        if rows_read == self.bounds.slice_rows_max {
            return Ok(ReadSlice::Rest(self));
        }
        Ok(ReadSlice::Complete((self.items, None)))
    }
}
