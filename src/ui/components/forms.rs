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
