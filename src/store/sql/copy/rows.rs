//! Rows of a copy: read in pages, written, and compared by a digest.

use sha2::{Digest as _, Sha256};

use super::body_row::BODIES;
use super::place::StorePlace;
use super::tables::{Fixed, Table};
use super::{Result, StoreCopyError};
use crate::store::database::{self, Connection, ToSql, Value, ValueRef, params_from_iter};

/// Limits of a page, which is written in one transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageSize {
    rows: usize,
    octets: u64,
}

impl Default for PageSize {
    fn default() -> Self {
        Self { rows: 10_000, octets: 16 * 1024 * 1024 }
    }
}

/// Rows of a table whose size is not known before they are read. The largest have 64 KiB.
const BLIND_ROWS_MAX: usize = 1_000;

/// The values of the primary key of a row.
pub(super) type Key = Vec<Value>;

/// Rows in the order of their keys; each has its values in the order of the columns.
#[derive(Default)]
pub(super) struct Page {
    pub(super) rows: Vec<Vec<Value>>,
    pub(super) octets: u64,
}

impl Page {
    /// The key of the last row; of a table without a key an empty one.
    pub(super) fn last_key(&self, table: &Table) -> Option<Key> {
        let last = self.rows.last()?;
        let values = table.key.iter().filter_map(|column| Some(last[table.position(column)?].clone()));
        Some(values.collect())
    }
}

/// The rows of a table, each with a digest, in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Digest {
    pub(super) rows: u64,
    /// The digests of all rows, combined by exclusive or.
    sum: [u8; 32],
}

impl Digest {
    fn add(&mut self, row: &[Value]) {
        let mut hash = Sha256::new();
        for value in row {
            add_value(&mut hash, value);
        }
        self.rows += 1;
        for (sum, octet) in self.sum.iter_mut().zip(hash.finalize()) {
            *sum ^= octet;
        }
    }
}

/// PostgreSQL has no NUL in a text, so a copy there has U+FFFD in its place.
fn add_value(hash: &mut Sha256, value: &Value) {
    let mut add = |kind: u8, octets: &[u8]| {
        hash.update([kind]);
        hash.update((octets.len() as u64).to_be_bytes());
        hash.update(octets);
    };
    match value {
        Value::Null => add(0, &[]),
        Value::Integer(number) => add(1, &number.to_be_bytes()),
        Value::Real(number) => add(2, &number.to_be_bytes()),
        Value::Text(text) => add(3, text.replace('\0', "\u{fffd}").as_bytes()),
        Value::Blob(octets) => add(4, octets),
    }
}

/// Reads a whole table of a store. Calls `report` after each page, with all rows until there and the octets of the page.
pub(super) fn digest(
    place: &StorePlace,
    table: &Table,
    mut report: impl FnMut(u64, u64) -> Result<()>,
) -> Result<Digest> {
    let mut digest = Digest::default();
    let mut after = None;
    loop {
        let page = read_page(place, table, &after, PageSize::default())?;
        page.rows.iter().for_each(|row| digest.add(row));
        let Some(last) = page.last_key(table) else { return Ok(digest) };
        report(digest.rows, page.octets)?;
        if table.key.is_empty() {
            return Ok(digest);
        }
        after = Some(last);
    }
}

