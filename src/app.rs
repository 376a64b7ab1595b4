//! The composition root: opens the store, loads the certificate, binds the listeners, starts every task and owns the
//! order in which they stop. Nothing else in the crate starts a task that outlives its caller.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Api};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::dkim;
use crate::dns::{DnsError, Resolver};
use crate::http_client::Client;
use crate::limits::auth_limiter::{self, AuthLimiter};
use crate::mail::DomainName;
use crate::maintenance::{retention, search_indexer};
use crate::metrics::Metrics;
use crate::model::{DkimAlgorithm, DkimKeyState, Verification};
use crate::queue::QueueManager;
use crate::relay::{Recording, Relay, RelayError};
use crate::rng::Rng;
use crate::server::{self, Security, Server};
use crate::store::{
    Access, Directory, NewDkimKey, NewDomain, OpenError, RetentionPolicy, Store, StoreError, StoreOptions,
};
use crate::submission::{self, SubmissionService};
use crate::tls::{Certificate, TlsError};
use crate::tls_report::{self, Reporter, TlsReportError};
use crate::verification::{self, VerificationSettings, Verifier};
use crate::webhook::{self, WebhookDependencies, WebhookDispatcher};

/// Between two looks at whether the certificate's files have changed.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(30);
/// Of a stop's deadline, at most half, what is kept for writing the outcomes that were heard and closing the store.
const CLOSING_TIME: Duration = Duration::from_secs(3);
/// Of this, what writing the outcomes may take.
const RECORDING_TIME: Duration = Duration::from_secs(2);
/// The label of the platform's domain for test senders, below the host name.
const SANDBOX_LABEL: &str = "sandbox";

/// Why the server did not start. Each names the option, the file or the address, and what to do.
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
        /// The option that names it.
        option: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
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
    /// Reports on TLS cannot be sent.
    #[error("tls_report.mail: {0}")]
    TlsReport(#[from] TlsReportError),
    /// The sandbox domain cannot be made.
    #[error("cannot prepare the sandbox domain: {0}")]
    Sandbox(String),
}

/// Something took longer to end than the deadline.
#[derive(Debug, thiserror::Error)]
#[error("{0} did not end within the deadline of {1:?}")]
pub struct StopError(&'static str, Duration);

/// A server that runs.
pub struct Running {
    /// Where STARTTLS submission listens.
    pub submission_addresses: Vec<SocketAddr>,
    /// Where implicit TLS submission listens.
    pub submissions_addresses: Vec<SocketAddr>,
    /// Where the API listens.
    pub api_addresses: Vec<SocketAddr>,
    /// Where metrics are told.
    pub metrics_addresses: Vec<SocketAddr>,
    store: Arc<Store>,
    queue: Arc<QueueManager>,
    certificate: Arc<Certificate>,
    intake: Stage,
    delivery: Stage,
    recording: Recording,
    deadline: Duration,
}

/// Tasks that stop together.
struct Stage {
    name: &'static str,
    tasks: JoinSet<&'static str>,
    stop: CancellationToken,
}

impl Stage {
    fn new(name: &'static str) -> Self {
        Self { name, tasks: JoinSet::new(), stop: CancellationToken::new() }
    }

    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            name
        });
    }

    /// Tells the tasks to stop and waits until all have ended.
    async fn end(&mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    /// The same until a time, when those that are left are dropped; the error is the stage's name.
    async fn end_by(&mut self, end: Instant) -> Result<(), &'static str> {
        if tokio::time::timeout_at(end, self.end()).await.is_err() {
            self.tasks.abort_all();
            return Err(self.name);
        }
        Ok(())
    }
}

impl StoreOptions {
    /// The options that a configuration gives.
    pub fn new(config: &Config, access: Access) -> Self {
        Self {
            data_dir: config.data_dir.clone(),
            master_key_file: config.master_key_file.clone(),
            readers: config.store.read_connections,
            inline_body_bytes_max: config.store.inline_body_max.0,
            free_disk_bytes_min: config.store.free_disk_min.0,
            hot_queue_bytes_max: config.relay.hot_queue_bytes_max.0,
            access,
        }
    }
}

/// Where connections are taken.
struct Listeners {
    submission: Vec<TcpListener>,
    submissions: Vec<TcpListener>,
    control: Vec<TcpListener>,
    metrics: Vec<TcpListener>,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, StartError> {
        Ok(Self {
            submission: listen("smtp.submission", &config.smtp.submission).await?,
            submissions: listen("smtp.submissions", &config.smtp.submissions).await?,
            control: listen("api.listen", &config.api.listen).await?,
            metrics: listen("api.metrics_listen", &config.api.metrics_listen).await?,
        })
    }

