//! Tests whether mail can be accepted: the steps of an acceptance without a message.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::params;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep_until};

use super::Store;
use super::unit_of_work::Tx;
use crate::store::{Result, StoreError};

/// Callers within this time after the start of a test get its result, so that callers cannot load the disk.
const INTERVAL: Duration = Duration::from_secs(1);

/// Larger than a page of the database.
const FILLER_OCTETS: usize = 16 * 1024;

/// The last test, for all callers.
pub(super) struct Probe {
    interval: Duration,
    last: Mutex<Option<Test>>,
    permit: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone)]
struct Test {
    began: Instant,
    /// `None` while it runs, and afterwards if its caller was cancelled.
    outcome: Option<Result<()>>,
}

/// Permits one test at a time. Each step keeps the permit until it ends, even if the caller was cancelled.
type Permit = OwnedMutexGuard<()>;

impl Default for Probe {
    fn default() -> Self {
        Self { interval: INTERVAL, last: Mutex::default(), permit: Arc::default() }
    }
}

impl Probe {
    /// A permit for a test that starts now, or the result of a recent test.
    async fn begin(&self) -> std::result::Result<(Permit, Instant), Result<()>> {
        let permit = Arc::clone(&self.permit).lock_owned().await;
        let last = self.last.lock().clone();
        if let Some(Test { began, outcome }) = last
            && began.elapsed() < self.interval
        {
            match outcome {
                Some(outcome) => return Err(outcome),
                None => sleep_until(began + self.interval).await,
            }
        }
        let began = Instant::now();
        *self.last.lock() = Some(Test { began, outcome: None });
        Ok((permit, began))
    }

    fn end(&self, began: Instant, outcome: &Result<()>) {
        if let Some(last) = self.last.lock().as_mut().filter(|last| last.began == began) {
            last.outcome = Some(outcome.clone());
        }
    }
}

impl Store {
    /// Writes as an acceptance does, at most once a second for all callers.
    pub(super) async fn test_storage(&self) -> Result<()> {
        match self.probe.begin().await {
            Ok((permit, began)) => {
                let outcome = self.write_and_read(permit).await;
                self.probe.end(began, &outcome);
                outcome
            }
            Err(outcome) => outcome,
        }
    }

    async fn write_and_read(&self, permit: Permit) -> Result<()> {
        self.refuse_unless_serving()?;
        self.free_space.check()?;
        let files = Arc::clone(&self.bodies);
        let write_file = move || files.test().map(|()| permit);
        let written = tokio::task::spawn_blocking(write_file).await;
        let written = written.map_err(|error| StoreError::Failed(error.to_string()))?;
        let permit = written.map_err(at("no file can be written in the data directory"))?;
        let written = self.writer.run(permit, |_, tx| write_row(tx), |permit, ()| permit).await;
        let _permit = written.map_err(at("the database cannot be written"))?;
        let sql = "SELECT id FROM seal_check";
        let read = self.read(move |connection| Ok(connection.query_row(sql, [], |_| Ok(()))?)).await;
        read.map_err(at("the database cannot be read"))
    }
}

/// Adds the failed step to an error.
fn at(step: &'static str) -> impl Fn(StoreError) -> StoreError {
    move |error| match error {
        StoreError::Failed(how) => StoreError::Failed(format!("{step}: {how}")),
        other => other,
    }
}

/// Inserts and deletes a row that needs free pages, as a message does.
fn write_row(tx: &Tx<'_>) -> Result<()> {
    let sql = "INSERT INTO write_test (filler) VALUES (?1)";
    tx.prepare_cached(sql)?.execute(params![vec![0_u8; FILLER_OCTETS]])?;
    tx.prepare_cached("DELETE FROM write_test")?.execute([])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sql::tests::{Bed, options, wait_until_known};
    use crate::store::{Access, Journal, SqliteOptions, Store};

    fn probe(interval: Duration) -> Probe {
        Probe { interval, ..Probe::default() }
    }

    #[tokio::test]
    async fn who_asks_soon_after_a_test_gets_its_outcome() {
        let probe = probe(Duration::from_secs(3600));
        let (permit, began) = probe.begin().await.unwrap();
        let mut second = Box::pin(probe.begin());
        let polled = std::future::poll_fn(|context| std::task::Poll::Ready(second.as_mut().poll(context)));
        assert!(polled.await.is_pending(), "one at a time");
        probe.end(began, &Err(StoreError::DiskFull));
        drop(permit);
        assert!(matches!(second.await, Err(Err(StoreError::DiskFull))));
        assert!(matches!(probe.begin().await, Err(Err(StoreError::DiskFull))));
    }

    #[tokio::test]
    async fn a_test_that_nobody_waited_for_counts_as_one_too() {
        let probe = probe(Duration::from_millis(20));
        let (permit, first) = probe.begin().await.unwrap();
        drop(permit);
        let (_permit, second) = probe.begin().await.unwrap();
        assert!(second - first >= Duration::from_millis(20));
    }

    #[tokio::test]
    async fn a_store_that_does_not_serve_is_not_ready() {
        let bed = Bed::new().await;
        let managing = SqliteOptions { access: Access::Manage, ..options(bed.path()) };
        assert!(Store::open(managing).await.unwrap().probe().await.is_err());
        assert!(bed.store.probe().await.is_ok());
    }

    #[tokio::test]
    async fn a_test_commits_and_leaves_nothing_behind() {
        let bed = Bed::new().await;
        wait_until_known(&bed.store).await;
        let before = bed.store.counts().commits;
        bed.store.probe().await.unwrap();
        assert_eq!(bed.store.counts().commits, before + 1);
        let left: u32 = bed
            .engine()
            .read(|connection| {
                Ok(connection.query_row("SELECT count(*) FROM write_test", [], |row| row.get(0))?)
            })
            .await
            .unwrap();
        assert_eq!(left, 0);
        assert_eq!(std::fs::read_dir(bed.path().join("bodies")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_would_keep_mail_from_being_stored_is_named() {
        let no_room = Bed::with(|options| options.free_disk_bytes_min = u64::MAX);
        assert!(matches!(no_room.store.probe().await, Err(StoreError::DiskFull)));

        // SQLite's limit of pages simulates a full disk.
        let full = Bed::new().await;
        let limit = |tx: &Tx<'_>| Ok(tx.query_row("PRAGMA max_page_count = 1", [], |_| Ok(()))?);
        full.engine().write(limit).await.unwrap();
        assert!(matches!(full.store.probe().await, Err(StoreError::DiskFull)));

        let read_only = Bed::new().await;
        read_only.engine().write(|tx| Ok(tx.execute_batch("PRAGMA query_only = ON")?)).await.unwrap();
        let said = read_only.store.probe().await.unwrap_err().to_string();
        assert!(said.contains("the database cannot be written") && said.contains("readonly"), "{said}");

        let no_bodies = Bed::new().await;
        std::fs::write(no_bodies.path().join("bodies"), "in the way").unwrap();
        let said = no_bodies.store.probe().await.unwrap_err().to_string();
        assert!(said.contains("no file can be written in the data directory"), "{said}");
    }
}
