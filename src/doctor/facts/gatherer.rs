//! Gathers all facts about a server, concurrently.

use std::future::Future;
use std::net::IpAddr;
use std::time::Instant;

use futures_util::future::BoxFuture;

use super::super::Extra;
use super::{
    AcmeFacts, ConfigFacts, Facts, Listening, Lookups, PortFacts, Seen, Server, SourceFacts, SpfFacts, Times,
    TlsFacts, acme, blocklists, listeners, machine, name, network, ports, postgres, state, submission,
};
use crate::acme::Acme;
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

    /// The certificate and its renewal.
    async fn certificate(&self) -> (TlsFacts, Seen<AcmeFacts>) {
        tokio::join!(machine::certificate(self.config, self.now), acme::gather(self))
    }

    /// All facts about the server, concurrently.
    pub async fn gather(&self) -> Facts {
        let (config, own_addresses) = (self.config, name::own_addresses(self.config, Sender::Any));
        let (certificate, _) = machine::certificate_files(config);
        let mut times = Times::default();
        let (
            (hostname_addresses, sources),
            (host_spf, included_spf),
            egress,
            blocklists,
            dns,
            machine,
            (tls, acme),
            handshakes,
            submission,
            ports,
            state,
            database_faults,
            postgres,
        ) = tokio::join!(
            timed(&mut times.names, self.names(&own_addresses)),
            timed(&mut times.spf, self.spf(&own_addresses)),
            timed(&mut times.egress, network::egress(self)),
            timed(&mut times.blocklists, blocklists::gather(self, &own_addresses)),
            timed(&mut times.name_servers, network::name_server_facts(self)),
            timed(&mut times.machine, machine::gather(config, self.files_needed)),
            timed(&mut times.certificate, self.certificate()),
            timed(&mut times.handshakes, listeners::gather(config, self.listening, &certificate)),
            timed(&mut times.submission, submission::gather(self, &certificate)),
            timed(&mut times.ports, ports::gather(config, self.file.is_some())),
            timed(&mut times.state, state::gather(self.server.as_ref(), config, self.now)),
            timed(&mut times.database, state::database(self)),
            timed(&mut times.postgres, postgres::gather(config)),
        );
        Facts {
            at: self.now,
            times,
            hostname: config.hostname.clone(),
            config: self.config_facts(ports),
            own_addresses,
            hostname_addresses,
            sources,
            host_spf,
            included_spf,
            egress,
            blocklists,
            dns,
            tls,
            acme,
            handshakes,
            submission,
            machine,
            state,
            database_faults,
            postgres,
        }
    }

    fn config_facts(&self, ports: Seen<Vec<PortFacts>>) -> ConfigFacts {
        let api = &self.config.api;
        ConfigFacts {
            file: self.file.clone(),
            api_listen: api.listen.clone(),
            is_api_tls: api.tls,
            is_public_url_https: api.public_url.as_ref().is_some_and(|url| url.scheme() == "https"),
            ports,
        }
    }
}

/// The result of a look; `ms` gets how long it took, in milliseconds. All looks together would not fit on the stack of a
/// thread.
fn timed<'a, T>(ms: &'a mut u64, look: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, T> {
    Box::pin(async move {
        let start = Instant::now();
        let found = look.await;
        *ms = start.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        found
    })
}
