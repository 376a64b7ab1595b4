//! The sandbox inbox: mail of test keys, which never leaves the server, as its readers would see it.

use maud::{Markup, html};
use serde::Deserialize;

use crate::mail::Timestamp;
use crate::model::{Environment, Scope};
use crate::ui::components::{self, Tab, foreign, visible};
use crate::ui::format;
use crate::ui::list::Listed;
use crate::ui::request::{PageRequest, segment};
use crate::ui::view::{Outcome, Problem, View};

const PATH: &str = "/ui/sandbox";
/// Events after which the list is no longer the same.
const KINDS: &str =
    "message.accepted message.delivered message.deferred message.bounced message.complained message.expired";

#[derive(Deserialize)]
struct Email {
    id: String,
    status: String,
    header_from: Option<String>,
    from: Option<String>,
    to: Vec<String>,
    recipient_count: u64,
    subject: Option<String>,
    created_at: Timestamp,
}

#[derive(Deserialize)]
struct Parts {
    headers: Vec<HeaderField>,
    text: Option<String>,
    html: Option<String>,
}

#[derive(Deserialize)]
struct HeaderField {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct Key {
    id: String,
    name: String,
}

impl Email {
    fn subject(&self) -> &str {
        self.subject.as_deref().map(str::trim).filter(|subject| !subject.is_empty()).unwrap_or("(no subject)")
    }
}

pub async fn show(request: PageRequest) -> Outcome {
    let fixed = [("environment", "test"), ("limit", "50")];
    let target = request.api_target("/v1/emails", &["key_id", "tenant_id", "after"], &fixed);
    let (emails, keys) = futures_util::join!(
        request.get::<Listed<Email>>(&target),
        request.get_if_any::<Listed<Key>>("/v1/keys?environment=test&limit=100"),
    );
    let (emails, keys) = (emails?, keys?.map(|listed| listed.data).unwrap_or_default());
    let chosen = match request.parameter("message") {
        Some(id) => Some(request.get::<Email>(&format!("/v1/emails/{}", segment(id))).await?),
        None => None,
    };
    let reading = match &chosen {
        Some(email) => reading(&request, email).await?,
        None => html! { div.pad { p.soft { "Choose a message." } } },
    };
    let body = html! {
        (head(&request, &keys, !emails.data.is_empty()))
        @if emails.data.is_empty() && chosen.is_none() {
            (nothing(&request))
        } @else {
            section.panel.panes {
                (mails(&request, &emails))
                (reading)
            }
        }
    };
    View::page("Sandbox inbox", body)
}

fn head(request: &PageRequest, keys: &[Key], has_mail: bool) -> Markup {
    let chosen = request.parameter("key_id").unwrap_or_default();
    html! {
        header.head {
            div {
                h1 { "Sandbox inbox" }
                p { "Mail of test keys; nothing leaves the server. Try " code { "bounce@" } ", " code { "defer+2@" } ", " code { "complaint@" } " at any domain." }
            }
            div.row {
                @if !keys.is_empty() {
                    form.row method="get" action=(request.href(PATH)) {
                        label.sr for="f-key_id" { "Key" }
                        select id="f-key_id" name="key_id" {
                            option value="" { "All test keys" }
                            @for key in keys { option value=(key.id) selected[key.id == chosen] { (visible(&key.name)) } }
                        }
                        button.button { "Show" }
                    }
                }
                @if has_mail { button.button.js-only type="button" aria-pressed="true" data-live-switch { "Live" } }
            }
        }
    }
}

fn nothing(request: &PageRequest) -> Markup {
    let command = request.ui.sample(Environment::Test);
    let text = "Send one with a test key. It is accepted, checked and signed like any other, and ends here.";
    let create = html! {
        @if request.may(Scope::KeysManage) {
            a.button.primary href=(request.href("/ui/keys?new=key&environment=test")) { "Create a test key" }
        }
    };
    let command = Some(command.as_str()).filter(|_| !request.me().is_archived());
    components::empty_panel("No test message yet", text, command, &create)
}

/// A page of the inbox with another parameter; others stay.
fn with(request: &PageRequest, changed: &[(&str, &str)]) -> String {
    let kept = ["key_id", "tenant_id", "after", "message", "part", "width"];
    let value = |name: &str| {
        let new = changed.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
        new.or_else(|| request.parameter(name)).unwrap_or_default()
    };
    let all: Vec<_> = kept.iter().map(|name| (*name, value(name))).collect();
    request.href(&request.with_query(PATH, &all))
}

fn mails(request: &PageRequest, emails: &Listed<Email>) -> Markup {
    let chosen = request.parameter("message").unwrap_or_default();
    let is_first = request.parameter("after").is_none();
    let live = request.href("/ui/messages/live?environment=test");
    html! {
        div data-part=[is_first.then_some("mails")] data-live=(live) data-kinds=(KINDS) {
            ul.mails {
                @for email in &emails.data {
                    li {
                        a href=(with(request, &[("message", &email.id)])) aria-current=[(email.id == chosen).then_some("true")] {
                            span.line {
                                span.clip.strong { (foreign(email.subject())) }
                                (format::moment(email.created_at, request.now))
                            }
                            span.line {
                                span.clip.soft {
                                    "to " (foreign(email.to.first().map_or("", String::as_str)))
                                    @if email.recipient_count > 1 { " +" (email.recipient_count - 1) }
                                }
                                (components::status(&email.status))
                            }
                        }
                    }
                }
            }
            @if !is_first || emails.next_cursor.is_some() {
                (components::pages(request, "", emails.next_cursor.as_deref()))
            }
        }
    }
}

/// The chosen message.
async fn reading(request: &PageRequest, email: &Email) -> Result<Markup, Problem> {
    let path = format!("/v1/emails/{}/parts", segment(&email.id));
    let from = email.header_from.as_deref().or(email.from.as_deref()).unwrap_or("<>");
    let content = match request.get::<Parts>(&path).await {
        Ok(parts) => content(request, email, &parts),
        // Its content is not kept any more, or too large to show.
        Err(problem) => components::problem(&problem),
    };
    Ok(html! {
        div.pad.stack {
            div.row { h2 { (foreign(email.subject())) } (components::status(&email.status)) }
            dl.kv {
                dt { "From" } dd { (foreign(from)) }
                dt { "To" } dd { (foreign(&email.to.join(", "))) }
                dt { "Accepted" } dd { (format::time(email.created_at)) ", " a href=(request.href(&format!("/ui/messages/{}", segment(&email.id)))) { "its life" } }
            }
            (content)
        }
    })
}

fn content(request: &PageRequest, email: &Email, parts: &Parts) -> Markup {
    let first = if parts.html.is_some() { "html" } else { "text" };
    let chosen = request.parameter("part").unwrap_or(first);
    let tab = |part: &str, name: &'static str| Tab {
        href: with(request, &[("message", &email.id), ("part", part)]),
        name,
        count: None,
        is_current: part == chosen,
    };
    html! {
        (components::tabs("Parts", &[tab("html", "HTML"), tab("text", "Text"), tab("headers", "Headers")]))
        @match (chosen, &parts.html, &parts.text) {
            ("headers", _, _) => (headers(&parts.headers)),
            ("html", Some(_), _) => (page(request, email)),
            ("html", None, _) => p.soft { "This message has no HTML." },
            (_, _, Some(text)) => div.block { pre.wrap tabindex="0" { (visible(&text.replace("\r\n", "\n"))) } },
            (_, _, None) => p.soft { "This message has no text." },
        }
    }
}

/// The HTML in a frame as wide as a phone, a tablet or a desktop.
fn page(request: &PageRequest, email: &Email) -> Markup {
    let width = request.parameter("width").unwrap_or("tablet");
    let tab = |value: &str, name: &'static str| Tab {
        href: with(request, &[("width", value)]),
        name,
        count: None,
        is_current: value == width,
    };
    let class = match width {
        "phone" => Some("phone"),
        "desktop" => None,
        _ => Some("tablet"),
    };
    html! {
        (components::choices("Width", &[tab("phone", "Phone"), tab("tablet", "Tablet"), tab("desktop", "Desktop")]))
        iframe class=[class] sandbox="" src=(request.href(&format!("/ui/messages/{}/preview", segment(&email.id))))
            title="The message as a mail program shows it, without pictures from elsewhere" {}
    }
}

fn headers(fields: &[HeaderField]) -> Markup {
    html! {
        dl.kv { @for field in fields { dt { (visible(&field.name)) } dd { code { (foreign(&field.value)) } } } }
    }
}
