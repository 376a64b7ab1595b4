//! Suppressions: addresses that get no mail, and why.

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::mail::Timestamp;
use crate::model::{Environment, Scope, SuppressionReason};
use crate::ui::bulk::{self, Answers};
use crate::ui::components::{self, Chips, Column, Filters, Question, copied, foreign, visible};
use crate::ui::form::{Field, Form};
use crate::ui::format;
use crate::ui::list::{self, Listed, relative};
use crate::ui::request::{PageRequest, segment};
use crate::ui::tenant_names::TenantNames;
use crate::ui::view::{Outcome, Problem, View};

const PATH: &str = "/ui/suppressions";

#[derive(Deserialize)]
struct Suppression {
    id: String,
    tenant_id: Option<String>,
    environment: Environment,
    address: String,
    list: Option<String>,
    reason: String,
    evidence: Option<String>,
    report_id: Option<String>,
    message_id: Option<String>,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    provisional: bool,
}

impl Suppression {
    /// Only the platform lifts what holds for all tenants.
    fn may_be_lifted(&self, request: &PageRequest) -> bool {
        request.may(Scope::SuppressionsManage) && (request.is_platform() || self.tenant_id.is_some())
    }

    fn stops(&self) -> Markup {
        html! {
            @match self.list.as_deref() {
                None => "all mail",
                Some("*") => "mail of every list",
                Some(list) => { "list " (visible(list)) },
            }
            @if self.environment == Environment::Test { ", test" }
        }
    }

    fn until(&self, now: Timestamp) -> Markup {
        html! {
            @match self.expires_at { Some(at) => (relative(at, now)), None => span.soft { "no end" } }
            @if self.provisional { span.sub { "provisional" } }
        }
    }
}

pub async fn list(request: PageRequest) -> Outcome {
    list_page(&request, None).await
}

async fn list_page(request: &PageRequest, problem: Option<&Problem>) -> Outcome {
    let tenants = TenantNames::read(request).await;
    let names = ["tenant_id", "environment", "address", "reason", "list"];
    let suppressions = Listed::<Suppression>::read(request, "/v1/suppressions", &names).await?;
    let reasons: Vec<_> = SuppressionReason::ALL.iter().map(|reason| reason.as_str()).collect();
    let filters = Filters {
        page: PATH,
        fields: html! {
            (components::search(request, "Address", "address", "name@example.org"))
            (tenants.filter(request))
            (list::choice(request, "Reason", "reason", &reasons))
            (components::search(request, "List", "list", "news"))
            (list::environment(request))
        },
        more: Markup::default(),
        more_names: &[],
    };
    let chips = Chips {
        page: PATH,
        all: "All suppressions",
        names: &[
            ("address", "address"),
            ("reason", "reason"),
            ("list", "list"),
            ("environment", "environment"),
            ("tenant_id", "tenant"),
        ],
    };
    let body = html! {
        (components::head(None, "Suppressions", &add_form(request, &tenants, problem)))
        @if let Some(problem) = problem { (components::problem(problem)) }
        (filters.show(request))
        (chips.show(request))
        @if suppressions.data.is_empty() {
            (list::empty(request, PATH, &html! {
                h2 { "Nobody is suppressed" }
                p { "An address is suppressed when its mailbox does not exist, when somebody complains, or leaves a list." }
                (components::block("pillarbox suppression check someone@example.org"))
            }))
        } @else {
            section.panel data-part=[request.parameter("after").is_none().then_some("list")] {
                (table(request, &suppressions.data, &tenants))
                (suppressions.foot(request, ("suppression", "suppressions")))
            }
        }
    };
    View::form("Suppressions", problem, body)
}

fn add_form(request: &PageRequest, tenants: &TenantNames, problem: Option<&Problem>) -> Markup {
    if !request.may(Scope::SuppressionsManage) {
        return Markup::default();
    }
    let form = Form::new(request, "new", problem);
    html! {
        details.confirm open[problem.is_some()] {
            summary.button.primary { "Suppress an address…" }
            form method="post" action=(request.href(PATH)) {
                (request.token())
                (form.input(Field { label: "Address", name: "address", placeholder: "name@example.org", ..Field::default() }))
                @if request.is_platform() {
                    (form.select(Field { label: "For mail of", name: "tenant_id", ..Field::default() }, &tenants.options(("", "all tenants"))))
                }
                (form.input(Field { label: "List", name: "list", placeholder: "all mail", hint: "The name of a list, or * for every list.", ..Field::default() }))
                (form.input(Field { label: "Why", name: "evidence", ..Field::default() }))
                button.button.primary name="do" value="create" { "Suppress" }
            }
        }
    }
}

fn table(request: &PageRequest, suppressions: &[Suppression], tenants: &TenantNames) -> Markup {
    let mut columns = vec![
        Column("Address", "lead", None),
        Column("Reason", "fit", Some("Reason")),
        Column("Stops", "", Some("Stops")),
        Column("Evidence", "grow", Some("Evidence")),
        Column("Since", "fit", Some("Since")),
        Column("Until", "fit", Some("Until")),
        Column("", "acts", None),
    ];
    if request.is_platform() {
        columns.insert(1, Column("Mail of", "", Some("Mail of")));
    }
    let has_boxes = suppressions.iter().any(|suppression| suppression.may_be_lifted(request));
    if has_boxes {
        columns.insert(0, Column("Selected", "tick", None));
    }
    let row = |suppression: &Suppression| {
        let mut cells = vec![
            html! { a href=(request.href(&format!("{PATH}/{}", segment(&suppression.id)))) { (foreign(&suppression.address)) } },
            html! { code { (visible(&suppression.reason)) } },
            suppression.stops(),
            html! { @if let Some(evidence) = &suppression.evidence { code title=(evidence) { (foreign(evidence)) } } (sources(request, suppression)) },
            relative(suppression.created_at, request.now),
            suppression.until(request.now),
            lift_button(request, suppression, true),
        ];
        if request.is_platform() {
            let owner = suppression.tenant_id.as_deref();
            cells.insert(
                1,
                owner.map_or_else(|| html! { span.soft { "all" } }, |id| tenants.link(request, Some(id))),
            );
        }
        if has_boxes {
            let tick = html! { @if suppression.may_be_lifted(request) { (bulk::tick(&suppression.id, &suppression.address)) } };
            cells.insert(0, tick);
        }
        cells
    };
    html! {
        @if has_boxes { (bulk::bar(request, &lift_selected_button())) }
        (components::table(&columns, &suppressions.iter().map(row).collect::<Vec<_>>()))
    }
}

