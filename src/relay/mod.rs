//! Delivery agents: they route the batches that the queue manager hands out, deliver them to other servers and record
//! the results.
//!
//! * `agents` answers the queue manager and starts a worker for each slot,
//! * `worker` holds a slot and delivers batch after batch of one queue over one connection,
//! * `attempt` is one attempt of one batch, over `connection`s that the `dialer` opens to the `target_hosts` of its
//!   `route`, from a `source`, and that the `pool` keeps,
//! * `smart_host_login` and `smart_host_backoff` hold mail back for a smart host that refuses our account,
//! * `tls` decides which TLS a host must offer, and verifies it,
//! * `result_record` decides what follows from a result, `result_writer` stores it, `dsn` reports it to the sender,
//! * `sandbox` answers mail of the test environment.
//!
//! Imports `mail`, `smtp`, `policy`, `dns`, `store`, `queue` and the configuration.

mod agents;
mod attempt;
mod connection;
mod delivery_error;
mod dialer;
mod dsn;
mod happy_eyeballs;
mod peer;
mod pool;
mod recipient_result;
mod result_record;
mod result_writer;
mod route;
mod sandbox;
mod smart_host_backoff;
mod smart_host_login;
mod smtp_stream;
mod source;
mod target_hosts;
mod tasks;
#[cfg(test)]
mod tests;
mod tls;
mod transcript;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::agents::Agents;
use self::smart_host_backoff::SmartHostBackoffs;
use crate::clock::Clock;
use crate::config;
use crate::dns::{DnsError, Resolver};
use crate::mail::DomainName;
use crate::queue::QueueManager;
use crate::rng::Rng;
use crate::store::Store;
use crate::tls::TlsError;
use dialer::Dialer;
use pool::ConnectionPool;
use route::Router;
use source::Sources;
use tasks::Tasks;
use tls::policy::TlsPolicies;
use tls::results::TlsSessionCounts;

/// KiB of messages read back from the spool that may be in memory at one time.
const LOADED_KIB_MAX: u32 = 256 * 1024;
/// Of one tenant.
const LOADED_KIB_PER_TENANT_MAX: u32 = LOADED_KIB_MAX / 4;

/// Why the relay cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The password of a smart host or route cannot be read.
    #[error("password_file {path}: {source}")]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file with certificate authorities is of no use.
    #[error("relay.ca_file {0}")]
    CaFile(TlsError),
    /// The file with the root's keys is of no use.
    #[error("relay.trust_anchor_file: {0}")]
    TrustAnchor(DnsError),
    /// The TLS library refuses its own defaults.
    #[error("TLS: {0}")]
    Tls(String),
}

/// Delivers what is in a store.
pub struct Relay {
    core: RelayContext,
    recording: Recording,
}

/// The writing of outcomes, which goes on for a moment when a relay is dropped while it runs.
#[derive(Clone)]
pub struct Recording(TaskTracker);

