//! What needs attention: sites that back off, domains that fail, webhooks that the server disabled, limits that are reached.

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::mail::{SignedDuration, Timestamp};
use crate::model::{DisabledReason, Scope};
use crate::ui::components::{self, Column, foreign};
use crate::ui::format;
use crate::ui::request::{Listed, PageRequest, Tenants, segment};

/// Facts of each kind.
const EACH_MAX: &str = "10";
/// How long a limit that was reached is shown.
const LIMITS_SHOWN: SignedDuration = SignedDuration::from_hours(24);

/// What was found.
#[derive(Default)]
pub struct Attention {
    sites: Vec<Site>,
    domains: Vec<Domain>,
    webhooks: Vec<Webhook>,
    limits: Vec<Event>,
}

#[derive(Deserialize)]
struct Site {
    name: String,
    waiting: usize,
    backoff_until: Option<Timestamp>,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Domain {
    id: String,
    name: String,
    tenant_id: Option<String>,
    status_reason: Option<String>,
    failing_since: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Webhook {
    id: String,
    url: String,
    tenant_id: Option<String>,
    disabled_reason: Option<DisabledReason>,
    failing_since: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    tenant_id: Option<String>,
    data: Value,
    created_at: Timestamp,
}

impl Attention {
    /// Without the domains of archived tenants, which are not checked any more. Their webhooks go on.
    pub fn without_archived_domains(mut self, tenants: &Tenants) -> Self {
        self.domains.retain(|domain| !domain.tenant_id.as_deref().is_some_and(|id| tenants.is_archived(id)));
        self
    }
}

/// Asks for everything that this session may see. A part that cannot be read now is left out.
pub async fn find(request: &PageRequest) -> Attention {
    let earliest = (request.now - LIMITS_SHOWN).to_string();
    let each = |path: &str, more: &[(&str, &str)]| {
        let limit = [("limit", EACH_MAX)];
        let fixed: Vec<_> = limit.iter().chain(more).copied().collect();
        request.api_target(path, &["tenant_id"], &fixed)
    };
    let limits = |kind| each("/v1/events", &[("type", kind), ("created_after", &earliest)]);
    let (domains, webhooks, exceeded, approaching) = (
        each("/v1/domains", &[("status", "failing")]),
        each("/v1/webhooks", &[("status", "disabled")]),
        limits("send_limit.exceeded"),
        limits("send_limit.approaching"),
    );
    let (sites, domains, mut webhooks, exceeded, approaching) = futures_util::join!(
        read::<Site>(request, request.is_platform(), "/v1/queue/sites"),
        read(request, request.may(Scope::DomainsRead), &domains),
        read::<Webhook>(request, request.may(Scope::WebhooksRead), &webhooks),
        read(request, request.may(Scope::EmailsRead), &exceeded),
        read(request, request.may(Scope::EmailsRead), &approaching),
    );
    webhooks.retain(|webhook| webhook.disabled_reason != Some(DisabledReason::Manual));
    let sites = sites.into_iter().filter(|site| site.backoff_until.is_some()).take(10).collect();
    let limits = exceeded.into_iter().chain(approaching).take(10).collect();
    Attention { sites, domains, webhooks, limits }
}

async fn read<T: serde::de::DeserializeOwned>(request: &PageRequest, may: bool, target: &str) -> Vec<T> {
    if !may {
        return Vec::new();
    }
    let found = request.get::<Listed<T>>(target).await;
    found.map(|list| list.data).unwrap_or_default()
}

/// The panel.
pub fn panel(request: &PageRequest, found: &Attention, tenants: &Tenants) -> Markup {
    let columns = [Column("What", "lead", None), Column("Since", "time", None), Column("Fact", "", None)];
    let of_sites = found.sites.iter().map(|site| of_site(request, site));
    let of_domains = found.domains.iter().map(|domain| of_domain(request, domain));
    let of_webhooks = found.webhooks.iter().map(|webhook| of_webhook(request, webhook, tenants));
    let of_limits = found.limits.iter().map(|event| of_limit(request, event, tenants));
    let rows: Vec<_> = of_sites.chain(of_domains).chain(of_webhooks).chain(of_limits).collect();
    html! {
        section.panel data-part="attention" {
            header { h2 { "Needs attention" } }
            @if rows.is_empty() { div.pad { p.soft { "Nothing needs attention." } } } @else { (components::table(&columns, &rows)) }
        }
    }
}

fn since(request: &PageRequest, at: Option<Timestamp>) -> Markup {
    html! { @if let Some(at) = at { (format::moment(at, request.now)) } }
}

fn of_site(request: &PageRequest, site: &Site) -> Vec<Markup> {
    let until = site.backoff_until;
    vec![
        html! { a href=(request.href("/ui/queue")) { "Site " (foreign(&site.name)) " backs off" } },
        html! {},
        html! {
            @if let Some(until) = until { "until " (format::upcoming(until, request.now)) "; " }
            (site.waiting) " waiting"
            @if let Some(reason) = &site.reason { span.sub.mono { (foreign(reason)) } }
        },
    ]
}

fn of_domain(request: &PageRequest, domain: &Domain) -> Vec<Markup> {
    vec![
        html! { a href=(request.href(&format!("/ui/domains/{}", segment(&domain.id)))) { "Domain " (foreign(&domain.name)) " fails" } },
        since(request, domain.failing_since),
        html! { (foreign(domain.status_reason.as_deref().unwrap_or("its records are not as they were"))) },
    ]
}

fn of_webhook(request: &PageRequest, webhook: &Webhook, tenants: &Tenants) -> Vec<Markup> {
    let owner = webhook.tenant_id.as_deref().map_or("the platform", |id| tenants.slug(id));
    vec![
        html! { a href=(request.href(&format!("/ui/webhooks/{}", segment(&webhook.id)))) { "Webhook of " (foreign(owner)) " is disabled" } },
        since(request, webhook.failing_since),
        html! {
            (foreign(&webhook.url))
            @if let Some(reason) = webhook.disabled_reason { span.sub { (reason.as_str()) } }
        },
    ]
}

fn of_limit(request: &PageRequest, event: &Event, tenants: &Tenants) -> Vec<Markup> {
    let share = if event.kind == "send_limit.exceeded" { "100\u{a0}%" } else { "80\u{a0}%" };
    let id = event.tenant_id.as_deref().unwrap_or_default();
    let field = |name: &str| {
        event.data.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    vec![
        html! { a href=(request.href(&format!("/ui/tenants/{}", segment(id)))) { "Tenant " (foreign(tenants.slug(id))) " at " (share) } },
        since(request, Some(event.created_at)),
        html! {
            @if let Some(used) = field("used") { (foreign(&used)) }
            @if let Some(limit) = field("limit") { " of " (foreign(&limit)) }
            @if let Some(period) = field("period") { " in this " (foreign(&period)) }
        },
    ]
}
