//! The context of an authenticated request: caller, input, and the tenant of the objects. The body is read after the
//! caller is authenticated and before the handler runs.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use bytes::Bytes;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::blocking;
use crate::limits::connection_limiter::ConnectionSlot;
use crate::limits::memory_budget::MemoryReservation;
use crate::limits::tenant_semaphore::TenantPermit;
use crate::mail::Timestamp;
use crate::model::{Environment, RequestId, TenantId};
use crate::store::{
    AuditTrail, Conflict, DEFAULT_TENANT, Directory, IdempotentRequest, ObjectVersion, ResponseRecorder,
    Store, Tenant,
};

use super::error::{ApiError, Result};
use super::in_process::SignedIn;
use super::layers::auth::Caller;
use super::layers::idempotency;
use super::layers::trace::Arrival;
use super::operation::{Handler, Operation, Target};
use super::page::Query;
use super::response::ApiResponse;
use super::tasks::Tasks;
use super::{Api, audit, body, json};

/// The memory budget counts request heads above this size.
const UNRESERVED_HEAD_OCTETS_MAX: usize = 2 * 1024;

/// The connection of a request.
#[derive(Clone)]
pub struct Origin {
    /// Address of the peer.
    pub client: IpAddr,
    /// The slot in the connection limiter, held until the last request is complete.
    pub slot: Arc<ConnectionSlot>,
    /// Tasks of the listener.
    pub tasks: Tasks,
}

/// An authenticated and authorized request.
pub struct RequestContext {
    /// The API and its dependencies.
    pub api: Arc<Api>,
    /// The store, whose queries share the connections fairly with those of other callers.
    store: Store,
    /// The matched operation.
    pub target: Target,
    /// The caller.
    pub caller: Caller,
    /// Who is signed in, by the digest of the secret.
    pub signed_in: SignedIn,
    /// Its connection.
    pub origin: Origin,
    /// Whether the method is HEAD, so that the response has no content.
    pub is_head: bool,
    /// Request headers.
    pub headers: HeaderMap,
    /// The request id.
    pub request_id: RequestId,
    /// The request as its `Idempotency-Key` identifies it.
    pub idempotent: Option<Arc<IdempotentRequest>>,
    /// `{tenant_id}` of the path.
    pub tenant_id: Option<String>,
    /// `{id}` of the path.
    pub id: Option<String>,
    /// `{part}` of the path.
    pub part: Option<String>,
    /// The query parameters, limited to those of the operation.
    pub query: Query,
    /// The body; empty if the method has none.
    pub body: Bytes,
    /// Memory for head and body, held until the response is built: a parsed body takes at least as much memory as its text.
    pub reservation: MemoryReservation,
    /// Time of the request.
    pub now: Timestamp,
}

/// Whose objects a list shows: those of a tenant, those of the platform, or all.
pub struct ListedOwner {
    /// Only those of this tenant.
    pub tenant_id: Option<TenantId>,
    /// Only those that belong to no tenant.
    pub of_platform: bool,
}

impl FromRequest<Arc<Api>> for RequestContext {
    type Rejection = ApiError;

