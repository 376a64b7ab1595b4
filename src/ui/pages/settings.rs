//! The session: its key, the other sessions of the key, signing out, the theme, and the colours of the tenant.

use data_encoding::HEXLOWER;
use hyper::StatusCode;
use maud::{Markup, html};
use serde::Deserialize;

use crate::mail::Timestamp;
use crate::model::Color;
use crate::ui::components::{self, Column, foreign};
use crate::ui::format;
use crate::ui::request::PageRequest;
use crate::ui::session::{CHANGES_PER_MINUTE, Session, THEMES};
use crate::ui::sign_in::own_path;
use crate::ui::view::{Outcome, Problem, View};

/// The page of this file.
const PAGE: &str = "/ui/settings";

#[derive(Deserialize)]
struct Me {
    key: Key,
    scopes: Vec<String>,
}

#[derive(Deserialize)]
struct Key {
    id: String,
    last_four: String,
    last_used_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
}

pub async fn show(request: PageRequest) -> Outcome {
    let me: Me = request.get("/v1/me").await?;
    let out = |action: &str, word: &str| {
        components::form(&request, PAGE, &html! { button.button name="do" value=(action) { (word) } })
    };
    let is_of_link = request.session.signed_in.rights.is_some();
    let actions = html! {
        (out("sign_out", "Sign out"))
        @if !is_of_link { (out("sign_out_everywhere", "Sign out everywhere")) }
    };
    let sessions = sessions(&request).await?;
    let body = html! {
        (components::head(None, "Sessions", &actions))
        div.split {
            @if !is_of_link { section.panel { header { h2 { "Key" } } div.pad { (key(&request, &me)) } } }
            section.panel { header { h2 { "Appearance" } } div.pad { (appearance(&request)) } }
        }
        (sessions)
    };
    View::page("Sessions", body)
}

fn key(request: &PageRequest, me: &Me) -> Markup {
    let of = request.me();
    let owner = of.tenant.as_ref().map_or("the platform", |tenant| tenant.slug.as_str());
    let time =
        |at: Option<Timestamp>| html! { @if let Some(at) = at { (format::time(at)) } @else { "never" } };
    components::pairs(&[
        ("Name", foreign(&of.key.name)),
        ("Id", components::copied(&me.key.id)),
        ("Secret", html! { "ends with " code { (components::visible(&me.key.last_four)) } }),
        ("Owner", html! { (foreign(owner)) ", " (of.environment) }),
        (
            "Rights",
            html! {
                @if request.is_platform() { "everything" }
                @else { @for scope in &me.scopes { span.tag { (components::visible(scope)) } " " } }
            },
        ),
        ("Last used", time(me.key.last_used_at)),
        ("Expires", time(me.key.expires_at)),
    ])
}

fn appearance(request: &PageRequest) -> Markup {
    let chosen = request.session.theme.unwrap_or("system");
    let theme = |value: &str, word: &str| {
        html! {
            button type="submit" name="theme" value=(value) aria-pressed=(if chosen == value { "true" } else { "false" }) { (word) }
        }
    };
    components::form(
        request,
        PAGE,
        &html! {
            input type="hidden" name="do" value="theme";
            input type="hidden" name="back" value=(PAGE);
            div.seg role="group" aria-label="Theme" { (theme("system", "As the system")) (theme("light", "Light")) (theme("dark", "Dark")) }
        },
    )
}

async fn sessions(request: &PageRequest) -> Result<Markup, Problem> {
    let columns = [
        Column("Began", "lead", None),
        Column("Last page", "", Some("Last page")),
        Column("Ends at the latest", "", Some("Ends")),
        Column("Rights", "", Some("Rights")),
        Column("", "acts", None),
    ];
    let sessions = request.ui.sessions.of_key(&request.session).await?;
    let rows: Vec<_> = sessions.iter().map(|session| row(request, session)).collect();
    Ok(html! {
        section.panel {
            header { h2 { "Sessions of this key" } }
            (components::table(&columns, &rows))
            footer.soft.small { "Revoking the key ends all of them within a second." }
        }
    })
}

fn row(request: &PageRequest, session: &Session) -> Vec<Markup> {
    let is_this = session.digest == request.session.digest;
    let rights = session.signed_in.rights.as_ref();
    vec![
        html! { span { (format::time(session.created_at)) @if is_this { " " span.soft { "this one" } } } },
        html! { (format::relative(session.seen_at, request.now)) },
        format::time(session.expires_at),
        html! { @match rights { Some(_) => "of a link", None => "of the key" } },
        html! {
            @if !is_this {
                (components::form(request, PAGE, &html! {
                    input type="hidden" name="session" value=(name_of(session));
                    button.button.small name="do" value="end" { "End" }
                }))
            }
        },
    ]
}

/// The digest of the id names a session; the id itself is in the cookie only.
fn name_of(session: &Session) -> String {
    HEXLOWER.encode(&session.digest)
}

pub async fn act(request: PageRequest) -> Outcome {
    let (sessions, own) = (&request.ui.sessions, &request.session);
    match request.field("do") {
        Some("sign_out") => {
            sessions.end(own.digest).await?;
            Ok(View::SignedOut)
        }
        // Other sessions of the key of a link may be those of other people.
        Some("sign_out_everywhere") if own.signed_in.rights.is_none() => {
            sessions.end_all_of_key(own).await?;
            Ok(View::SignedOut)
        }
        Some("end") => {
            check_changes(&request)?;
            let name = request.field("session").unwrap_or_default();
            let shown = sessions.of_key(own).await?;
            let found = shown.iter().find(|session| name_of(session) == name);
            if let Some(session) = found {
                sessions.end(session.digest).await?;
            }
            let note =
                if found.is_some() { "The session has ended." } else { "The session had ended before." };
            View::redirect(PAGE, note)
        }
        Some("theme") => {
            check_changes(&request)?;
            let chosen = request.field("theme");
            let theme = THEMES.into_iter().find(|theme| Some(*theme) == chosen);
            sessions.set_theme(own, theme).await?;
            let back = own_path(request.field("back").unwrap_or_default());
            Ok(View::Redirect { to: back.into(), note: None })
        }
        _ => Err(Problem::no_action()),
    }
}

fn check_changes(request: &PageRequest) -> Result<(), Problem> {
    request.ui.sessions.take_change(&request.session, request.now).map_err(|seconds| {
        Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limited",
            format!("this session has made {CHANGES_PER_MINUTE} changes in this minute"),
            format!("go on in {seconds} s"),
        )
    })
}

/// The colours of the tenant, as variables of the style.
pub async fn brand(request: PageRequest) -> Outcome {
    let brand = request.me().tenant.as_ref().and_then(|tenant| tenant.brand.as_ref());
    let color = brand.and_then(|brand| brand.color.as_deref()).and_then(|text| text.parse::<Color>().ok());
    let rule = |color: Color| format!(":root {{ --brand: {color}; --on-brand: {}; }}\n", color.text());
    Ok(View::Style(color.map(rule).unwrap_or_default()))
}
