//! Metrics in the Prometheus text format, on a separate listener without authentication. Values are collected from
//! other modules at each scrape. No label contains a tenant, domain or address, so the number of series is bounded.
//! Imports `mail`, `store`, `submission`, `limits` and `queue`.

use std::convert::Infallible;
use std::fmt::Display;
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
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::limits::connection_limiter::ConnectionLimiter;
use crate::queue::QueueManager;
use crate::store::{Journal, Outbox, QueueOverview, QueueRequest, Store, StoreCounts, StoreError};
use crate::submission::SubmissionService;

const PATH: &str = "/metrics";
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const CONNECTIONS_MAX: usize = 16;
/// Timeout of one connection.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Delay after a failed accept, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The sources of metrics.
pub struct Metrics {
    /// Events and commits.
    pub store: Arc<Store>,
    /// Waiting deliveries and outgoing connections.
    pub queue: Arc<QueueManager>,
    /// Refusals.
    pub submission: Arc<SubmissionService>,
    /// SMTP connections.
    pub smtp: Arc<ConnectionLimiter>,
    /// API connections.
    pub api: Arc<ConnectionLimiter>,
}

/// The values read from the store for one scrape.
struct Snapshot {
    counts: StoreCounts,
    queue: QueueOverview,
    webhook_backlog: u64,
}

type Label = [(&'static str, String); 1];

impl Metrics {
    /// Serves scrapes until `stop`.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let (tasks, permits) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
                    let (metrics, stop) = (self.clone(), stop.clone());
                    tasks.spawn(async move {
                        let exchange =
                            tokio::time::timeout(EXCHANGE_TIMEOUT, metrics.serve_connection(stream));
                        let _ended = stop.run_until_cancelled(exchange).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a metrics connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    /// Serves one request.
    async fn serve_connection(&self, stream: TcpStream) {
        let service = service_fn(async |request: Request<Incoming>| {
            Ok::<_, Infallible>(match (request.method(), request.uri().path()) {
                (&Method::GET, PATH) => self.answer().await,
                _ => refuse(StatusCode::NOT_FOUND, format!("only GET {PATH} exists")),
            })
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).keep_alive(false);
        if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "metrics connection failed");
        }
    }

    async fn answer(&self) -> Response<Full<Bytes>> {
        let text = match self.collect().await {
            Ok(snapshot) => self.render(&snapshot),
            Err(error) => return refuse(StatusCode::SERVICE_UNAVAILABLE, error),
        };
        let mut response = Response::new(Full::from(text));
        response.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
        response
    }

    async fn collect(&self) -> Result<Snapshot, StoreError> {
        let request = QueueRequest { limit: 1, ..QueueRequest::default() };
        let queue = self.queue.overview(request, self.queue.clock().now()).await?;
        let webhook_backlog = self.store.webhook_backlog().await?;
        Ok(Snapshot { counts: self.store.counts(), queue, webhook_backlog })
    }

    fn render(&self, snapshot: &Snapshot) -> String {
        let Snapshot { counts, queue, webhook_backlog } = snapshot;
        let mut registry = Registry::default();
        let version = [("version", env!("CARGO_PKG_VERSION").to_owned())];
        gauges(&mut registry, "pillarbox_build_info", "The running version", [(version, 1)]);
        let own = registry.sub_registry_with_prefix("pillarbox");
        let events = counts.events.iter().map(|(kind, count)| ([("type", kind.to_string())], *count));
        counters(own, "events", "Events, by type", events);
        let refusals = self.submission.refusals();
        let refusals = refusals.into_iter().map(|(code, count)| ([("code", code.to_owned())], count));
        counters(own, "refusals", "Submissions refused, by code", refusals);
        let commits = [("committed", counts.commits), ("failed", counts.failed_commits)];
        let commits = commits.map(|(result, count)| ([("result", result.to_owned())], count));
        counters(own, "store_commits", "Store transactions, by result", commits);
        gauge(
            own,
            "stray_body_files",
            "Body files that belong to no message of the database, at the last count",
            to_gauge(counts.stray_files),
        );
        let of = queue.totals;
        let depth =
            [("in_flight", of.in_flight), ("due", of.due), ("paused", of.parked), ("deferred", of.later)];
        let depth = depth.map(|(state, count)| ([("state", state.to_owned())], count));
        gauges(own, "queue_deliveries", "Unfinished deliveries, by state", depth);
        let oldest_age_s =
            queue.oldest_at.map_or(0, |oldest| queue.counted_at.duration_since(oldest).as_secs());
        gauge(own, "queue_oldest_age_seconds", "Age of the oldest unfinished delivery", oldest_age_s);
        let outbound = self.queue.snapshot(self.queue.clock().now()).connections as u64;
        let connections = [
            ("smtp", self.smtp.open_count() as u64),
            ("api", self.api.open_count() as u64),
            ("outbound", outbound),
        ];
        let connections =
            connections.map(|(direction, count)| ([("direction", direction.to_owned())], count));
        gauges(own, "connections", "Open connections, by direction", connections);
        gauge(own, "webhook_backlog", "Webhook deliveries pending", to_gauge(*webhook_backlog));
        if let Some(octets) = resident_memory_octets() {
            gauge(&mut registry, "process_resident_memory_bytes", "Memory in use", to_gauge(octets));
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        encode(&mut text, &registry).unwrap_or_default();
        text
    }
}

fn refuse(status: StatusCode, why: impl Display) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{why}\n")));
    *response.status_mut() = status;
    response
}

fn counters(registry: &mut Registry, name: &str, help: &str, counts: impl IntoIterator<Item = (Label, u64)>) {
    let family = Family::<Label, Counter>::default();
    for (label, count) in counts {
        family.get_or_create(&label).inc_by(count);
    }
    registry.register(name, help, family);
}

fn gauges(registry: &mut Registry, name: &str, help: &str, values: impl IntoIterator<Item = (Label, u64)>) {
    let family = Family::<Label, Gauge>::default();
    for (label, value) in values {
        family.get_or_create(&label).set(to_gauge(value));
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
