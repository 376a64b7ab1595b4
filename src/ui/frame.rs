//! What is around every page: head, navigation, note; and the pages without a session. The markup is that of the design.

use std::sync::Arc;

use axum::response::Response;
use hyper::StatusCode;
use maud::{DOCTYPE, Markup, html};

use super::components::{self, foreign, visible};
use super::counts::Counts;
use super::request::{PageRequest, segment};
use super::route::{Audience, PAGES, Page};
use super::session::Me;
use super::view::{Problem, View};
use super::{Ui, assets, guard, headers};
use crate::model::Scope;

/// What the frame of a page needs of its request.
pub struct Framing {
    path: &'static str,
    /// The page with its query, to come back to.
    back: String,
    note: Option<String>,
    me: Arc<Me>,
    theme: Option<&'static str>,
    token: Markup,
    /// What the navigation counts.
    pub counts: Counts,
}

impl Framing {
    /// Of a request.
    pub fn of(request: &PageRequest) -> Self {
        Self {
            path: request.page.path,
            back: request.address.clone(),
            note: request.note.clone(),
            me: Arc::clone(&request.session.me),
            theme: request.session.theme,
            token: request.token(),
            counts: request.session.counts.clone(),
        }
    }
}

/// The head of a document.
struct Head<'a> {
    title: &'a str,
    theme: Option<&'static str>,
    is_branded: bool,
}

/// The answer of a page.
pub fn respond(ui: &Ui, framing: &Framing, view: View) -> Response {
    match view {
        View::Page { title, body } => {
            headers::page(ui, StatusCode::OK, whole(ui, &title, framing, &body).into_string())
        }
        View::Refused { status, title, body } => {
            headers::page(ui, status, whole(ui, &title, framing, &body).into_string())
        }
        View::File { media_type, name, octets } => headers::file(ui, media_type, &name, octets),
        View::Style(css) => headers::style(ui, css),
        View::Foreign(html) => headers::foreign(ui, html),
        View::Passed(response) => headers::passed(ui, response),
        View::Redirect { to, .. } => headers::redirect(&format!("{}{to}", ui.prefix())),
        View::SignedOut => guard::signed_out(ui),
    }
}

/// A page that is refused, in its frame if somebody is signed in.
pub fn problem(ui: &Ui, framing: Option<&Framing>, problem: &Problem) -> Response {
    let href = |path: &str| format!("{}{path}", ui.prefix());
    let title = match problem.status.as_u16() {
        403 => "Not allowed",
        404 => "Not found",
        429 => "Too many requests",
        500.. => "This did not work",
        _ => "Refused",
    };
    let section = framing.map_or("/ui/", |framing| section_of(framing.path));
    let name = PAGES.iter().find(|page| page.path == section).and_then(|page| page.navigation);
    let name = name.map_or("Overview", |(_, name)| name);
    let body = html! {
        header.head {
            div {
                @if framing.is_some() { p.crumbs { a href=(href(section)) { (name) } } }
                h1 { (title) }
            }
        }
        section.panel.pad.stack.measure {
            (components::refusal(problem))
            div.row {
                a.button.primary href=(href(section)) { (name) }
                a.button href=(href(&format!("/docs/errors#{}", problem.code))) { "What the code means" }
            }
        }
    };
    let page = match framing {
        Some(framing) => whole(ui, title, framing, &body),
        None => plain(ui, title, &body),
    };
    headers::page(ui, problem.status, page.into_string())
}

fn whole(ui: &Ui, title: &str, framing: &Framing, body: &Markup) -> Markup {
    let href = |path: &str| format!("{}{path}", ui.prefix());
    let is_branded = is_branded(&framing.me);
    document(
        ui,
        &Head { title, theme: framing.theme, is_branded },
        &html! {
            body.app {
                a.skip href="#main" { "Skip to content" }
                header.top {
                    (brand(ui, Some(&framing.me)))
                    button.button.menu popovertarget="nav" { "Menu" }
                }
                nav.side id="nav" popover aria-label="Pages" {
                    (navigation(ui, framing))
                    (who(framing, &href))
                }
                main id="main" {
                    @if framing.me.is_archived() { (archived_note()) }
                    @if let Some(note) = &framing.note { (components::note(note)) }
                    (body)
                }
            }
        },
    )
}

