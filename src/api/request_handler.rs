//! Handles one request. Once its body is complete, a change runs to completion even if the client disconnects: an
//! Idempotency-Key then holds across connections, and no change stays incomplete.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::http::request;
use hyper::{HeaderMap, Method, Request, Response};
use tokio_util::sync::CancellationToken;

use crate::limits::connection_limiter::ConnectionSlot;
use crate::limits::memory_budget::MemoryReservation;
use crate::limits::tenant_semaphore::TenantPermit;
use crate::mail::Timestamp;
use crate::model::{KeyId, RequestId, TenantId};

use super::auth::{Access, Caller};
use super::error::{ApiError, Result};
use super::page::Query;
use super::request_context::RequestContext;
use super::response::{self, ApiResponse, ResponseBody};
use super::route::{Endpoint, Matched, Operation};
use super::tasks::Tasks;
use super::{Api, body, compression, cors, docs, etag, health, idempotency, openapi, rate_limit};

/// Octets that a GET reserves before its response is built, so that no query runs without memory for its response. The
/// actual length is reserved once it is known.
const RESPONSE_OCTETS_EXPECTED: u64 = 16 * 1024;
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

/// Request data for the log and the response headers.
struct Trace {
    request_id: RequestId,
    now: Timestamp,
    path: &'static str,
    key: Option<KeyId>,
    /// The tenant whose memory share the response uses.
    tenant: Option<TenantId>,
    /// Rate limit headers.
    limits: HeaderMap,
}

/// A complete request of an authenticated caller.
struct Received {
    matched: Matched,
    method: Method,
    /// Path and query.
    target: String,
    caller: Caller,
    request_id: RequestId,
    now: Timestamp,
    headers: HeaderMap,
    idempotency_key: Option<String>,
    query: Query,
    body: Bytes,
    /// Held until the response: parsing a body takes as much memory as the body.
    room: MemoryReservation,
}

/// The result, and the headers of the send limit after it.
type Performed = (Result<ApiResponse>, HeaderMap);

