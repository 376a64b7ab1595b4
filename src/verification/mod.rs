//! Verification of sending domains: the DNS records that a domain should have, their look-up, and the resulting status.
//!
//! `records` defines and compares records, `decision` derives the status; both are pure. `return_path` checks the record of
//! the return host, and `probe` whether mail to it arrives here. `sources` has the addresses that records must permit, and
//! `published` asks the name servers of a domain. This file checks one domain, `recheck` all domains regularly. Imports
//! `mail`, `model`, `dkim`, `dns`, `egress_guard`, `store` and the configuration.

mod decision;
mod probe;
mod published;
mod recheck;
mod records;
mod return_path;
mod sources;
mod spf;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::config::{self, Config};
use crate::dns::{DnsError, Resolver};
use crate::mail::{DomainName, SignedDuration, TokenKind, TokenScope, TokenSubject};
use crate::model::{ReturnPathStatus, Verification};
use crate::store::{self, Directory, Domain, RecordStatus, Reports, Store};

pub use decision::{RecordLookup, evaluate};
pub use probe::ProbeCache;
pub use published::ZoneServers;
pub use recheck::recheck_loop;
pub use records::{
    DnsRecord, Purpose, RecordAlternative, RecordType, dkim_record_name, dmarc_policies, expected_records,
    spf_policies,
};
pub use return_path::{ReturnHostChecks, ReturnHostLookup, return_path_hint};
pub use sources::{
    Sender, configured_sources, ehlo_name, is_chosen_by_system, is_public, public_sources,
    uses_smart_hosts_only,
};
pub use spf::{SpfSources, merged as merged_spf, refers_to as spf_refers_to};

/// Settings of verification.
#[derive(Debug, Clone)]
pub struct VerificationSettings {
    /// Time between two checks of a domain.
    pub check_interval: Duration,
    /// How long the records of a verified domain may be wrong before it must stop sending.
    pub verification_grace: SignedDuration,
    /// The domain that SPF records should include.
    pub spf_include: DomainName,
    /// The addresses that SPF records must permit.
    pub sources: SpfSources,
    /// Where mail to return hosts must lead; `None` if the server receives no reports.
    pub return_path: Option<ReturnHostChecks>,
    /// The host name of the server.
    pub hostname: DomainName,
    /// How the name servers of domains are asked.
    pub zone_servers: ZoneServers,
}

impl VerificationSettings {
    /// The settings from the table `[domains]`.
    pub fn new(domains: &config::Domains, hostname: &DomainName) -> Self {
        Self {
            check_interval: domains.check_interval,
            verification_grace: SignedDuration::try_from(domains.verification_grace)
                .unwrap_or(SignedDuration::MAX),
            spf_include: domains.spf_include.clone().unwrap_or_else(|| hostname.clone()),
            sources: SpfSources::of_system(hostname),
            return_path: None,
            hostname: hostname.clone(),
            zone_servers: ZoneServers::default(),
        }
    }

    /// Adds the addresses that the server sends from, and the private networks that it may connect to.
    pub fn sending_from(self, config: Arc<Config>) -> Self {
        let allowed_private_networks = config.relay.allowed_private_networks.clone();
        let zone_servers = ZoneServers { allowed_private_networks, ..self.zone_servers };
        Self { sources: self.sources.and_of(config), zone_servers, ..self }
    }

    /// Adds the return hosts.
    pub fn returning_to(self, return_path: Option<ReturnHostChecks>) -> Self {
        Self { return_path, ..self }
    }
}

/// Why a domain is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckReason {
    /// Somebody asked for it. For a manually verified domain, that confirms that its DKIM keys are published.
    Request,
    /// The check interval has passed.
    Interval,
}

/// Checks domains.
pub struct Verifier {
    /// The domains.
    pub store: Arc<Store>,
    /// Looks up their records.
    pub resolver: Resolver,
    /// The settings.
    pub settings: VerificationSettings,
    /// The clock that decides which checks are due.
    pub clock: Clock,
    /// The results of the last probes.
    pub probes: ProbeCache,
}

impl Verifier {
    /// Looks up the records of a domain, bypassing the caches, and stores the result. Returns `None` if the domain no
    /// longer exists.
    ///
    /// # Errors
    /// The errors of the store. A failed lookup is no error and changes no status.
    pub async fn check(&self, domain: &Domain, reason: CheckReason) -> store::Result<Option<Domain>> {
        let Self { store, resolver, settings, clock, probes: _ } = self;
        let keys = store.dkim_keys(domain.id).await?;
        let expected = expected_records(domain, &keys, settings);
        let mut results = look_up(settings, &resolver.without_cache(), expected).await;
        let (pool, fresh) = (source_pool_of(domain, store).await?, resolver.without_cache());
        for lookup in results.iter_mut().filter(|lookup| lookup.record.purpose == Purpose::Spf) {
            let question = SpfQuestion { domain: &domain.name, pool: pool.as_deref(), resolver: &fresh };
            evaluate_spf(settings, &question, lookup).await;
        }
        let mut check = evaluate(domain, &keys, &results, clock.now(), settings.verification_grace);
        if domain.verification == Verification::Manual && reason == CheckReason::Interval {
            check.dkim_seen.clear();
        }
        let marked = async {
            // Somebody waits for a record to appear.
            if reason == CheckReason::Request {
                settings.zone_servers.mark_published(&fresh, &results, &mut check.records).await;
            }
        };
        let (return_path, ()) = futures_util::join!(self.check_return_path(domain, &results), marked);
        check.return_path = return_path;
        let (from, to) = (domain.status, check.status);
        let updated = store.record_domain_check(domain.id, check).await?;
        if from != to {
            tracing::info!(domain = %domain.name, %from, %to, "domain status changed");
        }
        Ok(updated)
    }

