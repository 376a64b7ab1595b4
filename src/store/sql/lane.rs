//! A lane of the writer: a connection that commits all waiting jobs in one transaction, so that they share one sync of the disk.
//! Each job gets its result after the commit, and a failed job does not affect the others.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::RwLock;

use super::bounds::Bounds;
use super::commit_outcome::{CommitOutcome, InsertedRow};
use super::events;
use super::job::{self, CommitError, Job, ResultsOfJob};
use super::job_queue::{JobKind, JobQueue};
use super::outbox::backlog::KnownBacklogs;
use super::outbox::webhooks;
use super::secret_encryption::Sealer;
use super::spool::queue_rows;
use super::sqlite::checkpoint::checkpoint;
use super::unit_of_work::Tx;
use super::writer::WriterCommand;
use crate::blocking;
use crate::mail::Timestamp;
use crate::model::{DisabledReason, WebhookId};
use crate::store::StoreError;
use crate::store::database::{self, Connection, DatabaseError, Engine, TransactionState, WriterLock};
use crate::store::memory::{
    Announcement, ChangeCount, CommitCounters, DirectoryVersions, EventClock, JournalEnd, MinuteSeries,
    NodeLease, SuppressedAddresses, SuppressionTimes, UsageParts, WebhookDueIndex, WebhookSubscriptions,
};

/// Epochs of nodes with slots of their own, and the maximum of lanes of a node.
const SLOT_EPOCHS: i64 = 64;
const SLOT_LANES: i64 = 16;

/// Whether jobs can be rolled back one by one.
#[derive(Clone, Copy)]
enum Savepoints {
    None,
    Each,
}

/// Why a transaction was not committed.
enum Fault {
    /// A job failed after it had changed the database, or the server ended the session before the commit.
    HalfDone,
    /// The transaction itself failed.
    Lost(CommitError),
}

impl From<CommitError> for Fault {
    fn from(error: CommitError) -> Self {
        Self::Lost(error)
    }
}

/// The number under which a lane has rows of its own. Lanes of nodes that run at the same time have different ones: with the
/// same one, they would wait for the commits of one another, and possibly in a circle.
fn slot(epoch: i64, lane: i64) -> i64 {
    epoch.rem_euclid(SLOT_EPOCHS) * SLOT_LANES + lane
}

/// What commits.
pub(super) struct Lane {
    pub(super) connection: Connection,
    /// The number of the lane in the process.
    pub(super) number: i64,
    pub(super) shared: Arc<SharedByLanes>,
    pub(super) queue: Arc<JobQueue<WriterCommand>>,
    /// The session whose last commit had no answer, if it may still be committed.
    pub(super) unanswered: RefCell<Option<String>>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.queue.end_lane();
    }
}

/// What all lanes use.
pub(super) struct SharedByLanes {
    pub(super) state: WriterState,
    pub(super) hooks: CommitHooks,
    /// Locked from before a transaction until its callers have their results: exclusively for jobs that run alone, so that
    /// what they change in memory is seen in the order of the commits.
    pub(super) turn: RwLock<()>,
}

/// What jobs use besides the database; see [`Tx`].
pub(super) struct WriterState {
    pub(super) clock: EventClock,
    pub(super) sealer: Arc<Sealer>,
    pub(super) subscriptions: WebhookSubscriptions,
    pub(super) suppression_times: SuppressionTimes,
    pub(super) suppressed_addresses: SuppressedAddresses,
    pub(super) usage_parts: UsageParts,
    pub(super) known_backlogs: KnownBacklogs,
    pub(super) bounds: Bounds,
    pub(super) lease: NodeLease,
    /// Whether another process has changed webhooks.
    pub(super) outdated: Arc<AtomicBool>,
}

/// State to update after a commit.
pub(super) struct CommitHooks {
    /// The end of the journal.
    pub(super) journal_end: Arc<JournalEnd>,
    /// The number of changed rows.
    pub(super) changes: Arc<ChangeCount>,
    /// The due times of webhooks.
    pub(super) webhooks_due: Arc<WebhookDueIndex>,
    /// Counts for metrics.
    pub(super) counters: Arc<CommitCounters>,
    /// The versions of the directory.
    pub(super) directory_versions: DirectoryVersions,
    /// Usage by minute.
    pub(super) minutes: Arc<MinuteSeries>,
}

