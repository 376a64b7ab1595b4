//! The context of an authenticated request: caller, input, and the tenant whose objects it is about. It is read from the
//! request once the caller is known; handlers get it complete.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use bytes::Bytes;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};
use serde::de::DeserializeOwned;

use crate::limits::connection_limiter::ConnectionSlot;
use crate::limits::memory_budget::MemoryReservation;
use crate::mail::Timestamp;
use crate::model::{RequestId, TenantId};
use crate::store::{Conflict, Directory, Store, Tenant};

use super::error::{ApiError, Result};
use super::layers::auth::Caller;
use super::layers::idempotency;
use super::layers::trace::Arrival;
use super::operation::{Handler, Operation, Target};
use super::page::Query;
use super::response::ApiResponse;
use super::tasks::Tasks;
use super::{Api, body, json};

/// A request head above this size is counted in the memory budget.
const UNRESERVED_HEAD_OCTETS_MAX: usize = 2 * 1024;

/// The connection of a request.
#[derive(Clone)]
pub struct Origin {
    /// Address of the peer.
    pub client: IpAddr,
    /// The slot in the connection limiter, held until the last request is complete.
    pub place: Arc<ConnectionSlot>,
    /// Tasks of the listener.
    pub tasks: Tasks,
}

/// An authenticated and authorised request.
pub struct RequestContext {
    /// What handlers use.
    pub api: Arc<Api>,
    /// The matched operation.
    pub target: Target,
    /// The caller.
    pub caller: Arc<Caller>,
    /// Its connection.
    pub origin: Origin,
    /// Whether the response has no content.
    pub is_head: bool,
    /// Path and query.
    pub path_and_query: String,
    /// Request headers.
    pub headers: HeaderMap,
    /// Its id.
    pub request_id: RequestId,
    /// `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// `{tenant_id}` of the path.
    pub tenant_id: Option<String>,
    /// `{id}` of the path.
    pub id: Option<String>,
    /// Only parameters that the operation takes.
    pub query: Query,
    /// Empty where the method has none.
    pub body: Bytes,
    /// Memory held until the response: parsing a body takes at least as much memory as the body.
    pub room: MemoryReservation,
    /// Time of the request.
    pub now: Timestamp,
}

impl FromRequest<Arc<Api>> for RequestContext {
    type Rejection = ApiError;

    /// Reads query, headers and body, in this order.
    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self> {
        let (mut head, body) = request.into_parts();
        let (tenant_id, id) = path_ids(&mut head).await;
        let target: Target = take_extension(&mut head)?;
        let caller: Arc<Caller> = take_extension(&mut head)?;
        let Arrival { request_id, now } = take_extension(&mut head)?;
        let operation = target.operation;
        let is_known = |name: &str| operation.takes_parameter(name);
        let mut query = Query::parse(head.uri.query().unwrap_or_default(), is_known);
        query.finish()?;
        let idempotency_key = match head.method {
            Method::POST => idempotency::read_name(&head.headers)?.filter(|_| operation.is_repeatable()),
            _ => None,
        };
        let mut room = api.room.reserve(caller.scope());
        let head_octets = octets_of(&head);
        if head_octets > UNRESERVED_HEAD_OCTETS_MAX && !room.grow_to(head_octets as u64) {
            return Err(body::no_room());
        }
        let body = match [Method::POST, Method::PATCH, Method::PUT].contains(&head.method) {
            true => body::read(&head.headers, body, api.body_limits(operation), &mut room).await?,
            false => Bytes::new(),
        };
        Ok(Self {
            api: api.clone(),
            target,
            caller,
            origin: take_extension(&mut head)?,
            is_head: head.method == Method::HEAD,
            path_and_query: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            headers: head.headers,
            request_id,
            idempotency_key,
            tenant_id,
            id,
            query,
            body,
            room,
            now,
        })
    }
}

