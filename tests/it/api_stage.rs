//! The API on a loopback port, with its own store, a fake DNS and a platform key.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use pillarbox::api::{Api, ApiDependencies, InProcess, SendLimits};
use pillarbox::clock::Clock;
use pillarbox::config::{self, Config};
use pillarbox::dkim;
use pillarbox::dns::Resolver;
use pillarbox::doctor::{Doctor, DoctorDependencies};
use pillarbox::limits::auth_limiter::{self, AuthLimiter};
use pillarbox::limits::memory_budget::MemoryBudget;
use pillarbox::mail::{Address, BodyType, Content, DomainName, ReversePath, SignedDuration, Timestamp};
use pillarbox::model::{
    DeliveryId, DkimAlgorithm, DkimKeyState, Environment, KeySecret, MessageId, MessageKind, ReportEffect,
    ReportId, ReportKind, Scope, TenantId, Verification,
};
use pillarbox::queue::QueueManager;
use pillarbox::relay::Relay;
use pillarbox::rng::Rng;
use pillarbox::store::{
    Consequence, Directory, Message, NewDkimKey, NewDomain, NewKey, NewMessage, NewReport, Report, Reporter,
    Reports, Spool, SqliteOptions, Store,
};
use pillarbox::submission::SubmissionService;
use pillarbox::tls::{Certificate, SharedServerConfig};
use pillarbox::ui::{Ui, UiDependencies};
use pillarbox::verification::{self, VerificationSettings, Verifier};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fake_dns::FakeDns;
use crate::http::{Answer, request};
use crate::server::database_file;
use crate::wait::until;

pub struct ApiStage {
    pub address: SocketAddr,
    pub store: Arc<Store>,
    pub clock: Clock,
    pub queue: Arc<QueueManager>,
    pub dns: FakeDns,
    pub resolver: Resolver,
    pub verifier: Arc<Verifier>,
    pub bans: Arc<AuthLimiter>,
    /// The secret of a platform key.
    pub platform: String,
    /// The memory budget for request bodies and responses.
    pub memory: Arc<MemoryBudget>,
    pub stop: CancellationToken,
    pub serving: JoinHandle<()>,
    data_dir: tempfile::TempDir,
}

/// A tenant with a key that has every scope.
pub struct Tenant {
    pub id: TenantId,
    pub key: String,
}

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

impl ApiStage {
    pub async fn start() -> Self {
        Self::with(|_, _| {}).await
    }

    pub async fn with(adjust: impl FnOnce(&mut config::Api, &mut config::Domains)) -> Self {
        Self::open(None, adjust).await
    }

