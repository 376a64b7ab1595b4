//! Gathers all facts about a server, concurrently.

use std::future::Future;
use std::net::IpAddr;
use std::time::Instant;

use futures_util::future::BoxFuture;

use super::super::Extra;
use super::{
    ConfigFacts, Facts, Listening, Lookups, Seen, Server, SourceFacts, SpfFacts, Times, blocklists,
    listeners, machine, name, network, ports, state, submission,
};
use crate::acme::{Acme, AcmeState};
use crate::config::Config;
use crate::mail::{DomainName, Timestamp};
use crate::verification::Sender;

/// What the gatherers look with.
pub struct Gatherer<'a> {
    pub config: &'a Config,
    /// The file of the configuration, if there is no running server.
    pub file: Option<String>,
    pub lookups: Lookups,
    /// The domain whose mail host to connect to, in place of that of the configuration.
    pub egress_domain: Option<DomainName>,
    pub extra: Extra,
    /// The running server.
    pub server: Option<Server<'a>>,
    /// The renewal of its certificate.
    pub acme: Option<&'a Acme>,
    /// Its listeners.
    pub listening: Option<&'a Listening>,
    /// The open files that the limits of the configuration need, before they are lowered.
    pub files_needed: usize,
    pub now: Timestamp,
}

impl Gatherer<'_> {
    async fn names(&self, own: &Seen<Vec<IpAddr>>) -> (Seen<Vec<IpAddr>>, Vec<SourceFacts>) {
        let Self { config, lookups, .. } = self;
        tokio::join!(lookups.addresses(config.hostname.as_str()), name::sources(config, own, lookups))
    }

    /// The SPF records of the host name and of the name that tenants include, unless that is the host name.
    async fn spf(&self, own: &Seen<Vec<IpAddr>>) -> (Seen<SpfFacts>, Option<(DomainName, Seen<SpfFacts>)>) {
        let (hostname, lookups) = (&self.config.hostname, &self.lookups);
        let include = self.config.domains.spf_include.as_ref().filter(|include| *include != hostname);
        tokio::join!(name::spf(hostname, hostname, own, lookups), async {
            let include = include?;
            Some((include.clone(), name::spf(include, hostname, own, lookups).await))
        })
    }

    fn acme(&self) -> Seen<AcmeState> {
        match self.acme {
            _ if !self.config.acme.enabled => Seen::Nothing,
            Some(acme) => Seen::Value(acme.state()),
            None => Seen::NotAsked("the running server was not asked"),
        }
    }

    /// All facts about the server, concurrently.
    pub async fn gather(&self) -> Facts {
        let hostname = &self.config.hostname;
        let own_addresses = name::own_addresses(self.config, Sender::Any);
        let (certificate, _) = machine::certificate_files(self.config);
        let (names, spf, egress, lists, dns, machine, tls, handshakes, submission, ports, state, database) = tokio::join!(
            timed(self.names(&own_addresses)),
            timed(self.spf(&own_addresses)),
            timed(network::egress(self)),
            timed(blocklists::gather(self, &own_addresses)),
            timed(network::name_server_facts(self)),
            timed(machine::gather(self.config, self.files_needed)),
            timed(machine::certificate(self.config, self.now)),
            timed(listeners::gather(self.config, self.listening, &certificate)),
            timed(submission::gather(self, &certificate)),
            timed(ports::gather(self.config, self.file.is_some())),
            timed(state::gather(self.server.as_ref(), self.config, self.now)),
            timed(state::database(self)),
        );
        let ((hostname_addresses, sources), (host_spf, included_spf)) = (names.0, spf.0);
        let times = Times {
            names: names.1,
            spf: spf.1,
            egress: egress.1,
            blocklists: lists.1,
            name_servers: dns.1,
            machine: machine.1,
            certificate: tls.1,
            handshakes: handshakes.1,
            submission: submission.1,
            ports: ports.1,
            state: state.1,
            database: database.1,
        };
        Facts {
            at: self.now,
            times,
            hostname: hostname.clone(),
            config: ConfigFacts {
                file: self.file.clone(),
                api_listen: self.config.api.listen.clone(),
                is_api_tls: self.config.api.tls,
                is_public_url_https: self
                    .config
                    .api
                    .public_url
                    .as_ref()
                    .is_some_and(|url| url.scheme() == "https"),
                ports: ports.0,
            },
            own_addresses,
            hostname_addresses,
            sources,
            host_spf,
            included_spf,
            egress: egress.0,
            blocklists: lists.0,
            dns: dns.0,
            tls: tls.0,
            acme: self.acme(),
            handshakes: handshakes.0,
            submission: submission.0,
            machine: machine.0,
            state: state.0,
            database_faults: database.0,
        }
    }
}

/// A result, and how long it took in milliseconds. All looks together would not fit on the stack of a thread.
fn timed<'a, T>(look: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, (T, u64)> {
    Box::pin(async move {
        let start = Instant::now();
        let found = look.await;
        (found, start.elapsed().as_millis().try_into().unwrap_or(u64::MAX))
    })
}