fn archived_note() -> Markup {
    html! {
        div.note.warn {
            div {
                p.strong { "This tenant is archived." }
                p { "Everything can be read, and nothing can be sent or changed. The operator of the platform can activate it." }
            }
        }
    }
}

fn navigation(ui: &Ui, framing: &Framing) -> Markup {
    let is_platform = framing.me.tenant.is_none();
    let section = section_of(framing.path);
    let scopes = &framing.me.scopes;
    let named = || {
        let pages = PAGES.iter().filter(|page| is_shown(&framing.me, page));
        pages.filter_map(|page| page.navigation.map(|(group, name)| (group, name, page.path)))
    };
    let mut groups: Vec<&str> = Vec::new();
    named().for_each(|(group, ..)| {
        if !groups.contains(&group) {
            groups.push(group);
        }
    });
    let own =
        framing.me.tenant.as_ref().filter(|_| scopes.iter().any(|own| own.includes(Scope::TenantManage)));
    html! {
        @for group in groups {
            @if !group.is_empty() { h2 { (if group == "Server" && !is_platform { "Account" } else { group }) } }
            ul {
                @if let Some(tenant) = own.filter(|_| group == "Server") {
                    li { a href=(format!("{}/ui/tenants/{}", ui.prefix(), segment(&tenant.id))) aria-current=[framing.path.starts_with("/ui/tenants/").then_some("page")] { "Settings" } }
                }
                @for (_, name, path) in named().filter(|(of, ..)| *of == group) {
                    li { a href=(format!("{}{path}", ui.prefix())) aria-current=[(path == section).then_some("page")] { (name) (framing.counts.of(path)) } }
                }
            }
        }
    }
}

/// Whether the navigation of a session has a page.
pub fn has(me: &Me, path: &str) -> bool {
    PAGES.iter().any(|page| page.path == path && is_shown(me, page))
}

/// What the session may not see is absent. The API decides again.
fn is_shown(me: &Me, page: &Page) -> bool {
    let is_allowed = |scope: Scope| me.scopes.iter().any(|own| own.includes(scope));
    me.tenant.is_none()
        || (page.audience == Audience::Everybody && scope_of(page.path).is_none_or(is_allowed))
}

fn who(framing: &Framing, href: &impl Fn(&str) -> String) -> Markup {
    let me = &framing.me;
    let settings = href("/ui/settings");
    let (kind, owner) = match &me.tenant {
        None => ("Platform key", html! { "platform" }),
        // A tenant has one page of its own, which is not in the navigation.
        Some(tenant) if me.scopes.iter().any(|scope| scope.includes(Scope::TenantRead)) => (
            "Key",
            html! { a href=(href(&format!("/ui/tenants/{}", tenant.id))) { (visible(&tenant.slug)) } },
        ),
        Some(tenant) => ("Key", html! { (visible(&tenant.slug)) }),
    };
    let other = if framing.theme == Some("dark") { "light" } else { "dark" };
    html! {
        div.who {
            strong { (owner) }
            (kind) " " (foreign(&me.key.name)) ", " (me.environment)
            div.row {
                form method="post" action=(settings) {
                    (framing.token) input type="hidden" name="back" value=(framing.back);
                    input type="hidden" name="theme" value=(other);
                    button.linkish name="do" value="theme" { (if other == "dark" { "Dark" } else { "Light" }) }
                }
                form method="post" action=(settings) { (framing.token) button.linkish name="do" value="sign_out" { "Sign out" } }
            }
        }
    }
}

/// What a session of a tenant must be allowed to do to see a page of the navigation.
fn scope_of(path: &str) -> Option<Scope> {
    match path {
        "/ui/messages" | "/ui/sandbox" | "/ui/reports" | "/ui/rejections" | "/ui/events" => {
            Some(Scope::EmailsRead)
        }
        "/ui/domains" => Some(Scope::DomainsRead),
        "/ui/keys" => Some(Scope::KeysRead),
        "/ui/templates" => Some(Scope::TemplatesRead),
        "/ui/webhooks" => Some(Scope::WebhooksRead),
        "/ui/suppressions" => Some(Scope::SuppressionsRead),
        "/ui/audit" => Some(Scope::AuditRead),
        _ => None,
    }
}