    pub async fn open(
        tls: Option<SharedServerConfig>,
        adjust: impl FnOnce(&mut config::Api, &mut config::Domains),
    ) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(SqliteOptions::at(data_dir.path())).await.unwrap());
        let (clock, rng) = (Clock::adjustable(), Rng::system());
        let source_address = Some("192.0.2.7".parse().unwrap());
        let dns = FakeDns::start().await;
        let name_servers = vec![dns.address];
        let relay = config::Relay { source_address, name_servers, ..config::Relay::default() };
        let queue = Arc::new(QueueManager::new(store.clone(), &relay, clock.clone(), rng.clone()));
        let resolver = Resolver::new(&[dns.address], rng).unwrap();
        let (mut settings, mut domains) = (config::Api::default(), config::Domains::default());
        adjust(&mut settings, &mut domains);
        let api_public_url = settings.public_url.clone();
        let hostname = DomainName::parse("mail.host.example").unwrap();
        let planner = Relay::new(&relay, &hostname, queue.clone(), resolver.clone()).unwrap().planner();
        let config = Arc::new(Config {
            hostname: hostname.clone(),
            data_dir: data_dir.path().to_owned(),
            relay,
            ..Config::default()
        });
        let verifier = Arc::new(Verifier {
            store: store.clone(),
            resolver: resolver.clone(),
            settings: VerificationSettings::new(&domains, &hostname).sending_from(config.clone()),
            clock: clock.clone(),
            probes: Default::default(),
        });
        let submission_settings = pillarbox::submission::SubmissionSettings {
            hostname: DomainName::parse("mail.host.example").unwrap(),
            message_lifetime: 120 * HOUR,
            message_lifetime_max: 240 * HOUR,
            allow_null_sender: true,
            allow_duplicate_headers: false,
            received_includes_client_address: false,
            inbound_host: None,
            return_path: Default::default(),
            public_url: None,
        };
        let bans = Arc::new(AuthLimiter::new(auth_limiter::AuthLimiterSettings {
            failures: "failed logins",
            failures_max: 1,
            window: HOUR,
            ban: HOUR,
            exempt: Vec::new(),
        }));
        let certificate = Arc::new(Certificate::load_or_generate(data_dir.path(), &hostname).unwrap());
        let doctor = Doctor::new(DoctorDependencies {
            files_needed: config.open_files(),
            config,
            store: store.clone(),
            queue: queue.clone(),
            resolver: resolver.clone(),
            acme: None,
            verifier: verifier.clone(),
            clock: clock.clone(),
        });
        doctor.plans_with(planner);
        let is_tls = tls.is_some();
        let api = Api::new(ApiDependencies {
            settings,
            message_lifetime_max: 240 * HOUR,
            verification: verifier.clone(),
            clock: clock.clone(),
            sending: SendLimits { recipients_max: 50, message_octets_max: 4 * 1024 * 1024 },
            submission: Arc::new(SubmissionService::new(store.clone(), submission_settings, clock.clone())),
            store: store.clone(),
            webhooks: local_webhooks(),
            bans: bans.clone(),
            source_pools: vec!["bulk".into()],
            queue: queue.clone(),
            tls,
            doctor: Arc::new(doctor),
            ui: config::Ui::default(),
            data_dir: data_dir.path().to_owned(),
            generate_key: dkim::generate,
            certificate,
            has_certificate_files: false,
            acme: None,
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let memory = api.memory();
        let api = Arc::new(api);
        let counting = api.clone().count_requests(stop.clone());
        let ui = Ui::new(UiDependencies {
            settings: config::Ui::default(),
            public_url: api_public_url,
            is_tls,
            api: InProcess::new(&api),
            bans: bans.clone(),
            hostname,
            submission: Vec::new(),
            submissions: Vec::new(),
        });
        let serving = api.serve(listener, Some(ui.router()), stop.clone());
        let serving = tokio::spawn(async { tokio::join!(serving, counting).0 });
        let platform = make_key(&store, None, &[], |_| {}).await;
        Self {
            address,
            store,
            clock,
            queue,
            dns,
            resolver,
            verifier,
            bans,
            platform,
            memory,
            stop,
            serving,
            data_dir,
        }
    }

    /// The path of the database, for faults and for changes that would take days.
    pub fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(database_file(self.data_dir.path())).unwrap()
    }

    /// Sends a request and reads the response.
    pub async fn call(&self, key: &str, method: &str, target: &str, body: Value) -> Answer {
        let body = (!body.is_null()).then_some(&body);
        request(self.address, method, target, Some(key), body).await
    }

    pub async fn get(&self, key: &str, target: &str) -> Answer {
        self.call(key, "GET", target, Value::Null).await
    }

    pub async fn post(&self, key: &str, target: &str, body: Value) -> Answer {
        self.call(key, "POST", target, body).await
    }

    pub async fn patch(&self, key: &str, target: &str, body: Value) -> Answer {
        self.call(key, "PATCH", target, body).await
    }

    pub async fn delete(&self, key: &str, target: &str) -> Answer {
        self.call(key, "DELETE", target, Value::Null).await
    }

    /// Creates a pending domain whose first two records are in the DNS. Returns its path.
    pub async fn publish_domain(&self, key: &str, name: &str) -> String {
        let made = self.post(key, "/v1/domains", json!({"name": name})).await.expect(201);
        for record in &made["dns_records"].as_array().unwrap()[..2] {
            self.dns.text(&text(record, "/name"), &text(record, "/value"));
        }
        format!("/v1/domains/{}", text(&made, "/id"))
    }

    /// Creates a domain that the platform vouches for.
    pub async fn add_domain(&self, tenant: TenantId, name: &str) {
        let domain = json!({"name": name, "tenant_id": tenant, "verification": "manual"});
        self.post(&self.platform, "/v1/domains", domain).await.expect(201);
    }

    /// Runs the regular check of domains until one is verified. The check continues until the stage is stopped.
    pub async fn recheck_until_verified(&self, key: &str, path: &str) -> JoinHandle<()> {
        let checking = tokio::spawn(verification::recheck_loop(self.verifier.clone(), self.stop.clone()));
        until("the domain is verified", async || {
            (self.get(key, path).await.expect(200)["status"] == "verified").then_some(())
        })
        .await;
        checking
    }

    /// Creates a tenant, and a key for it that has every scope.
    pub async fn tenant(&self, name: &str) -> Tenant {
        let made = self.post(&self.platform, "/v1/tenants", json!({"name": name})).await.expect(201);
        let id = made["id"].as_str().unwrap().parse().unwrap();
        Tenant { id, key: self.key(id, Scope::ALL, |_| {}).await }
    }

    /// Creates the domain that live keys use for trial mail and for confirmation mails.
    pub async fn add_sandbox_domain(&self) {
        let pair = dkim::generate(DkimAlgorithm::Ed25519).unwrap();
        let dkim_key = NewDkimKey {
            selector: "sandbox".into(),
            algorithm: pair.algorithm,
            state: DkimKeyState::Active,
            public_key: pair.public_key,
            private_key: pair.private_key,
        };
        let domain = NewDomain {
            tenant_id: None,
            name: DomainName::parse("sandbox.mail.host.example").unwrap(),
            verification: Verification::Manual,
            subdomains: false,
            ownership_token: String::new(),
            dkim_keys: vec![dkim_key],
        };
        self.store.ensure_sandbox_domain(domain, Timestamp::now()).await.unwrap();
    }

    /// Creates a key in the store directly, also one that the API would refuse to create.
    pub async fn key(&self, tenant: TenantId, scopes: &[Scope], adjust: impl FnOnce(&mut NewKey)) -> String {
        make_key(&self.store, Some(tenant), scopes, adjust).await
    }

    /// Creates a platform key in the store directly.
    pub async fn platform_key(&self, adjust: impl FnOnce(&mut NewKey)) -> String {
        make_key(&self.store, None, &[], adjust).await
    }

    /// The directory of the message bodies that are stored in files.
    pub fn bodies(&self) -> std::path::PathBuf {
        self.data_dir.path().join("bodies")
    }

    /// Enqueues a message with one recipient.
    pub async fn enqueue(&self, tenant_id: TenantId) -> MessageId {
        self.enqueue_body(tenant_id, Bytes::from_static(b"body\r\n")).await
    }

    /// Records an automatic reply to a message.
    pub async fn record_report(&self, tenant_id: TenantId, email: &str) -> ReportId {
        let now = Timestamp::now();
        let report = Report {
            id: ReportId::generate(now),
            tenant_id: Some(tenant_id),
            environment: Some(Environment::Live),
            message_id: Some(email.parse().unwrap()),
            delivery_id: None,
            kind: ReportKind::AutoReply,
            rule: "auto_submitted".into(),
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
            created_at: now,
            last_at: now,
        };
        let raw = b"Subject: away\r\n\r\n".to_vec();
        let consequence = Consequence::None;
        let new = NewReport { report, digest: [1; 32], raw, consequence, dsn: None, at: now };
        self.store.record_report(new).await.unwrap().id
    }

    /// Enqueues a message with one recipient and this body.
    pub async fn enqueue_body(&self, tenant_id: TenantId, body: Bytes) -> MessageId {
        self.enqueue_content(tenant_id, [&b"C: d\r\n\r\n"[..], &body].concat()).await
    }

    /// Enqueues a message with one recipient, with this header and body.
    pub async fn enqueue_content(&self, tenant_id: TenantId, submitted: Vec<u8>) -> MessageId {
        self.enqueue_with(tenant_id, submitted, |_| {}).await
    }

    /// Enqueues a message that is different from the usual one, also one that the API would refuse.
    pub async fn enqueue_with(
        &self,
        tenant_id: TenantId,
        submitted: Vec<u8>,
        adjust: impl FnOnce(&mut Message),
    ) -> MessageId {
        let now = Timestamp::now();
        let recipient = Address::parse("to@remote.example").unwrap();
        let mut message = Message {
            id: MessageId::generate(now),
            tenant_id,
            key_id: None,
            kind: MessageKind::Message,
            environment: Environment::Live,
            reverse_path: ReversePath::Mailbox(Address::parse("from@own.example").unwrap()),
            body: BodyType::SevenBit,
            smtputf8: false,
            annotations: Default::default(),
            parameters: Default::default(),
            size: 23,
            subject: Some("hello".into()),
            header_from: None,
            header_message_id: Some("id@own.example".into()),
            dkim_domain: None,
            sender_domain: DomainName::parse("own.example").ok(),
            list: None,
            created_at: now,
            expires_at: now + SignedDuration::from_hours(1),
        };
        adjust(&mut message);
        let id = message.id;
        let content = Content { prefix: Bytes::from_static(b"A: b\r\n"), submitted: submitted.into() };
        let recipients = vec![(DeliveryId::generate(now), recipient.into())];
        self.store
            .enqueue(NewMessage {
                message,
                recipients,
                content,
                suppressed: Vec::new(),
                submission_key: None,
            })
            .await
            .unwrap();
        id
    }
}

/// Webhook endpoints may be on this machine and may use plain HTTP.
pub fn local_webhooks() -> config::Webhooks {
    config::Webhooks {
        allowed_private_networks: vec!["127.0.0.0/8".parse().unwrap()],
        plain_http_hosts: vec!["127.0.0.1".into()],
        ..config::Webhooks::default()
    }
}

async fn make_key(
    store: &Store,
    tenant_id: Option<TenantId>,
    scopes: &[Scope],
    adjust: impl FnOnce(&mut NewKey),
) -> String {
    let secret = KeySecret::generate(Environment::Live);
    let mut new = NewKey {
        tenant_id,
        name: "stage".into(),
        environment: Environment::Live,
        scopes: scopes.to_vec(),
        allowed_domain_ids: vec![],
        allowed_cidrs: vec![],
        expires_at: None,
        stored_secret: secret.stored_secret(),
    };
    adjust(&mut new);
    store.create_key(new, Timestamp::now()).await.unwrap();
    secret.expose().to_owned()
}

/// The text at a path such as `/data/0/id`.
#[track_caller]
pub fn text(value: &Value, pointer: &str) -> String {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("{pointer} in {value}"))
        .to_owned()
}
