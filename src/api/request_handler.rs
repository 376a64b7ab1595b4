//! One request and its answer. What changes something is done to its end once its body is here, whether its client
//! waits for the answer or has gone: so an Idempotency-Key holds when the connection breaks, and nothing stays half done.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response};
use tokio_util::sync::CancellationToken;

use crate::limits::connection_limiter::ConnectionSlot;
use crate::limits::memory_budget::MemoryReservation;
use crate::mail::Timestamp;
use crate::model::{KeyId, RequestId};

use super::auth::{Access, Caller};
use super::error::Result;
use super::page::Query;
use super::request_context::RequestContext;
use super::response::{self, ApiResponse, ResponseBody};
use super::route::{Endpoint, Matched, Operation};
use super::tasks::Tasks;
use super::{Api, body, compression, cors, docs, etag, health, idempotency, openapi, rate_limit};

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
        let mut trace = Trace { request_id, now, path: "", key: None, limits: HeaderMap::new() };
        let script = cors::allowed_origin(request.headers(), &self.settings.cors_origins);
        let is_preflight = script.is_some() && cors::is_preflight(&method, request.headers());
        let is_compressed = compression::is_wanted(&method, request.headers());
        let result = match is_preflight {
            true => Ok(ApiResponse::empty()),
            false => self.process(request, origin, &mut trace).await,
        };
        let result = match result {
            Ok(answer) if is_compressed => Ok(compression::compress(answer).await),
            other => other,
        };
        if let Err(error) = &result
            && error.status().is_server_error()
        {
            let (status, cause) = (error.status(), error.cause.as_deref().unwrap_or_default());
            let code = error.refusal.code.as_str();
            tracing::warn!(%request_id, %method, path = trace.path, %status, code, cause, "a request failed");
        }
        let mut response = response::respond(result, request_id, method == Method::HEAD);
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
            return self.tell(&matched, &origin.tasks.stop).await;
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
    async fn tell(&self, matched: &Matched, stop: &CancellationToken) -> Result<ApiResponse> {
        match matched.operation.endpoint {
            Endpoint::Document => openapi::document(),
            Endpoint::Docs => openapi::page(),
            Endpoint::DocsPage => docs::page(matched.id.as_deref().unwrap_or_default()),
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
        trace.key = Some(caller.key.id);
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
        if let Some(tenant) = sender {
            match self.intake.send_standing(&tenant, environment, now).await {
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
