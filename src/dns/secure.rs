//! Answers with proof (DNSSEC, RFC 4033), as DANE needs them. The chain of signatures is followed here, from the root's
//! key down; what a name server says about its own checks is not believed.
//!
//! A resolver of its own beside the plain one: a fault in validation then costs mail to signed domains at most.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError as AnswerError, NetError};
use hickory_resolver::proto::dnssec::TrustAnchors;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::sync::Mutex;

use super::{DnsError, LOOKUP_TIMEOUT, RECORDS_MAX, host_text};
use crate::mail::{DomainName, Tlsa};

/// How long the root's records may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at whether the name servers pass signatures on.
const PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// Asks the DNS and checks the signatures.
pub struct SecureResolver {
    resolver: TokioResolver,
    /// The name servers passed the root's signatures on; from then on they are held to it.
    is_proved: AtomicBool,
    /// When to look again.
    next_probe: Mutex<Option<Instant>>,
}

/// Data, or that nobody has signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signed<T> {
    /// The chain of signatures is whole.
    Secure(T),
    /// The zone is not signed, which is proved as well.
    Insecure,
}

/// Records of one name, with those of the aliases on the way.
enum Found {
    Records(Lookup),
    Nothing,
}

impl SecureResolver {
    /// Asks the servers that `resolver` asks, as [`super::Resolver::new`] makes them.
    pub(super) fn build(resolver: TokioResolver) -> Self {
        Self { resolver, is_proved: AtomicBool::new(false), next_probe: Mutex::new(None) }
    }

    /// Whether signatures come through to us at all. Behind name servers that strip them every signed domain would look
    /// forged. Once they have come through their absence is an attack, or a fault that must not pass for insecurity.
    pub async fn is_available(&self) -> bool {
        if self.is_proved.load(Ordering::Relaxed) {
            return true;
        }
        let mut next_probe = self.next_probe.lock().await;
        if self.is_proved.load(Ordering::Relaxed) {
            return true;
        }
        if next_probe.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        let probe = self.lookup(Name::root(), RecordType::SOA);
        let answer = tokio::time::timeout(PROBE_TIMEOUT, probe).await;
        if let Ok(Ok(Found::Records(found))) = &answer
            && is_secure(found)
        {
            self.is_proved.store(true, Ordering::Relaxed);
            tracing::info!("the name servers pass DNSSEC on: DANE is in use");
            return true;
        }
        if next_probe.is_none() {
            tracing::warn!(
                "the name servers do not pass DNSSEC on: DANE is not in use; set relay.name_servers to ones that do"
            );
        }
        *next_probe = Some(Instant::now() + PROBE_INTERVAL);
        false
    }

    /// The hosts that take a domain's mail, in no order. A signed domain without MX is its own host (RFC 5321 §5.1);
    /// whether it is signed shows in its addresses.
    ///
    /// # Errors
    /// [`DnsError::Temporary`] if the answer is forged or broken or none came, [`DnsError::NoSuchDomain`].
    pub async fn mail_hosts(&self, domain: &DomainName) -> Result<Signed<Vec<String>>, DnsError> {
        let found = match self.lookup(name_of(domain.as_str())?, RecordType::MX).await? {
            Found::Records(found) => found,
            Found::Nothing => return Ok(Signed::Secure(vec![domain.as_str().to_owned()])),
        };
        if !is_secure(&found) {
            return Ok(Signed::Insecure);
        }
        let hosts = found.answers().iter().filter_map(|record| match &record.data {
            RData::MX(mx) => Some(host_text(&mx.exchange)),
            _ => None,
        });
        Ok(Signed::Secure(hosts.take(RECORDS_MAX).collect()))
    }

