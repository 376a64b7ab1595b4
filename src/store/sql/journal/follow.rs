//! On PostgreSQL, other processes append to the journal too. While somebody follows it, its end is looked up.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::store::sql::{OpenDatabase, Store};
use crate::store::{Journal, StoreError};

/// Interval of looks for commits of other processes.
const INTERVAL: Duration = Duration::from_millis(200);
/// Pause after a look, so that commits of this process cost at most so many looks.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Pause after a failed look.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Keeps the end of the journal up to date until the database is closed.
pub(in crate::store::sql) async fn follow(database: Weak<OpenDatabase>) {
    loop {
        let Some(end) = database.upgrade().map(|database| Arc::clone(&database.journal_end)) else { return };
        match end.is_watched() {
            true => drop(timeout(INTERVAL, end.changed()).await),
            false => end.changed().await,
        }
        drop(end);
        let Some(store) = database.upgrade().map(Store::of_database) else { return };
        let looked = store.end_of_journal().await;
        drop(store);
        match looked {
            Ok(_) => sleep(PAUSE_MIN).await,
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot read the end of the journal; retrying");
                sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
}
