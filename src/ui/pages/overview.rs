//! The overview: how much mail, how it goes, why some of it waits, and what needs attention. Each part may fail alone.

mod attention;
mod figures;

use std::time::Duration;

use maud::{Markup, html};
use serde::Deserialize;

use super::messages;
use crate::mail::{SignedDuration, Timestamp};
use crate::model::{Environment, FindingStatus, Scope};
use crate::ui::components::{self, Column, Tab, foreign, visible};
use crate::ui::findings::Diagnosis;
use crate::ui::format;
use crate::ui::request::{Listed, PageRequest, Tenants};
use crate::ui::view::{Outcome, Problem, View};

const PAGE: &str = "/ui/";
/// How long the page waits for checks that run now.
const DOCTOR_PATIENCE: Duration = Duration::from_secs(1);

/// The period of the numbers and charts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Period {
    Hour,
    Day,
    Month,
}

impl Period {
    const ALL: [Self; 3] = [Self::Hour, Self::Day, Self::Month];

    fn of(request: &PageRequest) -> Self {
        let chosen = request.parameter("period");
        Self::ALL.into_iter().find(|period| Some(period.name()) == chosen).unwrap_or(Self::Day)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Hour => "1 hour",
            Self::Day => "24 hours",
            Self::Month => "30 days",
        }
    }

    /// From when on the intervals count: 60 minutes, 24 hours or 30 days with the present one.
    fn from(self, now: Timestamp) -> Timestamp {
        let seconds = match self {
            Self::Hour => 59 * 60,
            Self::Day => 23 * 3600,
            Self::Month => 29 * 86_400,
        };
        now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(now)
    }

    /// The interval of the API.
    fn interval(self) -> &'static str {
        match self {
            Self::Hour => "minute",
            Self::Day => "hour",
            Self::Month => "day",
        }
    }
}

/// `GET /v1/stats`.
#[derive(Deserialize)]
struct Stats {
    since: Option<Timestamp>,
    totals: Counts,
    data: Vec<Interval>,
}

#[derive(Deserialize)]
struct Interval {
    at: Timestamp,
    #[serde(flatten)]
    counts: Counts,
}

/// Counts of recipients.
#[derive(Deserialize, Clone, Copy)]
struct Counts {
    accepted: u64,
    delivered: u64,
    deferred: u64,
    bounced: u64,
    expired: u64,
    suppressed: u64,
    rejected: u64,
    complained: u64,
}

/// `GET /v1/queue`.
#[derive(Deserialize)]
struct Queue {
    open: u64,
    due: u64,
    deferred: u64,
    group_count: u64,
    data: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    oldest_at: Timestamp,
}

/// A reason of `GET /v1/stats/reasons`.
#[derive(Deserialize)]
struct Reason {
    site: String,
    outcome: String,
    bounce_class: Option<String>,
    count: u64,
    last_reply: String,
}

type Part<T> = Result<T, Problem>;

pub async fn show(request: PageRequest) -> Outcome {
    let period = Period::of(&request);
    let from = period.from(request.now).to_string();
    let interval = [("interval", period.interval()), ("from", from.as_str())];
    let (stats, reasons) = (
        request.api_target("/v1/stats", &["tenant_id", "environment"], &interval),
        request.api_target("/v1/stats/reasons", &["tenant_id"], &[("window", "1h")]),
    );
    let stats = request.get::<Stats>(&stats);
    let reasons = request.get::<Listed<Reason>>(&reasons);
    let (tenants, stats, reasons, queue, doctor, attention) = futures_util::join!(
        request.tenants(),
        stats,
        reasons,
        queue(&request),
        doctor(&request),
        attention::find(&request),
    );
    let attention = attention.without_archived_domains(&tenants);
    // A key that may read no statistics has the other pages.
    if let Err(problem) = &stats
        && problem.status == hyper::StatusCode::UNAUTHORIZED
    {
        return Err(problem.clone());
    }
    let line = html! { (request.ui.hostname) ", as of " (format::time(request.now)) };
    let body = html! {
        header.head { div { h1 { "Overview" } p { (line) } } div.row { (controls(&request, period, &tenants)) } }
        (worst(&request, doctor.as_ref()))
        (numbers_and_charts(&request, period, &stats, queue.as_ref()))
        @if request.may(Scope::EmailsRead) { (why(&request, &reasons)) }
        div class=(if request.is_platform() { "split wide" } else { "stack" }) {
            (attention::panel(&request, &attention, &tenants))
            @if request.is_platform() { (server(&request, doctor.as_ref())) }
        }
    };
    View::page("Overview", body)
}