    /// Reads query, headers and body, in this order.
    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self> {
        let (mut head, body) = request.into_parts();
        let PathIds { tenant_id, id, part } = path_ids(&mut head).await;
        let target: Target = take_extension(&mut head)?;
        let caller: Caller = take_extension(&mut head)?;
        let signed_in: SignedIn = take_extension(&mut head)?;
        let Arrival { request_id, now } = take_extension(&mut head)?;
        let operation = target.operation;
        let is_known = |name: &str| operation.takes_parameter(name);
        let mut query = Query::parse(head.uri.query().unwrap_or_default(), is_known);
        query.finish()?;
        confine_to_environment(&mut query, operation, &caller)?;
        let idempotency_key = match head.method {
            Method::POST => idempotency::read_name(&head.headers)?.filter(|_| operation.is_repeatable()),
            _ => None,
        };
        let mut reservation = api.memory.reserve(caller.scope());
        let head_octets = octets_of(&head);
        if head_octets > UNRESERVED_HEAD_OCTETS_MAX && !reservation.grow_to(head_octets as u64) {
            return Err(body::memory_exhausted());
        }
        let body = match [Method::POST, Method::PATCH, Method::PUT].contains(&head.method) {
            true => body::read(&head.headers, body, api.body_limits(operation), &mut reservation).await?,
            false => Bytes::new(),
        };
        let idempotent = idempotency_key.map(|name| {
            let target = head.uri.path_and_query().map_or("", |target| target.as_str());
            let digest = idempotency::digest_of(target, &body);
            Arc::new(IdempotentRequest::new(caller.key.id, name, digest, now))
        });
        Ok(Self {
            api: api.clone(),
            store: api.store.for_requester(caller.scope().into()),
            target,
            caller,
            signed_in,
            origin: take_extension(&mut head)?,
            is_head: head.method == Method::HEAD,
            headers: head.headers,
            request_id,
            idempotent,
            tenant_id,
            id,
            part,
            query,
            body,
            reservation,
            now,
        })
    }
}

/// A list that filters by environment shows a test key test objects only.
fn confine_to_environment(query: &mut Query, operation: &Operation, caller: &Caller) -> Result<()> {
    if caller.sees(Environment::Live) || !operation.takes_parameter("environment") {
        return Ok(());
    }
    match query.text("environment") {
        Some(text) if text == Environment::Live.as_str() => Err(ApiError::live_only("`environment=live`")),
        Some(_) => Ok(()),
        None => {
            query.set("environment", Environment::Test.as_str());
            Ok(())
        }
    }
}

/// The segments of the path that are parameters.
struct PathIds {
    tenant_id: Option<String>,
    id: Option<String>,
    part: Option<String>,
}

async fn path_ids(head: &mut Parts) -> PathIds {
    let Ok(parameters) = RawPathParams::from_request_parts(head, &()).await else {
        // A segment is not UTF-8. An empty id gives 404; without an id, the request would be about all tenants.
        let empty = Some(String::new());
        return PathIds { tenant_id: empty.clone(), id: empty.clone(), part: empty };
    };
    let find =
        |wanted| parameters.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned());
    PathIds { tenant_id: find("tenant_id"), id: find("id"), part: find("part") }
}

fn take_extension<T: Clone + Send + Sync + 'static>(head: &mut Parts) -> Result<T> {
    head.extensions
        .remove()
        .ok_or_else(|| ApiError::internal("a layer did not set an extension that the handler needs"))
}

/// Approximate octets of a request head.
fn octets_of(head: &Parts) -> usize {
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    fields.sum::<usize>() + target
}

impl Api {
    fn body_limits(&self, operation: &Operation) -> body::Limits {
        let settings = &self.settings;
        let (option, bytes_max) = match operation.is_sending || operation.is_large {
            true => ("api.send_body_max", settings.send_body_max),
            false => ("api.body_max", settings.body_max),
        };
        body::Limits { option, bytes_max: bytes_max.as_u64(), timeout: settings.request_timeout }
    }
}

impl RequestContext {
    /// Calls the handler of the operation. A change becomes an entry of the audit log.
    pub async fn handle(self) -> Result<ApiResponse> {
        match self.target.operation.is_audited() {
            true => audit::run(self).await,
            false => self.perform().await,
        }
    }

    /// Its changes store an entry of the audit log.
    pub fn auditing(self, trail: Arc<AuditTrail>) -> Self {
        Self { store: self.store.auditing(trail), ..self }
    }

    /// Its changes fail if another request has changed the object since it had this version.
    pub fn unless_changed(self, version: ObjectVersion) -> Self {
        Self { store: self.store.unless_changed(version), ..self }
    }

