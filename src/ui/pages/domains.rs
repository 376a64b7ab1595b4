//! Sending domains: their DNS records to copy, what was found, and their DKIM keys.

use std::time::Duration;

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Value, json};

use super::domain_records::{self, Record};
use crate::mail::Timestamp;
use crate::model::{DomainStatus, ReturnPathMode, Scope};
use crate::ui::components::{self, Column, Filters, Question, copied, foreign, visible};
use crate::ui::findings::{Diagnosis, Finding};
use crate::ui::form::{Field, Form};
use crate::ui::format;
use crate::ui::list::{self, Listed, relative};
use crate::ui::request::{PageRequest, segment};
use crate::ui::tenant_names::TenantNames;
use crate::ui::view::{Outcome, Problem, View};

const PATH: &str = "/ui/domains";
/// How long the page of a domain looks again by itself after somebody asked for a check.
const LOOKS_FOR_S: i64 = 300;
const LOOKS_EVERY_S: i64 = 10;
/// How long the page waits for the doctor, who asks other name servers.
const DOCTOR_PATIENCE: Duration = Duration::from_secs(3);

/// Characters of what to do about a finding.
const FIX_CHARS_MAX: usize = 120;

/// A domain, as far as the pages show it.
#[derive(Deserialize)]
struct Domain {
    id: String,
    name: String,
    tenant_id: Option<String>,
    status: String,
    status_reason: Option<String>,
    status_hint: Option<String>,
    verification: String,
    subdomains: bool,
    return_path: ReturnPath,
    dns_records: Vec<Record>,
    last_checked_at: Option<Timestamp>,
    failing_since: Option<Timestamp>,
    verified_at: Option<Timestamp>,
    created_at: Timestamp,
}

#[derive(Deserialize)]
struct ReturnPath {
    mode: Option<String>,
    host: Option<String>,
    status: String,
}

#[derive(Deserialize)]
struct DkimKey {
    selector: String,
    algorithm: String,
    state: String,
    retiring_since: Option<Timestamp>,
    created_at: Timestamp,
}

pub async fn list(request: PageRequest) -> Outcome {
    list_page(&request, None).await
}

async fn list_page(request: &PageRequest, problem: Option<&Problem>) -> Outcome {
    let tenants = TenantNames::read(request).await;
    let domains = Listed::<Domain>::read(request, "/v1/domains", &["tenant_id", "name", "status"]).await?;
    let statuses: Vec<_> = DomainStatus::ALL.iter().map(|status| status.as_str()).collect();
    let filters = Filters {
        page: PATH,
        fields: html! {
            (components::search(request, "Name", "name", "acme.com"))
            (tenants.filter(request))
            (list::choice(request, "Status", "status", &statuses))
        },
        more: Markup::default(),
        more_names: &[],
    };
    let body = html! {
        (components::head(None, "Domains", &add_form(request, &tenants, problem)))
        @if let Some(problem) = problem { (components::problem(problem)) }
        (filters.show(request))
        @if domains.data.is_empty() {
            (list::empty(request, PATH, &html! {
                h2 { "No domain yet" }
                p { "Mail leaves from a domain that has shown, by its DNS records, that it is yours." }
                (components::block("pillarbox domain add acme.com"))
            }))
        } @else {
            section.panel data-part=[request.parameter("after").is_none().then_some("list")] {
                (table(request, &domains.data, &tenants))
                (domains.foot(request, ("domain", "domains")))
            }
        }
    };
    View::form("Domains", problem, body)
}

fn add_form(request: &PageRequest, tenants: &TenantNames, problem: Option<&Problem>) -> Markup {
    if !request.may(Scope::DomainsManage) {
        return Markup::default();
    }
    let form = Form::new(request, "new", problem);
    html! {
        details.confirm open[problem.is_some()] {
            summary.button.primary { "Add a domain…" }
            form method="post" action=(request.href(PATH)) {
                (request.token())
                (form.input(Field { label: "Name", name: "name", placeholder: "acme.com", ..Field::default() }))
                @if request.is_platform() {
                    (form.select(Field { label: "Of tenant", name: "tenant_id", ..Field::default() }, &tenants.options(("", "default"))))
                }
                button.button.primary name="do" value="create" { "Add" }
            }
        }
    }
}

