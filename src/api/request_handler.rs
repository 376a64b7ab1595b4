//! One request and its answer. What changes something is done to its end once its body is here, whether its client
//! waits for the answer or has gone: so an Idempotency-Key holds when the connection breaks, and nothing stays half done.

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
use super::{Api, body, compression, cors, etag, health, idempotency, openapi, rate_limit};

/// Octets that a GET reserves before its answer is made, so that nothing is looked up for who has no room for the answer.
/// What the answer takes in the end is reserved when its length is known.
const ANSWER_OCTETS_EXPECTED: u64 = 16 * 1024;
/// A longer head of a request takes room as well.
const UNRESERVED_HEAD_OCTETS_MAX: usize = 2 * 1024;

/// Where requests come from.
#[derive(Clone)]
pub struct Origin {
    /// The address at the other end of the connection.
    pub client: IpAddr,
    /// What the connection counts as, until the last of its requests is done.
    pub place: Arc<ConnectionSlot>,
    /// Where they are worked on.
    pub tasks: Tasks,
}

/// What is known of a request, for the log and the headers of its answer.
struct Trace {
    request_id: RequestId,
    now: Timestamp,
    path: &'static str,
    key: Option<KeyId>,
    /// In whose room the answer is.
    tenant: Option<TenantId>,
    /// How the caller's limits stand.
    limits: HeaderMap,
}

/// A request that is here as a whole, of a caller who may make it.
struct Received {
    matched: Matched,
    method: Method,
    /// With its query.
    target: String,
    caller: Caller,
    request_id: RequestId,
    now: Timestamp,
    headers: HeaderMap,
    idempotency_key: Option<String>,
    query: Query,
    body: Bytes,
    /// Held until the answer: what is made of a body takes as much room as the body.
    room: MemoryReservation,
}

/// What is done, and how the limit of sending then stands.
type Done = (Result<ApiResponse>, HeaderMap);

impl Api {
    /// Answers a request.
    pub async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        origin: &Origin,
    ) -> Response<ResponseBody> {
        let started = Instant::now();
        let now = super::now();
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
            tracing::warn!(%request_id, %method, path = trace.path, %status, code, cause, "a request failed");
        }
        let is_compressed = is_compressed && result.is_ok();
        let room = || self.room.reserve(trace.tenant);
        let refuse = |error: ApiError| ApiResponse::error(&error, request_id);
        // What says that there is no room is short, and takes none.
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
            return self.tell(matched.operation.endpoint, &origin.tasks.stop).await;
        }
        let is_read = matched.operation.method == Method::GET;
        let received = self.receive(request, matched, origin.client, trace).await?;
        let (api, from) = (self.clone(), origin.clone());
        let work = async move { api.perform(received, &from).await };
        let (result, limits) = if is_read { work.await } else { origin.tasks.finish(work).await? };
        trace.limits.extend(limits);
        result
    }

    /// What anybody may know.
    async fn tell(&self, endpoint: Endpoint, stop: &CancellationToken) -> Result<ApiResponse> {
        match endpoint {
            Endpoint::Document => openapi::document(),
            Endpoint::Docs => openapi::page(),
            Endpoint::Ready => health::ready(&self.store, stop.is_cancelled()).await,
            _ => health::alive(),
        }
    }

    /// Who asks, whether they may, and with what.
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

    /// Waits for the turn of a tenant to have an answer made of what the store has, if it is only asked, and reserves room
    /// for what it is to hear: what has been changed cannot be refused any more.
    async fn begin_answer(
        &self,
        operation: &Operation,
        tenant: Option<TenantId>,
        request: &MemoryReservation,
    ) -> Result<(Option<TenantPermit>, MemoryReservation)> {
        let (turn, octets) = match operation.method == Method::GET {
            true => {
                let turn = self.making.acquire(tenant).await.map_err(ApiError::internal)?;
                (Some(turn), ANSWER_OCTETS_EXPECTED)
            }
            false => (None, octets_after_change(operation.endpoint, request.octets())),
        };
        let mut room = request.beside();
        // Where the operator gives little room, what few answers come to must not keep all others out.
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

    async fn perform(&self, received: Received, origin: &Origin) -> Done {
        let Received { matched, method, target, caller, request_id, now, idempotency_key, .. } = received;
        let operation = matched.operation;
        let mut limits = HeaderMap::new();
        let tenant_id = caller.key.tenant_id;
        let (_turn, answer_room) = match self.begin_answer(operation, tenant_id, &received.room).await {
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
                Ok(Some(standing)) => rate_limit::tell("x-sendlimit", standing, &mut limits, now),
                Ok(None) => {}
                // What was sent was sent; its answer need not fail for this.
                Err(error) => {
                    tracing::warn!(%request_id, %error, "how the send limit stands is not known");
                }
            }
        }
        (result, limits)
    }
}

/// Octets of the head of a request, about.
fn octets_of(head: &request::Parts) -> usize {
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    fields.sum::<usize>() + target
}

/// What a change answers at most, where that may be more than [`response::UNRESERVED_OCTETS_MAX`].
fn octets_after_change(endpoint: Endpoint, body_octets: u64) -> u64 {
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
