//! Keyset pagination: ids sort by creation, so a cursor is an id.

use ulid::Ulid;

use super::sql_types::us;
use crate::mail::Timestamp;
use crate::model::TenantId;
use crate::store::database::{
    self, Connection, DatabaseError, Row, Rows, ToSql, ToSqlOutput, Value, ValueRef, params_from_iter,
};
use crate::store::{PAGE_OBJECTS_MAX, PAGE_OCTETS_MAX, Page, PageRequest, Result, StoreError};

/// An id in the millisecond of `time`; ids of earlier milliseconds sort before it.
pub(super) fn ulid_at(time: Timestamp, rest: u128) -> Ulid {
    Ulid::from_parts(u64::try_from(time.as_millisecond()).unwrap_or(0), rest)
}

/// The range of a page: ids between two exclusive bounds.
pub(super) struct Range {
    pub(super) low: String,
    pub(super) high: String,
    /// Ascending from the cursor; the rows are reversed afterwards.
    pub(super) is_upwards: bool,
}

impl Range {
    pub(super) fn of(id_prefix: &str, page: &PageRequest) -> Self {
        let id = |number| format!("{id_prefix}{}", Ulid::from(number));
        let before_time = |time| id(u128::from(ulid_at(time, 0)).saturating_sub(1));
        let after_time = |time| id(u128::from(ulid_at(time, u128::MAX)).saturating_add(1));
        let highest = page.created_before.map(after_time);
        let highest = [page.after.clone(), highest].into_iter().flatten().min();
        Self {
            low: page.before.clone().max(page.created_after.map(before_time)).unwrap_or_default(),
            high: highest.unwrap_or_else(|| id(u128::MAX)),
            is_upwards: page.before.is_some() && page.after.is_none(),
        }
    }

    pub(super) fn order(&self) -> &'static str {
        if self.is_upwards { "ASC" } else { "DESC" }
    }
}

/// Counts the octets of the rows of a page, which is built in memory.
#[derive(Default)]
pub(super) struct PageOctets(usize);

impl PageOctets {
    /// Whether another row fits; the first one always does.
    pub(super) fn take(&mut self, row: &Row<'_>) -> database::Result<bool> {
        let is_first = self.0 == 0;
        for column in 0..row.column_count() {
            self.0 += match row.get_ref(column)? {
                ValueRef::Text(octets) | ValueRef::Blob(octets) => octets.len(),
                ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => size_of::<i64>(),
            };
        }
        Ok(is_first || self.0 <= PAGE_OCTETS_MAX)
    }
}

/// Reads rows in order up to `limit` rows or the maximum of octets.
pub(super) fn read_rows<T>(
    mut rows: Rows<'_>,
    limit: usize,
    mut read_row: impl FnMut(&Row<'_>) -> database::Result<T>,
) -> Result<Page<T>> {
    let mut page = Page { items: Vec::new(), has_more: false };
    let mut octets = PageOctets::default();
    while let Some(row) = rows.next()? {
        if page.items.len() == limit || !octets.take(&row)? {
            page.has_more = true;
            break;
        }
        page.items.push(read_row(&row)?);
    }
    Ok(page)
}

/// A query of a list: table, columns and conditions.
pub(super) struct List {
    table: &'static str,
    columns: &'static str,
    id_prefix: &'static str,
    conditions: Vec<String>,
    parameters: Vec<Value>,
}

impl List {
    pub(super) fn of(table: &'static str, id_prefix: &'static str) -> Self {
        Self { table, columns: "*", id_prefix, conditions: Vec::new(), parameters: Vec::new() }
    }

    /// Selects these columns.
    pub(super) fn columns(self, columns: &'static str) -> Self {
        Self { columns, ..self }
    }

    /// Selects rows that meet a condition, in which `?` is the value.
    pub(super) fn only(&mut self, condition: &str, value: &dyn ToSql) -> Result<()> {
        let place = self.bind(value)?;
        self.conditions.push(condition.replace('?', &place));
        Ok(())
    }

    /// Adds a parameter and returns its index.
    fn bind(&mut self, value: &dyn ToSql) -> Result<String> {
        let value = match value.to_sql().map_err(DatabaseError::from)? {
            ToSqlOutput::Owned(value) => value,
            ToSqlOutput::Borrowed(value) => Value::try_from(value).map_err(DatabaseError::from)?,
            _ => return Err(StoreError::Failed("a value of a filter has no plain form".into())),
        };
        self.parameters.push(value);
        Ok(format!("?{}", self.parameters.len()))
    }

    /// Selects rows that meet a condition, if there is a value.
    pub(super) fn only_if<T: ToSql>(&mut self, condition: &str, value: &Option<T>) -> Result<()> {
        value.as_ref().map_or(Ok(()), |value| self.only(condition, value))
    }

    /// Selects rows of a tenant, or those of the platform, which have none.
    pub(super) fn only_owned_by(&mut self, tenant: Option<TenantId>, of_platform: bool) -> Result<()> {
        if of_platform {
            self.conditions.push("tenant_id IS NULL".into());
        }
        self.only_if("tenant_id = ?", &tenant)
    }

    /// Reads one page.
    pub(super) fn read<T>(
        mut self,
        connection: &Connection,
        page: &PageRequest,
        read_row: impl FnMut(&Row<'_>) -> database::Result<T>,
    ) -> Result<Page<T>> {
        let range = Range::of(self.id_prefix, page);
        self.only("id > ?", &range.low)?;
        self.only("id < ?", &range.high)?;
        // Ids contain milliseconds only.
        self.only_if("created_us >= ?", &page.created_after.map(us))?;
        self.only_if("created_us < ?", &page.created_before.map(us))?;
        let limit = page.limit.clamp(1, PAGE_OBJECTS_MAX);
        let sql = self.sql(range.order(), limit + 1);
        let mut statement = connection.prepare_cached(&sql)?;
        let mut page = read_rows(statement.query(params_from_iter(self.parameters))?, limit, read_row)?;
        if range.is_upwards {
            page.items.reverse();
        }
        Ok(page)
    }

    fn sql(&self, order: &str, limit: usize) -> String {
        let conditions =
            if self.conditions.is_empty() { "TRUE".into() } else { self.conditions.join(" AND ") };
        let Self { columns, table, .. } = self;
        format!("SELECT {columns} FROM {table} WHERE {conditions} ORDER BY id {order} LIMIT {limit}")
    }
}
