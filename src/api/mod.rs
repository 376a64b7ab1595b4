//! The control plane: an HTTP API with JSON for the platform and its tenants.
//!
//! `server` accepts connections. `request_handler` passes each request through `route` (finds the operation), `auth`
//! (authenticates and authorises the caller), `body` and `page` (read the input), then the module of the resource, which
//! calls the store. `error` and `response` build the response; `etag`, `idempotency`, `compression` and `cors` apply the
//! request headers to it. `openapi` describes all operations.

mod auth;
mod bans;
mod body;
mod compression;
mod cors;
mod docs;
mod domains;
mod emails;
mod error;
mod etag;
mod events;
mod health;
mod idempotency;
mod idle_timeout;
mod json;
mod json_values;
mod keys;
mod openapi;
mod page;
mod queue;
mod rate_limit;
mod rejections;
mod request_context;
mod request_handler;
mod response;
mod route;
mod server;
mod suppressions;
mod tasks;
mod templates;
mod tenants;
mod usage;
mod webhooks;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::HeaderMap;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config;
use crate::limits::auth_limiter::AuthLimiter;
use crate::limits::connection_limiter::{self, ConnectionLimiter};
use crate::limits::memory_budget::MemoryBudget;
use crate::limits::tenant_semaphore::TenantSemaphore;
use crate::limits::versioned_cache::VersionedCache;
use crate::mail::Timestamp;
use crate::model::SecretDigest;
use crate::queue::QueueManager;
use crate::store::{Directory, Key, Store, Tenant};
use crate::submission::SubmissionService;
use crate::tls::SharedServerConfig;
use crate::verification::Verifier;

use self::auth::{Caller, LastUsedThrottle};
use self::error::{ApiError, Result};
use self::etag::ObjectLocks;
use self::events::Tail;
use self::idempotency::{InProgress, Kept};
use self::rate_limit::Requests;
use self::request_context::RequestContext;
use self::response::ApiResponse;
use self::route::Routes;

pub use self::auth::Access;
pub use self::emails::SendLimits;
pub use self::keys::KeyView;
pub use self::route::{Endpoint, Operation, ROUTES, Route};
pub use self::templates::language as template_language;

/// How long a key is cached. A change of a key or tenant by this process invalidates the cache at once; the lifetime
/// bounds the delay of changes by other processes (`pillarbox key revoke`).
const KEY_CACHE_LIFETIME: Duration = Duration::from_secs(1);
const CACHED_KEYS_MAX: usize = 10_000;
/// Concurrent RSA key generations. Each uses a core for a tenth of a second.
const KEY_GENERATIONS_MAX: u32 = 1;
/// Concurrent DNS checks of domains on request.
const LOOKUPS_MAX: u32 = 16;
/// Per tenant: a DNS server that does not answer delays each check by half a minute.
const LOOKUPS_PER_TENANT_MAX: u32 = 4;
/// Concurrent event streams.
const STREAMS_MAX: u32 = 200;
/// Per tenant; the platform counts as one.
const STREAMS_PER_TENANT_MAX: u32 = 10;

/// Concurrent builds of GET responses. Each holds rows of at most `store::PAGE_OCTETS_MAX` and their JSON, which the
/// memory budget does not count yet.
const RESPONSES_BUILT_MAX: u32 = 16;
/// Per tenant; the platform counts as one.
const RESPONSES_BUILT_PER_TENANT_MAX: u32 = 8;
/// Concurrent downloads of messages from files. Each is an open file.
const MESSAGE_STREAMS_MAX: u32 = 256;
/// Per tenant; the platform counts as one.
const MESSAGE_STREAMS_PER_TENANT_MAX: u32 = 64;

/// Dependencies of the API.
pub struct ApiDependencies {
    /// `[api]` of the configuration.
    pub settings: config::Api,
    /// Upper limit of the message lifetime that a tenant can set.
    pub message_lifetime_max: Duration,
    /// Checks domains.
    pub verification: Arc<Verifier>,
    /// Limits of messages.
    pub sending: SendLimits,
    /// The store.
    pub store: Arc<Store>,
    /// The wall clock.
    pub clock: Clock,
    /// Accepts messages.
    pub intake: Arc<SubmissionService>,
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
}

