//! Tenants: their limits, settings and usage.

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Value, json};

use super::tenant_forms::{Group, groups};
use crate::mail::Timestamp;
use crate::model::{Scope, TenantStatus};
use crate::ui::chart::{self, Axis, Series as Bars};
use crate::ui::components::{self, Column, Filters, Number, Question, copied, foreign, visible};
use crate::ui::form::{Field, Form};
use crate::ui::format;
use crate::ui::list::{self, Listed, relative};
use crate::ui::request::{PageRequest, segment};
use crate::ui::view::{Outcome, Problem, View};

const PATH: &str = "/ui/tenants";

#[derive(Deserialize)]
struct Tenant {
    id: String,
    name: String,
    slug: String,
    external_ref: Option<String>,
    status: String,
    archived_at: Option<Timestamp>,
    deletable_at: Option<Timestamp>,
    rate_limit: RateLimit,
    created_at: Timestamp,
}

#[derive(Deserialize)]
struct RateLimit {
    emails_per_day: Option<u64>,
}

#[derive(Deserialize)]
struct Usage {
    tenant_id: String,
    emails_sent: u64,
}

#[derive(Deserialize)]
struct Series {
    data: Vec<Day>,
}

#[derive(Deserialize)]
struct Day {
    date: Timestamp,
    emails_sent: u64,
    emails_delivered: u64,
    emails_bounced: u64,
}

#[derive(Deserialize)]
struct Removal {
    counts: serde_json::Map<String, Value>,
}

pub async fn list(request: PageRequest) -> Outcome {
    if request.parameter("new").is_some() {
        return new_form(&request, None).await;
    }
    let tenants =
        Listed::<Tenant>::read(&request, "/v1/tenants", &["slug", "external_ref", "status"]).await?;
    // The numbers of a month are an addition to the list.
    let usage = request.get_if_any::<Listed<Usage>>("/v1/usage?limit=1000").await.ok().flatten();
    let usage = usage.map(|listed| listed.data).unwrap_or_default();
    let create =
        html! { a.button.primary href=(request.href("/ui/tenants?new=tenant")) { "Create a tenant" } };
    let statuses: Vec<_> = TenantStatus::ALL.iter().map(|status| status.as_str()).collect();
    let filters = Filters {
        page: PATH,
        fields: html! {
            (components::search(&request, "Slug", "slug", "acme"))
            (components::search(&request, "External reference", "external_ref", ""))
            (list::choice(&request, "Status", "status", &statuses))
        },
        more: Markup::default(),
        more_names: &[],
    };
    let body = html! {
        (components::head(None, "Tenants", &create))
        (filters.show(&request))
        @if tenants.data.is_empty() {
            (list::empty(&request, PATH, &html! {
                h2 { "No tenant yet" }
                p { "A tenant has domains, keys and mail of its own, and sees nothing of others." }
                (components::block("pillarbox tenant create Acme --domain acme.com"))
                div.row { (create) }
            }))
        } @else {
            section.panel data-part=[request.parameter("after").is_none().then_some("list")] {
                (table(&request, &tenants.data, &usage))
                (tenants.foot(&request, ("tenant", "tenants")))
            }
        }
    };
    View::page("Tenants", body)
}

fn table(request: &PageRequest, tenants: &[Tenant], usage: &[Usage]) -> Markup {
    let columns = [
        Column("Tenant", "lead", None),
        Column("Status", "fit state", None),
        Column("Recipients this month", "num", Some("This month")),
        Column("Limit a day", "num", Some("Limit a day")),
        Column("External reference", "", Some("Reference")),
        Column("Created", "fit", Some("Created")),
    ];
    let sent = |tenant: &Tenant| {
        usage.iter().filter(|one| one.tenant_id == tenant.id).map(|one| one.emails_sent).sum()
    };
    let row = |tenant: &Tenant| {
        vec![
            html! {
                a href=(request.href(&format!("{PATH}/{}", segment(&tenant.id)))) { (foreign(&tenant.name)) }
                span.sub { code { (visible(&tenant.slug)) } }
            },
            components::status(&tenant.status),
            html! { (format::count(sent(tenant))) },
            html! { @match tenant.rate_limit.emails_per_day { Some(limit) => (format::count(limit)), None => span.soft { "no limit" } } },
            html! { @if let Some(reference) = &tenant.external_ref { (foreign(reference)) } },
            relative(tenant.created_at, request.now),
        ]
    };
    components::table(&columns, &tenants.iter().map(row).collect::<Vec<_>>())
}

