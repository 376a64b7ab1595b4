//! SMTP TLS reports (RFC 8460): sends the results that the relay recorded for a domain and day to the receivers that
//! the domain publishes, by mail or HTTPS, and then deletes them.
//!
//! Each report is sent at a random time after midnight UTC and retried for a day. The schedule is in memory only:
//! after a restart a report may be sent again; receivers recognize it by its report id.

mod mailer;
pub mod record;
mod report;
mod schedule;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::clock::Clock;
use crate::config;
use crate::dns::{DnsError, Resolver};
use crate::http_client::{Client, Limits, OverflowPolicy, Request};
use crate::mail::{Address, Date, DomainName, Timestamp};
use crate::rng::Rng;
use crate::store::{Duty, Store, StsPolicies, TlsResults};
use crate::submission::{KeyFileError, SubmissionService, read_key_file};
use mailer::ReportMailer;
use record::Receiver;
use report::{MEDIA_TYPE, Report};
use schedule::{day_of, first_try_at, next_try_at, oldest_retained};

/// Time between two polls for due reports.
const POLL_INTERVAL: Duration = Duration::from_secs(60);
/// Reports in progress at one time.
const REPORTS_MAX: usize = 16;
/// Domain days read from the store at one time.
const PAGE: usize = 500;
/// Maximum of receivers of one domain.
const RECEIVERS_MAX: usize = 4;
/// Limits of an HTTPS report.
const POST_LIMITS: Limits =
    Limits { timeout: Duration::from_secs(30), body_octets_max: 4096, overflow: OverflowPolicy::Truncate };

/// Checks that the files named in the configuration are readable.
///
/// # Errors
/// [`KeyFileError`].
pub fn check(config: &config::TlsReport) -> Result<(), KeyFileError> {
    let mail = config.mail.as_ref().filter(|_| config.enabled);
    mail.map(|mail| read_key_file(&mail.key_file)).transpose().map(drop)
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
    pub submission: Arc<SubmissionService>,
    /// The clock that decides which reports are due.
    pub clock: Clock,
    /// The randomness of the time of a report.
    pub rng: Rng,
    /// The host name of the server, as submitter of reports.
    pub hostname: DomainName,
}

/// The background task that sends reports.
pub struct Reporter {
    services: TlsReportDependencies,
    config: config::TlsReport,
    mailer: Option<ReportMailer>,
}

/// One domain and day.
type DomainDay = (Date, DomainName);

/// The schedule of a report that is not delivered to all receivers yet.
struct Pending {
    next_try_at: Timestamp,
    tries: usize,
    receivers: PendingReceivers,
}

/// The receivers to which the report is not delivered yet.
#[derive(Clone)]
enum PendingReceivers {
    /// Not looked up yet.
    Unresolved,
    /// The remaining receivers.
    Remaining(Vec<Receiver>),
}

