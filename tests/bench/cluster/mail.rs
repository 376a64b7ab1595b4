//! The mail of benchmarks of the store: messages with bodies that cannot be compressed, for one recipient each.

use bytes::Bytes;
use pillarbox::mail::{Address, BodyType, Content, DomainName, ReversePath, SignedDuration, Timestamp};
use pillarbox::model::{AttemptId, DeliveryId, DeliveryState, Environment, KeyId, KeySecret};
use pillarbox::model::{MessageId, MessageKind, TenantId};
use pillarbox::store::{Attempt, AttemptRecord, Directory, Message, NewKey, NewMessage, NewTenant, Store};
use rand::Rng;

pub const TENANTS: usize = 20;
pub const BODY_OCTETS: usize = 10 * 1024;
const TRANSCRIPT: &str = "220 mx.example.net ESMTP\nEHLO out.example.org\n250-mx.example.net\n250-PIPELINING\n250-SIZE 52428800\n250-STARTTLS\n250 ENHANCEDSTATUSCODES\nSTARTTLS\n220 2.0.0 Ready\nEHLO out.example.org\n250 mx.example.net\nMAIL FROM:<bounce@example.com> SIZE=10240\n250 2.1.0 Ok\nRCPT TO:<user@example.net>\n250 2.1.5 Ok\nDATA\n354 Go ahead\n.\n250 2.0.0 Ok: queued as 4XyZabc";

/// A tenant and its key.
#[derive(Clone, Copy)]
pub struct Sender(pub TenantId, KeyId);

pub async fn make_senders(store: &Store) -> Vec<Sender> {
    let mut senders = Vec::new();
    for number in 0..TENANTS {
        senders.push(make_sender(store, number).await);
    }
    senders
}

async fn make_sender(store: &Store, number: usize) -> Sender {
    let now = Timestamp::now();
    let new = NewTenant::named(&format!("Tenant {number}"), &format!("tenant-{number}"));
    let tenant = store.create_tenant(new, now).await.unwrap().id;
    let key = NewKey {
        tenant_id: Some(tenant),
        name: "bench".into(),
        environment: Environment::Live,
        scopes: vec![],
        allowed_domain_ids: vec![],
        allowed_cidrs: vec![],
        expires_at: None,
        stored_secret: KeySecret::generate(Environment::Live).stored_secret(),
    };
    Sender(tenant, store.create_key(key, now).await.unwrap().id)
}

pub fn messages(senders: &[Sender], count: usize, body_octets: usize) -> Vec<NewMessage> {
    (0..count).map(|number| message(senders[number % TENANTS], number, body_octets)).collect()
}

fn message(Sender(tenant_id, key_id): Sender, number: usize, body_octets: usize) -> NewMessage {
    let now = Timestamp::now();
    let mut body = vec![0; body_octets];
    rand::rng().fill_bytes(&mut body);
    let content = Content { prefix: Bytes::from_static(b"Received: by bench\r\n"), submitted: body.into() };
    let domain = DomainName::parse(&format!("tenant-{}.example", number % TENANTS)).unwrap();
    let message = Message {
        id: MessageId::generate(now),
        tenant_id,
        key_id: Some(key_id),
        kind: MessageKind::Message,
        environment: Environment::Live,
        reverse_path: ReversePath::Mailbox(Address::parse("sender@example.com").unwrap()),
        body: BodyType::EightBitMime,
        smtputf8: false,
        parameters: Default::default(),
        annotations: Default::default(),
        size: content.len() as u64,
        subject: Some(format!("Your order {number} is on its way")),
        header_from: Some("sender@example.com".into()),
        header_message_id: Some(format!("{number}.0123456789abcdef@example.com")),
        dkim_domain: Some(domain.clone()),
        sender_domain: Some(domain),
        list: None,
        created_at: now,
        expires_at: now + SignedDuration::from_hours(96),
    };
    let address = Address::parse(&format!("user{number}@d{}.example.net", number % 100)).unwrap();
    let recipients = vec![(DeliveryId::generate(now), address.into())];
    NewMessage { message, recipients, suppressed: vec![], content, submission_key: None }
}

/// The result of a delivery at its first attempt.
pub fn delivered(message: &Message, delivery_id: DeliveryId) -> AttemptRecord {
    let now = Timestamp::now();
    let attempt = Attempt {
        id: AttemptId::generate(now),
        message_id: message.id,
        delivery_id,
        started_at: now,
        duration_ms: 120,
        host: "mx.example.net".into(),
        address: Some("192.0.2.1".parse().unwrap()),
        source: Some("192.0.2.7".parse().unwrap()),
        tls: Some("TLSv1.3 TLS13_AES_256_GCM_SHA384".into()),
        tls_policy: Some("opportunistic".into()),
        code: Some(250),
        enhanced: Some("2.0.0".parse().unwrap()),
        text: "2.0.0 Ok: queued as 4XyZabc".into(),
        transcript: TRANSCRIPT.into(),
        outcome: DeliveryState::Delivered,
        bounce_class: None,
        reason: String::new(),
    };
    AttemptRecord {
        message_id: message.id,
        kind: MessageKind::Message,
        tenant_id: message.tenant_id,
        environment: message.environment,
        key_id: message.key_id,
        sender_domain: message.usage_domain().cloned(),
        delivery_id,
        state: DeliveryState::Delivered,
        bounce_class: None,
        next_attempt_at: None,
        attempt: Some(attempt),
        reply: "250 2.0.0 Ok: queued as 4XyZabc".into(),
        suppress: None,
        delayed: false,
        at: now,
    }
}

/// The results of messages, each with one recipient.
pub fn all_delivered(news: &[NewMessage]) -> Vec<AttemptRecord> {
    news.iter().map(|new| delivered(&new.message, new.recipients[0].0)).collect()
}
