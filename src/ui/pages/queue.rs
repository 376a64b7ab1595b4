//! The queue: why mail waits, and pauses, resumes and flushes of a part of it after a page that counts.

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::mail::Timestamp;
use crate::ui::chart;
use crate::ui::components::{self, Column, Number, Question, foreign, visible};
use crate::ui::form::{Field, Form};
use crate::ui::format;
use crate::ui::list::{Listed, relative};
use crate::ui::request::PageRequest;
use crate::ui::tenant_names::TenantNames;
use crate::ui::view::{Outcome, Problem, View};

const PATH: &str = "/ui/queue";

#[derive(Deserialize)]
struct Queue {
    open: u64,
    in_flight: u64,
    due: u64,
    paused: u64,
    deferred: u64,
    pauses: Vec<Pause>,
    restoration: Option<Restoration>,
    group_count: u64,
    data: Vec<Group>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Pause {
    tenant_id: Option<String>,
    destination: Option<String>,
    reason: Option<String>,
    since: Timestamp,
    until: Option<Timestamp>,
}

/// A restored backup whose deliveries wait.
#[derive(Deserialize)]
struct Restoration {
    taken_at: Timestamp,
}

#[derive(Deserialize)]
struct Group {
    tenant_id: String,
    tenant_slug: Option<String>,
    destination: String,
    open: u64,
    deferred: u64,
    oldest_at: Timestamp,
    reasons: Vec<Wait>,
}

#[derive(Deserialize)]
struct Wait {
    reason: String,
    count: Option<u64>,
    until: Option<Timestamp>,
    detail: Option<String>,
}

#[derive(Deserialize)]
struct Site {
    name: String,
    tenant_id: Option<String>,
    domains: Vec<String>,
    connections_max: u64,
    connections: u64,
    waiting: u64,
    backoff_until: Option<Timestamp>,
    reason: Option<String>,
}

/// A part of the queue.
struct Part<'a> {
    tenant_id: Option<&'a str>,
    destination: Option<&'a str>,
}

impl Part<'_> {
    /// `gmail.com of acme`, `all mail of acme`, `gmail.com`, `all mail`.
    fn name(&self, tenants: &TenantNames) -> String {
        match (self.destination, self.tenant_id) {
            (Some(destination), Some(tenant)) => format!("{destination} of {}", tenants.name(tenant)),
            (None, Some(tenant)) => format!("all mail of {}", tenants.name(tenant)),
            (Some(destination), None) => destination.to_owned(),
            (None, None) => "all mail".to_owned(),
        }
    }

    fn fields(&self) -> Markup {
        html! {
            input type="hidden" name="tenant_id" value=(self.tenant_id.unwrap_or_default());
            input type="hidden" name="destination" value=(self.destination.unwrap_or_default());
        }
    }

    fn body(&self) -> Value {
        json!({ "tenant_id": self.tenant_id, "destination": self.destination })
    }
}

pub async fn show(request: PageRequest) -> Outcome {
    let target = request.api_target("/v1/queue", &["tenant_id", "destination", "after"], &[("limit", "50")]);
    let (queue, sites, tenants) = futures_util::join!(
        request.get::<Queue>(&target),
        request.get::<Listed<Site>>("/v1/queue/sites"),
        TenantNames::read(&request),
    );
    let (queue, sites) = (queue?, sites?);
    let body = html! {
        (components::head(None, "Queue", &choose_part(&request, &tenants)))
        div data-part="numbers" { (numbers(&queue, request.now)) }
        @if queue.data.is_empty() {
            (nothing(&request))
        } @else {
            section.panel data-part="queue" {
                (groups(&request, &queue, &tenants))
                (components::pages(&request, &shown(&queue), queue.next_cursor.as_deref()))
            }
        }
        @if let Some(restoration) = &queue.restoration { (restored(&request, restoration)) }
        @if !queue.pauses.is_empty() { (pauses(&request, &queue.pauses, &tenants)) }
        @if !sites.data.is_empty() { (site_table(request.now, &sites.data, &tenants)) }
    };
    View::page("Queue", body)
}

fn nothing(request: &PageRequest) -> Markup {
    let is_filtered = request.parameter("tenant_id").or(request.parameter("destination")).is_some();
    let (text, action) = match is_filtered {
        true => (
            "Nothing of this part waits.",
            html! { a.button href=(request.href(PATH)) { "The whole queue" } },
        ),
        false => ("Every accepted message is delivered, or has come back.", Markup::default()),
    };
    components::empty_panel("Nothing waits", text, None, &action)
}

fn shown(queue: &Queue) -> String {
    match queue.next_cursor {
        Some(_) => format!("{} of {} parts, the largest first", queue.data.len(), queue.group_count),
        None if queue.data.len() == 1 => "1 part".to_owned(),
        None => format!("{} parts, the largest first", queue.data.len()),
    }
}

