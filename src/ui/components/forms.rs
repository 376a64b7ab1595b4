//! Forms and their fields.

use maud::{Markup, html};

use crate::ui::request::PageRequest;

/// A form with the token of the session; `action` is a path of the pages.
pub fn form(request: &PageRequest, action: &str, fields: &Markup) -> Markup {
    html! { form method="post" action=(request.href(action)) { (request.token()) (fields) } }
}

/// A question before a change: a form that opens under a button, also without the script.
#[derive(Default)]
pub struct Question<'a> {
    /// The page that the form is sent to.
    pub action: &'a str,
    /// The word on the button that opens it.
    pub label: &'a str,
    /// Classes of that button, such as `danger` and `small`.
    pub class: &'a str,
    /// What is asked.
    pub text: Markup,
}

/// The button and the form. `fields` ends with a button that answers the question.
pub fn confirm(request: &PageRequest, question: &Question<'_>, fields: &Markup) -> Markup {
    let Question { action, label, class, text } = question;
    html! {
        details.confirm {
            summary class=(format!("button {class}").trim_end()) { (label) }
            form method="post" action=(request.href(action)) {
                (request.token())
                @if !text.0.is_empty() { p { (text) } }
                (fields)
            }
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
