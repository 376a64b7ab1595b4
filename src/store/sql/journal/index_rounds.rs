//! The search index follows the journal in the order of commits, so it misses nothing. Its position is written in the same
//! transaction as the index.

use std::collections::HashMap;

use super::commit_order;
use super::index::{self, Entry};
use crate::mail::Address;
use crate::model::{EventKind, MessageId};
use crate::store::database::{self, Connection, Engine, OptionalExtension, params};
use crate::store::sql::duties::try_begin;
use crate::store::sql::sql_types::sql_limit;
use crate::store::sql::unit_of_work::Tx;
use crate::store::sql::{delivery_rows, events, message_rows};
use crate::store::{Duty, JournalCursor, Message, Result};

/// Maximum of events in one round, because the job that indexes them delays other commits.
const ROUND_EVENTS_MAX: usize = 500;
/// A round ends after this many facets; one message may have a thousand recipients.
const ROUND_FACETS_MAX: usize = 5_000;
/// Events whose messages are read at once from PostgreSQL.
const PART_EVENTS: usize = 50;

/// Messages to index in one round.
pub(super) struct News {
    /// The position of the index when they were read.
    after: Option<JournalCursor>,
    /// The position after the last read event.
    cursor: JournalCursor,
    entries: Vec<Entry>,
    /// Whether there may be more.
    pub(super) truncated: bool,
}

impl News {
    /// About how many octets the index gets.
    pub(super) fn octets(&self) -> usize {
        let octets =
            |entry: &Entry| entry.subject.len() + entry.facets.iter().map(String::len).sum::<usize>();
        self.entries.iter().map(octets).sum()
    }
}

/// An event, as far as the index needs it.
pub(super) struct IndexedEvent {
    /// The position after it.
    pub(super) cursor: JournalCursor,
    pub(super) kind: EventKind,
    pub(super) message_id: Option<MessageId>,
}

/// Reads what was accepted after the position of the index, up to the end of the journal.
pub(super) fn read_news(connection: &Connection, end: JournalCursor) -> Result<Option<News>> {
    let progress = "SELECT cursor FROM search_progress WHERE id = 1";
    let after: Option<JournalCursor> =
        connection.prepare_cached(progress)?.query_row([], |row| row.get(0)).optional()?;
    let begin = after.unwrap_or(JournalCursor::from_bits(0));
    let (events, part_events) = match connection.engine() {
        Engine::Sqlite => (next_events(connection, begin)?, 1),
        Engine::Postgres => {
            (commit_order::next_to_index(connection, begin, end, ROUND_EVENTS_MAX)?, PART_EVENTS)
        }
    };
    let (mut cursor, mut facets_count) = (begin, 0);
    let mut entries = Vec::new();
    for part in events.chunks(part_events) {
        let Some(last) = part.last().filter(|_| facets_count < ROUND_FACETS_MAX) else { break };
        for (message, recipients) in accepted_messages(connection, part, cursor)? {
            let entry = Entry::new(message, &recipients);
            facets_count += entry.facets.len();
            entries.push(entry);
        }
        cursor = last.cursor;
    }
    // The index writes segments in the order of places.
    entries.sort_unstable_by_key(|entry| entry.id);
    let truncated = events.len() == ROUND_EVENTS_MAX || facets_count >= ROUND_FACETS_MAX;
    Ok((!events.is_empty()).then_some(News { after, cursor, entries, truncated }))
}

/// The next events on SQLite.
fn next_events(connection: &Connection, after: JournalCursor) -> Result<Vec<IndexedEvent>> {
    let sql = "SELECT id, kind, message_id FROM event WHERE id > ?1 ORDER BY id LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let rows =
        statement.query_map(params![events::last_before(after), sql_limit(ROUND_EVENTS_MAX)], |row| {
            let cursor = events::cursor_after(row.get(0)?);
            Ok(IndexedEvent { cursor, kind: row.get(1)?, message_id: row.get(2)? })
        })?;
    Ok(rows.collect::<database::Result<_>>()?)
}

/// The messages whose acceptance is among adjacent events, with their recipients.
fn accepted_messages(
    connection: &Connection,
    events: &[IndexedEvent],
    after: JournalCursor,
) -> Result<Vec<(Message, Vec<Address>)>> {
    let mut ids = events.iter().filter(|event| event.kind == EventKind::MessageAccepted).peekable();
    let Some(last) = events.last().filter(|_| ids.peek().is_some()) else { return Ok(Vec::new()) };
    if connection.engine() == Engine::Postgres {
        let messages = commit_order::accepted_messages(connection, after, last.cursor)?;
        let mut recipients: HashMap<_, Vec<_>> = HashMap::new();
        for (id, recipient) in commit_order::accepted_recipients(connection, after, last.cursor)? {
            recipients.entry(id).or_default().push(recipient);
        }
        let with_recipients = |message: Message| {
            let recipients = recipients.remove(&message.id).unwrap_or_default();
            (message, recipients)
        };
        return Ok(messages.into_iter().map(with_recipients).collect());
    }
    let mut accepted = Vec::new();
    for id in ids.filter_map(|event| event.message_id) {
        if let Some(message) = message_rows::find(connection, id)? {
            accepted.push((message, delivery_rows::recipients(connection, id, usize::MAX)?));
        }
    }
    Ok(accepted)
}

/// Indexes messages. False if somebody else has indexed them, or is indexing.
pub(super) fn write(tx: &Tx<'_>, news: &News) -> Result<bool> {
    if !try_begin(tx, Duty::SearchIndex)? || !advance(tx, news)? {
        return Ok(false);
    }
    for entry in &news.entries {
        index::put(tx, entry)?;
    }
    Ok(true)
}

/// Moves the position of the index. False if it is not where it was when the news were read.
fn advance(tx: &Tx<'_>, news: &News) -> Result<bool> {
    let moved = match news.after {
        Some(after) => tx
            .prepare_cached("UPDATE search_progress SET cursor = ?1 WHERE id = 1 AND cursor = ?2")?
            .execute([news.cursor, after])?,
        None => tx
            .prepare_cached(
                "INSERT INTO search_progress (id, cursor) VALUES (1, ?1) ON CONFLICT (id) DO NOTHING",
            )?
            .execute([news.cursor])?,
    };
    Ok(moved == 1)
}
