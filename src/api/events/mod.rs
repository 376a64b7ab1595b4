//! Events: list and server-sent event stream.

mod stream;
mod tail;

use hyper::header::ACCEPT;

use crate::model::{EventId, EventKind, MessageId, RefusalCode};
use crate::store::{EventFilter, Journal, JournalCursor};

use super::auth;
use super::error::{ApiError, FieldError, Result};
use super::page::{self, List};
use super::request_context::RequestContext;
use super::response::ApiResponse;
use crate::limits::tenant_semaphore::SemaphoreFull;
use stream::{Credential, Start};

pub use tail::Tail;

/// `GET /v1/events`; with `Accept: text/event-stream` the live tail.
pub async fn list(mut call: RequestContext<'_>) -> Result<ApiResponse> {
    let tenant_id = call.listed_tenant().await?;
    let filter = EventFilter {
        tenant_id,
        kind: call.query.value::<EventKind>("type"),
        message_id: call.query.value::<MessageId>("message_id"),
    };
    if wants_stream(&call) {
        return follow(call, filter).await;
    }
    let request = call.query.page::<EventId>();
    call.query.finish()?;
    let page = call.store().list_events(filter, request).await?;
    ApiResponse::ok(&List::resumed(page.items, page.next.map(|id| id.to_string())))
}

fn wants_stream(call: &RequestContext<'_>) -> bool {
    let accepted = call.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|value| value.split(',')).map(|one| one.split(';').next());
    types.any(|media| media.is_some_and(|media| media.trim().eq_ignore_ascii_case("text/event-stream")))
}

async fn follow(mut call: RequestContext<'_>, filter: EventFilter) -> Result<ApiResponse> {
    call.query.finish()?;
    if let Some(name) = page::PARAMETERS.iter().find(|name| call.query.text(name).is_some()) {
        let message = "an event stream has no pages; it starts now, or after Last-Event-ID";
        return Err(ApiError::invalid(vec![FieldError::new(*name, "invalid", message)]));
    }
    let after = last_event_id(&call).await?;
    let credential = Credential {
        digest: auth::read_secret(&call.headers)?.digest(),
        access: call.operation.access,
        client: call.client,
    };
    let start = Start {
        clock: call.api.clock.clone(),
        store: call.api.store.clone(),
        tail: call.api.tail.clone(),
        filter,
        after,
        credential,
        turn: call.api.streams.try_acquire(call.scope()).map_err(too_many)?,
        stop: call.stop,
    };
    Ok(ApiResponse::events(stream::open(start)))
}

/// Where the client was: what an `id:` line of the tail said, or the id of an event that it knows from elsewhere.
async fn last_event_id(call: &RequestContext<'_>) -> Result<Option<JournalCursor>> {
    let Some(value) = call.headers.get("last-event-id") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if let Ok(cursor) = text.parse() {
        return Ok(Some(cursor));
    }
    match text.parse::<EventId>() {
        Ok(event) => Ok(Some(call.store().cursor_of(event).await?)),
        Err(_) => {
            let message = "this must be the id of an event, or what an id: line of the live tail said";
            Err(ApiError::field("Last-Event-ID", "invalid", message))
        }
    }
}

fn too_many(taken: SemaphoreFull) -> ApiError {
    match taken {
        SemaphoreFull::Tenant => ApiError::new(
            RefusalCode::LimitReached,
            format!("limit reached: {} event streams per tenant", super::STREAMS_PER_TENANT_MAX),
            "close an unused stream",
        ),
        SemaphoreFull::Total => ApiError::new(
            RefusalCode::Overloaded,
            "limit reached: event streams on this server",
            "try again later, or poll the list of events",
        ),
    }
}
