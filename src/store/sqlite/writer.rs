//! The one writer: a thread that takes all jobs that wait and commits them together, so that one sync of
//! the disk serves many of them. Each job runs in a savepoint of its own and is answered after the commit.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::events::EventClock;
use super::lock;
use super::seal::Sealer;
use crate::store::{Result, StoreError};

/// Jobs that may wait; senders wait beyond that.
const QUEUE_JOBS_MAX: usize = 4096;
/// Jobs committed together.
const BATCH_JOBS_MAX: usize = 512;
/// How long a transaction waits for another process, as at the start of the connection.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pages given back to the file system by one maintenance.
const VACUUM_PAGES: u32 = 2000;

/// The transaction that a job runs in.
pub(super) struct Tx<'a> {
    connection: &'a Connection,
    /// Makes the ids of events.
    pub(super) clock: &'a EventClock,
    /// Seals secrets.
    pub(super) sealer: &'a Sealer,
}

impl Deref for Tx<'_> {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.connection
    }
}

/// What the writer is asked for.
enum Order {
    /// Something inside a transaction.
    Write(Box<dyn Job>),
    /// Something that cannot be done inside one.
    Checkpoint(oneshot::Sender<Result<()>>),
}

/// A handle on the writer's thread.
pub(super) struct Writer {
    queue: Mutex<Option<mpsc::Sender<Order>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        clock: EventClock,
        sealer: Arc<Sealer>,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE_JOBS_MAX);
        let bench = Bench { connection, clock, sealer };
        let thread =
            std::thread::Builder::new().name("store-writer".into()).spawn(move || bench.serve(receiver))?;
        Ok(Self { queue: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) })
    }

    /// Runs `work` in the next transaction; after its commit `after` makes the answer of it.
    pub(super) async fn run<T, U, W, A>(&self, work: W, after: A) -> Result<U>
    where
        T: Send + 'static,
        U: Send + 'static,
        W: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
        A: FnOnce(T) -> U + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.send(Order::Write(Box::new(Work::new(work, after, Some(answer))))).await?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Moves the write-ahead log into the database and gives free pages back to the file system.
    pub(super) async fn checkpoint(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.send(Order::Checkpoint(answer)).await?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    async fn send(&self, order: Order) -> Result<()> {
        let sender = lock(&self.queue).clone().ok_or(StoreError::Closed)?;
        sender.send(order).await.map_err(|_| StoreError::Closed)
    }

    /// Leaves a job for some transaction to come. False if too many wait.
    pub(super) fn leave(&self, work: impl FnOnce(&Tx<'_>) -> Result<()> + Send + 'static) -> bool {
        let order = Order::Write(Box::new(Work::new(work, |()| (), None)));
        lock(&self.queue).as_ref().is_some_and(|sender| sender.try_send(order).is_ok())
    }

    /// Takes no more jobs and waits for those that were taken.
    pub(super) async fn close(&self) {
        lock(&self.queue).take();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread
            && !matches!(tokio::task::spawn_blocking(move || thread.join()).await, Ok(Ok(())))
        {
            tracing::error!("the writer of the store ended in a panic");
        }
    }
}

impl Drop for Writer {
    /// The data directory must not be opened again while jobs are still being written.
    fn drop(&mut self) {
        lock(&self.queue).take();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

/// A job as the thread sees it.
trait Job: Send {
    /// Does the work; an error if it failed and its savepoint is to be rolled back.
    fn run(&mut self, tx: &Tx<'_>) -> std::result::Result<(), CommitError>;
    /// Tells the caller, after the commit or instead of it.
    fn finish(self: Box<Self>, committed: std::result::Result<(), &CommitError>);
}

struct Work<T, U, W, A> {
    work: Option<W>,
    after: A,
    outcome: Option<Result<T>>,
    answer: Option<oneshot::Sender<Result<U>>>,
}

impl<T, U, W, A> Work<T, U, W, A> {
    fn new(work: W, after: A, answer: Option<oneshot::Sender<Result<U>>>) -> Self {
        Self { work: Some(work), after, outcome: None, answer }
    }
}

impl<T, U, W, A> Job for Work<T, U, W, A>
where
    T: Send,
    U: Send,
    W: FnOnce(&Tx<'_>) -> Result<T> + Send,
    A: FnOnce(T) -> U + Send,
{
    fn run(&mut self, tx: &Tx<'_>) -> std::result::Result<(), CommitError> {
        let Some(work) = self.work.take() else { return Ok(()) };
        // A fault in one job may cost that job, never the writer.
        let outcome =
            catch_unwind(AssertUnwindSafe(|| work(tx))).unwrap_or_else(|panic| Err(told_by(&panic)));
        let ran = outcome.as_ref().map(|_| ()).map_err(CommitError::from);
        self.outcome = Some(outcome);
        ran
    }

    fn finish(self: Box<Self>, committed: std::result::Result<(), &CommitError>) {
        let Self { work, after, outcome, answer } = *self;
        let outcome = match (outcome, committed) {
            (Some(Err(error)), _) => Err(error),
            (_, Err(error)) => Err(error.as_store_error()),
            (Some(Ok(value)), Ok(())) => {
                catch_unwind(AssertUnwindSafe(|| after(value))).map_err(|panic| told_by(&panic))
            }
            (None, Ok(())) => Err(StoreError::Closed),
        };
        // What an unfinished job would have told memory is told by dropping it, before the caller goes on.
        drop(work);
        match (answer, outcome) {
            (Some(answer), outcome) => drop(answer.send(outcome)),
            (None, Err(error)) => tracing::warn!(%error, "a note was not written"),
            (None, Ok(_)) => {}
        }
    }
}

fn told_by(panic: &Box<dyn Any + Send>) -> StoreError {
    let words = panic.downcast_ref::<&str>().copied();
    let words = words.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    StoreError::Failed(format!("a job of the store panicked: {}", words.unwrap_or("without words")))
}

/// Why nothing of a transaction was written; told to each of its jobs.
enum CommitError {
    DiskFull,
    Failed(String),
}

impl CommitError {
    fn as_store_error(&self) -> StoreError {
        match self {
            Self::DiskFull => StoreError::DiskFull,
            Self::Failed(message) => StoreError::Failed(message.clone()),
        }
    }
}

impl From<&StoreError> for CommitError {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::DiskFull => Self::DiskFull,
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<rusqlite::Error> for CommitError {
    fn from(error: rusqlite::Error) -> Self {
        Self::from(&StoreError::from(error))
    }
}

/// What the thread works with.
struct Bench {
    connection: Connection,
    clock: EventClock,
    sealer: Arc<Sealer>,
}

impl Bench {
    fn serve(self, mut receiver: mpsc::Receiver<Order>) {
        let mut orders = Vec::with_capacity(BATCH_JOBS_MAX);
        let mut jobs = VecDeque::with_capacity(BATCH_JOBS_MAX);
        while receiver.blocking_recv_many(&mut orders, BATCH_JOBS_MAX) > 0 {
            for order in orders.drain(..) {
                match order {
                    Order::Write(job) => jobs.push_back(job),
                    Order::Checkpoint(answer) => {
                        self.write_all(&mut jobs);
                        drop(answer.send(self.checkpoint().map_err(StoreError::from)));
                    }
                }
            }
            self.write_all(&mut jobs);
        }
    }

    fn write_all(&self, waiting: &mut VecDeque<Box<dyn Job>>) {
        while !waiting.is_empty() {
            self.transact(waiting);
        }
    }

    /// One transaction over the jobs, or over those up to one that broke the transaction itself.
    fn transact(&self, waiting: &mut VecDeque<Box<dyn Job>>) {
        let tx = Tx { connection: &self.connection, clock: &self.clock, sealer: &self.sealer };
        let mut done: Vec<Box<dyn Job>> = Vec::with_capacity(waiting.len());
        let committed = self.execute("BEGIN IMMEDIATE").and_then(|()| {
            while let Some(mut job) = waiting.pop_front() {
                let ran = self.run_in_savepoint(&tx, job.as_mut());
                done.push(job);
                ran?;
            }
            self.execute("COMMIT")
        });
        if committed.is_err() {
            if !self.connection.is_autocommit()
                && let Err(error) = self.execute("ROLLBACK")
            {
                tracing::error!(error = %error.as_store_error(), "a transaction could not be rolled back");
            }
            // Without a transaction nobody can be served: the rest must not wait for the next try either.
            if done.is_empty() {
                done.extend(waiting.drain(..));
            }
        }
        for job in done {
            job.finish(committed.as_ref().copied());
        }
    }

    /// An error only if the whole transaction is lost.
    fn run_in_savepoint(&self, tx: &Tx<'_>, job: &mut dyn Job) -> std::result::Result<(), CommitError> {
        self.execute("SAVEPOINT job")?;
        if let Err(cause) = job.run(tx) {
            // A full disk or an I/O error makes SQLite roll back everything by itself.
            if self.connection.is_autocommit() {
                return Err(cause);
            }
            self.execute("ROLLBACK TO job")?;
        }
        self.execute("RELEASE job")
    }

    fn execute(&self, sql: &str) -> std::result::Result<(), CommitError> {
        self.connection.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    fn checkpoint(&self) -> rusqlite::Result<()> {
        // Each freed page is one step of the statement.
        let mut vacuum =
            self.connection.prepare_cached(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
        let mut freed = vacuum.raw_query();
        while freed.next()?.is_some() {}
        drop(freed);
        drop(vacuum);
        // A reader that takes its time must not hold up those who wait for a commit: what it still needs of the log
        // stays for the next time.
        self.connection.busy_timeout(Duration::ZERO)?;
        let moved = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Access, Journal, Spool, Store, StoreOptions};

    #[tokio::test]
    async fn a_reader_that_takes_its_time_does_not_hold_up_a_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(StoreOptions {
            data_dir: dir.path().to_owned(),
            master_key_file: None,
            readers: 1,
            inline_body_bytes_max: 1024,
            free_disk_bytes_min: 0,
            handover_bytes_max: 0,
            access: Access::Serve,
        })
        .unwrap();
        let slow = Connection::open(dir.path().join("pillarbox.db")).unwrap();
        slow.execute_batch("BEGIN; SELECT count(*) FROM tenant;").unwrap();
        let touched = store.write(|tx| Ok(tx.execute("UPDATE seal_check SET sealed = sealed", [])?)).await;
        assert_eq!(touched.unwrap(), 1);
        let started = std::time::Instant::now();
        store.checkpoint().await.unwrap();
        assert!(started.elapsed() < BUSY_TIMEOUT / 2, "{:?}", started.elapsed());
        slow.execute_batch("COMMIT").unwrap();
        assert_eq!(store.depth().await.unwrap().open, 0);
    }
}