fn numbers(queue: &Queue, now: Timestamp) -> Markup {
    let oldest = queue.data.iter().map(|group| group.oldest_at).min();
    let age = oldest.map(|oldest| now.duration_since(oldest).as_secs());
    let number =
        |name, value: String, text: String, class| Number { name, value, text: html! { (text) }, class };
    let parts = match queue.group_count {
        1 => "in 1 part".to_owned(),
        count => format!("in {} parts", format::count(count)),
    };
    components::numbers(&[
        number("Waiting", format::count(queue.open), parts, ""),
        number(
            "Due now",
            format::count(queue.due),
            format!("{} being tried", format::count(queue.in_flight)),
            "",
        ),
        number("Later", format::count(queue.deferred), "for a retry, or scheduled".to_owned(), ""),
        number(
            "Oldest",
            age.map_or_else(|| "–".to_owned(), format::duration_s),
            if queue.next_cursor.is_some() {
                "of the parts below".to_owned()
            } else {
                "since it was accepted".to_owned()
            },
            if age.is_some_and(|age| age >= 86_400) { "is-warn" } else { "" },
        ),
        number("Paused", format::count(queue.paused), format!("{} pauses", queue.pauses.len()), ""),
    ])
}

fn groups(request: &PageRequest, queue: &Queue, tenants: &TenantNames) -> Markup {
    let columns = [
        Column("Destination", "lead", None),
        Column("Tenant", "", Some("Tenant")),
        Column("Why, until when", "", Some("Why")),
        Column("Deliveries", "num", Some("Deliveries")),
        Column("Oldest", "fit", Some("Oldest")),
        Column("", "acts", None),
    ];
    let largest = queue.data.iter().map(|group| group.open).max().unwrap_or_default();
    let row = |group: &Group| {
        let slug = group.tenant_slug.as_deref().unwrap_or(&group.tenant_id);
        vec![
            destination(request, group),
            html! { a href=(request.href(&format!("/ui/tenants/{}", group.tenant_id))) { (components::slug(slug)) } },
            html! { @for wait in &group.reasons { (why(wait, request.now)) } },
            html! {
                (format::count(group.open))
                (chart::meter(group.open, largest, "accent", &format!("{} deliveries", group.open)))
            },
            relative(group.oldest_at, request.now),
            actions(request, queue, group, tenants),
        ]
    };
    components::table(&columns, &queue.data.iter().map(row).collect::<Vec<_>>())
}

/// The destination, with its messages. An address literal is no domain, by which messages are found.
fn destination(request: &PageRequest, group: &Group) -> Markup {
    if group.destination.starts_with('[') {
        return foreign(&group.destination);
    }
    let state = if group.deferred > 0 { "deferred" } else { "queued" };
    let parameters = [
        ("tenant_id", group.tenant_id.as_str()),
        ("recipient_domain", group.destination.as_str()),
        ("delivery_status", state),
    ];
    html! { a href=(request.href(&request.with_query("/ui/messages", &parameters))) { (foreign(&group.destination)) } }
}

fn why(wait: &Wait, now: Timestamp) -> Markup {
    let (class, word) = match wait.reason.as_str() {
        "tenant_suspended" => ("badge bad", "tenant may not send"),
        "site_backoff" => ("badge warn", "site backs off"),
        "site_throttled" => ("badge warn", "site is busy"),
        "smart_host_auth_failed" => ("badge bad", "smart host refuses the login"),
        "in_flight" => ("badge run", "being tried"),
        "due" => ("badge run", "due"),
        "deferred" => ("badge warn", "deferred"),
        "scheduled" => ("badge run", "scheduled"),
        other => ("badge", other),
    };
    html! {
        div {
            span class=(class) { (visible(word)) }
            @if let Some(count) = wait.count { " " (format::count(count)) }
            @if let Some(until) = wait.until { " " span.soft { "until " (format::time(until)) ", " (relative(until, now)) } }
            @if let Some(detail) = &wait.detail { span.sub { (foreign(detail)) } }
        }
    }
}

fn actions(request: &PageRequest, queue: &Queue, group: &Group, tenants: &TenantNames) -> Markup {
    let part = Part { tenant_id: Some(&group.tenant_id), destination: Some(&group.destination) };
    let is_paused = queue.pauses.iter().any(|pause| {
        pause.tenant_id.as_deref() == part.tenant_id && pause.destination.as_deref() == part.destination
    });
    if is_paused {
        return resume_button(request, &part);
    }
    let question = Question {
        action: PATH,
        label: "Act…",
        class: "small",
        text: html! { (format::count(group.open)) " deliveries: " (foreign(&part.name(tenants))) },
    };
    let acts = html! {
        (part.fields())
        div.row {
            button.button.small name="do" value="ask_flush" { "Flush…" }
            button.button.small name="do" value="ask_pause" { "Pause…" }
        }
    };
    components::confirm(request, &question, &acts)
}

