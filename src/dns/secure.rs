//! Answers with proof (DNSSEC, RFC 4033), as DANE needs them. The chain of signatures is followed here, from the root's
//! key down; what a name server says about its own checks is not believed.
//!
//! A resolver of its own beside the plain one: a fault in validation then costs mail to signed domains at most.

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

use super::proof::{Answer, Data, judge};
use super::{DnsError, LOOKUP_TIMEOUT, RECORDS_MAX, configuration, host_text};
use crate::mail::{DomainName, Tlsa};

/// How long the root's records may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at whether the name servers pass signatures on.
const PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// Aliases that are followed from one name.
const ALIASES_MAX: usize = 8;
/// Answers that are remembered.
const ANSWERS_MAX: u64 = 16_384;

/// Asks the DNS and checks the signatures. hickory's own resolver is not used: it follows aliases of whoever has put them
/// into an answer, and what it says then is not of the name that was asked for.
pub struct SecureResolver {
    validator: DnssecDnsHandle<RetryDnsHandle<NameServerPool<TokioRuntimeProvider>>>,
    /// What is there. What is not is asked for again: the name server remembers that.
    cache: ResponseCache,
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

/// Where a name led to.
struct Trail {
    /// The name at its end; the first one unless that is an alias.
    end: Name,
    /// What is there.
    records: Vec<RData>,
    /// Whether all of it is signed, the aliases too (RFC 7672 §2.1.3).
    is_signed: bool,
    /// Whether the first step is.
    begins_signed: bool,
}

impl SecureResolver {
    /// A resolver that asks the same servers as [`super::Resolver::new`] and trusts the root's keys, or the DNSKEY
    /// records of the root in a file.
    ///
    /// # Errors
    /// [`DnsError::Temporary`] if the file is of no use or no resolver can be built at all.
    pub fn new(name_servers: &[SocketAddr], trust_anchor_file: Option<&Path>) -> Result<Self, DnsError> {
        let anchors = match trust_anchor_file {
            None => Arc::default(),
            Some(path) => read_anchors(path)
                .map_err(|message| DnsError::Temporary(format!("{}: {message}", path.display())))?,
        };
        let (config, options) = configuration(name_servers);
        let tls = TlsConfig::new().map_err(|error| DnsError::Temporary(error.to_string()))?;
        let (attempts, ttl) = (options.attempts, TtlConfig::from_opts(&options));
        let context = Arc::new(PoolContext::new(options, tls));
        let servers = config.name_servers().to_vec();
        let pool = NameServerPool::from_config(servers, context, TokioRuntimeProvider::default());
        Ok(Self {
            validator: DnssecDnsHandle::with_trust_anchor(RetryDnsHandle::new(pool, attempts), anchors),
            cache: ResponseCache::new(ANSWERS_MAX, ttl),
            is_proved: AtomicBool::new(false),
            next_probe: Mutex::new(None),
        })
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
        let root = Name::root();
        let probe = tokio::time::timeout(PROBE_TIMEOUT, self.ask(&root, RecordType::SOA));
        if let Ok(Ok(Answer { data: Data::Records(_), is_signed: true })) = probe.await {
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
    /// [`DnsError::Temporary`] if the answer is forged or broken or none came.
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

    /// The names at which the TLSA records of a host may stand, in order of trial (RFC 7672 §2.2.2): what its aliases
    /// lead to, then the host itself. Insecure if it is not signed, and no TLSA records can be.
    ///
    /// # Errors
    /// As [`SecureResolver::mail_hosts`].
    pub async fn base_domains(&self, host: &str) -> Result<Signed<Vec<String>>, DnsError> {
        let name = name_of(host)?;
        // Both families stand in one zone: the first that is there tells of both.
        let mut found = self.follow(name.clone(), RecordType::A).await?;
        if found.records.is_empty() {
            found = self.follow(name.clone(), RecordType::AAAA).await?;
        }
        let own = host_text(&name);
        Ok(match found {
            Trail { is_signed: true, end, .. } if end == name => Signed::Secure(vec![own]),
            Trail { is_signed: true, end, .. } => Signed::Secure(vec![host_text(&end), own]),
            // A signed alias of an unsigned name: only the alias itself can have records.
            Trail { begins_signed: true, .. } => Signed::Secure(vec![own]),
            Trail { .. } => Signed::Insecure,
        })
    }

    /// The TLSA records for a port of a host; none if they are not signed (RFC 7672 §2.2).
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

    /// Asks for records of a name, and of what it is an alias of.
    async fn follow(&self, name: Name, kind: RecordType) -> Result<Trail, DnsError> {
        let trail = async {
            let Answer { mut data, mut is_signed } = self.ask(&name, kind).await?;
            let (begins_signed, mut end) = (is_signed, name);
            for _ in 0..ALIASES_MAX {
                let Data::Alias(target) = data else { break };
                end = target;
                let next = self.ask(&end, kind).await?;
                is_signed &= next.is_signed;
                data = next.data;
            }
            let records = match data {
                Data::Records(records) => records,
                Data::Nothing => Vec::new(),
                Data::Alias(_) => return Err(DnsError::Temporary("too many aliases".into())),
            };
            Ok(Trail { end, records, is_signed, begins_signed })
        };
        let trail = tokio::time::timeout(LOOKUP_TIMEOUT, trail).await;
        trail.unwrap_or_else(|_| Err(DnsError::Temporary("time-out".into())))
    }

    async fn ask(&self, name: &Name, kind: RecordType) -> Result<Answer, DnsError> {
        let query = Query::query(name.clone(), kind);
        if let Some(Ok(message)) = self.cache.get(&query, Instant::now()) {
            return judge(name, kind, &message, Proof::Secure);
        }
        let mut options = DnsRequestOptions::default();
        options.edns_set_dnssec_ok = true;
        match self.validator.lookup(query.clone(), options).first_answer().await {
            Ok(response) => {
                let message = response.into_message();
                let answer = judge(name, kind, &message, Proof::Secure)?;
                self.cache.insert(query, Ok(message), Instant::now());
                Ok(answer)
            }
            Err(NetError::Dns(AnswerError::Nsec { response, proof, .. })) => {
                judge(name, kind, &response, proof)
            }
            Err(error) => Err(DnsError::Temporary(error.to_string())),
        }
    }
}

fn name_of(text: &str) -> Result<Name, DnsError> {
    let mut name = Name::from_ascii(text).map_err(|_| DnsError::NoSuchDomain)?;
    name.set_fqdn(true);
    Ok(name)
}

/// Reads the keys that validation begins with: DNSKEY records of the root in the form of a zone file.
fn read_anchors(path: &Path) -> Result<Arc<TrustAnchors>, String> {
    let anchors = TrustAnchors::from_file(path).map_err(|error| error.to_string())?;
    if anchors.is_empty() {
        return Err("there is no DNSKEY record of the root in it".into());
    }
    Ok(Arc::new(anchors))
}