/// The report and the message that caused it.
fn sources(request: &PageRequest, suppression: &Suppression) -> Markup {
    html! {
        @if suppression.report_id.is_some() || suppression.message_id.is_some() {
            span.sub {
                @if let Some(id) = &suppression.report_id { a href=(request.href(&format!("/ui/reports/{}", segment(id)))) { "report" } " " }
                @if let Some(id) = &suppression.message_id { a href=(request.href(&format!("/ui/messages/{}", segment(id)))) { "message" } }
            }
        }
    }
}

fn lift_button(request: &PageRequest, suppression: &Suppression, is_small: bool) -> Markup {
    if !suppression.may_be_lifted(request) {
        return Markup::default();
    }
    let question = Question {
        action: &format!("{PATH}/{}", segment(&suppression.id)),
        label: "Lift…",
        class: if is_small { "small" } else { "" },
        text: html! { "Mail to " strong { (foreign(&suppression.address)) } " is accepted again. If the mailbox does not exist, the receiver counts it against you." },
    };
    let lift = html! { button.button.danger.sure name="do" value="lift" { "Lift the suppression" } };
    components::confirm(request, &question, &lift)
}

fn lift_selected_button() -> Markup {
    let text = "Mail to the selected addresses is accepted again. If a mailbox does not exist, the receiver counts it against you.";
    let lift = html! { button.button.danger.sure name="do" value="lift" { "Lift the selected" } };
    bulk::question("Lift…", "", text, &lift)
}

pub async fn change(request: PageRequest) -> Outcome {
    match request.field("do") {
        Some("create") => create(&request).await,
        Some("lift") => lift_selected(&request).await,
        _ => Err(Problem::no_action()),
    }
}

async fn lift_selected(request: &PageRequest) -> Outcome {
    let (mut answers, mut lifted) = (Answers::default(), 0);
    for id in bulk::ticked(request)? {
        let path = format!("/v1/suppressions/{}", segment(id));
        lifted += answers.add(request.delete::<Value>(&path).await).map_or(0, |_| 1);
    }
    answers.finish(request, format!("Lifted: {}.", format::counted(lifted, "suppression", "suppressions")))
}

async fn create(request: &PageRequest) -> Outcome {
    let mut body = json!({ "address": request.field("address").unwrap_or_default() });
    for name in ["tenant_id", "list", "evidence"] {
        if let Some(value) = request.field(name) {
            body[name] = value.into();
        }
    }
    match request.post::<Suppression>("/v1/suppressions", &body).await {
        Ok(made) => View::redirect(PATH, format!("Suppressed: {}.", made.address)),
        Err(problem) if problem.is_of_form() => list_page(request, Some(&problem)).await,
        Err(problem) => Err(problem),
    }
}

pub async fn show(request: PageRequest) -> Outcome {
    let path = format!("/v1/suppressions/{}", segment(&request.id));
    let suppression: Suppression = request.get(&path).await?;
    let tenants = TenantNames::read(&request).await;
    let mut facts = vec![
        ("Stops", suppression.stops()),
        ("Reason", html! { code { (visible(&suppression.reason)) } }),
        (
            "Evidence",
            html! { @match &suppression.evidence { Some(text) => code.reply { (foreign(text)) }, None => span.soft { "none" } } (sources(&request, &suppression)) },
        ),
        ("Since", format::time(suppression.created_at)),
        (
            "Until",
            html! { @match suppression.expires_at { Some(at) => (format::time(at)), None => "somebody lifts it" } },
        ),
        ("Id", copied(&suppression.id)),
    ];
    if suppression.provisional {
        facts.insert(5, ("Provisional", html! { "48 hours only: its site reports many addresses as gone that took mail a short time ago" }));
    }
    if request.is_platform() {
        facts.insert(
            0,
            (
                "Mail of",
                match suppression.tenant_id.as_deref() {
                    Some(id) => tenants.link(&request, Some(id)),
                    None => html! { "all tenants" },
                },
            ),
        );
    }
    let body = html! {
        (components::head(Some((&request.href(PATH), "Suppressions")), &suppression.address, &lift_button(&request, &suppression, false)))
        section.panel { div.pad { (components::pairs(&facts)) } }
        p { a href=(request.href(&request.with_query("/ui/messages", &[("to", &suppression.address)]))) { "Messages to this address" } }
    };
    View::page(suppression.address.clone(), body)
}

pub async fn act(request: PageRequest) -> Outcome {
    if request.field("do") != Some("lift") {
        return Err(Problem::no_action());
    }
    let path = format!("/v1/suppressions/{}", segment(&request.id));
    let suppression: Suppression = request.get(&path).await?;
    let _: Value = request.delete(&path).await?;
    View::redirect(PATH, format!("Lifted: {}.", suppression.address))
}
