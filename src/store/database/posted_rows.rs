//! Rows of posted statements, collected so that the rows of one statement are sent together.

use rusqlite::types::ValueRef;

use super::postgres_values::OwnedParameter;

/// Maximum of collected rows.
const ROWS_MAX: usize = 512;
/// Maximum of octets of collected rows; one row may be larger.
const OCTETS_MAX: usize = 4 * 1024 * 1024;

/// When a posted statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PostOrder {
    /// In the order of the first rows.
    Usual,
    /// After all others.
    Last,
}

/// The rows of one statement.
#[derive(Debug)]
pub(super) struct StatementRows {
    /// As SQLite reads it.
    pub(super) sql: String,
    pub(super) order: PostOrder,
    pub(super) rows: Vec<Vec<OwnedParameter>>,
}

impl StatementRows {
    /// Its rows as columns.
    pub(super) fn into_columns(self) -> Vec<Vec<OwnedParameter>> {
        let width = self.rows.first().map_or(0, Vec::len);
        let mut columns: Vec<_> = (0..width).map(|_| Vec::with_capacity(self.rows.len())).collect();
        for row in self.rows {
            columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
        }
        columns
    }
}

/// Rows that are not sent yet. Statements are in the order in which they are sent, for a whole transaction.
#[derive(Debug, Default)]
pub(super) struct PostedRows {
    statements: Vec<StatementRows>,
    rows: usize,
    octets: usize,
}

impl PostedRows {
    /// Whether the rows must be sent before another one is added.
    pub(super) fn is_full(&self) -> bool {
        self.rows >= ROWS_MAX || self.octets >= OCTETS_MAX
    }

    pub(super) fn add(&mut self, sql: &str, order: PostOrder, row: Vec<OwnedParameter>) {
        self.rows += 1;
        self.octets += row.iter().map(octets).sum::<usize>();
        match self.statements.iter_mut().find(|statement| statement.sql == sql) {
            Some(statement) => statement.rows.push(row),
            None => {
                let place = self.statements.partition_point(|statement| statement.order <= order);
                self.statements.insert(place, StatementRows { sql: sql.to_owned(), order, rows: vec![row] });
            }
        }
    }

    /// Takes the rows. Their statements keep their places.
    pub(super) fn take(&mut self) -> Vec<StatementRows> {
        (self.rows, self.octets) = (0, 0);
        let with_rows = self.statements.iter_mut().filter(|statement| !statement.rows.is_empty());
        let taken = with_rows.map(|StatementRows { sql, order, rows }| StatementRows {
            sql: sql.clone(),
            order: *order,
            rows: std::mem::take(rows),
        });
        taken.collect()
    }

    /// Forgets everything at the end of a transaction.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn octets(value: &OwnedParameter) -> usize {
    match value.as_ref() {
        ValueRef::Text(octets) | ValueRef::Blob(octets) => octets.len(),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => size_of::<i64>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Vec<OwnedParameter> {
        vec![OwnedParameter::of(&text).unwrap()]
    }

    #[test]
    fn statements_keep_the_order_of_their_first_rows() {
        let mut posted = PostedRows::default();
        posted.add("last", PostOrder::Last, row("a"));
        for (sql, text) in [("parent", "a"), ("child", "a1"), ("parent", "b"), ("child", "b1")] {
            posted.add(sql, PostOrder::Usual, row(text));
        }
        let sent: Vec<_> = posted.take().into_iter().map(|of| (of.sql, of.rows.len())).collect();
        assert_eq!(sent, [("parent".to_owned(), 2), ("child".to_owned(), 2), ("last".to_owned(), 1)]);
        assert!(posted.take().is_empty());
        // As when the rows of a parent did not all fit.
        posted.add("child", PostOrder::Usual, row("b2"));
        posted.add("parent", PostOrder::Usual, row("c"));
        let sent: Vec<_> = posted.take().into_iter().map(|of| of.sql).collect();
        assert_eq!(sent, ["parent", "child"]);
        posted.clear();
        posted.add("child", PostOrder::Usual, row("b2"));
        posted.add("parent", PostOrder::Usual, row("c"));
        assert_eq!(posted.take()[0].sql, "child");
    }

    #[test]
    fn rows_and_octets_are_limited() {
        let mut posted = PostedRows::default();
        (1..ROWS_MAX).for_each(|_| posted.add("x", PostOrder::Usual, row("a")));
        assert!(!posted.is_full());
        posted.add("x", PostOrder::Usual, row("a"));
        assert!(posted.is_full());
        posted.take();
        assert!(!posted.is_full());
        posted.add("x", PostOrder::Usual, row(&"a".repeat(OCTETS_MAX)));
        assert!(posted.is_full());
    }
}
