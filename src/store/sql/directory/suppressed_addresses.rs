//! Reads the addresses of all suppressions into memory, in pages, beside acceptance and delivery.

use std::sync::Weak;
use std::time::Duration;

use tokio::time::sleep;

use crate::store::database::params;
use crate::store::sql::sql_types::count;
use crate::store::sql::{OpenDatabase, Store};
use crate::store::{Result, StoreError};

/// Addresses read in one query.
pub(in crate::store::sql) const PAGE: usize = 20_000;
/// Pause after a failed query.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(10);

pub(in crate::store::sql) const PAGE_OF_ADDRESSES: &str =
    "SELECT DISTINCT address FROM suppression WHERE address > ?1 ORDER BY address LIMIT ?2";

/// Reads the addresses whenever they are unknown, until the database is closed.
pub(in crate::store::sql) async fn keep_known(database: Weak<OpenDatabase>) {
    loop {
        let Some(addresses) = database.upgrade().map(|database| database.suppressed_addresses.clone()) else {
            return;
        };
        addresses.unknown().await;
        match read_all(&database).await {
            Ok(()) => {}
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot read the suppressed addresses; recipients are looked up meanwhile");
                addresses.forget();
                sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
}

async fn read_all(database: &Weak<OpenDatabase>) -> Result<()> {
    let open = || database.upgrade().map(Store::of_database).ok_or(StoreError::Closed);
    let store = open()?;
    let counted = store.read_slow(|connection| {
        let sql = "SELECT count(*) FROM suppression";
        Ok(connection.prepare_cached(sql)?.query_row([], |row| count(row, 0))?)
    });
    let addresses_max = usize::try_from(counted.await?).unwrap_or(usize::MAX);
    // After this job, each transaction that suppresses an address was committed, or notes it in the new filter.
    let filter = store.write(move |tx| Ok(tx.suppressed_addresses.begin(addresses_max))).await?;
    drop(store);
    let mut last = String::new();
    loop {
        let (store, after) = (open()?, last.clone());
        let page = store.read_slow(move |connection| {
            let mut query = connection.prepare_cached(PAGE_OF_ADDRESSES)?;
            let rows = query.query_map(params![after, PAGE as i64], |row| row.get::<_, String>(0))?;
            Ok(rows.collect::<std::result::Result<Vec<_>, _>>()?)
        });
        let page = page.await?;
        drop(store);
        page.iter().for_each(|address| filter.add(address));
        match page.into_iter().nth(PAGE - 1) {
            Some(address) => last = address,
            None => break,
        }
    }
    filter.complete();
    Ok(())
}
