//! Keys: who may use the API and SMTP. A secret is in the answer to the form that made it, and on no other page.

use hyper::StatusCode;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::json;

use super::key_settings;
use crate::mail::Timestamp;
use crate::model::{Environment, KeyStatus, Scope};
use crate::ui::components::{self, Column, Filters, Question, copied, visible};
use crate::ui::form::{Field, Form};
use crate::ui::format;
use crate::ui::list::{self, Listed, relative};
use crate::ui::request::{PageRequest, segment};
use crate::ui::tenant_names::TenantNames;
use crate::ui::view::{Outcome, Problem, ProblemField, View};

const PATH: &str = "/ui/keys";
/// The owner of a key that may do everything. The form has no default for it.
const PLATFORM: &str = "platform";

/// A key, as far as the pages show it.
#[derive(Deserialize)]
pub struct Key {
    pub id: String,
    name: String,
    pub tenant_id: Option<String>,
    status: String,
    pub environment: Environment,
    scopes: Vec<String>,
    pub allowed_domain_ids: Vec<String>,
    pub restricted_to_domains: bool,
    allowed_cidrs: Vec<String>,
    expires_at: Option<Timestamp>,
    created_at: Timestamp,
    last_used_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    rotated_at: Option<Timestamp>,
    previous_secret_until: Option<Timestamp>,
    last_four: String,
}

#[derive(Deserialize)]
struct NewKey {
    #[serde(flatten)]
    key: Key,
    secret: String,
}

#[derive(Deserialize)]
struct Domain {
    id: String,
    name: String,
}

pub async fn list(request: PageRequest) -> Outcome {
    if request.parameter("new").is_some() {
        return new_form(&request, None).await;
    }
    let tenants = TenantNames::read(&request).await;
    let keys = Listed::<Key>::read(&request, "/v1/keys", &["tenant_id", "environment", "status"]).await?;
    let owner = request.parameter("tenant_id").unwrap_or_default();
    let new = request.href(&request.with_query(PATH, &[("new", "key"), ("tenant_id", owner)]));
    let create =
        html! { @if request.may(Scope::KeysManage) { a.button.primary href=(new) { "Create a key" } } };
    let statuses: Vec<_> = KeyStatus::ALL.iter().map(|status| status.as_str()).collect();
    let filters = Filters {
        page: PATH,
        fields: html! {
            (tenants.filter(&request))
            (list::environment(&request))
            (list::choice(&request, "Status", "status", &statuses))
        },
        more: Markup::default(),
        more_names: &[],
    };
    let body = html! {
        (components::head(None, "Keys", &create))
        (filters.show(&request))
        @if keys.data.is_empty() {
            (list::empty(&request, PATH, &html! {
                h2 { "No key yet" }
                p { "A key lets a program send, over SMTP or HTTP. Its secret is shown once, with settings for each mail client." }
                (components::block("pillarbox key create --name shop --scope smtp:send --snippet postfix"))
                div.row { (create) }
            }))
        } @else {
            section.panel data-part=[request.parameter("after").is_none().then_some("list")] {
                (table(&request, &keys.data, &tenants))
                (keys.foot(&request, ("key", "keys")))
            }
        }
    };
    View::page("Keys", body)
}

fn table(request: &PageRequest, keys: &[Key], tenants: &TenantNames) -> Markup {
    let is_platform = request.is_platform();
    let mut columns = vec![
        Column("Name", "lead", None),
        Column("Status", "fit state", None),
        Column("Rights", "", Some("Rights")),
        Column("Environment", "fit", Some("Environment")),
        Column("Last use", "fit", Some("Last use")),
        Column("", "acts", None),
    ];
    if is_platform {
        columns.insert(1, Column("Owner", "", Some("Owner")));
    }
    let row = |key: &Key| {
        let mut cells = vec![
            html! {
                a href=(link(request, key)) { (components::foreign(&key.name)) }
                span.sub { code { "…" (key.last_four) } }
            },
            components::status(state(key, request.now)),
            scopes(key),
            html! { (key.environment) },
            key.last_used_at.map_or_else(|| html! { span.soft { "never" } }, |at| relative(at, request.now)),
            revoke_button(request, key, "Revoke…", true),
        ];
        if is_platform {
            cells.insert(1, tenants.link(request, key.tenant_id.as_deref()));
        }
        cells
    };
    components::table(&columns, &keys.iter().map(row).collect::<Vec<_>>())
}

