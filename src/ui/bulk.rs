//! One change of several objects of a list: those whose boxes are ticked. The API decides about each.

use hyper::StatusCode;
use maud::{Markup, html};

use super::components::{self, visible};
use super::request::PageRequest;
use super::view::{Outcome, Problem, View};

/// The id of the form. A box names it, because its row may have forms of its own.
const FORM: &str = "bulk";
/// The name of the boxes.
const FIELD: &str = "ticked";

/// The box of a row; `name` is read to people who do not see the row.
pub fn tick(id: &str, name: &str) -> Markup {
    html! { label.check { input type="checkbox" form=(FORM) name=(FIELD) value=(id); span.sr { "Select " (visible(name)) } } }
}

/// The form above the rows. It comes back to the same part of the list.
pub fn bar(request: &PageRequest, acts: &Markup) -> Markup {
    html! {
        form.bulk id=(FORM) method="post" action=(request.href(&request.address)) {
            (request.token())
            // Enter in a box presses the first button of the form, even one behind a closed question. This one does nothing.
            button hidden formmethod="dialog" {}
            label.check.js-only { input type="checkbox" data-tick-all; "All" }
            span.soft { "With the selected:" }
            (acts)
        }
    }
}

/// A question for the bar; `answer` is the button that ends it.
pub fn question(label: &str, class: &str, text: &str, answer: &Markup) -> Markup {
    html! {
        details.confirm {
            summary class=(format!("button small {class}").trim_end()) { (label) }
            div.stack { p { (text) } (answer) }
        }
    }
}

/// The ids of the ticked rows.
pub fn ticked(request: &PageRequest) -> Result<Vec<&str>, Problem> {
    let ticked = request.ticked(FIELD);
    if ticked.is_empty() {
        let (message, hint) = ("nothing is selected", "tick rows of the list, then do it again");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed", message, hint));
    }
    Ok(ticked)
}

/// What the API answered to the changes.
#[derive(Default)]
pub struct Answers {
    done: usize,
    refused: Vec<Problem>,
}

impl Answers {
    /// Counts an answer, and returns what was done.
    pub fn add<T>(&mut self, answer: Result<T, Problem>) -> Option<T> {
        match answer {
            Ok(done) => {
                self.done += 1;
                Some(done)
            }
            Err(problem) => {
                self.refused.push(problem);
                None
            }
        }
    }

    /// Back to the list, with what was done and why some of it was not. If nothing was done, the first reason is the answer.
    pub fn finish(self, request: &PageRequest, text: String) -> Outcome {
        let note = match self.refused.first() {
            None => text,
            Some(problem) if self.done == 0 => return Err(problem.clone()),
            Some(problem) => {
                let reason = components::sentence(&problem.message);
                let which = if self.refused.len() > 1 { "The first: " } else { "" };
                format!("{text} Refused: {}. {which}{reason}", self.refused.len())
            }
        };
        View::redirect(request.address.clone(), note)
    }
}
