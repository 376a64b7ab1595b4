//! The relay without the server, with its own store and one tenant. The platform's smart host gets all mail.

use std::sync::Arc;

use pillarbox::clock::Clock;
use pillarbox::config;
use pillarbox::dns::Resolver;
use pillarbox::mail::{Address, BodyType, Content, DomainName, Host, ReversePath, SignedDuration, Timestamp};
use pillarbox::model::{DeliveryId, DeliveryState, Environment, MessageId, MessageKind, TenantId, TlsMode};
use pillarbox::queue::{ClaimLimits, QueueManager};
use pillarbox::relay::{Recording, Relay};
use pillarbox::rng::Rng;
use pillarbox::store::{
    Attempt, Directory, Journal, Message, NewMessage, NewTenant, PageRequest, Spool, SqliteOptions, Store,
    SuppressionFilter,
};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::fake_mx::FakeMx;
use crate::wait::{PATIENCE, until};

pub struct RelayStage {
    pub store: Arc<Store>,
    pub queue: Arc<QueueManager>,
    pub tenant: TenantId,
    pub relay: JoinHandle<()>,
    pub recording: Recording,
    pub stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl RelayStage {
    pub async fn start(mx: &FakeMx) -> Self {
        Self::with(mx, |_, _| {}).await
    }

    pub async fn with(mx: &FakeMx, adjust: impl FnOnce(&mut SqliteOptions, &mut config::Relay)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = SqliteOptions::at(dir.path());
        let mut config = config::Relay {
            smart_host: Some(config::PlatformSmartHost {
                host: mx.address.ip().to_string(),
                port: Some(mx.address.port()),
                tls: Some(TlsMode::Opportunistic),
                user: None,
                password_file: None,
                return_path: false,
            }),
            ..config::Relay::default()
        };
        adjust(&mut options, &mut config);
        let store = Arc::new(Store::open(options).await.unwrap());
        let tenant =
            store.create_tenant(NewTenant::named("acme", "acme"), Timestamp::now()).await.unwrap().id;
        let queue = Arc::new(QueueManager::new(store.clone(), &config, Clock::system(), Rng::system()));
        let resolver = Resolver::new(&config.name_servers, Rng::system()).unwrap();
        let hostname = DomainName::parse("relay.example").unwrap();
        let relay = Relay::new(&config, &hostname, queue.clone(), resolver).unwrap();
        let (stop, recording) = (CancellationToken::new(), relay.recording());
        let relay = tokio::spawn(relay.run(stop.clone()));
        Self { store, queue, tenant, relay, recording, stop, _dir: dir }
    }

    /// One live message of the tenant.
    pub async fn send(&self, recipients: &[&str]) -> MessageId {
        self.enqueue(new_message(self.tenant, recipients)).await
    }

    pub async fn enqueue(&self, new: NewMessage) -> MessageId {
        self.store.enqueue(new).await.unwrap()
    }

    /// Waits until the recipients of a message are in these states.
    pub async fn expect(&self, id: MessageId, states: &[DeliveryState]) {
        until(&format!("{id} is {states:?}"), async || {
            let deliveries = self.store.deliveries(id).await.unwrap();
            deliveries.iter().map(|delivery| delivery.state).eq(states.iter().copied()).then_some(())
        })
        .await;
    }

    /// Waits until no delivery is open.
    pub async fn expect_empty(&self) {
        until("nothing is open", async || (self.store.count_open().await.unwrap() == 0).then_some(())).await;
    }

    /// Waits until this many deliveries are claimed, and no other delivery is due.
    pub async fn expect_all_claimed(&self, count: u64) {
        until("everything is claimed", async || {
            let left = self.queue.claim_due(Timestamp::now(), &nothing()).await.unwrap().next_due_at;
            let claimed = self.queue.depth().await.unwrap().claimed;
            (left.is_none() && claimed == count).then_some(())
        })
        .await;
    }

    pub async fn attempts(&self, id: MessageId) -> Vec<Attempt> {
        self.store.attempts(id, None, 1000).await.unwrap().items
    }

    pub async fn last_reply(&self, id: MessageId) -> String {
        self.store.deliveries(id).await.unwrap()[0].last_reply.clone().unwrap_or_default()
    }

    /// The suppressed addresses of the tenant, in order.
    pub async fn suppressed(&self) -> Vec<String> {
        let filter = SuppressionFilter { tenant_id: Some(self.tenant), ..Default::default() };
        let page = PageRequest { limit: 10, ..Default::default() };
        let found = self.store.list_suppressions(filter, page).await.unwrap().items;
        let mut addresses: Vec<String> = found.into_iter().map(|suppression| suppression.address).collect();
        addresses.sort();
        addresses
    }

    /// Stops the relay, which must end in time without claims.
    pub async fn end(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.relay).await.expect("the relay stops").unwrap();
        assert_eq!(self.queue.depth().await.unwrap().claimed, 0);
    }
}

fn nothing() -> ClaimLimits {
    ClaimLimits { deliveries_max: 0, per_tenant_max: 0, admits: Arc::new(|_: &Host| true) }
}

/// A live message of a tenant with a line that needs dot stuffing.
pub fn new_message(tenant_id: TenantId, recipients: &[&str]) -> NewMessage {
    let now = Timestamp::now();
    let content =
        Content { prefix: "Received: us\r\n".into(), submitted: "Subject: x\r\n\r\n.dot\r\n".into() };
    let message = Message {
        id: MessageId::generate(now),
        tenant_id,
        key_id: None,
        kind: MessageKind::Message,
        environment: Environment::Live,
        reverse_path: ReversePath::parse("s@a.example").unwrap(),
        body: BodyType::SevenBit,
        smtputf8: false,
        annotations: Default::default(),
        parameters: Default::default(),
        size: content.len() as u64,
        subject: Some("x".into()),
        header_from: None,
        header_message_id: None,
        dkim_domain: None,
        sender_domain: None,
        list: None,
        created_at: now,
        expires_at: now + SignedDuration::from_hours(120),
    };
    let recipients = recipients.iter().map(|text| Address::parse(text).unwrap().into());
    let recipients = recipients.map(|recipient| (DeliveryId::generate(now), recipient)).collect();
    NewMessage { message, recipients, content, suppressed: Vec::new(), submission_key: None }
}
