//! The list of messages: every filter of the API in the address, live, and as CSV.

pub mod acts;
mod filters;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures_util::StreamExt;
use maud::{Markup, html};
use serde::Deserialize;

use self::filters::Search;
use crate::mail::Timestamp;
use crate::model::{DeliveryState, Environment, Scope};
use crate::ui::bulk;
use crate::ui::components::{self, Column, foreign, plain};
use crate::ui::format;
use crate::ui::request::{Listed, PageRequest, Tenants, segment};
use crate::ui::session::until_end;
use crate::ui::view::{Outcome, View};

pub const PAGE: &str = "/ui/messages";
/// Events after which the list is no longer the same.
const KINDS: &str = "message.accepted message.delivered message.deferred message.bounced message.expired \
                     message.cancelled message.complained message.suppressed";
/// Characters of a subject, and of an address with its name.
const TEXT_MAX: usize = 200;
/// How often the live stream looks whether its session has ended.
const SESSION_CHECK: Duration = Duration::from_secs(10);

/// A message of the list.
#[derive(Deserialize)]
struct Email {
    id: String,
    tenant_id: String,
    status: DeliveryState,
    last_reply: Option<String>,
    from: Option<String>,
    header_from: Option<String>,
    to: Vec<String>,
    recipient_count: u64,
    subject: Option<String>,
    message_id: Option<String>,
    size: u64,
    tags: Vec<String>,
    created_at: Timestamp,
}

pub async fn list(request: PageRequest) -> Outcome {
    let search = Search::of(&request);
    let wants_csv = request.parameter("format") == Some("csv");
    let found: Result<Listed<Email>, _> = request.get(&search.target()).await;
    let tenants = request.tenants().await;
    let found = match found {
        Ok(found) if wants_csv => return Ok(csv(&found.data)),
        // A filter that the API does not understand: the form stays, with what is wrong.
        Err(problem) if [400, 422].contains(&problem.status.as_u16()) && !wants_csv => Err(problem),
        found => Ok(found?),
    };
    let body = html! {
        (components::head(None, "Messages", &actions(&request)))
        (filters::form(&request, &tenants))
        (filters::chips(&request))
        @match &found {
            Ok(found) => (results(&request, found, &tenants)),
            Err(problem) => (components::problem(problem)),
        }
    };
    View::page("Messages", body)
}

fn actions(request: &PageRequest) -> Markup {
    let parameters = request.query.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let parameters: Vec<_> = parameters.chain([("format", "csv")]).collect();
    html! {
        @if request.parameter("after").is_none() {
            button.button.js-only type="button" aria-pressed="false" data-live-switch { "Live" }
        }
        a.button href=(request.href(&request.with_query(PAGE, &parameters))) { "CSV of this page" }
    }
}

fn results(request: &PageRequest, found: &Listed<Email>, tenants: &Tenants) -> Markup {
    let is_first = request.parameter("after").is_none();
    let live = request.href(&request.api_target("/ui/messages/live", &["tenant_id", "environment"], &[]));
    let is_filtered = request.query.iter().any(|(name, value)| !value.is_empty() && name != "after");
    html! {
        section.panel aria-label="Messages" data-part=[is_first.then_some("list")] data-live=[is_first.then_some(live)] data-kinds=(KINDS) {
            @if found.data.is_empty() && found.next_cursor.is_none() {
                (nothing(request, is_filtered || !is_first))
            } @else {
                (table(request, &found.data, tenants))
                (components::pages(request, &summary(found), found.next_cursor.as_deref()))
            }
        }
    }
}

fn summary(found: &Listed<Email>) -> String {
    let shown = format::counted(found.data.len() as u64, "message", "messages");
    match (&found.next_cursor, found.data.len()) {
        (Some(_), 0..50) => format!("{shown}; the search goes on with older ones"),
        _ => format!("{shown}, newest first"),
    }
}

fn nothing(request: &PageRequest, is_filtered: bool) -> Markup {
    html! {
        div.empty {
            @if is_filtered {
                h2 { "Nothing matches" }
                p { "No message has all of this." }
                div.row { a.button href=(request.href(PAGE)) { "All messages" } }
            } @else {
                (first_message(request))
            }
        }
    }
}

/// What to do for the first message.
fn first_message(request: &PageRequest) -> Markup {
    html! {
        h2 { "No message yet" }
        p { "Send the first one with a key. This page shows it, with everything that happens to it." }
        (components::block(&request.ui.sample(Environment::Live)))
        @if request.may(Scope::KeysManage) {
            div.row { a.button.primary href=(request.href("/ui/keys")) { "Create a key" } }
        }
    }
}

