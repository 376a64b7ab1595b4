//! The counts in the navigation: mail that waits, and what needs somebody. A session keeps them for half a minute, or until it
//! changes something.

use std::time::Duration;

use maud::{Markup, html};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::findings::Diagnosis;
use super::format;
use super::request::Listed;
use super::session::SessionHandle;
use super::{Ui, frame};
use crate::api::{Ask, Origin};
use crate::mail::{SignedDuration, Timestamp};
use crate::model::FindingStatus;

/// How old they may be.
const AGE_MAX: SignedDuration = SignedDuration::from_secs(30);
/// How long a page waits for each.
const PATIENCE: Duration = Duration::from_millis(500);
/// Objects that are counted; more are `20+`.
const OBJECTS_MAX: usize = 20;

/// What the navigation shows beside the name of a page.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    shown: Vec<(&'static str, Count)>,
    read_at: Option<Timestamp>,
}

#[derive(Debug, Clone)]
struct Count {
    text: String,
    class: &'static str,
}

impl Counts {
    /// The count of a page, if it has one.
    pub fn of(&self, path: &str) -> Markup {
        let found = self.shown.iter().find(|(of, _)| *of == path);
        html! { @if let Some((_, Count { text, class })) = found { " " span class=(format!("count {class}").trim_end()) { (text) } } }
    }

    fn is_fresh(&self, now: Timestamp) -> bool {
        self.read_at.is_some_and(|at| now.duration_since(at) < AGE_MAX)
    }
}

/// The counts of a session, read again if they are too old.
pub async fn renew(ui: &Ui, origin: &Origin, session: &SessionHandle) -> Counts {
    let now = ui.api.now();
    if session.counts.is_fresh(now) {
        return session.counts.clone();
    }
    let asked = Asked { ui, origin, session };
    let (queue, domains, webhooks, doctor) =
        futures_util::join!(asked.queue(), asked.domains(), asked.webhooks(), asked.doctor());
    let shown =
        [("/ui/queue", queue), ("/ui/domains", domains), ("/ui/webhooks", webhooks), ("/ui/doctor", doctor)];
    let shown = shown.into_iter().filter_map(|(path, count)| Some((path, count?))).collect();
    let counts = Counts { shown, read_at: Some(now) };
    ui.sessions.set_counts(session, counts.clone());
    counts
}

struct Asked<'a> {
    ui: &'a Ui,
    origin: &'a Origin,
    session: &'a SessionHandle,
}

impl Asked<'_> {
    /// All deliveries that wait.
    async fn queue(&self) -> Option<Count> {
        #[derive(Deserialize)]
        struct Queue {
            open: u64,
        }
        let Queue { open } = self.get("/ui/queue", "/v1/queue?limit=1").await?;
        (open > 0).then(|| Count { text: format::count(open), class: "" })
    }

    async fn domains(&self) -> Option<Count> {
        self.list("/ui/domains", "/v1/domains?status=failing", "failing", "is-bad").await
    }

    async fn webhooks(&self) -> Option<Count> {
        self.list("/ui/webhooks", "/v1/webhooks?status=disabled", "disabled", "is-warn").await
    }

    /// The errors of the last diagnosis, or else its warnings.
    async fn doctor(&self) -> Option<Count> {
        let Diagnosis { findings, .. } = self.get("/ui/doctor", "/v1/doctor").await?;
        let count = |status| findings.iter().filter(|finding| finding.status == status).count() as u64;
        match (count(FindingStatus::Error), count(FindingStatus::Warning)) {
            (0, 0) => None,
            (0, warnings) => {
                Some(Count { text: format::counted(warnings, "warning", "warnings"), class: "is-warn" })
            }
            (errors, _) => Some(Count { text: format::counted(errors, "error", "errors"), class: "is-bad" }),
        }
    }

    async fn list(&self, page: &str, target: &str, word: &str, class: &'static str) -> Option<Count> {
        let list: Listed<IgnoredAny> = self.get(page, &format!("{target}&limit={OBJECTS_MAX}")).await?;
        let more = if list.next_cursor.is_some() { "+" } else { "" };
        let text = format!("{}{more} {word}", list.data.len());
        (!list.data.is_empty()).then_some(Count { text, class })
    }

    /// What the API says; nothing for a page that the navigation of this session does not have, or if it takes too long.
    async fn get<T: DeserializeOwned>(&self, page: &str, target: &str) -> Option<T> {
        let Self { ui, origin, session } = self;
        if !frame::has(&session.me, page) {
            return None;
        }
        let ask = Ask {
            method: hyper::Method::GET,
            target,
            body: None,
            accept: None,
            signed_in: &session.signed_in,
            origin,
        };
        let answer = tokio::time::timeout(PATIENCE, ui.api.ask(ask)).await.ok()?;
        if !answer.status.is_success() {
            return None;
        }
        serde_json::from_slice(&answer.body).ok()
    }
}