fn page_of(key: &Key) -> String {
    format!("{PATH}/{}", segment(&key.id))
}

fn link(request: &PageRequest, key: &Key) -> String {
    request.href(&page_of(key))
}

/// A key that ends within two weeks says so.
fn state(key: &Key, now: Timestamp) -> &str {
    let ends_soon = key.expires_at.is_some_and(|at| at.duration_since(now).as_secs() < 14 * 86_400);
    if key.status == "active" && ends_soon { "expiring" } else { &key.status }
}

fn scopes(key: &Key) -> Markup {
    html! {
        span.tags {
            @if key.tenant_id.is_none() {
                span.tag { "everything" }
            } @else if key.scopes.len() == Scope::ALL.len() {
                span.tag { "everything of the tenant" }
            } @else {
                @for scope in key.scopes.iter().take(3) { span.tag { (visible(scope)) } }
                @if key.scopes.len() > 3 { span.tag title=(key.scopes.join(", ")) { "+" (key.scopes.len() - 3) } }
            }
        }
    }
}

/// Nothing for a key that works no longer, and for the key of this session, which cannot revoke itself.
fn revoke_button(request: &PageRequest, key: &Key, label: &str, is_small: bool) -> Markup {
    if key.status != "active" || key.id == request.me().key.id || !request.may(Scope::KeysManage) {
        return Markup::default();
    }
    let question = Question {
        action: &page_of(key),
        label,
        class: if is_small { "danger small" } else { "danger" },
        text: html! { "Whatever uses " strong { (components::foreign(&key.name)) } " can no longer log in, from within a second. This cannot be undone." },
    };
    let revoke = html! { button.button.danger.sure name="do" value="revoke" { "Revoke the key" } };
    components::confirm(request, &question, &revoke)
}

/// The form of a new key, again with what was typed if it was refused.
async fn new_form(request: &PageRequest, problem: Option<&Problem>) -> Outcome {
    let tenants = TenantNames::read(request).await;
    let chosen = request.field("tenant_id").or(request.parameter("tenant_id")).unwrap_or_default();
    let domains = domains_of(request, chosen).await?;
    let form = Form::new(request, "key", problem);
    let own =
        Scope::ALL.iter().filter(|scope| request.may(**scope)).map(|scope| (scope.as_str(), scope.as_str()));
    let own: Vec<_> = own.collect();
    let environments: &[(&str, &str)] = match request.me().environment {
        Environment::Live => &[("live", "live"), ("test", "test")],
        Environment::Test => &[("test", "test")],
    };
    let mut owners = tenants.options(("", "choose…"));
    owners.insert(1, (PLATFORM, "the platform"));
    // A tenant beyond the first hundred is chosen by a link.
    if owners.iter().all(|(owner, _)| *owner != chosen) {
        owners.push((chosen, chosen));
    }
    let names: Vec<_> = domains.iter().map(|domain| (domain.id.as_str(), domain.name.as_str())).collect();
    let body = html! {
        (components::head(Some((&request.href(PATH), "Keys")), "Create a key", &Markup::default()))
        (form.problem())
        form.panel.pad.stack.measure method="post" action=(request.href(PATH)) {
            (request.token())
            div.fields {
                (form.input(Field { label: "Name", name: "name", placeholder: "web shop", ..Field::default() }))
                @if request.is_platform() {
                    (form.select(
                        Field { label: "Owner", name: "tenant_id", value: chosen, hint: "A key of the platform may do everything.", ..Field::default() },
                        &owners,
                    ))
                }
                (form.select(
                    Field { label: "Environment", name: "environment", value: request.parameter("environment").unwrap_or_default(), hint: "Mail of a test key goes to the sandbox inbox only.", ..Field::default() },
                    environments,
                ))
                (form.input(Field { label: "Ends (UTC)", name: "expires_at", kind: "datetime-local", hint: "Empty: never.", ..Field::default() }))
                (form.input(Field { label: "Only from these networks", name: "allowed_cidrs", placeholder: "192.0.2.0/24", hint: "Empty: from everywhere.", ..Field::default() }))
            }
            (form.checks("Scopes of a key of a tenant", "scopes", &own, &["smtp:send", "emails:send"]))
            @if !names.is_empty() {
                (form.checks("Only from these domains (none ticked: from all)", "allowed_domain_ids", &names, &[]))
            }
            div.row { button.button.primary name="do" value="create" { "Create the key" } a.button href=(request.href(PATH)) { "Back" } }
        }
    };
    View::form("Create a key", problem, body)
}

