//! Contract tests: what every engine must do, tested through the traits. Each test takes an engine as its parameter, and
//! `run_on!` runs all of them on one.

#[macro_use]
mod every_test;

mod acme_accounts;
mod audit;
mod directory;
mod domains;
mod journal;
mod keys;
mod outbox;
pub(crate) mod pgbouncer;
pub(crate) mod postgres;
pub(crate) mod postgres_server;
mod reports;
mod search;
mod sending;
mod sign_ins;
mod spool;
mod sts_policies;
mod suppressions;
mod tenants;
mod tls_results;
mod usage;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::*;
use crate::mail::{
    Address, BodyType, Content, Date, DomainName, EnhancedStatus, MailParameters, ReturnContent, ReversePath,
    SignedDuration, Timestamp,
};
use crate::model::{
    AttemptId, BounceClass, DeliveryId, DeliveryState, DkimAlgorithm, DkimKeyId, DkimKeyState, Environment,
    EventId, EventKind, KeyId, KeySecret, MessageId, MessageKind, ReportEffect, ReportId, ReportKind, Scope,
    SuppressionId, TenantId, TenantStatus, TlsFailure, TlsPolicyType, UsageInterval, Verification, WebhookId,
};

pub(crate) use super::sql::tests::SqliteHarness;
pub(crate) use every_test::engine_tests;

run_on!(on_sqlite, crate::store::sql::tests::SqliteHarness);
run_on!(on_postgres, crate::store::contract::postgres::PostgresHarness);

pub(crate) fn new_webhook(tenant_id: Option<TenantId>) -> NewWebhook {
    let secret = WebhookSecret(Zeroizing::new(vec![7; 32]));
    let environments = vec![Environment::Live];
    NewWebhook { tenant_id, url: "https://hooks.example/".into(), kinds: vec![], environments, secret }
}

/// The limit of suppressions of a tenant in the stores that a harness opens.
pub(crate) const SUPPRESSIONS_MAX: usize = 1000;

/// The limit of entries of the audit log about a tenant in the stores that a harness opens.
pub(crate) const AUDIT_ENTRIES_MAX: i64 = 20;

/// Keeps everything for 400 days. A test changes the periods that it is about.
pub(crate) const KEEP: RetentionPolicy = RetentionPolicy {
    body_days: 400,
    transcript_days: 400,
    row_days: 400,
    webhook_days: 400,
    report_days: 400,
    audit_days: 400,
};

/// The place of a store: a directory or a database. It outlives the stores that are opened in it.
pub(crate) trait Harness: Sized + 'static {
    /// The size of the hot queue, unless a test wants another. In PostgreSQL, what is in it cannot be claimed by
    /// [`TestBed::claim`].
    const HOT_QUEUE_OCTETS: u64;
    /// Whether the engine is installed. If not, its tests are skipped.
    fn is_available() -> bool {
        true
    }
    /// An empty place.
    async fn new() -> Self;
    /// Opens the store there, with a hot queue of so many octets. It is not open elsewhere.
    async fn open(&self, hot_queue_bytes_max: u64) -> Store;
}

/// A store and its place.
pub(crate) struct TestBed<H> {
    /// Claimed deliveries, with the time of the attempt.
    claimed: Mutex<HashSet<DueCursor>>,
    pub(crate) harness: H,
    pub(crate) store: Arc<Store>,
}

impl<H: Harness> TestBed<H> {
    pub(crate) async fn new() -> Self {
        Self::with_hot_queue(H::HOT_QUEUE_OCTETS).await
    }

    pub(crate) async fn with_hot_queue(hot_queue_bytes_max: u64) -> Self {
        let harness = H::new().await;
        let store = harness.open(hot_queue_bytes_max).await;
        Self::of(harness, store)
    }

    /// A test bed of a store that was opened elsewhere.
    pub(crate) fn of(harness: H, store: Store) -> Self {
        Self { claimed: Mutex::default(), harness, store: Arc::new(store) }
    }

    /// Without a hot queue: all mail waits in the database.
    pub(crate) async fn without_hand_over() -> Self {
        Self::with_hot_queue(0).await
    }

    /// Reopens the store as after a crash: without closing it.
    pub(crate) async fn restart(self) -> Self {
        let Self { harness, store, .. } = self;
        Arc::into_inner(store).expect("no task has the store").crash().await;
        let store = harness.open(H::HOT_QUEUE_OCTETS).await;
        Self::of(harness, store)
    }

    pub(crate) async fn tenant(&self, slug: &str) -> Tenant {
        self.store.create_tenant(new_tenant(slug), now()).await.unwrap()
    }

    /// Enqueues a message and returns it.
    pub(crate) async fn enqueue(&self, tenant: TenantId, recipients: &[&str]) -> NewMessage {
        let new = new_message(tenant, recipients, "body");
        self.store.enqueue(new.clone()).await.unwrap();
        new
    }

