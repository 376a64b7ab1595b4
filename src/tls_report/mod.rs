//! SMTP TLS reports (RFC 8460): sends the results that the relay recorded for a domain and day to the receivers that
//! the domain publishes, by mail or HTTPS, and then deletes them.
//!
//! Each report is sent at a random time after midnight UTC and retried for a day. The schedule is in memory only:
//! after a restart a report may be sent again; receivers recognize it by its report id.

mod letter;
mod record;
mod report;
mod schedule;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::config;
use crate::dns::{DnsError, Resolver};
use crate::http_client::{Client, Limits, OverflowPolicy, Request};
use crate::mail::{Address, Date, DomainName, Timestamp};
use crate::store::{Policies, Store, TlsResults};
use crate::submission::SubmissionService;
use letter::Letters;
use record::Receiver;
use report::{MEDIA_TYPE, Report};
use schedule::{day_of, first_try_at, next_try_at, oldest_kept};

/// Time between two polls for due reports.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Reports in progress at one time.
const REPORTS_MAX: usize = 16;
/// Domain days read from the store at one time.
const PAGE: usize = 500;
/// Maximum of receivers of one domain.
const RECEIVERS_MAX: usize = 4;
/// Limits of an HTTPS report.
const POST_LIMITS: Limits =
    Limits { timeout: Duration::from_secs(30), body_octets_max: 4096, excess: OverflowPolicy::Cut };

/// Why the reporter cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TlsReportError {
    /// The tenant's key cannot be read.
    #[error("key_file {path}: {source}")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
}

/// Checks that the files named in the configuration are readable.
///
/// # Errors
/// [`TlsReportError::KeyFile`].
pub fn check(config: &config::TlsReport) -> Result<(), TlsReportError> {
    config.mail.as_ref().filter(|_| config.enabled).map(letter::read_key).transpose().map(drop)
}

/// The services that the reporter uses.
pub struct TlsReportDependencies {
    /// The recorded results.
    pub store: Arc<Store>,
    /// Resolves the receivers of a domain.
    pub resolver: Resolver,
    /// Sends reports over HTTPS.
    pub client: Client,
    /// Submits reports by mail.
    pub intake: Arc<SubmissionService>,
    /// The host name of the server, as submitter of reports.
    pub hostname: DomainName,
}

/// The background task that sends reports.
pub struct Reporter {
    parts: TlsReportDependencies,
    config: config::TlsReport,
    letters: Option<Letters>,
}

/// One domain and day.
type Subject = (Date, DomainName);

/// The schedule of a report that is not delivered to all receivers yet.
struct Pending {
    next_try_at: Timestamp,
    tries: usize,
    progress: ReportProgress,
}

/// The receivers that do not have a report yet.
#[derive(Clone)]
enum ReportProgress {
    /// Not looked up yet.
    Begun,
    /// These.
    Missing(Vec<Receiver>),
}

impl Reporter {
    /// Reads the key of the tenant that mails reports.
    ///
    /// # Errors
    /// [`TlsReportError::KeyFile`].
    pub fn new(config: config::TlsReport, parts: TlsReportDependencies) -> Result<Self, TlsReportError> {
        let letters = match &config.mail {
            Some(mail) => Some(Letters::new(mail, parts.intake.clone())?),
            None => None,
        };
        Ok(Self { parts, config, letters })
    }

    /// Sends reports until `stop`. An interrupted report is retried after the next start.
    pub async fn run(self, stop: CancellationToken) {
        let reporter = Arc::new(self);
        let mut pending = HashMap::new();
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let rounds = async {
            loop {
                looks.tick().await;
                reporter.round(&mut pending).await;
            }
        };
        stop.run_until_cancelled(rounds).await;
    }

    async fn round(self: &Arc<Self>, pending: &mut HashMap<Subject, Pending>) {
        let now = Timestamp::now();
        let oldest = oldest_kept(now);
        pending.retain(|(day, _), _| *day >= oldest);
        if let Err(error) = self.parts.store.forget_tls_results_before(oldest).await {
            return tracing::warn!(%error, "cannot delete old TLS results");
        }
        let mut after = None;
        loop {
            let page = match self.parts.store.unreported_tls_days(day_of(now), after, PAGE).await {
                Ok(page) => page,
                Err(error) => return tracing::warn!(%error, "cannot read due TLS reports"),
            };
            after = page.last().cloned();
            let is_last = page.len() < PAGE;
            self.report_due(page, pending, now).await;
            if is_last {
                return;
            }
        }
    }

    async fn report_due(
        self: &Arc<Self>,
        subjects: Vec<Subject>,
        pending: &mut HashMap<Subject, Pending>,
        now: Timestamp,
    ) {
        let mut running = JoinSet::new();
        for subject in subjects {
            let known = pending.entry(subject.clone()).or_insert_with(|| Pending {
                next_try_at: first_try_at(subject.0, self.config.delay_max, rand::random()),
                tries: 0,
                progress: ReportProgress::Begun,
            });
            if known.next_try_at > now {
                continue;
            }
            if running.len() >= REPORTS_MAX
                && let Some(ended) = running.join_next().await
            {
                self.end_one(ended, pending).await;
            }
            let (reporter, progress) = (self.clone(), pending[&subject].progress.clone());
            running.spawn(async move {
                let left = reporter.report(&subject, progress).await;
                (subject, left)
            });
        }
        while let Some(ended) = running.join_next().await {
            self.end_one(ended, pending).await;
        }
    }

