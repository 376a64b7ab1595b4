//! The context of an authenticated request: caller, input, and the tenant whose objects it is about.

use std::net::IpAddr;
use std::str::FromStr;

use bytes::Bytes;
use hyper::HeaderMap;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::limits::memory_budget::MemoryReservation;
use crate::mail::Timestamp;
use crate::model::{RequestId, TenantId};
use crate::store::{Conflict, Directory, Store, Tenant};

use super::Api;
use super::auth::Caller;
use super::error::{ApiError, Result};
use super::json;
use super::page::Query;
use super::route::{Operation, Route};

/// An authenticated and authorised request.
pub struct RequestContext<'a> {
    /// The matched route.
    pub api: &'a Api,
    /// What it is asked about.
    pub route: &'static Route,
    /// The operation of the route.
    pub operation: &'static Operation,
    /// The caller.
    pub caller: Caller,
    /// Client address.
    pub client: IpAddr,
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
    /// Ends what goes on after the answer has begun.
    pub stop: CancellationToken,
}

impl RequestContext<'_> {
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
