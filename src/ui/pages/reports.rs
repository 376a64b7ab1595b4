//! What other servers sent back about messages that they had accepted.

use maud::{Markup, html};
use serde::Deserialize;

use crate::mail::Timestamp;
use crate::model::{ReportEffect, ReportKind};
use crate::ui::components::{self, Column, Filters, copied, foreign, visible};
use crate::ui::format;
use crate::ui::list::{self, Listed};
use crate::ui::request::{PageRequest, segment};
use crate::ui::tenant_names::TenantNames;
use crate::ui::view::{Outcome, View};

const PATH: &str = "/ui/reports";

#[derive(Deserialize)]
struct Report {
    id: String,
    tenant_id: Option<String>,
    message_id: Option<String>,
    kind: String,
    effect: String,
    action: Option<String>,
    status: Option<String>,
    bounce_class: Option<String>,
    feedback_type: Option<String>,
    recipient: Option<String>,
    reply: Option<String>,
    reporter: Reporter,
    rule: String,
    times: u64,
    has_raw: bool,
    created_at: Timestamp,
    last_received_at: Timestamp,
}

#[derive(Deserialize)]
struct Reporter {
    ip: Option<String>,
    helo: Option<String>,
    dkim: Option<String>,
    mta: Option<String>,
    sender: Option<String>,
}

impl Reporter {
    fn name(&self) -> Option<&str> {
        self.mta.as_deref().or(self.dkim.as_deref()).or(self.helo.as_deref()).or(self.ip.as_deref())
    }
}

impl Report {
    /// What it says, in one line.
    fn says(&self) -> Option<&str> {
        self.reply
            .as_deref()
            .or(self.feedback_type.as_deref())
            .or(self.status.as_deref())
            .or(self.action.as_deref())
    }

    fn title(&self) -> String {
        self.kind.replace('_', " ")
    }
}

pub async fn list(request: PageRequest) -> Outcome {
    let tenants = TenantNames::read(&request).await;
    let names = ["tenant_id", "environment", "kind", "effect", "message_id"];
    let reports = Listed::<Report>::read(&request, "/v1/reports", &names).await?;
    let kinds: Vec<_> = ReportKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let effects: Vec<_> = ReportEffect::ALL.iter().map(|effect| effect.as_str()).collect();
    let filters = Filters {
        page: PATH,
        fields: html! {
            (list::choice(&request, "Kind", "kind", &kinds))
            (list::choice(&request, "What followed", "effect", &effects))
            (components::search(&request, "Message", "message_id", "msg_…"))
            (tenants.filter(&request))
            (list::environment(&request))
        },
        more: Markup::default(),
        more_names: &[],
    };
    let body = html! {
        (components::head(None, "Reports", &Markup::default()))
        (filters.show(&request))
        @if reports.data.is_empty() {
            (list::empty(&request, PATH, &html! {
                h2 { "Nothing came back" }
                p { "Bounces, complaints and automatic replies that other servers send after they accepted a message are listed here." }
                (components::block("pillarbox report list --since 24h"))
            }))
        } @else {
            section.panel data-part=[request.parameter("after").is_none().then_some("list")] {
                (table(&request, &reports.data, &tenants))
                (reports.foot(&request, ("report", "reports")))
            }
        }
    };
    View::page("Reports", body)
}

fn table(request: &PageRequest, reports: &[Report], tenants: &TenantNames) -> Markup {
    let mut columns = vec![
        Column("Time", "time", None),
        Column("Kind", "lead", None),
        Column("Of", "", Some("Of")),
        Column("Says", "grow", Some("Says")),
        Column("What followed", "fit", Some("Followed")),
        Column("Times", "num", Some("Times")),
    ];
    if request.is_platform() {
        columns.insert(3, Column("Tenant", "", Some("Tenant")));
    }
    let row = |report: &Report| {
        let mut cells = vec![
            format::moment(report.last_received_at, request.now),
            html! { a href=(request.href(&format!("{PATH}/{}", segment(&report.id)))) { (visible(&report.title())) } },
            html! { @if let Some(recipient) = &report.recipient { (foreign(recipient)) } },
            html! {
                @if let Some(says) = report.says() { code title=(says) { (foreign(says)) } }
                @if let Some(name) = report.reporter.name() { span.sub { (foreign(name)) } }
            },
            effect(&report.effect),
            html! { (report.times) },
        ];
        if request.is_platform() {
            cells.insert(3, html! {
                @match report.tenant_id.as_deref() { Some(id) => (tenants.link(request, Some(id))), None => span.soft { "nobody's" } }
            });
        }
        cells
    };
    components::table(&columns, &reports.iter().map(row).collect::<Vec<_>>())
}

fn effect(effect: &str) -> Markup {
    components::status(effect)
}

pub async fn show(request: PageRequest) -> Outcome {
    let path = format!("/v1/reports/{}", segment(&request.id));
    if request.parameter("format") == Some("raw") {
        return Ok(View::Passed(request.open(&format!("{path}/raw"), None).await));
    }
    let report: Report = request.get(&path).await?;
    let tenants = TenantNames::read(&request).await;
    let raw =
        request.href(&request.with_query(&format!("{PATH}/{}", segment(&report.id)), &[("format", "raw")]));
    let actions = html! { @if report.has_raw { a.button href=(raw) { "Download its text" } } };
    let line = html! { (effect(&report.effect)) " " (format::time(report.last_received_at)) };
    let text = |value: &Option<String>| value.as_deref().map(foreign);
    let mut facts: Vec<(&str, Markup)> = Vec::new();
    let mut add = |name, value: Option<Markup>| facts.extend(value.map(|value| (name, value)));
    add("Message", report.message_id.as_deref().map(|id| html! { a href=(request.href(&format!("/ui/messages/{}", segment(id)))) { code { (visible(id)) } } }));
    add("Recipient", text(&report.recipient));
    add("Reply", report.reply.as_deref().map(|reply| html! { code.reply { (foreign(reply)) } }));
    add("Action", text(&report.action));
    add("Status", text(&report.status));
    add("Class", text(&report.bounce_class));
    add("Complaint", text(&report.feedback_type));
    add("Rule that decided", Some(html! { code { (visible(&report.rule)) } }));
    add("From server", text(&report.reporter.mta));
    add("Signed by", text(&report.reporter.dkim));
    add("EHLO name", text(&report.reporter.helo));
    add("Address", text(&report.reporter.ip));
    add("Reverse path", text(&report.reporter.sender));
    add("Times", Some(html! { (report.times) ", first " (format::time(report.created_at)) }));
    add("Id", Some(copied(&report.id)));
    if request.is_platform() {
        add("Tenant", report.tenant_id.as_deref().map(|id| tenants.link(&request, Some(id))));
    }
    let body = html! {
        (components::head_with((&request.href(PATH), "Reports"), &report.title(), &line, &actions))
        section.panel { div.pad { (components::pairs(&facts)) } }
    };
    View::page(report.title(), body)
}