/// `{tenant_id}` and `{id}` of the path. Octets that are no text name nothing.
async fn path_ids(head: &mut Parts) -> (Option<String>, Option<String>) {
    let Ok(parameters) = RawPathParams::from_request_parts(head, &()).await else { return (None, None) };
    let find =
        |wanted| parameters.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned());
    (find("tenant_id"), find("id"))
}

fn take_extension<T: Clone + Send + Sync + 'static>(head: &mut Parts) -> Result<T> {
    head.extensions.remove().ok_or_else(|| ApiError::internal("a layer before the handler is missing"))
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
        let (option, bytes_max) = match operation.is_sending {
            true => ("api.send_body_max", settings.send_body_max),
            false => ("api.body_max", settings.body_max),
        };
        body::Limits { option, bytes_max: bytes_max.as_u64(), timeout: settings.request_timeout }
    }
}

impl RequestContext {
    /// Calls the handler of the operation.
    pub async fn handle(self) -> Result<ApiResponse> {
        let operation = self.target.operation;
        match &operation.handler {
            Handler::Private(handler) => handler.handle(self).await,
            Handler::Public(_) => Err(ApiError::internal("a public handler was called with a key")),
        }
    }

    /// The same request as if it were a GET.
    pub fn as_get(&self, operation: &'static Operation) -> Self {
        Self {
            api: self.api.clone(),
            target: Target { operation, ..self.target },
            caller: self.caller.clone(),
            origin: self.origin.clone(),
            is_head: false,
            path_and_query: String::new(),
            headers: HeaderMap::new(),
            request_id: self.request_id,
            idempotency_key: None,
            tenant_id: self.tenant_id.clone(),
            id: self.id.clone(),
            query: Query::default(),
            body: Bytes::new(),
            room: self.api.room.reserve(self.scope()),
            now: self.now,
        }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.api.store
    }

    /// Upper limit of `message_lifetime_hours`.
    pub fn message_lifetime_hours_max(&self) -> u32 {
        u32::try_from(self.api.message_lifetime_max.as_secs() / 3600).unwrap_or(u32::MAX)
    }

    /// The pools of source addresses that the configuration has.
    pub fn source_pools(&self) -> &[String] {
        &self.api.source_pools
    }

    /// The tenant of the caller; `None` for the platform.
    pub fn scope(&self) -> Option<TenantId> {
        self.caller.scope()
    }

    /// The id in the path. A text that is no id names nothing.
    pub fn id<T: FromStr>(&self, what: &str) -> Result<T> {
        self.id.as_deref().and_then(|text| text.parse().ok()).ok_or_else(|| ApiError::not_found(what))
    }

    /// The body.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        json::parse(&self.body)
    }

    /// Runs CPU-bound work on a blocking thread, with a permit of the tenant. The permit is held until the work ends, even
    /// if the caller is dropped.
    pub async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = self.api.composing.acquire(self.scope()).await.map_err(ApiError::internal)?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
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

    /// Whose objects a list shows: the tenant that path or parameter names, else the caller's; `None` is everybody's.
    pub async fn listed_tenant(&mut self) -> Result<Option<TenantId>> {
        let named = self.query.value::<TenantId>("tenant_id");
        self.query.finish()?;
        self.choose_tenant(named).await
    }

    /// Who is to own a new object: the tenant that path or body names, else the caller's; `None` is the platform.
    pub async fn owner(&self, named: Option<TenantId>) -> Result<Option<TenantId>> {
        let owner = self.choose_tenant(named).await?;
        // The caller's own tenant exists, and so does one of the path by now.
        if let Some(named) = named
            && self.scope().is_none()
            && self.store().tenant(named).await?.is_none()
        {
            return Err(Conflict::NoTenant.into());
        }
        Ok(owner)
    }

    /// Who is to own a new object that cannot belong to the platform.
    pub async fn owning_tenant(&self, named: Option<TenantId>, what: &str) -> Result<TenantId> {
        let message = format!("with a platform key, give the tenant that will own the {what}");
        self.owner(named).await?.ok_or_else(|| ApiError::field("tenant_id", "required", message))
    }

    /// Tenants that the caller must not see are reported as not found.
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
