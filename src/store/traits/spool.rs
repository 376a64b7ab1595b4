use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::limits::auth_limiter::BanChange;
use crate::mail::{Content, Timestamp};
use crate::model::{DeliveryId, Environment, MessageId, TenantId};
use crate::store::traits::store_trait;
use crate::store::{
    AnnouncedBackoff, ContentFile, Delivery, DuePage, DueRange, Lease, Message, NewMessage, Nodes, PausedRow,
    RecordBatch, Result, SpoolFeed, StoredContent, SubmissionKey,
};

store_trait! {
    /// Messages and deliveries. [`crate::queue`] decides in memory what is delivered when, and learns of commits through
    /// [`Spool::feed`].
    pub trait Spool {
        /// The committed changes for the queue manager of this process, its only reader. It begins with the state at the time
        /// the store was opened.
        fn feed(&self) -> Arc<SpoolFeed>;
        /// Writes a message, its body, a delivery for each recipient and an event in one transaction. Returns after the commit
        /// is synced.
        ///
        /// Returns the id of the message. If the same message was submitted with its [`SubmissionKey`] within
        /// [`SUBMISSION_KEY_LIFETIME`](crate::store::SUBMISSION_KEY_LIFETIME), writes nothing and returns the id of that one.
        /// Fails with [`Conflict::SubmissionKey`](crate::store::Conflict::SubmissionKey), [`Conflict::NoTenant`](crate::store::Conflict::NoTenant).
        async fn enqueue(&self, new: NewMessage) -> Result<MessageId>;
        /// Enqueues messages in one transaction, each as [`Spool::enqueue`] does. Returns their ids in the same order.
        async fn enqueue_all(&self, news: Vec<NewMessage>) -> Result<Vec<MessageId>>;
        /// The message that was submitted with a key within its lifetime. Fails with [`Conflict::SubmissionKey`](crate::store::Conflict::SubmissionKey).
        async fn find_submission(
            &self,
            tenant: TenantId,
            environment: Environment,
            key: &SubmissionKey,
            now: Timestamp,
        ) -> Result<Option<MessageId>>;
        /// A page of due deliveries for each range, in the order of the ranges.
        async fn due_pages(&self, ranges: Vec<DueRange>, now: Timestamp) -> Result<Vec<DuePage>>;
        /// Claims deliveries for this process, in a database that several processes serve. Returns those that are open and that
        /// no other process has, with their messages, in the order of the ids.
        async fn take(&self, ids: Vec<DeliveryId>, now: Timestamp) -> Result<Vec<(Arc<Message>, Delivery)>>;
        /// Ends claims of this process without a result. Other processes may claim the deliveries soon after.
        fn release(&self, ids: Vec<DeliveryId>);
        /// Whether this process may accept and deliver. Always fresh if no other process serves the database.
        fn lease(&self) -> Lease;
        /// Changes of [`Self::lease`].
        fn watch_lease(&self) -> watch::Receiver<Lease>;
        /// The processes that serve the database.
        fn nodes(&self) -> Nodes;
        /// Tells the other nodes of a ban or its lift. Without other nodes it does nothing.
        async fn announce_ban(&self, change: BanChange) -> Result<()>;
        /// Bans that nodes have announced within an hour, the oldest first.
        async fn announced_bans(&self) -> Result<Vec<BanChange>>;
        /// Those that they announce from now on, for one reader. `None` without other nodes.
        fn take_ban_feed(&self) -> Option<mpsc::Receiver<BanChange>>;
        /// Tells the other nodes of back-offs of sites, in one transaction that runs alone.
        async fn announce_backoffs(&self, backoffs: Vec<AnnouncedBackoff>) -> Result<()>;
        /// Those of other nodes, for one reader. `None` without other nodes.
        fn take_backoff_feed(&self) -> Option<mpsc::Receiver<AnnouncedBackoff>>;
        /// Moves the next attempt of deliveries to the end of the pause of their destination, if that pause still exists.
        /// Returns the tenants with a delivery that was not moved: it is still due.
        async fn postpone_paused(&self, rows: Vec<PausedRow>) -> Result<Vec<TenantId>>;
        /// The content of a message; `None` if it was deleted. Content that differs from what was accepted appends an event and
        /// fails with [`StoreError::Damaged`](crate::store::StoreError::Damaged), until the operator restores it.
        async fn content(&self, id: MessageId, now: Timestamp) -> Result<Option<Content>>;
        /// Where the content of a message is stored, and its size; reads no content. `None` if it was deleted.
        async fn stored_content(&self, id: MessageId, now: Timestamp) -> Result<Option<StoredContent>>;
        /// Opens the file of a message, for a caller that reads it in pieces, and verifies its content as [`Self::content`]
        /// does. `None` if it was deleted or has no file.
        async fn open_content(&self, id: MessageId, now: Timestamp) -> Result<Option<ContentFile>>;
        /// Writes the results of attempts with their events, suppressions and the report in one transaction. Ignores deliveries
        /// that were deleted.
        async fn record(&self, records: RecordBatch) -> Result<()>;
        /// The number of unfinished deliveries.
        async fn count_open(&self) -> Result<u64>;
    }
}
