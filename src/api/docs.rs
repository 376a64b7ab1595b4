//! The guide: the pages of `src/docs`. They are compiled in, rendered to HTML once, and served without a key. The API
//! reference at `/docs` ([`super::openapi`]) lists them.

use std::fmt::Write;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use minijinja::value::Value as Html;
use minijinja::{Environment, HtmlEscape, context};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd, html};
use serde::Serialize;

use super::content::{CSS, HTML, StaticContent};
use super::{ApiError, ApiResponse, Result};
use crate::model::RefusalCode;

/// A page of the guide.
#[derive(Debug, Serialize)]
pub struct Page {
    /// The last segment of its path.
    name: &'static str,
    title: &'static str,
    summary: &'static str,
    #[serde(skip)]
    markdown: &'static str,
}

macro_rules! pages {
    ($($name:literal: $title:literal, $summary:literal;)*) => {
        &[$(Page {
            name: $name,
            title: $title,
            summary: $summary,
            markdown: include_str!(concat!("../docs/", $name, ".md")),
        },)*]
    };
}

const PAGES: &[Page] = pages! {
    "sending": "Sending mail", "over SMTP and HTTP, templates, the sandbox";
    "api": "The API", "paths, lists, changes, repeated requests";
    "sdk": "Clients in other languages", "types for TypeScript, clients for Python and Go, made from the OpenAPI document";
    "errors": "Errors", "every code with its SMTP reply, HTTP status and remedy";
    "events": "Events and webhooks", "event types, the live stream, signed webhooks";
    "bounces": "Bounces, complaints and unsubscribes", "classes of failure, suppressions, reports of other servers, delivery reports";
    "pages": "Pages", "signing in, links for customers, what the pages protect";
    "usage": "Usage and limits", "usage counts, rate limits, send limits";
    "dns": "DNS", "records of the server and of sending domains, DKIM rotation";
    "doctor": "The doctor", "checks of the server and of domains, each with what to do";
    "acme": "Certificates by ACME", "how the server gets and renews its certificate itself";
    "audit": "The audit log", "what people changed: who, before and after";
    "delivery": "Delivery", "TLS, routes and smart hosts, limits of receiving sites, retries";
    "config": "Configuration", "every option with its default";
    "cli": "The command line", "commands, exit status, examples";
    "operations": "Operations", "installation, certificates, the queue, stop and restart";
    "upgrade": "Upgrades", "a new version or configuration without an outage";
    "backup": "Backup and restore", "backups beside the server, checks, restored deliveries";
    "durability": "What happens to accepted mail", "when a message is on disk, how that is proved, and what is not";
    "postgresql": "PostgreSQL", "the database on a server of its own: settings, backups, moving there and back";
    "cluster": "Several nodes", "one PostgreSQL, any number of nodes: how to begin, what fails how, what to watch";
    "proxy": "Proxies", "load balancers for SMTP, reverse proxies for the API";
    "metrics": "Metrics", "metrics for Prometheus";
    "performance": "Performance", "measurements";
};

const SAMPLE_CONFIG: &str = include_str!("../../config/pillarbox.toml");
const TEMPLATE: &str = include_str!("../docs/page.html");
/// The style sheet of the pages for people, which the guide and the API reference have, too.
const STYLE: &str = include_str!("../ui/assets/page.css");

static RENDERED: LazyLock<Result<Vec<StaticContent>>> = LazyLock::new(|| PAGES.iter().map(render).collect());
static STYLE_SHEET: LazyLock<Result<StaticContent>> =
    LazyLock::new(|| StaticContent::new(CSS, STYLE.to_owned()));

/// The pages in the order of the index.
pub fn index() -> &'static [Page] {
    PAGES
}

pub async fn page(name: std::result::Result<Path<String>, PathRejection>) -> Result<ApiResponse> {
    let name = name.map_or_else(|_| String::new(), |Path(name)| name);
    find(&name).map(ApiResponse::fixed)
}

/// The style sheet of the pages.
pub async fn style_sheet() -> Result<ApiResponse> {
    STYLE_SHEET.as_ref().map(ApiResponse::fixed).map_err(Clone::clone)
}

/// The page with this name.
pub fn find(name: &str) -> Result<&'static StaticContent> {
    let rendered = RENDERED.as_ref().map_err(Clone::clone)?;
    let found = PAGES.iter().zip(rendered).find(|(page, _)| page.name == name);
    let (_, html) = found.ok_or_else(|| {
        ApiError::new(RefusalCode::NotFound, "there is no such page", "GET /docs lists the pages")
    })?;
    Ok(html)
}

fn render(page: &Page) -> Result<StaticContent> {
    let markdown = match page.name {
        "config" => format!("{}\n{}", page.markdown, describe_options()),
        _ => page.markdown.to_owned(),
    };
    StaticContent::new(HTML, frame(Some(page), page.title, to_html(&markdown))?)
}

