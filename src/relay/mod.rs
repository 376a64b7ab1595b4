//! Delivery agents: they route the batches that the queue manager hands out, deliver them to other servers and record
//! the results.
//!
//! * `agents` implements the interface for the queue manager and starts a worker for each slot,
//! * `worker` has a slot and delivers batch after batch of one destination queue over one connection,
//! * `attempt` is one attempt of one batch, over `connection`s that the `dialer` opens to the `target_hosts` of its
//!   `route`, from a `source`, and that the `pool` keeps (`outbound`),
//! * `catch_up` gives mail that could not be attempted in its lifetime one attempt,
//! * `smart_host_login` and `smart_host_backoff` defer mail for a smart host that refuses the account,
//! * `tls` decides which TLS a host must offer, and verifies it,
//! * `result_record` decides the new state from a result, `result_writer` stores it, `dsn` reports it to the sender,
//! * `planner` explains how mail to a domain would be sent,
//! * `unreached` passes on what results say about sites and addresses,
//! * `sandbox` simulates delivery in the test environment, `sandbox_delivery` runs it, `sandbox_reports` what comes back later.
//!
//! Imports `mail`, `model`, `smtp`, `policy`, `feedback`, `dkim`, `dns`, `tls`, `limits`, `http_client`, `egress_guard`, `store`, `queue` and
//! the configuration.

mod agents;
mod attempt;
mod catch_up;
mod connection;
mod delivery_error;
mod dialer;
mod happy_eyeballs;
mod outbound;
mod outcomes;
mod peer;
mod planner;
mod pool;
mod recipient_result;
mod result_record;
mod result_writer;
mod return_path;
mod route;
mod sandbox;
mod sandbox_delivery;
mod sandbox_reports;
mod smart_host_backoff;
mod smart_host_login;
mod smtp_stream;
mod source;
#[cfg(test)]
mod store_tests;
mod target_hosts;
mod tasks;
mod tls;
mod transcript;
mod unreached;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::agents::Agents;
use self::catch_up::CatchUp;
use crate::clock::Clock;
use crate::config;
use crate::dns::{DnsError, Resolver};
use crate::feedback::ReturnedMail;
use crate::limits::tenant_semaphore::TenantSemaphore;
use crate::mail::DomainName;
use crate::queue::QueueManager;
use crate::rng::Rng;
use crate::store::Store;
use crate::tls::TlsError;

use dialer::Dialer;
use outbound::OutboundConnections;
pub use planner::{Destination, HostPlan, Planner, Probe, SitePlan, StsPlan};
use pool::ConnectionPool;
use result_writer::ResultWriter;
use return_path::ReturnPaths;
use route::Router;
use smart_host_login::SmartHostLogins;
use source::Sources;
use target_hosts::TargetFinder;
use tasks::Tasks;
use tls::policy::TlsPolicies;
use tls::results::TlsSessionCounts;

/// Maximum of messages read back from the spool that are in memory at one time, in octets.
pub const LOADED_OCTETS_MAX: u64 = LOADED_KIB_MAX as u64 * 1024;
/// The same in KiB.
const LOADED_KIB_MAX: u32 = 256 * 1024;
/// The maximum of one tenant.
const LOADED_KIB_PER_TENANT_MAX: u32 = LOADED_KIB_MAX / 4;

/// Why the relay cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The password of a smart host or route cannot be read.
    #[error("password_file {path}: {source}")]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The file with certificate authorities cannot be used.
    #[error("relay.ca_file {0}")]
    CaFile(TlsError),
    /// Neither the system nor a file has certificate authorities.
    #[error(
        "there are no certificate authorities on this system, without which other servers cannot be verified; install \
         the package ca-certificates, or set relay.ca_file"
    )]
    NoAuthorities,
    /// The file with the DNSSEC trust anchors cannot be used.
    #[error("relay.trust_anchor_file: {0}")]
    TrustAnchor(DnsError),
    /// The TLS library rejects its default settings.
    #[error("TLS: {0}")]
    Tls(String),
}

/// Delivers the mail of the queue.
pub struct Relay {
    context: RelayContext,
    recording: Recording,
}

/// The recording of results, which continues until it is complete if a running relay is dropped.
#[derive(Clone)]
pub struct Recording {
    tasks: TaskTracker,
    queue: Arc<QueueManager>,
}

impl Recording {
    /// Waits until the relay has ended or was dropped and its results are recorded. Claims that still wait for a
    /// dropped relay return to the queue.
    pub async fn end(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.queue.give_back_waiting();
    }
}

/// The services that a delivery uses.
struct RelayContext {
    settings: RelaySettings,
    clock: Clock,
    rng: Rng,
    store: Arc<Store>,
    queue: Arc<QueueManager>,
    router: Arc<Router>,
    targets: Arc<TargetFinder>,
    outbound: OutboundConnections,
    tls_policies: Arc<TlsPolicies>,
    return_paths: ReturnPaths,
    /// The sessions counted for TLS reports, if they are enabled.
    tls_results: Option<Arc<TlsSessionCounts>>,
    logins: SmartHostLogins,
    catch_up: CatchUp,
    /// Takes what the sandbox sends back, if somebody reads it.
    sandbox_returns: Option<mpsc::Sender<ReturnedMail>>,
    /// One permit for each KiB of a message read back from the spool.
    loaded: TenantSemaphore,
    tasks: Tasks,
}

