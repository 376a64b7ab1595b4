//! Looks at what mail needs to leave and to arrive. `facts` gathers what there is, `checks` decide on facts, without I/O;
//! `catalogue` explains each check, and `text` shows findings to people. `destination` shows how mail to a domain would
//! be sent. A check is OK only on a fact that was seen. Following a fix makes its check OK.

mod catalogue;
mod checks;
mod destination;
mod facts;
mod finding;
mod text;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::acme::Acme;
use crate::clock::{Clock, Instant};
use crate::config::Config;
use crate::dns::{DnsError, Resolver};
use crate::mail::{DomainName, Timestamp};
use crate::model::{EventKind, FindingStatus};
use crate::queue::QueueManager;
use crate::relay::Planner;
use crate::rng::Rng;
use crate::store::{self, Domain, Journal, NewEvent, Store};
use crate::verification::Verifier;

use self::facts::{Gatherer, Lookups, Server};

pub use self::catalogue::{CHECKS, Check, Subject, find as find_check};
pub use self::destination::{destination_status, render_destination};
pub use self::facts::Listening;
pub use self::finding::{Diagnosis, Finding, Fix, FixRecord};
pub use self::text::{explain, render, state_word, summarize};
pub use crate::relay::Destination;

/// How old a diagnosis of the server may be before a request runs it again.
const LIFETIME: Duration = Duration::from_secs(60 * 60);
/// Time between two runs of the scheduler.
const INTERVAL: Duration = Duration::from_secs(60 * 60);
/// The first run waits until the listeners serve.
const FIRST_RUN_AFTER: Duration = Duration::from_secs(60);

/// Looks that are taken only if somebody asks for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extra {
    /// Asks public block lists about the addresses of the server, if the configuration names none.
    pub blocklists: bool,
    /// Reads the whole database.
    pub deep: bool,
    /// Submits a message to the sandbox.
    pub send: bool,
}

impl Extra {
    fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Whether a run with these looks is one that was asked for. A run without any is also [`Doctor::last`], so no other
    /// stands for it.
    fn includes(self, asked: Self) -> bool {
        let has_all = (self.blocklists || !asked.blocklists)
            && (self.deep || !asked.deep)
            && (self.send || !asked.send);
        has_all && (self.is_none() || !asked.is_none())
    }
}

/// What the doctor looks at in a running server.
pub struct DoctorDependencies {
    /// The whole configuration.
    pub config: Arc<Config>,
    /// The open files that its limits need, before they were lowered.
    pub files_needed: usize,
    /// The queue, the webhooks, the domains.
    pub store: Arc<Store>,
    /// Why mail waits.
    pub queue: Arc<QueueManager>,
    /// The name servers of the relay.
    pub resolver: Resolver,
    /// The renewal of the certificate, if that is the server's task.
    pub acme: Option<Arc<Acme>>,
    /// The records of domains.
    pub verifier: Arc<Verifier>,
    /// The clock.
    pub clock: Clock,
}

/// The doctor of a running server.
pub struct Doctor {
    parts: DoctorDependencies,
    listening: OnceLock<Listening>,
    planner: OnceLock<Planner>,
    /// The last run without extra looks.
    last: Mutex<Option<Run>>,
    /// One run at a time. The last one of each selection of extra looks: at most eight.
    runs: tokio::sync::Mutex<Vec<Run>>,
    /// Ends runs when the server stops.
    ended: CancellationToken,
}

/// A run that has ended.
#[derive(Clone)]
struct Run {
    extra: Extra,
    /// When it began. The time in its result is of the wall clock, which may be set back.
    begun: Instant,
    found: Arc<Diagnosis>,
}

impl Doctor {
    /// Nothing has been looked at yet.
    pub fn new(parts: DoctorDependencies) -> Self {
        Self {
            parts,
            listening: OnceLock::new(),
            planner: OnceLock::new(),
            last: Mutex::default(),
            runs: tokio::sync::Mutex::default(),
            ended: CancellationToken::new(),
        }
    }

    /// The listeners to look at, once they are bound.
    pub fn listens_at(&self, listening: Listening) {
        // A server binds its listeners once.
        let _ = self.listening.set(listening);
    }

