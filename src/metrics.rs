//! What an operator watches, in the text format of Prometheus, on a listener of its own and without a key. Nothing is
//! counted here: what others count or know anyway is gathered when somebody asks. No label has a tenant, a domain or an
//! address, so the number of series does not grow. Imports `mail`, `store`, `intake`, `admission` and `waiting`.

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
use crate::mail::Timestamp;
use crate::queue::wait_reasons::Sites;
use crate::store::{Journal, Outbox, Queue, QueueOverview, QueueRequest, Store, StoreCounts, StoreError};
use crate::submission::SubmissionService;

const PATH: &str = "/metrics";
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const CONNECTIONS_MAX: usize = 16;
/// How long one exchange may take from the connection to its end.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait after a failed accept, such as one for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whom it asks.
pub struct Metrics {
    /// For events, the queue and the writer.
    pub store: Arc<Store>,
    /// For what was refused.
    pub intake: Arc<SubmissionService>,
    /// Connections over SMTP.
    pub smtp: Arc<ConnectionLimiter>,
    /// Connections to the API.
    pub api: Arc<ConnectionLimiter>,
    /// Connections to other servers.
    pub sites: Arc<dyn Sites>,
}

/// What was found when somebody asked.
struct Snapshot {
    counts: StoreCounts,
    queue: QueueOverview,
    webhook_backlog: u64,
}

type Label = [(&'static str, String); 1];

impl Metrics {
    /// Answers until `stop`.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let (tasks, places) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let Ok(place) = places.clone().try_acquire_owned() else { continue };
                    let (metrics, stop) = (self.clone(), stop.clone());
                    tasks.spawn(async move {
                        let exchange = tokio::time::timeout(EXCHANGE_TIMEOUT, metrics.converse(stream));
                        let _ended = stop.run_until_cancelled(exchange).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection for metrics could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    /// One request on one connection.
    async fn converse(&self, stream: TcpStream) {
        let service = service_fn(async |request: Request<Incoming>| {
            Ok::<_, Infallible>(match (request.method(), request.uri().path()) {
                (&Method::GET, PATH) => self.answer().await,
                _ => refuse(StatusCode::NOT_FOUND, format!("there is GET {PATH} and nothing else")),
            })
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).keep_alive(false);
        if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "a connection for metrics ended early");
        }
    }

    async fn answer(&self) -> Response<Full<Bytes>> {
        let text = match self.gather().await {
            Ok(snapshot) => self.describe(&snapshot),
            Err(error) => return refuse(StatusCode::SERVICE_UNAVAILABLE, error),
        };
        let mut response = Response::new(Full::from(text));
        response.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
        response
    }

    async fn gather(&self) -> Result<Snapshot, StoreError> {
        let request = QueueRequest { limit: 1, ..QueueRequest::default() };
        let queue = self.store.overview(request, Timestamp::now()).await?;
        let webhook_backlog = self.store.webhook_backlog().await?;
        Ok(Snapshot { counts: self.store.counts(), queue, webhook_backlog })
    }

    fn describe(&self, snapshot: &Snapshot) -> String {
        let Snapshot { counts, queue, webhook_backlog } = snapshot;
        let mut registry = Registry::default();
        let version = [("version", env!("CARGO_PKG_VERSION").to_owned())];
        gauges(&mut registry, "pillarbox_build_info", "The version that runs", [(version, 1)]);
        let own = registry.sub_registry_with_prefix("pillarbox");
        let events = counts.events.iter().map(|(kind, count)| ([("type", kind.to_string())], *count));
        counters(own, "events", "What happened, by type of event", events);
        let refusals = self.intake.refusals();
        let refusals = refusals.into_iter().map(|(code, count)| ([("code", code.to_owned())], count));
        counters(own, "refusals", "Submissions refused, by code", refusals);
        let commits = [("committed", counts.commits), ("failed", counts.failed_commits)];
        let commits = commits.map(|(result, count)| ([("result", result.to_owned())], count));
        counters(own, "store_commits", "Transactions of the store, by result", commits);
        gauge(
            own,
            "stray_body_files",
            "Files of large messages that belong to no message of the database, at the last count",
            to_gauge(counts.stray_files),
        );
        let of = queue.totals;
        let depth =
            [("in_flight", of.in_flight), ("due", of.due), ("paused", of.parked), ("deferred", of.later)];
        let depth = depth.map(|(state, count)| ([("state", state.to_owned())], count));
        gauges(own, "queue_deliveries", "Deliveries that are not finished, by state", depth);
        let oldest_age_s =
            queue.oldest_at.map_or(0, |oldest| queue.counted_at.duration_since(oldest).as_secs());
        gauge(own, "queue_oldest_age_seconds", "Since the oldest of them was accepted", oldest_age_s);
        let outbound = self.sites.statuses().iter().map(|site| site.connections as u64).sum();
        let connections = [
            ("smtp", self.smtp.open_count() as u64),
            ("api", self.api.open_count() as u64),
            ("outbound", outbound),
        ];
        let connections = connections.map(|(side, count)| ([("side", side.to_owned())], count));
        gauges(own, "connections", "Open connections, by side", connections);
        gauge(
            own,
            "webhook_backlog",
            "Events that webhooks are still to be told",
            to_gauge(*webhook_backlog),
        );
        if let Some(octets) = resident_memory_octets() {
            gauge(&mut registry, "process_resident_memory_bytes", "Memory in use", to_gauge(octets));
        }
        let mut text = String::new();
        // Writing to a string does not fail.
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

/// `None` where the system does not tell it as Linux does.
fn resident_memory_octets() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
