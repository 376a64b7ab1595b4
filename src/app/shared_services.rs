//! The services that the listeners and the tasks share, and the components that are built from them.

use std::sync::Arc;

use super::listeners::{self, Listeners};
use super::task_group::TaskGroup;
use super::{
    Machine, StartError, certificate_watch, sandbox_domain, shared_backoffs, shared_bans,
    shared_cancellations,
};
use crate::acme::{Acme, AcmeDependencies};
use crate::api::{self, Api, InProcess};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::dkim::GenerateKey;
use crate::dns::Resolver;
use crate::doctor::{Doctor, DoctorDependencies};
use crate::http_client::Client;
use crate::limits::auth_limiter::{self, AuthLimiter};
use crate::maintenance::{brakes, erasures, key_expiry, retention, search_indexer};
use crate::metrics::Metrics;
use crate::net::Network;
use crate::queue::QueueManager;
use crate::relay::{Relay, RelayError};
use crate::returns::{Forwarder, ReturnsDependencies, ReturnsService, ReturnsSettings};
use crate::rng::Rng;
use crate::server::{self, Server};
use crate::store::{Access, Directory, Journal, RetentionPolicy, Store, StoreOptions};
use crate::submission::{self, SubmissionService};
use crate::tls::Certificate;
use crate::tls_report::{self, Reporter};
use crate::ui::{Ui, UiDependencies};
use crate::unsubscribe::UnsubscribeService;
use crate::verification::{self, ProbeCache, ReturnHostChecks, VerificationSettings, Verifier};
use crate::web::PublicWeb;
use crate::webhook::{self, WebhookDependencies, WebhookDispatcher};

/// The shared parts from which the components of the server are built.
pub struct SharedServices<'a> {
    config: &'a Config,
    clock: Clock,
    rng: Rng,
    network: Network,
    generate_key: GenerateKey,
    pub store: Arc<Store>,
    pub queue: Arc<QueueManager>,
    pub certificate: Arc<Certificate>,
    acme: Option<Arc<Acme>>,
    resolver: Resolver,
    submission: Arc<SubmissionService>,
    bans: Arc<AuthLimiter>,
    verifier: Arc<Verifier>,
    pub doctor: Arc<Doctor>,
    pub returns: Arc<ReturnsService>,
}

impl<'a> SharedServices<'a> {
    /// `files_needed` are the open files that the configuration needs before `open_files` lowers it.
    pub async fn open(config: &'a Config, files_needed: usize, machine: Machine) -> Result<Self, StartError> {
        let Machine { clock, rng, network, generate_key } = machine;
        let store = Arc::new(Store::open(StoreOptions::new(config, Access::Serve)?).await?);
        // Without partitions, rows go where they are moved from later.
        if let Err(error) = store.extend_partitions(clock.now()).await {
            tracing::warn!(%error, "cannot make new partitions; retrying in a minute");
        }
        let certificate = Arc::new(certificate_watch::load(config)?);
        let resolver = Resolver::new(&config.relay.name_servers, rng.clone())?.within(network.clone());
        sandbox_domain::ensure(&store, &config.hostname, &clock, generate_key).await?;
        store.ensure_default_tenant(clock.now()).await.map_err(StartError::DefaultTenant)?;
        let shared_config = Arc::new(config.clone());
        let queue = Arc::new(QueueManager::new(store.clone(), &config.relay, clock.clone(), rng.clone()));
        let submission =
            Arc::new(SubmissionService::new(store.clone(), submission_settings(config), clock.clone()));
        let forward = config.inbound.forward.as_ref().filter(|_| config.inbound.is_enabled());
        let forwarder = forward.map(|forward| Forwarder::new(forward, submission.clone())).transpose();
        let returns = ReturnsDependencies {
            store: store.clone(),
            queue: queue.clone(),
            resolver: resolver.clone(),
            clock: clock.clone(),
            forwarder: forwarder.map_err(StartError::Forward)?,
        };
        let verifier = Arc::new(build_verifier(&shared_config, &store, &resolver, &clock));
        let acme = config.acme.enabled.then(|| {
            Acme::new(AcmeDependencies {
                settings: config.acme.clone(),
                names: config.acme.names(&config.hostname),
                data_dir: config.data_dir.clone(),
                public_url: redirect_target(config),
                store: store.clone(),
                certificate: certificate.clone(),
                resolver: resolver.clone(),
                clock: clock.clone(),
                rng: rng.clone(),
            })
        });
        let acme = acme.transpose().map_err(StartError::Acme)?.map(Arc::new);
        let doctor = Doctor::new(DoctorDependencies {
            config: shared_config,
            files_needed,
            store: store.clone(),
            queue: queue.clone(),
            resolver: resolver.clone(),
            acme: acme.clone(),
            verifier: verifier.clone(),
            clock: clock.clone(),
        });
        Ok(Self {
            config,
            certificate,
            acme,
            doctor: Arc::new(doctor),
            resolver,
            submission,
            bans: Arc::new(AuthLimiter::new(login_bans(config))),
            verifier,
            returns: Arc::new(ReturnsService::new(returns, returns_settings(config))),
            queue,
            store,
            clock,
            rng,
            network,
            generate_key,
        })
    }

    pub fn build_server(&self) -> Arc<Server> {
        let dependencies = server::SubmissionDependencies {
            submission: self.submission.clone(),
            tls: self.certificate.shared(),
            bans: self.bans.clone(),
            clock: self.clock.clone(),
        };
        Arc::new(Server::submission(self.config.hostname.clone(), &self.config.smtp, dependencies))
    }