    /// The status of the return host; `None` if the check did not find out.
    async fn check_return_path(&self, domain: &Domain, lookups: &[RecordLookup]) -> Option<ReturnPathStatus> {
        let lookup = lookups.iter().find(|lookup| lookup.record.purpose == Purpose::ReturnPath);
        let (Some(settings), Some(lookup)) = (&self.settings.return_path, lookup) else {
            return Some(ReturnPathStatus::Pending);
        };
        let ReturnHostLookup { status, exchange, .. } = lookup.return_host.as_ref()?;
        let exchange = match (status, exchange) {
            (RecordStatus::Ok, Some(exchange)) => exchange,
            (RecordStatus::Missing, _) => return Some(ReturnPathStatus::Missing),
            _ => return Some(ReturnPathStatus::Mismatch),
        };
        let subject = TokenSubject { scope: TokenScope::Probe, id: domain.id.into() };
        let token = self.store.token_keys().issue(TokenKind::Bounce, subject)?;
        let probe = probe::Probe {
            resolver: &self.resolver.without_cache(),
            exchange,
            port: settings.port,
            hostname: &self.settings.hostname,
            recipient: format!("{token}@{}", lookup.record.name),
        };
        let is_reached = self.probes.is_reached(&probe, &self.clock).await?;
        Some(if is_reached { ReturnPathStatus::Active } else { ReturnPathStatus::Unreachable })
    }
}

/// The source pool of the tenant of a domain, if it has one of its own.
///
/// # Errors
/// The errors of the store.
pub async fn source_pool_of(domain: &Domain, store: &Store) -> store::Result<Option<String>> {
    let Some(tenant) = domain.tenant_id else { return Ok(None) };
    Ok(store.tenant(tenant).await?.and_then(|tenant| tenant.source_pool))
}

/// Whose SPF policy is evaluated, and for which sources.
struct SpfQuestion<'a> {
    domain: &'a DomainName,
    /// The source pool of the tenant, if it has one of its own.
    pool: Option<&'a str>,
    resolver: &'a Resolver,
}

/// Decides about the SPF policy by the evaluation for the sources of the server, if there is one policy.
async fn evaluate_spf(
    settings: &VerificationSettings,
    question: &SpfQuestion<'_>,
    lookup: &mut RecordLookup,
) {
    let policies = lookup.texts.as_deref().map(records::spf_policies).unwrap_or_default();
    let [policy] = policies.as_slice() else { return };
    let SpfQuestion { domain, pool, resolver } = *question;
    match settings.sources.are_permitted_by(domain, pool, resolver).await {
        Ok(permitted) => {
            lookup.permits_sources =
                permitted.unwrap_or_else(|| spf::refers_to(policy, settings.spf_include.as_str()));
        }
        Err(reason) => {
            tracing::debug!(%domain, %reason, "SPF evaluation failed");
            lookup.texts = None;
        }
    }
}

/// Looks up all records of a domain concurrently; there are few.
async fn look_up(
    settings: &VerificationSettings,
    resolver: &Resolver,
    expected: Vec<DnsRecord>,
) -> Vec<RecordLookup> {
    let mut lookups = JoinSet::new();
    for (index, record) in expected.into_iter().enumerate() {
        let (resolver, settings) = (resolver.clone(), settings.clone());
        lookups.spawn(async move {
            if record.purpose == Purpose::ReturnPath {
                return (index, look_up_return_host(&settings, &resolver, record).await);
            }
            let texts = match resolver.texts(&record.name).await {
                Ok(texts) => Some(texts),
                Err(DnsError::NoSuchDomain | DnsError::NoRecords) => Some(Vec::new()),
                Err(DnsError::Temporary(reason)) => {
                    tracing::debug!(name = record.name, reason, "DNS lookup failed");
                    None
                }
            };
            (index, RecordLookup { record, texts, permits_sources: false, return_host: None })
        });
    }
    let mut results = lookups.join_all().await;
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, lookup)| lookup).collect()
}

async fn look_up_return_host(
    settings: &VerificationSettings,
    resolver: &Resolver,
    record: DnsRecord,
) -> RecordLookup {
    let return_host = match &settings.return_path {
        Some(return_path) => return_path.look_up(&record.name, &settings.spf_include, resolver).await,
        None => None,
    };
    RecordLookup { record, texts: None, permits_sources: false, return_host }
}
