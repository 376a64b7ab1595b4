use std::collections::HashSet;

use crate::mail::Timestamp;
use crate::model::{DeliveryId, MessageId, QueueFilter, TenantId};
use crate::store::dispatch::store_trait;
use crate::store::{OpenDeliveries, Pause, QueueOverview, QueueRequest, Result};

store_trait! {
    /// What waits, for people to see and to steer: the durable part of it.
    pub trait Queue {
        /// Counts what waits, by tenant and destination, the deepest group first. The count may be as old as ten times
        /// the time it takes, and costs nobody else anything. `in_flight` are the deliveries that the relay has.
        async fn overview(
            &self,
            request: QueueRequest,
            in_flight: HashSet<DeliveryId>,
            now: Timestamp,
        ) -> Result<QueueOverview>;
        /// Hands nothing of a part out until it is resumed or the time has come; a pause of the same part is replaced.
        /// What the relay has already is delivered. [`Conflict::NoTenant`](crate::store::Conflict::NoTenant), [`Conflict::LimitReached`](crate::store::Conflict::LimitReached).
        async fn pause(&self, pause: Pause) -> Result<Pause>;
        /// Ends the pause of exactly this part and makes what it held due. False if there was none.
        async fn resume(&self, part: QueueFilter, now: Timestamp) -> Result<bool>;
        /// The pauses that hold at a time, the latest first.
        async fn pauses(&self, now: Timestamp) -> Result<Vec<Pause>>;
        /// Ends what a resumption that was broken off by a crash left undone, and forgets pauses that ended long ago.
        async fn expire_pauses(&self, now: Timestamp) -> Result<()>;
        /// Makes what was tried and waits for its next try due now; counts it. In steps: commits of others come between.
        async fn flush(&self, part: QueueFilter, now: Timestamp) -> Result<u64>;
        /// The open deliveries of a message.
        async fn open_deliveries(&self, message: MessageId) -> Result<OpenDeliveries>;
        /// Makes those of a tenant's deliveries due now that were tried and wait for their next try. Answers which.
        async fn make_due(
            &self,
            tenant: TenantId,
            ids: Vec<DeliveryId>,
            now: Timestamp,
        ) -> Result<Vec<DeliveryId>>;
        /// Ends deliveries of a message, each with its event. Answers which of them were open. The caller has claimed them.
        async fn cancel(
            &self,
            message: MessageId,
            ids: Vec<DeliveryId>,
            now: Timestamp,
        ) -> Result<Vec<DeliveryId>>;
    }
}
