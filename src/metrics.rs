//! Metrics in the Prometheus text format, on a separate listener without authentication. Values are collected from
//! other modules at each scrape. No label contains a tenant, domain or address, so the number of series is bounded.
//! Imports `mail`, `store`, `archive`, `submission`, `limits`, `queue`, `returns`, `accept_loop`, `histogram`, `doctor` and `tls`.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::fmt::{self, Display};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept_loop;
use crate::archive::LastBackup;
use crate::doctor::Doctor;
use crate::histogram::HistogramReading;
use crate::limits::auth_limiter::AuthLimiter;
use crate::limits::connection_limiter::ConnectionLimiter;
use crate::model::{BounceClass, FindingStatus};
use crate::queue::{ClaimCounts, ConnectionCounts, QueueManager};
use crate::returns::ReturnsService;
use crate::store::{
    Journal, LeaseState, Outbox, Queue, QueueOverview, QueueRequest, Spool, Store, StoreCounts, StoreError,
};
use crate::submission::SubmissionService;
use crate::tls::Certificate;

const PATH: &str = "/metrics";
const TEXT_FORMAT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const CONNECTIONS_MAX: usize = 16;
/// Timeout of one connection.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// The sources of metrics.
pub struct Metrics {
    /// Events and commits.
    pub store: Arc<Store>,
    /// Waiting deliveries and outgoing connections.
    pub queue: Arc<QueueManager>,
    /// Refusals.
    pub submission: Arc<SubmissionService>,
    /// Failed logins and bans.
    pub bans: Arc<AuthLimiter>,
    /// SMTP connections.
    pub smtp: Arc<ConnectionLimiter>,
    /// Connections of other servers.
    pub inbound: Arc<ConnectionLimiter>,
    /// Reports.
    pub returns: Arc<ReturnsService>,
    /// API connections.
    pub api: Arc<ConnectionLimiter>,
    /// Connections of the public pages.
    pub public: Arc<ConnectionLimiter>,
    /// The certificate of the listeners.
    pub certificate: Arc<Certificate>,
    /// What is wrong with the server.
    pub doctor: Arc<Doctor>,
    /// The data directory, where the last backup is noted.
    pub data_dir: PathBuf,
}

/// The values read from the store for one scrape.
struct Snapshot {
    counts: StoreCounts,
    queue: QueueOverview,
    pauses: u64,
    webhook_backlog: u64,
    /// `None` if there was none, or if the note cannot be read.
    last_backup: Option<LastBackup>,
}

