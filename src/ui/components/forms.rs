//! Forms and their fields.

use maud::{Markup, html};

use super::visible;
use crate::ui::request::PageRequest;

/// A form with the token of the session; `action` is a path of the pages.
pub fn form(request: &PageRequest, action: &str, fields: &Markup) -> Markup {
    html! { form method="post" action=(request.href(action)) { (request.token()) (fields) } }
}

/// A button that asks before it changes something: the form opens under it, also without the script. `fields` ends with a
/// button.
pub fn confirm(request: &PageRequest, action: &str, label: &str, question: &str, fields: &Markup) -> Markup {
    html! {
        details.confirm {
            summary.button.danger { (label) }
            form method="post" action=(request.href(action)) { (request.token()) p { (visible(question)) } (fields) }
        }
    }
}

/// A labelled input of a form. `kind` is the type of the input.
pub fn input(label: &str, name: &str, kind: &str, value: &str, hint: Option<&str>) -> Markup {
    let (id, hint_id) = (format!("f-{name}"), format!("f-{name}-hint"));
    html! {
        div.field {
            label for=(id) { (label) }
            input id=(id) name=(name) type=(kind) value=(value) aria-describedby=[hint.map(|_| &hint_id)];
            @if let Some(hint) = hint { p.hint id=(hint_id) { (hint) } }
        }
    }
}

/// A labelled choice of a form: the value and the word of each option.
pub fn select(label: &str, name: &str, chosen: &str, options: &[(&str, &str)]) -> Markup {
    let id = format!("f-{name}");
    html! {
        div.field {
            label for=(id) { (label) }
            select id=(id) name=(name) {
                @for (value, word) in options { option value=(value) selected[*value == chosen] { (word) } }
            }
        }
    }
}

/// A labelled field of a filter. `hint` is shown in the empty field.
pub fn search(request: &PageRequest, label: &str, name: &str, hint: &str) -> Markup {
    let id = format!("f-{name}");
    html! {
        div.field {
            label for=(id) { (label) }
            input id=(id) name=(name) type="search" value=(request.parameter(name).unwrap_or_default())
                placeholder=[(!hint.is_empty()).then_some(hint)];
        }
    }
}

/// A labelled text of several lines of a form.
pub fn area(label: &str, name: &str, value: &str, hint: Option<&str>) -> Markup {
    let (id, hint_id) = (format!("f-{name}"), format!("f-{name}-hint"));
    html! {
        div.field {
            label for=(id) { (label) }
            textarea id=(id) name=(name) aria-describedby=[hint.map(|_| &hint_id)] { "\n" (value) }
            @if let Some(hint) = hint { p.hint id=(hint_id) { (hint) } }
        }
    }
}

/// A box to tick.
pub struct Choice<'a> {
    /// What the form sends.
    pub value: &'a str,
    /// What is shown.
    pub word: &'a str,
    /// Whether it is ticked.
    pub is_chosen: bool,
}

/// Boxes to tick, with one name.
pub fn checks(legend: &str, name: &str, choices: &[Choice<'_>]) -> Markup {
    html! {
        fieldset {
            legend { (legend) }
            div.checks {
                @for choice in choices {
                    label.check {
                        input type="checkbox" name=(name) value=(choice.value) checked[choice.is_chosen];
                        code { (visible(choice.word)) }
                    }
                }
            }
        }
    }
}