    /// Claims due deliveries that were not claimed for the same attempt, as a queue manager without limits does.
    pub(crate) async fn claim(&self, at: Timestamp) -> Taken {
        let tenants = self.store.list_tenants(TenantFilter::default(), page(100)).await.unwrap().items;
        let range =
            |tenant: &Tenant| DueRange { tenant_id: tenant.id, after: None, until: None, rows_max: 10_000 };
        let active = tenants.iter().filter(|tenant| tenant.status == TenantStatus::Active);
        let pages = self.store.due_pages(active.map(range).collect(), at).await.unwrap();
        let due: Vec<_> = {
            let mut claimed = self.claimed.lock();
            let rows = pages.into_iter().flat_map(|page| page.rows).map(|row| row.at);
            rows.filter(|at| claimed.insert(*at)).map(|at| at.id).collect()
        };
        let mut batches: Vec<Batch> = Vec::new();
        for (message, delivery) in self.store.take(due, at).await.unwrap() {
            let destination = delivery.recipient.host().clone();
            let of_message =
                |batch: &&mut Batch| batch.message.id == message.id && batch.destination == destination;
            match batches.iter_mut().find(of_message) {
                Some(batch) => batch.deliveries.push(delivery),
                None => {
                    batches.push(Batch { message, destination, deliveries: vec![delivery], content: None });
                }
            }
        }
        Taken { batches }
    }
}

/// The claimed batches.
pub(crate) struct Taken {
    pub(crate) batches: Vec<Batch>,
}

/// A time later than that of the previous call, so that ids and times have an order.
pub(crate) fn now() -> Timestamp {
    static LAST: AtomicI64 = AtomicI64::new(1_800_000_000_000_000);
    Timestamp::from_microsecond(LAST.fetch_add(1000, Ordering::Relaxed)).unwrap()
}