impl Lane {
    /// Runs jobs until the queue is closed.
    pub(super) fn serve(self) {
        let mut commands = Vec::new();
        while let Some(kind) = self.queue.take(&mut commands) {
            self.run(&mut commands, kind);
        }
    }

    /// As [`Self::serve`], in a simulation, which starts no threads.
    pub(super) async fn simulate(self) {
        let mut commands = Vec::new();
        let duration = || blocking::simulated_duration().unwrap_or_default();
        while let Some(kind) = self.queue.take_after(duration, &mut commands).await {
            self.run(&mut commands, kind);
        }
    }

    fn run(&self, commands: &mut Vec<WriterCommand>, kind: JobKind) {
        let mut jobs = Vec::new();
        for command in commands.drain(..) {
            match command {
                WriterCommand::Write(job) => jobs.push(job),
                WriterCommand::Checkpoint(answer) => {
                    self.write_in_turn(&mut jobs, kind);
                    drop(answer.send(self.checkpoint().map_err(StoreError::from)));
                }
            }
        }
        self.write_in_turn(&mut jobs, kind);
        if kind == JobKind::Alone {
            self.queue.end_alone();
        }
    }

    fn write_in_turn(&self, jobs: &mut Vec<Box<dyn Job>>, kind: JobKind) {
        if jobs.is_empty() {
            return;
        }
        match kind {
            JobKind::Hot => {
                let _turn = self.shared.turn.read();
                while !jobs.is_empty() {
                    let mut later = job::put_in_order(jobs);
                    self.write_all(jobs, WriterLock::Shared);
                    jobs.append(&mut later);
                }
            }
            JobKind::Alone => {
                let _turn = self.shared.turn.write();
                self.write_all(jobs, WriterLock::Exclusive);
            }
        }
    }

    fn write_all(&self, jobs: &mut Vec<Box<dyn Job>>, lock: WriterLock) {
        // Their callers have got an error, and may repeat them.
        jobs.retain(|job| !job.is_abandoned());
        if jobs.is_empty() {
            return;
        }
        let hooks = &self.shared.hooks;
        // A savepoint copies each page that a job changes, and jobs rarely fail after their first change.
        let mut tried = self.transact(jobs, lock, Savepoints::None);
        if let Err(Fault::HalfDone) = tried {
            hooks.counters.note_repetition();
            self.roll_back();
            tried = self.transact(jobs, lock, Savepoints::Each);
        }
        if tried.is_err() {
            hooks.counters.note_failure();
            self.roll_back();
        }
        let half_done;
        let committed = match &tried {
            Ok(()) => Ok(()),
            Err(Fault::Lost(error)) => Err(error),
            // With savepoints, only if the server ended two sessions.
            Err(Fault::HalfDone) => {
                half_done = CommitError::Failed("the transaction was rolled back".into());
                Err(&half_done)
            }
        };
        for job in jobs.drain(..) {
            job.finish(committed);
        }
    }

