//! The full-text index of messages: senders, recipients, tags, words of subjects.
//!
//! It follows the journal in the order of commits, so it misses nothing. Its position is written in the same transaction
//! as the index.

use std::collections::BTreeSet;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use ulid::Ulid;

use super::commit_order;
use super::full_text::{self, IndexQuery, SubjectQuery};
use crate::mail::{Address, DomainName, ReversePath};
use crate::model::{Environment, EventKind, KeyId, ListName, MessageId, TenantId};
use crate::store::database::{self, Connection, DatabaseError, Engine, OptionalExtension, params};
use crate::store::sql::duties::try_begin;
use crate::store::sql::sql_types::sql_limit;
use crate::store::sql::unit_of_work::Tx;
use crate::store::sql::{delivery_rows, events, message_rows};
use crate::store::{Duty, JournalCursor, Message, MessageFilter, Result};

/// Maximum of events in one round, because the job that indexes them delays other commits.
const ROUND_EVENTS_MAX: usize = 500;
/// A round ends after this many facets; one message may have a thousand recipients.
const ROUND_FACETS_MAX: usize = 5_000;
/// Maximum of index pages that one job rewrites.
const MERGED_PAGES_MAX: i32 = 500;
/// The place of a message consists of the milliseconds of its id and this many of the random bits.
const PLACE_RANDOM_BITS: u32 = 12;
/// The maximal distance of a message from the place of its id: more messages than one millisecond can have.
const PLACE_SHIFT_MAX: i64 = 1 << PLACE_RANDOM_BITS;

/// Messages to index in one round.
pub(super) struct News {
    /// The position of the index when they were read.
    after: Option<JournalCursor>,
    /// The position after the last read event.
    cursor: JournalCursor,
    messages: Vec<Entry>,
    /// Whether there may be more.
    pub(super) truncated: bool,
}