async fn new_form(request: &PageRequest, problem: Option<&Problem>) -> Outcome {
    let form = Form::new(request, "tenant", problem);
    let body = html! {
        (components::head(Some((&request.href(PATH), "Tenants")), "Create a tenant", &Markup::default()))
        (form.problem())
        form.panel.pad.stack.measure method="post" action=(request.href(PATH)) {
            (request.token())
            div.fields {
                (form.input(Field { label: "Name", name: "name", placeholder: "Acme", ..Field::default() }))
                (form.input(Field { label: "Slug", name: "slug", placeholder: "acme", hint: "Empty: made from the name.", ..Field::default() }))
                (form.input(Field { label: "First domain", name: "domain", placeholder: "acme.com", hint: "It shows the DNS records to publish.", ..Field::default() }))
                (form.input(Field { label: "External reference", name: "external_ref", hint: "Your own id of this customer.", ..Field::default() }))
                (form.input(Field { label: "Recipients a day", name: "rate_limit.emails_per_day", kind: "number", hint: "Empty: no limit.", ..Field::default() }))
            }
            div.row { button.button.primary name="do" value="create" { "Create the tenant" } a.button href=(request.href(PATH)) { "Back" } }
        }
    };
    View::form("Create a tenant", problem, body)
}

pub async fn create(request: PageRequest) -> Outcome {
    let body = json!({
        "name": request.field("name").unwrap_or_default(),
        "slug": request.text_or_null("slug"),
        "domain": request.text_or_null("domain"),
        "external_ref": request.text_or_null("external_ref"),
        "rate_limit": { "emails_per_day": request.number_or_null("rate_limit.emails_per_day") },
    });
    match request.post::<Tenant>("/v1/tenants", &body).await {
        Ok(tenant) => {
            View::redirect(format!("{PATH}/{}", segment(&tenant.id)), format!("Created: {}.", tenant.name))
        }
        Err(problem) if problem.is_of_form() => new_form(&request, Some(&problem)).await,
        Err(problem) => Err(problem),
    }
}

pub async fn show(request: PageRequest) -> Outcome {
    show_page(&request, None).await
}

async fn show_page(request: &PageRequest, problem: Option<&Problem>) -> Outcome {
    let (path, here) = paths(request);
    let series_path = format!("{path}/usage/timeseries?interval=day");
    let (found, series) =
        futures_util::join!(request.get::<Value>(&path), request.get_if_any::<Series>(&series_path),);
    let (found, series) = (found?, series?);
    let tenant = Tenant::deserialize(&found).map_err(|_| Problem::not_found())?;
    let line = html! {
        (components::status(&tenant.status))
        @if let Some(at) = tenant.archived_at { " since " (format::time(at)) }
        ", created " (format::time(tenant.created_at))
        @if let Some(at) = tenant.deletable_at { ", may be deleted from " (format::time(at)) " on" }
    };
    let crumb = if request.is_platform() {
        (request.href(PATH), "Tenants")
    } else {
        (request.href("/ui/"), "Overview")
    };
    let facts =
        [("Id", copied(&tenant.id)), ("Slug", copied(&tenant.slug)), ("See", links(request, &tenant))];
    let body = html! {
        (components::head_with((&crumb.0, crumb.1), &tenant.name, &line, &actions(request, &tenant, &here)))
        @if let Some(problem) = problem { (components::problem(problem)) }
        @if let Some(series) = &series { (usage(series)) }
        section.panel { div.pad { (components::pairs(&facts)) } }
        @if request.may(Scope::TenantManage) {
            div.split {
                @for half in halves(request) {
                    div.stack { @for group in half { (group.show(request, &here, &found, problem)) } }
                }
            }
        }
    };
    View::form(tenant.name.clone(), problem, body)
}

