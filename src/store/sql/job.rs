//! A job of the writer: work in a transaction, and what happens with its result.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use super::unit_of_work::Tx;
use crate::model::{AttemptId, DeliveryId, WebhookDeliveryId};
use crate::store::database::DatabaseError;
use crate::store::{Result, StoreError};

/// Rows of a job that jobs of other lanes and processes may want too.
#[derive(Debug, Default)]
pub(super) struct RowsOfJob {
    /// The results that it writes: see [`Tx::held`].
    pub(super) results: ResultsOfJob,
    /// The first and the last of the rows that it writes and jobs of other lanes may write too; it writes them in this
    /// order. So do all jobs of a transaction together, so that lanes never wait for each other in a circle.
    pub(super) shared_keys: Option<(String, String)>,
}

/// What results belong to.
#[derive(Debug, Default)]
pub(super) struct ResultsOfJob {
    pub(super) deliveries: Vec<DeliveryId>,
    pub(super) attempts: Vec<AttemptId>,
    pub(super) webhook_deliveries: Vec<WebhookDeliveryId>,
}

/// A job with its types erased.
pub(super) trait Job: Send {
    fn rows(&self) -> &RowsOfJob;
    /// Whether its caller does not wait any more.
    fn is_abandoned(&self) -> bool;
    /// Runs the work; may be called again after a rollback.
    fn run(&mut self, tx: &Tx<'_>) -> std::result::Result<(), CommitError>;
    /// Sends the result to the caller, after the commit or the failure.
    fn finish(self: Box<Self>, committed: std::result::Result<(), &CommitError>);
}

/// Puts jobs into the order of their shared rows. Returns those that write rows before the last one of another job: they need
/// a transaction of their own.
pub(super) fn put_in_order(jobs: &mut Vec<Box<dyn Job>>) -> Vec<Box<dyn Job>> {
    jobs.sort_by(|one, other| one.rows().shared_keys.cmp(&other.rows().shared_keys));
    let mut last_key: Option<String> = None;
    let (together, later) = jobs.drain(..).partition(|job| {
        let Some((first, last)) = &job.rows().shared_keys else { return true };
        let is_behind = last_key.as_ref().is_none_or(|key| key <= first);
        if is_behind {
            last_key = Some(last.clone());
        }
        is_behind
    });
    *jobs = together;
    later
}

struct Work<S, T, U, W, A> {
    state: S,
    work: W,
    after: A,
    outcome: Option<Result<T>>,
    answer: Option<oneshot::Sender<Result<U>>>,
    rows: RowsOfJob,
}

/// The answer to a job.
pub(super) type Answered<U> = oneshot::Receiver<Result<U>>;

/// A job whose caller waits for its result.
pub(super) fn with_answer<S, T, U, W, A>(
    state: S,
    work: W,
    after: A,
    rows: RowsOfJob,
) -> (Box<dyn Job>, Answered<U>)
where
    S: Send + 'static,
    T: Send + 'static,
    U: Send + 'static,
    W: Fn(&S, &Tx<'_>) -> Result<T> + Send + 'static,
    A: FnOnce(S, T) -> U + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    (Box::new(Work { state, work, after, outcome: None, answer: Some(answer), rows }), answered)
}

/// A job for whose result nothing waits.
pub(super) fn without_answer<W>(work: W) -> Box<dyn Job>
where
    W: Fn(&(), &Tx<'_>) -> Result<()> + Send + 'static,
{
    let after = |(), ()| ();
    Box::new(Work { state: (), work, after, outcome: None, answer: None, rows: RowsOfJob::default() })
}

impl<S, T, U, W, A> Job for Work<S, T, U, W, A>
where
    S: Send,
    T: Send,
    U: Send,
    W: Fn(&S, &Tx<'_>) -> Result<T> + Send,
    A: FnOnce(S, T) -> U + Send,
{
    fn rows(&self) -> &RowsOfJob {
        &self.rows
    }

    fn is_abandoned(&self) -> bool {
        self.answer.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    fn run(&mut self, tx: &Tx<'_>) -> std::result::Result<(), CommitError> {
        // A panic in a job must not end the writer.
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
                // Dropping the state may update memory, which must happen before the caller continues.
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
            // The target of `telemetry::FLOOD`, which this layer does not import.
            (None, Err(error)) => {
                tracing::warn!(target: "pillarbox::flood", "a change for which no request waits was not written: {error}");
            }
            (None, Ok(_)) => {}
        }
    }
}

fn failure_of(panic: &Box<dyn Any + Send>) -> StoreError {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    StoreError::Failed(format!("a job of the store panicked: {}", message.unwrap_or("no message")))
}

/// Why a transaction was not committed, for each of its jobs.
pub(super) enum CommitError {
    DiskFull,
    OutcomeUnknown,
    Failed(String),
}

impl CommitError {
    pub(super) fn as_store_error(&self) -> StoreError {
        match self {
            Self::DiskFull => StoreError::DiskFull,
            Self::OutcomeUnknown => StoreError::OutcomeUnknown,
            Self::Failed(message) => StoreError::Failed(message.clone()),
        }
    }
}

impl From<&StoreError> for CommitError {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::DiskFull => Self::DiskFull,
            StoreError::OutcomeUnknown => Self::OutcomeUnknown,
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<DatabaseError> for CommitError {
    fn from(error: DatabaseError) -> Self {
        Self::from(&StoreError::from(error))
    }
}