type Label = (&'static str, String);

/// Histograms of one name, each with its labels.
#[derive(Debug)]
struct Histograms(Vec<(Vec<Label>, HistogramReading)>);

impl EncodeMetric for Histograms {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, reading) in &self.0 {
            let HistogramReading { sum, buckets } = reading;
            let count = reading.count();
            match labels.as_slice() {
                [] => encoder.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)?,
                labels => {
                    encoder
                        .encode_family(&labels)?
                        .encode_histogram::<NoLabelSet>(*sum, count, buckets, None)?;
                }
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl Metrics {
    /// Serves scrapes until `stop`.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let (tasks, permits) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        accept_loop::accept_until(&stop, listener, |stream, _| {
            let Ok(permit) = permits.clone().try_acquire_owned() else { return };
            let (metrics, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move {
                let exchange = tokio::time::timeout(EXCHANGE_TIMEOUT, metrics.serve_connection(stream));
                let _ended = stop.run_until_cancelled(exchange).await;
                drop(permit);
            });
        })
        .await;
        tasks.close();
        tasks.wait().await;
    }

    /// Serves one request.
    async fn serve_connection(&self, stream: TcpStream) {
        let service = service_fn(async |request: Request<Incoming>| {
            Ok::<_, Infallible>(match (request.method(), request.uri().path()) {
                (&Method::GET, PATH) => self.respond().await,
                _ => refuse(StatusCode::NOT_FOUND, format!("not found: the only resource is GET {PATH}")),
            })
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).keep_alive(false);
        if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "metrics connection failed");
        }
    }

    async fn respond(&self) -> Response<Full<Bytes>> {
        let text = match self.collect().await {
            Ok(snapshot) => self.render(&snapshot),
            Err(error) => return refuse(StatusCode::SERVICE_UNAVAILABLE, error),
        };
        let mut response = Response::new(Full::from(text));
        response.headers_mut().insert(CONTENT_TYPE, TEXT_FORMAT);
        response
    }

    async fn collect(&self) -> Result<Snapshot, StoreError> {
        let request = QueueRequest { limit: 1, ..QueueRequest::default() };
        let now = self.queue.clock().now();
        let queue = self.queue.overview(request, now).await?;
        let pauses = self.store.pauses(now).await?.len() as u64;
        let webhook_backlog = self.store.webhook_backlog().await?;
        let data_dir = self.data_dir.clone();
        let read = tokio::task::spawn_blocking(move || LastBackup::read(&data_dir)).await;
        let last_backup = read.ok().and_then(Result::ok).flatten();
        Ok(Snapshot { counts: self.store.counts(), queue, pauses, webhook_backlog, last_backup })
    }

    fn render(&self, snapshot: &Snapshot) -> String {
        let mut registry = Registry::default();
        let version = ("version", env!("CARGO_PKG_VERSION").to_owned());
        gauges(&mut registry, "pillarbox_build_info", "The running version", [([version], 1)]);
        let pillarbox = registry.sub_registry_with_prefix("pillarbox");
        self.add_mail(pillarbox, snapshot);
        self.add_reports(pillarbox);
        add_store(pillarbox, &snapshot.counts);
        let help = "Live nodes that serve the same database";
        gauge(pillarbox, "nodes", help, self.store.nodes().count.into());
        let help = "Whether this node may accept and deliver mail";
        gauge(pillarbox, "lease", help, (self.store.lease().state == LeaseState::Fresh).into());
        self.add_queue(pillarbox, &snapshot.queue);
        gauge(pillarbox, "pauses", "Pauses of parts of the queue", to_gauge(snapshot.pauses));
        self.add_findings(pillarbox);
        self.add_logins(pillarbox);
        gauge(pillarbox, "webhook_backlog", "Webhook deliveries pending", to_gauge(snapshot.webhook_backlog));
        if let Some(expires_at) = self.certificate.expires_at() {
            let left_s = expires_at.duration_since(self.queue.clock().now()).as_secs();
            gauge(
                pillarbox,
                "certificate_expiry_seconds",
                "Time until the certificate of the listeners expires",
                left_s,
            );
        }
        if let Some(last) = &snapshot.last_backup {
            let age_s = last.age(self.queue.clock().now()).as_secs();
            gauge(pillarbox, "backup_age_seconds", "Time since the last backup", age_s);
        }
        if let Some(octets) = resident_memory_octets() {
            gauge(&mut registry, "process_resident_memory_bytes", "Memory in use", to_gauge(octets));
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        encode(&mut text, &registry).unwrap_or_default();
        to_text_format(&text)
    }

    /// Adds the metrics of accepted and delivered mail.
    fn add_mail(&self, registry: &mut Registry, snapshot: &Snapshot) {
        let counts = &snapshot.counts;
        let events = counts.events.iter().map(|(kind, count)| ([("type", kind.to_string())], *count));
        counters(registry, "events", "Events, by type", events);
        let refusals = self.submission.refusals();
        let refusals = refusals.into_iter().map(|(code, count)| ([("code", code.to_owned())], count));
        counters(registry, "refusals", "Submissions refused, by code", refusals);
        let attempts = counts.attempts.iter().map(|counted| {
            let class = counted.class.map_or("none", BounceClass::as_str);
            ([("outcome", counted.state.to_string()), ("class", class.to_owned())], counted.count)
        });
        counters(registry, "attempts", "Attempts of deliveries, by outcome and class", attempts);
        let accepted = vec![(Vec::new(), self.submission.accept_seconds())];
        let help = "Time from the end of the data of a message to its durable commit";
        registry.register("accept_seconds", help, Histograms(accepted));
        let ends = counts.delivery_seconds.iter();
        let ends = ends.map(|(state, reading)| (vec![("outcome", state.to_string())], reading.clone()));
        let help = "Time from the acceptance of a message to the end of a delivery, by outcome";
        registry.register("delivery_seconds", help, Histograms(ends.collect()));
    }

    /// Adds the metrics of what comes back.
    fn add_reports(&self, registry: &mut Registry) {
        let counts = self.returns.counts();
        let reports = counts.reports.iter().map(|((kind, effect), count)| {
            ([("kind", kind.to_string()), ("effect", effect.to_string())], *count)
        });
        counters(registry, "reports", "Reports of other servers, by kind and effect", reports);
        let refusals = counts.refusals.iter().map(|(code, count)| ([("code", (*code).to_owned())], *count));
        let help = "Refused recipients and messages of other servers, by code";
        counters(registry, "report_refusals", help, refusals);
    }

    /// Adds what the last run of the doctor found.
    fn add_findings(&self, registry: &mut Registry) {
        let mut found: BTreeMap<(String, FindingStatus), u64> = BTreeMap::new();
        for finding in self.doctor.last().iter().flat_map(|last| &last.findings) {
            *found.entry((finding.id.to_string(), finding.status)).or_default() += 1;
        }
        let found = found.into_iter();
        let found =
            found.map(|((check, status), count)| ([("check", check), ("status", status.to_string())], count));
        gauges(registry, "doctor", "Findings of the last run of the doctor, by check and status", found);
    }

    fn add_logins(&self, registry: &mut Registry) {
        let failures = Counter::<u64>::default();
        failures.inc_by(self.bans.failures());
        registry.register("login_failures", "Logins over SMTP with wrong credentials", failures);
        let bans = self.bans.list(self.queue.clock().now());
        gauge(
            registry,
            "login_bans",
            "Keys and networks that are banned after failed logins",
            bans.len() as i64,
        );
    }

    fn add_queue(&self, registry: &mut Registry, queue: &QueueOverview) {
        let totals = queue.totals;
        let depth = [
            ("in_flight", totals.in_flight),
            ("due", totals.due),
            ("paused", totals.paused),
            ("deferred", totals.deferred),
        ];
        let depth = depth.map(|(state, count)| ([("state", state.to_owned())], count));
        gauges(registry, "queue_deliveries", "Unfinished deliveries, by state", depth);
        let oldest_age_s =
            queue.oldest_at.map_or(0, |oldest| queue.counted_at.duration_since(oldest).as_secs());
        gauge(registry, "queue_oldest_age_seconds", "Age of the oldest unfinished delivery", oldest_age_s);
        let ClaimCounts { claimed, gone } = self.queue.claim_counts();
        let claims = [("claimed", claimed), ("gone", gone)];
        let claims = claims.map(|(result, count)| ([("result", result.to_owned())], count));
        let help = "Due deliveries that this node chose from the database, by whether they were still there";
        counters(registry, "claims", help, claims);
        let ConnectionCounts { connections: outbound, backoffs } = self.queue.connection_counts();
        let help = "Sites and smart hosts that get no connection until their back-off ends";
        gauge(registry, "site_backoffs", help, to_gauge(backoffs as u64));
        let connections = [
            ("smtp", self.smtp.open_count()),
            ("inbound", self.inbound.open_count()),
            ("api", self.api.open_count()),
            ("public", self.public.open_count()),
            ("outbound", outbound),
        ];
        let connections =
            connections.map(|(direction, count)| ([("direction", direction.to_owned())], count as u64));
        gauges(registry, "connections", "Open connections, by direction", connections);
    }
}

