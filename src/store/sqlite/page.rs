//! Lists by keyset: ids sort by creation, so a cursor is an id.

use rusqlite::types::{ToSql, ToSqlOutput, Value};
use rusqlite::{Connection, Row, params_from_iter};

use super::rows::us;
use crate::mail::Timestamp;
use crate::store::{Page, PageRequest, Result, StoreError};

const PAGE_OBJECTS_MAX: usize = 100;

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

    /// The same with two values, for `?` and `??`.
    pub(super) fn only_both(&mut self, condition: &str, first: &dyn ToSql, second: &dyn ToSql) -> Result<()> {
        let (first, second) = (self.bind(first)?, self.bind(second)?);
        self.conditions.push(condition.replace("??", "\0").replace('?', &first).replace('\0', &second));
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

    fn only_made(&mut self, comparison: &str, time: Timestamp) -> Result<()> {
        self.only(&format!("created_us {comparison} ?"), &us(time))?;
        // The ids hold the millisecond, which lets the primary key find the place.
        let milliseconds = u64::try_from(time.as_millisecond()).unwrap_or(0);
        let (bound, rest) = if comparison == ">=" { (">=", 0) } else { ("<=", u128::MAX) };
        let id = format!("{}{}", self.id_prefix, ulid::Ulid::from_parts(milliseconds, rest));
        self.only(&format!("id {bound} ?"), &id)
    }

    /// Reads one page.
    pub(super) fn read<T>(
        mut self,
        connection: &Connection,
        page: &PageRequest,
        read_row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Page<T>> {
        self.only_if("id < ?", &page.after)?;
        self.only_if("id > ?", &page.before)?;
        if let Some(time) = page.created_after {
            self.only_made(">=", time)?;
        }
        if let Some(time) = page.created_before {
            self.only_made("<", time)?;
        }
        // "The page next to it": going up from the cursor, then turned around.
        let upwards = page.before.is_some() && page.after.is_none();
        let limit = page.limit.clamp(1, PAGE_OBJECTS_MAX);
        let sql = self.sql(if upwards { "ASC" } else { "DESC" }, limit + 1);
        let mut statement = connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params_from_iter(self.parameters), read_row)?;
        let mut items = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let has_more = items.len() > limit;
        items.truncate(limit);
        if upwards {
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