    /// What explains destinations, once the relay is built.
    pub fn plans_with(&self, planner: Planner) {
        // A server builds its relay once.
        let _ = self.planner.set(planner);
    }

    /// Explains how mail to a domain would be sent; `None` before the relay is built.
    pub fn planner(&self) -> Option<&Planner> {
        self.planner.get()
    }

    /// The last diagnosis, if it is not too old, or a new one; `None` if the server stops. A run goes on if its request goes
    /// away. Requests that wait for a run share the next one that has their `extra`.
    ///
    /// # Errors
    /// The run panicked.
    pub async fn diagnose(
        self: &Arc<Self>,
        refresh: bool,
        extra: Extra,
    ) -> Result<Option<Arc<Diagnosis>>, JoinError> {
        let doctor = Arc::clone(self);
        let ended = self.ended.clone();
        let run = async move { doctor.look(refresh, extra).await };
        tokio::spawn(ended.run_until_cancelled_owned(run).in_current_span()).await
    }

    async fn look(&self, refresh: bool, extra: Extra) -> Arc<Diagnosis> {
        let asked_at = self.parts.clock.instant();
        let is_recent = |last: &Run| asked_at.saturating_duration_since(last.begun) < LIFETIME;
        let recent = || {
            let last = self.last.lock().clone().filter(|_| !refresh && extra.is_none());
            last.filter(is_recent).map(|last| last.found)
        };
        if let Some(found) = recent() {
            return found;
        }
        let mut runs = self.runs.lock().await;
        let shared = runs.iter().find(|run| run.extra.includes(extra) && run.begun >= asked_at);
        if let Some(found) = shared.map(|run| Arc::clone(&run.found)).or_else(recent) {
            return found;
        }
        let begun = self.parts.clock.instant();
        let fresh = Run { extra, begun, found: self.run_checks(extra).await };
        runs.retain(|run| run.extra != extra);
        runs.push(fresh.clone());
        // The next hourly run cannot repeat the extra looks, so their result is only returned, not kept.
        if extra.is_none() {
            let before = self.last.lock().replace(fresh.clone());
            if let Some(before) = before {
                self.note_changes(&before.found, &fresh.found).await;
            }
        }
        fresh.found
    }

    async fn run_checks(&self, extra: Extra) -> Arc<Diagnosis> {
        let now = self.parts.clock.now();
        let start = Instant::now();
        let findings = checks::server(&self.gatherer(now, extra).gather().await);
        Arc::new(diagnosis(self.parts.config.hostname.to_string(), findings, now, start))
    }

    /// The records of a domain, now.
    ///
    /// # Errors
    /// The errors of the store.
    pub async fn diagnose_domain(&self, domain: &Domain) -> store::Result<Diagnosis> {
        let now = self.parts.clock.now();
        let start = Instant::now();
        let settings = &self.parts.verifier.settings;
        let facts =
            facts::gather_domain(&self.gatherer(now, Extra::default()), domain, &self.parts.store, settings)
                .await?;
        Ok(diagnosis(domain.name.to_string(), checks::domain(&facts), now, start))
    }

    /// The last diagnosis, for metrics and the overview.
    pub fn last(&self) -> Option<Arc<Diagnosis>> {
        self.last.lock().as_ref().map(|last| Arc::clone(&last.found))
    }

    /// Looks at the server every hour until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let _ended = self.ended.clone().drop_guard();
        let first = tokio::time::Instant::now() + FIRST_RUN_AFTER;
        let mut runs = tokio::time::interval_at(first, INTERVAL);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = runs.tick() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                found = self.diagnose(true, Extra::default()) => match found {
                    Ok(found) => found.iter().for_each(|found| log(found)),
                    Err(error) => tracing::error!(%error, "the doctor failed"),
                }
            }
        }
    }

    fn gatherer(&self, now: Timestamp, extra: Extra) -> Gatherer<'_> {
        let DoctorDependencies { config, store, queue, resolver, acme, .. } = &self.parts;
        Gatherer {
            config,
            file: None,
            lookups: Lookups::new(resolver),
            egress_domain: None,
            extra,
            server: Some(Server { store, queue }),
            files_needed: self.parts.files_needed,
            acme: acme.as_deref(),
            listening: self.listening.get(),
            now,
        }
    }

    /// An event for each check whose status has changed.
    async fn note_changes(&self, before: &Diagnosis, after: &Diagnosis) {
        for change in changes(before, after) {
            let Change { check, from, to, finding } = change;
            let event = NewEvent {
                kind: EventKind::DoctorChanged,
                tenant_id: None,
                environment: None,
                data: json!({
                    "check": check,
                    "subject": finding.subject,
                    "from": from,
                    "to": to,
                    "text": finding.text,
                }),
                at: after.at,
            };
            if let Err(error) = self.parts.store.append(event).await {
                tracing::warn!(%error, check, "cannot append the event of a check");
            }
        }
    }
}

