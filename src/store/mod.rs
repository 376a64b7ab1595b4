//! Durability: the only place with SQL. Callers see the verbs of the three roles and record structs.
//!
//! * [`Directory`]: tenants, domains, keys, suppressions: what may be sent by whom.
//! * [`Spool`]: messages and deliveries: accepting, claiming, recording what became of them.
//! * [`Queue`]: what waits, for people to see and to steer.
//! * [`Journal`]: events and the state of messages for people to read.
//! * [`Ledger`]: how much tenants used.
//! * [`Outbox`]: where events are told, and what is still to be told there.
//! * [`Policies`]: what destinations ask of those who send to them.
//! * [`TlsResults`]: how TLS with their hosts went, until it is reported to them.
//!
//! One process owns a spool. What is claimed is known in memory only, so a claim writes nothing and
//! after a crash everything unfinished is simply due. Imports `mail` and `durable_file`.

#[cfg(test)]
mod contract;
mod records;
mod sqlite;

use std::future::Future;

use tokio::sync::watch;

use crate::mail::{Content, Date, DomainName, Host, SignedDuration, Timestamp};
use crate::model::{
    DeliveryId, DkimKeyId, DomainId, Environment, EventId, KeyId, MessageId, QueueFilter, SecretDigest,
    SuppressionId, TemplateId, TenantId, UsageInterval, WebhookDeliveryId, WebhookDeliveryState, WebhookId,
};

/// How long a [`SubmissionKey`] is remembered.
pub const SUBMISSION_KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(24);
/// How long a [`IdempotentResponse`] is.
pub const KEPT_ANSWER_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// MTA-STS policies that are kept; of more, those that expire first go.
pub const STS_POLICIES_MAX: usize = 10_000;
/// Kinds of TLS sessions that are counted, all domains and days together; of more, the new ones are not.
pub const TLS_RESULTS_MAX: usize = 100_000;

/// Octets of rows that one page is made of; a page ends before it has more, but for its first row.
pub const PAGE_OCTETS_MAX: usize = 2 * 1024 * 1024;

/// How long the hours of usage are kept; the days are kept as long as the tenant.
pub const USAGE_HOURS_LIFETIME: SignedDuration = SignedDuration::from_hours(90 * 24);

pub use records::*;
pub use sqlite::{Access, OpenError, Store, StoreOptions, check_master_key};

/// Why the store could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// An object of that name exists, or would overlap one of another tenant.
    #[error("{0}")]
    Conflict(Conflict),
    /// The disk is full or nearly so: nothing was written, trying later makes sense.
    #[error("the disk is full or nearly full")]
    DiskFull,
    /// The stored bytes of a message are not those that were accepted: they are not handed out.
    #[error("the content of {message} is damaged: {fault}")]
    Damaged {
        /// Whose they are.
        message: MessageId,
        /// What is wrong with them.
        fault: String,
    },
    /// The store is closing or its writer is gone.
    #[error("the store is closed")]
    Closed,
    /// Anything else that SQLite or the file system reports; nothing was written.
    #[error("{0}")]
    Failed(String),
}

/// What stands in the way of a new or changed object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The slug is in use.
    #[error("a tenant with this slug exists")]
    Slug,
    /// The tenant has this domain already.
    #[error("the tenant has this domain already")]
    DomainExists,
    /// Another tenant proved this domain, or one above or below it.
    #[error("another tenant has proved this domain, or one above or below it")]
    DomainTaken,
    /// The selector is in use for this domain.
    #[error("the domain has a DKIM key with this selector")]
    Selector,
    /// The tenant used this key for another submission within [`SUBMISSION_KEY_LIFETIME`].
    #[error("this idempotency key was used for another message")]
    SubmissionKey,
    /// The tenant has a template of this name.
    #[error("the tenant has a template of this name")]
    TemplateName,
    /// The tenant an object should belong to does not exist.
    #[error("there is no such tenant")]
    NoTenant,
    /// There are as many pauses of the queue as there may be.
    #[error("there are as many pauses as there may be: 1000")]
    TooManyHolds,
    /// As much is pending for the webhook as may be.
    #[error("as much is waiting for this webhook as may wait")]
    WebhookBacklog,
    /// The tenant has as many of these as a tenant may.
    #[error("the tenant has as many {} as a tenant may: {}", .0.plural(), .0.rows_max())]
    LimitReached(Limited),
}