/// The settings of DSNs.
struct RelaySettings {
    hostname: DomainName,
    expiry: Duration,
}

/// Checks that the files of the configuration can be used.
///
/// # Errors
/// As [`Relay::new`].
pub fn check(config: &config::Relay) -> Result<(), RelayError> {
    tls::client::ClientTls::load(config.ca_file.as_deref())?;
    TlsPolicies::check(config)?;
    route::check(config)
}

impl Relay {
    /// Reads the files of the configuration: passwords and certificate authorities. Uses the clock and the randomness
    /// of the queue manager.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn new(
        config: &config::Relay,
        hostname: &DomainName,
        queue: Arc<QueueManager>,
        resolver: Resolver,
    ) -> Result<Self, RelayError> {
        let store = queue.store().clone();
        let (clock, rng) = (queue.clock().clone(), queue.rng().clone());
        let settings = RelaySettings { hostname: hostname.clone(), expiry: config.message_lifetime };
        let dialer = Dialer {
            tls: tls::client::ClientTls::load(config.ca_file.as_deref())?,
            timeouts: Arc::new(config.timeouts.clone()),
            network: resolver.network().clone(),
            rng: rng.clone(),
        };
        let sources = Arc::new(Sources::new(config, hostname, rng.clone()));
        let router = Arc::new(Router::new(store.clone(), config, sources.clone())?);
        let recording = Recording { tasks: TaskTracker::new(), queue: queue.clone() };
        let context = RelayContext {
            clock: clock.clone(),
            rng,
            settings,
            tls_policies: Arc::new(TlsPolicies::new(config, &queue, &resolver)?),
            tls_results: None,
            return_paths: ReturnPaths::new(store.clone(), None, clock.clone()),
            targets: Arc::new(TargetFinder {
                resolver,
                router: router.clone(),
                port: config.port,
                allowed_private_networks: config.allowed_private_networks.clone(),
            }),
            outbound: OutboundConnections {
                sources,
                dialer: Arc::new(dialer),
                pool: ConnectionPool::new(config.idle_connection_timeout, clock.clone()),
                permits: Arc::new(Semaphore::new(config.connections_max)),
            },
            logins: SmartHostLogins::new(router.clone(), queue.clone()),
            catch_up: CatchUp::new(clock.clone()),
            sandbox_returns: None,
            router,
            store,
            queue,
            loaded: TenantSemaphore::new(LOADED_KIB_MAX, LOADED_KIB_PER_TENANT_MAX),
            tasks: Tasks::default(),
        };
        Ok(Self { context, recording })
    }

    /// Enables the count of TLS sessions for TLS reports.
    pub fn counting_tls(mut self) -> Self {
        self.context.tls_results = Some(Arc::new(TlsSessionCounts::new(self.context.clock.clone())));
        self
    }

    /// Sends mail under the return hosts of its domains. Without them, mail keeps its reverse paths.
    pub fn with_return_paths(mut self, hosts: Option<config::ReturnHosts>) -> Self {
        let (store, clock) = (self.context.store.clone(), self.context.clock.clone());
        self.context.return_paths = ReturnPaths::new(store, hosts, clock);
        self
    }

    /// Sends what comes back in the sandbox.
    pub fn with_sandbox_returns(mut self, returns: mpsc::Sender<ReturnedMail>) -> Self {
        self.context.sandbox_returns = Some(returns);
        self
    }

    /// Explains how mail would be sent, with the parts of this relay.
    pub fn planner(&self) -> Planner {
        Planner::new(&self.context)
    }

    /// The recording of results. Wait for it after [`Relay::run`] has ended or was dropped.
    pub fn recording(&self) -> Recording {
        self.recording.clone()
    }

    /// Delivers until `stop`; then finishes running attempts, releases waiting claims and closes idle connections. If
    /// the future is dropped before, running attempts are aborted, as if their connections were lost; see
    /// [`Relay::recording`].
    pub async fn run(mut self, stop: CancellationToken) {
        self.context.tasks.stop = stop.clone();
        let context = Arc::new(self.context);
        let (recordings, waiting) = mpsc::channel(result_writer::WAITING_MAX);
        let _abort = context.tasks.abort_on_drop();
        let writer = ResultWriter { queue: context.queue.clone(), stop: stop.clone() };
        let recorder = self.recording.tasks.spawn(writer.run(waiting));
        if let Some(sts) = context.tls_policies.sts() {
            context.tasks.spawn(tls::mta_sts::refresh_loop(sts.clone(), stop.clone()));
        }
        if let Some(results) = &context.tls_results {
            context.tasks.spawn(tls::results::flush_loop(
                results.clone(),
                context.store.clone(),
                stop.clone(),
            ));
        }
        let agents = Arc::new(Agents { context: context.clone(), recordings });
        context.queue.run(&agents, &stop).await;
        for connection in context.outbound.pool.take_all() {
            context.tasks.spawn(connection.quit());
        }
        context.tasks.end().await;
        if let Some(results) = &context.tls_results {
            results.flush(&context.store).await;
        }
        drop(agents);
        if recorder.await.is_err() {
            tracing::error!("the task that writes results panicked");
        }
    }
}
