//! One message: its recipients, what is known about it, and its life; its parts are tabs.

mod parts;
mod preview;

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::messages::acts::Act;
use super::messages::{self, name_of};
use crate::mail::Timestamp;
use crate::model::Scope;
use crate::ui::components::{self, Column, Question, Tab, copied, foreign, visible};
use crate::ui::format;
use crate::ui::request::{PageRequest, segment};
use crate::ui::timeline::{self, Delivery, Entry};
use crate::ui::view::{Outcome, Problem, View};

pub use self::parts::{part, raw};
pub use self::preview::preview;

/// Recipients in the table.
const RECIPIENTS_MAX: usize = 20;

/// The message.
#[derive(Deserialize)]
struct Email {
    id: String,
    tenant_id: String,
    environment: String,
    status: String,
    from: Option<String>,
    header_from: Option<String>,
    subject: Option<String>,
    message_id: Option<String>,
    list: Option<String>,
    tags: Vec<String>,
    metadata: Map<String, Value>,
    expires_at: Timestamp,
    #[serde(flatten)]
    life: timeline::Email,
}

pub async fn show(request: PageRequest) -> Outcome {
    let path = format!("/v1/emails/{}", segment(&request.id));
    let email: Email = request.get(&path).await?;
    let tab = request.parameter("tab").unwrap_or("timeline");
    let content = match tab {
        "timeline" => life(&request, &email, &path).await?,
        tab => parts::show(&request, tab, &path).await?,
    };
    let tenants = request.tenants().await;
    let title = name_of(email.subject.as_deref());
    let line =
        html! { (components::status(&email.status)) " accepted " (format::time(email.life.created_at)) };
    let body = html! {
        (components::head_with((&request.href(messages::PAGE), "Messages"), &title, &line, &actions(&request, &email)))
        section.panel data-part="recipients" { (recipients(&request, &email.life.deliveries)) }
        div.panel.pad { (facts(&request, &email, tenants.slug(&email.tenant_id))) }
        (tabs(&request, tab))
        (content)
    };
    View::page(title, body)
}

/// Trying again and cancelling, as far as something waits.
fn actions(request: &PageRequest, email: &Email) -> Markup {
    let open = email.life.deliveries.iter().filter(|delivery| delivery.is_open()).count() as u64;
    if open == 0 || !request.may(Scope::EmailsSend) {
        return html! {};
    }
    let page = page_of(request);
    let waiting = format::counted(open, "delivery", "deliveries");
    let still = if open == 1 { "waits" } else { "wait" };
    let question = Question {
        action: &page,
        label: "Cancel…",
        class: "danger",
        text: html! { (waiting) " still " (still) ". What is cancelled is not sent; this cannot be undone." },
    };
    html! {
        (components::form(request, &page, &html! { button.button name="do" value="retry" { "Retry now" } }))
        (components::confirm(request, &question, &html! {
            button.button.danger.sure name="do" value="cancel" { "Cancel " (waiting) }
        }))
    }
}

fn page_of(request: &PageRequest) -> String {
    format!("{}/{}", messages::PAGE, segment(&request.id))
}

/// The recipients: the first ones, or the one that was chosen.
fn recipients(request: &PageRequest, deliveries: &[Delivery]) -> Markup {
    let columns = [
        Column("Recipient", "lead", None),
        Column("Status", "fit state", None),
        Column("Attempts", "num", Some("Attempts")),
        Column("Last reply", "", None),
    ];
    let chosen = request.parameter("delivery_id");
    let shown = deliveries.iter().filter(|delivery| chosen.is_none_or(|id| id == delivery.id));
    let rows: Vec<_> = shown.take(RECIPIENTS_MAX).map(|delivery| recipient(request, delivery)).collect();
    let hidden = deliveries.len() - rows.len();
    html! {
        (components::table(&columns, &rows))
        @if hidden > 0 {
            footer.soft.small {
                (format::counted(hidden as u64, "more recipient", "more recipients")) ". "
                @if chosen.is_some() { a href=(request.href(&page_of(request))) { "All recipients" } }
                @else { a href=(request.href(messages::PAGE)) { "Search for one" } }
            }
        }
    }
}

