//! Collects the facts about the TLS of a domain from the DNS, MTA-STS and the configuration; `policy::tls` decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::mta_sts::MtaSts;
use crate::clock::Clock;
use crate::config::{self, Dnssec, Endpoint};
use crate::dns::{Resolver, SecureResolver, Signed};
use crate::mail::{Content, DomainName, Field, HeaderBlock};
use crate::model::{TlsMinimum, TlsMode};
use crate::policy::tls::{
    DomainFacts, HostPolicy, MxProof, Requirement, StsLookup, TlsRefusal, TlsaLookup, admit, decide,
};
use crate::queue::QueueManager;
use crate::relay::RelayError;
use crate::relay::connection::{Connection, TlsVerifiedFor};
use crate::relay::peer::Peer;
use crate::relay::target_hosts::TargetHosts;
use crate::relay::tasks::Tasks;

/// How long the check of an open connection against a domain's policy remains valid.
const VERIFIED_LIFETIME: Duration = Duration::from_secs(60);

/// The sources of TLS policies.
pub struct TlsPolicies {
    secure: Option<SecureResolver>,
    sts: Option<Arc<MtaSts>>,
    /// `relay.tls_minimum` by domain.
    minimums: HashMap<String, TlsMinimum>,
    clock: Clock,
}

/// What a message requires of an open connection.
pub struct TlsNeed<'a> {
    /// The domain of its recipients.
    pub domain: &'a DomainName,
    /// The host of the connection.
    pub host: &'a str,
    /// The port of the connection.
    pub port: u16,
    /// The `tls` setting of the route.
    pub tls: TlsMode,
    /// Whether the message was submitted with REQUIRETLS.
    pub require_tls: bool,
}

/// The TLS rules for the hosts of one destination.
pub enum TlsRules {
    /// The policy of the route, for hosts that the configuration or the tenant names.
    Route(HostPolicy),
    /// Decided for each host from the facts about the domain.
    Domain {
        /// The facts from the DNS, MTA-STS and the configuration.
        facts: Box<DomainFacts>,
        /// Whether the message was submitted with REQUIRETLS.
        require_tls: bool,
    },
}

impl TlsPolicies {
    /// Checks that the file with the DNSSEC trust anchors can be used.
    ///
    /// # Errors
    /// [`RelayError::TrustAnchor`].
    pub fn check(config: &config::Relay) -> Result<(), RelayError> {
        secure_resolver(config).map(drop)
    }

    /// Reads the files with the DNSSEC trust anchors and with the certificate authorities.
    ///
    /// # Errors
    /// [`RelayError::TrustAnchor`], [`RelayError::CaFile`].
    pub fn new(
        config: &config::Relay,
        queue: &QueueManager,
        resolver: &Resolver,
    ) -> Result<Self, RelayError> {
        let secure = secure_resolver(config)?.map(|secure| secure.within(resolver.network().clone()));
        let sts = match config.mta_sts.enabled {
            true => Some(Arc::new(MtaSts::new(config, queue, resolver.clone())?)),
            false => None,
        };
        let minimums =
            config.tls_minimum.iter().map(|entry| (entry.domain.to_string(), entry.minimum)).collect();
        Ok(Self { secure, sts, minimums, clock: queue.clock().clone() })
    }

    /// The MTA-STS policies, unless `relay.mta_sts.enabled` is false.
    pub fn sts(&self) -> Option<&Arc<MtaSts>> {
        self.sts.as_ref()
    }

    /// Collects the rules for a destination.
    pub async fn rules_for(&self, tasks: &Tasks, targets: &TargetHosts, require_tls: bool) -> TlsRules {
        match &targets.domain {
            None => TlsRules::Route(policy_of_route(targets, require_tls)),
            Some(domain) => {
                let facts = self.facts_of(tasks, domain, targets.route.tls).await;
                TlsRules::Domain { facts: Box::new(facts), require_tls }
            }
        }
    }

