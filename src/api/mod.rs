//! The control plane: an HTTP API with JSON for the platform and its tenants.
//!
//! Each resource has a module, which registers its operations (`operation`) beside their handlers. `router` builds the axum
//! router from them, and `openapi` the OpenAPI document. `server` accepts connections. A request passes the `layers` (id
//! and log, authentication, limits). `request_context` then reads it with `body` and `page`, and `request_handler` calls
//! the handler. `error` and `response` build the response.

mod audit;
mod backup;
mod bans;
mod body;
mod certificate;
mod content;
mod destinations;
mod docs;
mod doctor;
mod domains;
mod emails;
mod error;
mod etag;
mod events;
mod health;
mod in_process;
mod inboxes;
mod json;
mod json_faults;
mod json_values;
mod json_words;
mod keys;
mod layers;
mod me;
mod objects_only;
mod openapi;
mod operation;
mod page;
pub mod parsing;
mod queue;
mod recipients;
mod rejections;
mod reports;
mod request_context;
mod request_handler;
mod response;
mod router;
mod schema;
mod server;
mod sessions;
mod stats;
mod suppressions;
mod tasks;
mod templates;
mod tenants;
mod tokens;
mod usage;
mod webhooks;

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::acme::Acme;
use crate::clock::Clock;
use crate::config;
use crate::dkim::GenerateKey;
use crate::doctor::Doctor;
use crate::limits::auth_limiter::AuthLimiter;
use crate::limits::connection_limiter::{self, ConnectionLimiter};
use crate::limits::memory_budget::MemoryBudget;
use crate::limits::tenant_semaphore::TenantSemaphore;
use crate::mail::{SignedDuration, Timestamp};
use crate::queue::QueueManager;
use crate::store::{Ledger, Store};
use crate::submission::SubmissionService;
use crate::tls::{Certificate, SharedServerConfig};
use crate::verification::Verifier;

use self::error::{FieldError, Result};
use self::events::Tail;
use self::layers::idempotency::InProgress;
use self::layers::preconditions::ObjectLocks;
use self::layers::rate_limit::RequestLimiter;
use self::layers::unknown_keys::UnknownKeyLimiter;
use self::operation::Resource;
use self::page::List;
use self::request_context::{ListedOwner, RequestContext};
use self::response::{ApiResponse, Deleted};
use self::server::ApiTls;

pub use self::emails::SendLimits;
pub use self::error::ApiError;
pub use self::in_process::{Answer, Ask, InProcess, SessionRights, SignedIn};
pub use self::keys::KeyView;
pub use self::operation::{Access, Operation, Route};
pub use self::request_context::Origin;
pub use self::router::no_such_path;
pub use self::server::Connections;
pub use self::sessions::{digest_of_token, random_token};
pub use self::templates::language as template_language;
pub use crate::store::{SessionChange, SignIn, SignInLimits};

/// The resources, in the order of the document.
static RESOURCES: LazyLock<Vec<Resource>> = LazyLock::new(|| {
    vec![
        tenants::resource(),
        domains::resource(),
        keys::resource(),
        me::resource(),
        sessions::resource(),
        emails::resource(),
        templates::resource(),
        suppressions::resource(),
        recipients::resource(),
        inboxes::resource(),
        usage::resource(),
        stats::resource(),
        rejections::resource(),
        reports::resource(),
        events::resource(),
        webhooks::resource(),
        queue::resource(),
        bans::resource(),
        tokens::resource(),
        audit::resource(),
        doctor::resource(),
        destinations::resource(),
        backup::resource(),
        certificate::resource(),
        health::resource(),
    ]
});

/// Every path of the API.
pub static ROUTES: LazyLock<Vec<Route>> =
    LazyLock::new(|| RESOURCES.iter().flat_map(|resource| resource.routes.iter().cloned()).collect());