/// The content of a page of the guide, or of the API reference at `/docs`, with what is around it. All paths are relative,
/// because a reverse proxy may add a prefix.
pub fn frame(page: Option<&Page>, title: &str, content: String) -> Result<String> {
    let mut environment = Environment::new();
    // minijinja escapes data in templates whose name ends in `.html`.
    environment.add_template("page.html", TEMPLATE).map_err(ApiError::internal)?;
    let template = environment.get_template("page.html").map_err(ApiError::internal)?;
    let html = template.render(context! {
        title => title,
        current => page.map(|page| page.name),
        pages => PAGES,
        index => Html::from_safe_string(if page.is_some() { "../docs" } else { "docs" }.to_owned()),
        folder => Html::from_safe_string(if page.is_some() { "" } else { "docs/" }.to_owned()),
        content => Html::from_safe_string(content),
    });
    html.map_err(ApiError::internal)
}

/// The sample configuration as Markdown, with a heading for each of its tables.
fn describe_options() -> String {
    let mut text = String::new();
    let mut table = None;
    for paragraph in SAMPLE_CONFIG.trim_end().split("\n\n") {
        let header = paragraph.lines().map(|line| line.trim_start_matches("# ")).find(|line| is_header(line));
        let name = header.or(table).unwrap_or("Top level");
        if table != Some(name) {
            let _ = write!(text, "\n## {name}\n");
            table = Some(name);
        }
        let _ = write!(text, "\n```toml\n{paragraph}\n```\n");
    }
    text
}

/// `[a.b]` or `[[a.b]]`.
fn is_header(line: &str) -> bool {
    line.starts_with('[') && line.ends_with(']')
}

/// Renders Markdown. Headings, and codes that begin a table row, get an id as a link target.
fn to_html(markdown: &str) -> String {
    let mut events: Vec<Event<'_>> = Parser::new_ext(markdown, Options::ENABLE_TABLES).collect();
    for at in 0..events.len() {
        match &events[at] {
            Event::Start(Tag::Heading { .. }) => {
                let anchor = make_anchor(&heading_text(&events[at + 1..]));
                if let Event::Start(Tag::Heading { id, .. }) = &mut events[at] {
                    *id = Some(anchor.into());
                }
            }
            Event::Start(Tag::Link { dest_url, .. }) => {
                let target = dest_url.replacen(".md", "", 1);
                if let Event::Start(Tag::Link { dest_url, .. }) = &mut events[at] {
                    *dest_url = target.into();
                }
            }
            Event::Code(code) if begins_row(&events[..at]) => {
                let code = HtmlEscape(code);
                events[at] = Event::InlineHtml(format!("<code id=\"{code}\">{code}</code>").into());
            }
            _ => {}
        }
    }
    let mut text = String::new();
    html::push_html(&mut text, events.into_iter());
    // What may be wider than the window is scrolled with the keyboard, too. Text is escaped, so these are elements.
    text.replace("<pre>", "<pre tabindex=\"0\">").replace("<table>", "<table tabindex=\"0\">")
}

fn heading_text(events: &[Event<'_>]) -> String {
    let inside = events.iter().take_while(|event| !matches!(event, Event::End(TagEnd::Heading(_))));
    let texts = inside.filter_map(|event| match event {
        Event::Text(text) | Event::Code(text) => Some(text.as_ref()),
        _ => None,
    });
    texts.collect()
}

/// The anchor of a heading, like `the-sandbox`, as code hosts generate it.
fn make_anchor(heading: &str) -> String {
    let allowed = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    allowed.collect::<String>().to_lowercase().replace(' ', "-")
}

fn begins_row(before: &[Event<'_>]) -> bool {
    matches!(before, [.., Event::Start(Tag::TableRow), Event::Start(Tag::TableCell)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_and_first_cells_of_rows_have_ids_and_links_lose_the_file_extension() {
        let html = to_html("## The *sand* `box`\n\n| a |\n|---|\n| `x<y` `z` |\n\n[b](errors.md#c)\n");
        assert!(html.contains("<h2 id=\"the-sand-box\">"), "{html}");
        assert!(html.contains("<code id=\"x&lt;y\">x&lt;y</code> <code>z</code>"), "{html}");
        assert!(html.contains("<a href=\"errors#c\">"), "{html}");
        assert!(html.contains("<table tabindex=\"0\">"), "{html}");
    }

    #[test]
    fn every_page_begins_with_its_title_and_has_no_html_of_its_own() {
        for page in PAGES {
            assert!(page.markdown.starts_with(&format!("# {}\n", page.title)), "{}", page.name);
            let has_html = Parser::new_ext(page.markdown, Options::ENABLE_TABLES)
                .any(|event| matches!(event, Event::Html(_) | Event::InlineHtml(_)));
            assert!(!has_html, "{}", page.name);
        }
    }
}
