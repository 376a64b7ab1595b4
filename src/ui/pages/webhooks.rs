//! Webhooks, and what was posted to them.

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::mail::Timestamp;
use crate::model::{EventKind, Scope, WebhookDeliveryState, WebhookStatus};
use crate::ui::components::{self, Column, Filters, Question, block, copied, foreign, visible};
use crate::ui::form::{Field, Form};
use crate::ui::format;
use crate::ui::list::{self, Listed, relative};
use crate::ui::request::{PageRequest, segment};
use crate::ui::tenant_names::TenantNames;
use crate::ui::view::{Outcome, Problem, View};

const PATH: &str = "/ui/webhooks";

#[derive(Deserialize)]
struct Webhook {
    id: String,
    tenant_id: Option<String>,
    url: String,
    events: Vec<String>,
    environments: Vec<String>,
    status: String,
    disabled_reason: Option<String>,
    failing_since: Option<Timestamp>,
    previous_secret_until: Option<Timestamp>,
    created_at: Timestamp,
    secret: Option<String>,
}

#[derive(Deserialize)]
struct Delivery {
    id: String,
    webhook_id: String,
    status: String,
    attempts: u64,
    next_attempt_at: Option<Timestamp>,
    last_attempt: Option<Attempt>,
    event: Value,
    created_at: Timestamp,
}

#[derive(Deserialize)]
struct Attempt {
    at: Timestamp,
    duration_ms: u64,
    response_code: Option<u16>,
    response_body: String,
    error: Option<String>,
}

impl Delivery {
    fn kind(&self) -> &str {
        self.event["type"].as_str().unwrap_or_default()
    }
}

pub async fn list(request: PageRequest) -> Outcome {
    if request.parameter("new").is_some() {
        return new_form(&request, None).await;
    }
    let tenants = TenantNames::read(&request).await;
    let webhooks =
        Listed::<Webhook>::read(&request, "/v1/webhooks", &["tenant_id", "status", "environment"]).await?;
    let create = html! {
        @if request.may(Scope::WebhooksManage) { a.button.primary href=(request.href("/ui/webhooks?new=webhook")) { "Create a webhook" } }
    };
    let statuses: Vec<_> = WebhookStatus::ALL.iter().map(|status| status.as_str()).collect();
    let filters = Filters {
        page: PATH,
        fields: html! {
            (tenants.filter(&request))
            (list::choice(&request, "Status", "status", &statuses))
            (list::environment(&request))
        },
        more: Markup::default(),
        more_names: &[],
    };
    let body = html! {
        (components::head(None, "Webhooks", &create))
        (filters.show(&request))
        @if webhooks.data.is_empty() {
            (list::empty(&request, PATH, &html! {
                h2 { "No webhook yet" }
                p { "The server posts events to a URL of yours as they happen: deliveries, bounces, complaints." }
                (components::block("pillarbox webhook create https://acme.com/hooks --event message.bounced"))
                div.row { (create) }
            }))
        } @else {
            section.panel data-part=[request.parameter("after").is_none().then_some("list")] {
                (table(&request, &webhooks.data, &tenants))
                (webhooks.foot(&request, ("webhook", "webhooks")))
            }
        }
    };
    View::page("Webhooks", body)
}

fn table(request: &PageRequest, webhooks: &[Webhook], tenants: &TenantNames) -> Markup {
    let mut columns = vec![
        Column("Endpoint", "lead", None),
        Column("Status", "state", None),
        Column("Events", "", Some("Events")),
        Column("Environments", "", Some("Environments")),
        Column("Since", "fit", Some("Since")),
    ];
    if request.is_platform() {
        columns.insert(1, Column("Owner", "", Some("Owner")));
    }
    let row = |webhook: &Webhook| {
        let mut cells = vec![
            html! { a href=(request.href(&format!("{PATH}/{}", segment(&webhook.id)))) { (foreign(&webhook.url)) } },
            state(webhook, request.now),
            events(&webhook.events),
            html! { (webhook.environments.join(", ")) },
            relative(webhook.created_at, request.now),
        ];
        if request.is_platform() {
            cells.insert(1, tenants.link(request, webhook.tenant_id.as_deref()));
        }
        cells
    };
    components::table(&columns, &webhooks.iter().map(row).collect::<Vec<_>>())
}

fn state(webhook: &Webhook, now: Timestamp) -> Markup {
    html! {
        @match (&webhook.disabled_reason, webhook.failing_since) {
            (Some(reason), _) => { (components::status(&webhook.status)) " " span.soft { (visible(&reason.replace('_', " "))) } },
            (None, Some(since)) => { (components::status("failing")) " " span.soft { "for " (format::duration_s(now.duration_since(since).as_secs())) } },
            (None, None) => (components::status(&webhook.status)),
        }
    }
}