    /// The rules for a message with `TLS-Required: No`. The policies of the domain are not looked up.
    pub fn waived_rules(&self, targets: &TargetHosts) -> TlsRules {
        match &targets.domain {
            None => TlsRules::Route(policy_of_route(targets, false)),
            Some(domain) => {
                let minimum = self.minimum_for(domain, targets.route.tls);
                let domain = domain.clone();
                let facts = DomainFacts { domain, mx: MxProof::Off, sts: StsLookup::Absent, minimum };
                TlsRules::Domain { facts: Box::new(facts), require_tls: false }
            }
        }
    }

    /// Whether an open connection meets the TLS policy of a domain and a message. A positive result is reused for a
    /// minute: the DNS records behind it live longer.
    pub async fn allows(&self, tasks: &Tasks, need: &TlsNeed<'_>, connection: &mut Connection) -> bool {
        let is_verified = connection
            .tls_verified_for
            .as_ref()
            .is_some_and(|verified| verified.is_valid_for(need.domain, VERIFIED_LIFETIME, &self.clock));
        if is_verified && !need.require_tls {
            return true;
        }
        let facts = self.facts_of(tasks, need.domain, need.tls).await;
        let Ok(policy) = self.policy_of(&facts, need.host, need.port, need.require_tls).await else {
            return false;
        };
        if !connection.meets(&policy.requirement) {
            return false;
        }
        connection.tls_verified_for = Some(TlsVerifiedFor::new(need.domain.clone(), self.clock.instant()));
        if connection.peer.tls_policy.as_ref() != Some(&policy.basis) {
            let peer = Peer { tls_policy: Some(policy.basis), ..Peer::clone(&connection.peer) };
            connection.peer = Arc::new(peer);
        }
        true
    }

    async fn facts_of(&self, tasks: &Tasks, domain: &DomainName, tls: TlsMode) -> DomainFacts {
        let sts = async {
            match &self.sts {
                Some(sts) => sts.policy_for(tasks, domain).await,
                None => StsLookup::Absent,
            }
        };
        let (mx, sts) = tokio::join!(self.mx_proof(domain), sts);
        DomainFacts { domain: domain.clone(), mx, sts, minimum: self.minimum_for(domain, tls) }
    }

    /// The minimum that the configuration sets for a domain, over a route with this `tls`.
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

    /// RFC 7672 §2.2: TLSA records count only if the domain's MX records are signed.
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

/// Whether the header has `TLS-Required: No` (RFC 8689 §3, §4.1). TLS reports have it, so that they arrive even if TLS
/// is broken (RFC 8460 §3).
pub fn waives_tls(content: &Content) -> bool {
    // An unreadable header waives nothing.
    let Ok(header) = HeaderBlock::scan(&content.submitted, usize::MAX) else { return false };
    let waives =
        |field: &Field| content.submitted[field.value.clone()].trim_ascii().eq_ignore_ascii_case(b"No");
    header.named("TLS-Required").any(waives)
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

impl TlsRules {
    /// The facts about the domain, if the hosts come from its MX records.
    pub fn facts(&self) -> Option<&DomainFacts> {
        match self {
            Self::Route(_) => None,
            Self::Domain { facts, .. } => Some(facts),
        }
    }

    /// The policy for one host.
    ///
    /// # Errors
    /// The host must not get the message over any TLS that it may offer.
    pub async fn for_host(
        &self,
        policies: &TlsPolicies,
        endpoint: &Endpoint,
    ) -> Result<HostPolicy, TlsRefusal> {
        let Endpoint { host, port } = endpoint;
        match self {
            Self::Route(policy) => Ok(policy.clone()),
            Self::Domain { facts, require_tls } => policies.policy_of(facts, host, *port, *require_tls).await,
        }
    }
}

/// The configuration or the tenant names a smart host, so no MX record needs a proof (RFC 8689 §4.2.1).
fn policy_of_route(targets: &TargetHosts, require_tls: bool) -> HostPolicy {
    let mode = targets.route.tls;
    let (requirement, rule) = match mode {
        TlsMode::Implicit | TlsMode::Starttls => (Requirement::Verified, "route"),
        TlsMode::Opportunistic | TlsMode::None if require_tls => (Requirement::Verified, "requiretls"),
        TlsMode::Opportunistic | TlsMode::None => (Requirement::Opportunistic, "route"),
    };
    HostPolicy { requirement, basis: format!("{rule}: its tls is {mode}"), reported: None }
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