/// The forms in two columns.
fn halves(request: &PageRequest) -> [Vec<Group>; 2] {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for group in groups().into_iter().filter(|group| group.is_for(request)) {
        if group.is_left { left.push(group) } else { right.push(group) }
    }
    [left, right]
}

fn paths(request: &PageRequest) -> (String, String) {
    let id = segment(&request.id);
    (format!("/v1/tenants/{id}"), format!("{PATH}/{id}"))
}

fn links(request: &PageRequest, tenant: &Tenant) -> Markup {
    let pages = [
        ("/ui/messages", "messages"),
        ("/ui/domains", "domains"),
        ("/ui/keys", "keys"),
        ("/ui/webhooks", "webhooks"),
        ("/ui/suppressions", "suppressions"),
        ("/ui/rejections", "rejections"),
        ("/ui/audit", "audit log"),
    ];
    let parameters = [("tenant_id", tenant.id.as_str())];
    let parameters = if request.is_platform() { &parameters[..] } else { &[] };
    html! { div.row { @for (page, name) in pages { a href=(request.href(&request.with_query(page, parameters))) { (name) } } } }
}

fn actions(request: &PageRequest, tenant: &Tenant, here: &str) -> Markup {
    if !request.is_platform() {
        return Markup::default();
    }
    html! {
        // The script opens the link.
        (components::form(request, here, &html! { button.button.js-only name="do" value="open" { "Open as tenant" } }))
        @if tenant.status == "active" {
            (components::confirm(
                request,
                &Question {
                    action: here, label: "Suspend…", class: "danger",
                    text: html! { "Its keys are refused from within a second, over HTTP and SMTP, and its mail waits." },
                },
                &html! { button.button.danger.sure name="do" value="suspend" { "Suspend the tenant" } },
            ))
        } @else {
            (components::form(request, here, &html! { button.button name="do" value="activate" { "Activate" } }))
        }
        @if tenant.status != "archived" { (archive_question(request, here)) }
        // The API refuses to delete it before that.
        @if tenant.deletable_at.is_none_or(|at| at <= request.now) {
            (components::form(request, here, &html! { button.button.danger name="do" value="ask_delete" { "Delete…" } }))
        }
    }
}

fn archive_question(request: &PageRequest, here: &str) -> Markup {
    let form = Form::new(request, "archive", None);
    let field = Field {
        label: "May be deleted from (UTC)",
        name: "deletable_at",
        kind: "datetime-local",
        hint: "Empty: at once.",
        ..Field::default()
    };
    components::confirm(
        request,
        &Question {
            action: here,
            label: "Archive…",
            class: "",
            text: html! { "Its keys may only read, and its mail waits. Nothing is deleted." },
        },
        &html! { (form.input(field)) button.button.sure name="do" value="archive" { "Archive the tenant" } },
    )
}

fn usage(series: &Series) -> Markup {
    let sum = |count: fn(&Day) -> u64| series.data.iter().map(count).sum::<u64>();
    let (sent, delivered, bounced) =
        (sum(|day| day.emails_sent), sum(|day| day.emails_delivered), sum(|day| day.emails_bounced));
    let number = |name, count: u64, text: String| Number {
        name,
        value: format::count(count),
        text: html! { (text) },
        class: "",
    };
    html! {
        (components::numbers(&[
            number("Accepted, 30 days", sent, "recipients".to_owned()),
            number("Delivered", delivered, format::share(delivered, sent)),
            number("Bounced or expired", bounced, format::share(bounced, sent)),
        ]))
        section.panel.pad { (chart_of(&series.data, sent)) }
    }
}

fn chart_of(days: &[Day], sent: u64) -> Markup {
    let labels: Vec<String> = days.iter().map(|day| day.date.strftime("%-d %b").to_string()).collect();
    let values = |count: fn(&Day) -> u64| days.iter().map(|day| count(day) as f64).collect::<Vec<_>>();
    let (delivered, bounced) = (values(|day| day.emails_delivered), values(|day| day.emails_bounced));
    let text = format!("{} days. {} recipients in all.", days.len(), format::count(sent));
    let axis = Axis {
        id: "usage",
        title: "Delivered by day",
        text: &text,
        labels: &labels,
        every: 5,
        unit: "",
        limit: None,
    };
    chart::bars(
        &axis,
        &[
            Bars { name: "delivered", color: "ok", values: &delivered },
            Bars { name: "bounced or expired", color: "bad", values: &bounced },
        ],
    )
}