struct Entry {
    id: MessageId,
    facets: Vec<String>,
    subject: String,
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
    let events = match connection.engine() {
        Engine::Sqlite => next_events(connection, begin)?,
        Engine::Postgres => commit_order::next_to_index(connection, begin, end, ROUND_EVENTS_MAX)?,
    };
    let (mut cursor, mut facets_count) = (None, 0);
    let mut messages = Vec::new();
    for event in &events {
        if facets_count >= ROUND_FACETS_MAX {
            break;
        }
        cursor = Some(event.cursor);
        if event.kind == EventKind::MessageAccepted
            && let Some(id) = event.message_id
            && let Some(message) = message_rows::find(connection, id)?
        {
            let recipients = delivery_rows::recipients(connection, id, usize::MAX)?;
            let facets = facets_of(&message, &recipients);
            facets_count += facets.len();
            let subject = message.subject.unwrap_or_default();
            messages.push(Entry { id, facets, subject });
        }
    }
    // The index writes segments in the order of places.
    messages.sort_unstable_by_key(|entry| entry.id);
    let truncated = events.len() == ROUND_EVENTS_MAX || facets_count >= ROUND_FACETS_MAX;
    Ok(cursor.map(|cursor| News { after, cursor, messages, truncated }))
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

/// Indexes messages. False if somebody else has indexed them, or is indexing.
pub(super) fn write(tx: &Tx<'_>, news: &News) -> Result<bool> {
    if !try_begin(tx, Duty::SearchIndex)? || !advance(tx, news)? {
        return Ok(false);
    }
    let mut is_there = tx.prepare_cached("SELECT 1 FROM message WHERE id = ?1")?;
    for entry in &news.messages {
        // It may have been deleted since it was read, or be an imported one.
        if is_there.exists([entry.id])? && place_of(tx, entry.id)?.is_none() {
            put(tx, entry)?;
        }
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

fn put(tx: &Tx<'_>, Entry { id, facets, subject }: &Entry) -> Result<()> {
    let Some(place) = free_place(tx, *id)? else { return Ok(()) };
    let sql = "INSERT INTO search_place (place, message_id) VALUES (?1, ?2)";
    tx.prepare_cached(sql)?.execute(params![place, id])?;
    full_text::insert(tx, place, facets, subject)
}

/// Indexes a message anew, because it was changed. One that is not indexed yet is read later.
pub(in crate::store::sql) fn renew(tx: &Tx<'_>, id: MessageId) -> Result<()> {
    if place_of(tx, id)?.is_none() {
        return Ok(());
    }
    remove(tx, id)?;
    add(tx, id)
}

/// Indexes a message that is not indexed. No round reads the events of an imported one that are older than its position.
pub(in crate::store::sql) fn add(tx: &Tx<'_>, id: MessageId) -> Result<()> {
    let Some(message) = message_rows::find(tx, id)? else { return Ok(()) };
    let recipients = delivery_rows::recipients(tx, id, usize::MAX)?;
    let facets = facets_of(&message, &recipients);
    put(tx, &Entry { id, facets, subject: message.subject.unwrap_or_default() })
}

/// Removes a message from the index.
pub(super) fn remove(tx: &Tx<'_>, id: MessageId) -> Result<()> {
    if let Some(place) = place_of(tx, id)? {
        tx.prepare_cached("DELETE FROM search_place WHERE place = ?1")?.execute([place])?;
        tx.prepare_cached("DELETE FROM message_search WHERE rowid = ?1")?.execute([place])?;
    }
    Ok(())
}

/// Rewrites a part of the index without the words of deleted messages, as far as one job may. The first step chooses what
/// is rewritten. False if nothing is left to do.
pub(in crate::store::sql) fn rewrite(tx: &Tx<'_>, is_first: bool) -> Result<bool> {
    if tx.engine() == Engine::Postgres {
        // What is deleted goes with the next vacuum.
        return Ok(false);
    }
    let changes_before = tx.total_changes();
    let sql = "INSERT INTO message_search (message_search, rank) VALUES ('merge', ?1)";
    // https://sqlite.org/fts5.html#the_merge_command
    tx.prepare_cached(sql)?.execute([if is_first { -MERGED_PAGES_MAX } else { MERGED_PAGES_MAX }])?;
    Ok(tx.total_changes() - changes_before >= 2)
}

/// The place of an id, unless another message has it.
pub(super) fn home_of(id: MessageId) -> i64 {
    // 48 bits of milliseconds last until the year 10889; the 63 bits of a place until 3084.
    let bits = u128::from(Ulid::from(id)) >> (80 - PLACE_RANDOM_BITS);
    i64::try_from(bits).unwrap_or(i64::MAX - PLACE_SHIFT_MAX)
}

/// The place of a message.
pub(super) fn place_of(connection: &Connection, id: MessageId) -> Result<Option<i64>> {
    let sql = "SELECT place FROM search_place WHERE place >= ?1 AND place < ?2 AND message_id = ?3
               ORDER BY place LIMIT 1";
    let home = home_of(id);
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row(params![home, home + PLACE_SHIFT_MAX, id], |row| row.get(0)).optional()?)
}

/// The first free place from its home on.
fn free_place(connection: &Connection, id: MessageId) -> Result<Option<i64>> {
    let mut is_taken = connection.prepare_cached("SELECT 1 FROM search_place WHERE place = ?1")?;
    let home = home_of(id);
    for place in home..home + PLACE_SHIFT_MAX {
        if !is_taken.exists([place])? {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

fn facets_of(message: &Message, recipients: &[Address]) -> Vec<String> {
    let mut facets = vec![
        tenant_facet(message.tenant_id),
        environment_facet(message.environment),
        sender_facet(&message.reverse_path),
    ];
    facets.extend(recipients.iter().map(recipient_facet));
    let domains: BTreeSet<_> = recipients.iter().filter_map(Address::domain).collect();
    facets.extend(domains.into_iter().map(recipient_domain_facet));
    facets.extend(message.key_id.map(key_facet));
    facets.extend(message.list.as_ref().map(list_facet));
    facets.extend(message.annotations.metadata.scalars().iter().map(metadata_facet));
    facets.extend(message.header_message_id.as_deref().map(header_id_facet));
    facets.extend(message.annotations.tags.iter().map(|tag| tag_facet(tag)));
    facets
}

fn tenant_facet(tenant: TenantId) -> String {
    facet("tenant", &tenant.to_string())
}

fn environment_facet(environment: Environment) -> String {
    facet("environment", environment.as_str())
}

fn sender_facet(reverse_path: &ReversePath) -> String {
    facet("from", &reverse_path.to_string())
}

fn recipient_facet(recipient: &Address) -> String {
    facet("to", &recipient.to_string())
}

fn recipient_domain_facet(domain: &DomainName) -> String {
    facet("to-domain", domain.as_str())
}

fn key_facet(key: KeyId) -> String {
    facet("key", &key.to_string())
}

fn list_facet(list: &ListName) -> String {
    facet("list", list.as_str())
}

fn metadata_facet((key, value): &(String, String)) -> String {
    facet("metadata", &format!("{key}\0{value}"))
}

fn header_id_facet(id: &str) -> String {
    facet("message-id", id)
}

fn tag_facet(tag: &str) -> String {
    facet("tag", tag)
}

/// A word for a value with any characters: a hash. Searches also compare the value itself.
fn facet(kind: &str, value: &str) -> String {
    let digest = Sha256::new().chain_update(kind).chain_update([0]).chain_update(value).finalize();
    format!("x{}", HEXLOWER.encode(&digest[..8]))
}

/// The query of the index, if a filter has a condition for it. Tenant and environment alone are none: every tenant has them,
/// and the plain list of its messages must neither wait for the index nor lack what is not indexed yet.
pub(super) fn query(filter: &MessageFilter) -> Option<IndexQuery> {
    let mut terms: Vec<String> = filter.from.iter().map(sender_facet).collect();
    terms.extend(filter.to.iter().map(recipient_facet));
    terms.extend(filter.recipient_domain.iter().map(recipient_domain_facet));
    terms.extend(filter.key_id.map(key_facet));
    terms.extend(filter.list.as_ref().map(list_facet));
    terms.extend(filter.metadata.iter().map(metadata_facet));
    terms.extend(filter.header_message_id.as_deref().map(header_id_facet));
    terms.extend(filter.tag.as_deref().map(tag_facet));
    if terms.is_empty() && filter.subject.is_none() {
        return None;
    }
    terms.extend(filter.environment.map(environment_facet));
    terms.extend(filter.tenant_id.map(tenant_facet));
    Some(IndexQuery { facets: terms, subject: subject_query(filter) })
}

/// The part of the query for words of the subject.
fn subject_query(filter: &MessageFilter) -> Option<SubjectQuery> {
    let words = filter.subject.as_ref()?.words();
    // A prefix of one letter matches too many words to be useful.
    let letters = words.last()?.matches(char::is_alphanumeric);
    let is_beginning = letters.map(str::len).sum::<usize>() > 1;
    Some(SubjectQuery { words: words.iter().map(|word| word.to_string()).collect(), is_beginning })
}

/// Matches subjects against the words of a filter as the index does. The index itself would expand a prefix over all
/// messages to check one.
pub(super) struct SubjectMatch {
    /// Contains one subject at a time.
    table: Connection,
    expression: String,
}

impl SubjectMatch {
    pub(super) fn of(filter: &MessageFilter) -> Result<Option<Self>> {
        let Some(query) = subject_query(filter) else { return Ok(None) };
        let table = Connection::from(rusqlite::Connection::open_in_memory().map_err(DatabaseError::from)?);
        table.execute_batch(
            "CREATE VIRTUAL TABLE one USING fts5 (subject, tokenize = 'unicode61 remove_diacritics 2')",
        )?;
        Ok(Some(Self { table, expression: query.spell_fts5() }))
    }

    pub(super) fn matches(&self, subject: Option<&str>) -> Result<bool> {
        let sql = "REPLACE INTO one (rowid, subject) VALUES (1, ?1)";
        self.table.prepare_cached(sql)?.execute([subject])?;
        let sql = "SELECT 1 FROM one WHERE one MATCH ?1";
        Ok(self.table.prepare_cached(sql)?.exists([&self.expression])?)
    }
}