    fn serve(self, stage: &mut Stage, server: &Arc<Server>, control: &Arc<Api>, metrics: &Arc<Metrics>) {
        for (listeners, security) in
            [(self.submission, Security::Starttls), (self.submissions, Security::Implicit)]
        {
            for listener in listeners {
                stage.spawn("SMTP listener", server.clone().serve(listener, security, stage.stop.clone()));
            }
        }
        for listener in self.control {
            stage.spawn("API listener", control.clone().serve(listener, stage.stop.clone()));
        }
        for listener in self.metrics {
            stage.spawn("metrics listener", metrics.clone().serve(listener, stage.stop.clone()));
        }
    }
}

/// What the parts of a server are built of.
struct Core<'a> {
    config: &'a Config,
    clock: Clock,
    rng: Rng,
    store: Arc<Store>,
    queue: Arc<QueueManager>,
    certificate: Arc<Certificate>,
    resolver: Resolver,
    intake: Arc<SubmissionService>,
    bans: Arc<AuthLimiter>,
    verifier: Arc<Verifier>,
}

impl<'a> Core<'a> {
    async fn open(config: &'a Config, clock: Clock, rng: Rng) -> Result<Self, StartError> {
        let store = Arc::new(Store::open(StoreOptions::new(config, Access::Serve))?);
        let certificate = Arc::new(load_certificate(config)?);
        let resolver = Resolver::new(&config.relay.name_servers, rng.clone())?;
        ensure_sandbox(&store, &config.hostname, &clock).await?;
        let settings = submission::SubmissionSettings {
            hostname: config.hostname.clone(),
            message_lifetime: config.relay.message_lifetime,
            message_lifetime_max: config.relay.message_lifetime_max,
            allow_null_sender: config.smtp.allow_null_sender,
            received_includes_client_address: config.smtp.received_includes_client_address,
        };
        let bans = auth_limiter::AuthLimiterSettings {
            failures_max: config.smtp.login_failures_max,
            window: config.smtp.login_failures_window,
            ban: config.smtp.login_ban,
        };
        let verifier = Verifier {
            store: store.clone(),
            resolver: resolver.clone(),
            settings: VerificationSettings::new(&config.domains, &config.hostname),
            clock: clock.clone(),
        };
        Ok(Self {
            config,
            certificate,
            resolver,
            intake: Arc::new(SubmissionService::new(store.clone(), settings, clock.clone())),
            bans: Arc::new(AuthLimiter::new(bans)),
            verifier: Arc::new(verifier),
            queue: Arc::new(QueueManager::new(store.clone(), &config.relay, clock.clone(), rng.clone())),
            store,
            clock,
            rng,
        })
    }

    fn build_server(&self) -> Arc<Server> {
        let parts = server::ServerDependencies {
            submission: self.intake.clone(),
            tls: self.certificate.shared(),
            bans: self.bans.clone(),
            clock: self.clock.clone(),
        };
        Arc::new(Server::new(self.config.hostname.clone(), &self.config.smtp, parts))
    }

    fn build_relay(&self) -> Result<Relay, RelayError> {
        let Config { relay, hostname, tls_report, .. } = self.config;
        let relay = Relay::new(relay, hostname, self.queue.clone(), self.resolver.clone())?;
        Ok(if tls_report.enabled { relay.counting_tls() } else { relay })
    }