/// The page of the navigation that a path belongs to.
fn section_of(path: &str) -> &str {
    let of_navigation = PAGES.iter().filter(|page| page.navigation.is_some() && page.path != "/ui/");
    let above = of_navigation.filter(|page| path.starts_with(page.path)).map(|page| page.path);
    above.max_by_key(|path| path.len()).unwrap_or("/ui/")
}

fn is_branded(me: &Me) -> bool {
    me.tenant.as_ref().is_some_and(|tenant| tenant.brand.is_some())
}

fn brand(ui: &Ui, me: Option<&Me>) -> Markup {
    let brand = me.and_then(|me| me.tenant.as_ref()).and_then(|tenant| tenant.brand.as_ref());
    let name = brand.and_then(|brand| brand.name.as_deref()).unwrap_or("Pillarbox");
    html! {
        a.brand href=(format!("{}/ui/", ui.prefix())) {
            svg.mark viewBox="0 0 26 26" aria-hidden="true" {
                path d="M5 26V9a8 8 0 0 1 16 0v17z" {}
                path.slot d="M8.5 10h9v2.2h-9z" {}
            }
            span { (visible(name)) small { (ui.hostname) } }
        }
    }
}

fn document(ui: &Ui, head: &Head<'_>, body: &Markup) -> Markup {
    let href = |path: &str| format!("{}{path}", ui.prefix());
    html! {
        (DOCTYPE)
        html lang="en" data-theme=[head.theme] {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (components::plain(head.title)) " · Pillarbox" }
                link rel="stylesheet" href=(href(assets::STYLE.path()));
                @if head.is_branded { link rel="stylesheet" href=(href("/ui/brand.css")); }
                link rel="icon" href=(href(assets::ICON.path()));
                script src=(href(assets::SCRIPT.path())) defer {}
            }
            (body)
        }
    }
}

/// A page without navigation.
fn plain(ui: &Ui, title: &str, content: &Markup) -> Markup {
    let body = html! { body.plain { main.stack id="main" { (brand(ui, None)) (content) } } };
    document(ui, &Head { title, theme: None, is_branded: false }, &body)
}

/// The page that asks for a key. The script posts the token of a link.
pub fn sign_in(ui: &Ui, next: &str, problem: Option<&Problem>) -> Response {
    let action = format!("{}/ui/sign-in", ui.prefix());
    let content = html! {
        section.panel.pad.stack {
            h1 { "Sign in" }
            @if let Some(problem) = problem { (components::problem(problem)) }
            form.stack id="sign-in" method="post" action=(action) {
                input type="hidden" name="next" value=(next);
                input type="hidden" name="link" value="";
                div.field {
                    label for="key" { "Key" }
                    input id="key" name="key" type="password" placeholder="pb_live_…" autocomplete="off" spellcheck="false" aria-describedby="key-hint" autofocus;
                    p.hint id="key-hint" { "A platform key, or a key of a tenant. It is checked and not kept." }
                }
                button.button.primary { "Sign in" }
            }
        }
        p.soft.small { "No key at hand? On the server, " code { "pillarbox ui" } " prints a link that works once." }
    };
    let status = problem.map_or(StatusCode::OK, |problem| problem.status);
    headers::page(ui, status, plain(ui, "Sign in", &content).into_string())
}

/// The question before a link signs somebody in who is signed in already.
pub fn confirm_link(ui: &Ui, token: &str) -> Response {
    let href = |path: &str| format!("{}{path}", ui.prefix());
    let content = html! {
        section.panel.pad.stack {
            h1 { "Sign in as somebody else" }
            p { "You are signed in. This link leads to the pages of somebody else: what you type there goes to them. Go on only if you expect that." }
            form.row method="post" action=(href("/ui/sign-in")) {
                input type="hidden" name="link" value=(token);
                button.button.primary name="confirm" value="1" { "Sign in with the link" }
                a.button href=(href("/ui/")) { "Stay" }
            }
        }
    };
    headers::page(ui, StatusCode::OK, plain(ui, "Sign in as somebody else", &content).into_string())
}

/// A page that opens itself again, so that the browser sends its cookie.
pub fn again(ui: &Ui) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; meta http-equiv="refresh" content="0"; title { "Pillarbox" } }
            body { p { "One moment…" } }
        }
    };
    headers::page(ui, StatusCode::OK, page.into_string())
}
