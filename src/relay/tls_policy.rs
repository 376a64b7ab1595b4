//! Asks the DNS, MTA-STS and the configuration what TLS the hosts of a domain must have; `policy::tls` decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::{Connection, Peer};
use super::mta_sts::MtaSts;
use super::target_hosts::Destination;
use super::{RelayContext, RelayError};
use crate::config::{self, Dnssec, Endpoint};
use crate::dns::{Resolver, SecureResolver, Signed};
use crate::mail::{Content, DomainName, Field, HeaderBlock};
use crate::model::{TlsMinimum, TlsMode};
use crate::policy::tls::{
    DomainFacts, HostPolicy, MxProof, Requirement, StsLookup, TlsRefusal, TlsaLookup, admit, decide,
};
use crate::store::Store;

/// How long a connection that was found fit for a domain counts as fit.
const FITNESS_LIFETIME: Duration = Duration::from_secs(60);

/// Where policies come from.
pub struct TlsPolicies {
    secure: Option<SecureResolver>,
    sts: Option<Arc<MtaSts>>,
    /// By domain.
    minimums: HashMap<String, TlsMinimum>,
}

/// What a message needs of a connection that is open already.
pub struct Need<'a> {
    /// The domain of its recipients.
    pub domain: &'a DomainName,
    /// The host at the other end.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// What the route to them says of TLS.
    pub tls: TlsMode,
    /// The message came with REQUIRETLS.
    pub require_tls: bool,
}

/// That a connection was found fit for the mail of a domain.
#[derive(Debug)]
pub struct TlsVerifiedFor {
    domain: DomainName,
    since: Instant,
}

/// What holds for the hosts of one destination.
pub enum Protection {
    /// The route says it, in which the configuration or the tenant names the hosts.
    Route(HostPolicy),
    /// Each host's own matter.
    Domain {
        /// What is known of the domain.
        facts: Box<DomainFacts>,
        /// The message came with REQUIRETLS.
        require_tls: bool,
    },
}

impl TlsPolicies {
    /// Whether the file with the root's keys can be used.
    ///
    /// # Errors
    /// [`RelayError::TrustAnchor`].
    pub fn check(config: &config::Relay) -> Result<(), RelayError> {
        secure_resolver(config).map(drop)
    }

    /// Reads the file with the root's keys and the one with certificate authorities.
    ///
    /// # Errors
    /// [`RelayError::TrustAnchor`], [`RelayError::CaFile`].
    pub fn new(config: &config::Relay, store: &Arc<Store>, resolver: &Resolver) -> Result<Self, RelayError> {
        let secure = secure_resolver(config)?;
        let sts = match config.mta_sts.enabled {
            true => Some(Arc::new(MtaSts::new(config, store.clone(), resolver.clone())?)),
            false => None,
        };
        let minimums =
            config.tls_minimum.iter().map(|entry| (entry.domain.to_string(), entry.minimum)).collect();
        Ok(Self { secure, sts, minimums })
    }

    /// What fetches and keeps MTA-STS policies, if they are asked for.
    pub fn sts(&self) -> Option<&Arc<MtaSts>> {
        self.sts.as_ref()
    }

    /// Whether a connection is as the domain and the message need it. What is found fit is not asked about again for a
    /// minute: the records behind it live longer.
    pub async fn allows(&self, core: &RelayContext, need: &Need<'_>, connection: &mut Connection) -> bool {
        let is_known = connection.fitness.as_ref().is_some_and(|fitness| {
            fitness.domain == *need.domain && fitness.since.elapsed() < FITNESS_LIFETIME
        });
        if is_known && !need.require_tls {
            return true;
        }
        let facts = self.facts_of(core, need.domain, need.tls).await;
        let Ok(policy) = self.policy_of(&facts, need.host, need.port, need.require_tls).await else {
            return false;
        };
        if !connection.meets(&policy.requirement) {
            return false;
        }
        connection.fitness = Some(TlsVerifiedFor { domain: need.domain.clone(), since: Instant::now() });
        if connection.peer.tls_policy.as_ref() != Some(&policy.ground) {
            let peer = Peer { tls_policy: Some(policy.ground), ..Peer::clone(&connection.peer) };
            connection.peer = Arc::new(peer);
        }
        true
    }

    async fn facts_of(&self, core: &RelayContext, domain: &DomainName, tls: TlsMode) -> DomainFacts {
        let sts = async {
            match &self.sts {
                Some(sts) => sts.answer(core, domain).await,
                None => StsLookup::Absent,
            }
        };
        let (mx, sts) = tokio::join!(self.mx_proof(domain), sts);
        DomainFacts { domain: domain.clone(), mx, sts, minimum: self.minimum_for(domain, tls) }
    }

    /// What the configuration demands for a domain over a route that says this of TLS.
    fn minimum_for(&self, domain: &DomainName, tls: TlsMode) -> TlsMinimum {
        let minimum = domain.ancestors().find_map(|name| self.minimums.get(name).copied());
        let of_route = match tls {
            TlsMode::Implicit | TlsMode::Starttls => TlsMinimum::Verified,
            TlsMode::Opportunistic | TlsMode::None => TlsMinimum::Opportunistic,
        };
        minimum.unwrap_or(TlsMinimum::Opportunistic).max(of_route)
    }

    async fn mx_proof(&self, domain: &DomainName) -> MxProof {
        let Some(resolver) = &self.secure else { return MxProof::Off };
        if !resolver.is_available().await {
            return MxProof::Off;
        }
        match resolver.mail_hosts(domain).await {
            Ok(Signed::Secure(hosts)) => MxProof::Secure(hosts),
            Ok(Signed::Insecure) => MxProof::Insecure,
            Err(error) => MxProof::Failed(error.to_string()),
        }
    }

