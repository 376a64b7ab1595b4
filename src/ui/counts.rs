//! The counts in the navigation: mail that waits, and what needs attention. A session keeps them for half a minute, or until it
//! changes something. What takes long appears in a later page.

use std::collections::BTreeMap;
use std::sync::Arc;
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
use crate::model::{DisabledReason, FindingStatus};

/// How old they may be.
const AGE_MAX: SignedDuration = SignedDuration::from_secs(30);
/// How long a page waits for them.
const PATIENCE: Duration = Duration::from_millis(500);
/// Objects that are counted; more are `20+`.
const OBJECTS_MAX: usize = 20;

/// What the navigation shows beside the name of a page.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// By the path of the page.
    shown: BTreeMap<&'static str, Count>,
    /// When they were last read, or began to be.
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
        html! { @if let Some(Count { text, class }) = self.shown.get(path) { " " span class=(format!("count {class}").trim_end()) { (text) } } }
    }

    /// The next page reads them again.
    pub fn expire(&mut self) {
        self.read_at = None;
    }

    /// Whether they are too old. Then the caller reads them, and no other page does so meanwhile.
    fn begin_to_read(&mut self, now: Timestamp) -> bool {
        let is_due = self.read_at.is_none_or(|at| now.duration_since(at) >= AGE_MAX);
        if is_due {
            self.read_at = Some(now);
        }
        is_due
    }

    fn set(&mut self, path: &'static str, count: Option<Count>) {
        match count {
            Some(count) => self.shown.insert(path, count),
            None => self.shown.remove(path),
        };
    }
}

/// The counts of a session, read again if they are too old.
pub async fn renew(ui: &Arc<Ui>, origin: &Origin, session: &SessionHandle) -> Counts {
    let now = ui.api.now();
    let mut is_due = false;
    let counts = ui.sessions.change_counts(session, |counts| is_due = counts.begin_to_read(now));
    if !is_due {
        return counts;
    }
    let asked = Asked { ui: Arc::clone(ui), origin: origin.clone(), session: session.clone() };
    let stop = origin.tasks.stop.clone();
    let reading = stop.run_until_cancelled_owned(async move { asked.all().await });
    // It goes on when the page no longer waits, and is no reason to delay a stop.
    let _ = tokio::time::timeout(PATIENCE, origin.tasks.finish(reading)).await;
    ui.sessions.change_counts(session, |_| {})
}

struct Asked {
    ui: Arc<Ui>,
    origin: Origin,
    session: SessionHandle,
}

impl Asked {
    /// Each is shown as soon as it is known.
    async fn all(&self) {
        futures_util::join!(
            self.show("/ui/queue", self.queue()),
            self.show("/ui/domains", self.domains()),
            self.show("/ui/webhooks", self.webhooks()),
            self.show("/ui/doctor", self.doctor()),
        );
    }

    async fn show(&self, path: &'static str, count: impl Future<Output = Option<Count>>) {
        let count = count.await;
        self.ui.sessions.change_counts(&self.session, |counts| counts.set(path, count));
    }

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
        let list: Listed<IgnoredAny> = self.list("/ui/domains", "/v1/domains?status=failing").await?;
        count_of(&list, "failing", "is-bad")
    }

    /// Those that the server disabled.
    async fn webhooks(&self) -> Option<Count> {
        #[derive(Deserialize)]
        struct Webhook {
            disabled_reason: Option<DisabledReason>,
        }
        let mut list: Listed<Webhook> = self.list("/ui/webhooks", "/v1/webhooks?status=disabled").await?;
        list.data.retain(|webhook| webhook.disabled_reason != Some(DisabledReason::Manual));
        count_of(&list, "disabled", "is-warn")
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

    async fn list<T: DeserializeOwned>(&self, page: &str, target: &str) -> Option<Listed<T>> {
        self.get(page, &format!("{target}&limit={OBJECTS_MAX}")).await
    }

    /// What the API says; nothing for a page that the navigation of this session does not have.
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
        let answer = ui.api.ask(ask).await;
        if !answer.status.is_success() {
            return None;
        }
        serde_json::from_slice(&answer.body).ok()
    }
}

fn count_of<T>(list: &Listed<T>, word: &str, class: &'static str) -> Option<Count> {
    let more = if list.next_cursor.is_some() { "+" } else { "" };
    let text = format!("{}{more} {word}", list.data.len());
    (!list.data.is_empty()).then_some(Count { text, class })
}