fn events(events: &[String]) -> Markup {
    html! {
        span.tags {
            @if events.is_empty() { span.tag { "all" } }
            @for event in events.iter().take(3) { span.tag { (visible(event)) } }
            @if events.len() > 3 { span.tag title=(events.join(", ")) { "+" (events.len() - 3) } }
        }
    }
}

/// The kinds of events that a webhook may have.
fn kinds() -> Vec<(&'static str, &'static str)> {
    let kinds = EventKind::ALL.iter().filter(|kind| kind.is_subscribable());
    kinds.map(|kind| (kind.as_str(), kind.as_str())).collect()
}

async fn new_form(request: &PageRequest, problem: Option<&Problem>) -> Outcome {
    let tenants = TenantNames::read(request).await;
    let form = Form::new(request, "webhook", problem);
    let body = html! {
        (components::head(Some((&request.href(PATH), "Webhooks")), "Create a webhook", &Markup::default()))
        (form.problem())
        form.panel.pad.stack method="post" action=(request.href(PATH)) {
            (request.token())
            div.fields {
                (form.input(Field { label: "URL", name: "url", kind: "url", placeholder: "https://acme.com/hooks", ..Field::default() }))
                @if request.is_platform() {
                    (form.select(Field { label: "Events of", name: "tenant_id", ..Field::default() }, &tenants.options(("", "all tenants"))))
                }
            }
            (form.checks("Events (none ticked: all)", "events", &kinds(), &[]))
            div.row { button.button.primary name="do" value="create" { "Create the webhook" } a.button href=(request.href(PATH)) { "Back" } }
        }
    };
    View::form("Create a webhook", problem, body)
}

pub async fn create(request: PageRequest) -> Outcome {
    let body = json!({
        "url": request.field("url").unwrap_or_default(),
        "tenant_id": request.text_or_null("tenant_id"),
        "events": request.ticked("events"),
    });
    match request.post::<Webhook>("/v1/webhooks", &body).await {
        Ok(webhook) => show_secret(&request, &webhook),
        Err(problem) if problem.is_of_form() => new_form(&request, Some(&problem)).await,
        Err(problem) => Err(problem),
    }
}

/// The answer to the form that made a secret; no page has it again.
fn show_secret(request: &PageRequest, webhook: &Webhook) -> Outcome {
    let here = format!("{PATH}/{}", segment(&webhook.id));
    let body = html! {
        (components::head(Some((&request.href(PATH), "Webhooks")), "The secret of the webhook", &Markup::default()))
        (components::secret(
            "Check each request with it, as Standard Webhooks describes.",
            webhook.secret.as_deref().unwrap_or_default(),
        ))
        @if let Some(until) = webhook.previous_secret_until { p { "The earlier secret also signs until " (format::time(until)) "." } }
        div.row { a.button href=(request.href(&here)) { "The webhook" } a.button href=(request.href("/docs/events")) { "How to check it" } }
    };
    View::page("The secret of the webhook", body)
}

pub async fn show(request: PageRequest) -> Outcome {
    show_page(&request, None).await
}

async fn show_page(request: &PageRequest, problem: Option<&Problem>) -> Outcome {
    let path = format!("/v1/webhooks/{}", segment(&request.id));
    let deliveries_path = format!("{path}/deliveries");
    let (webhook, deliveries, tenants) = futures_util::join!(
        request.get::<Webhook>(&path),
        Listed::<Delivery>::read(request, &deliveries_path, &["status"]),
        TenantNames::read(request),
    );
    let (webhook, deliveries) = (webhook?, deliveries?);
    let mut facts = vec![
        ("Id", copied(&webhook.id)),
        (
            "Events",
            html! { @if webhook.events.is_empty() { "all" } @else { span.tags { @for event in &webhook.events { span.tag { (visible(event)) } } } } },
        ),
        ("Environments", html! { (webhook.environments.join(", ")) }),
        ("Created", format::time(webhook.created_at)),
    ];
    if request.is_platform() {
        facts.insert(1, ("Owner", tenants.link(request, webhook.tenant_id.as_deref())));
    }
    let body = html! {
        (components::head_with((&request.href(PATH), "Webhooks"), &webhook.url, &state(&webhook, request.now), &actions(request, &webhook)))
        @if let Some(problem) = problem { (components::problem(problem)) }
        @if let Some(until) = webhook.previous_secret_until { div.note.warn { div { "Two secrets sign: the earlier one until " (format::time(until)) "." } } }
        section.panel { div.pad { (components::pairs(&facts)) } }
        section.panel data-part=[request.parameter("after").is_none().then_some("deliveries")] {
            header { h2 { "Deliveries" } (delivery_filter(request)) }
            @if deliveries.data.is_empty() {
                div.empty { p { "Nothing was posted yet. A test event shows whether the endpoint answers." } }
            } @else {
                (delivery_table(request, &deliveries.data))
                (deliveries.foot(request, ("delivery", "deliveries")))
            }
        }
        @if request.may(Scope::WebhooksManage) { (settings(request, &webhook, problem)) }
    };
    View::form(webhook.url.clone(), problem, body)
}

