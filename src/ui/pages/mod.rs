//! One file for each page.

pub mod audit;
pub mod bans;
pub mod doctor;
mod domain_records;
pub mod domains;
pub mod events;
mod key_settings;
pub mod keys;
pub mod message;
pub mod messages;
pub mod overview;
pub mod queue;
pub mod rejections;
pub mod reports;
pub mod sandbox;
pub mod settings;
pub mod suppressions;
pub mod templates;
mod tenant_forms;
pub mod tenants;
pub mod webhooks;

use maud::html;

use super::view::{Outcome, View};

/// A page that is not there yet.
fn not_there_yet(title: &'static str) -> Outcome {
    let body = html! {
        header.head { div { h1 { (title) } } }
        section.panel { div.empty { p { "This page is not there yet. The API has what it will show: see /docs." } } }
    };
    View::page(title, body)
}