async fn queue(request: &PageRequest) -> Option<Queue> {
    if !request.is_platform() {
        return None;
    }
    request.get(&request.api_target("/v1/queue", &["tenant_id"], &[("limit", "100")])).await.ok()
}

/// The last diagnosis; `None` if the checks run for the first time now.
async fn doctor(request: &PageRequest) -> Option<Diagnosis> {
    if !request.is_platform() {
        return None;
    }
    let asked = tokio::time::timeout(DOCTOR_PATIENCE, request.get("/v1/doctor"));
    asked.await.ok()?.ok()
}

fn controls(request: &PageRequest, period: Period, tenants: &Tenants) -> Markup {
    let chosen = request.parameter("tenant_id").unwrap_or_default();
    let environment = request.parameter("environment").unwrap_or_default();
    let tab = |one: Period| {
        let query = [("period", one.name()), ("tenant_id", chosen), ("environment", environment)];
        let href = request.href(&request.with_query(PAGE, &query));
        Tab { href, name: one.words(), count: None, is_current: one == period }
    };
    html! {
        (components::choices("Period", &Period::ALL.map(tab)))
        @if request.me().environment == Environment::Live {
            form.row method="get" action=(request.href(PAGE)) {
                input type="hidden" name="period" value=(period.name());
                @if !tenants.all.is_empty() {
                    label.sr for="f-tenant" { "Tenant" }
                    select id="f-tenant" name="tenant_id" {
                        option value="" { "All tenants" }
                        @for (id, slug) in &tenants.all { option value=(id) selected[id == chosen] { (visible(slug)) } }
                    }
                }
                label.sr for="f-environment" { "Environment" }
                select id="f-environment" name="environment" {
                    option value="" { "live mail" }
                    option value="test" selected[environment == "test"] { "test mail" }
                }
                button.button { "Show" }
            }
        }
        div.row.js-only {
            label.sr for="every" { "Refresh" }
            select id="every" data-every {
                option value="0" { "no refresh" }
                option value="2" { "every 2 s" }
                option value="5" selected { "every 5 s" }
                option value="30" { "every 30 s" }
            }
        }
    }
}

/// The first error of the doctor.
fn worst(request: &PageRequest, doctor: Option<&Diagnosis>) -> Markup {
    let error = doctor.and_then(|found| found.findings.iter().find(|one| one.status == FindingStatus::Error));
    html! {
        @if let Some(error) = error {
            div.note.bad {
                div { strong { (visible(&error.id)) } ": " (foreign(&error.text)) }
                a href=(request.href("/ui/doctor")) { "What to do" }
            }
        }
    }
}

fn numbers_and_charts(
    request: &PageRequest,
    period: Period,
    stats: &Part<Stats>,
    queue: Option<&Queue>,
) -> Markup {
    match stats {
        Ok(stats)
            if is_empty(&stats.totals)
                && period != Period::Hour
                && queue.is_none_or(|queue| queue.open == 0) =>
        {
            html! {
                section.panel data-part="numbers" { div.empty { (nothing(request, period)) } }
                section.panel.pad data-part="charts" { (figures::volume(period, stats)) }
            }
        }
        Ok(stats) => html! {
            section data-part="numbers" aria-label="Numbers" { (figures::numbers(request, period, stats, queue)) }
            section.panel.pad data-part="charts" { (figures::volume(period, stats)) }
            div.split data-part="rates" {
                section.panel.pad { (figures::bounces(period, stats)) }
                section.panel.pad { (figures::complaints(period, stats)) }
            }
        },
        Err(problem) => html! { section data-part="numbers" { (components::problem(problem)) } },
    }
}

