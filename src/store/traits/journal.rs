use std::future::Future;

use tokio::sync::watch;

use crate::mail::Timestamp;
use crate::model::{DeliveryId, EventId, KeyId, MessageId, TenantId};
use crate::store::{
    Attempt, Delivery, Event, EventFilter, EventPage, IdempotentResponse, Message, MessageFilter,
    MessagePage, NewEvent, Page, PageRequest, Pruned, Rejection, Result, RetentionPolicy, StoreCounts,
};

/// What happened, for people.
pub trait Journal {
    /// One message.
    fn message(
        &self,
        scope: Option<TenantId>,
        id: MessageId,
    ) -> impl Future<Output = Result<Option<Message>>> + Send;
    /// A page of messages with what their deliveries come to, newest first. What came since the last
    /// [`Journal::index_messages`] is found by more than tenant, state and time too, unless it is very much.
    fn list_messages(
        &self,
        filter: MessageFilter,
        page: PageRequest,
    ) -> impl Future<Output = Result<MessagePage>> + Send;
    /// Makes the next of what was accepted known to the search. True if there may be more.
    fn index_messages(&self) -> impl Future<Output = Result<bool>> + Send;
    /// The deliveries of a message, in the order of its recipients.
    fn deliveries(&self, message: MessageId) -> impl Future<Output = Result<Vec<Delivery>>> + Send;
    /// The attempts of a message or of one of its deliveries: at most `limit`, the oldest first.
    fn attempts(
        &self,
        message: MessageId,
        delivery: Option<DeliveryId>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Attempt>>> + Send;
    /// The events of a message: at most `limit`, the oldest first. With a delivery those that are about it or about
    /// the whole message.
    fn message_events(
        &self,
        message: MessageId,
        delivery: Option<DeliveryId>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Event>>> + Send;
    /// Notes that something happened which no other verb tells of.
    fn append(&self, event: NewEvent) -> impl Future<Output = Result<()>> + Send;
    /// A page of events, newest first. A page looks at a bounded part of the journal, so it may hold less than was asked
    /// for and still not be the last.
    fn list_events(
        &self,
        filter: EventFilter,
        page: PageRequest,
    ) -> impl Future<Output = Result<EventPage>> + Send;
    /// At most `limit` events after one, oldest first, of all tenants.
    fn events_after(&self, after: EventId, limit: usize) -> impl Future<Output = Result<Vec<Event>>> + Send;
    /// The last event that was committed, now and from now on; not itself in the journal where that is empty.
    fn watch_events(&self) -> watch::Receiver<EventId>;
    /// What was written since the store was opened.
    fn counts(&self) -> StoreCounts;
    /// Notes a refused submission and its event. Never waits for the disk: when too many wait to be written, it is dropped.
    fn reject(&self, rejection: Rejection);
    /// A page of refused submissions, newest first.
    fn list_rejections(
        &self,
        scope: Option<TenantId>,
        page: PageRequest,
    ) -> impl Future<Output = Result<Page<Rejection>>> + Send;
    /// The answer that a request under this key's name was given within [`KEPT_ANSWER_LIFETIME`](crate::store::KEPT_ANSWER_LIFETIME).
    fn kept_answer(
        &self,
        key: KeyId,
        name: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<IdempotentResponse>>> + Send;
    /// Keeps an answer for whoever asks again; the first one stays.
    fn keep_answer(
        &self,
        key: KeyId,
        name: &str,
        answer: IdempotentResponse,
        now: Timestamp,
    ) -> impl Future<Output = Result<()>> + Send;
    /// Removes at most `limit` each of bodies and rows whose retention has ended, and body files that no row refers to.
    fn prune(
        &self,
        policy: RetentionPolicy,
        now: Timestamp,
        limit: usize,
    ) -> impl Future<Output = Result<Pruned>> + Send;
    /// Moves the write-ahead log into the database and gives its space back.
    fn checkpoint(&self) -> impl Future<Output = Result<()>> + Send;
    /// One round trip to the writer and to a reader, for health checks.
    fn probe(&self) -> impl Future<Output = Result<()>> + Send;
}
