use tokio::sync::watch;

use crate::mail::Timestamp;
use crate::model::{DeliveryId, EventId, KeyId, MessageId, RequestId, TenantId};
use crate::store::traits::store_trait;
use crate::store::{
    Attempt, Delivery, Event, EventFilter, EventPage, IdempotentResponse, JournalCursor, JournalEntry,
    Message, MessageFilter, MessagePage, NewEvent, Page, PageRequest, Pruned, Rejection, RejectionFilter,
    Result, RetentionPolicy, StoreCounts,
};

store_trait! {
    /// Messages, attempts and events for the API; search and retention.
    pub trait Journal {
        /// One message.
        async fn message(&self, scope: Option<TenantId>, id: MessageId) -> Result<Option<Message>>;
        /// A page of messages with the states of their deliveries, newest first. A search first indexes what was accepted
        /// since the last [`Journal::index_messages`], up to the limit of one round.
        async fn list_messages(&self, filter: MessageFilter, page: PageRequest) -> Result<MessagePage>;
        /// Adds the next accepted messages to the search index. True if there may be more.
        async fn index_messages(&self) -> Result<bool>;
        /// The deliveries of a message, in the order of its recipients.
        async fn deliveries(&self, message: MessageId) -> Result<Vec<Delivery>>;
        /// The attempts of a message or of one of its deliveries: at most `limit`, the oldest first.
        async fn attempts(
            &self,
            message: MessageId,
            delivery: Option<DeliveryId>,
            limit: usize,
        ) -> Result<Page<Attempt>>;
        /// The events of a message: at most `limit`, the oldest first. With a delivery, only its events and those of the whole
        /// message.
        async fn message_events(
            &self,
            message: MessageId,
            delivery: Option<DeliveryId>,
            limit: usize,
        ) -> Result<Page<Event>>;
        /// Appends an event that no other method appends.
        async fn append(&self, event: NewEvent) -> Result<()>;
        /// A page of events, newest first. A page reads a bounded part of the journal, so a short page need not be the last.
        async fn list_events(&self, filter: EventFilter, page: PageRequest) -> Result<EventPage>;
        /// At most `limit` events of all tenants after a position, in the order of commits.
        async fn events_after(&self, after: JournalCursor, limit: usize) -> Result<Page<JournalEntry>>;
        /// The next events after a position that a filter takes, in the order of commits, and where to continue; `None` at the
        /// end of the journal. Reads a bounded part of the journal, as [`Journal::list_events`] does.
        async fn filtered_events_after(
            &self,
            filter: EventFilter,
            after: JournalCursor,
        ) -> Result<(Vec<JournalEntry>, Option<JournalCursor>)>;
        /// The position after an event, for a client that knows only its id. The event may have been deleted.
        async fn cursor_of(&self, event: EventId) -> Result<JournalCursor>;
        /// The position up to which the journal is complete, with what was committed before the call. On an engine with
        /// several writers, a transaction that is in progress holds it back.
        async fn end_of_journal(&self) -> Result<JournalCursor>;
        /// The position up to which the journal is complete, kept up to date. On an engine with several writers it follows
        /// commits within 200 ms, and stands still while nobody watches. [`Journal::events_after`] and
        /// [`Journal::filtered_events_after`] read up to here.
        fn watch_events(&self) -> watch::Receiver<JournalCursor>;
        /// Counts since the store was opened.
        fn counts(&self) -> StoreCounts;
        /// Records a refused submission and its event. Never waits for the disk: it is dropped if too many are pending.
        fn reject(&self, rejection: Rejection);
        /// A page of refused submissions, newest first.
        async fn list_rejections(
            &self,
            filter: RejectionFilter,
            page: PageRequest,
        ) -> Result<Page<Rejection>>;
        /// A refused submission; `None` if it belongs to another tenant.
        async fn rejection(&self, scope: Option<TenantId>, id: RequestId) -> Result<Option<Rejection>>;
        /// The response to a request with this `Idempotency-Key` within [`IDEMPOTENT_RESPONSE_LIFETIME`](crate::store::IDEMPOTENT_RESPONSE_LIFETIME).
        async fn idempotent_response(
            &self,
            key: KeyId,
            name: &str,
            now: Timestamp,
        ) -> Result<Option<IdempotentResponse>>;
        /// The octets of responses that were stored for a tenant on this day (UTC).
        async fn response_octets_of_day(&self, tenant: TenantId, now: Timestamp) -> Result<u64>;
        /// Stores the response to a request with an `Idempotency-Key`. An earlier response within its lifetime is not replaced.
        async fn store_idempotent_response(
            &self,
            key: KeyId,
            name: &str,
            response: IdempotentResponse,
            now: Timestamp,
        ) -> Result<()>;
        /// On PostgreSQL, makes the partitions of the next weeks and days.
        async fn extend_partitions(&self, now: Timestamp) -> Result<()>;
        /// Deletes bodies and rows whose retention has ended, at most `limit` of each kind, and released body files.
        async fn prune(&self, policy: RetentionPolicy, now: Timestamp, limit: usize) -> Result<Pruned>;
        /// Moves the write-ahead log into the database and truncates it.
        async fn checkpoint(&self) -> Result<()>;
        /// Tests whether mail can be stored, with a synced file and a synced commit. Runs at most once a second; other callers
        /// get the last result.
        async fn probe(&self) -> Result<()>;
    }
}
