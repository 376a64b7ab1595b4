//! The writer: the lanes, each on a thread of its own, and how jobs reach them. SQLite has one lane. On PostgreSQL, several
//! commit hot jobs at once; other jobs run alone, in all processes.

use std::cell::RefCell;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::job::{self, Job, ResultsOfJob, RowsOfJob};
use super::job_queue::{JobKind, JobQueue};
use super::lane::{CommitHooks, Lane, SharedByLanes, WriterState};
use super::unit_of_work::Tx;
use crate::blocking;
use crate::store::database::{Connection, Engine};
use crate::store::memory::{LeaseState, NodeLease};
use crate::store::{Result, StoreError};

/// How long a caller waits for a result, if other processes may serve the database too. It ends before clients and load
/// balancers lose patience.
const RESULT_TIMEOUT: Duration = Duration::from_secs(20);

/// A command to the writer.
pub(super) enum WriterCommand {
    /// Run a job in a transaction.
    Write(Box<dyn Job>),
    /// Checkpoint, which cannot run in a transaction.
    Checkpoint(oneshot::Sender<Result<()>>),
}

/// What a lane must know about a hot job.
#[derive(Debug, Default)]
pub(super) struct HotJob {
    /// How much it sends to the database.
    pub(super) octets: usize,
    pub(super) rows: RowsOfJob,
}

/// A handle of the lanes.
pub(super) struct Writer {
    queue: Arc<JobQueue<WriterCommand>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Instead of threads, in a simulation.
    simulated: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    lease: NodeLease,
}

impl Writer {
    /// Starts a lane for each connection.
    pub(super) fn start(
        connections: Vec<Connection>,
        state: WriterState,
        hooks: CommitHooks,
    ) -> std::io::Result<Self> {
        let mixes = connections.iter().all(|connection| connection.engine() == Engine::Sqlite);
        let queue = Arc::new(JobQueue::new(connections.len(), mixes));
        let lease = state.lease.clone();
        let shared = Arc::new(SharedByLanes { state, hooks, turn: RwLock::new(()) });
        let writer =
            Self { queue: Arc::clone(&queue), threads: Mutex::default(), simulated: Mutex::default(), lease };
        for (number, connection) in (0..).zip(connections) {
            let (shared, queue) = (Arc::clone(&shared), Arc::clone(&queue));
            let lane = Lane { connection, number, shared, queue, unanswered: RefCell::default() };
            if blocking::is_simulated() {
                writer.simulated.lock().push(tokio::spawn(lane.simulate()));
                continue;
            }
            let thread = std::thread::Builder::new()
                .name(format!("store-lane-{number}"))
                .spawn(move || lane.serve())?;
            writer.threads.lock().push(thread);
        }
        Ok(writer)
    }

    /// Runs `work` with `state` in a transaction that runs alone; after the commit, `after` computes the result from both.
    /// `work` may run more than once, after a rollback, so it only borrows.
    pub(super) async fn run<S, T, U, W, A>(&self, state: S, work: W, after: A) -> Result<U>
    where
        S: Send + 'static,
        T: Send + 'static,
        U: Send + 'static,
        W: Fn(&S, &Tx<'_>) -> Result<T> + Send + 'static,
        A: FnOnce(S, T) -> U + Send + 'static,
    {
        self.run_holding(ResultsOfJob::default(), state, work, after).await
    }

    /// As [`Self::run`], for a job that writes these results: see [`Tx::held`].
    pub(super) async fn run_holding<S, T, U, W, A>(
        &self,
        results: ResultsOfJob,
        state: S,
        work: W,
        after: A,
    ) -> Result<U>
    where
        S: Send + 'static,
        T: Send + 'static,
        U: Send + 'static,
        W: Fn(&S, &Tx<'_>) -> Result<T> + Send + 'static,
        A: FnOnce(S, T) -> U + Send + 'static,
    {
        let rows = RowsOfJob { results, shared_keys: None };
        let (job, answered) = job::with_answer(state, work, after, rows);
        self.answer(self.queue.send(JobKind::Alone, 0, WriterCommand::Write(job)), answered).await
    }

    /// Runs `work` as [`Self::run`] does, but at the same time as hot jobs of other lanes and processes. So it only enqueues,
    /// claims or records, reads no row that it relies on and another hot job may change, and writes none besides those of its keys.
    pub(super) async fn run_hot<S, T, U, W, A>(&self, hot: HotJob, state: S, work: W, after: A) -> Result<U>
    where
        S: Send + 'static,
        T: Send + 'static,
        U: Send + 'static,
        W: Fn(&S, &Tx<'_>) -> Result<T> + Send + 'static,
        A: FnOnce(S, T) -> U + Send + 'static,
    {
        let (job, answered) = job::with_answer(state, work, after, hot.rows);
        self.answer(self.queue.send(JobKind::Hot, hot.octets, WriterCommand::Write(job)), answered).await
    }

    /// Sends a job and waits for its result. While the database does not answer, nothing new is sent, and callers wait for a
    /// limited time: a job that runs then may still be committed, and one that does not is dropped.
    async fn answer<U>(
        &self,
        sent: impl Future<Output = Result<()>>,
        answered: oneshot::Receiver<Result<U>>,
    ) -> Result<U> {
        self.lease.before(LeaseState::Stale, async {}).await.ok_or(StoreError::NoLease)?;
        let answer = async {
            sent.await?;
            answered.await.map_err(|_| StoreError::Closed)?
        };
        if !self.lease.is_shared() {
            return answer.await;
        }
        match self.lease.before(LeaseState::Lost, timeout(RESULT_TIMEOUT, answer)).await {
            Some(Ok(result)) => result,
            Some(Err(_)) | None => Err(StoreError::OutcomeUnknown),
        }
    }

    /// Moves the write-ahead log into the database and returns free pages to the file system.
    pub(super) async fn checkpoint(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(JobKind::Alone, 0, WriterCommand::Checkpoint(answer)).await?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Adds a job that runs alone, without waiting for its result. False if too many wait.
    pub(super) fn leave(&self, work: impl Fn(&Tx<'_>) -> Result<()> + Send + 'static) -> bool {
        let work = move |(): &(), tx: &Tx<'_>| work(tx);
        self.queue.try_send(JobKind::Alone, WriterCommand::Write(job::without_answer(work))).is_ok()
    }

    /// Accepts no more jobs and waits for those that were accepted.
    pub(super) async fn close(&self) {
        self.queue.close();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if !matches!(tokio::task::spawn_blocking(move || thread.join()).await, Ok(Ok(()))) {
                tracing::error!("a lane of the store ended in a panic");
            }
        }
        let simulated = std::mem::take(&mut *self.simulated.lock());
        futures_util::future::join_all(simulated).await;
    }
}

impl Drop for Writer {
    /// Waits for the threads, because the data directory must not be opened again while they write.
    fn drop(&mut self) {
        self.queue.close();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            let _ = thread.join();
        }
    }
}