fn resume_button(request: &PageRequest, part: &Part<'_>) -> Markup {
    components::form(
        request,
        PATH,
        &html! { (part.fields()) button.button.small name="do" value="resume" { "Resume" } },
    )
}

fn choose_part(request: &PageRequest, tenants: &TenantNames) -> Markup {
    let form = Form::new(request, "part", None);
    let question = Question { action: PATH, label: "Pause or flush…", ..Question::default() };
    let part = html! {
        (form.select(Field { label: "Of tenant", name: "tenant_id", ..Field::default() }, &tenants.options(("", "all tenants"))))
        (form.input(Field { label: "To destination", name: "destination", placeholder: "all", ..Field::default() }))
        div.row {
            button.button name="do" value="ask_pause" { "Pause…" }
            button.button name="do" value="ask_flush" { "Flush…" }
        }
    };
    components::confirm(request, &question, &part)
}

fn pauses(request: &PageRequest, pauses: &[Pause], tenants: &TenantNames) -> Markup {
    let columns = [
        Column("Paused", "lead", None),
        Column("Why", "grow", Some("Why")),
        Column("Since", "fit", Some("Since")),
        Column("Ends", "fit", Some("Ends")),
        Column("", "acts", None),
    ];
    let row = |pause: &Pause| {
        let part = Part { tenant_id: pause.tenant_id.as_deref(), destination: pause.destination.as_deref() };
        vec![
            html! { span.strong { (foreign(&part.name(tenants))) } },
            html! { @if let Some(reason) = &pause.reason { span title=(reason) { (foreign(reason)) } } },
            relative(pause.since, request.now),
            pause.until.map_or_else(|| html! { "until resumed" }, format::time),
            resume_button(request, &part),
        ]
    };
    let rows: Vec<_> = pauses.iter().map(row).collect();
    components::panel("Pauses", Some("pauses"), &components::table(&columns, &rows))
}

/// What waits because the server was restored, and how it is released.
fn restored(request: &PageRequest, restoration: &Restoration) -> Markup {
    html! {
        section.panel.pad.stack {
            h2 { "Restored from a backup" }
            p {
                "What was open at " (format::time(restoration.taken_at))
                " waits, because it may have been sent since. Then its recipients get it a second time."
            }
            (components::confirm(
                request,
                &Question {
                    action: PATH, label: "Release…",
                    text: html! { "All deliveries of the backup that still wait become due." },
                    ..Question::default()
                },
                &html! { button.button name="do" value="release" { "Release" } },
            ))
        }
    }
}

fn site_table(now: Timestamp, sites: &[Site], tenants: &TenantNames) -> Markup {
    let columns = [
        Column("Site", "lead", None),
        Column("State", "", Some("State")),
        Column("Connections", "num", Some("Connections")),
        Column("Waiting", "num", Some("Waiting")),
        Column("Domains", "grow", Some("Domains")),
    ];
    let row = |site: &Site| {
        vec![
            html! {
                span.strong { (foreign(&site.name)) }
                @if let Some(tenant) = &site.tenant_id { span.sub { "of " (visible(tenants.name(tenant))) " only" } }
            },
            match site.backoff_until {
                Some(until) => html! {
                    span.badge.warn { "backs off" } " " span.soft { (relative(until, now)) }
                    @if let Some(reason) = &site.reason { span.sub { (foreign(reason)) } }
                },
                None => html! { span.badge.ok { "open" } },
            },
            html! { (site.connections) " of " (site.connections_max) },
            html! { (format::count(site.waiting)) },
            html! { span title=(site.domains.join(", ")) { (foreign(&site.domains.join(", "))) } },
        ]
    };
    let rows: Vec<_> = sites.iter().map(row).collect();
    components::panel("Destination sites", Some("sites"), &components::table(&columns, &rows))
}

pub async fn act(request: PageRequest) -> Outcome {
    match request.field("do") {
        Some("ask_flush") => ask_flush(&request).await,
        Some("ask_pause") => ask_pause(&request, None).await,
        Some("flush") => flush(&request).await,
        Some("pause") => pause(&request).await,
        Some("resume") => resume(&request).await,
        Some("release") => release(&request).await,
        _ => Err(Problem::no_action()),
    }
}

fn part_of(request: &PageRequest) -> Part<'_> {
    Part { tenant_id: request.field("tenant_id"), destination: request.field("destination") }
}

