//! The submission server without the relay, on loopback ports, with its own store and one tenant that may send.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytesize::ByteSize;
use pillarbox::clock::Clock;
use pillarbox::config;
use pillarbox::dkim;
use pillarbox::limits::auth_limiter::{self, AuthLimiter};
use pillarbox::mail::{Address, DomainName, Timestamp};
use pillarbox::model::{
    DkimAlgorithm, DkimKeyState, Environment, KeySecret, MessageId, Scope, SuppressionReason, TenantId,
    Verification,
};
use pillarbox::server::{Security, Server, SubmissionDependencies};
use pillarbox::store::{
    Directory, NewDkimKey, NewDomain, NewKey, NewSuppression, NewTenant, SqliteOptions, Store,
};
use pillarbox::submission::{SubmissionService, SubmissionSettings};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::dialogue::Variables;
use crate::identity::Identity;

pub const HOSTNAME: &str = "mail.host.example";

pub struct SubmissionStage {
    pub submission: SocketAddr,
    pub submissions: SocketAddr,
    pub identity: Identity,
    pub store: Arc<Store>,
    pub clock: Clock,
    pub tenant: TenantId,
    /// A key's id, and its secret.
    pub user: String,
    pub password: String,
    pub stop: CancellationToken,
    pub serving: JoinSet<()>,
    _data_dir: tempfile::TempDir,
}

impl SubmissionStage {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(adjust: impl FnOnce(&mut config::Smtp)) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(SqliteOptions::at(data_dir.path())).await.unwrap());
        let (tenant, user, password) = furnish(&store).await;
        let mut limits = config::Smtp {
            recipients_max: 5,
            message_size_max: ByteSize::kib(100),
            ..config::Smtp::default()
        };
        adjust(&mut limits);
        let hostname = DomainName::parse(HOSTNAME).unwrap();
        let settings = SubmissionSettings {
            hostname: hostname.clone(),
            message_lifetime: std::time::Duration::from_secs(3600),
            message_lifetime_max: std::time::Duration::from_secs(7200),
            allow_null_sender: true,
            allow_duplicate_headers: limits.duplicate_headers == config::DuplicateHeaders::Allow,
            received_includes_client_address: false,
            inbound_host: None,
            return_path: Default::default(),
            public_url: None,
        };
        let clock = Clock::adjustable();
        let identity = Identity::new(&[HOSTNAME]);
        let tls = Arc::new(ArcSwap::new(identity.server_config()));
        let intake = Arc::new(SubmissionService::new(store.clone(), settings, clock.clone()));
        let bans = Arc::new(AuthLimiter::new(auth_limiter::AuthLimiterSettings {
            failures: "failed logins",
            failures_max: limits.login_failures_max,
            window: limits.login_failures_window,
            ban: limits.login_ban,
            exempt: limits.login_ban_exempt.clone(),
        }));
        let services = SubmissionDependencies { submission: intake, tls, bans, clock: clock.clone() };
        let server = Arc::new(Server::submission(hostname, &limits, services));
        let stop = CancellationToken::new();
        let mut serving = JoinSet::new();
        let mut addresses = Vec::new();
        for security in [Security::Starttls, Security::Implicit] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            serving.spawn(server.clone().serve(listener, security, stop.clone()));
        }
        let [submission, submissions] = addresses[..] else { unreachable!() };
        Self {
            submission,
            submissions,
            identity,
            store,
            clock,
            tenant,
            user,
            password,
            stop,
            serving,
            _data_dir: data_dir,
        }
    }

    /// The variables of the dialogues.
    pub fn variables(&self) -> Variables<'static> {
        let plain = |password: &str| BASE64_STANDARD.encode(format!("\0{}\0{password}", self.user));
        [
            ("hostname", HOSTNAME.to_owned()),
            ("auth", plain(&self.password)),
            ("bad_auth", plain("wrong")),
            ("user", BASE64_STANDARD.encode(&self.user)),
            ("password", BASE64_STANDARD.encode(&self.password)),
            ("sender", "app@own.example".to_owned()),
            ("foreign_sender", "app@foreign.example".to_owned()),
            ("recipient", "b@other.example".to_owned()),
            ("other_recipient", "c@other.example".to_owned()),
            ("suppressed", "suppressed@other.example".to_owned()),
            ("size_max", "102400".to_owned()),
            ("size_over", "102401".to_owned()),
        ]
        .into()
    }

    /// The id in a reply to a message.
    pub fn id_in(reply: &str) -> MessageId {
        reply.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

async fn furnish(store: &Store) -> (TenantId, String, String) {
    let now = Timestamp::now();
    let tenant = NewTenant::named("Acme", "acme");
    let tenant = store.create_tenant(tenant, now).await.unwrap().id;
    let pair = dkim::generate(DkimAlgorithm::Ed25519).unwrap();
    let dkim_key = NewDkimKey {
        selector: "s1".into(),
        algorithm: pair.algorithm,
        state: DkimKeyState::Active,
        public_key: pair.public_key,
        private_key: pair.private_key,
    };
    let domain = NewDomain {
        tenant_id: Some(tenant),
        name: DomainName::parse("own.example").unwrap(),
        verification: Verification::Manual,
        subdomains: true,
        ownership_token: "token".into(),
        dkim_keys: vec![dkim_key],
    };
    store.create_domain(domain, now).await.unwrap();
    let suppression = NewSuppression::of_all_mail(
        Some(tenant),
        Environment::Live,
        Address::parse("suppressed@other.example").unwrap(),
        SuppressionReason::Manual,
    );
    store.suppress(suppression, now).await.unwrap();
    let secret = KeySecret::generate(Environment::Live);
    let key = NewKey {
        tenant_id: Some(tenant),
        name: "stage".into(),
        environment: Environment::Live,
        scopes: vec![Scope::SmtpSend],
        allowed_domain_ids: vec![],
        allowed_cidrs: vec![],
        expires_at: None,
        stored_secret: secret.stored_secret(),
    };
    let key = store.create_key(key, now).await.unwrap();
    (tenant, key.id.to_string(), secret.expose().to_owned())
}
