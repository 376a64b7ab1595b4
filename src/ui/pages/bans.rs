//! Networks and keys that may not log in for a while.

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::mail::Timestamp;
use crate::ui::components::{self, Column, visible};
use crate::ui::format;
use crate::ui::list::{Listed, relative};
use crate::ui::request::{PageRequest, segment};
use crate::ui::view::{Outcome, Problem, View};

const PATH: &str = "/ui/bans";

#[derive(Deserialize)]
struct Ban {
    id: String,
    network: Option<String>,
    key_id: Option<String>,
    failures: u64,
    created_at: Timestamp,
    expires_at: Timestamp,
}

pub async fn list(request: PageRequest) -> Outcome {
    let bans: Listed<Ban> = request.get("/v1/bans").await?;
    let body = html! {
        (components::head(None, "Bans", &Markup::default()))
        @if bans.data.is_empty() {
            (components::empty_panel(
                "Nobody is banned",
                "A network or a key with too many failed logins is refused for a while. It is listed here until then.",
                Some("pillarbox ban list"),
                &Markup::default(),
            ))
        } @else {
            section.panel data-part="list" { (table(&request, &bans.data)) }
        }
    };
    View::page("Bans", body)
}

fn table(request: &PageRequest, bans: &[Ban]) -> Markup {
    let columns = [
        Column("Network or key", "lead", None),
        Column("Why", "", Some("Why")),
        Column("Since", "fit", Some("Since")),
        Column("Ends", "fit", Some("Ends")),
        Column("", "acts", None),
    ];
    let row = |ban: &Ban| {
        vec![
            html! {
                @match (&ban.key_id, &ban.network) {
                    (Some(key), _) => a href=(request.href(&format!("/ui/keys/{}", segment(key)))) { code { (visible(key)) } },
                    (None, Some(network)) => code { (visible(network)) },
                    (None, None) => code { (visible(&ban.id)) },
                }
            },
            html! { (format::counted(ban.failures, "failed login", "failed logins")) },
            relative(ban.created_at, request.now),
            relative(ban.expires_at, request.now),
            components::form(
                request,
                PATH,
                &html! {
                    input type="hidden" name="id" value=(ban.id);
                    button.button.small name="do" value="lift" { "Lift" }
                },
            ),
        ]
    };
    components::table(&columns, &bans.iter().map(row).collect::<Vec<_>>())
}

pub async fn lift(request: PageRequest) -> Outcome {
    let (Some("lift"), Some(id)) = (request.field("do"), request.field("id")) else {
        return Err(Problem::no_action());
    };
    let _: Value = request.delete(&format!("/v1/bans/{}", segment(id))).await?;
    View::redirect(PATH, format!("Lifted: {id}."))
}