    /// The names at which the TLSA records of a host may stand, in order of trial (RFC 7672 §2.2.2): what its aliases
    /// lead to, then the host itself. Insecure if it is not signed, and no TLSA records can be.
    ///
    /// # Errors
    /// As [`SecureResolver::mail_hosts`].
    pub async fn base_domains(&self, host: &str) -> Result<Signed<Vec<String>>, DnsError> {
        let name = name_of(host)?;
        // Both families stand in one zone: the first that is there tells of both.
        let found = match self.lookup(name.clone(), RecordType::A).await? {
            Found::Records(found) => found,
            Found::Nothing => match self.lookup(name.clone(), RecordType::AAAA).await? {
                Found::Records(found) => found,
                Found::Nothing => return Ok(Signed::Insecure),
            },
        };
        let own = host_text(&name);
        if is_secure(&found) {
            let mut bases: Vec<String> = found
                .answers()
                .iter()
                .filter(|record| matches!(record.data, RData::A(_) | RData::AAAA(_)))
                .map(|record| host_text(&record.name))
                .take(1)
                .collect();
            if !bases.contains(&own) {
                bases.push(own);
            }
            return Ok(Signed::Secure(bases));
        }
        // A signed alias of an unsigned name: only the alias itself can have records.
        let is_signed_alias = found.answers().iter().any(|record| {
            record.name == name && record.record_type() == RecordType::CNAME && record.proof.is_secure()
        });
        Ok(if is_signed_alias { Signed::Secure(vec![own]) } else { Signed::Insecure })
    }

    /// The TLSA records for a port of a host; none if they are not signed (RFC 7672 §2.2).
    ///
    /// # Errors
    /// As [`SecureResolver::mail_hosts`].
    pub async fn tlsa(&self, base: &str, port: u16) -> Result<Vec<Tlsa>, DnsError> {
        let name = name_of(&format!("_{port}._tcp.{base}"))?;
        let found = match self.lookup(name, RecordType::TLSA).await {
            Ok(Found::Records(found)) if is_secure(&found) => found,
            Ok(_) | Err(DnsError::NoSuchDomain) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let records = found.answers().iter().filter_map(|record| match &record.data {
            RData::TLSA(tlsa) => Some(Tlsa {
                usage: tlsa.cert_usage.into(),
                selector: tlsa.selector.into(),
                matching: tlsa.matching.into(),
                data: tlsa.cert_data.clone(),
            }),
            _ => None,
        });
        Ok(records.take(RECORDS_MAX).collect())
    }

    async fn lookup(&self, name: Name, kind: RecordType) -> Result<Found, DnsError> {
        let answer = tokio::time::timeout(LOOKUP_TIMEOUT, self.resolver.lookup(name, kind))
            .await
            .map_err(|_| DnsError::Temporary("time-out".into()))?;
        match answer {
            // RFC 4035 §4.3: neither proved nor proved to be unsigned is no answer.
            Ok(found) if found.answers().iter().any(|record| record.proof.is_bogus()) => {
                Err(DnsError::Temporary("the answer fails DNSSEC validation".into()))
            }
            Ok(found) if found.answers().iter().any(|record| record.record_type() == kind) => {
                Ok(Found::Records(found))
            }
            Ok(_) => Ok(Found::Nothing),
            Err(error) if error.is_nx_domain() => Err(DnsError::NoSuchDomain),
            Err(error) if error.is_no_records_found() || is_insecure_denial(&error) => Ok(Found::Nothing),
            Err(error) => Err(DnsError::Temporary(error.to_string())),
        }
    }
}

fn name_of(text: &str) -> Result<Name, DnsError> {
    let mut name = Name::from_ascii(text).map_err(|_| DnsError::NoSuchDomain)?;
    name.set_fqdn(true);
    Ok(name)
}

/// Whether all that leads to the data is signed, the aliases too; signatures themselves carry no proof.
fn is_secure(found: &Lookup) -> bool {
    let mut data = found.answers().iter().filter(|record| record.record_type() != RecordType::RRSIG);
    data.all(|record| record.proof.is_secure())
}

/// That there is nothing, said by a zone of which it is proved that it need not prove it.
fn is_insecure_denial(error: &NetError) -> bool {
    matches!(error, NetError::Dns(AnswerError::Nsec { proof, .. }) if proof.is_insecure())
}

/// Reads the keys that validation begins with: DNSKEY records of the root in the form of a zone file.
pub(super) fn read_anchors(path: &Path) -> Result<Arc<TrustAnchors>, String> {
    let anchors = TrustAnchors::from_file(path).map_err(|error| error.to_string())?;
    if anchors.is_empty() {
        return Err("there is no DNSKEY record of the root in it".into());
    }
    Ok(Arc::new(anchors))
}