impl Reporter {
    /// Reads the key of the tenant that mails reports.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn new(config: config::TlsReport, services: TlsReportDependencies) -> Result<Self, KeyFileError> {
        let mailer = match &config.mail {
            Some(mail) => Some(ReportMailer::new(mail, services.submission.clone())?),
            None => None,
        };
        Ok(Self { services, config, mailer })
    }

    /// Sends reports until `stop`. An interrupted report is retried after the next start.
    pub async fn run(self, stop: CancellationToken) {
        let reporter = Arc::new(self);
        let mut pending = HashMap::new();
        let mut ticks = reporter.services.clock.interval(POLL_INTERVAL);
        let polling = async {
            loop {
                ticks.tick().await;
                if reporter.services.store.has_duty(Duty::TlsReports) {
                    reporter.poll(&mut pending).await;
                }
            }
        };
        stop.run_until_cancelled(polling).await;
    }

    async fn poll(self: &Arc<Self>, pending: &mut HashMap<DomainDay, Pending>) {
        let now = self.services.clock.now();
        let oldest = oldest_retained(now);
        pending.retain(|(day, _), _| *day >= oldest);
        if let Err(error) = self.services.store.delete_tls_results_before(oldest).await {
            return tracing::warn!(%error, "cannot delete old TLS results");
        }
        let mut after = None;
        loop {
            let page = match self.services.store.unreported_tls_days(day_of(now), after, PAGE).await {
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
        due: Vec<DomainDay>,
        pending: &mut HashMap<DomainDay, Pending>,
        now: Timestamp,
    ) {
        let mut running = JoinSet::new();
        for domain_day in due {
            let scheduled = pending.entry(domain_day.clone()).or_insert_with(|| Pending {
                next_try_at: first_try_at(domain_day.0, self.config.delay_max, self.services.rng.random()),
                tries: 0,
                receivers: PendingReceivers::Unresolved,
            });
            if scheduled.next_try_at > now {
                continue;
            }
            if running.len() >= REPORTS_MAX
                && let Some(ended) = running.join_next().await
            {
                self.finish(ended, pending).await;
            }
            let (reporter, receivers) = (self.clone(), pending[&domain_day].receivers.clone());
            running.spawn(async move {
                let left = reporter.report(&domain_day, receivers).await;
                (domain_day, left)
            });
        }
        while let Some(ended) = running.join_next().await {
            self.finish(ended, pending).await;
        }
    }

    /// Records the result of an attempt.
    async fn finish(
        &self,
        ended: Result<(DomainDay, Option<PendingReceivers>), tokio::task::JoinError>,
        pending: &mut HashMap<DomainDay, Pending>,
    ) {
        let (domain_day, left) = match ended {
            Ok(ended) => ended,
            Err(error) => return tracing::error!(%error, "the task that sends a TLS report failed"),
        };
        let (day, domain) = &domain_day;
        if let Some(receivers) = left
            && let Some(scheduled) = pending.get_mut(&domain_day)
        {
            scheduled.tries += 1;
            scheduled.receivers = receivers;
            match next_try_at(scheduled.tries, self.services.clock.now()) {
                Some(at) => return scheduled.next_try_at = at,
                None => tracing::warn!(%day, %domain, "TLS report not delivered within a day"),
            }
        }
        match self.services.store.delete_tls_results(*day, domain).await {
            Ok(()) => drop(pending.remove(&domain_day)),
            // The report may be sent again; receivers recognize it by its id.
            Err(error) => tracing::warn!(%day, %domain, %error, "cannot delete TLS results"),
        }
    }

    /// Attempts to deliver a report. Returns the receivers that remain.
    async fn report(
        &self,
        (day, domain): &DomainDay,
        receivers: PendingReceivers,
    ) -> Option<PendingReceivers> {
        let receivers = match receivers {
            PendingReceivers::Remaining(receivers) => receivers,
            PendingReceivers::Unresolved => match self.receivers(domain).await {
                Ok(receivers) => receivers,
                Err(error) => {
                    tracing::debug!(%day, %domain, %error, "cannot look up the receivers of TLS reports");
                    return Some(PendingReceivers::Unresolved);
                }
            },
        };
        if receivers.is_empty() {
            return None;
        }
        let Some(report) = self.build(*day, domain).await else {
            return Some(PendingReceivers::Remaining(receivers));
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
        (!missing.is_empty()).then_some(PendingReceivers::Remaining(missing))
    }

    /// The receivers of a domain that this server can reach.
    async fn receivers(&self, domain: &DomainName) -> Result<Vec<Receiver>, DnsError> {
        let texts = match self.services.resolver.texts(&format!("_smtp._tls.{domain}")).await {
            Ok(texts) => texts,
            Err(DnsError::NoSuchDomain | DnsError::NoRecords) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut receivers = record::read(texts.iter().map(String::as_str));
        receivers.retain(|receiver| self.mailer.is_some() || matches!(receiver, Receiver::Https(_)));
        receivers.truncate(RECEIVERS_MAX);
        Ok(receivers)
    }

    async fn build(&self, day: Date, domain: &DomainName) -> Option<Report> {
        let store = &self.services.store;
        let gathered = async {
            let results = store.tls_results(day, domain).await?;
            Ok::<_, crate::store::StoreError>((
                results,
                store.sts_policy(domain, self.services.clock.now()).await?,
            ))
        };
        let (results, sts) = match gathered.await {
            Ok(gathered) => gathered,
            Err(error) => {
                tracing::warn!(%day, %domain, %error, "cannot read TLS results");
                return None;
            }
        };
        let origin = report::ReportOrigin {
            hostname: &self.services.hostname,
            organization: self.config.organization.as_deref(),
            contact: self.config.contact.as_deref(),
        };
        let built = Report::build(&origin, day, domain, &results, sts.as_ref());
        built.inspect_err(|error| tracing::error!(%day, %domain, %error, "cannot build TLS report")).ok()
    }

    /// Sends a report over HTTPS (RFC 8460 §5.4).
    async fn post(&self, url: Url, body: Bytes) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        let request = Request { method: Method::POST, url, headers, body };
        let sent = self.services.client.send(request, POST_LIMITS).await;
        let status = sent.map_err(|error| error.to_string())?.status;
        if status.is_success() { Ok(()) } else { Err(format!("the receiver replied {}", status.as_u16())) }
    }

    async fn mail(&self, to: &Address, report: &Report) -> Result<(), String> {
        let Some(mailer) = &self.mailer else { return Ok(()) };
        mailer.send(to, report, &self.services.hostname).await
    }
}