    fn transact(
        &self,
        jobs: &mut [Box<dyn Job>],
        lock: WriterLock,
        savepoints: Savepoints,
    ) -> std::result::Result<(), Fault> {
        self.require_answered()?;
        let SharedByLanes { state, hooks, .. } = &*self.shared;
        let WriterState {
            clock,
            sealer,
            subscriptions,
            suppression_times,
            suppressed_addresses,
            usage_parts,
            known_backlogs,
            bounds,
            lease,
            ..
        } = state;
        let slot = slot(lease.epoch(), self.number);
        let began = Instant::now();
        let tx = Tx {
            connection: &self.connection,
            slot,
            lock,
            clock,
            sealer,
            subscriptions,
            touched_webhooks: Default::default(),
            backlogs: Default::default(),
            known_backlogs,
            full_webhooks: Default::default(),
            suppression_times,
            suppressed_addresses,
            bounds,
            usage: Default::default(),
            usage_parts,
            directory_changes: Default::default(),
            inserted_row: Default::default(),
            lease,
            has_announced: Cell::new(false),
            held: RefCell::default(),
            webhook_results: Default::default(),
        };
        // With savepoints, each statement fails in its job.
        self.connection.set_pipelining(matches!(savepoints, Savepoints::None));
        self.connection.begin_in_slot(lock, slot).map_err(CommitError::from)?;
        self.hold(&tx, jobs).map_err(|error| self.fault(savepoints, error.into()))?;
        for job in jobs {
            let (counted, changed) = (tx.usage.mark(), tx.directory_changes.len());
            let (inserted, full) = (tx.inserted_row.is_noted(), tx.full_webhooks.borrow().len());
            let ran = match savepoints {
                Savepoints::None => self.run_bare(&tx, job.as_mut())?,
                Savepoints::Each => self.run_in_savepoint(&tx, job.as_mut())?,
            };
            if !ran {
                tx.usage.truncate(counted);
                tx.directory_changes.truncate(changed);
                tx.backlogs.clear();
                tx.full_webhooks.borrow_mut().truncate(full);
                if !inserted {
                    tx.inserted_row.forget();
                }
            }
        }
        self.announce(&tx).map_err(|error| self.fault(savepoints, error.into()))?;
        let parts = tx.write_usage().map_err(|error| self.fault(savepoints, CommitError::from(&error)))?;
        let committed = self.commit(&tx.inserted_row, savepoints);
        if let Err(Fault::Lost(CommitError::OutcomeUnknown)) = committed {
            // They may be committed, or will be.
            lease.note_unknown_outcome();
            hooks.directory_versions.note(tx.directory_changes.take());
        }
        committed?;
        if tx.has_announced.get() {
            lease.note_announced();
        }
        let (events, results) = (tx.usage.take_events(), tx.usage.take_results());
        hooks.counters.note_commit(&events, &results, began.elapsed());
        hooks.directory_versions.note(tx.directory_changes.take());
        hooks.minutes.add(&tx.usage.take_minutes());
        usage_parts.note(parts);
        match self.connection.engine() {
            Engine::Sqlite => {
                hooks.journal_end.advance(events::end_of_journal(clock));
                hooks.changes.note(self.connection.total_changes());
            }
            // Another transaction may be in progress.
            Engine::Postgres => hooks.journal_end.note_commit(),
        }
        hooks.webhooks_due.note_all(tx.touched_webhooks.take());
        self.disable_later(tx.full_webhooks.take());
        Ok(())
    }

    /// Disables webhooks that have too many pending deliveries. If no job may be added, the next event does so.
    fn disable_later(&self, full: Vec<(WebhookId, Timestamp)>) {
        for (id, at) in full.into_iter().collect::<HashMap<_, _>>() {
            let disable =
                move |(): &(), tx: &Tx<'_>| webhooks::disable(tx, id, DisabledReason::BacklogFull, at);
            let job = WriterCommand::Write(job::without_answer(disable));
            drop(self.queue.try_send(JobKind::Alone, job));
        }
    }

    /// Commits. If the server does not say whether it did, asks it afterwards.
    fn commit(&self, inserted: &InsertedRow, savepoints: Savepoints) -> std::result::Result<(), Fault> {
        let Err(error) = self.connection.commit() else { return Ok(()) };
        let DatabaseError::Unanswered { session } = &error else {
            return Err(self.fault(savepoints, error.into()));
        };
        tracing::warn!("PostgreSQL did not answer a commit; asking it on another session");
        match inserted.find_outcome(&self.connection, session) {
            CommitOutcome::Committed => Ok(()),
            CommitOutcome::RolledBack => Err(Fault::HalfDone),
            CommitOutcome::Unknown => {
                self.unanswered.replace(Some(session.clone()));
                Err(Fault::Lost(CommitError::OutcomeUnknown))
            }
        }
    }

    /// Refuses to begin while the last transaction may still be committed, for example because it waits for a standby that is
    /// away. Otherwise each one would leave a session behind that waits too, until the server has no more.
    fn require_answered(&self) -> std::result::Result<(), CommitError> {
        let Some(session) = self.unanswered.borrow().clone() else { return Ok(()) };
        let sql = "SELECT 1 FROM pg_stat_activity WHERE application_name = ?1";
        if self.connection.prepare_cached(sql)?.exists([session.as_str()])? {
            return Err(CommitError::Failed("the database has not answered an earlier commit yet".into()));
        }
        self.unanswered.take();
        Ok(())
    }