fn table(request: &PageRequest, domains: &[Domain], tenants: &TenantNames) -> Markup {
    let mut columns = vec![
        Column("Domain", "lead", None),
        Column("Status", "fit state", None),
        Column("DKIM", "", Some("DKIM")),
        Column("Return host", "", Some("Return host")),
        Column("Checked", "fit", Some("Checked")),
    ];
    if request.is_platform() {
        columns.insert(1, Column("Tenant", "", Some("Tenant")));
    }
    let row = |domain: &Domain| {
        let mut cells = vec![
            html! { a href=(link(request, domain)) { (foreign(&domain.name)) } },
            html! {
                (components::status(&domain.status))
                @if let Some(since) = domain.failing_since { span.sub { (relative(since, request.now)) } }
            },
            html! { @for record in domain.dns_records.iter().filter(|record| record.purpose == "dkim") { div { (record.selector()) " " (components::status(&record.status)) } } },
            html! { @if domain.return_path.host.is_some() { (components::status(&domain.return_path.status)) } },
            domain
                .last_checked_at
                .map_or_else(|| html! { span.soft { "never" } }, |at| relative(at, request.now)),
        ];
        if request.is_platform() {
            cells.insert(1, tenants.link(request, domain.tenant_id.as_deref()));
        }
        cells
    };
    components::table(&columns, &domains.iter().map(row).collect::<Vec<_>>())
}

fn link(request: &PageRequest, domain: &Domain) -> String {
    request.href(&format!("{PATH}/{}", segment(&domain.id)))
}

pub async fn create(request: PageRequest) -> Outcome {
    let body = json!({
        "name": request.field("name").unwrap_or_default(),
        "tenant_id": request.text_or_null("tenant_id"),
    });
    match request.post::<Domain>("/v1/domains", &body).await {
        Ok(domain) => {
            let to = format!("{PATH}/{}", segment(&domain.id));
            View::redirect(to, format!("Added: {}. Publish its records, then verify it.", domain.name))
        }
        Err(problem) if problem.is_of_form() => list_page(&request, Some(&problem)).await,
        Err(problem) => Err(problem),
    }
}

pub async fn show(request: PageRequest) -> Outcome {
    show_page(&request, None).await
}

async fn show_page(request: &PageRequest, problem: Option<&Problem>) -> Outcome {
    let path = format!("/v1/domains/{}", segment(&request.id));
    let mut domain: Domain = request.get(&path).await?;
    let looks = looks_until(request).is_some() && domain.dns_records.iter().any(|record| !record.is_right());
    let is_old =
        domain.last_checked_at.is_none_or(|at| request.now.duration_since(at).as_secs() >= LOOKS_EVERY_S - 2);
    if looks && is_old && request.may(Scope::DomainsManage) && domain.tenant_id.is_some() {
        // Looks into the DNS again. A failure leaves the last result.
        if let Ok(checked) = request.post::<Domain>(&format!("{path}/verify"), &json!({})).await {
            domain = checked;
        }
    }
    let dkim_path = format!("{path}/dkim");
    let doctor_path = format!("{path}/doctor");
    let is_sandbox = domain.tenant_id.is_none();
    let diagnose = async {
        match is_sandbox {
            // The sandbox domain needs no record, so a missing one is no fault.
            true => Ok(None),
            false => request.get_if_any::<Diagnosis>(&doctor_path).await,
        }
    };
    let (tenants, keys, diagnosis) = futures_util::join!(
        TenantNames::read(request),
        request.get_if_any::<Listed<DkimKey>>(&dkim_path),
        tokio::time::timeout(DOCTOR_PATIENCE, diagnose),
    );
    let keys = keys?.map(|listed| listed.data).unwrap_or_default();
    // The page is useful without the doctor.
    let diagnosis = diagnosis.ok().and_then(|answer| answer.ok().flatten());
    let findings = diagnosis.map(|diagnosis| diagnosis.findings).unwrap_or_default();
    let line = html! {
        (components::status(&domain.status))
        @if let Some(since) = domain.failing_since { " since " (format::time(since)) }
        @else if let Some(at) = domain.verified_at { " since " (format::time(at)) }
    };
    let body = html! {
        (components::head_with((&request.href(PATH), "Domains"), &domain.name, &line, &actions(request, &domain)))
        @if let Some(problem) = problem { (components::problem(problem)) }
        @if let Some(reason) = &domain.status_reason {
            div.note.warn[domain.status == "pending"].bad[domain.status != "pending"] {
                div {
                    p.strong { (components::sentence(reason)) }
                    @if let Some(hint) = &domain.status_hint { p { (components::sentence(hint)) } }
                }
            }
        }
        @if is_sandbox { (about_sandbox(request)) }
        section.panel data-part="records" {
            (domain_records::show(request, &domain.name, &domain.dns_records))
            footer.soft.small data-refresh=[looks.then_some(LOOKS_EVERY_S)] {
                @match domain.last_checked_at {
                    Some(at) => { "Checked " (format::time(at)) ", " (relative(at, request.now)) "." },
                    None => "Not checked yet.",
                }
                @if looks { " This page looks again every 10 s for 5 minutes." }
            }
        }
        @if findings.iter().any(|finding| finding.is_wrong()) { (wrong(request, &findings)) }
        div.split {
            (dkim_keys(&keys, request.now))
            @if request.may(Scope::DomainsManage) && !is_sandbox { (rotation(request, &domain)) }
        }
        (settings(request, &domain, &tenants, problem.filter(|_| request.field("do") == Some("save"))))
    };
    View::form(domain.name.clone(), problem, body)
}