    /// Whether the key belongs to the platform, also if its session is that of a tenant.
    pub fn is_of_platform_key(&self) -> bool {
        self.caller.is_platform() || self.caller.by_platform
    }

    /// Calls the handler of the operation, without an entry of the audit log.
    pub(super) async fn perform(self) -> Result<ApiResponse> {
        let operation = self.target.operation;
        match &operation.handler {
            Handler::Private(handler) => handler.handle(self).await,
            Handler::Public(_) => Err(ApiError::internal("a public handler was called with a key")),
        }
    }

    /// A GET of the object that this request changes.
    pub fn as_get(&self, operation: &'static Operation) -> Self {
        Self {
            api: self.api.clone(),
            store: self.store.clone(),
            target: Target { operation, ..self.target },
            caller: self.caller.clone(),
            signed_in: self.signed_in.clone(),
            origin: self.origin.clone(),
            is_head: false,
            headers: HeaderMap::new(),
            request_id: self.request_id,
            idempotent: None,
            tenant_id: self.tenant_id.clone(),
            id: self.id.clone(),
            part: self.part.clone(),
            query: Query::default(),
            body: Bytes::new(),
            reservation: self.api.memory.reserve(self.scope()),
            now: self.now,
        }
    }

    /// Waits for a permit to build a response in memory.
    pub async fn response_build(&self) -> Result<TenantPermit> {
        self.api.response_builds.acquire(self.scope()).await.map_err(ApiError::internal)
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Changes the store and responds with what `respond` makes of the result. With an `Idempotency-Key`, the transaction
    /// that returns this result also stores the response, so that a crash leaves both or neither.
    pub async fn change<T: 'static, Change: Future<Output = Result<T>>>(
        &self,
        respond: impl Fn(&T) -> Result<ApiResponse> + Send + Sync + 'static,
        change: impl FnOnce(Store) -> Change,
    ) -> Result<ApiResponse> {
        let Some(request) = &self.idempotent else { return respond(&change(self.store().clone()).await?) };
        let respond = Arc::new(respond);
        let render = Arc::clone(&respond);
        let render = move |result: &T| {
            let response = render(result).ok()?;
            Some((response.status().as_u16(), response.body()?.to_vec()))
        };
        let recorder = ResponseRecorder::new(Arc::clone(request), render);
        respond(&change(self.store().recording(recorder)).await?)
    }

    /// Upper limit of `message_lifetime_hours`.
    pub fn message_lifetime_hours_max(&self) -> u32 {
        u32::try_from(self.api.message_lifetime_max.as_secs() / 3600).unwrap_or(u32::MAX)
    }

    /// The names of the configured source address pools.
    pub fn source_pools(&self) -> &[String] {
        &self.api.source_pools
    }

    /// The tenant of the caller; `None` for the platform.
    pub fn scope(&self) -> Option<TenantId> {
        self.caller.scope()
    }

    /// The id in the path. A malformed id gives 404.
    pub fn id<T: FromStr>(&self, what: &str) -> Result<T> {
        self.id.as_deref().and_then(|text| text.parse().ok()).ok_or_else(|| ApiError::not_found(what))
    }

    /// The body. An error lists all its faults.
    pub fn json<T: DeserializeOwned + JsonSchema>(&self) -> Result<T> {
        json::parse_all(&self.body)
    }

    /// Runs CPU-bound work on a blocking thread, with a permit of the tenant. The permit is held until the work ends, even
    /// if the caller is dropped.
    pub async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.api.composing.acquire(self.scope()).await.map_err(ApiError::internal)?;
        let done = blocking::run(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(ApiError::internal)?
    }

    /// The tenant in the path, if the caller may see it.
    pub async fn path_tenant(&self) -> Result<Tenant> {
        let id = self.tenant_id.as_deref().and_then(|text| text.parse().ok());
        let id = id.filter(|id| self.sees(*id)).ok_or_else(|| ApiError::not_found("tenant"))?;
        self.store().tenant(id).await?.ok_or_else(|| ApiError::not_found("tenant"))
    }