/// The control plane.
pub struct Api {
    settings: config::Api,
    message_lifetime_max: Duration,
    verification: Arc<Verifier>,
    sending: SendLimits,
    store: Arc<Store>,
    clock: Clock,
    intake: Arc<SubmissionService>,
    webhooks: config::Webhooks,
    tail: Arc<Tail>,
    streams: TenantSemaphore,
    bans: Arc<AuthLimiter>,
    source_pools: Vec<String>,
    queue: Arc<QueueManager>,
    tls: Option<SharedServerConfig>,
    routes: Routes,
    last_used_throttle: LastUsedThrottle,
    requests: Requests,
    in_progress: InProgress,
    kept: Kept,
    keys: VersionedCache<SecretDigest, Arc<(Key, Option<Tenant>)>>,
    object_locks: ObjectLocks,
    /// Memory budget for request bodies and responses in progress.
    room: Arc<MemoryBudget>,
    making: TenantSemaphore,
    message_streams: TenantSemaphore,
    connections: Arc<ConnectionLimiter>,
    key_generations: TenantSemaphore,
    look_ups: TenantSemaphore,
    /// Concurrent composition of messages and rendering of templates: at most one per core.
    composing: TenantSemaphore,
}

impl Api {
    /// Builds the API from its dependencies.
    pub fn new(parts: ApiDependencies) -> Self {
        let ApiDependencies {
            settings,
            message_lifetime_max,
            verification,
            sending,
            store,
            clock,
            intake,
            webhooks,
            bans,
            source_pools,
            queue,
            tls,
        } = parts;
        let requests = Requests::new(&settings);
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        let kept = Kept::new(settings.idempotency_storage_max.as_u64());
        let room = MemoryBudget::new(settings.inbound_buffer_max.as_u64());
        let connections = ConnectionLimiter::new(connection_limiter::Limits {
            total_max: settings.connections_max,
            per_address_max: settings.connections_per_address_max,
            // The tenant is known only from the requests of a connection.
            per_tenant_max: usize::MAX,
        });
        Self {
            settings,
            message_lifetime_max,
            verification,
            sending,
            tail: Arc::new(Tail::new(store.clone())),
            streams: TenantSemaphore::new(STREAMS_MAX, STREAMS_PER_TENANT_MAX),
            store,
            intake,
            webhooks,
            bans,
            source_pools,
            queue,
            tls,
            routes: Routes::new(),
            last_used_throttle: LastUsedThrottle::default(),
            requests,
            in_progress: InProgress::default(),
            kept,
            keys: VersionedCache::new(clock.clone(), KEY_CACHE_LIFETIME, CACHED_KEYS_MAX),
            clock,
            object_locks: ObjectLocks::default(),
            room,
            making: TenantSemaphore::new(RESPONSES_BUILT_MAX, RESPONSES_BUILT_PER_TENANT_MAX),
            message_streams: TenantSemaphore::new(MESSAGE_STREAMS_MAX, MESSAGE_STREAMS_PER_TENANT_MAX),
            connections,
            key_generations: TenantSemaphore::new(KEY_GENERATIONS_MAX, KEY_GENERATIONS_MAX),
            look_ups: TenantSemaphore::new(LOOKUPS_MAX, LOOKUPS_PER_TENANT_MAX),
            composing: TenantSemaphore::new(cores, cores).with_contended_max((cores / 2).max(1)),
        }
    }

    /// The connection limiter.
    pub fn connections(&self) -> Arc<ConnectionLimiter> {
        self.connections.clone()
    }

    /// The memory budget for request bodies and responses.
    pub fn room(&self) -> Arc<MemoryBudget> {
        self.room.clone()
    }

    /// The current time in the precision of the store, so that a new object equals the stored one.
    fn now(&self) -> Timestamp {
        let now = self.clock.now();
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }

    /// Serves a listener until `stop`. Returns when its last request is complete or aborted. Several listeners share the
    /// connection limit.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        server::serve(self, listener, stop).await;
    }

    /// Stores the request counts of tenants every few seconds and on shutdown.
    pub async fn count_requests(self: Arc<Self>, stop: CancellationToken) {
        self.requests.write_until(&self.store, stop).await;
    }

    /// The current key with this secret, and its tenant. Unknown keys are not cached: guesses would evict valid keys.
    async fn find_key(&self, digest: SecretDigest) -> Result<Option<Arc<(Key, Option<Tenant>)>>> {
        let load = async {
            match self.store.key_by_digest(digest).await {
                Ok(Some(found)) => Ok(Arc::new(found)),
                Ok(None) => Err(None),
                Err(error) => Err(Some(error)),
            }
        };
        match self.keys.get(digest, self.store.directory_version(), load).await {
            Ok(found) => Ok(Some(found)),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error.into()),
        }
    }

    async fn authenticate(
        &self,
        headers: &HeaderMap,
        access: Access,
        client: IpAddr,
        now: Timestamp,
    ) -> Result<Caller> {
        let secret = auth::read_secret(headers)?;
        let found = self.find_key(secret.digest()).await?;
        let caller = auth::admit(found.map(Arc::unwrap_or_clone), access, client, now)?;
        if self.last_used_throttle.is_due(caller.key.id, now)
            && let Err(error) = self.store.touch_key(caller.key.id, now).await
        {
            // `last_used_at` is informative, so the request continues.
            tracing::warn!(key = %caller.key.id, %error, "last_used_at of an API key could not be stored");
        }
        Ok(caller)
    }
}

