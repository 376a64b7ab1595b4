//! Lists by keyset: ids sort by creation, so a cursor is an id.

use rusqlite::types::{ToSql, ToSqlOutput, Value};
use rusqlite::{Connection, Row, params_from_iter};
use ulid::Ulid;

use super::sql_types::us;
use crate::mail::Timestamp;
use crate::store::{Page, PageRequest, Result, StoreError};

pub(super) const PAGE_OBJECTS_MAX: usize = 100;

/// An id made in the millisecond of `time`; one of an earlier one sorts before it, whatever the rest.
pub(super) fn ulid_at(time: Timestamp, rest: u128) -> Ulid {
    Ulid::from_parts(u64::try_from(time.as_millisecond()).unwrap_or(0), rest)
}

/// The part of a list that a page may come from: ids between two, neither included.
pub(super) struct Range {
    pub(super) low: String,
    pub(super) high: String,
    /// "The page next to it": going up from the cursor, then turned around.
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

/// A list to be read: a table, whose columns are all wanted, and which of its rows.
pub(super) struct List {
    table: &'static str,
    id_prefix: &'static str,
    conditions: Vec<String>,
    parameters: Vec<Value>,
}

impl List {
    pub(super) fn of(table: &'static str, id_prefix: &'static str) -> Self {
        Self { table, id_prefix, conditions: Vec::new(), parameters: Vec::new() }
    }

    /// Only rows for which `condition` holds, `?` standing for the value.
    pub(super) fn only(&mut self, condition: &str, value: &dyn ToSql) -> Result<()> {
        let place = self.bind(value)?;
        self.conditions.push(condition.replace('?', &place));
        Ok(())
    }

    /// Where the value stands among the parameters.
    fn bind(&mut self, value: &dyn ToSql) -> Result<String> {
        let value = match value.to_sql()? {
            ToSqlOutput::Owned(value) => value,
            ToSqlOutput::Borrowed(value) => Value::try_from(value).map_err(rusqlite::Error::from)?,
            _ => return Err(StoreError::Failed("a value of a filter has no plain form".into())),
        };
        self.parameters.push(value);
        Ok(format!("?{}", self.parameters.len()))
    }

    /// Only rows for which `condition` holds if there is a value.
    pub(super) fn only_if<T: ToSql>(&mut self, condition: &str, value: &Option<T>) -> Result<()> {
        value.as_ref().map_or(Ok(()), |value| self.only(condition, value))
    }

    /// Reads one page.
    pub(super) fn read<T>(
        mut self,
        connection: &Connection,
        page: &PageRequest,
        read_row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Page<T>> {
        let range = Range::of(self.id_prefix, page);
        self.only("id > ?", &range.low)?;
        self.only("id < ?", &range.high)?;
        // The ids hold the millisecond only.
        self.only_if("created_us >= ?", &page.created_after.map(us))?;
        self.only_if("created_us < ?", &page.created_before.map(us))?;
        let limit = page.limit.clamp(1, PAGE_OBJECTS_MAX);
        let sql = self.sql(range.order(), limit + 1);
        let mut statement = connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params_from_iter(self.parameters), read_row)?;
        let mut items = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let has_more = items.len() > limit;
        items.truncate(limit);
        if range.is_upwards {
            items.reverse();
        }
        Ok(Page { items, has_more })
    }

    fn sql(&self, order: &str, limit: usize) -> String {
        let conditions =
            if self.conditions.is_empty() { "TRUE".into() } else { self.conditions.join(" AND ") };
        format!("SELECT * FROM {} WHERE {conditions} ORDER BY id {order} LIMIT {limit}", self.table)
    }
}