pub(crate) fn later(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

pub(crate) fn new_tenant(slug: &str) -> NewTenant {
    NewTenant::named(&slug.to_uppercase(), slug)
}

pub(crate) fn name(text: &str) -> DomainName {
    DomainName::parse(text).unwrap()
}

pub(crate) fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

pub(crate) fn new_dkim_key(selector: &str, state: DkimKeyState) -> NewDkimKey {
    NewDkimKey {
        selector: selector.to_owned(),
        algorithm: DkimAlgorithm::Rsa,
        state,
        public_key: "cHVibGlj".to_owned(),
        private_key: Zeroizing::new(b"private half".to_vec()),
    }
}

pub(crate) fn new_domain(tenant: Option<TenantId>, domain: &str, verification: Verification) -> NewDomain {
    NewDomain {
        tenant_id: tenant,
        name: name(domain),
        verification,
        subdomains: true,
        ownership_token: "token".to_owned(),
        dkim_keys: vec![new_dkim_key("s1", DkimKeyState::Pending)],
    }
}

pub(crate) fn new_key(tenant: Option<TenantId>, secret: &KeySecret) -> NewKey {
    NewKey {
        tenant_id: tenant,
        name: "app".to_owned(),
        environment: Environment::Live,
        scopes: vec![Scope::SmtpSend, Scope::EmailsRead],
        allowed_domain_ids: Vec::new(),
        allowed_cidrs: vec!["192.0.2.0/24".parse().unwrap()],
        expires_at: None,
        stored_secret: secret.stored_secret(),
    }
}

pub(crate) fn new_suppression(tenant: Option<TenantId>, text: &str) -> NewSuppression {
    let manual = crate::model::SuppressionReason::Manual;
    NewSuppression {
        evidence: Some("asked on the phone".to_owned()),
        ..NewSuppression::of_all_mail(tenant, Environment::Live, address(text), manual)
    }
}

fn page(limit: usize) -> PageRequest {
    PageRequest { limit, ..PageRequest::default() }
}

pub(crate) fn new_template(tenant: TenantId, name: &str) -> NewTemplate {
    NewTemplate {
        tenant_id: tenant,
        name: name.to_owned(),
        subject: "Hello {{ name }}".to_owned(),
        text: Some("Dear {{ name }}".to_owned()),
        html: None,
    }
}

pub(crate) fn new_message(tenant: TenantId, recipients: &[&str], body: &str) -> NewMessage {
    let created_at = now();
    let content = Content {
        prefix: Bytes::from_static(b"Received: by us\r\n"),
        submitted: Bytes::from(format!("Subject: hello\r\n\r\n{body}\r\n")),
    };
    let message = Message {
        id: MessageId::generate(created_at),
        tenant_id: tenant,
        key_id: Some(KeyId::generate(created_at)),
        kind: MessageKind::Message,
        environment: Environment::Live,
        reverse_path: ReversePath::Mailbox(address("sender@example.com")),
        body: BodyType::EightBitMime,
        smtputf8: true,
        annotations: Annotations {
            tags: vec!["welcome".into(), "b".into()],
            metadata: Metadata::from_json(Some(r#"{"order":7}"#.into())),
        },
        parameters: MailParameters {
            return_content: Some(ReturnContent::Full),
            envelope_id: "id+2B1".parse().ok(),
            require_tls: true,
            release_at: None,
            hold_for_s: None,
            deliver_by: None,
        },
        size: content.len() as u64,
        subject: Some("hello".to_owned()),
        header_from: Some("sender@example.com".to_owned()),
        header_message_id: Some(format!("{}@example.com", created_at.as_microsecond())),
        dkim_domain: Some(name("example.com")),
        sender_domain: Some(name("example.com")),
        list: None,
        created_at,
        expires_at: created_at + SignedDuration::from_hours(24),
    };
    let recipients =
        recipients.iter().map(|text| (DeliveryId::generate(created_at), address(text).into())).collect();
    NewMessage { message, recipients, content, suppressed: Vec::new(), submission_key: None }
}

/// A report that the server generated.
pub(crate) fn new_report(tenant: TenantId, to: &str) -> NewMessage {
    let mut new = new_message(tenant, &[to], "report");
    new.message.kind = MessageKind::Report;
    new.message.key_id = None;
    new.message.reverse_path = ReversePath::Null;
    new
}

/// What came back about a message, or about none; what it says depends on `digest` only.
pub(crate) fn returned(
    kind: ReportKind,
    about: Option<(&Message, Option<DeliveryId>)>,
    digest: u8,
    consequence: Consequence,
) -> NewReport {
    let at = now();
    let message = about.map(|(message, _)| message);
    let report = Report {
        id: ReportId::generate(at),
        tenant_id: message.map(|message| message.tenant_id),
        environment: message.map(|message| message.environment),
        message_id: message.map(|message| message.id),
        delivery_id: about.and_then(|(_, delivery)| delivery),
        kind,
        rule: kind.to_string(),
        effect: ReportEffect::None,
        action: None,
        status: None,
        bounce_class: None,
        feedback_type: None,
        recipient: None,
        reply: None,
        reporter: Reporter::default(),
        times: 1,
        has_raw: true,
        created_at: at,
        last_at: at,
    };
    let raw = b"Subject: failed\r\n".to_vec();
    NewReport { report, digest: [digest; 32], raw, consequence, dsn: None, at }
}

pub(crate) fn attempt(delivery: &Delivery, outcome: DeliveryState) -> Attempt {
    let at = now();
    Attempt {
        id: AttemptId::generate(at),
        message_id: delivery.message_id,
        delivery_id: delivery.id,
        started_at: at,
        duration_ms: 12,
        host: "mx.example.net".to_owned(),
        address: Some(IpAddr::from([192, 0, 2, 1])),
        tls: Some("TLSv1.3 TLS13_AES_256_GCM_SHA384".to_owned()),
        source: Some("192.0.2.7".parse().unwrap()),
        tls_policy: Some("dane: validated".to_owned()),
        code: Some(250),
        enhanced: Some(EnhancedStatus::new(2, 0, 0)),
        text: "fine".to_owned(),
        transcript: "RCPT TO:<…>".into(),
        outcome,
        bounce_class: class_of(outcome),
        reason: String::new(),
    }
}

fn class_of(state: DeliveryState) -> Option<BounceClass> {
    (state != DeliveryState::Delivered).then_some(BounceClass::Policy)
}

/// The record of one delivery, with another attempt after a minute if the state is open.
pub(crate) fn outcome(tenant: TenantId, delivery: &Delivery, state: DeliveryState) -> AttemptRecord {
    let at = now();
    AttemptRecord {
        message_id: delivery.message_id,
        kind: MessageKind::Message,
        tenant_id: tenant,
        environment: Environment::Live,
        key_id: None,
        sender_domain: None,
        delivery_id: delivery.id,
        state,
        bounce_class: class_of(state),
        next_attempt_at: state.is_open().then(|| at + SignedDuration::from_secs(60)),
        attempt: Some(attempt(delivery, state)),
        reply: "250 2.0.0 fine".to_owned(),
        suppress: None,
        delayed: false,
        at,
    }
}

/// The same result for all claimed deliveries.
pub(crate) fn outcomes(batches: &[Batch], state: DeliveryState) -> RecordBatch {
    let of_batch = |batch: &Batch| {
        let message = &batch.message;
        let record = |delivery| AttemptRecord {
            kind: message.kind,
            environment: message.environment,
            key_id: message.key_id,
            sender_domain: message.usage_domain().cloned(),
            ..outcome(message.tenant_id, delivery, state)
        };
        batch.deliveries.iter().map(record).collect::<Vec<_>>()
    };
    RecordBatch { records: batches.iter().flat_map(of_batch).collect(), report: None }
}

pub(crate) fn ids(batches: &[Batch]) -> Vec<DeliveryId> {
    let mut ids: Vec<_> =
        batches.iter().flat_map(|batch| &batch.deliveries).map(|delivery| delivery.id).collect();
    ids.sort();
    ids
}