pub async fn act(request: PageRequest) -> Outcome {
    let (path, here) = paths(&request);
    let action = request.field("do").unwrap_or_default();
    if let Some(group) = groups().into_iter().find(|group| group.action == action) {
        return match request.patch::<Value>(&path, &group.body(&request)).await {
            Ok(_) => View::redirect(here, "Saved."),
            Err(problem) if problem.is_of_form() => show_page(&request, Some(&problem)).await,
            Err(problem) => Err(problem),
        };
    }
    match action {
        "suspend" | "activate" => {
            let status = if action == "suspend" { "suspended" } else { "active" };
            let _: Value = request.patch(&path, &json!({ "status": status })).await?;
            View::redirect(here, format!("The tenant is {status}."))
        }
        "archive" => {
            let body = json!({ "status": "archived", "deletable_at": request.time_or_null("deletable_at") });
            let _: Value = request.patch(&path, &body).await?;
            View::redirect(here, "The tenant is archived.")
        }
        "open" => open_as(&request).await,
        "ask_delete" => ask_delete(&request, None).await,
        "delete" => delete(&request).await,
        _ => Err(Problem::no_action()),
    }
}

/// Signs in as the tenant in this browser. The link works once.
async fn open_as(request: &PageRequest) -> Outcome {
    #[derive(Deserialize)]
    struct Link {
        url: String,
    }
    let Link { url } = request.post("/v1/sessions", &json!({ "tenant_id": request.id })).await?;
    let token = url.split_once('#').map(|(_, token)| token).unwrap_or_default();
    Ok(View::Redirect { to: format!("/ui/sign-in#{token}"), note: None })
}

/// What would be deleted, and a field for the slug.
async fn ask_delete(request: &PageRequest, problem: Option<&Problem>) -> Outcome {
    let (path, here) = paths(request);
    let tenant: Tenant = request.get(&path).await?;
    let removal: Removal = request.delete(&format!("{path}?dry_run=true")).await?;
    let title = format!("Delete {}", tenant.name);
    let form = Form::new(request, "delete", problem);
    let body = html! {
        (components::head(Some((&request.href(&here), &tenant.name)), &title, &Markup::default()))
        (form.problem())
        section.panel.pad.stack.measure {
            p { "This deletes the tenant with all its data. It cannot be undone." }
            p { a href=(request.href(&format!("{here}/export"))) { "Download it first" } ", with its messages and without secrets." }
            dl.kv {
                @for (name, count) in &removal.counts {
                    dt { (name) } dd { (format::count(count.as_u64().unwrap_or_default())) }
                }
            }
            form.stack method="post" action=(request.href(&here)) {
                (request.token())
                (form.input(Field { label: &format!("Type the slug of the tenant: {}", tenant.slug), name: "confirm", ..Field::default() }))
                div.row {
                    button.button.danger.sure name="do" value="delete" { "Delete the tenant" }
                    a.button href=(request.href(&here)) { "Back" }
                }
            }
        }
    };
    View::form(title, problem, body)
}

/// The bundle of a tenant as a file.
pub async fn export(request: PageRequest) -> Outcome {
    let (path, _) = paths(&request);
    Ok(View::Passed(request.open(&format!("{path}/export?messages=true"), None).await))
}

async fn delete(request: &PageRequest) -> Outcome {
    let (path, _) = paths(request);
    let tenant: Tenant = request.get(&path).await?;
    if request.field("confirm") != Some(tenant.slug.as_str()) {
        return ask_delete(request, Some(&Problem::not_confirmed(&tenant.slug))).await;
    }
    let _: Value = request.delete(&path).await?;
    View::redirect(PATH, format!("Deleted: {}.", tenant.name))
}
