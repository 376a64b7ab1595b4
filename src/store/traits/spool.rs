use crate::mail::{Content, Timestamp};
use crate::model::{DeliveryId, Environment, MessageId, TenantId};
use crate::store::dispatch::store_trait;
use crate::store::{Batch, ClaimRoom, Claimed, NewMessage, QueueDepth, RecordBatch, Result, SubmissionKey};

store_trait! {
    /// Messages on their way.
    pub trait Spool {
        /// Writes a message, its body, a delivery for each recipient and its event, in one transaction. Answers only
        /// after the commit is synced. Where there is room in memory the message is then claimed without a read.
        ///
        /// The answer is the message's id; if the same was submitted under its [`SubmissionKey`] within
        /// [`SUBMISSION_KEY_LIFETIME`](crate::store::SUBMISSION_KEY_LIFETIME), nothing is written and the answer is the id of that one.
        /// [`Conflict::SubmissionKey`](crate::store::Conflict::SubmissionKey), [`Conflict::NoTenant`](crate::store::Conflict::NoTenant).
        async fn enqueue(&self, new: NewMessage) -> Result<MessageId>;
        /// The message that was enqueued under a key and is known by it still. [`Conflict::SubmissionKey`](crate::store::Conflict::SubmissionKey).
        async fn submitted_before(
            &self,
            tenant: TenantId,
            environment: Environment,
            key: &SubmissionKey,
            now: Timestamp,
        ) -> Result<Option<MessageId>>;
        /// Takes due deliveries that nobody has claimed yet, grouped by message and destination. What it answers is
        /// the caller's until [`Spool::record`] or [`Spool::release`].
        async fn claim_due(&self, now: Timestamp, room: &ClaimRoom) -> Result<Claimed>;
        /// Takes of what was accepted just now and waits in memory as much as there is room for, also while
        /// [`Spool::claim_due`] looks into the database, whose matter the rest is.
        fn claim_fresh(&self, room: &ClaimRoom) -> Result<Vec<Batch>>;
        /// Completes when there may be something for [`Spool::claim_fresh`].
        async fn wait_for_fresh(&self) -> ();
        /// Completes when [`Spool::claim_due`] may have something earlier than its last answer said.
        async fn wait_for_work(&self) -> ();
        /// The bytes of a message; `None` if it was deleted meanwhile.
        async fn content(&self, id: MessageId) -> Result<Option<Content>>;
        /// Writes what came of attempts, with their events, suppressions and the report, in one transaction, and
        /// ends the claims. A report is handed over like any other message. Deliveries deleted meanwhile are passed over.
        /// After an error the claims are still the caller's, to be recorded again or released.
        async fn record(&self, records: RecordBatch) -> Result<()>;
        /// Ends claims without a trace: the deliveries are due as they were.
        fn release(&self, ids: &[DeliveryId]);
        /// How many deliveries wait, and how many of them are claimed.
        async fn depth(&self) -> Result<QueueDepth>;
    }
}
