//! The composition root: opens the store, loads the certificate, binds the listeners, starts every task and decides the
//! order in which they stop. No other module starts a task that outlives its caller.

mod certificate_watch;
mod listeners;
pub mod open_files;
mod sandbox_domain;
mod task_group;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use self::listeners::{Listeners, Servers};
use self::task_group::TaskGroup;

use crate::api::{self, Api, InProcess};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::dns::{DnsError, Resolver};
use crate::doctor::{Doctor, DoctorDependencies, Listening};
use crate::http_client::Client;
use crate::limits::auth_limiter::{self, AuthLimiter};
use crate::maintenance::{brakes, key_expiry, retention, search_indexer};
use crate::metrics::Metrics;
use crate::queue::QueueManager;
use crate::relay::{Recording, Relay, RelayError};
use crate::returns::{Forwarder, ReturnsDependencies, ReturnsService, ReturnsSettings};
use crate::rng::Rng;
use crate::server::{self, Server};
use crate::store::{
    Access, Bounds, Directory, OpenError, RetentionPolicy, SqliteOptions, Store, StoreError, StoreOptions,
};
use crate::submission::{self, KeyFileError, SubmissionService};
use crate::tls::{Certificate, TlsError};
use crate::tls_report::{self, Reporter};
use crate::ui::{Ui, UiDependencies};
use crate::unsubscribe::UnsubscribeService;
use crate::verification::{self, ProbeCache, ReturnHostChecks, VerificationSettings, Verifier};
use crate::web::PublicWeb;
use crate::webhook::{self, WebhookDependencies, WebhookDispatcher};

/// The part of the shutdown deadline, at most half of it, that is reserved for recording results and closing the store.
const CLOSING_TIME: Duration = Duration::from_secs(3);
/// The part of this time that is reserved for recording results.
const RECORDING_TIME: Duration = Duration::from_secs(2);
/// Messages of the sandbox that wait for their reader.
const SANDBOX_RETURNS_MAX: usize = 1024;

/// Why the server did not start. Each error names the option, the file or the address, and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
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
    store: Arc<Store>,
    queue: Arc<QueueManager>,
    returns: Arc<ReturnsService>,
    certificate: Arc<Certificate>,
    acceptance: TaskGroup,
    delivery: TaskGroup,
    recording: Recording,
    deadline: Duration,
}

impl StoreOptions {
    /// The options of a configuration.
    pub fn new(config: &Config, access: Access) -> Self {
        Self::Sqlite(SqliteOptions {
            data_dir: config.data_dir.clone(),
            master_key_file: config.master_key_file.clone(),
            read_connections: config.store.read_connections,
            inline_body_bytes_max: config.store.inline_body_max.0,
            free_disk_bytes_min: config.store.free_disk_min.0,
            hot_queue_bytes_max: config.relay.hot_queue_bytes_max.0,
            access,
            bounds: Bounds::default(),
        })
    }
}

/// The shared parts from which the components of the server are built.
struct SharedServices<'a> {
    config: &'a Config,
    clock: Clock,
    rng: Rng,
    store: Arc<Store>,
    queue: Arc<QueueManager>,
    certificate: Arc<Certificate>,
    resolver: Resolver,
    submission: Arc<SubmissionService>,
    bans: Arc<AuthLimiter>,
    verifier: Arc<Verifier>,
    doctor: Arc<Doctor>,
    returns: Arc<ReturnsService>,
}