fn add_store(registry: &mut Registry, counts: &StoreCounts) {
    let commits = [
        ("committed", counts.commits),
        ("failed", counts.failed_commits),
        ("repeated", counts.repeated_commits),
    ];
    let commits = commits.map(|(result, count)| ([("result", result.to_owned())], count));
    counters(registry, "store_commits", "Store transactions, by result", commits);
    let help = "Time of a store transaction from its start to its durable commit";
    registry.register(
        "store_commit_seconds",
        help,
        Histograms(vec![(Vec::new(), counts.commit_seconds.clone())]),
    );
    let help = "Body files without a message in the database, at the last count";
    gauge(registry, "stray_body_files", help, to_gauge(counts.stray_files));
    if let Some(octets) = counts.free_disk_bytes {
        let help = "Free space of the file system of the data directory";
        gauge(registry, "disk_free_bytes", help, to_gauge(octets));
    }
}

/// The Prometheus text format of an OpenMetrics text. There, `# HELP` and `# TYPE` have the name of a counter as its samples
/// have it: with `_total`. All tools read this format; some do not read the other.
fn to_text_format(open_metrics: &str) -> String {
    let types = open_metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let counters: HashSet<&str> = types.filter_map(|rest| rest.strip_suffix(" counter")).collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let mut parts = line.splitn(4, ' ');
        match [parts.next(), parts.next(), parts.next(), parts.next()] {
            [Some("#"), Some(keyword @ ("HELP" | "TYPE")), Some(name), Some(rest)] => {
                let suffix = if counters.contains(name) { "_total" } else { "" };
                text.extend(["# ", keyword, " ", name, suffix, " ", rest, "\n"]);
            }
            [Some("#"), ..] => {}
            _ => text.extend([line, "\n"]),
        }
    }
    text
}

fn refuse(status: StatusCode, why: impl Display) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{why}\n")));
    *response.status_mut() = status;
    response
}

fn counters<const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    counts: impl IntoIterator<Item = ([Label; N], u64)>,
) {
    let family = Family::<[Label; N], Counter>::default();
    for (labels, count) in counts {
        family.get_or_create(&labels).inc_by(count);
    }
    registry.register(name, help, family);
}

fn gauges<const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = ([Label; N], u64)>,
) {
    let family = Family::<[Label; N], Gauge>::default();
    for (labels, value) in values {
        family.get_or_create(&labels).set(to_gauge(value));
    }
    registry.register(name, help, family);
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn to_gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Resident memory; `None` on systems without /proc.
fn resident_memory_octets() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_and_type_have_the_name_of_the_samples() {
        let mut registry = Registry::default();
        counters(&mut registry, "events", "Events, by type", [([("type", "a b # c".to_owned())], 2)]);
        gauge(&mut registry, "depth", "Depth", -1);
        let mut open_metrics = String::new();
        encode(&mut open_metrics, &registry).unwrap();
        assert_eq!(
            to_text_format(&open_metrics),
            "# HELP events_total Events, by type.\n# TYPE events_total counter\n\
             events_total{type=\"a b # c\"} 2\n# HELP depth Depth.\n# TYPE depth gauge\ndepth -1\n"
        );
    }
}