impl Recording {
    /// Waits until the relay has ended or is dropped, and what it had heard is written.
    pub async fn end(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

/// What all tasks of the relay share.
struct RelayContext {
    settings: RelaySettings,
    clock: Clock,
    rng: Rng,
    store: Arc<Store>,
    queue: Arc<QueueManager>,
    resolver: Resolver,
    router: Router,
    sources: Arc<Sources>,
    dialer: Dialer,
    tls_policies: TlsPolicies,
    /// What is counted for reports on TLS, if anybody wants them.
    tls_results: Option<Arc<TlsSessionCounts>>,
    pool: ConnectionPool,
    /// One for each open connection.
    connections: Arc<Semaphore>,
    /// One for each KiB of a message read back from the spool.
    loaded: crate::limits::tenant_semaphore::TenantSemaphore,
    tasks: Tasks,
    /// Accounts at smart hosts that were refused.
    smart_host_backoffs: SmartHostBackoffs,
    stop: CancellationToken,
}

/// However the relay ends, nothing of it is left: what still runs is dropped, what still waits is given back.
struct End(Arc<RelayContext>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.tasks.abort();
        self.0.queue.give_back_waiting();
        drop(self.0.pool.take_all());
    }
}

/// What the configuration says, in the form in which it is used.
struct RelaySettings {
    hostname: DomainName,
    port: u16,
    allowed_private_networks: Vec<IpNet>,
    expiry: Duration,
}

/// Whether the files that the configuration names can be used.
///
/// # Errors
/// As [`Relay::new`].
pub fn check(config: &config::Relay) -> Result<(), RelayError> {
    tls::client::ClientTls::load(config.ca_file.as_deref())?;
    TlsPolicies::check(config)?;
    route::check(config)
}

impl Relay {
    /// Reads what the configuration names: the smart host's password, certificate authorities. The clock and the
    /// randomness are those of the queue.
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
        let settings = RelaySettings {
            hostname: hostname.clone(),
            port: config.port,
            allowed_private_networks: config.allowed_private_networks.clone(),
            expiry: config.message_lifetime,
        };
        let dialer = Dialer {
            tls: tls::client::ClientTls::load(config.ca_file.as_deref())?,
            timeouts: Arc::new(config.timeouts.clone()),
            rng: rng.clone(),
        };
        let sources = Arc::new(Sources::new(config, hostname, rng.clone()));
        let core = RelayContext {
            settings,
            tls_policies: TlsPolicies::new(config, &queue, &resolver)?,
            tls_results: None,
            router: Router::new(store.clone(), config, sources.clone())?,
            sources,
            store,
            queue,
            resolver,
            dialer,
            pool: ConnectionPool::new(config.idle_connection_timeout, clock.clone()),
            clock,
            rng,
            connections: Arc::new(Semaphore::new(config.connections_max)),
            loaded: crate::limits::tenant_semaphore::TenantSemaphore::new(
                LOADED_KIB_MAX,
                LOADED_KIB_PER_TENANT_MAX,
            ),
            tasks: Tasks::default(),
            smart_host_backoffs: SmartHostBackoffs::default(),
            stop: CancellationToken::new(),
        };
        Ok(Self { core, recording: Recording(TaskTracker::new()) })
    }

    /// Has it count TLS sessions with mail hosts for reports on them.
    pub fn counting_tls(mut self) -> Self {
        self.core.tls_results = Some(Arc::new(TlsSessionCounts::new(self.core.clock.clone())));
        self
    }

    /// To wait for after [`Relay::run`], also if that was dropped.
    pub fn recording(&self) -> Recording {
        self.recording.clone()
    }

    /// Delivers until `stop`. Then what runs is finished, what waits is given back, and idle connections are ended.
    /// Dropped before its end, it drops what runs, as if its connections had been lost; see [`Relay::recording`].
    pub async fn run(mut self, stop: CancellationToken) {
        self.core.stop = stop;
        let core = Arc::new(self.core);
        let (recordings, waiting) = mpsc::channel(result_writer::WAITING_MAX);
        let _end = End(core.clone());
        let recorder = self.recording.0.spawn(result_writer::run(core.clone(), waiting));
        if let Some(sts) = core.tls_policies.sts() {
            core.tasks.spawn(tls::mta_sts::refresh_loop(sts.clone(), core.stop.clone()));
        }
        if let Some(results) = &core.tls_results {
            let task = tls::results::flush_loop(results.clone(), core.store.clone(), core.stop.clone());
            core.tasks.spawn(task);
        }
        let agents = Arc::new(Agents { core: core.clone(), recordings });
        core.queue.run(&agents, &core.stop).await;
        for connection in core.pool.take_all() {
            core.tasks.spawn(connection.quit());
        }
        core.tasks.end().await;
        if let Some(results) = &core.tls_results {
            results.flush(&core.store).await;
        }
        drop(agents);
        if recorder.await.is_err() {
            tracing::error!("the task that writes outcomes ended by a panic");
        }
    }
}