fn recipient(request: &PageRequest, delivery: &Delivery) -> Vec<Markup> {
    let page = request.href(&request.with_query(&page_of(request), &[("delivery_id", &delivery.id)]));
    let suppressions =
        request.href(&request.with_query("/ui/suppressions", &[("address", &delivery.recipient)]));
    let class = delivery.bounce_class.as_deref();
    let ended_badly = ["bounced", "expired"].contains(&delivery.status.as_str());
    vec![
        html! { a href=(page) { (foreign(&delivery.recipient)) } },
        components::status(&delivery.status),
        html! { (delivery.attempts) },
        html! {
            @if let Some(reply) = &delivery.last_reply { code.reply { (foreign(reply)) } }
            @if let Some(at) = delivery.next_attempt_at.filter(|_| delivery.is_open()) {
                span.sub { "next try " (format::upcoming(at, request.now)) }
            }
            @if ended_badly {
                span.sub {
                    @if let Some(class) = class { (visible(class)) "; " }
                    a href=(suppressions) { "suppressions of the address" }
                }
            }
        },
    ]
}

fn facts(request: &PageRequest, email: &Email, tenant: &str) -> Markup {
    let from = email.header_from.as_deref().or(email.from.as_deref()).unwrap_or("<>");
    let tag = |tag: &str| request.href(&request.with_query(messages::PAGE, &[("tag", tag)]));
    let list = |list: &str| request.href(&request.with_query(messages::PAGE, &[("list", list)]));
    html! {
        dl.kv.two {
            dt { "From" } dd { (foreign(from)) }
            dt { "Id" } dd { (copied(&email.id)) }
            @if let Some(id) = &email.message_id { dt { "Message-ID" } dd { (copied(&format!("<{id}>"))) } }
            dt { "Tenant" } dd { a href=(request.href(&format!("/ui/tenants/{}", segment(&email.tenant_id)))) { (visible(tenant)) } ", " (visible(&email.environment)) }
            dt { "Reverse path" } dd { (foreign(email.from.as_deref().unwrap_or("<>"))) }
            dt { "Expires" } dd { (format::time(email.expires_at)) }
            @if !email.tags.is_empty() { dt { "Tags" } dd { @for name in &email.tags { (components::tag(&tag(name), name)) " " } } }
            @if let Some(name) = &email.list { dt { "List" } dd { a href=(list(name)) { (foreign(name)) } } }
            @if !email.metadata.is_empty() { dt { "Metadata" } dd { (metadata(&email.metadata)) } }
        }
    }
}

fn metadata(metadata: &Map<String, Value>) -> Markup {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    html! {
        @for (place, (name, value)) in metadata.iter().enumerate() {
            @if place > 0 { ", " }
            code { (visible(name)) } " " (foreign(&text(value)))
        }
    }
}

fn tabs(request: &PageRequest, current: &str) -> Markup {
    let names = [
        ("timeline", "Timeline"),
        ("preview", "Preview"),
        ("text", "Text"),
        ("headers", "Headers"),
        ("raw", "Raw"),
        ("attachments", "Attachments"),
        ("authentication", "Authentication"),
    ];
    let href = |tab: &str| {
        let tab = if tab == "timeline" { "" } else { tab };
        request.href(&request.with_query(&page_of(request), &[("tab", tab)]))
    };
    let tabs: Vec<_> = names
        .iter()
        .map(|(tab, name)| Tab { href: href(tab), name, count: None, is_current: *tab == current })
        .collect();
    components::tabs("Parts", &tabs)
}

async fn life(request: &PageRequest, email: &Email, path: &str) -> Result<Markup, Problem> {
    let target = request.api_target(&format!("{path}/timeline"), &["delivery_id"], &[]);
    let entries: Timeline = request.get(&target).await?;
    let chosen = request.parameter("delivery_id");
    let mut shown = email.life.clone();
    shown.deliveries.retain(|delivery| chosen.is_none_or(|id| id == delivery.id));
    Ok(html! {
        section.panel.pad.stack-l data-part="timeline" {
            (timeline::picture(&shown, &entries.data))
            (timeline::list(request, &shown, &entries.data))
            @if entries.has_more { p.soft { "There is more: choose a recipient above." } }
        }
    })
}

/// A timeline has no pages.
#[derive(Deserialize)]
struct Timeline {
    data: Vec<Entry>,
    has_more: bool,
}

pub async fn act(request: PageRequest) -> Outcome {
    let note = Act::of(&request)?.one(&request).await?;
    View::redirect(page_of(&request), note)
}
