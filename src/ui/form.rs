//! Forms that keep what was typed when the API refuses it, and show each error at its field.

use maud::{Markup, html};
use serde_json::Value;

use super::components::{self, visible};
use super::request::PageRequest;
use super::view::Problem;

/// A form. The name of a field is its path in the body of the API, so errors find their fields.
pub struct Form<'a> {
    request: &'a PageRequest,
    /// Begins the ids of its fields; a page may have several forms.
    prefix: &'a str,
    /// Why it was refused, if it was.
    problem: Option<&'a Problem>,
}

/// A field of a form. Empty parts are left out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Field<'a> {
    /// The words before it.
    pub label: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its present value.
    pub value: &'a str,
    /// The type of its input; `text` if empty.
    pub kind: &'a str,
    /// A sentence under it.
    pub hint: &'a str,
    /// What is shown in it while it is empty.
    pub placeholder: &'a str,
}

impl<'a> Form<'a> {
    /// A form of a page.
    pub fn new(request: &'a PageRequest, prefix: &'a str, problem: Option<&'a Problem>) -> Self {
        Self { request, prefix, problem }
    }

    /// The value of a field: the typed one if the form was refused.
    pub fn value<'v>(&'v self, name: &str, present: &'v str) -> &'v str {
        match self.problem {
            Some(_) => self.request.typed(name).unwrap_or_default(),
            None => present,
        }
    }

    /// Why the form was refused.
    pub fn problem(&self) -> Markup {
        html! { @if let Some(problem) = self.problem { (components::problem(problem)) } }
    }

    /// An input.
    pub fn input(&self, field: Field<'_>) -> Markup {
        let id = self.id(field.name);
        let value = self.value(field.name, field.value);
        self.labelled(
            field,
            &html! {
                input id=(id) name=(field.name) type=(if field.kind.is_empty() { "text" } else { field.kind })
                    value=(value) placeholder=[some(field.placeholder)]
                    aria-invalid=[self.error(field.name).map(|_| "true")] aria-describedby=[self.described_by(field)];
            },
        )
    }

    /// A text of several lines.
    pub fn area(&self, field: Field<'_>) -> Markup {
        let id = self.id(field.name);
        let value = self.value(field.name, field.value);
        self.labelled(
            field,
            &html! {
                textarea id=(id) name=(field.name) placeholder=[some(field.placeholder)] spellcheck="false"
                    aria-invalid=[self.error(field.name).map(|_| "true")] aria-describedby=[self.described_by(field)] {
                    // A browser drops the first line end.
                    "\n" (value)
                }
            },
        )
    }

    /// A choice: the value and the word of each option.
    pub fn select(&self, field: Field<'_>, options: &[(&str, &str)]) -> Markup {
        let id = self.id(field.name);
        let chosen = self.value(field.name, field.value);
        self.labelled(
            field,
            &html! {
                select id=(id) name=(field.name)
                    aria-invalid=[self.error(field.name).map(|_| "true")] aria-describedby=[self.described_by(field)] {
                    @for (value, word) in options { option value=(value) selected[*value == chosen] { (visible(word)) } }
                }
            },
        )
    }

    /// Boxes to tick: the value and the word of each.
    pub fn checks(&self, legend: &str, name: &str, options: &[(&str, &str)], ticked: &[&str]) -> Markup {
        let is_ticked = |value: &str| match self.problem {
            Some(_) => self.request.form.iter().any(|(key, typed)| key == name && typed == value),
            None => ticked.contains(&value),
        };
        html! {
            fieldset {
                legend { (legend) }
                div.checks {
                    @for (value, word) in options {
                        label.check {
                            input type="checkbox" name=(name) value=(value) checked[is_ticked(value)];
                            code { (visible(word)) }
                        }
                    }
                }
                @if let Some(error) = self.error(name) { p.error { (visible(error)) } }
            }
        }
    }

    fn labelled(&self, field: Field<'_>, input: &Markup) -> Markup {
        let id = self.id(field.name);
        html! {
            div.field {
                label for=(id) { (field.label) }
                (input)
                @if !field.hint.is_empty() { p.hint id={ (id) "-hint" } { (field.hint) } }
                @if let Some(error) = self.error(field.name) { p.error id={ (id) "-error" } { (visible(error)) } }
            }
        }
    }

    fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    fn described_by(&self, field: Field<'_>) -> Option<String> {
        let id = self.id(field.name);
        match self.error(field.name) {
            Some(_) => Some(format!("{id}-error")),
            None => (!field.hint.is_empty()).then(|| format!("{id}-hint")),
        }
    }

    /// What is wrong with a field, or with an element of it.
    fn error(&self, name: &str) -> Option<&str> {
        let is_of = |path: &str| {
            path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']))
        };
        let found = self.problem?.fields.iter().find(|field| is_of(&field.path));
        found.map(|field| field.message.as_str())
    }
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

impl PageRequest {
    /// A field as JSON; `null` if it is empty.
    pub fn text_or_null(&self, name: &str) -> Value {
        self.field(name).into()
    }

    /// A number; a text that is none goes to the API, which says what is wrong with it.
    pub fn number_or_null(&self, name: &str) -> Value {
        let read = |text: &str| text.parse().map_or_else(|_| text.into(), Value::Number);
        self.field(name).map_or(Value::Null, read)
    }

    /// A time of `<input type="datetime-local">`, which has no zone and perhaps no seconds: it means UTC.
    pub fn time_or_null(&self, name: &str) -> Value {
        let read = |text: &str| match text.len() {
            16 => format!("{text}:00Z").into(),
            19 => format!("{text}Z").into(),
            _ => text.into(),
        };
        self.field(name).map_or(Value::Null, read)
    }

    /// Every value of a field, such as those of boxes.
    pub fn ticked(&self, name: &str) -> Vec<&str> {
        let of_name = self.form.iter().filter(|(key, _)| key == name);
        of_name.map(|(_, value)| value.trim()).filter(|value| !value.is_empty()).collect()
    }

    /// The words of a field, separated by spaces, commas or line ends.
    pub fn words(&self, name: &str) -> Vec<&str> {
        let text = self.field(name).unwrap_or_default();
        text.split([' ', ',', '\n', '\r', '\t']).filter(|word| !word.is_empty()).collect()
    }
}
