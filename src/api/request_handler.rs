//! Runs the handler of a request that has been read completely. A change runs to completion even if the client
//! disconnects, so that no change stays incomplete and an Idempotency-Key works across connections.

use axum::response::{IntoResponse, Response};
use hyper::{HeaderMap, Method};

use crate::limits::memory_budget::MemoryReservation;
use crate::limits::tenant_semaphore::TenantPermit;

use super::body;
use super::error::Result;
use super::layers::{idempotency, preconditions, rate_limit};
use super::request_context::RequestContext;

/// Octets that a GET reserves before its handler runs, so that no query runs without memory for its response. Once the
/// response is built, its actual length is reserved.
const RESPONSE_OCTETS_EXPECTED: u64 = 16 * 1024;

/// Handles the request of an authenticated caller.
pub async fn handle(call: RequestContext) -> Result<Response> {
    if call.target.operation.method == Method::GET {
        return Ok(run(call).await);
    }
    let tasks = call.origin.tasks.clone();
    tasks.finish(run(call)).await
}

async fn run(call: RequestContext) -> Response {
    let (_permit, reservation) = match reserve_response(&call).await {
        Ok(reserved) => reserved,
        Err(error) => return error.into_response(),
    };
    let api = call.api.clone();
    let sender = call.caller.tenant.clone().filter(|_| call.target.operation.is_sending);
    let (environment, request_id) = (call.caller.key.environment, call.request_id);
    let result = match call.idempotent.clone() {
        Some(request) => idempotency::run(&request, call).await,
        None => preconditions::run(call).await,
    };
    let mut response = result.and_then(|response| response.reserve(reservation)).into_response();
    if let Some(tenant) = sender {
        let mut limits = HeaderMap::new();
        // Not the arrival time: the window of the limit must not be looked up at a time long past.
        let now = api.now();
        match api.submission.send_limit_status(&tenant, environment, now).await {
            Ok(Some(status)) => rate_limit::write_headers("x-sendlimit", status, &mut limits, now),
            Ok(None) => {}
            // The message is queued already, so a missing header must not fail the response.
            Err(error) => {
                tracing::warn!(%request_id, %error, "reading the send limit for the response headers failed");
            }
        }
        response.headers_mut().extend(limits);
    }
    response
}

/// Reserves memory for the response before the handler runs, because a completed change cannot be refused. A GET that
/// does not take long also waits for a permit to build its response.
async fn reserve_response(call: &RequestContext) -> Result<(Option<TenantPermit>, MemoryReservation)> {
    let operation = call.target.operation;
    let (permit, octets) = match operation.method == Method::GET {
        true if operation.takes_long => (None, RESPONSE_OCTETS_EXPECTED),
        true => (Some(call.response_build().await?), RESPONSE_OCTETS_EXPECTED),
        false => (None, operation.response_octets_max(call.reservation.octets())),
    };
    let mut reservation = call.reservation.beside();
    // Limits one response to a quarter of a small memory budget.
    if reservation.grow_to(octets.min(call.api.memory.octets_max() / 4)) {
        Ok((permit, reservation))
    } else {
        Err(body::memory_exhausted())
    }
}