impl Api {
    /// Handles a request.
    pub async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        origin: &Origin,
    ) -> Response<ResponseBody> {
        let started = Instant::now();
        let now = self.now();
        let request_id = RequestId::generate(now);
        let method = request.method().clone();
        let mut trace =
            Trace { request_id, now, path: "", key: None, tenant: None, limits: HeaderMap::new() };
        let script = cors::allowed_origin(request.headers(), &self.settings.cors_origins);
        let is_preflight = script.is_some() && cors::is_preflight(&method, request.headers());
        let is_compressed = compression::is_wanted(&method, request.headers());
        let result = match is_preflight {
            true => Ok(ApiResponse::empty()),
            false => self.process(request, origin, &mut trace).await,
        };
        if let Err(error) = &result
            && error.status().is_server_error()
        {
            let (status, cause) = (error.status(), error.cause.as_deref().unwrap_or_default());
            let code = error.refusal.code.as_str();
            tracing::warn!(%request_id, %method, path = trace.path, %status, code, cause, "API request failed");
        }
        let is_compressed = is_compressed && result.is_ok();
        let room = || self.room.reserve(trace.tenant);
        let refuse = |error: ApiError| ApiResponse::error(&error, request_id);
        // The error for a full memory budget is short and needs no reservation.
        let mut answer = result.unwrap_or_else(refuse).reserve(room()).unwrap_or_else(refuse);
        if is_compressed {
            answer = compression::compress(answer, room()).await;
        }
        let mut response = response::respond(answer, request_id, method == Method::HEAD);
        if is_preflight {
            cors::allow_requests(response.headers_mut());
        }
        if let Some(script) = script {
            cors::allow(response.headers_mut(), script);
        }
        response.headers_mut().extend(trace.limits);
        let status = response.status();
        let ms = started.elapsed().as_millis();
        let key = trace.key.map(tracing::field::display);
        tracing::debug!(%request_id, %method, path = trace.path, status = status.as_u16(), key, ms, "request");
        response
    }

    async fn process(
        self: &Arc<Self>,
        request: Request<Incoming>,
        origin: &Origin,
        trace: &mut Trace,
    ) -> Result<ApiResponse> {
        let matched = self.routes.find(request.method(), request.uri().path())?;
        trace.path = matched.route.path;
        if matched.operation.access == Access::Public {
            return self.serve_public(&matched, &origin.tasks.stop).await;
        }
        let is_read = matched.operation.method == Method::GET;
        let received = self.receive(request, matched, origin.client, trace).await?;
        let (api, from) = (self.clone(), origin.clone());
        let work = async move { api.perform(received, &from).await };
        let (result, limits) = if is_read { work.await } else { origin.tasks.finish(work).await? };
        trace.limits.extend(limits);
        result
    }

    /// Serves the endpoints that need no key.
    async fn serve_public(&self, matched: &Matched, stop: &CancellationToken) -> Result<ApiResponse> {
        match matched.operation.endpoint {
            Endpoint::Document => openapi::document(),
            Endpoint::Docs => openapi::page(),
            Endpoint::DocsPage => docs::page(matched.id.as_deref().unwrap_or_default()),
            Endpoint::Ready => health::ready(&self.store, stop.is_cancelled()).await,
            _ => health::alive(),
        }
    }

    /// Authenticates the caller and reads query and body.
    async fn receive(
        &self,
        request: Request<Incoming>,
        matched: Matched,
        client: IpAddr,
        trace: &mut Trace,
    ) -> Result<Received> {
        let Trace { request_id, now, .. } = *trace;
        let (head, body) = request.into_parts();
        let operation = matched.operation;
        let caller = self.authenticate(&head.headers, operation.access, client, now).await?;
        (trace.key, trace.tenant) = (Some(caller.key.id), caller.key.tenant_id);
        self.requests.admit(&caller, &mut trace.limits, now)?;
        let mut query = Query::parse(head.uri.query().unwrap_or_default(), |name| operation.takes(name));
        query.finish()?;
        let idempotency_key = match head.method {
            Method::POST => {
                idempotency::read_name(&head.headers)?.filter(|_| !operation.endpoint.changes_nothing())
            }
            _ => None,
        };
        let mut room = self.room.reserve(caller.key.tenant_id);
        let head_octets = octets_of(&head);
        if head_octets > UNRESERVED_HEAD_OCTETS_MAX && !room.grow_to(head_octets as u64) {
            return Err(body::no_room());
        }
        let body = match [Method::POST, Method::PATCH, Method::PUT].contains(&head.method) {
            true => body::read(&head.headers, body, self.body_limits(operation), &mut room).await?,
            false => Bytes::new(),
        };
        let target = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
        let (method, headers) = (head.method, head.headers);
        Ok(Received {
            matched,
            method,
            target,
            caller,
            request_id,
            now,
            headers,
            idempotency_key,
            query,
            body,
            room,
        })
    }

    /// Reserves memory for the response before the operation runs, because a completed change cannot be refused. A GET
    /// also waits for a permit of its tenant to build a response.
    async fn reserve_response(
        &self,
        operation: &Operation,
        tenant: Option<TenantId>,
        request: &MemoryReservation,
    ) -> Result<(Option<TenantPermit>, MemoryReservation)> {
        let (turn, octets) = match operation.method == Method::GET {
            true => {
                let turn = self.making.acquire(tenant).await.map_err(ApiError::internal)?;
                (Some(turn), RESPONSE_OCTETS_EXPECTED)
            }
            false => (None, response_octets_max(operation.endpoint, request.octets())),
        };
        let mut room = request.beside();
        // With a small budget, a few expected responses must not use all of it.
        if room.grow_to(octets.min(self.room.octets_max() / 4)) {
            Ok((turn, room))
        } else {
            Err(body::no_room())
        }
    }

    fn body_limits(&self, operation: &Operation) -> body::Limits {
        let settings = &self.settings;
        let (option, bytes_max) = match operation.has_large_body {
            true => ("api.send_body_max", settings.send_body_max),
            false => ("api.body_max", settings.body_max),
        };
        body::Limits { option, bytes_max: bytes_max.as_u64(), timeout: settings.request_timeout }
    }

    async fn perform(&self, received: Received, origin: &Origin) -> Performed {
        let Received { matched, method, target, caller, request_id, now, idempotency_key, .. } = received;
        let operation = matched.operation;
        let mut limits = HeaderMap::new();
        let tenant_id = caller.key.tenant_id;
        let (_turn, answer_room) = match self.reserve_response(operation, tenant_id, &received.room).await {
            Ok(begun) => begun,
            Err(error) => return (Err(error), limits),
        };
        let sender = caller.tenant.clone().filter(|_| operation.endpoint.sends());
        let environment = caller.key.environment;
        let call = RequestContext {
            api: self,
            route: matched.route,
            operation,
            caller,
            client: origin.client,
            headers: received.headers,
            request_id,
            idempotency_key: idempotency_key.clone(),
            tenant_id: matched.tenant_id,
            id: matched.id,
            query: received.query,
            body: received.body,
            room: received.room,
            now,
            stop: origin.tasks.stop.clone(),
        };
        let result = match idempotency_key {
            Some(name) => idempotency::answer(&target, &name, call).await,
            None => etag::answer(&method, call).await,
        };
        let result = result.and_then(|answer| answer.reserve(answer_room));
        if let Some(tenant) = sender {
            match self.intake.send_limit_status(&tenant, environment, now).await {
                Ok(Some(status)) => rate_limit::write_headers("x-sendlimit", status, &mut limits, now),
                Ok(None) => {}
                // The message is queued; the response must not fail for its headers.
                Err(error) => {
                    tracing::warn!(%request_id, %error, "the send limit could not be read for the response headers");
                }
            }
        }
        (result, limits)
    }
}

/// Approximate octets of a request head.
fn octets_of(head: &request::Parts) -> usize {
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    fields.sum::<usize>() + target
}

/// Maximum octets of the response to a change, if they can exceed [`response::UNRESERVED_OCTETS_MAX`].
fn response_octets_max(endpoint: Endpoint, body_octets: u64) -> u64 {
    use Endpoint as E;
    const KIB: u64 = 1024;
    match endpoint {
        E::CreateKey | E::UpdateKey | E::CreateWebhook | E::UpdateWebhook | E::RotateWebhookSecret => {
            16 * KIB
        }
        E::SendEmails => 32 * KIB,
        E::CreateDomain | E::UpdateDomain | E::VerifyDomain | E::RotateDkimKeys | E::AddDkimKey => 64 * KIB,
        // With a thousand destinations of its smart host.
        E::UpdateTenant => 512 * KIB,
        E::CreateTenant | E::CreateTemplate => body_octets + 16 * KIB,
        // Two bodies of 256 KiB, of which each octet may be six in JSON.
        E::UpdateTemplate => 4096 * KIB,
        E::SuppressMany => 2 * body_octets + 512 * KIB,
        _ => 0,
    }
}
