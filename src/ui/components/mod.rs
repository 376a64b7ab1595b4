//! Parts that several pages have, in the markup of the design. Whatever comes from outside passes [`visible`].

mod forms;
mod lists;
mod text;

use maud::{Markup, html};

use super::view::Problem;

pub use self::forms::{Question, confirm, form, search, select};
pub use self::lists::{Chips, Column, Filters, pages, table, table_with_ids};
pub use self::text::{foreign, plain, visible};

/// What a change did.
pub fn note(text: &str) -> Markup {
    html! { div.note.ok role="status" { div { (visible(text)) } } }
}

/// Why something was refused, and what to do.
pub fn problem(problem: &Problem) -> Markup {
    html! {
        div.note.bad role="alert" {
            div {
                p.strong { (visible(&problem.message)) }
                p { (visible(&problem.hint)) }
                @if !problem.fields.is_empty() {
                    ul { @for field in &problem.fields { li { code { (visible(&field.path)) } ": " (visible(&field.message)) } } }
                }
                p.small.soft {
                    code { (visible(&problem.code)) }
                    @if let Some(id) = &problem.request_id { " " code { (visible(id)) } }
                }
            }
        }
    }
}

/// The same as the content of a page of its own.
pub fn refusal(problem: &Problem) -> Markup {
    html! {
        p { (visible(&sentence(&problem.message))) }
        p.soft { (visible(&sentence(&problem.hint))) }
        @if !problem.fields.is_empty() {
            ul { @for field in &problem.fields { li { code { (visible(&field.path)) } ": " (visible(&field.message)) } } }
        }
        dl.kv {
            dt { "Code" } dd { code { (visible(&problem.code)) } ", HTTP " (problem.status.as_u16()) }
            @if let Some(id) = &problem.request_id { dt { "Request" } dd { (copied(id)) } }
        }
    }
}

/// A text of the API as a sentence of its own.
pub fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
    let end = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{}{end}", chars.as_str())
}

/// An empty list: why it is empty, and the command that adds something.
pub fn empty(text: &str, command: Option<&str>) -> Markup {
    html! { div.empty { p { (text) } @if let Some(command) = command { (copied(command)) } } }
}

/// A text with a button that copies it; without the script, a text.
pub fn copied(text: &str) -> Markup {
    html! { div.copy { code { (visible(text)) } button.button.small.js-only type="button" data-copy { "Copy" } } }
}

/// A state as a word with a sign, so that colour is not all.
pub fn status(word: &str) -> Markup {
    html! { span class=(format!("badge {}", tone(word)).trim_end()) { (visible(word)) } }
}

/// How a state looks: `ok`, `warn`, `bad`, `run`, or nothing.
pub fn tone(state: &str) -> &'static str {
    match state {
        "delivered" | "verified" | "active" | "sent" | "ok" | "found" | "enabled" | "confirmed"
        | "succeeded" | "pass" => "ok",
        "deferred" | "pending" | "expiring" | "warning" | "temporary_error" => "warn",
        "bounced" | "expired" | "complained" | "failing" | "taken" | "disabled" | "failed" | "missing"
        | "mismatch" | "suspended" | "error" | "fail" => "bad",
        "queued" | "scheduled" | "due" | "in_flight" => "run",
        _ => "",
    }
}

/// The head of a page: the way to it, its name, its actions.
pub fn head(crumb: Option<(&str, &str)>, title: &str, actions: &Markup) -> Markup {
    html! {
        header.head {
            div {
                @if let Some((href, name)) = crumb { p.crumbs { a href=(href) { (name) } } }
                h1 { (visible(title)) }
            }
            @if !actions.0.is_empty() { div.row { (actions) } }
        }
    }
}

/// The same with a line under the name: a state and a time.
pub fn head_with(crumb: (&str, &str), title: &str, line: &Markup, actions: &Markup) -> Markup {
    html! {
        header.head {
            div {
                p.crumbs { a href=(crumb.0) { (crumb.1) } }
                h1 { (visible(title)) }
                p { (line) }
            }
            @if !actions.0.is_empty() { div.row { (actions) } }
        }
    }
}

/// A framed part of a page. `name` in `data-part` lets the script renew it.
pub fn panel(title: &str, name: Option<&str>, body: &Markup) -> Markup {
    html! { section.panel data-part=[name] { @if !title.is_empty() { header { h2 { (title) } } } (body) } }
}

/// Text of several lines with a button that copies it.
pub fn block(text: &str) -> Markup {
    html! { div.block { pre tabindex="0" { (visible(text)) } button.button.small.js-only type="button" data-copy { "Copy" } } }
}

/// Names and values.
pub fn pairs(pairs: &[(&str, Markup)]) -> Markup {
    html! { dl.kv { @for (name, value) in pairs { dt { (name) } dd { (value) } } } }
}

/// A number of a row of numbers.
pub struct Number {
    /// What is counted.
    pub name: &'static str,
    /// The number as it is shown.
    pub value: String,
    /// What it is a part of, or a small chart.
    pub text: Markup,
    /// `is-warn` or `is-bad` beyond a threshold, else empty.
    pub class: &'static str,
}

/// A row of numbers.
pub fn numbers(numbers: &[Number]) -> Markup {
    html! {
        dl.stats {
            @for number in numbers {
                div {
                    dt { (number.name) }
                    dd class=(format!("big {}", number.class).trim_end()) { (number.value) }
                    dd { (number.text) }
                }
            }
        }
    }
}

/// A part of an object or a choice of a view, which is a page of its own.
pub struct Tab<'a> {
    /// Its page.
    pub href: String,
    /// Its name.
    pub name: &'a str,
    /// How many there are, beside the name.
    pub count: Option<usize>,
    /// Whether it is shown now.
    pub is_current: bool,
}

/// The parts of an object.
pub fn tabs(label: &str, tabs: &[Tab<'_>]) -> Markup {
    html! {
        nav.tabs aria-label=(label) {
            @for tab in tabs {
                a href=(tab.href) aria-current=[tab.is_current.then_some("page")] {
                    (tab.name) @if let Some(count) = tab.count { " " span.count { (count) } }
                }
            }
        }
    }
}

/// Two to four choices of a view.
pub fn choices(label: &str, tabs: &[Tab<'_>]) -> Markup {
    html! {
        nav.seg aria-label=(label) {
            @for tab in tabs { a href=(tab.href) aria-current=[tab.is_current.then_some("true")] { (tab.name) } }
        }
    }
}

/// A panel that says why it is empty, with what fills it: a command, a button.
pub fn empty_panel(title: &str, text: &str, command: Option<&str>, actions: &Markup) -> Markup {
    html! {
        section.panel {
            div.empty {
                h2 { (title) }
                p { (text) }
                @if let Some(command) = command { (block(command)) }
                @if !actions.0.is_empty() { div.row { (actions) } }
            }
        }
    }
}

/// A secret in the answer to the form that made it, which no page shows again.
pub fn secret(text: &str, secret: &str) -> Markup {
    html! {
        div.secret.stack {
            p { strong { "This is the only time that the secret is shown." } " " (text) }
            (copied(secret))
        }
    }
}

/// A small link like a tag, a scope or a type.
pub fn tag(href: &str, text: &str) -> Markup {
    html! { a.tag href=(href) { (visible(text)) } }
}

/// A name that is cut if it is long.
pub fn slug(text: &str) -> Markup {
    html! { span.slug title=(plain(text)) { (visible(text)) } }
}
