//! Events as they happen.

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::mail::Timestamp;
use crate::model::EventKind;
use crate::ui::components::{self, Column, Filters, foreign, visible};
use crate::ui::format;
use crate::ui::list::{self, Listed};
use crate::ui::request::{PageRequest, segment};
use crate::ui::tenant_names::TenantNames;
use crate::ui::view::{Outcome, View};

const PATH: &str = "/ui/events";
/// Parts of the data of an event in its row.
const DATA_MAX: usize = 4;

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    tenant_id: Option<String>,
    message_id: Option<String>,
    recipient: Option<String>,
    data: Value,
    created_at: Timestamp,
}

pub async fn list(request: PageRequest) -> Outcome {
    let tenants = TenantNames::read(&request).await;
    let names = ["tenant_id", "environment", "type", "message_id"];
    let events = Listed::<Event>::read(&request, "/v1/events", &names).await?;
    let kinds: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let filters = Filters {
        page: PATH,
        fields: html! {
            (list::choice(&request, "Type", "type", &kinds))
            (components::search(&request, "Message", "message_id", "msg_…"))
            (tenants.filter(&request))
            (list::environment(&request))
        },
        more: Markup::default(),
        more_names: &[],
    };
    let is_first = request.parameter("after").is_none();
    let live = request.href(&request.api_target("/ui/messages/live", &["tenant_id", "environment"], &[]));
    let switch = html! {
        @if is_first && !events.data.is_empty() { button.button.js-only type="button" aria-pressed="false" data-live-switch { "Live" } }
    };
    let body = html! {
        (components::head(None, "Events", &switch))
        (filters.show(&request))
        @if events.data.is_empty() {
            (list::empty(&request, PATH, &html! {
                h2 { "No event yet" }
                p { "Everything that happens to messages, domains, keys and webhooks is listed here, and posted to webhooks." }
                (components::block("pillarbox tail"))
            }))
        } @else {
            section.panel data-part=[is_first.then_some("list")] data-live=[is_first.then_some(live)] data-kinds=(kinds.join(" ")) {
                (table(&request, &events.data, &tenants))
                (events.foot(&request, ("event", "events")))
            }
        }
    };
    View::page("Events", body)
}

fn table(request: &PageRequest, events: &[Event], tenants: &TenantNames) -> Markup {
    let mut columns = vec![
        Column("Time", "time", None),
        Column("Type", "lead", None),
        Column("About", "", Some("About")),
        Column("What", "", Some("What")),
    ];
    if request.is_platform() {
        columns.insert(2, Column("Tenant", "", Some("Tenant")));
    }
    let row = |event: &Event| {
        let mut cells = vec![
            format::moment(event.created_at, request.now),
            html! { code { (visible(&event.kind)) } },
            about(request, event),
            what(event),
        ];
        if request.is_platform() {
            cells.insert(2, tenants.link(request, event.tenant_id.as_deref()));
        }
        cells
    };
    components::table(&columns, &events.iter().map(row).collect::<Vec<_>>())
}

/// The object of the event, with a link to its page.
fn about(request: &PageRequest, event: &Event) -> Markup {
    if let Some(id) = &event.message_id {
        let shown = event.recipient.as_deref().unwrap_or(id);
        return html! { a href=(request.href(&format!("/ui/messages/{}", segment(id)))) { (foreign(shown)) } };
    }
    let objects = [
        ("domain_id", "/ui/domains"),
        ("key_id", "/ui/keys"),
        ("suppression_id", "/ui/suppressions"),
        ("webhook_id", "/ui/webhooks"),
        ("tenant_id", "/ui/tenants"),
    ];
    let found = objects.iter().find_map(|(name, page)| Some((page, event.data.get(name)?.as_str()?)));
    html! {
        @if let Some((page, id)) = found {
            a href=(request.href(&format!("{page}/{}", segment(id)))) { code { (visible(id)) } }
        }
    }
}

/// The data of the event as a short list.
fn what(event: &Event) -> Markup {
    let none = Map::new();
    let data = event.data.as_object().unwrap_or(&none);
    let shown = data.iter().filter(|(name, value)| {
        !name.ends_with("_id") && !value.is_null() && !value.is_object() && !value.is_array()
    });
    html! {
        @for (place, (name, value)) in shown.take(DATA_MAX).enumerate() {
            @if place > 0 { ", " }
            span.soft { (visible(&name.replace('_', " "))) " " }
            @match value { Value::String(text) => (foreign(text)), other => (other) }
        }
    }
}
