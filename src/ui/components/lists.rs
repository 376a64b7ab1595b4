//! Lists: their filters, their table, and the way to older entries.

use maud::{Markup, html};

use super::{foreign, visible};
use crate::ui::request::PageRequest;

/// The fields that filter a list. The page with its query is the state of the list.
pub struct Filters<'a> {
    /// The page of the list, which begins with `/ui/`.
    pub page: &'a str,
    /// Fields that are always shown.
    pub fields: Markup,
    /// Fields that are opened first; empty if there are none.
    pub more: Markup,
    /// Parameters of the second group, which is open if one of them is set.
    pub more_names: &'a [&'a str],
}

impl Filters<'_> {
    /// The form.
    pub fn show(&self, request: &PageRequest) -> Markup {
        let is_open = self.more_names.iter().any(|name| request.parameter(name).is_some());
        html! {
            form.panel.pad.stack method="get" action=(request.href(self.page)) {
                div.fields.dense { (self.fields) div.end { button.button { "Search" } } }
                @if !self.more.0.is_empty() {
                    details.filters open[is_open] { summary { "More filters" } div.fields { (self.more) } }
                }
            }
        }
    }
}

/// The filters that are set, each with a link that removes it.
pub struct Chips<'a> {
    /// The page of the list, which begins with `/ui/`.
    pub page: &'a str,
    /// The name of a link to the whole list.
    pub all: &'a str,
    /// The parameters of filters, with the words before their values.
    pub names: &'a [(&'a str, &'a str)],
}

impl Chips<'_> {
    /// Nothing if no filter is set.
    pub fn show(&self, request: &PageRequest) -> Markup {
        let is_set = |name: &str| request.parameter(name).is_some();
        let set: Vec<_> = self.names.iter().filter(|(name, _)| is_set(name)).collect();
        let without = |removed: &str| {
            let names = self.names.iter().map(|(name, _)| *name).filter(|name| *name != removed);
            let kept: Vec<_> = names.filter_map(|name| Some((name, request.parameter(name)?))).collect();
            request.href(&request.with_query(self.page, &kept))
        };
        html! {
            @if !set.is_empty() {
                div.chips {
                    span.soft { "Shown:" }
                    @for (name, word) in set {
                        a.chip href=(without(name)) {
                            span { (visible(word)) " " (foreign(request.parameter(name).unwrap_or_default())) }
                            span aria-hidden="true" { "×" } span.sr { "remove" }
                        }
                    }
                    a href=(request.href(self.page)) { (self.all) }
                }
            }
        }
    }
}

/// A column of a table: heading, class, and what a phone shows before the value.
pub struct Column(pub &'static str, pub &'static str, pub Option<&'static str>);

/// A table that becomes cards on a phone. `rows` has a cell for each column.
pub fn table(columns: &[Column], rows: &[Vec<Markup>]) -> Markup {
    let rows: Vec<_> = rows.iter().map(|cells| (None, cells.as_slice())).collect();
    table_of(columns, &rows)
}

/// The same with an id for each row, so that the script shows which ones are new.
pub fn table_with_ids(columns: &[Column], rows: &[(&str, Vec<Markup>)]) -> Markup {
    let rows: Vec<_> = rows.iter().map(|(id, cells)| (Some(*id), cells.as_slice())).collect();
    table_of(columns, &rows)
}

fn table_of(columns: &[Column], rows: &[(Option<&str>, &[Markup])]) -> Markup {
    html! {
        table.cards {
            thead {
                tr {
                    @for Column(heading, class, _) in columns {
                        th scope="col" class=[class.starts_with("num").then_some("num")] {
                            @if heading.is_empty() { span.sr { "Actions" } }
                            @else if *class == "tick" { span.sr { (heading) } }
                            @else { (heading) }
                        }
                    }
                }
            }
            tbody {
                @for (id, cells) in rows {
                    tr id=[id] {
                        @for (Column(_, class, label), cell) in columns.iter().zip(*cells) {
                            td class=[(!class.is_empty()).then_some(class)] data-label=[label.filter(|_| !cell.0.is_empty())] { (cell) }
                        }
                    }
                }
            }
        }
    }
}

/// The foot of a list: what is shown, and the way to the newest and to older entries. `next` is the cursor of the API.
pub fn pages(request: &PageRequest, text: &str, next: Option<&str>) -> Markup {
    let path = request.address.split('?').next().unwrap_or_default();
    let parameters = || request.query.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let without_place: Vec<_> = parameters().filter(|(name, _)| *name != "after").collect();
    let newest = request.href(&request.with_query(path, &without_place));
    let older = next.map(|next| {
        let with_place: Vec<_> = without_place.iter().copied().chain([("after", next)]).collect();
        request.href(&request.with_query(path, &with_place))
    });
    let is_first = request.parameter("after").is_none();
    html! {
        nav.pages aria-label="Pages of the list" {
            span { (visible(text)) }
            @if !is_first || older.is_some() {
                span.row {
                    @if !is_first { a.button.small href=(newest) { "Newest" } }
                    @if let Some(older) = older { a.button.small rel="next" href=(older) { "Older" } }
                }
            }
        }
    }
}