async fn dispatch(endpoint: Endpoint, call: RequestContext<'_>) -> Result<ApiResponse> {
    match endpoint {
        Endpoint::Alive | Endpoint::Ready | Endpoint::Document | Endpoint::Docs | Endpoint::DocsPage => {
            Err(ApiError::internal("a public endpoint reached the authenticated dispatch"))
        }
        Endpoint::CreateTenant => tenants::create(call).await,
        Endpoint::ListTenants => tenants::list(call).await,
        Endpoint::GetTenant => tenants::get(call).await,
        Endpoint::UpdateTenant => tenants::update(call).await,
        Endpoint::DeleteTenant => tenants::delete(call).await,
        Endpoint::GetUsage => usage::month(call).await,
        Endpoint::GetUsageSeries => usage::series(call).await,
        Endpoint::CreateDomain => domains::create(call).await,
        Endpoint::ListDomains => domains::list(call).await,
        Endpoint::GetDomain => domains::get(call).await,
        Endpoint::UpdateDomain => domains::update(call).await,
        Endpoint::DeleteDomain => domains::delete(call).await,
        Endpoint::VerifyDomain => domains::verify(call).await,
        Endpoint::RotateDkimKeys => domains::rotate_dkim_keys(call).await,
        Endpoint::AddDkimKey => domains::add_dkim_key(call).await,
        Endpoint::ListDkimKeys => domains::list_dkim_keys(call).await,
        Endpoint::CreateKey => keys::create(call).await,
        Endpoint::ListKeys => keys::list(call).await,
        Endpoint::GetKey => keys::get(call).await,
        Endpoint::UpdateKey => keys::update(call).await,
        Endpoint::RevokeKey => keys::revoke(call).await,
        Endpoint::Suppress => suppressions::create(call).await,
        Endpoint::SuppressMany => suppressions::create_batch(call).await,
        Endpoint::ListSuppressions => suppressions::list(call).await,
        Endpoint::GetSuppression => suppressions::get(call).await,
        Endpoint::LiftSuppression => suppressions::lift(call).await,
        Endpoint::SendEmail => emails::send(call).await,
        Endpoint::SendEmails => emails::send_batch(call).await,
        Endpoint::ListEmails => emails::list(call).await,
        Endpoint::GetEmail => emails::get(call).await,
        Endpoint::GetTimeline => emails::timeline(call).await,
        Endpoint::GetRaw => emails::raw(call).await,
        Endpoint::RetryEmail => emails::retry(call).await,
        Endpoint::CancelEmail => emails::cancel(call).await,
        Endpoint::ShowQueue => queue::show(call).await,
        Endpoint::PauseQueue => queue::pause(call).await,
        Endpoint::ResumeQueue => queue::resume(call).await,
        Endpoint::ListSites => queue::list_sites(&call),
        Endpoint::FlushQueue => queue::flush(call).await,
        Endpoint::ListRejections => rejections::list(call).await,
        Endpoint::CreateTemplate => templates::create(call).await,
        Endpoint::ListTemplates => templates::list(call).await,
        Endpoint::GetTemplate => templates::get(call).await,
        Endpoint::UpdateTemplate => templates::update(call).await,
        Endpoint::DeleteTemplate => templates::delete(call).await,
        Endpoint::RenderTemplate => templates::render(call).await,
        Endpoint::ListEvents => events::list(call).await,
        Endpoint::CreateWebhook => webhooks::create(call).await,
        Endpoint::ListWebhooks => webhooks::list(call).await,
        Endpoint::GetWebhook => webhooks::get(call).await,
        Endpoint::UpdateWebhook => webhooks::update(call).await,
        Endpoint::DeleteWebhook => webhooks::delete(call).await,
        Endpoint::TestWebhook => webhooks::test(call).await,
        Endpoint::RotateWebhookSecret => webhooks::rotate_secret(call).await,
        Endpoint::ListWebhookDeliveries => webhooks::list_deliveries(call).await,
        Endpoint::GetWebhookDelivery => webhooks::get_delivery(call).await,
        Endpoint::ReplayWebhookDelivery => webhooks::replay_delivery(call).await,
        Endpoint::ListBans => bans::list(&call),
        Endpoint::LiftBan => bans::lift(&call),
    }
}
