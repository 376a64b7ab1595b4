//! Reads whole tables page by page, at a low priority.

use std::sync::Arc;

use super::targets::{Hits, Targets};
use crate::store::database::Connection;
use crate::store::sql::Store;
use crate::store::sql::unit_of_work::Tx;
use crate::store::{ErasureCounts, Result};

/// Rows that name a recipient, with the erasures.
pub(super) type NamingRows = Vec<(String, Hits)>;

/// A table that is searched for recipients.
pub(super) trait Table: Clone + Send + 'static {
    /// What a page has.
    type Found: Send + 'static;

    /// Reads on after a row. Also returns the last row of the page, or `None` at the end of the table.
    fn page(
        &self,
        connection: &Connection,
        after: &str,
        targets: &Targets,
    ) -> Result<(Self::Found, Option<String>)>;
}

/// A table whose rows are erased one by one.
pub(super) trait ErasedTable: Table<Found = NamingRows> {
    /// Erases what a row says about recipients. Returns the erasures that count it.
    fn erase(&self, tx: &Tx<'_>, row: &(String, Hits), targets: &Targets) -> Result<Hits>;

    /// Counts a row.
    fn count(&self, counts: &mut ErasureCounts);
}

/// The pages of a table.
pub(super) struct Pages<'a, T> {
    store: &'a Store,
    targets: Arc<Targets>,
    table: T,
    /// Where to read on; `None` at the end.
    after: Option<String>,
}

impl<T: Table> Pages<'_, T> {
    /// The next page; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<T::Found>> {
        let Some(after) = self.after.take() else { return Ok(None) };
        let (table, targets) = (self.table.clone(), Arc::clone(&self.targets));
        let query = move |connection: &Connection| table.page(connection, &after, &targets);
        let (found, last) = self.store.scan(query).await?;
        self.after = last;
        Ok(Some(found))
    }
}

impl Store {
    pub(super) fn pages<T: Table>(&self, table: T, targets: &Arc<Targets>) -> Pages<'_, T> {
        Pages { store: self, targets: Arc::clone(targets), table, after: Some(String::new()) }
    }

    /// All rows of a table that name a recipient.
    pub(super) async fn all_rows<T: Table<Found = NamingRows>>(
        &self,
        table: T,
        targets: &Arc<Targets>,
    ) -> Result<NamingRows> {
        let (mut all, mut pages) = (Vec::new(), self.pages(table, targets));
        while let Some(rows) = pages.next().await? {
            all.extend(rows);
        }
        Ok(all)
    }
}