/// The domains that a key may be bound to: those of its owner, once that is known.
async fn domains_of(request: &PageRequest, tenant_id: &str) -> Result<Vec<Domain>, Problem> {
    if request.is_platform() && ["", PLATFORM].contains(&tenant_id) {
        return Ok(Vec::new());
    }
    let target = request.with_query("/v1/domains", &[("limit", "100"), ("tenant_id", tenant_id)]);
    let listed = request.get_if_any::<Listed<Domain>>(&target).await?;
    Ok(listed.map(|listed| listed.data).unwrap_or_default())
}

pub async fn create(request: PageRequest) -> Outcome {
    let owner = request.field("tenant_id").filter(|owner| *owner != PLATFORM);
    if request.is_platform() && request.field("tenant_id").is_none() {
        return new_form(&request, Some(&no_owner())).await;
    }
    let mut body = json!({
        "name": request.field("name").unwrap_or_default(),
        "tenant_id": owner,
        "environment": request.text_or_null("environment"),
        "expires_at": request.time_or_null("expires_at"),
    });
    // The platform itself has no scopes.
    if !request.is_platform() || owner.is_some() {
        body["scopes"] = json!(request.ticked("scopes"));
    }
    let (networks, domains) = (request.words("allowed_cidrs"), request.ticked("allowed_domain_ids"));
    if !networks.is_empty() {
        body["allowed_cidrs"] = json!(networks);
    }
    if !domains.is_empty() {
        body["allowed_domain_ids"] = json!(domains);
    }
    match request.post::<NewKey>("/v1/keys", &body).await {
        Ok(new) => show_secret(&request, &new, "created").await,
        Err(problem) if problem.is_of_form() => new_form(&request, Some(&problem)).await,
        Err(problem) => Err(problem),
    }
}

fn no_owner() -> Problem {
    let (message, hint) =
        ("the key has no owner", "choose its tenant, or the platform for a key that may do everything");
    let field = ProblemField { path: "tenant_id".to_owned(), message: "an owner must be chosen".to_owned() };
    let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed", message, hint);
    Problem { fields: vec![field], ..problem }
}

/// The only page with the secret: the answer to the form, which no address leads to again.
async fn show_secret(request: &PageRequest, new: &NewKey, what: &str) -> Outcome {
    let NewKey { key, secret } = new;
    let title = format!("Key “{}” {what}", key.name);
    let body = html! {
        (components::head(Some((&request.href(PATH), "Keys")), &title, &Markup::default()))
        (components::secret("Copy it now; the server keeps only a digest of it.", secret))
        @if let Some(until) = key.previous_secret_until { p { "The earlier secret works until " (format::time(until)) "." } }
        (key_settings::show(request, key, Some(secret)).await)
        div.row {
            a.button href=(link(request, key)) { "The key" }
            a.button href=(request.href(&request.with_query("/ui/messages", &[("key_id", &key.id)]))) { "Its messages" }
        }
    };
    View::page(title, body)
}