    fn sees(&self, tenant: TenantId) -> bool {
        self.scope().is_none_or(|own| own == tenant)
    }

    /// The tenant whose objects a list shows: that of the path or the query parameter, or else that of the caller. `None`
    /// means all tenants.
    pub async fn listed_tenant(&mut self) -> Result<Option<TenantId>> {
        let named = self.query.value::<TenantId>("tenant_id");
        self.query.finish()?;
        self.choose_tenant(named).await
    }

    /// The environment whose objects a list shows: that of the query parameter, or else that of the key of a tenant. `None`
    /// means both.
    pub fn listed_environment(&mut self) -> Option<Environment> {
        let own = self.scope().map(|_| self.caller.key.environment);
        self.query.value("environment").or(own)
    }

    /// The environment of a new object: that of the body, or else that of the key.
    pub fn environment_of_new(&self, named: Option<Environment>) -> Result<Environment> {
        let environment = named.unwrap_or(self.caller.key.environment);
        match self.caller.sees(environment) {
            true => Ok(environment),
            false => Err(ApiError::live_only("`\"environment\": \"live\"`")),
        }
    }

    /// Like [`RequestContext::listed_tenant`], for objects that may belong to no tenant: `tenant_id=null` selects those.
    pub async fn listed_owner(&mut self) -> Result<ListedOwner> {
        if self.query.text("tenant_id") != Some("null") {
            return Ok(ListedOwner { tenant_id: self.listed_tenant().await?, of_platform: false });
        }
        if self.tenant_id.is_some() {
            return Err(ApiError::field("tenant_id", "invalid", "omit this, or give the tenant of the path"));
        }
        match self.scope() {
            Some(_) => Err(ApiError::platform_only("listing the objects of the platform")),
            None => Ok(ListedOwner { tenant_id: None, of_platform: true }),
        }
    }

    /// The owner of a new object: the tenant of the path or the body, or else that of the caller. `None` means the platform.
    pub async fn owner(&self, named: Option<TenantId>) -> Result<Option<TenantId>> {
        let owner = self.choose_tenant(named).await?;
        // Authentication has read the tenant of the caller, and `choose_tenant` that of the path.
        if let Some(named) = named
            && self.scope().is_none()
            && self.store().tenant(named).await?.is_none()
        {
            return Err(Conflict::NoTenant.into());
        }
        Ok(owner)
    }

    /// The owner of a new object that cannot belong to the platform: with a platform key, the tenant that is named, or else
    /// the default tenant.
    pub async fn owning_tenant(&self, named: Option<TenantId>, what: &str) -> Result<Arc<Tenant>> {
        let owner = self.choose_tenant(named).await?;
        if let Some(own) = &self.caller.tenant {
            return Ok(Arc::clone(own));
        }
        if let Some(id) = owner {
            let found = self.store().tenant(id).await?;
            return found.map(Arc::new).ok_or_else(|| Conflict::NoTenant.into());
        }
        let message =
            format!("there is no tenant {DEFAULT_TENANT}: name the tenant that will own the {what}");
        let found = self.store().tenant_by_slug(DEFAULT_TENANT).await?;
        found.map(Arc::new).ok_or_else(|| ApiError::field("tenant_id", "required", message))
    }

    /// Reports tenants that the caller must not see as not found.
    async fn choose_tenant(&self, named: Option<TenantId>) -> Result<Option<TenantId>> {
        let of_path = match self.tenant_id {
            Some(_) => Some(self.path_tenant().await?.id),
            None => None,
        };
        match (of_path, named) {
            (Some(path), Some(named)) if path != named => {
                Err(ApiError::field("tenant_id", "invalid", "omit this, or give the tenant of the path"))
            }
            (_, Some(named)) if !self.sees(named) => Err(ApiError::not_found("tenant")),
            (path, named) => Ok(path.or(named).or(self.scope())),
        }
    }
}