    pub fn build_inbound(&self) -> Arc<Server> {
        let dependencies = server::InboundDependencies {
            returns: self.returns.clone(),
            tls: self.certificate.shared(),
            clock: self.clock.clone(),
        };
        Arc::new(Server::inbound(self.config, dependencies))
    }

    pub fn build_relay(&self) -> Result<Relay, RelayError> {
        let Config { relay, hostname, tls_report, .. } = self.config;
        let relay = Relay::new(relay, hostname, self.queue.clone(), self.resolver.clone())?
            .with_return_paths(self.config.return_hosts());
        Ok(if tls_report.enabled { relay.counting_tls() } else { relay })
    }

    pub fn build_api(&self) -> Arc<Api> {
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
            certificate: self.certificate.clone(),
            has_certificate_files: config.tls.certificate.is_some(),
            acme: self.acme.clone(),
            ui: config.ui.clone(),
            data_dir: config.data_dir.clone(),
            generate_key: self.generate_key,
        }))
    }

    /// `None` if `ui.enabled` is false.
    pub fn build_pages(&self, api: &Arc<Api>, listeners: &Listeners) -> Option<axum::Router> {
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

    pub fn build_public_web(&self) -> Arc<PublicWeb> {
        let unsubscribe = UnsubscribeService::new(self.store.clone(), self.clock.clone());
        let public = &self.config.public;
        PublicWeb::new(
            unsubscribe,
            public.clone(),
            public.tls.then(|| self.certificate.shared()),
            self.clock.clone(),
        )
    }

    pub fn build_metrics(
        &self,
        server: &Server,
        inbound: &Server,
        api: &Api,
        web: &PublicWeb,
    ) -> Arc<Metrics> {
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
            data_dir: self.config.data_dir.clone(),
        })
    }

    pub fn build_webhook_dispatcher(&self) -> Result<WebhookDispatcher, StartError> {
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
    pub fn build_tls_reporter(&self) -> Result<Option<Reporter>, StartError> {
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
    pub fn spawn_maintenance(self, tasks: &mut TaskGroup) {
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
        let bans = shared_bans::run(store.clone(), self.bans, self.clock.clone(), stop.clone());
        tasks.spawn("bans of other nodes", bans);
        tasks.spawn("back-offs of other nodes", shared_backoffs::run(self.queue.clone(), stop.clone()));
        let cancellations = shared_cancellations::run(self.queue.clone(), stop.clone());
        tasks.spawn("cancellations of other nodes", cancellations);
        tasks.spawn("send limits", self.submission.share_send_limits(stop.clone()));
        tasks.spawn("search indexer", search_indexer::run(store.clone(), self.clock.clone(), stop.clone()));
        tasks.spawn("brakes", brakes::run(store.clone(), self.clock.clone(), stop.clone()));
        tasks.spawn("erasures", erasures::run(self.queue.clone(), self.clock.clone(), stop.clone()));
        tasks.spawn("key expiry", key_expiry::run(store.clone(), self.clock.clone(), stop.clone()));
        tasks.spawn("retention", retention::run(store, retention, self.clock, stop.clone()));
        tasks.spawn("domain check", verification::recheck_loop(self.verifier, stop.clone()));
        if self.network.simulation().is_some() {
            // The others look at this machine, which is not the simulated one.
            return;
        }
        tasks.spawn("doctor", self.doctor.run(stop.clone()));
        if let Some(acme) = self.acme {
            tasks.spawn("certificate renewal", acme.run(stop.clone()));
        }
        tasks.spawn("certificate watch", certificate_watch::run(self.certificate, stop));
    }
}

/// Where people are led that ask the listener for http-01.
fn redirect_target(config: &Config) -> Option<String> {
    let url = config.api.public_url.as_ref().or(config.public.url.as_ref())?;
    (url.scheme() == "https").then(|| url.as_str().trim_end_matches('/').to_owned())
}

fn build_verifier(config: &Arc<Config>, store: &Arc<Store>, resolver: &Resolver, clock: &Clock) -> Verifier {
    Verifier {
        store: store.clone(),
        resolver: resolver.clone(),
        settings: VerificationSettings::new(&config.domains, &config.hostname)
            .sending_from(config.clone())
            .returning_to(ReturnHostChecks::of(config)),
        clock: clock.clone(),
        probes: ProbeCache::default(),
    }
}

fn submission_settings(config: &Config) -> submission::SubmissionSettings {
    submission::SubmissionSettings {
        hostname: config.hostname.clone(),
        message_lifetime: config.relay.message_lifetime,
        message_lifetime_max: config.relay.message_lifetime_max,
        allow_null_sender: config.smtp.allow_null_sender,
        allow_duplicate_headers: config.smtp.duplicate_headers == config::DuplicateHeaders::Allow,
        received_includes_client_address: config.smtp.received_includes_client_address,
        return_path: config.return_path.clone(),
        inbound_host: config.inbound.is_enabled().then(|| config.inbound.host(&config.hostname)),
        public_url: config.public.base().map(str::to_owned),
    }
}

fn login_bans(config: &Config) -> auth_limiter::AuthLimiterSettings {
    auth_limiter::AuthLimiterSettings {
        failures: "failed logins",
        failures_max: config.smtp.login_failures_max,
        window: config.smtp.login_failures_window,
        ban: config.smtp.login_ban,
        exempt: config.smtp.login_ban_exempt.clone(),
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