    fn build_control(&self) -> Arc<Api> {
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
            intake: self.intake.clone(),
            bans: self.bans.clone(),
            source_pools: config.relay.pools.iter().map(|pool| pool.name.clone()).collect(),
            queue: self.queue.clone(),
            tls: config.api.tls.then(|| self.certificate.shared()),
        }))
    }

    fn build_metrics(&self, server: &Server, control: &Api) -> Arc<Metrics> {
        Arc::new(Metrics {
            store: self.store.clone(),
            queue: self.queue.clone(),
            submission: self.intake.clone(),
            smtp: server.connections(),
            api: control.connections(),
        })
    }

    fn build_teller(&self) -> Result<WebhookDispatcher, StartError> {
        let settings =
            webhook::WebhookSettings { config: self.config.webhooks.clone(), retries: webhook::RETRIES };
        let networks = &self.config.webhooks.allowed_private_networks;
        let client = Client::new(self.resolver.clone(), self.config.webhooks.ca_file.as_deref(), networks);
        let services = WebhookDependencies {
            store: self.store.clone(),
            client: client.map_err(StartError::Webhooks)?,
            clock: self.clock.clone(),
            rng: self.rng.clone(),
        };
        Ok(WebhookDispatcher::new(services, settings))
    }

    /// `None` if reports are not wanted.
    fn build_reporter(&self) -> Result<Option<Reporter>, StartError> {
        let config = self.config;
        if !config.tls_report.enabled {
            return Ok(None);
        }
        let config::Relay { ca_file, allowed_private_networks, .. } = &config.relay;
        let client = Client::new(self.resolver.clone(), ca_file.as_deref(), allowed_private_networks);
        let parts = tls_report::TlsReportDependencies {
            store: self.store.clone(),
            resolver: self.resolver.clone(),
            client: client.map_err(RelayError::CaFile)?,
            submission: self.intake.clone(),
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            hostname: config.hostname.clone(),
        };
        Ok(Some(Reporter::new(config.tls_report.clone(), parts)?))
    }

    /// Starts what looks after the store, the domains and the certificate.
    fn spawn_maintenance(self, stage: &mut Stage) {
        let retention = &self.config.retention;
        let retention = RetentionPolicy {
            body_days: retention.body_days,
            transcript_days: retention.transcript_days,
            row_days: retention.message_days,
            webhook_days: retention.webhook_days,
        };
        let (store, stop) = (self.store, stage.stop.clone());
        stage.spawn("indexer", search_indexer::run(store.clone(), self.clock.clone(), stop.clone()));
        stage.spawn("janitor", retention::run(store, retention, self.clock, stop.clone()));
        stage.spawn("domain check", verification::recheck_loop(self.verifier, stop.clone()));
        stage.spawn("certificate watch", watch_certificate(self.certificate, stop));
    }
}

impl Running {
    /// Starts everything. Answers once all listeners accept.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_with(config, Clock::system(), Rng::system()).await
    }

    /// The same with another clock and other randomness, for tests.
    pub async fn start_with(config: &Config, clock: Clock, rng: Rng) -> Result<Self, StartError> {
        let core = Core::open(config, clock, rng).await?;
        let listeners = Listeners::bind(config).await?;
        let relay = core.build_relay()?;
        let (server, control) = (core.build_server(), core.build_control());
        let metrics = core.build_metrics(&server, &control);
        let (teller, reporter) = (core.build_teller()?, core.build_reporter()?);
        let mut running = Self {
            submission_addresses: addresses(&listeners.submission),
            submissions_addresses: addresses(&listeners.submissions),
            api_addresses: addresses(&listeners.control),
            metrics_addresses: addresses(&listeners.metrics),
            store: core.store.clone(),
            queue: core.queue.clone(),
            certificate: core.certificate.clone(),
            intake: Stage::new("what accepts mail"),
            delivery: Stage::new("what delivers mail"),
            recording: relay.recording(),
            deadline: config.shutdown_deadline,
        };
        let stage = &mut running.intake;
        listeners.serve(stage, &server, &control, &metrics);
        stage.spawn("count of requests", control.clone().count_requests(stage.stop.clone()));
        core.spawn_maintenance(stage);
        if let Some(reporter) = reporter {
            stage.spawn("reports on TLS", reporter.run(stage.stop.clone()));
        }
        let stage = &mut running.delivery;
        stage.spawn("relay", relay.run(stage.stop.clone()));
        stage.spawn("webhooks", teller.run(stage.stop.clone()));
        tracing::info!(
            hostname = %config.hostname,
            submission = ?running.submission_addresses,
            submissions = ?running.submissions_addresses,
            api = ?running.api_addresses,
            "started"
        );
        Ok(running)
    }

    /// The store behind the server, for what runs in the same process.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What waits for delivery, for what runs in the same process.
    pub fn queue(&self) -> &Arc<QueueManager> {
        &self.queue
    }

    /// Reads the certificate's files again; on an error the old one stays in use.
    pub fn reload_certificate(&self) -> Result<(), TlsError> {
        self.certificate.reload()
    }

    /// Completes when a task ends that should not: what to say of it.
    pub async fn wait_for_failure(&mut self) -> String {
        let ended = tokio::select! {
            Some(ended) = self.intake.tasks.join_next() => ended,
            Some(ended) = self.delivery.tasks.join_next() => ended,
        };
        match ended {
            Ok(name) => format!("the {name} ended unexpectedly"),
            Err(error) => format!("a task failed: {error}"),
        }
    }

    /// Stops accepting, lets what is being received and what is being delivered finish, then closes the store.
    /// What has not ended shortly before the deadline is dropped, which is as safe as a crash; what was heard by then is
    /// written.
    pub async fn stop(mut self) -> Result<(), StopError> {
        let end = Instant::now() + self.deadline - CLOSING_TIME.min(self.deadline / 2);
        let ended = end_both(&mut self.intake, &mut self.delivery, end).await;
        // An outcome that is lost is a message delivered twice.
        if tokio::time::timeout(RECORDING_TIME, self.recording.end()).await.is_err() {
            tracing::error!("not every outcome could be written in time");
        }
        self.store.close().await;
        ended.map_err(|name| StopError(name, self.deadline))
    }
}

