//! Delivery: takes due mail out of the spool, finds the way, speaks to other servers and writes down what came of it.
//!
//! * `scheduler` claims what is due and hands it out in fair `turns`, under the limits of each `site`, which `lookup`
//!   finds and `status` shows,
//! * `worker` holds a slot and delivers batch after batch of one lane over one connection,
//! * `attempt` is one try of one batch, over `connection`s to the hosts of a `destination`, found by `route`, which it
//!   `reach`es from a `source`, and kept in `pool`,
//! * `login` and `holds` keep back what a smart host does not take from our account,
//! * `tls_policy` says what TLS a host must have, `tls` and `dane` see to it, `mta_sts` keeps policies,
//! * `record` says what follows, `recorder` writes it, `notice` and `report` tell the sender,
//! * `sandbox` stands in for the world in the test environment.
//!
//! Imports `mail`, `smtp`, `policy`, `dns`, `store`, the crate's `turns` and the configuration.

mod attempt;
mod claim_filter;
mod connection;
mod delivery_error;
mod dialer;
mod dispatch;
mod dsn;
mod happy_eyeballs;
mod peer;
mod pool;
mod recipient_result;
mod result_record;
mod result_writer;
mod route;
mod sandbox;
mod scheduler;
mod site;
mod site_resolution;
mod site_status;
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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::dispatch::Dispatcher;
use self::site_resolution::SiteResolution;
use self::site_status::SiteControl;
use self::smart_host_backoff::SmartHostBackoffs;
use crate::config;
use crate::dns::{DnsError, Resolver};
use crate::mail::DomainName;
use crate::queue::wait_reasons::{self, WaitRegistry};
use crate::store::Store;
use crate::tls::TlsError;
use dialer::Dialer;
use pool::ConnectionPool;
use route::Router;
use site::Sites;
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
    store: Arc<Store>,
    resolver: Resolver,
    router: Router,
    sources: Arc<Sources>,
    dialer: Dialer,
    tls_policies: TlsPolicies,
    /// What is counted for reports on TLS, if anybody wants them.
    tls_results: Option<Arc<TlsSessionCounts>>,
    pool: ConnectionPool,
    sites: Arc<Sites>,
    lookups: SiteResolution,
    turns: Arc<Mutex<Dispatcher>>,
    /// Tells the scheduler that something may have its turn that could not before.
    wake: Arc<Notify>,
    /// One for each open connection.
    connections: Arc<Semaphore>,
    /// One for each KiB of a message read back from the spool.
    loaded: crate::limits::tenant_semaphore::TenantSemaphore,
    /// Deliveries that are claimed: waiting, being tried or being written.
    in_flight: AtomicUsize,
    tasks: Tasks,
    /// Accounts at smart hosts that were refused.
    smart_host_backoffs: SmartHostBackoffs,
    /// What is held back, and why.
    waiting: Arc<WaitRegistry>,
    stop: CancellationToken,
}

/// However the relay ends, nothing of it is left: what still runs is dropped, what still waits is given back.
struct End(Arc<RelayContext>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.tasks.abort();
        // Outside of the lock, which a claim may need.
        self.0.give_back();
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
    /// Reads what the configuration names: the smart host's password, certificate authorities.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn new(
        config: &config::Relay,
        hostname: &DomainName,
        store: Arc<Store>,
        resolver: Resolver,
    ) -> Result<Self, RelayError> {
        let settings = RelaySettings {
            hostname: hostname.clone(),
            port: config.port,
            allowed_private_networks: config.allowed_private_networks.clone(),
            expiry: config.expiry,
        };
        let sites = Sites::new(config, resolver.clone());
        let turns = Dispatcher::new(config.connections_max, sites.default_rule().clone());
        let dialer = Dialer {
            tls: tls::client::ClientTls::load(config.ca_file.as_deref())?,
            timeouts: Arc::new(config.timeouts.clone()),
        };
        let sources = Arc::new(Sources::new(config, hostname));
        let core = RelayContext {
            settings,
            tls_policies: TlsPolicies::new(config, &store, &resolver)?,
            tls_results: None,
            router: Router::new(store.clone(), config, sources.clone())?,
            sources,
            store,
            resolver,
            dialer,
            pool: ConnectionPool::new(config.idle_connection_timeout),
            sites: Arc::new(sites),
            lookups: SiteResolution::new(),
            turns: Arc::new(Mutex::new(turns)),
            wake: Arc::default(),
            connections: Arc::new(Semaphore::new(config.connections_max)),
            loaded: crate::limits::tenant_semaphore::TenantSemaphore::new(
                LOADED_KIB_MAX,
                LOADED_KIB_PER_TENANT_MAX,
            ),
            in_flight: AtomicUsize::new(0),
            tasks: Tasks::default(),
            smart_host_backoffs: SmartHostBackoffs::default(),
            waiting: Arc::default(),
            stop: CancellationToken::new(),
        };
        Ok(Self { core, recording: Recording(TaskTracker::new()) })
    }

    /// Has it count TLS sessions with mail hosts for reports on them.
    pub fn counting_tls(mut self) -> Self {
        self.core.tls_results = Some(Arc::default());
        self
    }

    /// To wait for after [`Relay::run`], also if that was dropped.
    pub fn recording(&self) -> Recording {
        self.recording.clone()
    }

    /// To see how it does, and to end holds, while it runs.
    pub fn sites(&self) -> Arc<dyn wait_reasons::Sites> {
        let RelayContext { turns, sites, wake, waiting, .. } = &self.core;
        Arc::new(SiteControl {
            turns: turns.clone(),
            sites: sites.clone(),
            wake: wake.clone(),
            waiting: waiting.clone(),
        })
    }

    /// Where it posts what it holds back.
    pub fn waiting(&self) -> Arc<WaitRegistry> {
        self.core.waiting.clone()
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
        scheduler::run(&core, &recordings).await;
        core.give_back();
        for connection in core.pool.take_all() {
            core.tasks.spawn(connection.quit());
        }
        core.tasks.end().await;
        if let Some(results) = &core.tls_results {
            results.flush(&core.store).await;
        }
        drop(recordings);
        if recorder.await.is_err() {
            tracing::error!("the task that writes outcomes ended by a panic");
        }
    }
}

impl RelayContext {
    fn turns(&self) -> MutexGuard<'_, Dispatcher> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back what waits: dropping a claim does, which must not be under a lock that the store may want.
    fn give_back(&self) {
        let waiting = self.turns().drain();
        drop(waiting);
        let unplaced = self.lookups.drain();
        drop(unplaced);
    }

    /// So many claims have ended.
    fn forget(&self, deliveries: usize) {
        self.in_flight.fetch_sub(deliveries, Ordering::AcqRel);
    }
}
