//! DNSSEC-validated lookups (RFC 4033), for DANE. Validates the chain of signatures locally from the root key; the AD
//! bit of a name server is not trusted.
//!
//! Separate from the plain resolver, so that a fault in validation affects signed domains only.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hickory_resolver::net::dnssec::DnssecDnsHandle;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer, RetryDnsHandle};
use hickory_resolver::net::{DnsError as AnswerError, NetError};
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::op::{DnsRequestOptions, Query};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{NameServerPool, PoolContext, ResponseCache, TlsConfig, TtlConfig};
use tokio::sync::Mutex;

use super::proof::{Answer, Data, evaluate};
use super::{DnsError, LOOKUP_TIMEOUT, RECORDS_MAX, ask_simulation, configuration, host_text, unused_tls};
use crate::mail::{DomainName, Tlsa};
use crate::net::{Network, SimulatedNetwork};

/// Timeout of the probe whether the name servers return signatures.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum number of aliases followed from one name.
const ALIASES_MAX: usize = 8;
/// Maximum number of cached answers.
const ANSWERS_MAX: u64 = 16_384;

/// A validating resolver. It replaces hickory's own resolver, which follows any alias in an answer: with an inserted
/// alias, the result is about another name than the requested one.
pub struct SecureResolver {
    validator: DnssecDnsHandle<RetryDnsHandle<NameServerPool<TokioRuntimeProvider>>>,
    /// Positive answers only. The name server caches the negative ones.
    cache: ResponseCache,
    /// Whether the name servers have returned the root's signatures. From then on, missing signatures are errors.
    has_dnssec: AtomicBool,
    /// The time of the next probe.
    next_probe: Mutex<Option<Instant>>,
    network: Network,
}

/// Validated data, or proof that the zone is unsigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signed<T> {
    /// The chain of signatures is complete.
    Secure(T),
    /// The zone is proved to be unsigned.
    Insecure,
}

/// The result of following aliases from a name.
struct AliasChain {
    /// The final name; the original one if it is no alias.
    end: Name,
    /// The records of the final name.
    records: Vec<RData>,
    /// Whether the records and all aliases are signed (RFC 7672 §2.1.3).
    is_signed: bool,
    /// Whether the answer for the original name is signed.
    first_is_signed: bool,
}

impl SecureResolver {
    /// A resolver with the same name servers as [`super::Resolver::new`]. It trusts the built-in root keys, or the
    /// DNSKEY records in a file.
    ///
    /// # Errors
    /// [`DnsError::Temporary`] if the file is unusable or no resolver can be created.
    pub fn new(name_servers: &[SocketAddr], trust_anchor_file: Option<&Path>) -> Result<Self, DnsError> {
        let anchors = match trust_anchor_file {
            None => Arc::default(),
            Some(path) => read_anchors(path)
                .map_err(|message| DnsError::Temporary(format!("{}: {message}", path.display())))?,
        };
        let (config, options) = configuration(name_servers);
        let tls = TlsConfig { config: unused_tls()? };
        let (attempts, ttl) = (options.attempts, TtlConfig::from_opts(&options));
        let context = Arc::new(PoolContext::new(options, tls));
        let servers = config.name_servers().to_vec();
        let pool = NameServerPool::from_config(servers, context, TokioRuntimeProvider::default());
        Ok(Self {
            validator: DnssecDnsHandle::with_trust_anchor(RetryDnsHandle::new(pool, attempts), anchors),
            cache: ResponseCache::new(ANSWERS_MAX, ttl),
            has_dnssec: AtomicBool::new(false),
            next_probe: Mutex::new(None),
            network: Network::system(),
        })
    }

    /// This resolver in another network. The answers of a simulated one say whether they are signed.
    pub fn within(self, network: Network) -> Self {
        let has_dnssec = network.simulation().is_some();
        Self { has_dnssec: AtomicBool::new(has_dnssec), network, ..self }
    }

    /// Whether the name servers return signatures. If they do not, every signed domain would look forged, so DANE stays
    /// inactive. Once they have returned a signature, a missing one is an attack or a fault: the domain does not count
    /// as unsigned.
    pub async fn is_available(&self) -> bool {
        if self.has_dnssec.load(Ordering::Relaxed) {
            return true;
        }
        let mut next_probe = self.next_probe.lock().await;
        if self.has_dnssec.load(Ordering::Relaxed) {
            return true;
        }
        if next_probe.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        if self.returns_signatures().await {
            self.has_dnssec.store(true, Ordering::Relaxed);
            tracing::info!("the name servers support DNSSEC: DANE is active");
            return true;
        }
        if next_probe.is_none() {
            tracing::warn!(
                "the name servers do not support DNSSEC: DANE is inactive; set relay.name_servers to servers that do"
            );
        }
        *next_probe = Some(Instant::now() + PROBE_INTERVAL);
        false
    }

    /// Whether the name servers return the signatures of the root now, and they are valid.
    pub async fn returns_signatures(&self) -> bool {
        let root = Name::root();
        let probe = tokio::time::timeout(PROBE_TIMEOUT, self.query(&root, RecordType::SOA));
        matches!(probe.await, Ok(Ok(Answer { data: Data::Records(_), is_signed: true })))
    }

    /// The mail hosts of a domain, unordered. A signed domain without MX is its own mail host (RFC 5321 §5.1); its
    /// addresses show whether it is signed.
    ///
    /// # Errors
    /// [`DnsError::Temporary`] if validation failed or no answer arrived; [`DnsError::NoSuchDomain`] if the text is not
    /// a domain name.
    pub async fn mail_hosts(&self, domain: &DomainName) -> Result<Signed<Vec<String>>, DnsError> {
        let found = self.follow(name_of(domain.as_str())?, RecordType::MX).await?;
        if !found.is_signed {
            return Ok(Signed::Insecure);
        }
        if found.records.is_empty() {
            return Ok(Signed::Secure(vec![domain.as_str().to_owned()]));
        }
        let hosts = found.records.iter().filter_map(|data| match data {
            RData::MX(mx) => Some(host_text(&mx.exchange)),
            _ => None,
        });
        Ok(Signed::Secure(hosts.take(RECORDS_MAX).collect()))
    }

