//! The proof of sending domains: which records a domain should have, looking them up, and what follows.
//!
//! `records` says what should be there and compares, `decision` derives the status; both are pure. This file asks
//! the DNS and the store for one domain, `recheck` has it done for all. Imports `mail`, `sign`, `dns`, `store` and the configuration.

mod decision;
mod recheck;
mod records;

use std::time::Duration;

use tokio::task::JoinSet;

use crate::config;
use crate::dns::{DnsError, Resolver};
use crate::mail::{DomainName, SignedDuration, Timestamp};
use crate::store::{self, Directory, Domain, Store};

pub use decision::{Finding, decide};
pub use recheck::recheck_loop;
pub use records::{DnsRecord, Purpose, dkim_record_name, expected_records};

/// What the proof of domains depends on.
#[derive(Debug, Clone)]
pub struct VerificationSettings {
    /// Between two looks at a domain's records.
    pub check_interval: Duration,
    /// How long the records of a verified domain may be wrong before it stops sending.
    pub verification_grace: SignedDuration,
    /// The name whose SPF record lists this server.
    pub spf_include: DomainName,
}

impl VerificationSettings {
    /// The part of the configuration that is about domains.
    pub fn new(domains: &config::Domains, hostname: &DomainName) -> Self {
        Self {
            check_interval: domains.check_interval,
            verification_grace: SignedDuration::try_from(domains.verification_grace)
                .unwrap_or(SignedDuration::MAX),
            spf_include: domains.spf_include.clone().unwrap_or_else(|| hostname.clone()),
        }
    }
}

/// Looks the records of a domain up now, past every cache of ours, and writes what follows.
/// `None` if the domain is gone.
///
/// # Errors
/// Those of the store; trouble with the DNS is a finding and changes nothing.
pub async fn check(
    resolver: &Resolver,
    store: &Store,
    domain: &Domain,
    settings: &VerificationSettings,
) -> store::Result<Option<Domain>> {
    let keys = store.dkim_keys(domain.id).await?;
    let expected = expected_records(domain, &keys, &settings.spf_include);
    let findings = look_up(&resolver.without_cache(), expected).await;
    let check = decide(domain, &keys, &findings, Timestamp::now(), settings.verification_grace);
    let (from, to) = (domain.status, check.status);
    let updated = store.record_domain_check(domain.id, check).await?;
    if from != to {
        tracing::info!(domain = %domain.name, %from, %to, "the status of a domain changed");
    }
    Ok(updated)
}

/// Asks for all records of a domain at the same time; there are few.
async fn look_up(resolver: &Resolver, expected: Vec<DnsRecord>) -> Vec<Finding> {
    let mut lookups = JoinSet::new();
    for (index, record) in expected.into_iter().enumerate() {
        let resolver = resolver.clone();
        lookups.spawn(async move {
            let texts = match resolver.texts(&record.name).await {
                Ok(texts) => Some(texts),
                Err(DnsError::NoSuchDomain | DnsError::NoRecords) => Some(Vec::new()),
                Err(DnsError::Temporary(reason)) => {
                    tracing::debug!(name = record.name, reason, "a record could not be looked up");
                    None
                }
            };
            (index, Finding { record, texts })
        });
    }
    let mut findings = lookups.join_all().await;
    findings.sort_by_key(|(index, _)| *index);
    findings.into_iter().map(|(_, finding)| finding).collect()
}
