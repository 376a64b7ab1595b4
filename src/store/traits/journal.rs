use tokio::sync::watch;

use crate::mail::Timestamp;
use crate::model::{DeliveryId, EventId, KeyId, MessageId, TenantId};
use crate::store::dispatch::store_trait;
use crate::store::{
    Attempt, Delivery, Event, EventFilter, EventPage, IdempotentResponse, JournalCursor, JournalEntry,
    Message, MessageFilter, MessagePage, NewEvent, Page, PageRequest, Pruned, Rejection, Result,
    RetentionPolicy, StoreCounts,
};

store_trait! {
    /// What happened, for people.
    pub trait Journal {
        /// One message.
        async fn message(&self, scope: Option<TenantId>, id: MessageId) -> Result<Option<Message>>;
        /// A page of messages with what their deliveries come to, newest first. What came since the last
        /// [`Journal::index_messages`] is found by more than tenant, state and time too, unless it is very much.
        async fn list_messages(&self, filter: MessageFilter, page: PageRequest) -> Result<MessagePage>;
        /// Makes the next of what was accepted known to the search. True if there may be more.
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
        /// The events of a message: at most `limit`, the oldest first. With a delivery those that are about it or about
        /// the whole message.
        async fn message_events(
            &self,
            message: MessageId,
            delivery: Option<DeliveryId>,
            limit: usize,
        ) -> Result<Page<Event>>;
        /// Notes that something happened which no other verb tells of.
        async fn append(&self, event: NewEvent) -> Result<()>;
        /// A page of events, newest first. A page looks at a bounded part of the journal, so it may hold less than was asked
        /// for and still not be the last.
        async fn list_events(&self, filter: EventFilter, page: PageRequest) -> Result<EventPage>;
        /// At most `limit` events behind a position, of all tenants, in the order in which they were committed.
        async fn events_after(&self, after: JournalCursor, limit: usize) -> Result<Page<JournalEntry>>;
        /// The position behind an event, for a client that knows the event's id only. The event may have been removed.
        async fn cursor_of(&self, event: EventId) -> Result<JournalCursor>;
        /// The position behind the last event that was committed, now and from now on.
        fn watch_events(&self) -> watch::Receiver<JournalCursor>;
        /// What was written since the store was opened.
        fn counts(&self) -> StoreCounts;
        /// Notes a refused submission and its event. Never waits for the disk: when too many wait to be written, it is dropped.
        fn reject(&self, rejection: Rejection);
        /// A page of refused submissions, newest first.
        async fn list_rejections(
            &self,
            scope: Option<TenantId>,
            page: PageRequest,
        ) -> Result<Page<Rejection>>;
        /// The answer that a request under this key's name was given within [`IDEMPOTENT_RESPONSE_LIFETIME`](crate::store::IDEMPOTENT_RESPONSE_LIFETIME).
        async fn idempotent_response(
            &self,
            key: KeyId,
            name: &str,
            now: Timestamp,
        ) -> Result<Option<IdempotentResponse>>;
        /// Keeps an answer for whoever asks again; the first one stays.
        async fn store_idempotent_response(
            &self,
            key: KeyId,
            name: &str,
            answer: IdempotentResponse,
            now: Timestamp,
        ) -> Result<()>;
        /// Removes at most `limit` each of bodies and rows whose retention has ended, and body files that no row refers to.
        async fn prune(&self, policy: RetentionPolicy, now: Timestamp, limit: usize) -> Result<Pruned>;
        /// Moves the write-ahead log into the database and gives its space back.
        async fn checkpoint(&self) -> Result<()>;
        /// Whether mail can be stored: does what an acceptance does, with a synced file and a synced commit. Runs at most once a
        /// second; callers in between get the last result.
        async fn probe(&self) -> Result<()>;
    }
}