/// Concurrent RSA key generations. Each uses a core for a tenth of a second.
const KEY_GENERATIONS_MAX: u32 = 1;
/// Concurrent requests that read every row of the store.
const SCANS_MAX: u32 = 4;
/// The same per tenant. The platform counts as a tenant.
const SCANS_PER_TENANT_MAX: u32 = 1;
/// Concurrent requests that wait for the DNS or other servers.
const LOOKUPS_MAX: u32 = 16;
/// The same per tenant. A server that does not respond delays each request by up to a minute.
const LOOKUPS_PER_TENANT_MAX: u32 = 4;
/// Concurrent event streams.
const STREAMS_MAX: u32 = 200;
/// Concurrent event streams per tenant. The platform counts as a tenant.
const STREAMS_PER_TENANT_MAX: u32 = 10;

/// Concurrent builds of GET responses. Each build holds rows of at most `store::PAGE_OCTETS_MAX` and their JSON. The memory
/// budget counts the JSON only once it is complete.
const RESPONSES_BUILT_MAX: u32 = 16;
/// Concurrent builds of GET responses per tenant. The platform counts as a tenant.
const RESPONSES_BUILT_PER_TENANT_MAX: u32 = 8;
/// The same while tenants compete.
const RESPONSES_BUILT_PER_TENANT_CONTENDED_MAX: u32 = 2;
/// Concurrent downloads of messages from files. Each download holds an open file.
const MESSAGE_STREAMS_MAX: u32 = 256;
/// Concurrent downloads of messages from files per tenant. The platform counts as a tenant.
const MESSAGE_STREAMS_PER_TENANT_MAX: u32 = 64;

/// Concurrent exports of tenants. Each holds a page of `store::PAGE_OCTETS_MAX`, or one message, several times.
const EXPORTS_MAX: u32 = 2;

/// Dependencies of the API.
pub struct ApiDependencies {
    /// `[api]` of the configuration.
    pub settings: config::Api,
    /// Upper limit of the message lifetime that a tenant can set.
    pub message_lifetime_max: Duration,
    /// Checks domains.
    pub verification: Arc<Verifier>,
    /// Limits of each message sent over HTTP.
    pub sending: SendLimits,
    /// The store.
    pub store: Arc<Store>,
    /// The wall clock.
    pub clock: Clock,
    /// Accepts messages.
    pub submission: Arc<SubmissionService>,
    /// `[webhooks]` of the configuration.
    pub webhooks: config::Webhooks,
    /// Bans from SMTP authentication.
    pub bans: Arc<AuthLimiter>,
    /// Names of the source address pools.
    pub source_pools: Vec<String>,
    /// The queue manager.
    pub queue: Arc<QueueManager>,
    /// The TLS configuration, if the listener uses TLS.
    pub tls: Option<SharedServerConfig>,
    /// Checks the server.
    pub doctor: Arc<Doctor>,
    /// `[ui]` of the configuration.
    pub ui: config::Ui,
    /// The data directory, where the last backup is noted.
    pub data_dir: PathBuf,
    /// What makes DKIM keys.
    pub generate_key: GenerateKey,
    /// The certificate of the listeners.
    pub certificate: Arc<Certificate>,
    /// Whether the configuration names it.
    pub has_certificate_files: bool,
    /// Renews it, if that is the server's task.
    pub acme: Option<Arc<Acme>>,
}

/// The control plane.
pub struct Api {
    settings: config::Api,
    message_lifetime_max: Duration,
    verification: Arc<Verifier>,
    sending: SendLimits,
    store: Arc<Store>,
    clock: Clock,
    submission: Arc<SubmissionService>,
    webhooks: config::Webhooks,
    tail: Arc<Tail>,
    streams: TenantSemaphore,
    bans: Arc<AuthLimiter>,
    source_pools: Vec<String>,
    queue: Arc<QueueManager>,
    tls: Option<ApiTls>,
    request_limiter: RequestLimiter,
    in_progress: InProgress,
    unknown_keys: UnknownKeyLimiter,
    object_locks: ObjectLocks,
    /// Memory budget for request bodies and responses in progress.
    memory: Arc<MemoryBudget>,
    response_builds: TenantSemaphore,
    message_streams: TenantSemaphore,
    exports: TenantSemaphore,
    connections: Arc<ConnectionLimiter>,
    key_generations: TenantSemaphore,
    lookups: TenantSemaphore,
    scans: TenantSemaphore,
    /// Concurrent composition of messages and rendering of templates, at most one per core.
    composing: TenantSemaphore,
    doctor: Arc<Doctor>,
    certificate: Arc<Certificate>,
    has_certificate_files: bool,
    acme: Option<Arc<Acme>>,
    session_max: SignedDuration,
    has_pages: bool,
    data_dir: PathBuf,
    generate_key: GenerateKey,
}

