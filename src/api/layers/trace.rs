//! The outermost layer: gives each request an id, converts errors to responses, and logs the request.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::header::HeaderValue;

use crate::limits::memory_budget::MemoryReservation;
use crate::mail::Timestamp;
use crate::model::{RefusalCode, RequestId};
use crate::telemetry::FLOOD;

use super::auth::Identity;
use crate::api::{Api, ApiError, ApiResponse};

/// Arrival time and id of a request.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The id in the log and in `X-Request-Id`.
    pub request_id: RequestId,
    /// The time of the request.
    pub now: Timestamp,
}

/// Adds [`Arrival`] to the request, and writes the response and the log entry.
pub async fn layer(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let now = api.now();
    let request_id = RequestId::generate(now);
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let path = path.as_ref().map_or("", MatchedPath::as_str);
    request.extensions_mut().insert(Arrival { request_id, now });
    let mut response = next.run(request).await;
    let identity = response.extensions_mut().remove::<Identity>();
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let status = error.status();
        if status.is_server_error() {
            let (code, cause) = (error.refusal.code.as_str(), error.cause.as_deref().unwrap_or_default());
            // All requests fail in this way for a while.
            match error.refusal.code {
                RefusalCode::DiskLow | RefusalCode::StorageUnavailable | RefusalCode::Overloaded => {
                    tracing::warn!(target: FLOOD, %request_id, %method, path, %status, cause, "API request failed: {code}");
                }
                _ => tracing::warn!(%request_id, %method, path, %status, code, cause, "API request failed"),
            }
        }
        let reservation = api.memory.reserve(identity.and_then(|identity| identity.tenant));
        let mut written = write_error(&error, request_id, reservation);
        written.headers_mut().extend(std::mem::take(response.headers_mut()));
        response = written;
    }
    if let Ok(id) = HeaderValue::from_str(&request_id.to_string()) {
        response.headers_mut().insert("x-request-id", id);
    }
    let status = response.status().as_u16();
    let ms = started.elapsed().as_millis();
    let key = identity.map(|identity| tracing::field::display(identity.key));
    tracing::debug!(%request_id, %method, path, status, key, ms, "request");
    response
}

fn write_error(error: &ApiError, request_id: RequestId, reservation: MemoryReservation) -> Response {
    let write = |error: &ApiError| ApiResponse::error(error, request_id);
    // The error response for a full memory budget is short and needs no reservation.
    let written = write(error).reserve(reservation).unwrap_or_else(|error| write(&error));
    written.into_response()
}
