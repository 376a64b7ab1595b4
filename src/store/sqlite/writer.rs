//! The one writer: a thread that takes all jobs that wait and commits them together, so that one sync of
//! the disk serves many of them. Each job is answered after the commit, and one that fails costs no other.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::events;
use super::secret_encryption::Sealer;
use super::unit_of_work::Tx;
use crate::store::memory::{
    CommitCounters, EventClock, UsageAccumulator, WebhookDueIndex, WebhookSubscriptions, lock,
};
use crate::store::{JournalCursor, Result, StoreError};

/// Jobs that may wait; senders wait beyond that.
const QUEUE_JOBS_MAX: usize = 4096;
/// Jobs committed together.
const BATCH_JOBS_MAX: usize = 512;
/// How long a transaction waits for another process, as at the start of the connection.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pages given back to the file system by one maintenance.
const VACUUM_PAGES: u32 = 2000;

/// What the writer is asked for.
enum WriterCommand {
    /// Something inside a transaction.
    Write(Box<dyn Job>),
    /// Something that cannot be done inside one.
    Checkpoint(oneshot::Sender<Result<()>>),
}

/// A handle on the writer's thread.
pub(super) struct Writer {
    queue: Mutex<Option<mpsc::Sender<WriterCommand>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        clock: EventClock,
        sealer: Arc<Sealer>,
        hooks: CommitHooks,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE_JOBS_MAX);
        let writer =
            WriterLoop { connection, clock, sealer, subscriptions: WebhookSubscriptions::default(), hooks };
        let thread =
            std::thread::Builder::new().name("store-writer".into()).spawn(move || writer.serve(receiver))?;
        Ok(Self { queue: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) })
    }

    /// Runs `work` on `state` in the next transaction; after its commit `after` makes the answer of both.
    /// The work may be done more than once, so it only borrows; what it writes it writes once.
    pub(super) async fn run<S, T, U, W, A>(&self, state: S, work: W, after: A) -> Result<U>
    where
        S: Send + 'static,
        T: Send + 'static,
        U: Send + 'static,
        W: Fn(&S, &Tx<'_>) -> Result<T> + Send + 'static,
        A: FnOnce(S, T) -> U + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = Work { state, work, after, outcome: None, answer: Some(answer) };
        self.send(WriterCommand::Write(Box::new(job))).await?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Moves the write-ahead log into the database and gives free pages back to the file system.
    pub(super) async fn checkpoint(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.send(WriterCommand::Checkpoint(answer)).await?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    async fn send(&self, command: WriterCommand) -> Result<()> {
        let sender = lock(&self.queue).clone().ok_or(StoreError::Closed)?;
        sender.send(command).await.map_err(|_| StoreError::Closed)
    }

    /// Leaves a job for some transaction to come. False if too many wait.
    pub(super) fn leave(&self, work: impl Fn(&Tx<'_>) -> Result<()> + Send + 'static) -> bool {
        let work = move |(): &(), tx: &Tx<'_>| work(tx);
        let job = Work { state: (), work, after: |(), ()| (), outcome: None, answer: None };
        let command = WriterCommand::Write(Box::new(job));
        lock(&self.queue).as_ref().is_some_and(|sender| sender.try_send(command).is_ok())
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
    /// Does the work, not for the first time perhaps.
    fn run(&mut self, tx: &Tx<'_>) -> std::result::Result<(), CommitError>;
    /// Tells the caller, after the commit or instead of it.
    fn finish(self: Box<Self>, committed: std::result::Result<(), &CommitError>);
}

struct Work<S, T, U, W, A> {
    state: S,
    work: W,
    after: A,
    outcome: Option<Result<T>>,
    answer: Option<oneshot::Sender<Result<U>>>,
}

impl<S, T, U, W, A> Job for Work<S, T, U, W, A>
where
    S: Send,
    T: Send,
    U: Send,
    W: Fn(&S, &Tx<'_>) -> Result<T> + Send,
    A: FnOnce(S, T) -> U + Send,
{
    fn run(&mut self, tx: &Tx<'_>) -> std::result::Result<(), CommitError> {
        // A fault in one job may cost that job, never the writer.
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.work)(&self.state, tx)));
        let outcome = outcome.unwrap_or_else(|panic| Err(failure_of(&panic)));
        let ran = outcome.as_ref().map(|_| ()).map_err(CommitError::from);
        self.outcome = Some(outcome);
        ran
    }

    fn finish(self: Box<Self>, committed: std::result::Result<(), &CommitError>) {
        let Self { state, after, outcome, answer, .. } = *self;
        let outcome = match (outcome, committed) {
            (Some(Ok(value)), Ok(())) => {
                catch_unwind(AssertUnwindSafe(|| after(state, value))).map_err(|panic| failure_of(&panic))
            }
            (outcome, committed) => {
                // What the state tells memory by being dropped is told before the caller goes on.
                drop(state);
                Err(match (outcome, committed) {
                    (Some(Err(error)), _) => error,
                    (_, Err(error)) => error.as_store_error(),
                    _ => StoreError::Closed,
                })
            }
        };
        match (answer, outcome) {
            (Some(answer), outcome) => drop(answer.send(outcome)),
            (None, Err(error)) => tracing::warn!(%error, "an event was not written"),
            (None, Ok(_)) => {}
        }
    }
}

fn failure_of(panic: &Box<dyn Any + Send>) -> StoreError {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    StoreError::Failed(format!("a job of the store panicked: {}", message.unwrap_or("no message")))
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

/// Whether jobs can be undone one by one.
#[derive(Clone, Copy)]
enum Savepoints {
    None,
    Each,
}

/// Why a transaction was not committed.
enum Fault {
    /// A job failed after it had written something.
    HalfDone,
    /// The transaction itself.
    Lost(CommitError),
}

impl From<CommitError> for Fault {
    fn from(error: CommitError) -> Self {
        Self::Lost(error)
    }
}

/// What the thread works with.
struct WriterLoop {
    connection: Connection,
    clock: EventClock,
    sealer: Arc<Sealer>,
    subscriptions: WebhookSubscriptions,
    hooks: CommitHooks,
}

/// What is updated after a commit.
pub(super) struct CommitHooks {
    /// The end of the journal.
    pub(super) last_event: watch::Sender<JournalCursor>,
    /// The webhooks that have something to be sent.
    pub(super) webhooks_due: Arc<WebhookDueIndex>,
    /// Whoever watches the server.
    pub(super) counters: Arc<CommitCounters>,
}

impl WriterLoop {
    fn serve(self, mut receiver: mpsc::Receiver<WriterCommand>) {
        let mut commands = Vec::with_capacity(BATCH_JOBS_MAX);
        let mut jobs = Vec::with_capacity(BATCH_JOBS_MAX);
        while receiver.blocking_recv_many(&mut commands, BATCH_JOBS_MAX) > 0 {
            for command in commands.drain(..) {
                match command {
                    WriterCommand::Write(job) => jobs.push(job),
                    WriterCommand::Checkpoint(answer) => {
                        self.write_all(&mut jobs);
                        drop(answer.send(self.checkpoint().map_err(StoreError::from)));
                    }
                }
            }
            self.write_all(&mut jobs);
        }
    }

    fn write_all(&self, jobs: &mut Vec<Box<dyn Job>>) {
        if jobs.is_empty() {
            return;
        }
        // A savepoint costs a copy of each page that the job touches, and jobs hardly ever fail half done.
        let mut tried = self.transact(jobs, Savepoints::None);
        if let Err(Fault::HalfDone) = tried {
            self.roll_back();
            tried = self.transact(jobs, Savepoints::Each);
        }
        if tried.is_err() {
            self.hooks.counters.note_failure();
            self.roll_back();
        }
        let committed = match &tried {
            Ok(()) => {
                self.run_hooks();
                Ok(())
            }
            Err(Fault::Lost(error)) => Err(error),
            // Cannot be with savepoints; to be told of a failure is right in any case.
            Err(Fault::HalfDone) => Err(&CommitError::DiskFull),
        };
        for job in jobs.drain(..) {
            job.finish(committed);
        }
    }

    fn transact(&self, jobs: &mut [Box<dyn Job>], savepoints: Savepoints) -> std::result::Result<(), Fault> {
        let Self { connection, clock, sealer, subscriptions, .. } = self;
        let tx = Tx { connection, clock, sealer, subscriptions, usage: UsageAccumulator::default() };
        self.execute("BEGIN IMMEDIATE")?;
        for job in jobs {
            let counted = tx.usage.mark();
            let ran = match savepoints {
                Savepoints::None => self.run_bare(&tx, job.as_mut())?,
                Savepoints::Each => self.run_in_savepoint(&tx, job.as_mut())?,
            };
            if !ran {
                tx.usage.truncate(counted);
            }
        }
        tx.write_usage().map_err(|error| CommitError::from(&error))?;
        self.execute("COMMIT")?;
        self.hooks.counters.note_commit(&tx.usage.take_events());
        Ok(())
    }

    /// False if the job failed before it had written anything.
    fn run_bare(&self, tx: &Tx<'_>, job: &mut dyn Job) -> std::result::Result<bool, Fault> {
        let changes_before = self.connection.total_changes();
        match job.run(tx) {
            // A full disk or an I/O error makes SQLite roll back everything by itself.
            Err(cause) if self.connection.is_autocommit() => Err(Fault::Lost(cause)),
            Err(_) if self.connection.total_changes() != changes_before => Err(Fault::HalfDone),
            ran => Ok(ran.is_ok()),
        }
    }

    /// False if the job failed and was undone.
    fn run_in_savepoint(&self, tx: &Tx<'_>, job: &mut dyn Job) -> std::result::Result<bool, Fault> {
        self.execute("SAVEPOINT job")?;
        let ran = job.run(tx);
        let is_done = ran.is_ok();
        if let Err(cause) = ran {
            if self.connection.is_autocommit() {
                return Err(Fault::Lost(cause));
            }
            self.subscriptions.forget();
            self.execute("ROLLBACK TO job")?;
        }
        self.execute("RELEASE job")?;
        Ok(is_done)
    }

    fn run_hooks(&self) {
        let last = events::end_of_journal(&self.clock);
        self.hooks.last_event.send_if_modified(|known| std::mem::replace(known, last) != last);
        self.hooks.webhooks_due.note_all(self.subscriptions.take_touched());
    }

    fn roll_back(&self) {
        self.subscriptions.forget();
        self.subscriptions.take_touched();
        if !self.connection.is_autocommit()
            && let Err(error) = self.execute("ROLLBACK")
        {
            tracing::error!(error = %error.as_store_error(), "a transaction could not be rolled back");
        }
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
    use crate::store::{Journal, Spool, SqliteStore, StoreOptions};

    #[tokio::test]
    async fn a_reader_that_takes_its_time_does_not_hold_up_a_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let store =
            SqliteStore::open(StoreOptions { hot_queue_bytes_max: 0, ..StoreOptions::at(dir.path()) })
                .unwrap();
        let slow = Connection::open(dir.path().join("pillarbox.db")).unwrap();
        slow.execute_batch("BEGIN; SELECT count(*) FROM tenant;").unwrap();
        let touched = store.write(|tx| Ok(tx.execute("UPDATE seal_check SET sealed = sealed", [])?)).await;
        assert_eq!(touched.unwrap(), 1);
        let started = std::time::Instant::now();
        store.checkpoint().await.unwrap();
        assert!(started.elapsed() < BUSY_TIMEOUT / 2, "{:?}", started.elapsed());
        slow.execute_batch("COMMIT").unwrap();
        assert_eq!(store.count_open().await.unwrap(), 0);
    }
}
