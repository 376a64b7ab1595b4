//! The parts of a message: its text, header fields, source, attachments, and who it says that it is from.

use maud::{Markup, html};
use serde::Deserialize;

use crate::mail::Timestamp;
use crate::ui::components::{self, Column, foreign, visible};
use crate::ui::format;
use crate::ui::request::{PageRequest, segment};
use crate::ui::view::{Outcome, Problem, View};

use super::{page_of, preview};

/// Octets of the text on the page.
const TEXT_OCTETS_MAX: usize = 48 * 1024;
/// Octets of the source on the page.
const SOURCE_OCTETS_MAX: usize = 48 * 1024;

/// `GET /v1/emails/{id}/parts`.
#[derive(Deserialize)]
pub struct Parts {
    pub octets: u64,
    headers: Vec<Field>,
    pub text: Option<String>,
    pub html: Option<String>,
    pub truncated: bool,
    pub parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Field {
    name: String,
    value: String,
}

/// A part.
#[derive(Deserialize)]
pub struct Part {
    pub part: u32,
    #[serde(rename = "type")]
    pub media_type: String,
    pub name: Option<String>,
    pub content_id: Option<String>,
    pub disposition: Option<String>,
    pub octets: u64,
}

/// A tab of the message.
pub async fn show(request: &PageRequest, tab: &str, path: &str) -> Result<Markup, Problem> {
    if tab == "authentication" {
        return Ok(authentication(&request.get(&format!("{path}/authentication")).await?));
    }
    if tab == "raw" {
        return source(request, path).await;
    }
    let parts: Parts = request.get(&format!("{path}/parts")).await?;
    let content = match tab {
        "preview" => preview::tab(request, &parts),
        "text" => text(&parts),
        "headers" => headers(&parts),
        "attachments" => attachments(request, &parts),
        _ => return Err(Problem::not_found()),
    };
    Ok(html! {
        @if parts.truncated || parts.text.as_ref().is_some_and(|text| tab == "text" && text.len() > TEXT_OCTETS_MAX) { div.note.warn { div { "This message is long: only its beginning is shown. The raw message has all of it." } } }
        (content)
    })
}

fn text(parts: &Parts) -> Markup {
    let shown = parts
        .text
        .as_deref()
        .map(|text| text.get(..text.floor_char_boundary(TEXT_OCTETS_MAX)).unwrap_or(text));
    match shown {
        Some(text) => {
            html! { section.panel.pad { div.block { pre.wrap tabindex="0" { (visible(&text.replace("\r\n", "\n"))) } button.button.small.js-only type="button" data-copy { "Copy" } } } }
        }
        None => html! { section.panel { (components::empty("This message has no text.", None)) } },
    }
}

fn headers(parts: &Parts) -> Markup {
    html! {
        section.panel {
            div.scroll tabindex="0" role="region" aria-label="Header fields" {
                table {
                    thead { tr { th scope="col" { "Field" } th scope="col" { "Value" } } }
                    tbody { @for field in &parts.headers { tr { td { code { (visible(&field.name)) } } td { code { (foreign(&field.value)) } } } } }
                }
            }
        }
    }
}

fn attachments(request: &PageRequest, parts: &Parts) -> Markup {
    let columns = [
        Column("Name", "lead", None),
        Column("Type", "", Some("Type")),
        Column("Place", "", Some("Place")),
        Column("Size", "num", Some("Size")),
        Column("", "acts", None),
    ];
    let row = |part: &Part| {
        let href = request.href(&format!("{}/parts/{}", page_of(request), part.part));
        let name = part.name.clone().unwrap_or_else(|| format!("part {}", part.part));
        vec![
            html! { span { (foreign(&name)) } },
            html! { code { (visible(&part.media_type)) } },
            html! { (visible(part.disposition.as_deref().unwrap_or("inline"))) },
            html! { (format::octets(part.octets)) },
            html! { a.button.small href=(href) { "Download" } },
        ]
    };
    let rows: Vec<_> = parts.parts.iter().map(row).collect();
    html! {
        section.panel {
            @if rows.is_empty() { (components::empty("This message has no parts.", None)) }
            @else { (components::table(&columns, &rows)) }
            footer.soft.small { "The whole message has " (format::octets(parts.octets)) "." }
        }
    }
}

/// The beginning of the source, and a link to the whole.
async fn source(request: &PageRequest, path: &str) -> Result<Markup, Problem> {
    let response = request.open(&format!("{path}/raw"), None).await;
    if !response.status().is_success() {
        return Err(Problem::read(response).await);
    }
    let mut octets = Vec::new();
    let mut body = response.into_body().into_data_stream();
    while let Some(Ok(piece)) = futures_util::StreamExt::next(&mut body).await {
        octets.extend_from_slice(&piece);
        if octets.len() > SOURCE_OCTETS_MAX {
            break;
        }
    }
    let is_cut = octets.len() > SOURCE_OCTETS_MAX;
    octets.truncate(SOURCE_OCTETS_MAX);
    let text = String::from_utf8_lossy(&octets).replace("\r\n", "\n");
    Ok(html! {
        section.panel.pad.stack {
            div.row {
                a.button href=(request.href(&format!("{}/raw", page_of(request)))) { "Download the message" }
                @if is_cut { span.soft { "The first " (format::octets(SOURCE_OCTETS_MAX as u64)) " are shown." } }
            }
            (components::block(&text))
        }
    })
}

/// `GET /v1/emails/{id}/authentication`.
#[derive(Deserialize)]
struct Authentication {
    from_domain: Option<String>,
    dkim: Vec<Signature>,
    spf: Option<Spf>,
    dmarc: Dmarc,
    checked_at: Timestamp,
}

#[derive(Deserialize)]
struct Signature {
    domain: Option<String>,
    selector: Option<String>,
    algorithm: Option<String>,
    result: String,
    aligned: bool,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Spf {
    domain: String,
    address: String,
    result: String,
    aligned: bool,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Dmarc {
    result: String,
    policy: Option<String>,
    by: Option<String>,
    reason: Option<String>,
}

fn authentication(found: &Authentication) -> Markup {
    let columns = [
        Column("Check", "lead", None),
        Column("Result", "fit state", None),
        Column("Of", "", Some("Of")),
        Column("Aligned", "", Some("Aligned")),
        Column("Why", "", Some("Why")),
    ];
    let aligned = |is_aligned| html! { (if is_aligned { "with From" } else { "no" }) };
    let why = |reason: &Option<String>| html! { (foreign(reason.as_deref().unwrap_or_default())) };
    let mut rows: Vec<Vec<Markup>> = found
        .dkim
        .iter()
        .map(|one| {
            let algorithm = one.algorithm.as_deref().unwrap_or_default();
            let tag = |value: &Option<String>| value.clone().unwrap_or_else(|| "?".into());
            let of = html! { code { "d=" (visible(&tag(&one.domain))) " s=" (visible(&tag(&one.selector))) " " (visible(algorithm)) } };
            vec![html! { "DKIM" }, components::status(&one.result), of, aligned(one.aligned), why(&one.reason)]
        })
        .collect();
    if let Some(spf) = &found.spf {
        let of = html! { code { (visible(&spf.domain)) } " from " (visible(&spf.address)) };
        rows.push(vec![
            html! { "SPF" },
            components::status(&spf.result),
            of,
            aligned(spf.aligned),
            why(&spf.reason),
        ]);
    }
    let policy = found.dmarc.policy.as_deref().map(|policy| format!("p={policy}")).unwrap_or_default();
    let by = found.dmarc.by.as_deref().map(|by| format!("by {by}")).unwrap_or_default();
    rows.push(vec![
        html! { "DMARC" },
        components::status(&found.dmarc.result),
        html! { code { (visible(found.from_domain.as_deref().unwrap_or_default())) } " " (visible(&policy)) },
        html! { (visible(&by)) },
        why(&found.dmarc.reason),
    ]);
    html! {
        section.panel {
            (components::table(&columns, &rows))
            footer.soft.small {
                "Asked of DNS " (format::time(found.checked_at))
                @if found.spf.is_none() { ". SPF is known once the message has left from an address." }
            }
        }
    }
}

/// The message, to download.
pub async fn raw(request: PageRequest) -> Outcome {
    let target = format!("/v1/emails/{}/raw", segment(&request.id));
    Ok(View::Passed(request.open(&target, None).await))
}

/// A part, to download.
pub async fn part(request: PageRequest) -> Outcome {
    let target = format!("/v1/emails/{}/parts/{}", segment(&request.id), segment(&request.part));
    Ok(View::Passed(request.open(&target, None).await))
}