    /// Announces the changes of the directory to other processes.
    fn announce(&self, tx: &Tx<'_>) -> database::Result<()> {
        let changes = tx.directory_changes.cloned();
        changes.into_iter().try_for_each(|change| tx.announce(&Announcement::Directory(change)))
    }

    /// In a database that other processes serve too, requires that none has taken over from this one, and locks the
    /// deliveries of the jobs.
    fn hold(&self, tx: &Tx<'_>, jobs: &[Box<dyn Job>]) -> database::Result<()> {
        let WriterState { lease, outdated, subscriptions, .. } = &self.shared.state;
        if !lease.is_shared() {
            return Ok(());
        }
        if outdated.swap(false, Ordering::AcqRel) {
            subscriptions.clear();
        }
        let mut require = self.connection.prepare_cached("SELECT require_live_node(?1)")?;
        require.post([lease.epoch()])?;
        let mut results = ResultsOfJob::default();
        for of_job in jobs.iter().map(|job| &job.rows().results) {
            results.deliveries.extend(&of_job.deliveries);
            results.attempts.extend(&of_job.attempts);
            results.webhook_deliveries.extend(&of_job.webhook_deliveries);
        }
        if !results.deliveries.is_empty() {
            tx.held.replace(queue_rows::lock(tx, &results)?);
        }
        if !results.webhook_deliveries.is_empty() {
            tx.webhook_results.lock(tx, &results.webhook_deliveries)?;
        }
        Ok(())
    }

    /// Without savepoints, a statement may fail after its job has ended.
    fn fault(&self, savepoints: Savepoints, error: CommitError) -> Fault {
        match (savepoints, self.connection.transaction_state()) {
            (Savepoints::None, TransactionState::Failed) => Fault::HalfDone,
            (Savepoints::None, TransactionState::None) => self.lost(error),
            _ => Fault::Lost(error),
        }
    }

    /// A transaction that ended with its session can be repeated in the next one. SQLite ends it after an error of the disk.
    fn lost(&self, error: CommitError) -> Fault {
        match self.connection.engine() {
            Engine::Sqlite => Fault::Lost(error),
            Engine::Postgres => Fault::HalfDone,
        }
    }

    /// False if the job failed before it had changed anything.
    fn run_bare(&self, tx: &Tx<'_>, job: &mut dyn Job) -> std::result::Result<bool, Fault> {
        let changes_before = self.connection.total_changes();
        let Err(cause) = job.run(tx) else { return Ok(true) };
        match self.connection.transaction_state() {
            TransactionState::None => Err(self.lost(cause)),
            TransactionState::Failed => Err(Fault::HalfDone),
            TransactionState::Usable if self.connection.total_changes() != changes_before => {
                Err(Fault::HalfDone)
            }
            TransactionState::Usable => Ok(false),
        }
    }

    /// False if the job failed and was rolled back.
    fn run_in_savepoint(&self, tx: &Tx<'_>, job: &mut dyn Job) -> std::result::Result<bool, Fault> {
        self.execute("SAVEPOINT job")?;
        let ran = job.run(tx);
        let is_done = ran.is_ok();
        if let Err(cause) = ran {
            if self.connection.transaction_state() == TransactionState::None {
                return Err(Fault::Lost(cause));
            }
            self.shared.state.subscriptions.clear();
            self.execute("ROLLBACK TO job")?;
        }
        self.execute("RELEASE job")?;
        Ok(is_done)
    }

    fn roll_back(&self) {
        self.shared.state.subscriptions.clear();
        if let Err(error) = self.connection.roll_back() {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
    }

    fn execute(&self, sql: &str) -> std::result::Result<(), CommitError> {
        self.connection.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    fn checkpoint(&self) -> database::Result<()> {
        match &self.connection {
            Connection::Sqlite(connection) => Ok(checkpoint(connection)?),
            // The server does so itself.
            Connection::Postgres(_) => Ok(()),
        }
    }
}
