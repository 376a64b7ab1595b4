//! What every store must do, said over the traits only: a store for another database passes the same tests.

mod claims;
mod directory;
mod journal;
mod outbox;
mod policies;
mod queue;
mod search;
mod sending;
mod spool;
mod tls_results;
mod usage;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::*;
use crate::mail::{
    Address, BodyType, EnhancedStatus, MailParameters, ReturnContent, ReversePath, SignedDuration,
};
use crate::model::{
    AttemptId, BounceClass, DeliveryState, DkimAlgorithm, DkimKeyState, EventKind, KeySecret, Scope,
    TlsFailure, TlsPolicyType, Verification,
};

pub(in crate::store) fn new_webhook(tenant_id: Option<TenantId>) -> NewWebhook {
    let secret = WebhookSecret(Zeroizing::new(vec![7; 32]));
    NewWebhook { tenant_id, url: "https://hooks.example/".into(), kinds: vec![], secret }
}

/// A store in a directory of its own.
pub(in crate::store) struct Bed {
    pub(in crate::store) dir: TempDir,
    pub(in crate::store) store: Arc<Store>,
}

pub(in crate::store) fn options(dir: &Path) -> StoreOptions {
    StoreOptions { inline_body_bytes_max: 4096, ..StoreOptions::at(dir) }
}

impl Bed {
    pub(in crate::store) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(in crate::store) fn with(change: impl FnOnce(&mut StoreOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path());
        change(&mut options);
        Self { store: Arc::new(Store::open(options).unwrap()), dir }
    }

    /// Without hand-over: everything is claimed from the database.
    pub(in crate::store) fn without_hand_over() -> Self {
        Self::with(|options| options.hot_queue_bytes_max = 0)
    }

    /// As after a crash: nothing is closed, what memory knew is gone.
    pub(in crate::store) fn restart(self) -> Self {
        let Self { dir, store } = self;
        drop(Arc::into_inner(store).expect("no task has the store"));
        let store = Arc::new(Store::open(options(dir.path())).unwrap());
        Self { dir, store }
    }

    pub(in crate::store) async fn tenant(&self, slug: &str) -> Tenant {
        self.store.create_tenant(new_tenant(slug), now()).await.unwrap()
    }

    /// Enqueues a message and answers it.
    pub(in crate::store) async fn enqueue(&self, tenant: TenantId, recipients: &[&str]) -> NewMessage {
        let new = new_message(tenant, recipients, "body");
        self.store.enqueue(new.clone()).await.unwrap();
        new
    }

    pub(in crate::store) async fn claim(&self, at: Timestamp) -> Claimed {
        self.store.claim_due(at, &plenty()).await.unwrap()
    }
}

/// A clock that never stands still, so that ids and times have an order.
pub(in crate::store) fn now() -> Timestamp {
    static LAST: AtomicI64 = AtomicI64::new(1_800_000_000_000_000);
    Timestamp::from_microsecond(LAST.fetch_add(1000, Ordering::Relaxed)).unwrap()
}