impl Api {
    /// Builds the API from its dependencies.
    pub fn new(parts: ApiDependencies) -> Self {
        let request_limiter = RequestLimiter::new(&parts.settings, parts.store.shares_quota());
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        let memory = MemoryBudget::new(parts.settings.inbound_buffer_max.as_u64());
        let connections = ConnectionLimiter::new(connection_limiter::Limits {
            total_max: parts.settings.connections_max,
            per_address_max: parts.settings.connections_per_address_max,
            // A connection has no tenant: each request carries a key.
            per_tenant_max: usize::MAX,
        });
        Self {
            settings: parts.settings,
            message_lifetime_max: parts.message_lifetime_max,
            verification: parts.verification,
            sending: parts.sending,
            tail: Arc::new(Tail::new(parts.store.clone())),
            streams: TenantSemaphore::new(STREAMS_MAX, STREAMS_PER_TENANT_MAX),
            store: parts.store,
            submission: parts.submission,
            webhooks: parts.webhooks,
            bans: parts.bans,
            source_pools: parts.source_pools,
            queue: parts.queue,
            tls: parts.tls.map(ApiTls::new),
            request_limiter,
            in_progress: InProgress::default(),
            unknown_keys: UnknownKeyLimiter::default(),
            clock: parts.clock,
            object_locks: ObjectLocks::default(),
            memory,
            response_builds: TenantSemaphore::new(RESPONSES_BUILT_MAX, RESPONSES_BUILT_PER_TENANT_MAX)
                .with_contended_max(RESPONSES_BUILT_PER_TENANT_CONTENDED_MAX),
            message_streams: TenantSemaphore::new(MESSAGE_STREAMS_MAX, MESSAGE_STREAMS_PER_TENANT_MAX),
            exports: TenantSemaphore::new(EXPORTS_MAX, EXPORTS_MAX),
            connections,
            key_generations: TenantSemaphore::new(KEY_GENERATIONS_MAX, KEY_GENERATIONS_MAX),
            lookups: TenantSemaphore::new(LOOKUPS_MAX, LOOKUPS_PER_TENANT_MAX),
            scans: TenantSemaphore::new(SCANS_MAX, SCANS_PER_TENANT_MAX),
            composing: TenantSemaphore::new(cores, cores).with_contended_max((cores / 2).max(1)),
            doctor: parts.doctor,
            session_max: SignedDuration::try_from(parts.ui.session_max).unwrap_or(SignedDuration::MAX),
            has_pages: parts.ui.enabled,
            certificate: parts.certificate,
            has_certificate_files: parts.has_certificate_files,
            acme: parts.acme,
            data_dir: parts.data_dir,
            generate_key: parts.generate_key,
        }
    }

    /// The connection limiter.
    pub fn connections(&self) -> Arc<ConnectionLimiter> {
        self.connections.clone()
    }

    /// The memory budget for request bodies and responses.
    pub fn memory(&self) -> Arc<MemoryBudget> {
        self.memory.clone()
    }

    /// The current time.
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Serves a listener, and the pages if there are any, until `stop`. Returns when its last request is complete or aborted. Several listeners share the
    /// connection limit.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        pages: Option<Router>,
        stop: CancellationToken,
    ) {
        server::serve(self, listener, pages, stop).await;
    }

    /// Stores the request counts of tenants every few seconds and on shutdown, and shares their limits with other nodes.
    pub async fn count_requests(self: Arc<Self>, stop: CancellationToken) {
        let (limiter, store) = (&self.request_limiter, &self.store);
        tokio::join!(limiter.write_until(store, stop.clone()), limiter.share_until(store, &self.clock, stop));
    }
}
