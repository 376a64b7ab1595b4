//! Refused submissions, found by the reference that their senders got.

use maud::{Markup, html};
use serde::Deserialize;

use crate::mail::Timestamp;
use crate::ui::components::{self, Column, Filters, copied, foreign, visible};
use crate::ui::format;
use crate::ui::list::{self, Listed};
use crate::ui::request::{PageRequest, segment};
use crate::ui::tenant_names::TenantNames;
use crate::ui::view::{Outcome, View};

const PATH: &str = "/ui/rejections";

#[derive(Deserialize)]
struct Rejection {
    id: String,
    tenant_id: String,
    key_id: Option<String>,
    environment: String,
    stage: String,
    code: String,
    message: String,
    client_address: Option<String>,
    created_at: Timestamp,
}

pub async fn list(request: PageRequest) -> Outcome {
    if let Some(reference) = request.parameter("reference") {
        return Ok(View::Redirect { to: format!("{PATH}/{}", segment(reference)), note: None });
    }
    let tenants = TenantNames::read(&request).await;
    let rejections =
        Listed::<Rejection>::read(&request, "/v1/rejections", &["tenant_id", "environment"]).await?;
    let filters = Filters {
        page: PATH,
        fields: html! {
            (components::search(&request, "Reference", "reference", "req_…"))
            (tenants.filter(&request))
            (list::environment(&request))
        },
        more: Markup::default(),
        more_names: &[],
    };
    let body = html! {
        (components::head(None, "Rejections", &Markup::default()))
        (filters.show(&request))
        @if rejections.data.is_empty() {
            (list::empty(&request, PATH, &html! {
                h2 { "No refusal" }
                p { "A submission that is refused is listed here, with the reference in its reply." }
                (components::block("pillarbox rejection list --since 24h"))
            }))
        } @else {
            section.panel data-part=[request.parameter("after").is_none().then_some("list")] {
                (table(&request, &rejections.data, &tenants))
                (rejections.foot(&request, ("rejection", "rejections")))
            }
        }
    };
    View::page("Rejections", body)
}

fn table(request: &PageRequest, rejections: &[Rejection], tenants: &TenantNames) -> Markup {
    let mut columns = vec![
        Column("Time", "time", None),
        Column("Code", "lead", None),
        Column("Why", "", Some("Why")),
        Column("Stage", "fit", Some("Stage")),
        Column("Reference", "", Some("Reference")),
    ];
    if request.is_platform() {
        columns.insert(2, Column("Tenant", "", Some("Tenant")));
    }
    let row = |rejection: &Rejection| {
        let mut cells = vec![
            format::moment(rejection.created_at, request.now),
            html! { a href=(request.href(&format!("{PATH}/{}", segment(&rejection.id)))) { code { (visible(&rejection.code)) } } },
            foreign(&rejection.message),
            html! { (visible(&rejection.stage)) @if rejection.environment == "test" { ", test" } },
            html! { code { (visible(&rejection.id)) } },
        ];
        if request.is_platform() {
            cells.insert(2, tenants.link(request, Some(&rejection.tenant_id)));
        }
        cells
    };
    components::table(&columns, &rejections.iter().map(row).collect::<Vec<_>>())
}

pub async fn show(request: PageRequest) -> Outcome {
    let rejection: Rejection = request.get(&format!("/v1/rejections/{}", segment(&request.id))).await?;
    let tenants = TenantNames::read(&request).await;
    let mut facts = vec![
        ("Why", foreign(&rejection.message)),
        (
            "What to do",
            html! { a href=(request.href(&format!("/docs/errors#{}", rejection.code))) { "the code in the documentation" } },
        ),
        ("Stage", html! { (visible(&rejection.stage)) }),
        ("Environment", html! { (visible(&rejection.environment)) }),
        ("Reference", copied(&rejection.id)),
    ];
    if let Some(key) = &rejection.key_id {
        facts.push(("Key", html! { a href=(request.href(&format!("/ui/keys/{}", segment(key)))) { code { (visible(key)) } } }));
    }
    if let Some(client) = &rejection.client_address {
        facts.push(("Client", html! { code { (visible(client)) } }));
    }
    if request.is_platform() {
        facts.push(("Tenant", tenants.link(&request, Some(&rejection.tenant_id))));
    }
    let line = html! { "refused " (format::time(rejection.created_at)) };
    let body = html! {
        (components::head_with((&request.href(PATH), "Rejections"), &rejection.code, &line, &Markup::default()))
        section.panel { div.pad { (components::pairs(&facts)) } }
    };
    View::page(rejection.code.clone(), body)
}