/// No mail in the period.
fn nothing(request: &PageRequest, period: Period) -> Markup {
    let is_test =
        request.parameter("environment") == Some("test") || request.me().environment == Environment::Test;
    html! {
        h2 { "No " (if is_test { "test" } else { "live" }) " mail in the last " (period.words()) }
        @if is_test {
            p { "Mail of a test key stays on this server; no recipient gets it." }
        } @else {
            p { "Mail of test keys is in the " a href=(request.href("/ui/sandbox")) { "sandbox inbox" } "." }
        }
        // An archived tenant sends nothing.
        @if !request.me().is_archived() {
            p { (if is_test { "Send a test message:" } else { "Live mail is sent with a live key:" }) }
            (components::block(&request.ui.sample(if is_test { Environment::Test } else { Environment::Live })))
        }
    }
}

fn is_empty(counts: &Counts) -> bool {
    counts.accepted + counts.delivered + counts.deferred + counts.bounced + counts.expired + counts.rejected
        == 0
}

/// Why mail waits or came back, with the way to it.
fn why(request: &PageRequest, reasons: &Part<Listed<Reason>>) -> Markup {
    let columns = [
        Column("Class", "", None),
        Column("Site", "lead", None),
        Column("Last reply", "grow most", None),
        Column("Outcome", "fit state", None),
        Column("Deliveries", "num", Some("Deliveries")),
    ];
    let row = |reason: &Reason| {
        let tenant = request.parameter("tenant_id").unwrap_or_default();
        let filter = [("delivery_status", reason.outcome.as_str()), ("tenant_id", tenant)];
        let href = request.href(&request.with_query(messages::PAGE, &filter));
        vec![
            html! { (visible(reason.bounce_class.as_deref().unwrap_or("other"))) },
            html! { a href=(href) { (foreign(&reason.site)) } },
            html! { code title=(components::plain(&reason.last_reply)) { (foreign(&reason.last_reply)) } },
            components::status(&reason.outcome),
            html! { (format::count(reason.count)) },
        ]
    };
    html! {
        section.panel data-part="reasons" {
            header { h2 { "Why mail was deferred or bounced" } span.soft.small { "last hour" } }
            @match reasons {
                Err(problem) => div.pad { (components::problem(problem)) },
                Ok(found) if found.data.is_empty() => div.pad { p.soft { "No mail was deferred or bounced in the last hour." } },
                Ok(found) => (components::table(&columns, &found.data.iter().take(10).map(row).collect::<Vec<_>>())),
            }
            @if request.is_platform() { a.more href=(request.href("/ui/queue")) { "The whole queue" } }
        }
    }
}

fn server(request: &PageRequest, doctor: Option<&Diagnosis>) -> Markup {
    let count =
        |status| doctor.map_or(0, |found| found.findings.iter().filter(|one| one.status == status).count());
    let (errors, warnings) = (count(FindingStatus::Error) as u64, count(FindingStatus::Warning) as u64);
    let text = |id: &str| {
        let findings = doctor.map(|found| found.findings.as_slice()).unwrap_or_default();
        findings.iter().find(|one| one.id == id && one.status != FindingStatus::Skipped)
    };
    let class = |status| match status {
        FindingStatus::Error => Some("is-bad"),
        FindingStatus::Warning => Some("is-warn"),
        _ => None,
    };
    html! {
        section.panel data-part="server" {
            header { h2 { "Server" } }
            div.pad {
                dl.kv {
                    dt { "Doctor" }
                    dd {
                        a href=(request.href("/ui/doctor")) {
                            @if doctor.is_none() { "the checks run now" }
                            @else if errors + warnings == 0 { "all is well" }
                            @if errors > 0 { span.is-bad { (format::counted(errors, "error", "errors")) } }
                            @if errors > 0 && warnings > 0 { ", " }
                            @if warnings > 0 { (format::counted(warnings, "warning", "warnings")) }
                        }
                        @if let Some(found) = doctor { ", " (format::relative(found.at, request.now)) }
                    }
                    @for (name, id) in [("Certificate", "tls.expires"), ("Disk", "disk.free"), ("Oldest mail", "queue.age")] {
                        @if let Some(finding) = text(id) {
                            dt { (name) } dd class=[class(finding.status)] { (foreign(&finding.text)) }
                        }
                    }
                    dt { "Version" } dd { (env!("CARGO_PKG_VERSION")) }
                }
            }
        }
    }
}