    /// Records the result of an attempt.
    async fn end_one(
        &self,
        ended: Result<(Subject, Option<ReportProgress>), tokio::task::JoinError>,
        pending: &mut HashMap<Subject, Pending>,
    ) {
        let (subject, left) = match ended {
            Ok(ended) => ended,
            Err(error) => return tracing::error!(%error, "the task of a TLS report failed"),
        };
        let (day, domain) = &subject;
        if let Some(progress) = left
            && let Some(known) = pending.get_mut(&subject)
        {
            known.tries += 1;
            known.progress = progress;
            match next_try_at(known.tries, Timestamp::now()) {
                Some(at) => return known.next_try_at = at,
                None => tracing::warn!(%day, %domain, "TLS report not delivered within a day"),
            }
        }
        match self.parts.store.forget_tls_results(*day, domain).await {
            Ok(()) => drop(pending.remove(&subject)),
            // The report may be sent again; receivers recognize it by its id.
            Err(error) => tracing::warn!(%day, %domain, %error, "cannot delete TLS results"),
        }
    }

    /// Attempts to deliver a report. Returns the receivers that remain.
    async fn report(&self, (day, domain): &Subject, progress: ReportProgress) -> Option<ReportProgress> {
        let receivers = match progress {
            ReportProgress::Missing(receivers) => receivers,
            ReportProgress::Begun => match self.receivers(domain).await {
                Ok(receivers) => receivers,
                Err(error) => {
                    tracing::debug!(%day, %domain, %error, "cannot look up the receivers of TLS reports");
                    return Some(ReportProgress::Begun);
                }
            },
        };
        if receivers.is_empty() {
            return None;
        }
        let Some(report) = self.build(*day, domain).await else {
            return Some(ReportProgress::Missing(receivers));
        };
        let mut missing = Vec::new();
        for receiver in receivers {
            let delivered = match &receiver {
                Receiver::Https(url) => self.post(url.clone(), report.compressed.clone()).await,
                Receiver::Mail(address) => self.mail(address, &report).await,
            };
            match delivered {
                Ok(()) => tracing::info!(%day, %domain, %receiver, "TLS report delivered"),
                Err(error) => {
                    tracing::info!(%day, %domain, %receiver, %error, "cannot deliver TLS report");
                    missing.push(receiver);
                }
            }
        }
        (!missing.is_empty()).then_some(ReportProgress::Missing(missing))
    }

    /// The receivers of a domain that this server can reach.
    async fn receivers(&self, domain: &DomainName) -> Result<Vec<Receiver>, DnsError> {
        let texts = match self.parts.resolver.texts(&format!("_smtp._tls.{domain}")).await {
            Ok(texts) => texts,
            Err(DnsError::NoSuchDomain | DnsError::NoRecords) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut receivers = record::read(texts.iter().map(String::as_str));
        receivers.retain(|receiver| self.letters.is_some() || matches!(receiver, Receiver::Https(_)));
        receivers.truncate(RECEIVERS_MAX);
        Ok(receivers)
    }

    async fn build(&self, day: Date, domain: &DomainName) -> Option<Report> {
        let store = &self.parts.store;
        let gathered = async {
            let results = store.tls_results(day, domain).await?;
            Ok::<_, crate::store::StoreError>((results, store.sts_policy(domain, Timestamp::now()).await?))
        };
        let (results, sts) = match gathered.await {
            Ok(gathered) => gathered,
            Err(error) => {
                tracing::warn!(%day, %domain, %error, "cannot read TLS results");
                return None;
            }
        };
        let author = report::Author {
            hostname: &self.parts.hostname,
            organization: self.config.organization.as_deref(),
            contact: self.config.contact.as_deref(),
        };
        let built = Report::build(&author, day, domain, &results, sts.as_ref());
        built.inspect_err(|error| tracing::error!(%day, %domain, %error, "cannot build TLS report")).ok()
    }

    /// Sends a report over HTTPS (RFC 8460 §5.4).
    async fn post(&self, url: Url, body: Bytes) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        let request = Request { method: Method::POST, url, headers, body };
        let sent = self.parts.client.send(request, POST_LIMITS).await;
        let status = sent.map_err(|error| error.to_string())?.status;
        if status.is_success() { Ok(()) } else { Err(format!("the receiver replied {}", status.as_u16())) }
    }

    async fn mail(&self, to: &Address, report: &Report) -> Result<(), String> {
        let Some(letters) = &self.letters else { return Ok(()) };
        letters.send(to, report, &self.parts.hostname).await
    }
}