/// The counts of a part, and its name.
async fn count(request: &PageRequest, part: &Part<'_>) -> Result<(Queue, String), Problem> {
    let parameters = [
        ("limit", "1"),
        ("tenant_id", part.tenant_id.unwrap_or_default()),
        ("destination", part.destination.unwrap_or_default()),
    ];
    let queue = request.get(&request.with_query("/v1/queue", &parameters)).await?;
    Ok((queue, part.name(&TenantNames::read(request).await)))
}

async fn ask_flush(request: &PageRequest) -> Outcome {
    let part = part_of(request);
    let (queue, name) = count(request, &part).await?;
    let title = format!("Flush {name}");
    let waits: Vec<_> = queue.data.iter().flat_map(|group| &group.reasons).collect();
    let detail_of = |reason: &str| waits.iter().find(|wait| wait.reason == reason)?.detail.as_deref();
    let (backoff, stopped) = (detail_of("site_backoff"), part.tenant_id.and(detail_of("tenant_suspended")));
    let body = html! {
        (head(request, &title))
        section.panel.pad.stack.measure {
            p { "Deferred mail becomes due now: " (foreign(&name)) ", at most " strong { (deliveries(queue.deferred)) } ". Scheduled mail keeps its time." }
            @if let Some(detail) = stopped { p.soft { (components::sentence(detail)) " It goes on waiting until the tenant is active." } }
            @if let Some(detail) = backoff {
                p.soft { "The site backs off after " code { (foreign(detail)) } ". A try too soon can make it last longer." }
            }
            (components::form(request, PATH, &html! {
                (part.fields())
                div.row {
                    button.button.primary name="do" value="flush" { "Flush" }
                    a.button href=(request.href(PATH)) { "Back" }
                }
            }))
        }
    };
    View::page(title, body)
}

async fn ask_pause(request: &PageRequest, problem: Option<&Problem>) -> Outcome {
    let part = part_of(request);
    let (queue, name) = count(request, &part).await?;
    let title = format!("Pause {name}");
    let form = Form::new(request, "pause", problem);
    let body = html! {
        (head(request, &title))
        (form.problem())
        section.panel.pad.stack.measure {
            p { "This stops " strong { (deliveries(queue.open)) } " and all that come after: " (foreign(&name)) ". The server still accepts mail." }
            form.stack method="post" action=(request.href(PATH)) {
                (request.token()) (part.fields())
                div.fields {
                    (form.input(Field { label: "Why", name: "reason", placeholder: "investigating", hint: "Shown beside the pause.", ..Field::default() }))
                    (form.input(Field { label: "Until (UTC)", name: "until", kind: "datetime-local", hint: "Empty: until somebody resumes it.", ..Field::default() }))
                }
                div.row {
                    button.button.primary name="do" value="pause" { "Pause " (deliveries(queue.open)) }
                    a.button href=(request.href(PATH)) { "Back" }
                }
            }
        }
    };
    View::form(title, problem, body)
}

fn head(request: &PageRequest, title: &str) -> Markup {
    components::head(Some((&request.href(PATH), "Queue")), title, &Markup::default())
}

fn deliveries(count: u64) -> String {
    format!("{} {}", format::count(count), if count == 1 { "delivery" } else { "deliveries" })
}

async fn flush(request: &PageRequest) -> Outcome {
    #[derive(Deserialize)]
    struct Flushed {
        flushed: u64,
    }
    let part = part_of(request);
    let Flushed { flushed } = request.post("/v1/queue/flush", &part.body()).await?;
    let name = part.name(&TenantNames::read(request).await);
    View::redirect(PATH, format!("Flushed {name}: {} due now.", deliveries(flushed)))
}

async fn pause(request: &PageRequest) -> Outcome {
    let part = part_of(request);
    let mut body = part.body();
    body["reason"] = request.text_or_null("reason");
    body["until"] = request.time_or_null("until");
    match request.post::<Value>("/v1/queue/pause", &body).await {
        Ok(_) => {
            let name = part.name(&TenantNames::read(request).await);
            View::redirect(PATH, format!("Paused: {name}."))
        }
        Err(problem) if problem.is_of_form() => ask_pause(request, Some(&problem)).await,
        Err(problem) => Err(problem),
    }
}

async fn resume(request: &PageRequest) -> Outcome {
    let part = part_of(request);
    let _: Value = request.post("/v1/queue/resume", &part.body()).await?;
    let name = part.name(&TenantNames::read(request).await);
    View::redirect(PATH, format!("Resumed: {name}."))
}

async fn release(request: &PageRequest) -> Outcome {
    #[derive(Deserialize)]
    struct Released {
        released: u64,
    }
    let body = json!({ "restored": true });
    let Released { released } = request.post("/v1/queue/resume", &body).await?;
    View::redirect(PATH, format!("Released {}.", deliveries(released)))
}