/// At the same time: a client that hangs must not cost deliveries the time to hear what became of them. What is still
/// accepted meanwhile waits in the spool. The error names what was late.
async fn end_both(intake: &mut Stage, delivery: &mut Stage, end: Instant) -> Result<(), &'static str> {
    let (intake, delivery) = tokio::join!(intake.end_by(end), delivery.end_by(end));
    intake.and(delivery)
}

fn load_certificate(config: &Config) -> Result<Certificate, TlsError> {
    match (&config.tls.certificate, &config.tls.private_key) {
        (Some(certificate), Some(private_key)) => Certificate::load(certificate, private_key),
        _ => {
            tracing::warn!("no tls.certificate: using a self-signed one, which mail clients refuse");
            Certificate::load_or_make(&config.data_dir, &config.hostname)
        }
    }
}

async fn listen(option: &'static str, wanted: &[SocketAddr]) -> Result<Vec<TcpListener>, StartError> {
    let mut listeners = Vec::new();
    for &address in wanted {
        let listener = TcpListener::bind(address).await.map_err(|source| StartError::Listen {
            option,
            address,
            hint: hint_for(&source),
            source,
        })?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn hint_for(error: &std::io::Error) -> &'static str {
    if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) {
        return "; this machine has no IPv6: write 0.0.0.0 instead of [::]";
    }
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; stop the program that has the port, or choose another one",
        std::io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE, which the systemd unit gives"
        }
        std::io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
        _ => "",
    }
}

fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
}

/// Makes the domain that test keys may send from without any DNS of their own.
async fn ensure_sandbox(store: &Store, hostname: &DomainName, clock: &Clock) -> Result<(), StartError> {
    let fail = |error: &dyn std::fmt::Display| StartError::Sandbox(error.to_string());
    let name = DomainName::parse(&format!("{SANDBOX_LABEL}.{hostname}")).map_err(|error| fail(&error))?;
    let known: Result<_, StoreError> = store.sandbox_domain(&name).await;
    if known.map_err(|error| fail(&error))?.is_some() {
        return Ok(());
    }
    let pair = tokio::task::spawn_blocking(|| dkim::generate(DkimAlgorithm::Rsa))
        .await
        .map_err(|error| fail(&error))?
        .map_err(|error| fail(&error))?;
    let new = NewDomain {
        tenant_id: None,
        name,
        verification: Verification::Manual,
        subdomains: false,
        ownership_token: String::new(),
        dkim_keys: vec![NewDkimKey {
            selector: "sandbox".into(),
            algorithm: pair.algorithm,
            state: DkimKeyState::Active,
            public_key: pair.public_key,
            private_key: pair.private_key,
        }],
    };
    store.ensure_sandbox_domain(new, clock.now()).await.map_err(|error| fail(&error))?;
    Ok(())
}

/// Takes a renewed certificate into use without a signal.
async fn watch_certificate(certificate: Arc<Certificate>, stop: CancellationToken) {
    let mut seen = certificate.fingerprint();
    let mut looks = tokio::time::interval(CERTIFICATE_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => {}
        }
        let found = certificate.fingerprint();
        if found == seen {
            continue;
        }
        seen = found;
        let path: PathBuf = certificate.path().to_owned();
        match certificate.reload() {
            Ok(()) => tracing::info!(path = %path.display(), "certificate renewed"),
            Err(error) => tracing::error!(%error, "keeping the old certificate"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn a_stage_that_hangs_leaves_the_other_its_time_to_finish() {
        let (mut hung, mut busy) = (Stage::new("hung"), Stage::new("busy"));
        hung.spawn("client", std::future::pending());
        let finished = Arc::new(AtomicBool::new(false));
        let (stop, is_finished) = (busy.stop.clone(), finished.clone());
        busy.spawn("delivery", async move {
            stop.cancelled().await;
            tokio::task::yield_now().await;
            is_finished.store(true, Ordering::Relaxed);
        });
        let end = Instant::now() + Duration::from_secs(1);
        assert_eq!(end_both(&mut hung, &mut busy, end).await, Err("hung"));
        assert!(finished.load(Ordering::Relaxed));
    }
}