pub(in crate::store) fn later(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

pub(in crate::store) fn plenty() -> ClaimRoom {
    ClaimRoom { deliveries_max: 1000, per_tenant_max: 1000, admits: Arc::new(|_: &crate::mail::Host| true) }
}

pub(in crate::store) fn new_tenant(slug: &str) -> NewTenant {
    NewTenant::named(&slug.to_uppercase(), slug)
}

pub(in crate::store) fn name(text: &str) -> DomainName {
    DomainName::parse(text).unwrap()
}

pub(in crate::store) fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

pub(in crate::store) fn new_dkim_key(selector: &str, state: DkimKeyState) -> NewDkimKey {
    NewDkimKey {
        selector: selector.to_owned(),
        algorithm: DkimAlgorithm::Rsa,
        state,
        public_key: "cHVibGlj".to_owned(),
        private_key: Zeroizing::new(b"private half".to_vec()),
    }
}

pub(in crate::store) fn new_domain(
    tenant: Option<TenantId>,
    domain: &str,
    verification: Verification,
) -> NewDomain {
    NewDomain {
        tenant_id: tenant,
        name: name(domain),
        verification,
        subdomains: true,
        ownership_token: "token".to_owned(),
        dkim_keys: vec![new_dkim_key("s1", DkimKeyState::Pending)],
    }
}

pub(in crate::store) fn new_key(tenant: Option<TenantId>, secret: &KeySecret) -> NewKey {
    NewKey {
        tenant_id: tenant,
        name: "app".to_owned(),
        environment: Environment::Live,
        scopes: vec![Scope::SmtpSend, Scope::EmailsRead],
        allowed_domain_ids: Vec::new(),
        allowed_cidrs: vec!["192.0.2.0/24".parse().unwrap()],
        expires_at: None,
        imprint: secret.imprint(),
    }
}

pub(in crate::store) fn new_suppression(tenant: Option<TenantId>, text: &str) -> NewSuppression {
    NewSuppression {
        tenant_id: tenant,
        address: address(text),
        reason: crate::model::SuppressionReason::Manual,
        evidence: Some("asked on the phone".to_owned()),
        expires_at: None,
    }
}

fn page(limit: usize) -> PageRequest {
    PageRequest { limit, ..PageRequest::default() }
}

pub(in crate::store) fn new_template(tenant: TenantId, name: &str) -> NewTemplate {
    NewTemplate {
        tenant_id: tenant,
        name: name.to_owned(),
        subject: "Hello {{ name }}".to_owned(),
        text: Some("Dear {{ name }}".to_owned()),
        html: None,
    }
}

pub(in crate::store) fn new_message(tenant: TenantId, recipients: &[&str], body: &str) -> NewMessage {
    let created_at = now();
    let content = Content {
        prefix: Bytes::from_static(b"Received: by us\r\n"),
        submitted: Bytes::from(format!("Subject: hello\r\n\r\n{body}\r\n")),
    };
    let message = Message {
        id: MessageId::generate(created_at),
        tenant_id: tenant,
        key_id: Some(KeyId::generate(created_at)),
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
            held_for_s: None,
            deliver_by: None,
        },
        size: content.len() as u64,
        subject: Some("hello".to_owned()),
        header_from: Some("sender@example.com".to_owned()),
        header_message_id: Some(format!("{}@example.com", created_at.as_microsecond())),
        dkim_domain: Some(name("example.com")),
        created_at,
        expires_at: created_at + SignedDuration::from_hours(24),
    };
    let recipients =
        recipients.iter().map(|text| (DeliveryId::generate(created_at), address(text).into())).collect();
    NewMessage { message, recipients, content, suppressed: Vec::new(), submission_key: None }
}

pub(in crate::store) fn attempt(delivery: &Delivery, outcome: DeliveryState) -> Attempt {
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
        tls_policy: Some("dane: validated".to_owned()),
        code: Some(250),
        enhanced: Some(EnhancedStatus::new(2, 0, 0)),
        text: "fine".to_owned(),
        transcript: "RCPT TO:<…>".into(),
        outcome,
        class: class_of(outcome),
        reason: String::new(),
    }
}

fn class_of(state: DeliveryState) -> Option<BounceClass> {
    (state != DeliveryState::Delivered).then_some(BounceClass::Policy)
}

/// What came of one delivery: a state, with another try after a minute if it is open.
pub(in crate::store) fn outcome(
    tenant: TenantId,
    delivery: &Delivery,
    state: DeliveryState,
) -> AttemptRecord {
    let at = now();
    AttemptRecord {
        message_id: delivery.message_id,
        tenant_id: tenant,
        delivery_id: delivery.id,
        state,
        class: class_of(state),
        next_attempt_at: state.is_open().then(|| at + SignedDuration::from_secs(60)),
        attempt: Some(attempt(delivery, state)),
        reply: "250 2.0.0 fine".to_owned(),
        suppress: None,
        complained: false,
        delayed: false,
        at,
    }
}

/// The same outcome for all that was claimed.
pub(in crate::store) fn outcomes(batches: &[Batch], state: DeliveryState) -> RecordBatch {
    let of_batch = |batch: &Batch| {
        let tenant = batch.message.tenant_id;
        batch.deliveries.iter().map(move |delivery| outcome(tenant, delivery, state)).collect::<Vec<_>>()
    };
    RecordBatch { records: batches.iter().flat_map(of_batch).collect(), report: None }
}

pub(in crate::store) fn ids(batches: &[Batch]) -> Vec<DeliveryId> {
    let mut ids: Vec<_> =
        batches.iter().flat_map(|batch| &batch.deliveries).map(|delivery| delivery.id).collect();
    ids.sort();
    ids
}