fn delivery_filter(request: &PageRequest) -> Markup {
    let here = format!("{PATH}/{}", segment(&request.id));
    let chosen = request.parameter("status").unwrap_or_default();
    let states = std::iter::once("").chain(WebhookDeliveryState::ALL.iter().map(|state| state.as_str()));
    let tabs: Vec<_> = states
        .map(|state| components::Tab {
            href: request.href(&request.with_query(&here, &[("status", state)])),
            name: if state.is_empty() { "all" } else { state },
            count: None,
            is_current: state == chosen,
        })
        .collect();
    components::choices("Status of deliveries", &tabs)
}

fn actions(request: &PageRequest, webhook: &Webhook) -> Markup {
    if !request.may(Scope::WebhooksManage) {
        return Markup::default();
    }
    let here = format!("{PATH}/{}", segment(&webhook.id));
    let button = |action: &str, word: &str| {
        components::form(request, &here, &html! { button.button name="do" value=(action) { (word) } })
    };
    html! {
        @if webhook.status == "enabled" {
            (button("test", "Send a test event"))
            (button("disable", "Disable"))
        } @else {
            (button("enable", "Enable"))
        }
        (components::confirm(
            request,
            &Question { action: &here, label: "New secret…", class: "", text: html! { "The old secret also signs for 24 hours." } },
            &html! { button.button.primary name="do" value="rotate" { "Make a new secret" } },
        ))
        (components::confirm(
            request,
            &Question { action: &here, label: "Delete…", class: "danger", text: html! { "What waits to be posted is dropped." } },
            &html! { button.button.danger.sure name="do" value="delete" { "Delete the webhook" } },
        ))
    }
}

fn settings(request: &PageRequest, webhook: &Webhook, problem: Option<&Problem>) -> Markup {
    let problem = problem.filter(|_| request.field("do") == Some("save"));
    let form = Form::new(request, "settings", problem);
    let chosen: Vec<_> = webhook.events.iter().map(String::as_str).collect();
    let body = html! {
        form.pad.stack method="post" action=(request.href(&format!("{PATH}/{}", segment(&webhook.id)))) {
            (request.token())
            (form.input(Field { label: "URL", name: "url", kind: "url", value: &webhook.url, ..Field::default() }))
            details {
                summary { "Events" }
                (form.checks("None ticked: all", "events", &kinds(), &chosen))
            }
            div.row { button.button name="do" value="save" { "Save" } }
        }
    };
    components::panel("Settings", None, &body)
}

fn delivery_table(request: &PageRequest, deliveries: &[Delivery]) -> Markup {
    let columns = [
        Column("Time", "time", None),
        Column("Status", "fit state", None),
        Column("Event", "lead", None),
        Column("Answer", "grow", Some("Answer")),
        Column("Attempts", "num", Some("Attempts")),
        Column("Took", "num", Some("Took")),
        Column("", "acts", None),
    ];
    let row = |delivery: &Delivery| {
        let path = format!("{PATH}/deliveries/{}", segment(&delivery.id));
        vec![
            format::moment(delivery.created_at, request.now),
            status(&delivery.status),
            html! { a href=(request.href(&path)) { code { (visible(delivery.kind())) } } },
            html! {
                @if let Some(attempt) = &delivery.last_attempt { (answer(attempt)) }
                @if let Some(next) = delivery.next_attempt_at { span.sub { "next try " (relative(next, request.now)) } }
            },
            html! { (delivery.attempts) },
            html! { @if let Some(attempt) = &delivery.last_attempt { (format::duration_ms(attempt.duration_ms)) } },
            replay_button(request, delivery, true),
        ]
    };
    components::table(&columns, &deliveries.iter().map(row).collect::<Vec<_>>())
}

/// A delivery that waits is on its way; a domain that waits is not.
fn status(state: &str) -> Markup {
    match state {
        "pending" => html! { span.badge.run { "pending" } },
        other => components::status(other),
    }
}