    /// The TLSA base domains of a host in the order to try them (RFC 7672 §2.2.2): the target of its aliases, then the
    /// host itself. `Insecure` if the host is unsigned: its TLSA records cannot be used.
    ///
    /// # Errors
    /// As [`SecureResolver::mail_hosts`].
    pub async fn base_domains(&self, host: &str) -> Result<Signed<Vec<String>>, DnsError> {
        let name = name_of(host)?;
        // A and AAAA records are in the same zone: the first type that exists decides for both.
        let mut found = self.follow(name.clone(), RecordType::A).await?;
        if found.records.is_empty() {
            found = self.follow(name.clone(), RecordType::AAAA).await?;
        }
        let own = host_text(&name);
        Ok(match found {
            AliasChain { is_signed: true, end, .. } if end == name => Signed::Secure(vec![own]),
            AliasChain { is_signed: true, end, .. } => Signed::Secure(vec![host_text(&end), own]),
            // A signed alias of an unsigned name: only the alias itself can have TLSA records.
            AliasChain { first_is_signed: true, .. } => Signed::Secure(vec![own]),
            AliasChain { .. } => Signed::Insecure,
        })
    }

    /// The TLSA records of a port of a host; none if they are unsigned (RFC 7672 §2.2).
    ///
    /// # Errors
    /// As [`SecureResolver::mail_hosts`].
    pub async fn tlsa(&self, base: &str, port: u16) -> Result<Vec<Tlsa>, DnsError> {
        let found = self.follow(name_of(&format!("_{port}._tcp.{base}"))?, RecordType::TLSA).await?;
        if !found.is_signed {
            return Ok(Vec::new());
        }
        let records = found.records.into_iter().filter_map(|data| match data {
            RData::TLSA(tlsa) => Some(Tlsa {
                usage: tlsa.cert_usage.into(),
                selector: tlsa.selector.into(),
                matching: tlsa.matching.into(),
                data: tlsa.cert_data,
            }),
            _ => None,
        });
        Ok(records.take(RECORDS_MAX).collect())
    }

    /// Looks up records of a name, following aliases.
    async fn follow(&self, name: Name, kind: RecordType) -> Result<AliasChain, DnsError> {
        let chain = async {
            let Answer { mut data, mut is_signed } = self.query(&name, kind).await?;
            let (first_is_signed, mut end) = (is_signed, name);
            for _ in 0..ALIASES_MAX {
                let Data::Alias(target) = data else { break };
                end = target;
                let next = self.query(&end, kind).await?;
                is_signed &= next.is_signed;
                data = next.data;
            }
            let records = match data {
                Data::Records(records) => records,
                Data::Empty => Vec::new(),
                Data::Alias(_) => return Err(DnsError::Temporary("too many aliases".into())),
            };
            Ok(AliasChain { end, records, is_signed, first_is_signed })
        };
        let chain = tokio::time::timeout(LOOKUP_TIMEOUT, chain).await;
        chain.unwrap_or_else(|_| Err(DnsError::Temporary("timeout".into())))
    }

    async fn query(&self, name: &Name, kind: RecordType) -> Result<Answer, DnsError> {
        if let Some(simulation) = self.network.simulation() {
            return simulate(simulation.as_ref(), name, kind).await;
        }
        let query = Query::query(name.clone(), kind);
        if let Some(Ok(message)) = self.cache.get(&query, Instant::now()) {
            return evaluate(name, kind, &message, Proof::Secure);
        }
        let mut options = DnsRequestOptions::default();
        options.edns_set_dnssec_ok = true;
        match self.validator.lookup(query.clone(), options).first_answer().await {
            Ok(response) => {
                let message = response.into_message();
                let answer = evaluate(name, kind, &message, Proof::Secure)?;
                self.cache.insert(query, Ok(message), Instant::now());
                Ok(answer)
            }
            Err(NetError::Dns(AnswerError::Nsec { response, proof, .. })) => {
                evaluate(name, kind, &response, proof)
            }
            Err(error) => Err(DnsError::Temporary(error.to_string())),
        }
    }
}

async fn simulate(network: &dyn SimulatedNetwork, name: &Name, kind: RecordType) -> Result<Answer, DnsError> {
    match ask_simulation(network, name.clone(), kind).await {
        Ok((records, is_signed)) if records.is_empty() => Ok(Answer { data: Data::Empty, is_signed }),
        Ok((records, is_signed)) => Ok(Answer { data: Data::Records(records), is_signed }),
        Err(DnsError::NoSuchDomain) => Ok(Answer { data: Data::Empty, is_signed: false }),
        Err(error) => Err(error),
    }
}

fn name_of(text: &str) -> Result<Name, DnsError> {
    let mut name = Name::from_ascii(text).map_err(|_| DnsError::NoSuchDomain)?;
    name.set_fqdn(true);
    Ok(name)
}

/// Reads the trust anchors: DNSKEY records of the root in zone file format.
fn read_anchors(path: &Path) -> Result<Arc<TrustAnchors>, String> {
    let anchors = TrustAnchors::from_file(path).map_err(|error| error.to_string())?;
    if anchors.is_empty() {
        return Err("the file has no DNSKEY record of the root".into());
    }
    Ok(Arc::new(anchors))
}