fn about_sandbox(request: &PageRequest) -> Markup {
    html! {
        div.note {
            p {
                "This is the sandbox domain: test mail never leaves the server and needs no record. Publish these only so that receivers accept "
                a href=(request.href("/docs/sending#trial-mail")) { "trial mail" } "."
            }
        }
    }
}

/// The beginning of what to do: the record with the whole value stands above.
fn beginning(text: &str) -> String {
    match text.char_indices().nth(FIX_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Until when the page looks again, at most five minutes from now.
fn looks_until(request: &PageRequest) -> Option<Timestamp> {
    let until = request.parameter("until").and_then(|text| text.parse::<i64>().ok())?;
    let until = Timestamp::from_second(until).ok()?;
    let left = until.duration_since(request.now).as_secs();
    (1..=LOOKS_FOR_S).contains(&left).then_some(until)
}

fn actions(request: &PageRequest, domain: &Domain) -> Markup {
    if !request.may(Scope::DomainsManage) || domain.tenant_id.is_none() {
        return Markup::default();
    }
    let action = format!("{PATH}/{}", segment(&domain.id));
    let form = Form::new(request, "delete", None);
    html! {
        (components::form(request, &action, &html! { button.button.primary name="do" value="verify" { "Verify now" } }))
        (components::confirm(
            request,
            &Question {
                action: &action, label: "Delete…", class: "danger",
                text: html! { "Nobody can send from the domain any more. What waits is refused when it is tried." },
            },
            &html! {
                (form.input(Field { label: "Type the name of the domain", name: "confirm", ..Field::default() }))
                button.button.danger.sure name="do" value="delete" { "Delete the domain" }
            },
        ))
    }
}

fn wrong(request: &PageRequest, findings: &[Finding]) -> Markup {
    html! {
        section.panel {
            header { h2 { "What is wrong" } }
            ul.findings {
                @for finding in findings.iter().filter(|finding| finding.is_wrong()) {
                    (finding.show(request, &html! { @if let Some(fix) = &finding.fix { p.soft { (foreign(&beginning(&fix.text))) } } }))
                }
            }
        }
    }
}

fn dkim_keys(keys: &[DkimKey], now: Timestamp) -> Markup {
    let columns = [
        Column("Selector", "lead", None),
        Column("State", "fit state", None),
        Column("Algorithm", "", Some("Algorithm")),
        Column("Since", "", Some("Since")),
    ];
    let row = |key: &DkimKey| {
        vec![
            html! { code { (visible(&key.selector)) } },
            components::status(&key.state),
            html! { (visible(&key.algorithm)) },
            match key.retiring_since {
                Some(at) => html! { "retires since " (relative(at, now)) "; keep its record" },
                None => relative(key.created_at, now),
            },
        ]
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    components::panel("DKIM keys", None, &components::table(&columns, &rows))
}

fn rotation(request: &PageRequest, domain: &Domain) -> Markup {
    let action = format!("{PATH}/{}", segment(&domain.id));
    let body = html! {
        div.pad {
            ol {
                li { "Make new keys. The old ones go on signing." }
                li { "Publish the new records, which then stand above." }
                li { "Verify. The new keys sign from then on, and the old ones retire." }
                li { "Leave the old records until the old keys are gone from this list." }
            }
            div.row { (components::form(request, &action, &html! { button.button name="do" value="rotate" { "Make new keys" } })) }
        }
    };
    components::panel("Rotate the DKIM keys", None, &body)
}

fn settings(
    request: &PageRequest,
    domain: &Domain,
    tenants: &TenantNames,
    problem: Option<&Problem>,
) -> Markup {
    let mut facts = vec![
        ("Id", copied(&domain.id)),
        (
            "Verified by",
            html! { @if domain.verification == "manual" { "the platform" } @else { "its DNS records" } },
        ),
        (
            "Senders",
            html! { @if domain.subdomains { "the domain and its subdomains" } @else { "the domain only" } },
        ),
        (
            "Return host",
            html! {
                @match &domain.return_path.host {
                    Some(host) => { code { (foreign(host)) } " " (components::status(&domain.return_path.status)) },
                    None => "none: this server receives no reports",
                }
            },
        ),
        ("Added", format::time(domain.created_at)),
    ];
    if request.is_platform() {
        facts.insert(0, ("Tenant", tenants.link(request, domain.tenant_id.as_deref())));
    }
    let modes = std::iter::once(("", "as the server says"))
        .chain(ReturnPathMode::ALL.iter().map(|mode| (mode.as_str(), mode.as_str())));
    let modes: Vec<_> = modes.collect();
    let form = Form::new(request, "settings", problem);
    let body = html! {
        div.pad.stack {
            (components::pairs(&facts))
            @if request.may(Scope::DomainsManage) && domain.tenant_id.is_some() {
                form method="post" action=(link(request, domain)) {
                    (request.token())
                    div.fields {
                        (form.select(
                            Field { label: "Return path", name: "mode", value: domain.return_path.mode.as_deref().unwrap_or_default(), ..Field::default() },
                            &modes,
                        ))
                        (form.select(
                            Field { label: "Subdomains may send", name: "subdomains", value: if domain.subdomains { "true" } else { "false" }, ..Field::default() },
                            &[("true", "yes"), ("false", "no")],
                        ))
                        div.end { button.button name="do" value="save" { "Save" } }
                    }
                }
            }
        }
    };
    components::panel("Settings", None, &body)
}

pub async fn act(request: PageRequest) -> Outcome {
    let path = format!("/v1/domains/{}", segment(&request.id));
    let here = format!("{PATH}/{}", segment(&request.id));
    match request.field("do") {
        Some("verify") => {
            let domain: Domain = request.post(&format!("{path}/verify"), &json!({})).await?;
            let until = (request.now.as_second() + LOOKS_FOR_S).to_string();
            let to = request.with_query(&here, &[("until", &until)]);
            View::redirect(to, format!("Checked: {} is {}.", domain.name, domain.status))
        }
        Some("rotate") => {
            let _: Value = request.post(&format!("{path}/dkim/rotate"), &json!({})).await?;
            View::redirect(here, "New keys are made. Publish their records, then verify.")
        }
        Some("save") => {
            let body = json!({
                "subdomains": request.field("subdomains") == Some("true"),
                "return_path": { "mode": request.text_or_null("mode") },
            });
            match request.patch::<Value>(&path, &body).await {
                Ok(_) => View::redirect(here, "Saved."),
                Err(problem) if problem.is_of_form() => show_page(&request, Some(&problem)).await,
                Err(problem) => Err(problem),
            }
        }
        Some("delete") => delete(&request, &path).await,
        _ => Err(Problem::no_action()),
    }
}

/// Deletes only if the name was typed.
async fn delete(request: &PageRequest, path: &str) -> Outcome {
    let domain: Domain = request.get(path).await?;
    if request.field("confirm") != Some(domain.name.as_str()) {
        return show_page(request, Some(&Problem::not_confirmed(&domain.name))).await;
    }
    let _: Value = request.delete(path).await?;
    View::redirect(PATH, format!("Deleted: {}.", domain.name))
}
