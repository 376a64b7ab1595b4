use std::future::Future;

use crate::mail::{Host, Timestamp};
use crate::model::{MessageId, QueueFilter, TenantId};
use crate::store::{Pause, QueueOverview, QueueRequest, Result, Steered};

/// What waits, for people to see and to steer.
pub trait Queue {
    /// Counts what waits, by tenant and destination, the deepest group first. The count may be as old as ten times
    /// the time it takes, and costs nobody else anything.
    fn overview(
        &self,
        request: QueueRequest,
        now: Timestamp,
    ) -> impl Future<Output = Result<QueueOverview>> + Send;
    /// Hands nothing of a part out until it is resumed or the time has come; a pause of the same part is replaced.
    /// What the relay has already is delivered. [`Conflict::NoTenant`](crate::store::Conflict::NoTenant), [`Conflict::LimitReached`](crate::store::Conflict::LimitReached).
    fn pause(&self, hold: Pause) -> impl Future<Output = Result<Pause>> + Send;
    /// Ends the pause of exactly this part and makes what it held due. False if there was none.
    fn resume(&self, part: QueueFilter, now: Timestamp) -> impl Future<Output = Result<bool>> + Send;
    /// The pauses that hold at a time, the latest first.
    fn holds(&self, now: Timestamp) -> impl Future<Output = Result<Vec<Pause>>> + Send;
    /// Ends what a resumption that was broken off by a crash left undone, and forgets pauses that ended long ago.
    fn tidy_holds(&self, now: Timestamp) -> impl Future<Output = Result<()>> + Send;
    /// Whether a pause holds a tenant's mail for a destination; without a look at the database.
    fn is_paused(&self, tenant: TenantId, destination: &Host, now: Timestamp) -> bool;
    /// Makes what was tried and waits for its next try due now; counts it. In steps: commits of others come between.
    fn flush(&self, part: QueueFilter, now: Timestamp) -> impl Future<Output = Result<u64>> + Send;
    /// The same for the deliveries of one message.
    fn retry(&self, message: MessageId, now: Timestamp) -> impl Future<Output = Result<Steered>> + Send;
    /// Ends the open deliveries of a message that the relay does not have, each with its event.
    fn cancel(&self, message: MessageId, now: Timestamp) -> impl Future<Output = Result<Steered>> + Send;
}
