//! Lists of the API on pages: filters in the URL, pages by cursor.

use maud::{Markup, html};
use serde::de::DeserializeOwned;

use super::components;
use super::format;
pub use super::request::Listed;
use super::request::PageRequest;
use super::view::Problem;
use crate::mail::Timestamp;

impl<T: DeserializeOwned> Listed<T> {
    /// The page that the URL selects, by these parameters of the API.
    pub async fn read(request: &PageRequest, path: &str, parameters: &[&str]) -> Result<Self, Problem> {
        let passed: Vec<&str> = parameters.iter().chain(&["after"]).copied().collect();
        let set: Vec<_> = request
            .query
            .iter()
            .filter(|(name, value)| passed.contains(&name.as_str()) && !value.trim().is_empty())
            .map(|(name, value)| (name.as_str(), value.trim()))
            .chain([("limit", "50")])
            .collect();
        request.get(&request.with_query(path, &set)).await
    }

    /// The foot of the list: `50 keys, newest first`, and the way to older ones.
    pub fn foot(&self, request: &PageRequest, (one, many): (&str, &str)) -> Markup {
        let count = self.data.len();
        let order = if count > 1 { ", newest first" } else { "" };
        let text = format!("{count} {}{order}", if count == 1 { one } else { many });
        components::pages(request, &text, self.next_cursor.as_deref())
    }
}

/// A filter with the values of an enumeration.
pub fn choice(request: &PageRequest, label: &str, name: &str, values: &[&str]) -> Markup {
    let any = std::iter::once(("", "any"));
    let options: Vec<_> = any.chain(values.iter().map(|value| (*value, *value))).collect();
    components::select(label, name, request.parameter(name).unwrap_or_default(), &options)
}

/// The filter of what belongs to one environment; nothing for a test key, which sees no other.
pub fn environment(request: &PageRequest) -> Markup {
    html! { @if request.me().environment == crate::model::Environment::Live { (choice(request, "Environment", "environment", &["live", "test"])) } }
}

/// Whether a filter or a page of the list is chosen.
pub fn is_filtered(request: &PageRequest) -> bool {
    request.query.iter().any(|(_, value)| !value.trim().is_empty())
}

/// A panel in place of an empty list: what it is, or that nothing matches.
pub fn empty(request: &PageRequest, path: &str, nothing: &Markup) -> Markup {
    html! {
        section.panel {
            div.empty {
                @if is_filtered(request) {
                    h2 { "Nothing matches" }
                    p { "No entry has all that was asked for." }
                    div.row { a.button href=(request.href(path)) { "Show all" } }
                } @else {
                    (nothing)
                }
            }
        }
    }
}

/// How long ago something was, or in how long it will be.
pub fn relative(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(at) title=(at) { (format::relative(at, now)) } }
}
