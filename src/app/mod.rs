//! The composition root: opens the store, loads the certificate, binds the listeners, starts every task and decides the
//! order in which they stop. Only two other modules start tasks that outlive their caller: `doctor`, whose runs end with the
//! doctor, and `relay::Planner`, whose look-ups end with it.

mod certificate_watch;
pub mod handover;
mod listeners;
pub mod open_files;
mod preflight;
mod sandbox_domain;
mod shared_backoffs;
mod shared_bans;
mod shared_cancellations;
mod shared_services;
mod store_options;
mod task_group;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use self::handover::HeldListener;
pub use self::listeners::Listeners;
use self::listeners::Servers;
pub use self::preflight::check;
use self::shared_services::SharedServices;
use self::task_group::TaskGroup;

use crate::api::Api;
use crate::clock::Clock;
use crate::config::Config;
use crate::dkim::{self, GenerateKey};
use crate::dns::DnsError;
use crate::doctor::Listening;
use crate::net::Network;
use crate::queue::QueueManager;
use crate::relay::{Recording, RelayError};
use crate::returns::ReturnsService;
use crate::rng::Rng;
use crate::server::Server;
use crate::store::{OpenError, Store, StoreError};
use crate::submission::KeyFileError;
use crate::tls::{Certificate, TlsError};

/// The part of the shutdown deadline, at most half of it, that is reserved for recording results and closing the store.
const CLOSING_TIME: Duration = Duration::from_secs(3);
/// The part of this time that is reserved for recording results.
const RECORDING_TIME: Duration = Duration::from_secs(2);
/// How long a process that takes over waits for the lock of the data directory: that of a process that ended without a word is
/// free when the system has closed its files.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_RETRY_DELAY: Duration = Duration::from_millis(20);
/// Messages of the sandbox that wait for their reader.
const SANDBOX_RETURNS_MAX: usize = 1024;