fn answer(attempt: &Attempt) -> Markup {
    let text = match (attempt.response_code, &attempt.error) {
        (Some(code), _) => format!("{code} {}", attempt.response_body),
        (None, Some(error)) => error.clone(),
        (None, None) => String::new(),
    };
    html! { code title=(text) { (foreign(&text)) } }
}

fn replay_button(request: &PageRequest, delivery: &Delivery, is_small: bool) -> Markup {
    if !request.may(Scope::WebhooksManage) {
        return Markup::default();
    }
    let path = format!("{PATH}/deliveries/{}", segment(&delivery.id));
    components::form(
        request,
        &path,
        &html! { button.button.small[is_small] name="do" value="replay" { "Replay" } },
    )
}

pub async fn act(request: PageRequest) -> Outcome {
    let id = segment(&request.id);
    let (path, here) = (format!("/v1/webhooks/{id}"), format!("{PATH}/{id}"));
    let saved = |result: Result<Value, Problem>| result.map(|_| ());
    let done = match request.field("do") {
        Some("test") => saved(request.post(&format!("{path}/test"), &Value::Null).await)
            .map(|()| "A test event is on its way."),
        Some("enable") => {
            saved(request.patch(&path, &json!({"status": "enabled"})).await).map(|()| "Enabled.")
        }
        Some("disable") => saved(request.patch(&path, &json!({"status": "disabled"})).await)
            .map(|()| "Disabled. Events wait."),
        Some("save") => {
            let body = json!({ "url": request.field("url").unwrap_or_default(), "events": request.ticked("events") });
            saved(request.patch(&path, &body).await).map(|()| "Saved.")
        }
        Some("rotate") => {
            let webhook: Webhook = request.post(&format!("{path}/rotate-secret"), &Value::Null).await?;
            return show_secret(&request, &webhook);
        }
        Some("delete") => {
            let _: Value = request.delete(&path).await?;
            return View::redirect(PATH, "Deleted.");
        }
        _ => Err(Problem::no_action()),
    };
    match done {
        Ok(note) => View::redirect(here, note),
        Err(problem) if problem.is_of_form() => show_page(&request, Some(&problem)).await,
        Err(problem) => Err(problem),
    }
}

pub async fn delivery(request: PageRequest) -> Outcome {
    let path = format!("/v1/webhooks/deliveries/{}", segment(&request.id));
    let delivery: Delivery = request.get(&path).await?;
    let crumb = request.href(&format!("{PATH}/{}", segment(&delivery.webhook_id)));
    let line = html! { (status(&delivery.status)) " " (format::time(delivery.created_at)) };
    let event = serde_json::to_string_pretty(&delivery.event).unwrap_or_default();
    let body = html! {
        (components::head_with((&crumb, "Webhook"), delivery.kind(), &line, &replay_button(&request, &delivery, false)))
        div.split {
            section.panel {
                header { h2 { "Event" } }
                div.pad { (block(&event)) }
            }
            section.panel {
                header { h2 { "Last answer" } }
                div.pad.stack { (last_answer(&delivery, request.now)) }
            }
        }
    };
    View::page(delivery.kind().to_owned(), body)
}

fn last_answer(delivery: &Delivery, now: Timestamp) -> Markup {
    let Some(attempt) = &delivery.last_attempt else {
        return html! { p { "Not tried yet." } };
    };
    let mut facts = vec![
        ("webhook-id", copied(&delivery.id)),
        ("Attempts", html! { (delivery.attempts) }),
        ("Tried", format::time(attempt.at)),
        ("Took", html! { (format::duration_ms(attempt.duration_ms)) }),
    ];
    if let Some(code) = attempt.response_code {
        facts.push(("Status", html! { code { (code) } }));
    }
    if let Some(error) = &attempt.error {
        facts.push(("Error", foreign(error)));
    }
    if let Some(next) = delivery.next_attempt_at {
        facts.push(("Next try", relative(next, now)));
    }
    html! {
        (components::pairs(&facts))
        @if !attempt.response_body.is_empty() { (block(&attempt.response_body)) }
    }
}

pub async fn replay(request: PageRequest) -> Outcome {
    if request.field("do") != Some("replay") {
        return Err(Problem::no_action());
    }
    let id = segment(&request.id);
    let _: Value = request.post(&format!("/v1/webhooks/deliveries/{id}/replay"), &Value::Null).await?;
    View::redirect(format!("{PATH}/deliveries/{id}"), "It is posted again, with the same id.")
}
