//! Events: list and server-sent event stream.

#[cfg(test)]
mod order_tests;
mod stream;
mod tail;

use hyper::header::ACCEPT;
use schemars::Schema;

use crate::model::{EventId, EventKind, MessageId, RefusalCode, Scope};
use crate::store::{EventFilter, EventView, Journal, JournalCursor};

use super::page;
use super::schema::Schemas;
use super::{
    Access, ApiError, ApiResponse, FieldError, List, ListedOwner, Operation, RequestContext, Resource, Result,
};
use crate::limits::tenant_semaphore::SemaphoreFull;
use stream::{Credential, Start};
use tail::Reader;

pub use tail::Tail;

/// The operations of events.
pub fn resource() -> Resource {
    let text = "Events, as a list and as a live stream.";
    Resource::new("Events", text, Access::Scope(Scope::EmailsRead))
        .operations([
            Operation::get("/v1/events", "list_events", list)
                .describe("List or stream events", "With `Accept: text/event-stream`, the response is a live stream of events: `id` is the position after the event in the journal, `event` is its type, and `data` is the event in JSON. The stream begins with an `id` without data, and sends another one every 15 seconds if there is no event. Reconnect with the last `id` in `Last-Event-ID` to continue without a gap. Events about objects that both environments share, such as domains, are in the lists of both.")
                .owner_filter()
                .environment_filter()
                .query::<EventKind>("type", "Only events of this type.")
                .query::<MessageId>("message_id", "Only events of this message.")
                .header("Last-Event-ID", "Only with `Accept: text/event-stream`: continues after this position, which is the value of an `id:` line, or after the event with this id. A position that the journal does not reach, such as after the restore of a backup, is its end.", last_event_id_schema)
                .pages::<EventId, EventView<'static>>("Events.")
                .returns_octets("text/event-stream", "Events."),
        ])
}

fn last_event_id_schema(_: &mut Schemas) -> Schema {
    schemars::json_schema!({ "type": "string", "pattern": "^(cur|evt)_[0-7][0-9A-HJKMNP-TV-Z]{25}$" })
}

/// `GET /v1/events`: a list, or with `Accept: text/event-stream` a live stream.
async fn list(mut call: RequestContext) -> Result<ApiResponse> {
    let ListedOwner { tenant_id, of_platform } = call.listed_owner().await?;
    let message_id = call.query.value::<MessageId>("message_id");
    // A message has one environment, so its id selects one.
    let environment = match message_id {
        Some(_) => call.query.value("environment"),
        None => call.listed_environment(),
    };
    let kind = call.query.value::<EventKind>("type");
    let filter = EventFilter { tenant_id, of_platform, environment, kind, message_id };
    if wants_stream(&call) {
        return follow(call, filter).await;
    }
    let request = call.query.page::<EventId>();
    call.query.finish()?;
    let page = call.store().list_events(filter, request).await?;
    ApiResponse::ok(&List::resumed(page.items, page.next.map(|id| id.to_string())))
}

fn wants_stream(call: &RequestContext) -> bool {
    let accepted = call.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|value| value.split(',')).map(|one| one.split(';').next());
    types.any(|media| media.is_some_and(|media| media.trim().eq_ignore_ascii_case("text/event-stream")))
}

async fn follow(mut call: RequestContext, filter: EventFilter) -> Result<ApiResponse> {
    call.query.finish()?;
    if let Some(name) = page::PARAMETERS.iter().find(|name| call.query.text(name).is_some()) {
        let message = "an event stream has no pages; it starts at the newest event, or after Last-Event-ID";
        return Err(ApiError::invalid(vec![FieldError::new(*name, "invalid", message)]));
    }
    let end = call.store().end_of_journal().await?;
    // A position behind the end is one of a journal that was replaced by a backup.
    let after = last_event_id(&call).await?.map(|after| after.min(end));
    let credential = Credential {
        // A session of the platform for a tenant ends with the key of the platform.
        owner: call.scope().filter(|_| !call.caller.by_platform),
        signed_in: call.signed_in.clone(),
        access: call.target.operation.access(),
        client: call.origin.client,
    };
    let start = Start {
        clock: call.api.clock.clone(),
        reader: Reader { store: call.store().clone(), filter },
        tail: call.api.tail.clone(),
        after,
        end,
        credential,
        permit: call.api.streams.try_acquire(call.scope()).map_err(too_many)?,
        stop: call.origin.tasks.stop,
    };
    Ok(ApiResponse::events(stream::open(start)))
}

/// The position of the client: the value of an `id:` line of the stream, or the id of an event.
async fn last_event_id(call: &RequestContext) -> Result<Option<JournalCursor>> {
    let Some(value) = call.headers.get("last-event-id") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if let Ok(cursor) = text.parse() {
        return Ok(Some(cursor));
    }
    match text.parse::<EventId>() {
        Ok(event) => Ok(Some(call.store().cursor_of(event).await?)),
        Err(_) => {
            let message = "this must be the value of an id: line of the stream, or the id of an event";
            Err(ApiError::field("Last-Event-ID", "invalid", message))
        }
    }
}

fn too_many(full: SemaphoreFull) -> ApiError {
    match full {
        SemaphoreFull::Tenant => ApiError::new(
            RefusalCode::RateLimited,
            format!("limit reached: {} event streams per tenant", super::STREAMS_PER_TENANT_MAX),
            "close an unused stream, or try again when one has ended",
        ),
        SemaphoreFull::Total => ApiError::new(
            RefusalCode::Overloaded,
            "limit reached: event streams on this server",
            "try again later, or poll the list of events",
        ),
    }
}
