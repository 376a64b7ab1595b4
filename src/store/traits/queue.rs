use std::collections::HashSet;

use tokio::sync::mpsc;

use crate::mail::Timestamp;
use crate::model::{DeliveryId, MessageId, QueueFilter, TenantId};
use crate::store::traits::store_trait;
use crate::store::{
    AnnouncedCancellation, OpenDeliveries, Pause, QueueOverview, QueueRequest, ReleaseMode, Restoration,
    Result,
};

store_trait! {
    /// What operators see and change of waiting mail, as far as it is stored.
    pub trait Queue {
        /// Counts open deliveries by tenant and destination, the largest group first. Counts are cached for ten times as long
        /// as counting took. `in_flight` are the deliveries that the relay has.
        async fn overview(
            &self,
            request: QueueRequest,
            in_flight: HashSet<DeliveryId>,
            now: Timestamp,
        ) -> Result<QueueOverview>;
        /// Pauses a part of the queue; replaces a pause of the same part. Deliveries that the relay already has go on. Fails
        /// with [`Conflict::NoTenant`](crate::store::Conflict::NoTenant) or [`Conflict::TooManyPauses`](crate::store::Conflict::TooManyPauses).
        async fn pause(&self, pause: Pause) -> Result<Pause>;
        /// Ends the pause of exactly this part and makes its deliveries due. False if it was not paused.
        async fn resume(&self, part: QueueFilter, now: Timestamp) -> Result<bool>;
        /// The pauses in force at a time, the latest first.
        async fn pauses(&self, now: Timestamp) -> Result<Vec<Pause>>;
        /// Finishes resumptions that a crash interrupted, and deletes pauses that ended long ago.
        async fn expire_pauses(&self, now: Timestamp) -> Result<()>;
        /// The restored backup whose deliveries are not released yet.
        async fn restoration(&self) -> Result<Option<Restoration>>;
        /// Releases deliveries of a restored backup, in steps between which others commit. Returns their number. The restoration
        /// ends with the last one.
        async fn release_restored(&self, part: QueueFilter, mode: ReleaseMode, now: Timestamp) -> Result<u64>;
        /// Makes deferred deliveries due now, in steps between which others commit. Returns their number.
        async fn flush(&self, part: QueueFilter, now: Timestamp) -> Result<u64>;
        /// The unfinished deliveries of a message.
        async fn open_deliveries(&self, message: MessageId) -> Result<OpenDeliveries>;
        /// Makes those of a tenant's deliveries due now that are deferred and that no process has. Returns these.
        async fn make_due(
            &self,
            tenant: TenantId,
            ids: Vec<DeliveryId>,
            now: Timestamp,
        ) -> Result<Vec<DeliveryId>>;
        /// Cancels deliveries of a message and appends their events. Returns those that were open and that no other node has. The
        /// caller has claimed them.
        async fn cancel(
            &self,
            message: MessageId,
            ids: Vec<DeliveryId>,
            now: Timestamp,
        ) -> Result<Vec<DeliveryId>>;
        /// Asks the other nodes to cancel what they have of these deliveries. Without other nodes it does nothing.
        async fn announce_cancellation(&self, asked: AnnouncedCancellation) -> Result<()>;
        /// What other nodes ask for, for one reader. `None` without other nodes.
        fn take_cancellation_feed(&self) -> Option<mpsc::Receiver<AnnouncedCancellation>>;
    }
}
