//! What people do with messages that wait: of one message, or of the selected ones.

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::ui::bulk::{self, Answers};
use crate::ui::format;
use crate::ui::request::{PageRequest, segment};
use crate::ui::view::{Outcome, Problem};

/// What a change of deliveries did.
#[derive(Deserialize)]
struct Changed {
    #[serde(default)]
    retried: Vec<Value>,
    #[serde(default)]
    cancelled: Vec<Value>,
    in_flight: Vec<Value>,
}

/// A change that the form names.
pub struct Act(&'static str);

impl Act {
    /// Of a form.
    pub fn of(request: &PageRequest) -> Result<Self, Problem> {
        let found = ["retry", "cancel"].into_iter().find(|verb| request.field("do") == Some(*verb));
        found.map(Self).ok_or_else(Problem::no_action)
    }

    async fn ask(&self, request: &PageRequest, id: &str) -> Result<Changed, Problem> {
        request.post(&format!("/v1/emails/{}/{}", segment(id), self.0), &json!({})).await
    }

    /// Changes the deliveries of one message, and says what came of it.
    pub async fn one(&self, request: &PageRequest) -> Result<String, Problem> {
        Ok(self.note(&[self.ask(request, &request.id).await?]))
    }

    fn note(&self, changed: &[Changed]) -> String {
        let sum = |part: fn(&Changed) -> &Vec<Value>| {
            let count: usize = changed.iter().map(|one| part(one).len()).sum();
            (count, format::counted(count as u64, "delivery", "deliveries"))
        };
        let mut note = match self.0 {
            "retry" => format!("Tried again now: {}.", sum(|one| &one.retried).1),
            _ => format!("Cancelled: {}.", sum(|one| &one.cancelled).1),
        };
        if let (1.., in_flight) = sum(|one| &one.in_flight) {
            note.push_str(&format!(" An attempt is in progress for {in_flight}."));
        }
        note
    }
}

/// The buttons for the selected messages.
pub fn buttons() -> Markup {
    let text = "What is cancelled is not sent; this cannot be undone.";
    let cancel = html! { button.button.danger.sure name="do" value="cancel" { "Cancel the selected" } };
    html! {
        button.button.small name="do" value="retry" { "Retry now" }
        (bulk::question("Cancel…", "danger", text, &cancel))
    }
}

/// Tries the selected messages again, or cancels them.
pub async fn selected(request: PageRequest) -> Outcome {
    let act = Act::of(&request)?;
    let (mut answers, mut changed) = (Answers::default(), Vec::new());
    for id in bulk::ticked(&request)? {
        changed.extend(answers.add(act.ask(&request, id).await));
    }
    answers.finish(&request, act.note(&changed))
}
