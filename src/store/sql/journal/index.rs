//! The full-text index of messages: senders, recipients, tags, words of subjects.
//!
//! It follows the journal, see `index_rounds`.

use std::collections::BTreeSet;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use ulid::Ulid;

use super::full_text::{self, IndexQuery, SubjectQuery};
use crate::mail::{Address, DomainName, ReversePath};
use crate::model::{Environment, KeyId, ListName, MessageId, TenantId};
use crate::store::database::{Connection, DatabaseError, Engine, OptionalExtension, params};
use crate::store::sql::unit_of_work::Tx;
use crate::store::sql::{delivery_rows, message_rows};
use crate::store::{Message, MessageFilter, Result};

/// Maximum of index pages that one job rewrites.
const MERGED_PAGES_MAX: i32 = 500;
/// The place of a message consists of the milliseconds of its id and this many of the random bits.
const PLACE_RANDOM_BITS: u32 = 12;
/// The maximal distance of a message from the place of its id: more messages than one millisecond can have.
const PLACE_SHIFT_MAX: i64 = 1 << PLACE_RANDOM_BITS;

/// What the index has of a message.
pub(super) struct Entry {
    pub(super) id: MessageId,
    pub(super) facets: Vec<String>,
    pub(super) subject: String,
}

impl Entry {
    pub(super) fn new(message: Message, recipients: &[Address]) -> Self {
        let facets = facets_of(&message, recipients);
        Self { id: message.id, facets, subject: message.subject.unwrap_or_default() }
    }
}

/// Adds a message, unless it is indexed or deleted.
pub(super) fn put(tx: &Tx<'_>, entry: &Entry) -> Result<()> {
    if tx.engine() == Engine::Postgres {
        return full_text::post(tx, entry);
    }
    let is_there = tx.prepare_cached("SELECT 1 FROM message WHERE id = ?1")?.exists([entry.id])?;
    if !is_there || place_of(tx, entry.id)?.is_some() {
        return Ok(());
    }
    let Some(place) = free_place(tx, entry.id)? else { return Ok(()) };
    let sql = "INSERT INTO search_place (place, message_id) VALUES (?1, ?2)";
    tx.prepare_cached(sql)?.execute(params![place, entry.id])?;
    full_text::insert(tx, place, entry)
}

/// Indexes a message anew, because it was changed. One that is not indexed yet is read later.
pub(in crate::store::sql) fn renew(tx: &Tx<'_>, id: MessageId) -> Result<()> {
    if !remove(tx, id)? {
        return Ok(());
    }
    add(tx, id)
}

/// Indexes a message that is not indexed. No round reads the events of an imported one that are older than its position.
pub(in crate::store::sql) fn add(tx: &Tx<'_>, id: MessageId) -> Result<()> {
    let Some(message) = message_rows::find(tx, id)? else { return Ok(()) };
    let recipients = delivery_rows::recipients(tx, id, usize::MAX)?;
    put(tx, &Entry::new(message, &recipients))
}

/// Removes a message from the index. False if it was not there.
pub(super) fn remove(tx: &Tx<'_>, id: MessageId) -> Result<bool> {
    if tx.engine() == Engine::Postgres {
        let sql = "DELETE FROM message_search WHERE message_id = ?1";
        return Ok(tx.prepare_cached(sql)?.execute([id])? > 0);
    }
    let Some(place) = place_of(tx, id)? else { return Ok(false) };
    tx.prepare_cached("DELETE FROM search_place WHERE place = ?1")?.execute([place])?;
    tx.prepare_cached("DELETE FROM message_search WHERE rowid = ?1")?.execute([place])?;
    Ok(true)
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

/// The place of an id on SQLite, unless another message has it.
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
