use crate::mail::{Host, Timestamp};
use crate::model::{MessageId, QueueFilter, TenantId};
use crate::store::dispatch::store_trait;
use crate::store::{Pause, QueueOverview, QueueRequest, Result, Steered};

store_trait! {
    /// What waits, for people to see and to steer.
    pub trait Queue {
        /// Counts what waits, by tenant and destination, the deepest group first. The count may be as old as ten times
        /// the time it takes, and costs nobody else anything.
        async fn overview(&self, request: QueueRequest, now: Timestamp) -> Result<QueueOverview>;
        /// Hands nothing of a part out until it is resumed or the time has come; a pause of the same part is replaced.
        /// What the relay has already is delivered. [`Conflict::NoTenant`](crate::store::Conflict::NoTenant), [`Conflict::LimitReached`](crate::store::Conflict::LimitReached).
        async fn pause(&self, hold: Pause) -> Result<Pause>;
        /// Ends the pause of exactly this part and makes what it held due. False if there was none.
        async fn resume(&self, part: QueueFilter, now: Timestamp) -> Result<bool>;
        /// The pauses that hold at a time, the latest first.
        async fn holds(&self, now: Timestamp) -> Result<Vec<Pause>>;
        /// Ends what a resumption that was broken off by a crash left undone, and forgets pauses that ended long ago.
        async fn tidy_holds(&self, now: Timestamp) -> Result<()>;
        /// Whether a pause holds a tenant's mail for a destination; without a look at the database.
        fn is_paused(&self, tenant: TenantId, destination: &Host, now: Timestamp) -> bool;
        /// Makes what was tried and waits for its next try due now; counts it. In steps: commits of others come between.
        async fn flush(&self, part: QueueFilter, now: Timestamp) -> Result<u64>;
        /// The same for the deliveries of one message.
        async fn retry(&self, message: MessageId, now: Timestamp) -> Result<Steered>;
        /// Ends the open deliveries of a message that the relay does not have, each with its event.
        async fn cancel(&self, message: MessageId, now: Timestamp) -> Result<Steered>;
    }
}
