//! The session: signing out, the theme, and the colours of the tenant.

use hyper::StatusCode;
use maud::html;

use crate::model::Color;
use crate::ui::components;
use crate::ui::request::PageRequest;
use crate::ui::view::{Outcome, Problem, View};

pub async fn show(request: PageRequest) -> Outcome {
    let me = request.me();
    let body = html! {
        header.head { div { h1 { "Session" } } }
        section.panel {
            div.pad {
                p { "You are signed in with the key " strong { (components::visible(&me.key.name)) } "." }
                (components::form(&request, "/ui/settings", &html! {
                    button.button name="do" value="sign_out" { "Sign out" }
                }))
            }
        }
    };
    View::page("Session", body)
}

pub async fn act(request: PageRequest) -> Outcome {
    match request.field("do") {
        Some("sign_out") => {
            request.ui.sign_out(&request.session);
            Ok(View::Redirect { to: "/ui/sign-in".into(), note: None })
        }
        Some("theme") => {
            let chosen = request.field("theme");
            let theme = ["dark", "light"].into_iter().find(|theme| Some(*theme) == chosen);
            request.ui.choose_theme(&request.session, theme);
            let back = request.field("back").filter(|back| is_page(back)).unwrap_or("/ui/");
            Ok(View::Redirect { to: back.into(), note: None })
        }
        _ => {
            let hint = "open the page again, then repeat the change";
            Err(Problem::new(StatusCode::BAD_REQUEST, "invalid", "the form names no action", hint))
        }
    }
}

/// Whether it is a path of the pages.
fn is_page(path: &str) -> bool {
    path.starts_with("/ui/") && !path.contains(['\\', '\r', '\n'])
}

/// The colours of the tenant, as variables of the style.
pub async fn brand(request: PageRequest) -> Outcome {
    let brand = request.me().tenant.as_ref().and_then(|tenant| tenant.brand.as_ref());
    let color = brand.and_then(|brand| brand.color.as_deref()).and_then(|text| text.parse::<Color>().ok());
    let rule = |color: Color| format!(":root {{ --brand: {color}; --on-brand: {}; }}\n", color.text());
    Ok(View::Style(color.map(rule).unwrap_or_default()))
}
