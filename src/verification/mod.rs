//! Verification of sending domains: the DNS records that a domain should have, their look-up, and the resulting status.
//!
//! `records` defines and compares records, `decision` derives the status; both are pure. This file checks one domain,
//! `recheck` all domains regularly. Imports `mail`, `dkim`, `dns`, `store` and the configuration.

mod decision;
mod recheck;
mod records;
mod spf;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::config;
use crate::dns::{DnsError, Resolver};
use crate::mail::{DomainName, SignedDuration};
use crate::store::{self, Directory, Domain, Store};

pub use decision::{RecordLookup, evaluate};
pub use recheck::recheck_loop;
pub use records::{DnsRecord, Purpose, dkim_record_name, expected_records};
pub use spf::SpfSources;

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
        }
    }

    /// Adds the source addresses of the relay.
    pub fn sending_from(self, relay: &config::Relay) -> Self {
        Self { sources: self.sources.and_of(relay), ..self }
    }
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
}

impl Verifier {
    /// Looks up the records of a domain, bypassing the caches, and stores the result. Returns `None` if the domain no
    /// longer exists.
    ///
    /// # Errors
    /// The errors of the store. A failed lookup is no error and changes no status.
    pub async fn check(&self, domain: &Domain) -> store::Result<Option<Domain>> {
        let Self { store, resolver, settings, clock } = self;
        let keys = store.dkim_keys(domain.id).await?;
        let expected = expected_records(domain, &keys, &settings.spf_include);
        let mut results = look_up(&resolver.without_cache(), expected).await;
        for lookup in results.iter_mut().filter(|lookup| lookup.record.purpose == Purpose::Spf) {
            evaluate_spf(&domain.name, settings, &resolver.without_cache(), lookup).await;
        }
        let check = evaluate(domain, &keys, &results, clock.now(), settings.verification_grace);
        let (from, to) = (domain.status, check.status);
        let updated = store.record_domain_check(domain.id, check).await?;
        if from != to {
            tracing::info!(domain = %domain.name, %from, %to, "domain status changed");
        }
        Ok(updated)
    }
}

/// Evaluates the SPF policy for the sources of the server, if there is one policy.
async fn evaluate_spf(
    domain: &DomainName,
    settings: &VerificationSettings,
    resolver: &Resolver,
    lookup: &mut RecordLookup,
) {
    let policies = lookup.texts.as_deref().map(records::spf_policies).unwrap_or_default();
    let [policy] = policies.as_slice() else { return };
    match settings.sources.are_permitted_by(domain, resolver).await {
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
async fn look_up(resolver: &Resolver, expected: Vec<DnsRecord>) -> Vec<RecordLookup> {
    let mut lookups = JoinSet::new();
    for (index, record) in expected.into_iter().enumerate() {
        let resolver = resolver.clone();
        lookups.spawn(async move {
            let texts = match resolver.texts(&record.name).await {
                Ok(texts) => Some(texts),
                Err(DnsError::NoSuchDomain | DnsError::NoRecords) => Some(Vec::new()),
                Err(DnsError::Temporary(reason)) => {
                    tracing::debug!(name = record.name, reason, "DNS lookup failed");
                    None
                }
            };
            (index, RecordLookup { record, texts, permits_sources: false })
        });
    }
    let mut results = lookups.join_all().await;
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, lookup)| lookup).collect()
}
