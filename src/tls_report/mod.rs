//! Reports on TLS (RFC 8460): what the relay counted for a domain on a day is told to whom the domain names for it, by
//! mail or over HTTPS, and then forgotten.
//!
//! Each report has a random time after midnight UTC; what could not be delivered is tried again for a day. That is
//! known in memory only: after a restart a report has its first try again, and its receivers know it by its id. Imports
//! `mail`, `dns`, `store`, `intake`, `https` and the configuration.

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

/// Between two looks at what is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Reports that are on their way at one time.
const REPORTS_MAX: usize = 16;
/// Days of domains that are read at one time.
const PAGE: usize = 500;
/// Receivers that a domain may name.
const RECEIVERS_MAX: usize = 4;
/// How long a receiver may take, and how much of its answer is read.
const POST_LIMITS: Limits =
    Limits { timeout: Duration::from_secs(30), body_octets_max: 4096, excess: OverflowPolicy::Cut };

/// Why reports cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TlsReportError {
    /// The tenant's key cannot be read.
    #[error("key_file {path}: {source}")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Whether the files that the configuration names can be read.
///
/// # Errors
/// [`TlsReportError::KeyFile`].
pub fn check(config: &config::TlsReport) -> Result<(), TlsReportError> {
    config.mail.as_ref().filter(|_| config.enabled).map(letter::read_key).transpose().map(drop)
}

/// What a reporter works with.
pub struct TlsReportDependencies {
    /// Where the counts are.
    pub store: Arc<Store>,
    /// Where domains name their receivers.
    pub resolver: Resolver,
    /// For receivers over HTTPS.
    pub client: Client,
    /// For receivers by mail.
    pub intake: Arc<SubmissionService>,
    /// The server's name: who submits the reports.
    pub hostname: DomainName,
}

/// Sends reports.
pub struct Reporter {
    parts: TlsReportDependencies,
    config: config::TlsReport,
    letters: Option<Letters>,
}

/// A day of a domain.
type Subject = (Date, DomainName);

/// What is known of a report that is not delivered.
struct Pending {
    next_try_at: Timestamp,
    tries: usize,
    progress: ReportProgress,
}

/// How far a report has come.
#[derive(Clone)]
enum ReportProgress {
    /// Nobody has it.
    Begun,
    /// These do not have it.
    Missing(Vec<Receiver>),
}

impl Reporter {
    /// Reads the key of the tenant in whose name reports are mailed.
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

    /// Reports until `stop`. What is cut is tried again after the next start.
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
            return tracing::warn!(%error, "cannot forget old results of TLS");
        }
        let mut after = None;
        loop {
            let page = match self.parts.store.unreported_tls_days(day_of(now), after, PAGE).await {
                Ok(page) => page,
                Err(error) => return tracing::warn!(%error, "cannot look for what is to be reported on TLS"),
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

    /// Notes what came of a try.
    async fn end_one(
        &self,
        ended: Result<(Subject, Option<ReportProgress>), tokio::task::JoinError>,
        pending: &mut HashMap<Subject, Pending>,
    ) {
        let (subject, left) = match ended {
            Ok(ended) => ended,
            Err(error) => return tracing::error!(%error, "the sending of a report on TLS failed"),
        };
        let (day, domain) = &subject;
        if let Some(progress) = left
            && let Some(known) = pending.get_mut(&subject)
        {
            known.tries += 1;
            known.progress = progress;
            match next_try_at(known.tries, Timestamp::now()) {
                Some(at) => return known.next_try_at = at,
                None => tracing::warn!(%day, %domain, "a report on TLS could not be delivered within a day"),
            }
        }
        match self.parts.store.forget_tls_results(*day, domain).await {
            Ok(()) => drop(pending.remove(&subject)),
            // Its receivers know it by its id if it goes to them again.
            Err(error) => tracing::warn!(%day, %domain, %error, "cannot forget results of TLS"),
        }
    }

    /// Tries to deliver a report; what is left to do.
    async fn report(&self, (day, domain): &Subject, progress: ReportProgress) -> Option<ReportProgress> {
        let receivers = match progress {
            ReportProgress::Missing(receivers) => receivers,
            ReportProgress::Begun => match self.receivers(domain).await {
                Ok(receivers) => receivers,
                Err(error) => {
                    tracing::debug!(%day, %domain, %error, "cannot look up who wants reports on TLS");
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
                Ok(()) => tracing::info!(%day, %domain, %receiver, "reported on TLS"),
                Err(error) => {
                    tracing::info!(%day, %domain, %receiver, %error, "cannot report on TLS");
                    missing.push(receiver);
                }
            }
        }
        (!missing.is_empty()).then_some(ReportProgress::Missing(missing))
    }

    /// Who wants reports on a domain and can be reached from here.
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
                tracing::warn!(%day, %domain, %error, "cannot read what is to be reported on TLS");
                return None;
            }
        };
        let author = report::Author {
            hostname: &self.parts.hostname,
            organization: self.config.organization.as_deref(),
            contact: self.config.contact.as_deref(),
        };
        let built = Report::build(&author, day, domain, &results, sts.as_ref());
        built.inspect_err(|error| tracing::error!(%day, %domain, %error, "cannot write a report on TLS")).ok()
    }

    /// RFC 8460 §5.4.
    async fn post(&self, url: Url, body: Bytes) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        let request = Request { method: Method::POST, url, headers, body };
        let sent = self.parts.client.send(request, POST_LIMITS).await;
        let status = sent.map_err(|error| error.to_string())?.status;
        if status.is_success() { Ok(()) } else { Err(format!("it answers {}", status.as_u16())) }
    }

    async fn mail(&self, to: &Address, report: &Report) -> Result<(), String> {
        let Some(letters) = &self.letters else { return Ok(()) };
        letters.send(to, report, &self.parts.hostname).await
    }
}