pub async fn show(request: PageRequest) -> Outcome {
    let key: Key = request.get(&format!("/v1/keys/{}", segment(&request.id))).await?;
    let tenants = TenantNames::read(&request).await;
    let actions = html! { (rotate_button(&request, &key)) (revoke_button(&request, &key, "Revoke…", false)) };
    let line = html! { (components::status(state(&key, request.now))) " " (key.environment) ", secret " code { "…" (key.last_four) } };
    let when = |at: Option<Timestamp>| at.map_or_else(|| html! { span.soft { "never" } }, format::time);
    let mut facts = vec![
        ("Id", copied(&key.id)),
        ("Scopes", html! { span.tags { @for scope in &key.scopes { span.tag { (visible(scope)) } } } }),
        ("Domains", domain_links(&request, &key)),
        (
            "Networks",
            html! { @if key.allowed_cidrs.is_empty() { "all" } @else { code { (key.allowed_cidrs.join(", ")) } } },
        ),
        ("Ends", when(key.expires_at)),
        (
            "Last use",
            html! { (when(key.last_used_at)) " " a href=(request.href(&request.with_query("/ui/messages", &[("key_id", &key.id)]))) { "its messages" } },
        ),
        ("Created", when(Some(key.created_at))),
        ("New secret", when(key.rotated_at)),
    ];
    if request.is_platform() {
        facts.insert(1, ("Owner", tenants.link(&request, key.tenant_id.as_deref())));
    }
    if let Some(at) = key.revoked_at {
        facts.push(("Revoked", format::time(at)));
    }
    let body = html! {
        (components::head_with((&request.href(PATH), "Keys"), &key.name, &line, &actions))
        @if let Some(until) = key.previous_secret_until {
            div.note.warn { div { "Two secrets work: the earlier one ends at " (format::time(until)) "." } }
        }
        section.panel { header { h2 { "The key" } } div.pad { (components::pairs(&facts)) } }
        @if key.status == "active" { (key_settings::show(&request, &key, None).await) }
    };
    View::page(key.name.clone(), body)
}

fn domain_links(request: &PageRequest, key: &Key) -> Markup {
    html! {
        @if !key.restricted_to_domains {
            "all"
        } @else if key.allowed_domain_ids.is_empty() {
            "none: those that it had are deleted"
        } @else {
            @for id in &key.allowed_domain_ids { a href=(request.href(&format!("/ui/domains/{}", segment(id)))) { code { (id) } } " " }
        }
    }
}

fn rotate_button(request: &PageRequest, key: &Key) -> Markup {
    if key.status != "active" || !request.may(Scope::KeysManage) {
        return Markup::default();
    }
    let options = [("86400", "24 hours"), ("3600", "1 hour"), ("604800", "7 days"), ("0", "not at all")];
    let form = Form::new(request, "rotate", None);
    let question = Question {
        action: &page_of(key),
        label: "New secret…",
        text: html! { "The key gets a new secret, shown once." },
        ..Question::default()
    };
    let rotate = html! {
        (form.select(Field { label: "The old one works on for", name: "expires_in", ..Field::default() }, &options))
        button.button.primary name="do" value="rotate" { "Make a new secret" }
    };
    components::confirm(request, &question, &rotate)
}

pub async fn act(request: PageRequest) -> Outcome {
    let path = format!("/v1/keys/{}", segment(&request.id));
    match request.field("do") {
        Some("revoke") => {
            let key: Key = request.delete(&path).await?;
            View::redirect(PATH, format!("Revoked: {}.", key.name))
        }
        Some("rotate") => {
            let body = json!({ "expires_in": request.number_or_null("expires_in") });
            let new: NewKey = request.post(&format!("{path}/rotate"), &body).await?;
            show_secret(&request, &new, "has a new secret").await
        }
        _ => Err(Problem::no_action()),
    }
}