/// Why the server did not start. Each error names the option, the file or the address, and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The master key cannot be read.
    #[error("master_key_file: {0}")]
    MasterKey(OpenError),
    /// The certificate cannot be loaded.
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    /// A listener cannot be bound.
    #[error("{option}: cannot listen on {address}: {source}{hint}")]
    Listen {
        /// The option with the address.
        option: &'static str,
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        source: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The name servers cannot be used.
    #[error("relay.name_servers: {0}")]
    Dns(#[from] DnsError),
    /// The relay's settings cannot be used.
    #[error("relay: {0}")]
    Relay(#[from] RelayError),
    /// The certificate authorities for webhooks cannot be used.
    #[error("webhooks.ca_file {0}")]
    Webhooks(TlsError),
    /// The certificate authorities for ACME cannot be used.
    #[error("acme.ca_file {0}")]
    Acme(TlsError),
    /// TLS reports cannot be sent.
    #[error("tls_report.mail: {0}")]
    TlsReport(KeyFileError),
    /// Mail for people cannot be forwarded.
    #[error("inbound.forward: {0}")]
    Forward(KeyFileError),
    /// The limit of open files is too low.
    #[error(transparent)]
    OpenFiles(#[from] open_files::OpenFilesError),
    /// The default tenant cannot be created.
    #[error("cannot prepare the default tenant: {0}")]
    DefaultTenant(StoreError),
    /// The sandbox domain cannot be created.
    #[error("cannot prepare the sandbox domain: {0}")]
    Sandbox(String),
}

/// What the server takes from the machine that it runs on, for tests and simulations that have another one.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// Where connections and look-ups go.
    pub network: Network,
    /// What makes DKIM keys.
    pub generate_key: GenerateKey,
}

impl Machine {
    /// Those of the machine.
    pub const fn system() -> Self {
        Self::with(Clock::system(), Rng::system())
    }

    /// Those of the machine, but this time and randomness.
    pub const fn with(clock: Clock, rng: Rng) -> Self {
        Self { clock, rng, network: Network::system(), generate_key: dkim::generate }
    }
}

/// A group of tasks did not end within the deadline.
#[derive(Debug, thiserror::Error)]
#[error("{0} did not end within the deadline of {1:?}")]
pub struct StopError(&'static str, Duration);

/// A running server.
pub struct Running {
    /// The listeners of submission with STARTTLS.
    pub submission_addresses: Vec<SocketAddr>,
    /// The listeners of submission with implicit TLS.
    pub submissions_addresses: Vec<SocketAddr>,
    /// The listeners of the API.
    pub api_addresses: Vec<SocketAddr>,
    /// The listeners of metrics.
    pub metrics_addresses: Vec<SocketAddr>,
    /// The listeners for reports.
    pub inbound_addresses: Vec<SocketAddr>,
    /// The listeners of the public pages.
    pub public_addresses: Vec<SocketAddr>,
    api: Arc<Api>,
    submission: Arc<Server>,
    inbound: Arc<Server>,
    store: Arc<Store>,
    queue: Arc<QueueManager>,
    returns: Arc<ReturnsService>,
    certificate: Arc<Certificate>,
    held_listeners: Arc<Vec<HeldListener>>,
    acceptance: TaskGroup,
    delivery: TaskGroup,
    recording: Recording,
    deadline: Duration,
}

impl Running {
    /// Starts the server. Returns when all listeners accept.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_on_machine(Machine::system(), config).await
    }

    /// Starts the server on another machine.
    pub async fn start_on_machine(machine: Machine, config: &Config) -> Result<Self, StartError> {
        Self::start_on(None, config, machine).await
    }

    /// Starts the server on listeners that it has taken over. The process that had them has closed the store, or ended.
    pub async fn take_over(listeners: Listeners, config: &Config) -> Result<Self, StartError> {
        Self::start_on(Some(listeners), config, Machine::system()).await
    }

    async fn start_on(
        listeners: Option<Listeners>,
        config: &Config,
        machine: Machine,
    ) -> Result<Self, StartError> {
        let files_needed = config.open_files();
        let (config, lowered) = open_files::fit(config, open_files::raise())?;
        if let Some(lowered) = lowered {
            tracing::warn!("{lowered}");
        }
        let config = &config;
        let patience = if listeners.is_some() { LOCK_PATIENCE } else { Duration::ZERO };
        let end = Instant::now() + patience;
        let shared = loop {
            // The store is opened first, so a failure leaves nothing behind.
            match SharedServices::open(config, files_needed, machine.clone()).await {
                Err(StartError::Open(OpenError::InUse(_))) if Instant::now() < end => {
                    tokio::time::sleep(LOCK_RETRY_DELAY).await;
                }
                opened => break opened?,
            }
        };
        let mut listeners = match listeners {
            Some(listeners) => listeners,
            None => Listeners::bind(config, Vec::new())?,
        };
        shared.doctor.listens_at(Listening {
            submission: listeners::addresses(&listeners.submission),
            submissions: listeners::addresses(&listeners.submissions),
        });
        let (sandbox_returns, returned) = mpsc::channel(SANDBOX_RETURNS_MAX);
        let relay = shared.build_relay()?.with_sandbox_returns(sandbox_returns);
        shared.doctor.plans_with(relay.planner());
        let (server, inbound, api) = (shared.build_server(), shared.build_inbound(), shared.build_api());
        let pages = shared.build_pages(&api, &listeners);
        let web = shared.build_public_web();
        let metrics = shared.build_metrics(&server, &inbound, &api, &web);
        let (webhooks, reporter) = (shared.build_webhook_dispatcher()?, shared.build_tls_reporter()?);
        let mut running = Self {
            submission_addresses: listeners::addresses(&listeners.submission),
            submissions_addresses: listeners::addresses(&listeners.submissions),
            api_addresses: listeners::addresses(&listeners.api),
            metrics_addresses: listeners::addresses(&listeners.metrics),
            inbound_addresses: listeners::addresses(&listeners.inbound),
            public_addresses: listeners::addresses(&listeners.public),
            api: api.clone(),
            submission: server.clone(),
            inbound: inbound.clone(),
            store: shared.store.clone(),
            queue: shared.queue.clone(),
            returns: shared.returns.clone(),
            certificate: shared.certificate.clone(),
            held_listeners: Arc::new(std::mem::take(&mut listeners.held)),
            acceptance: TaskGroup::new("acceptance of mail"),
            delivery: TaskGroup::new("delivery of mail"),
            recording: relay.recording(),
            deadline: config.shutdown_deadline,
        };
        let tasks = &mut running.acceptance;
        let servers = Servers {
            submission: &server,
            inbound: &inbound,
            api: &api,
            pages: &pages,
            metrics: &metrics,
            web: &web,
        };
        listeners.serve(tasks, &servers);
        tasks.spawn("request counter", api.clone().count_requests(tasks.stop.clone()));
        let returns = shared.returns.clone();
        shared.spawn_maintenance(tasks);
        if let Some(reporter) = reporter {
            tasks.spawn("TLS reporter", reporter.run(tasks.stop.clone()));
        }
        let tasks = &mut running.delivery;
        tasks.spawn("returns of the sandbox", returns.run_sandbox(returned, tasks.stop.clone()));
        tasks.spawn("relay", relay.run(tasks.stop.clone()));
        tasks.spawn("webhooks", webhooks.run(tasks.stop.clone()));
        tracing::info!(
            hostname = %config.hostname,
            submission = ?running.submission_addresses,
            submissions = ?running.submissions_addresses,
            api = ?running.api_addresses,
            inbound = ?running.inbound_addresses,
            public = ?running.public_addresses,
            "started"
        );
        Ok(running)
    }

    /// The control plane, for code in the same process.
    pub fn api(&self) -> &Arc<Api> {
        &self.api
    }

    /// What takes mail of clients, for code in the same process.
    pub fn submission(&self) -> &Arc<Server> {
        &self.submission
    }

    /// What takes reports of other servers, for code in the same process.
    pub fn inbound(&self) -> &Arc<Server> {
        &self.inbound
    }

    /// The store of the server, for code in the same process.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The queue manager, for code in the same process.
    pub fn queue(&self) -> &Arc<QueueManager> {
        &self.queue
    }

    /// What takes reports, for code in the same process.
    pub fn returns(&self) -> &Arc<ReturnsService> {
        &self.returns
    }

    /// The listeners, for a process that takes over. The server must not stop while another handle of them is held, or the
    /// system goes on taking connections that nobody serves.
    pub fn held_listeners(&self) -> Arc<Vec<HeldListener>> {
        Arc::clone(&self.held_listeners)
    }

    /// Reloads the certificate from its files. After an error the old certificate stays in use.
    pub fn reload_certificate(&self) -> Result<(), TlsError> {
        self.certificate.reload()
    }

    /// Completes when a task ends that should run until the stop. Returns a message about it.
    pub async fn wait_for_failure(&mut self) -> String {
        let ended = tokio::select! {
            Some(ended) = self.acceptance.next_ended() => ended,
            Some(ended) = self.delivery.next_ended() => ended,
        };
        match ended {
            Ok(name) => format!("the {name} ended unexpectedly"),
            Err(error) => format!("a task failed: {error}"),
        }
    }

    /// Stops accepting, waits for messages in transfer in both directions, then closes the store. Tasks that still run
    /// shortly before the deadline are dropped, which is as safe as a crash; the results that they have are recorded.
    /// Acceptance and delivery stop at the same time, so that a client that hangs does not use up the time in which
    /// deliveries get their results. Mail that is accepted during the stop stays in the spool.
    pub async fn stop(self) -> Result<(), StopError> {
        let deadline = self.deadline;
        self.stop_within(deadline).await
    }

    /// Like [`Self::stop`], with another deadline.
    pub async fn stop_within(mut self, deadline: Duration) -> Result<(), StopError> {
        // With these the system would go on taking connections.
        self.held_listeners = Arc::default();
        let end = Instant::now() + deadline - CLOSING_TIME.min(deadline / 2);
        let ended = task_group::end_both(&mut self.acceptance, &mut self.delivery, end).await;
        // A lost result means that the message is delivered twice.
        if tokio::time::timeout(RECORDING_TIME, self.recording.end()).await.is_err() {
            tracing::error!("not all results were recorded before the deadline");
        }
        self.store.close().await;
        ended.map_err(|name| StopError(name, deadline))
    }
}
