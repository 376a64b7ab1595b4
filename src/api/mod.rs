//! The control plane: an HTTP API with JSON, by which the platform and its tenants manage everything.
//!
//! `server` has the connections. A request passes in `exchange` through `route` (which operation), `auth` (who, and may
//! they), `body` and `page` (what with), then the file of its resource, which asks the store; `error` and `answer` shape
//! what goes back, `conditional`, `compression` and `cors` give it the form that the client wants, and `openapi` tells of
//! it all. Imports `mail`, `policy`, `sign`, `dns`, `store`, `intake`, `verification`, `network` and the configuration.

mod auth;
mod bans;
mod body;
mod compression;
mod cors;
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

use crate::config;
use crate::dns::Resolver;
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
use crate::verification;

use self::auth::{Caller, Touched};
use self::error::{ApiError, Result};
use self::etag::Changes;
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

/// How long a key is remembered. It is forgotten at once when this process changes a key or a tenant; the time is for what
/// another does (`pillarbox key revoke`).
const KEY_LIFETIME: Duration = Duration::from_secs(1);
const KEYS_MAX: usize = 10_000;
/// RSA keys that are made at the same time: each takes a core for a tenth of a second.
const KEY_GENERATIONS_MAX: u32 = 1;
/// Domains whose records are looked up at the same time because someone asked for it.
const LOOK_UPS_MAX: u32 = 16;
/// Of one tenant: a DNS that does not answer takes half a minute for each.
const LOOK_UPS_OF_TENANT_MAX: u32 = 4;
/// Live tails of events that are open at the same time.
const STREAMS_MAX: u32 = 200;
/// Of one tenant; the platform counts as one.
const STREAMS_OF_TENANT_MAX: u32 = 10;

/// Answers to GET that are made at the same time, each of rows of at most `store::PAGE_OCTETS_MAX` and then JSON: what
/// that takes is not in the room yet.
const ANSWERS_MADE_MAX: u32 = 16;
/// Of one tenant; the platform counts as one.
const ANSWERS_OF_TENANT_MADE_MAX: u32 = 8;
/// Messages that are read from their files at the same time: each is an open file.
const MESSAGE_STREAMS_MAX: u32 = 256;
/// Of one tenant; the platform counts as one.
const MESSAGE_STREAMS_OF_TENANT_MAX: u32 = 64;

/// What the API is made of.
pub struct ApiDependencies {
    /// Its limits.
    pub settings: config::Api,
    /// The longest time that a tenant may have delivery tried.
    pub message_lifetime_max: Duration,
    /// What the proof of domains depends on.
    pub verification: verification::VerificationSettings,
    /// What messages may be.
    pub sending: SendLimits,
    /// Where everything is.
    pub store: Arc<Store>,
    /// Where messages go.
    pub intake: Arc<SubmissionService>,
    /// What endpoints of webhooks may be.
    pub webhooks: config::Webhooks,
    /// For the records of domains.
    pub resolver: Resolver,
    /// Who may not log in over SMTP.
    pub bans: Arc<AuthLimiter>,
    /// The names of the pools of source addresses that a tenant may have.
    pub source_pools: Vec<String>,
    /// What waits for delivery.
    pub queue: Arc<QueueManager>,
    /// The certificate, if it speaks TLS.
    pub tls: Option<SharedServerConfig>,
}

/// The control plane.
pub struct Api {
    settings: config::Api,
    message_lifetime_max: Duration,
    verification: verification::VerificationSettings,
    sending: SendLimits,
    store: Arc<Store>,
    intake: Arc<SubmissionService>,
    webhooks: config::Webhooks,
    tail: Arc<Tail>,
    streams: TenantSemaphore,
    resolver: Resolver,
    bans: Arc<AuthLimiter>,
    source_pools: Vec<String>,
    queue: Arc<QueueManager>,
    tls: Option<SharedServerConfig>,
    routes: Routes,
    touched: Touched,
    requests: Requests,
    in_progress: InProgress,
    kept: Kept,
    keys: VersionedCache<SecretDigest, Arc<(Key, Option<Tenant>)>>,
    changes: Changes,
    /// For bodies that are being received or worked on, and for answers that are being sent.
    room: Arc<MemoryBudget>,
    making: TenantSemaphore,
    message_streams: TenantSemaphore,
    connections: Arc<ConnectionLimiter>,
    key_generations: TenantSemaphore,
    look_ups: TenantSemaphore,
    /// Messages and templates that are worked on at one time: no more than there are cores.
    composing: TenantSemaphore,
}

impl Api {
    /// Puts the parts together.
    pub fn new(parts: ApiDependencies) -> Self {
        let ApiDependencies {
            settings,
            message_lifetime_max,
            verification,
            sending,
            store,
            intake,
            webhooks,
            resolver,
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
            // Whose a connection is, only its requests say.
            per_tenant_max: usize::MAX,
        });
        Self {
            settings,
            message_lifetime_max,
            verification,
            sending,
            tail: Arc::new(Tail::new(store.clone())),
            streams: TenantSemaphore::new(STREAMS_MAX, STREAMS_OF_TENANT_MAX),
            store,
            intake,
            webhooks,
            resolver,
            bans,
            source_pools,
            queue,
            tls,
            routes: Routes::new(),
            touched: Touched::default(),
            requests,
            in_progress: InProgress::default(),
            kept,
            keys: VersionedCache::new(KEY_LIFETIME, KEYS_MAX),
            changes: Changes::default(),
            room,
            making: TenantSemaphore::new(ANSWERS_MADE_MAX, ANSWERS_OF_TENANT_MADE_MAX),
            message_streams: TenantSemaphore::new(MESSAGE_STREAMS_MAX, MESSAGE_STREAMS_OF_TENANT_MAX),
            connections,
            key_generations: TenantSemaphore::new(KEY_GENERATIONS_MAX, KEY_GENERATIONS_MAX),
            look_ups: TenantSemaphore::new(LOOK_UPS_MAX, LOOK_UPS_OF_TENANT_MAX),
            composing: TenantSemaphore::new(cores, cores).with_contended_max((cores / 2).max(1)),
        }
    }

    /// How many connections are open.
    pub fn connections(&self) -> Arc<ConnectionLimiter> {
        self.connections.clone()
    }

    /// The memory for bodies and answers.
    pub fn room(&self) -> Arc<MemoryBudget> {
        self.room.clone()
    }

    /// Serves a listener until `stop`; returns when its last request is answered or was cut. Several listeners share
    /// the limit of connections.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        server::serve(self, listener, stop).await;
    }

    /// Writes how many requests tenants make, every few seconds and when it is told to stop.
    pub async fn count_requests(self: Arc<Self>, stop: CancellationToken) {
        self.requests.write_until(&self.store, stop).await;
    }

    /// The key with this secret and its tenant as they are now. One that is not there is not remembered, or guesses
    /// would push out those that are.
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
        if self.touched.is_due(caller.key.id, now)
            && let Err(error) = self.store.touch_key(caller.key.id, now).await
        {
            // When a key was last used is for people; a request need not fail for it.
            tracing::warn!(key = %caller.key.id, %error, "the use of a key could not be noted");
        }
        Ok(caller)
    }
}

/// The time as precise as the store keeps it, so that an object reads the same when it is made and ever after.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

async fn dispatch(endpoint: Endpoint, call: RequestContext<'_>) -> Result<ApiResponse> {
    match endpoint {
        Endpoint::Alive | Endpoint::Ready | Endpoint::Document | Endpoint::Docs => {
            Err(ApiError::internal("an endpoint without a key was asked with one"))
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