fn table(request: &PageRequest, emails: &[Email], tenants: &Tenants) -> Markup {
    let last = if request.is_platform() { "Tenant, tags" } else { "Tags" };
    let mut columns = vec![
        Column("Time", "time", None),
        Column("Status", "fit state", None),
        Column("From, to", "grow", None),
        Column("Subject, last reply", "grow lead", None),
        Column(last, "", None),
    ];
    let mut rows: Vec<_> =
        emails.iter().map(|email| (email.id.as_str(), row(request, email, tenants))).collect();
    // Only what waits can be tried again or cancelled.
    let is_open = |email: &Email| email.status.is_open() && request.may(Scope::EmailsSend);
    let has_boxes = emails.iter().any(is_open);
    if has_boxes {
        columns.insert(0, Column("Selected", "tick", None));
        for ((_, cells), email) in rows.iter_mut().zip(emails) {
            let name = name_of(email.subject.as_deref());
            cells.insert(0, html! { @if is_open(email) { (bulk::tick(&email.id, &name)) } });
        }
    }
    html! {
        @if has_boxes { (bulk::bar(request, &acts::buttons())) }
        (components::table_with_ids(&columns, &rows))
    }
}

fn row(request: &PageRequest, email: &Email, tenants: &Tenants) -> Vec<Markup> {
    let from = cut(email.header_from.as_deref().or(email.from.as_deref()).unwrap_or("<>"));
    let to = cut(email.to.first().map_or("", String::as_str));
    let more = email.recipient_count.saturating_sub(1);
    let subject = name_of(email.subject.as_deref());
    let reply = email.last_reply.as_deref().map(cut);
    vec![
        format::moment(email.created_at, request.now),
        components::status(email.status.as_str()),
        html! {
            span title=(plain(&from)) { (foreign(&from)) }
            span.sub title=(plain(&to)) { "to " (foreign(&to)) @if more > 0 { span.soft { " +" (more) } } }
        },
        html! {
            a href=(request.href(&format!("{PAGE}/{}", segment(&email.id)))) { (foreign(&subject)) }
            @if let Some(reply) = reply { span.sub.mono title=(plain(&reply)) { (foreign(&reply)) } }
        },
        html! {
            @if request.is_platform() { (components::slug(tenants.slug(&email.tenant_id))) }
            @if !email.tags.is_empty() { (tags(request, &email.tags)) }
        },
    ]
}

/// At most three tags, each a link to the messages with it.
fn tags(request: &PageRequest, tags: &[String]) -> Markup {
    let href = |tag: &str| request.href(&request.with_query(PAGE, &[("tag", tag)]));
    html! {
        span.tags {
            @for tag in tags.iter().take(3) { (components::tag(&href(tag), tag)) }
            @if tags.len() > 3 { span.tag { "+" (tags.len() - 3) } }
        }
    }
}

/// The page as a file. A cell that a spreadsheet would take for a formula begins with an apostrophe.
fn csv(emails: &[Email]) -> View {
    let cell = |text: &str| match text.chars().next() {
        Some('=' | '+' | '-' | '@' | '\t' | '\r') => format!("'{text}"),
        _ => text.to_owned(),
    };
    let mut writer = csv::Writer::from_writer(Vec::new());
    let head = [
        "time",
        "id",
        "status",
        "from",
        "to",
        "recipients",
        "subject",
        "message_id",
        "size",
        "tags",
        "last_reply",
    ];
    let rows = emails.iter().map(|email| {
        [
            email.created_at.to_string(),
            email.id.clone(),
            email.status.to_string(),
            cell(email.from.as_deref().unwrap_or_default()),
            cell(&email.to.join(" ")),
            email.recipient_count.to_string(),
            cell(email.subject.as_deref().unwrap_or_default()),
            cell(email.message_id.as_deref().unwrap_or_default()),
            email.size.to_string(),
            cell(&email.tags.join(" ")),
            cell(email.last_reply.as_deref().unwrap_or_default()),
        ]
    });
    // Writing to memory does not fail.
    let _ = writer.write_record(head);
    rows.for_each(|row| {
        let _ = writer.write_record(row);
    });
    let octets = writer.into_inner().unwrap_or_default();
    View::File { media_type: "text/csv; charset=utf-8", name: "messages.csv".to_owned(), octets }
}

/// The live stream of events, which ends with the session. The script only learns from it that the list has changed.
pub async fn live(request: PageRequest) -> Outcome {
    let target = request.api_target("/v1/events", &["tenant_id", "environment"], &[]);
    let response = request.open(&target, Some("text/event-stream")).await;
    let (ui, session) = (Arc::clone(&request.ui), request.session.clone());
    let ended = session.ended.clone();
    let is_open = move || {
        let (ui, session) = (Arc::clone(&ui), session.clone());
        async move { ui.sessions.is_open(&session).await }
    };
    let end = Box::pin(until_end(ended, SESSION_CHECK, is_open));
    Ok(View::Passed(response.map(|body| Body::from_stream(body.into_data_stream().take_until(end)))))
}

/// What a message is called.
pub fn name_of(subject: Option<&str>) -> String {
    let subject = cut(subject.unwrap_or_default());
    if subject.trim().is_empty() { "(no subject)".to_owned() } else { subject }
}

/// The beginning of a text that may be very long.
fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