/// What the verbs answer.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Tenants, domains, keys and suppressions. A `tenant` argument of `Option<TenantId>` is the scope of the
/// caller: `None` is the platform and sees all; a foreign object is as absent as one that never was.
pub trait Directory {
    /// A number that changes whenever a tenant, a domain or a key changes through this store.
    fn directory_version(&self) -> u64;

    /// Adds a tenant. [`Conflict::Slug`].
    fn create_tenant(&self, new: NewTenant, now: Timestamp) -> impl Future<Output = Result<Tenant>> + Send;
    /// One tenant.
    fn tenant(&self, id: TenantId) -> impl Future<Output = Result<Option<Tenant>>> + Send;
    /// One tenant by its slug.
    fn tenant_by_slug(&self, slug: &str) -> impl Future<Output = Result<Option<Tenant>>> + Send;
    /// A page of tenants, newest first.
    fn list_tenants(
        &self,
        filter: TenantFilter,
        page: PageRequest,
    ) -> impl Future<Output = Result<Page<Tenant>>> + Send;
    /// Changes what the patch names; a change of status appends its event and wakes the relay. Where its mail goes to
    /// or comes from changes, what waits for another try is due ([`Queue::flush`]).
    fn update_tenant(
        &self,
        id: TenantId,
        patch: TenantPatch,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Tenant>>> + Send;
    /// The smart host's password in clear, for the relay.
    fn smart_host_password(&self, id: TenantId) -> impl Future<Output = Result<Option<String>>> + Send;
    /// Counts everything of a tenant. With `delete` suspends it and removes it, step by step so that the commits of
    /// others come between, and counts what was removed. Broken off, it leaves a suspended tenant: ask again.
    fn remove_tenant(
        &self,
        id: TenantId,
        delete: bool,
    ) -> impl Future<Output = Result<Option<TenantCounts>>> + Send;

    /// Claims a domain for a tenant together with its first DKIM keys.
    /// [`Conflict::DomainExists`], [`Conflict::DomainTaken`], [`Conflict::LimitReached`], [`Conflict::NoTenant`].
    fn create_domain(&self, new: NewDomain, now: Timestamp) -> impl Future<Output = Result<Domain>> + Send;
    /// One domain.
    fn domain(
        &self,
        scope: Option<TenantId>,
        id: DomainId,
    ) -> impl Future<Output = Result<Option<Domain>>> + Send;
    /// A page of domains, newest first.
    fn list_domains(
        &self,
        filter: DomainFilter,
        page: PageRequest,
    ) -> impl Future<Output = Result<Page<Domain>>> + Send;
    /// The tenant's domains at or above a name, and for the test environment the platform's sandbox domain
    /// if the name is at or under it; the closest first.
    fn domains_covering(
        &self,
        tenant: TenantId,
        environment: Environment,
        name: &DomainName,
    ) -> impl Future<Output = Result<Vec<Domain>>> + Send;
    /// Changes what the patch names. Turning to manual verification verifies the domain and lets its pending DKIM keys
    /// sign: [`Conflict::DomainTaken`]; the claims of others on it turn `taken`.
    fn update_domain(
        &self,
        id: DomainId,
        patch: DomainPatch,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Domain>>> + Send;
    /// Writes what a look at the DNS found, the status that follows from it and its event. Where the status
    /// becomes verified but another tenant was faster, the domain turns `taken` instead.
    fn record_domain_check(
        &self,
        id: DomainId,
        check: DomainCheck,
    ) -> impl Future<Output = Result<Option<Domain>>> + Send;
    /// The tenants that have domains for [`Directory::domains_to_check`].
    fn tenants_to_check(&self, before: Timestamp) -> impl Future<Output = Result<Vec<TenantId>>> + Send;
    /// A tenant's DNS-verified, pending and failing domains whose last check is older than `before`, the longest
    /// unchecked first.
    fn domains_to_check(
        &self,
        tenant: TenantId,
        before: Timestamp,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Domain>>> + Send;
    /// Removes a domain and its keys. False if it was not there.
    fn delete_domain(&self, id: DomainId) -> impl Future<Output = Result<bool>> + Send;
    /// The platform's domain for test senders, if it was made.
    fn sandbox_domain(&self, name: &DomainName) -> impl Future<Output = Result<Option<Domain>>> + Send;
    /// The platform's domain for test senders; made with these keys if there is none of that name.
    fn ensure_sandbox_domain(
        &self,
        new: NewDomain,
        now: Timestamp,
    ) -> impl Future<Output = Result<Domain>> + Send;

    /// Adds a DKIM key in state `state`. With `Active`, active ones of its algorithm start retiring.
    /// [`Conflict::Selector`].
    fn add_dkim_key(
        &self,
        domain: DomainId,
        new: NewDkimKey,
        now: Timestamp,
    ) -> impl Future<Output = Result<DkimKey>> + Send;
    /// Removes DKIM keys that were replaced before a time, but those that sign what still waits; counts them.
    fn remove_served_dkim_keys(&self, before: Timestamp) -> impl Future<Output = Result<u64>> + Send;
    /// The DKIM keys of a domain without their private halves, oldest first.
    fn dkim_keys(&self, domain: DomainId) -> impl Future<Output = Result<Vec<DkimKey>>> + Send;
    /// The PKCS#8 form of a key's private half.
    fn dkim_private_key(
        &self,
        id: DkimKeyId,
    ) -> impl Future<Output = Result<Option<zeroize::Zeroizing<Vec<u8>>>>> + Send;

    /// Adds a key; its secret is the caller's. Of a tenant that has as many as it may, the oldest revoked one makes
    /// room. [`Conflict::LimitReached`], [`Conflict::NoTenant`].
    fn create_key(&self, new: NewKey, now: Timestamp) -> impl Future<Output = Result<Key>> + Send;
    /// One key.
    fn key(&self, scope: Option<TenantId>, id: KeyId) -> impl Future<Output = Result<Option<Key>>> + Send;
    /// The key with this secret, and its tenant unless it is a platform key.
    fn key_by_digest(
        &self,
        digest: SecretDigest,
    ) -> impl Future<Output = Result<Option<(Key, Option<Tenant>)>>> + Send;
    /// What a proof of the password of this user, a key's id or a tenant's slug, is held against. A user that is not
    /// there has something as well, with the same salt each time, so that the two cannot be told apart.
    fn scram_credential(&self, username: &str) -> impl Future<Output = Result<ScramCredential>> + Send;
    /// A page of keys, newest first.
    fn list_keys(
        &self,
        filter: KeyFilter,
        page: PageRequest,
    ) -> impl Future<Output = Result<Page<Key>>> + Send;
    /// Changes what the patch names.
    fn update_key(&self, id: KeyId, patch: KeyPatch) -> impl Future<Output = Result<Option<Key>>> + Send;
    /// Revokes a key. False if it was not there; a second time changes nothing.
    fn revoke_key(&self, id: KeyId, now: Timestamp) -> impl Future<Output = Result<bool>> + Send;
    /// Notes that a key was used; callers do so at most once a minute for a key.
    fn touch_key(&self, id: KeyId, now: Timestamp) -> impl Future<Output = Result<()>> + Send;

    /// Suppresses an address, with its event; an existing suppression of the same scope is replaced and its id kept.
    /// [`Conflict::LimitReached`], which several callers at once may pass by a few.
    fn suppress(
        &self,
        new: NewSuppression,
        now: Timestamp,
    ) -> impl Future<Output = Result<Suppression>> + Send;
    /// Suppresses many addresses as [`Directory::suppress`] does each: all of them in one transaction, or none.
    fn suppress_all(
        &self,
        news: Vec<NewSuppression>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<Suppression>>> + Send;
    /// The suppression that stops this tenant from sending to an address ([`crate::mail::Address::folded`]):
    /// its own, else the platform's; an expired one stops nothing.
    fn suppression_of(
        &self,
        tenant: TenantId,
        folded: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Suppression>>> + Send;
    /// A page of suppressions, newest first. A tenant's scope shows its own only.
    fn list_suppressions(
        &self,
        filter: SuppressionFilter,
        page: PageRequest,
    ) -> impl Future<Output = Result<Page<Suppression>>> + Send;
    /// One suppression.
    fn suppression(
        &self,
        scope: Option<TenantId>,
        id: SuppressionId,
    ) -> impl Future<Output = Result<Option<Suppression>>> + Send;
    /// Lifts a suppression, with its event. False if it was not there.
    fn lift_suppression(
        &self,
        scope: Option<TenantId>,
        id: SuppressionId,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Adds a template. [`Conflict::TemplateName`], [`Conflict::LimitReached`], [`Conflict::NoTenant`].
    fn create_template(
        &self,
        new: NewTemplate,
        now: Timestamp,
    ) -> impl Future<Output = Result<Template>> + Send;
    /// One template.
    fn template(
        &self,
        scope: Option<TenantId>,
        id: TemplateId,
    ) -> impl Future<Output = Result<Option<Template>>> + Send;
    /// A page of templates without their bodies, newest first.
    fn list_templates(
        &self,
        filter: TemplateFilter,
        page: PageRequest,
    ) -> impl Future<Output = Result<Page<TemplateSummary>>> + Send;
    /// Changes what the patch names. [`Conflict::TemplateName`].
    fn update_template(
        &self,
        id: TemplateId,
        patch: TemplatePatch,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Template>>> + Send;
    /// Removes a template. False if it was not there.
    fn delete_template(
        &self,
        scope: Option<TenantId>,
        id: TemplateId,
    ) -> impl Future<Output = Result<bool>> + Send;
}

/// Messages on their way.
pub trait Spool {
    /// Writes a message, its body, a delivery for each recipient and its event, in one transaction. Answers only
    /// after the commit is synced. Where there is room in memory the message is then claimed without a read.
    ///
    /// The answer is the message's id; if the same was submitted under its [`SubmissionKey`] within
    /// [`SUBMISSION_KEY_LIFETIME`], nothing is written and the answer is the id of that one.
    /// [`Conflict::SubmissionKey`], [`Conflict::NoTenant`].
    fn enqueue(&self, new: NewMessage) -> impl Future<Output = Result<MessageId>> + Send;
    /// The message that was enqueued under a key and is known by it still. [`Conflict::SubmissionKey`].
    fn submitted_before(
        &self,
        tenant: TenantId,
        environment: Environment,
        key: &SubmissionKey,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<MessageId>>> + Send;
    /// Takes due deliveries that nobody has claimed yet, grouped by message and destination. What it answers is
    /// the caller's until [`Spool::record`] or [`Spool::release`].
    fn claim_due(&self, now: Timestamp, room: &ClaimRoom) -> impl Future<Output = Result<Claimed>> + Send;
    /// Takes of what was accepted just now and waits in memory as much as there is room for, also while
    /// [`Spool::claim_due`] looks into the database, whose matter the rest is.
    fn claim_fresh(&self, room: &ClaimRoom) -> Result<Vec<Batch>>;
    /// Completes when there may be something for [`Spool::claim_fresh`].
    fn wait_for_fresh(&self) -> impl Future<Output = ()> + Send;
    /// Completes when [`Spool::claim_due`] may have something earlier than its last answer said.
    fn wait_for_work(&self) -> impl Future<Output = ()> + Send;
    /// The bytes of a message; `None` if it was deleted meanwhile. Bytes that are not those that were accepted are an
    /// event and [`StoreError::Damaged`]: restored, they can be read again.
    fn content(&self, id: MessageId) -> impl Future<Output = Result<Option<Content>>> + Send;
    /// How the bytes of a message are kept, for who reads them piece by piece; `None` if it was deleted meanwhile.
    fn stored_content(&self, id: MessageId) -> impl Future<Output = Result<Option<StoredContent>>> + Send;
    /// Writes what came of attempts, with their events, suppressions and the report, in one transaction, and
    /// ends the claims. A report is handed over like any other message. Deliveries deleted meanwhile are passed over.
    /// After an error the claims are still the caller's, to be recorded again or released.
    fn record(&self, records: RecordBatch) -> impl Future<Output = Result<()>> + Send;
    /// Ends claims without a trace: the deliveries are due as they were.
    fn release(&self, ids: &[DeliveryId]);
    /// How many deliveries wait, and how many of them are claimed.
    fn depth(&self) -> impl Future<Output = Result<QueueDepth>> + Send;
}

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
    /// What the relay has already is delivered. [`Conflict::NoTenant`], [`Conflict::LimitReached`].
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

/// What tenants used. Counted in the transaction that causes it, but for requests to the API.
pub trait Ledger {
    /// What a tenant used in the hours or days that begin at `from` or later and before `to`, in their order; those in
    /// which nothing was used are left out. Hours are kept for [`USAGE_HOURS_LIFETIME`].
    fn usage(
        &self,
        tenant: TenantId,
        interval: UsageInterval,
        from: Timestamp,
        to: Timestamp,
    ) -> impl Future<Output = Result<Vec<Usage>>> + Send;
    /// Adds requests to the API; those of a tenant that is gone are dropped.
    fn count_requests(&self, requests: Vec<(UsedBy, u64)>) -> impl Future<Output = Result<()>> + Send;
    /// Appends the event that a tenant nears a send limit or has reached it, once in a period. Never waits for the
    /// disk: when too many wait to be written, it is dropped.
    fn warn_of_limit(&self, warning: LimitWarning);
}

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
    ) -> impl Future<Output = Result<Page<Attempt>>> + Send;
    /// The events of a message: at most `limit`, the oldest first. With a delivery those that are about it or about
    /// the whole message.
    fn message_events(
        &self,
        message: MessageId,
        delivery: Option<DeliveryId>,
        limit: usize,
    ) -> impl Future<Output = Result<Page<Event>>> + Send;
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
    fn events_after(&self, after: EventId, limit: usize) -> impl Future<Output = Result<Page<Event>>> + Send;
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
    /// The answer that a request under this key's name was given within [`KEPT_ANSWER_LIFETIME`].
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
    /// Whether mail can be stored: does what an acceptance does, with a file and a commit that are synced. Made once a second
    /// at most; who asks more often hears the last outcome.
    fn probe(&self) -> impl Future<Output = Result<()>> + Send;
}

/// Where events are told. What an endpoint is to be told is written in the transaction of the event.
pub trait Outbox {
    /// Events that are still to be told, to all endpoints together.
    fn webhook_backlog(&self) -> impl Future<Output = Result<u64>> + Send;
    /// Adds an endpoint. [`Conflict::LimitReached`], [`Conflict::NoTenant`].
    fn create_webhook(&self, new: NewWebhook, now: Timestamp)
    -> impl Future<Output = Result<Webhook>> + Send;
    /// One endpoint.
    fn webhook(
        &self,
        scope: Option<TenantId>,
        id: WebhookId,
    ) -> impl Future<Output = Result<Option<Webhook>>> + Send;
    /// A page of endpoints, newest first.
    fn list_webhooks(
        &self,
        filter: WebhookFilter,
        page: PageRequest,
    ) -> impl Future<Output = Result<Page<Webhook>>> + Send;
    /// Changes what the patch names.
    fn update_webhook(
        &self,
        id: WebhookId,
        patch: WebhookPatch,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Webhook>>> + Send;
    /// Puts a new secret in the place of the present one, which signs too until `previous_until`.
    fn rotate_webhook_secret(
        &self,
        id: WebhookId,
        secret: WebhookSecret,
        previous_until: Timestamp,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Webhook>>> + Send;
    /// Removes an endpoint and what it was told, step by step. Broken off, it leaves a disabled endpoint: ask again.
    /// False if it was not there.
    fn delete_webhook(&self, id: WebhookId) -> impl Future<Output = Result<bool>> + Send;
    /// Tells an endpoint an event that is in no journal. `None` if the endpoint is not there.
    /// [`Conflict::WebhookBacklog`].
    fn test_webhook(
        &self,
        id: WebhookId,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<WebhookDelivery>>> + Send;
    /// A page of what an endpoint was told or is to be told, newest first.
    fn list_webhook_deliveries(
        &self,
        webhook: WebhookId,
        state: Option<WebhookDeliveryState>,
        page: PageRequest,
    ) -> impl Future<Output = Result<Page<WebhookDelivery>>> + Send;
    /// One of them.
    fn webhook_delivery(
        &self,
        id: WebhookDeliveryId,
    ) -> impl Future<Output = Result<Option<WebhookDelivery>>> + Send;
    /// Makes it due now, as if it had never been tried. [`Conflict::WebhookBacklog`].
    fn replay_webhook_delivery(
        &self,
        id: WebhookDeliveryId,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<WebhookDelivery>>> + Send;

    /// Takes the endpoints that may have something due, and says when the next will.
    fn take_due_webhooks(&self, now: Timestamp) -> (Vec<WebhookId>, Option<Timestamp>);
    /// Completes when there may be something due earlier than the last answer said.
    fn wait_for_webhook_work(&self) -> impl Future<Output = ()> + Send;
    /// At most `limit` of what an endpoint is to be told now, beside what is in flight. `None` if it is gone or disabled.
    fn claim_webhook(
        &self,
        id: WebhookId,
        flights: WebhookFlights,
        limit: usize,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<ServedWebhook>>> + Send;
    /// Has [`Outbox::take_due_webhooks`] answer the endpoint at a time.
    fn note_webhook_due(&self, id: WebhookId, at: Timestamp);
    /// Writes what came of a try; what was deleted meanwhile is passed over.
    fn record_webhook(&self, outcome: WebhookOutcome) -> impl Future<Output = Result<()>> + Send;
}

/// What destinations ask of those who send to them, so that a restart forgets none of it.
pub trait Policies {
    /// The MTA-STS policy of a domain, unless it has expired.
    fn sts_policy(
        &self,
        domain: &DomainName,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<StsRecord>>> + Send;
    /// Keeps a policy in the place of the domain's earlier one, and drops expired ones, and of more than
    /// [`STS_POLICIES_MAX`] those that expire first.
    fn keep_sts_policy(&self, record: StsRecord) -> impl Future<Output = Result<()>> + Send;
    /// Policies that were fetched before a time and have not expired: at most `limit`, the oldest first.
    fn stale_sts_policies(
        &self,
        before: Timestamp,
        now: Timestamp,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<StsRecord>>> + Send;
}

/// How TLS sessions with the hosts of domains went, counted by day (UTC), until it is reported to them (RFC 8460).
pub trait TlsResults {
    /// Adds to what is counted. Of more than [`TLS_RESULTS_MAX`] kinds the new ones are passed over.
    fn add_tls_results(&self, results: Vec<TlsResult>) -> impl Future<Output = Result<()>> + Send;
    /// Days before `today` of which there is something to report, with the domain: at most `limit`, in the order of day
    /// and domain, behind `after`.
    fn unreported_tls_days(
        &self,
        today: Date,
        after: Option<(Date, DomainName)>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(Date, DomainName)>>> + Send;
    /// What was counted for a domain on a day, in the order of policy, host and failure.
    fn tls_results(
        &self,
        day: Date,
        domain: &DomainName,
    ) -> impl Future<Output = Result<Vec<TlsResult>>> + Send;
    /// Forgets what was counted for a domain on a day.
    fn forget_tls_results(&self, day: Date, domain: &DomainName) -> impl Future<Output = Result<()>> + Send;
    /// Forgets all days before one.
    fn forget_tls_results_before(&self, day: Date) -> impl Future<Output = Result<()>> + Send;
}