impl<'a> SharedServices<'a> {
    /// `files_needed`: before the limits were lowered.
    async fn open(
        config: &'a Config,
        files_needed: usize,
        clock: Clock,
        rng: Rng,
    ) -> Result<Self, StartError> {
        let store = Arc::new(Store::open(StoreOptions::new(config, Access::Serve)).await?);
        let certificate = Arc::new(certificate_watch::load(config)?);
        let resolver = Resolver::new(&config.relay.name_servers, rng.clone())?;
        sandbox_domain::ensure(&store, &config.hostname, &clock).await?;
        store.ensure_default_tenant(clock.now()).await.map_err(StartError::DefaultTenant)?;
        let settings = submission::SubmissionSettings {
            hostname: config.hostname.clone(),
            message_lifetime: config.relay.message_lifetime,
            message_lifetime_max: config.relay.message_lifetime_max,
            allow_null_sender: config.smtp.allow_null_sender,
            allow_duplicate_headers: config.smtp.duplicate_headers == config::DuplicateHeaders::Allow,
            received_includes_client_address: config.smtp.received_includes_client_address,
            return_path: config.return_path.clone(),
            inbound_host: config.inbound.is_enabled().then(|| config.inbound.host(&config.hostname)),
            public_url: config.public.base().map(str::to_owned),
        };
        let bans = auth_limiter::AuthLimiterSettings {
            failures: "failed logins",
            failures_max: config.smtp.login_failures_max,
            window: config.smtp.login_failures_window,
            ban: config.smtp.login_ban,
            exempt: config.smtp.login_ban_exempt.clone(),
        };
        let shared_config = Arc::new(config.clone());
        let verifier = Verifier {
            store: store.clone(),
            resolver: resolver.clone(),
            settings: VerificationSettings::new(&config.domains, &config.hostname)
                .sending_from(Arc::clone(&shared_config))
                .returning_to(ReturnHostChecks::of(config)),
            clock: clock.clone(),
            probes: ProbeCache::default(),
        };
        let queue = Arc::new(QueueManager::new(store.clone(), &config.relay, clock.clone(), rng.clone()));
        let submission = Arc::new(SubmissionService::new(store.clone(), settings, clock.clone()));
        let forward = config.inbound.forward.as_ref().filter(|_| config.inbound.is_enabled());
        let forwarder = forward.map(|forward| Forwarder::new(forward, submission.clone())).transpose();
        let returns = ReturnsDependencies {
            store: store.clone(),
            queue: queue.clone(),
            resolver: resolver.clone(),
            clock: clock.clone(),
            forwarder: forwarder.map_err(StartError::Forward)?,
        };
        let verifier = Arc::new(verifier);
        let doctor = Doctor::new(DoctorDependencies {
            config: shared_config,
            files_needed,
            store: store.clone(),
            queue: queue.clone(),
            resolver: resolver.clone(),
            verifier: verifier.clone(),
            clock: clock.clone(),
        });
        Ok(Self {
            config,
            certificate,
            doctor: Arc::new(doctor),
            resolver,
            submission,
            bans: Arc::new(AuthLimiter::new(bans)),
            verifier,
            returns: Arc::new(ReturnsService::new(returns, returns_settings(config))),
            queue,
            store,
            clock,
            rng,
        })
    }

    fn build_server(&self) -> Arc<Server> {
        let dependencies = server::SubmissionDependencies {
            submission: self.submission.clone(),
            tls: self.certificate.shared(),
            bans: self.bans.clone(),
            clock: self.clock.clone(),
        };
        Arc::new(Server::submission(self.config.hostname.clone(), &self.config.smtp, dependencies))
    }

    fn build_inbound(&self) -> Arc<Server> {
        let dependencies = server::InboundDependencies {
            returns: self.returns.clone(),
            tls: self.certificate.shared(),
            clock: self.clock.clone(),
        };
        Arc::new(Server::inbound(self.config, dependencies))
    }

    fn build_relay(&self) -> Result<Relay, RelayError> {
        let Config { relay, hostname, tls_report, .. } = self.config;
        let relay = Relay::new(relay, hostname, self.queue.clone(), self.resolver.clone())?
            .with_return_paths(self.config.return_hosts());
        Ok(if tls_report.enabled { relay.counting_tls() } else { relay })
    }

    fn build_api(&self) -> Arc<Api> {
        let config = self.config;
        Arc::new(Api::new(api::ApiDependencies {
            settings: config.api.clone(),
            message_lifetime_max: config.relay.message_lifetime_max,
            verification: self.verifier.clone(),
            clock: self.clock.clone(),
            sending: api::SendLimits {
                recipients_max: config.smtp.recipients_max,
                message_octets_max: config.smtp.message_size_max.as_u64(),
            },
            webhooks: config.webhooks.clone(),
            store: self.store.clone(),
            submission: self.submission.clone(),
            bans: self.bans.clone(),
            source_pools: config.relay.pools.iter().map(|pool| pool.name.clone()).collect(),
            queue: self.queue.clone(),
            tls: config.api.tls.then(|| self.certificate.shared()),
            doctor: self.doctor.clone(),
            ui: config.ui.clone(),
        }))
    }

    /// `None` if `ui.enabled` is false.
    fn build_pages(&self, api: &Arc<Api>, listeners: &Listeners) -> Option<axum::Router> {
        let config = self.config;
        config.ui.enabled.then(|| {
            let ui = Ui::new(UiDependencies {
                settings: config.ui.clone(),
                public_url: config.api.public_url.clone(),
                is_tls: config.api.tls,
                api: InProcess::new(api),
                bans: self.bans.clone(),
                hostname: config.hostname.clone(),
                submission: listeners::addresses(&listeners.submission),
                submissions: listeners::addresses(&listeners.submissions),
            });
            ui.router()
        })
    }

    fn build_public_web(&self) -> Arc<PublicWeb> {
        let unsubscribe = UnsubscribeService::new(self.store.clone(), self.clock.clone());
        let public = &self.config.public;
        PublicWeb::new(
            unsubscribe,
            public.clone(),
            public.tls.then(|| self.certificate.shared()),
            self.clock.clone(),
        )
    }

