use std::sync::Arc;

use crate::mail::{Content, Timestamp};
use crate::model::{DeliveryId, Environment, MessageId, TenantId};
use crate::store::dispatch::store_trait;
use crate::store::{
    ContentFile, Delivery, DuePage, DueRange, Message, NewMessage, ParkedRow, RecordBatch, Result, SpoolFeed,
    StoredContent, SubmissionKey,
};

store_trait! {
    /// Messages on their way: what is durable of the queue. What is decided in memory is [`crate::queue`]'s, as far as it
    /// needs to know of a commit through [`Spool::feed`].
    pub trait Spool {
        /// What the queue manager of this process has to know of commits. It begins with what is known when the store is
        /// opened, and has one reader.
        fn feed(&self) -> Arc<SpoolFeed>;
        /// Writes a message, its body, a delivery for each recipient and its event, in one transaction. Answers only
        /// after the commit is synced.
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
        /// One page of what is due for each range, in their order.
        async fn due_pages(&self, ranges: Vec<DueRange>, now: Timestamp) -> Result<Vec<DuePage>>;
        /// Open deliveries with their messages, in the order of the ids; those that are gone are left out.
        async fn take(&self, ids: Vec<DeliveryId>) -> Result<Vec<(Arc<Message>, Delivery)>>;
        /// Puts the next attempt of rows off to the end of the pause that holds them, if it still does. Answers the tenants
        /// of which a row was not put off: they are due still.
        async fn park(&self, rows: Vec<ParkedRow>) -> Result<Vec<TenantId>>;
        /// The bytes of a message; `None` if it was deleted meanwhile. Bytes that are not those that were accepted cause an
        /// event and [`StoreError::Damaged`](crate::store::StoreError::Damaged); restored, they can be read again.
        async fn content(&self, id: MessageId) -> Result<Option<Content>>;
        /// Where the bytes of a message are and how many; reads none of them. `None` if it was deleted meanwhile.
        async fn stored_content(&self, id: MessageId) -> Result<Option<StoredContent>>;
        /// Opens the file of a message, for a caller that reads it in pieces, and verifies its bytes as [`Self::content`]
        /// does. `None` if it was deleted meanwhile, or has no file.
        async fn open_content(&self, id: MessageId) -> Result<Option<ContentFile>>;
        /// Writes what came of attempts, with their events, suppressions and the report, in one transaction. Deliveries
        /// deleted meanwhile are passed over.
        async fn record(&self, records: RecordBatch) -> Result<()>;
        /// How many deliveries are not finished.
        async fn count_open(&self) -> Result<u64>;
    }
}