/// A check whose status has changed.
struct Change<'a> {
    check: &'a str,
    from: FindingStatus,
    to: FindingStatus,
    /// The worst finding of the check now.
    finding: &'a Finding,
}

/// A look that failed, or that could be taken again, says nothing about what it looked at.
fn changes<'a>(before: &Diagnosis, after: &'a Diagnosis) -> Vec<Change<'a>> {
    let old = worst_of_each(before);
    let changed = worst_of_each(after).into_iter().filter_map(|(check, finding)| {
        let (from, to) = (old.get(check)?.status, finding.status);
        let is_known = from != FindingStatus::Skipped && to != FindingStatus::Skipped;
        (from != to && is_known).then_some(Change { check, from, to, finding })
    });
    changed.collect()
}

/// The findings of a diagnosis are sorted, the worst first.
fn worst_of_each(diagnosis: &Diagnosis) -> BTreeMap<&str, &Finding> {
    let mut worst = BTreeMap::new();
    for finding in &diagnosis.findings {
        worst.entry(finding.id.as_ref()).or_insert(finding);
    }
    worst
}

fn log(diagnosis: &Diagnosis) {
    for finding in diagnosis.findings.iter().filter(|finding| finding.status >= FindingStatus::Warning) {
        tracing::warn!(check = %finding.id, subject = finding.subject, status = %finding.status, "{}", finding.text);
    }
}

fn diagnosis(subject: String, findings: Vec<Finding>, at: Timestamp, start: Instant) -> Diagnosis {
    let duration_ms = start.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
    Diagnosis::new(subject, findings, at, duration_ms)
}

/// Looks at a server that does not run, or whose API cannot be reached. `file` is the name of the configuration's file.
///
/// # Errors
/// No resolver can be made.
pub async fn diagnose_locally(
    config: &Config,
    file: String,
    egress_domain: Option<DomainName>,
    extra: Extra,
    now: Timestamp,
) -> Result<Diagnosis, DnsError> {
    let start = Instant::now();
    let resolver = Resolver::new(&config.relay.name_servers, Rng::system())?;
    let gatherer = Gatherer {
        config,
        file: Some(file),
        lookups: Lookups::new(&resolver),
        egress_domain,
        extra,
        server: None,
        acme: None,
        listening: None,
        files_needed: config.open_files(),
        now,
    };
    let findings = checks::server(&gatherer.gather().await);
    Ok(diagnosis(config.hostname.to_string(), findings, now, start))
}

/// The diagnosis of a configuration that cannot be read.
pub fn diagnose_invalid_config(file: &str, error: &str, now: Timestamp) -> Diagnosis {
    Diagnosis::new(file, checks::invalid_config(file, error), now, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_stands_for_one_with_fewer_extra_looks_but_not_for_one_without_any() {
        let none = Extra::default();
        let deep = Extra { deep: true, ..none };
        let lists = Extra { blocklists: true, ..none };
        let both = Extra { deep: true, ..lists };
        for (run, asked, expected) in [
            (none, none, true),
            (deep, none, false),
            (none, deep, false),
            (deep, deep, true),
            (both, deep, true),
            (both, lists, true),
            (deep, both, false),
            (lists, deep, false),
            (Extra { send: true, ..none }, deep, false),
        ] {
            assert_eq!(run.includes(asked), expected, "{run:?} {asked:?}");
        }
    }
}