    /// RFC 7672 §2.2: only a signed domain leads to hosts whose records count.
    async fn tlsa_of(&self, facts: &DomainFacts, host: &str, port: u16) -> TlsaLookup {
        let (MxProof::Secure(_), Some(resolver)) = (&facts.mx, &self.secure) else {
            return TlsaLookup::Insecure;
        };
        let bases = match resolver.base_domains(host).await {
            Ok(Signed::Secure(bases)) => bases,
            Ok(Signed::Insecure) => return TlsaLookup::Insecure,
            Err(error) => return TlsaLookup::Failed(error.to_string()),
        };
        for base in bases {
            match resolver.tlsa(&base, port).await {
                Ok(records) if records.is_empty() => {}
                Ok(records) => return TlsaLookup::Found { base, records },
                Err(error) => return TlsaLookup::Failed(error.to_string()),
            }
        }
        TlsaLookup::Absent
    }

    async fn policy_of(
        &self,
        facts: &DomainFacts,
        host: &str,
        port: u16,
        require_tls: bool,
    ) -> Result<HostPolicy, TlsRefusal> {
        admit(facts, host)?;
        let tlsa = self.tlsa_of(facts, host, port).await;
        decide(facts, host, &tlsa, require_tls)
    }
}

/// RFC 8689 §3, §4.1: whether the header says `TLS-Required: No`, which reports on TLS do (RFC 8460 §3): they would not
/// arrive where they are needed.
pub fn waives_tls(content: &Content) -> bool {
    // A header that cannot be read says nothing.
    let Ok(header) = HeaderBlock::scan(&content.submitted, usize::MAX) else { return false };
    let is_wish =
        |field: &Field| content.submitted[field.value.clone()].trim_ascii().eq_ignore_ascii_case(b"No");
    header.named("TLS-Required").any(is_wish)
}

fn secure_resolver(config: &config::Relay) -> Result<Option<SecureResolver>, RelayError> {
    match config.dnssec {
        Dnssec::Off => Ok(None),
        Dnssec::Validate => {
            let resolver = SecureResolver::new(&config.name_servers, config.trust_anchor_file.as_deref());
            resolver.map(Some).map_err(RelayError::TrustAnchor)
        }
    }
}

impl Protection {
    /// Asks for what holds for a destination.
    pub async fn of(core: &RelayContext, destination: &Destination, require_tls: bool) -> Self {
        match &destination.domain {
            None => Self::Route(policy_of_route(destination, require_tls)),
            Some(domain) => {
                let facts = core.tls_policies.facts_of(core, domain, destination.route.tls).await;
                Self::Domain { facts: Box::new(facts), require_tls }
            }
        }
    }

    /// The same of a message that waives TLS: what the domain asks for is not asked for.
    pub fn waived(core: &RelayContext, destination: &Destination) -> Self {
        match &destination.domain {
            None => Self::Route(policy_of_route(destination, false)),
            Some(domain) => {
                let minimum = core.tls_policies.minimum_for(domain, destination.route.tls);
                let domain = domain.clone();
                let facts = DomainFacts { domain, mx: MxProof::Off, sts: StsLookup::Absent, minimum };
                Self::Domain { facts: Box::new(facts), require_tls: false }
            }
        }
    }

    /// The domain whose hosts are found by its records.
    pub fn facts(&self) -> Option<&DomainFacts> {
        match self {
            Self::Route(_) => None,
            Self::Domain { facts, .. } => Some(facts),
        }
    }

    /// What one of the hosts must have.
    ///
    /// # Errors
    /// It must not get the message at all.
    pub async fn of_host(&self, core: &RelayContext, endpoint: &Endpoint) -> Result<HostPolicy, TlsRefusal> {
        let Endpoint { host, port } = endpoint;
        match self {
            Self::Route(policy) => Ok(policy.clone()),
            Self::Domain { facts, require_tls } => {
                core.tls_policies.policy_of(facts, host, *port, *require_tls).await
            }
        }
    }
}

/// A smart host is what the configuration or the tenant names, so there is no MX to prove (RFC 8689 §4.2.1).
fn policy_of_route(destination: &Destination, require_tls: bool) -> HostPolicy {
    let mode = destination.route.tls;
    let (requirement, rule) = match mode {
        TlsMode::Implicit | TlsMode::Starttls => (Requirement::Verified, "route"),
        TlsMode::Opportunistic | TlsMode::None if require_tls => (Requirement::Verified, "requiretls"),
        TlsMode::Opportunistic | TlsMode::None => (Requirement::Opportunistic, "route"),
    };
    HostPolicy { requirement, ground: format!("{rule}: its tls is {mode}"), reported: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_field_of_the_header_waives_tls() {
        for (submitted, expected) in [
            ("From: a@b\r\nTLS-Required: No\r\n\r\nbody\r\n", true),
            ("tls-required:no\r\n\r\n", true),
            ("TLS-Required:\r\n \tNO \r\n\r\n", true),
            ("TLS-Required: No", true),
            ("TLS-Required: Yes\r\n\r\n", false),
            ("TLS-Required: No\r\n really\r\n\r\n", false),
            ("Subject: x\r\n TLS-Required: No\r\n\r\n", false),
            ("Subject: x\r\n\r\nTLS-Required: No\r\n\r\n", false),
            ("\r\nTLS-Required: No\r\n\r\n", false),
            ("", false),
        ] {
            let content = Content { submitted: submitted.into(), ..Content::default() };
            assert_eq!(waives_tls(&content), expected, "{submitted:?}");
        }
    }
}