    fn build_metrics(&self, server: &Server, inbound: &Server, api: &Api, web: &PublicWeb) -> Arc<Metrics> {
        Arc::new(Metrics {
            store: self.store.clone(),
            queue: self.queue.clone(),
            submission: self.submission.clone(),
            bans: self.bans.clone(),
            smtp: server.connections(),
            inbound: inbound.connections(),
            returns: self.returns.clone(),
            api: api.connections(),
            public: web.connections(),
            certificate: self.certificate.clone(),
            doctor: self.doctor.clone(),
        })
    }

    fn build_webhook_dispatcher(&self) -> Result<WebhookDispatcher, StartError> {
        let settings =
            webhook::WebhookSettings { config: self.config.webhooks.clone(), retries: webhook::RETRIES };
        let networks = &self.config.webhooks.allowed_private_networks;
        let client = Client::new(self.resolver.clone(), self.config.webhooks.ca_file.as_deref(), networks);
        let dependencies = WebhookDependencies {
            store: self.store.clone(),
            client: client.map_err(StartError::Webhooks)?,
            clock: self.clock.clone(),
            rng: self.rng.clone(),
        };
        Ok(WebhookDispatcher::new(dependencies, settings))
    }

    /// `None` if `tls_report.enabled` is false.
    fn build_tls_reporter(&self) -> Result<Option<Reporter>, StartError> {
        let config = self.config;
        if !config.tls_report.enabled {
            return Ok(None);
        }
        let config::Relay { ca_file, allowed_private_networks, .. } = &config.relay;
        let client = Client::new(self.resolver.clone(), ca_file.as_deref(), allowed_private_networks);
        let dependencies = tls_report::TlsReportDependencies {
            store: self.store.clone(),
            resolver: self.resolver.clone(),
            client: client.map_err(RelayError::CaFile)?,
            submission: self.submission.clone(),
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            hostname: config.hostname.clone(),
        };
        Reporter::new(config.tls_report.clone(), dependencies).map(Some).map_err(StartError::TlsReport)
    }

    /// Starts the tasks that maintain the store, the domains and the certificate.
    fn spawn_maintenance(self, tasks: &mut TaskGroup) {
        let retention = &self.config.retention;
        let retention = RetentionPolicy {
            body_days: retention.body_days,
            transcript_days: retention.transcript_days,
            row_days: retention.message_days,
            webhook_days: retention.webhook_days,
            report_days: retention.report_days,
            audit_days: retention.audit_days,
        };
        let (store, stop) = (self.store, tasks.stop.clone());
        tasks.spawn("search indexer", search_indexer::run(store.clone(), self.clock.clone(), stop.clone()));
        tasks.spawn("brakes", brakes::run(store.clone(), self.clock.clone(), stop.clone()));
        tasks.spawn("key expiry", key_expiry::run(store.clone(), self.clock.clone(), stop.clone()));
        tasks.spawn("retention", retention::run(store, retention, self.clock, stop.clone()));
        tasks.spawn("domain check", verification::recheck_loop(self.verifier, stop.clone()));
        tasks.spawn("doctor", self.doctor.run(stop.clone()));
        tasks.spawn("certificate watch", certificate_watch::run(self.certificate, stop));
    }
}

fn returns_settings(config: &Config) -> ReturnsSettings {
    ReturnsSettings {
        hostname: config.hostname.clone(),
        host: config.inbound.host(&config.hostname),
        label: config.return_path.label.clone(),
        feedback_names: config.inbound.feedback.iter().map(|name| name.to_ascii_lowercase()).collect(),
        trusted_reporters: config.inbound.trusted_reporters.clone(),
        dsn_lifetime: config.relay.message_lifetime,
    }
}

impl Running {
    /// Starts the server. Returns when all listeners accept.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_with(config, Clock::system(), Rng::system()).await
    }

    /// Starts the server with another clock and other randomness, for tests.
    pub async fn start_with(config: &Config, clock: Clock, rng: Rng) -> Result<Self, StartError> {
        let files_needed = config.open_files();
        let (config, lowered) = open_files::fit(config, open_files::raise())?;
        if let Some(lowered) = lowered {
            tracing::warn!("{lowered}");
        }
        let config = &config;
        let shared = SharedServices::open(config, files_needed, clock, rng).await?;
        let listeners = Listeners::bind(config).await?;
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
            store: shared.store.clone(),
            queue: shared.queue.clone(),
            returns: shared.returns.clone(),
            certificate: shared.certificate.clone(),
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
    pub async fn stop(mut self) -> Result<(), StopError> {
        let end = Instant::now() + self.deadline - CLOSING_TIME.min(self.deadline / 2);
        let ended = task_group::end_both(&mut self.acceptance, &mut self.delivery, end).await;
        // A lost result means that the message is delivered twice.
        if tokio::time::timeout(RECORDING_TIME, self.recording.end()).await.is_err() {
            tracing::error!("not all results were recorded before the deadline");
        }
        self.store.close().await;
        ended.map_err(|name| StopError(name, self.deadline))
    }
}