/// The key of the last row of a table.
pub(super) fn last_key(connection: &Connection, table: &Table) -> database::Result<Option<Key>> {
    let descending: Vec<_> = table.key.iter().map(|column| format!("{} DESC", quoted(column))).collect();
    let sql = format!(
        "SELECT {} FROM {} ORDER BY {} LIMIT 1",
        listed(&table.key),
        quoted(&table.name),
        descending.join(", ")
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([])?;
    rows.next()?
        .map(|row| (0..table.key.len()).map(|column| value(row.get_ref(column)?)).collect())
        .transpose()
}

/// Reads the rows after a key. Bodies come with their octets, wherever those are stored.
pub(super) fn read_page(
    place: &StorePlace,
    table: &Table,
    after: &Option<Key>,
    size: PageSize,
) -> Result<Page> {
    let failed = |error| place.failed(error);
    let is_body = table.name == BODIES;
    let limit = match is_body {
        true => bodies_of_page(&place.connection, after, size).map_err(failed)?,
        false => size.rows.min(BLIND_ROWS_MAX),
    };
    let sql = format!("SELECT {} FROM {}", listed(&table.columns), quoted(&table.name));
    let mut page = Page::default();
    let mut read = |row: Vec<Value>| -> Result<bool> {
        let row = if is_body { place.with_octets(table, row)? } else { row };
        page.octets += row.iter().map(octets).sum::<u64>();
        page.rows.push(row);
        Ok(page.octets < size.octets)
    };
    each_row(&place.connection, &paged(&sql, table, after, limit), after, failed, &mut read)?;
    Ok(page)
}

/// Calls a function with each row until it returns false.
fn each_row(
    connection: &Connection,
    sql: &str,
    after: &Option<Key>,
    failed: impl Fn(database::DatabaseError) -> StoreCopyError,
    read: &mut dyn FnMut(Vec<Value>) -> Result<bool>,
) -> Result<()> {
    let mut statement = connection.prepare_cached(sql).map_err(&failed)?;
    let key: Vec<&dyn ToSql> = after.iter().flatten().map(|value| value as &dyn ToSql).collect();
    let mut rows = statement.query(&key[..]).map_err(&failed)?;
    while let Some(row) = rows.next().map_err(&failed)? {
        let values = (0..row.column_count()).map(|column| value(row.get_ref(column)?));
        let values = values.collect::<database::Result<Vec<_>>>().map_err(&failed)?;
        if !read(values)? {
            break;
        }
    }
    Ok(())
}

/// How many bodies a page has: their sizes are known before they are read.
fn bodies_of_page(connection: &Connection, after: &Option<Key>, size: PageSize) -> database::Result<usize> {
    // The size of old bodies is not known.
    let unknown = size.octets;
    let sql = match after {
        Some(_) => format!(
            "SELECT coalesce(octets, {unknown}) FROM body WHERE message_id > ?1 ORDER BY message_id LIMIT {}",
            size.rows
        ),
        None => {
            format!("SELECT coalesce(octets, {unknown}) FROM body ORDER BY message_id LIMIT {}", size.rows)
        }
    };
    let mut statement = connection.prepare_cached(&sql)?;
    let key: Vec<&dyn ToSql> = after.iter().flatten().map(|value| value as &dyn ToSql).collect();
    let mut rows = statement.query(&key[..])?;
    let (mut count, mut total) = (0, 0);
    while total < size.octets
        && let Some(row) = rows.next()?
    {
        total += row.get::<_, i64>(0)?.unsigned_abs();
        count += 1;
    }
    Ok(count.max(1))
}

/// Adds the condition and the order of a page to a query.
fn paged(select: &str, table: &Table, after: &Option<Key>, limit: usize) -> String {
    if table.key.is_empty() {
        return select.to_owned();
    }
    let key = listed(&table.key);
    let parameters: Vec<_> = (1..=table.key.len()).map(|number| format!("?{number}")).collect();
    let condition = match after {
        Some(_) => format!(" WHERE ({key}) > ({})", parameters.join(", ")),
        None => String::new(),
    };
    format!("{select}{condition} ORDER BY {key} LIMIT {limit}")
}

/// Writes rows in one transaction, behind so many others.
pub(super) fn insert(place: &StorePlace, table: &Table, page: Page, rows_before: u64) -> Result<()> {
    let fixed = table.fixed.iter().map(|(column, _)| column);
    let columns: Vec<_> = table.columns.iter().chain(fixed).cloned().collect();
    let parameters: Vec<_> = (1..=columns.len()).map(|number| format!("?{number}")).collect();
    let sql = format!(
        "INSERT INTO {} ({}) VALUES ({})",
        quoted(&place.stored_name(table)),
        listed(&columns),
        parameters.join(", ")
    );
    let failed = |error| place.failed(error);
    let transaction = place.connection.transaction().map_err(failed)?;
    {
        let mut statement = transaction.prepare_cached(&sql).map_err(failed)?;
        for (number, row) in (rows_before + 1..).zip(page.rows) {
            let mut row = if table.name == BODIES { place.place_octets(table, row)? } else { row };
            row.extend(table.fixed.iter().map(|(_, fixed)| match fixed {
                Fixed::Number(number) => Value::Integer(*number),
                Fixed::RowNumber => Value::Integer(i64::try_from(number).unwrap_or(i64::MAX)),
            }));
            statement.post(params_from_iter(row)).map_err(failed)?;
        }
    }
    transaction.commit().map_err(failed)
}

/// The octets of a value, about.
fn octets(value: &Value) -> u64 {
    match value {
        Value::Text(text) => text.len() as u64,
        Value::Blob(octets) => octets.len() as u64,
        Value::Null | Value::Integer(_) | Value::Real(_) => 8,
    }
}

fn value(stored: ValueRef<'_>) -> database::Result<Value> {
    Ok(Value::try_from(stored)?)
}

fn listed(columns: &[String]) -> String {
    columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ")
}

/// A name as SQL reads it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}
