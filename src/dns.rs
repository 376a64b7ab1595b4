//! DNS lookups for mail: MX hosts, addresses, TXT records, aliases, SPF and DKIM keys, based on hickory.
//!
//! Names are looked up as absolute names, so that the search list of the machine does not apply. [`SecureResolver`]
//! also validates DNSSEC. Imports `mail` and `rng`.

mod authentication;
mod dkim;
mod proof;
mod reverse;
mod secure;
mod spf;
mod zone_servers;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as AnswerError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::MX;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use rustls::{ClientConfig, RootCertStore};

use crate::mail::DomainName;
use crate::net::{Network, SimulatedAnswer, SimulatedNetwork};
use crate::rng::Rng;

pub use authentication::{
    Authentication, AuthenticationResult, Departure, DmarcIdentifier, DmarcPolicy, DmarcReport,
    SignatureReport, SpfReport,
};
pub use dkim::SignatureCheck;
pub use reverse::reverse_name;
pub use secure::{SecureResolver, Signed};
pub use spf::SpfCost;

/// Maximum number of MX hosts used for one domain.
const MX_HOSTS_MAX: usize = 20;
/// Maximum number of addresses used for one host.
const ADDRESSES_MAX: usize = 20;
/// Maximum number of records used from one answer.
const RECORDS_MAX: usize = 50;
/// Maximum number of cached answers.
const CACHED_ANSWERS: u64 = 16_384;
/// Timeout of one lookup with its retries and aliases.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);

/// A DNS resolver. Cheap to clone; clones share a cache.
#[derive(Clone, Debug)]
pub struct Resolver {
    /// Answers the lookups of this clone: with a cache, or `uncached`.
    current: TokioResolver,
    uncached: TokioResolver,
    /// For name servers that do not know EDNS.
    without_edns: TokioResolver,
    network: Network,
    /// Orders hosts of equal preference.
    rng: Rng,
}

/// The mail hosts of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MailHosts {
    /// Host names in order of preference, without final dots; the domain itself if it has no MX (RFC 5321 §5.1).
    Hosts(Vec<String>),
    /// The domain accepts no mail (RFC 7505).
    NullMx,
}

/// Why a lookup has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// NXDOMAIN.
    #[error("no such domain in the DNS")]
    NoSuchDomain,
    /// The name exists without records of this type.
    #[error("no records of this type in the DNS")]
    NoRecords,
    /// SERVFAIL, timeouts and similar: a later lookup may succeed.
    #[error("DNS lookup failed: {0}")]
    Temporary(String),
}

impl Resolver {
    /// A resolver that uses these name servers, or the system's if empty.
    ///
    /// # Errors
    /// [`DnsError::Temporary`] if no resolver can be created.
    pub fn new(name_servers: &[SocketAddr], rng: Rng) -> Result<Self, DnsError> {
        let (config, options) = configuration(name_servers);
        Self::with(&config, &options, CACHED_ANSWERS, rng)
    }

    fn with(
        config: &ResolverConfig,
        options: &ResolverOpts,
        cached_answers: u64,
        rng: Rng,
    ) -> Result<Self, DnsError> {
        let tls = unused_tls()?;
        let build = |cache_entries: u64, edns: bool| {
            let mut builder =
                TokioResolver::builder_with_config(config.clone(), TokioRuntimeProvider::default());
            *builder.options_mut() = options.clone();
            builder.options_mut().cache_size = cache_entries;
            builder.options_mut().edns0 = edns;
            let built = builder.with_tls_config(tls.clone()).build();
            built.map_err(|error| DnsError::Temporary(error.to_string()))
        };
        Ok(Self {
            current: build(cached_answers, true)?,
            uncached: build(0, true)?,
            without_edns: build(0, false)?,
            network: Network::system(),
            rng,
        })
    }

    /// This resolver in another network.
    pub fn within(self, network: Network) -> Self {
        Self { network, ..self }
    }

    /// The network that it asks.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// A resolver with the same name servers and without a cache, for users who wait for a record to appear.
    pub fn without_cache(&self) -> Self {
        Self { current: self.uncached.clone(), ..self.clone() }
    }

    /// The mail hosts of a domain by preference, equal ones in random order (RFC 5321 §5.1).
    ///
    /// # Errors
    /// [`DnsError::NoSuchDomain`] if the domain does not exist; [`DnsError::Temporary`] if the lookup failed.
    pub async fn mail_hosts(&self, domain: &DomainName) -> Result<MailHosts, DnsError> {
        let exchanges = self.lookup(domain.as_str(), RecordType::MX, |data| match data {
            RData::MX(mx) => Some(mx.clone()),
            _ => None,
        });
        match exchanges.await {
            Ok(records) => Ok(order_hosts(records, &self.rng)),
            // RFC 5321 §5.1: without MX records the domain is its own mail host.
            Err(DnsError::NoRecords) => Ok(MailHosts::Hosts(vec![domain.as_str().to_owned()])),
            Err(error) => Err(error),
        }
    }

    /// The hosts of the MX records of a name, aliases followed, without final dots. Unlike [`Self::mail_hosts`], a name without
    /// MX records has none.
    ///
    /// # Errors
    /// [`DnsError`].
    pub async fn mail_exchanges(&self, name: &str) -> Result<Vec<String>, DnsError> {
        let records = self.lookup(name, RecordType::MX, |data| match data {
            RData::MX(mx) => Some(host_text(&mx.exchange)),
            _ => None,
        });
        records.await
    }

    /// The addresses of a host, IPv4 first: receivers are stricter on IPv6, and many senders have no route. An IP
    /// address as text is returned as is.
    ///
    /// # Errors
    /// [`DnsError`]; [`DnsError::Temporary`] if one address family failed and the other has no addresses.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![ip]);
        }
        let (v4, v6) = tokio::join!(
            self.lookup(host, RecordType::A, |data| match data {
                RData::A(a) => Some(IpAddr::V4(a.0)),
                _ => None,
            }),
            self.lookup(host, RecordType::AAAA, |data| match data {
                RData::AAAA(a) => Some(IpAddr::V6(a.0)),
                _ => None,
            }),
        );
        join_families(v4, v6)
    }

    /// The TXT records of a name; the strings of one record are joined (RFC 7208 §3.3).
    ///
    /// # Errors
    /// [`DnsError`].
    pub async fn texts(&self, name: &str) -> Result<Vec<String>, DnsError> {
        let records = self.lookup(name, RecordType::TXT, |data| match data {
            RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
            _ => None,
        });
        records.await
    }

    /// The CNAME targets of a name, without final dots.
    ///
    /// # Errors
    /// [`DnsError`].
    pub async fn cnames(&self, name: &str) -> Result<Vec<String>, DnsError> {
        let records = self.lookup(name, RecordType::CNAME, |data| match data {
            RData::CNAME(target) => Some(host_text(&target.0)),
            _ => None,
        });
        records.await
    }

    async fn lookup<T>(
        &self,
        name: &str,
        kind: RecordType,
        read: impl Fn(&RData) -> Option<T>,
    ) -> Result<Vec<T>, DnsError> {
        // A text that is not a domain name has no records.
        let mut name = Name::from_ascii(name).map_err(|_| DnsError::NoSuchDomain)?;
        name.set_fqdn(true);
        if let Some(simulation) = self.network.simulation() {
            return simulate(simulation.as_ref(), name, kind, read).await;
        }
        let lookup = async {
            match self.current.lookup(name.clone(), kind).await {
                // RFC 6891 §7: a server that does not know EDNS is asked again without it.
                Err(error) if denies_edns(&error) => self.without_edns.lookup(name, kind).await,
                result => result,
            }
        };
        let answer = tokio::time::timeout(LOOKUP_TIMEOUT, lookup)
            .await
            .map_err(|_| DnsError::Temporary("timeout".into()))?
            .map_err(classify)?;
        let found: Vec<T> =
            answer.answers().iter().filter_map(|record| read(&record.data)).take(RECORDS_MAX).collect();
        if found.is_empty() { Err(DnsError::NoRecords) } else { Ok(found) }
    }
}

async fn simulate<T>(
    network: &dyn SimulatedNetwork,
    name: Name,
    kind: RecordType,
    read: impl Fn(&RData) -> Option<T>,
) -> Result<Vec<T>, DnsError> {
    let (records, _) = ask_simulation(network, name, kind).await?;
    let found: Vec<T> = records.iter().filter_map(read).take(RECORDS_MAX).collect();
    if found.is_empty() { Err(DnsError::NoRecords) } else { Ok(found) }
}

/// The records of a name in a simulated network, and whether they are signed.
async fn ask_simulation(
    network: &dyn SimulatedNetwork,
    name: Name,
    kind: RecordType,
) -> Result<(Vec<RData>, bool), DnsError> {
    let answer = tokio::time::timeout(LOOKUP_TIMEOUT, network.look_up(name, kind)).await;
    match answer.map_err(|_| DnsError::Temporary("timeout".into()))? {
        SimulatedAnswer::Records { records, is_signed } => Ok((records, is_signed)),
        SimulatedAnswer::NoSuchDomain => Err(DnsError::NoSuchDomain),
        SimulatedAnswer::Failed => Err(DnsError::Temporary("the server failed".into())),
    }
}

/// Whether a name server may have answered so because the query had EDNS: servers answer FORMERR, some NOTIMP.
fn denies_edns(error: &NetError) -> bool {
    let NetError::Dns(AnswerError::ResponseCode(code)) = error else { return false };
    matches!(code, ResponseCode::FormErr | ResponseCode::NotImp)
}

fn classify(error: NetError) -> DnsError {
    if error.is_nx_domain() {
        DnsError::NoSuchDomain
    } else if error.is_no_records_found() {
        DnsError::NoRecords
    } else {
        DnsError::Temporary(error.to_string())
    }
}

fn order_hosts(mut records: Vec<MX>, rng: &Rng) -> MailHosts {
    // RFC 7505 §3: the root as exchange is a null MX.
    if records.iter().all(|mx| mx.exchange.is_root()) {
        return MailHosts::NullMx;
    }
    records.retain(|mx| !mx.exchange.is_root());
    records.sort_by_cached_key(|mx| (mx.preference, rng.random::<u64>()));
    let mut hosts: Vec<String> = Vec::new();
    for mx in records {
        let host = host_text(&mx.exchange);
        if hosts.len() < MX_HOSTS_MAX && !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    MailHosts::Hosts(hosts)
}

fn host_text(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

fn join_families(
    v4: Result<Vec<IpAddr>, DnsError>,
    v6: Result<Vec<IpAddr>, DnsError>,
) -> Result<Vec<IpAddr>, DnsError> {
    match (v4, v6) {
        (Ok(v4), Ok(v6)) => {
            Ok(v4.into_iter().take(ADDRESSES_MAX / 2).chain(v6).take(ADDRESSES_MAX).collect())
        }
        (Ok(found), Err(_)) | (Err(_), Ok(found)) => Ok(found.into_iter().take(ADDRESSES_MAX).collect()),
        (Err(error @ DnsError::Temporary(_)), Err(_)) | (Err(_), Err(error @ DnsError::Temporary(_))) => {
            Err(error)
        }
        (Err(DnsError::NoSuchDomain), Err(DnsError::NoSuchDomain)) => Err(DnsError::NoSuchDomain),
        (Err(_), Err(_)) => Err(DnsError::NoRecords),
    }
}

/// The configured name servers, or the system's.
fn configuration(name_servers: &[SocketAddr]) -> (ResolverConfig, ResolverOpts) {
    match name_servers {
        [] => system_configuration(),
        servers => (configuration_for(servers), default_options()),
    }
}

/// Name servers are asked without TLS. hickory wants settings for it, and its own ones need certificate authorities.
fn unused_tls() -> Result<ClientConfig, DnsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| DnsError::Temporary(error.to_string()))?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// The name servers that a resolver with these uses: the system's if empty.
pub fn name_servers(configured: &[SocketAddr]) -> Vec<SocketAddr> {
    let (config, _) = configuration(configured);
    let servers = config.name_servers().iter().map(|server| {
        let port = server.connections.first().map_or(53, |connection| connection.port);
        SocketAddr::new(server.ip, port)
    });
    let mut distinct = Vec::new();
    for server in servers {
        if !distinct.contains(&server) {
            distinct.push(server);
        }
    }
    distinct
}

fn default_options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    apply_options(&mut options);
    options
}

fn apply_options(options: &mut ResolverOpts) {
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = Duration::from_secs(5);
    options.attempts = 2;
    // Concurrent queries to two servers would lose the TCP retry of a truncated answer.
    options.num_concurrent_reqs = 1;
    // Above this limit hickory reports "busy", which would defer mail without reason.
    options.max_active_requests = 4096;
    options.edns0 = true;
    // Without a minimum TTL negative answers are not cached.
    options.negative_min_ttl = Some(Duration::from_secs(10));
    options.negative_max_ttl = Some(Duration::from_secs(5 * 60));
    options.positive_max_ttl = Some(Duration::from_secs(24 * 60 * 60));
}

/// The system's name servers; as in the C library, localhost if the system configures none.
fn system_configuration() -> (ResolverConfig, ResolverOpts) {
    match hickory_resolver::system_conf::read_system_conf() {
        Ok((config, mut options)) if !config.name_servers().is_empty() => {
            apply_options(&mut options);
            (config, options)
        }
        _ => (configuration_for(&[SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53)]), default_options()),
    }
}

fn configuration_for(servers: &[SocketAddr]) -> ResolverConfig {
    let servers = servers.iter().map(|server| {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        for connection in &mut connections {
            connection.port = server.port();
        }
        NameServerConfig::new(server.ip(), true, connections)
    });
    ResolverConfig::from_parts(None, Vec::new(), servers.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mx(preference: u16, exchange: &str) -> MX {
        MX::new(preference, Name::from_ascii(exchange).unwrap())
    }

    fn hosts(records: Vec<MX>) -> Vec<String> {
        match order_hosts(records, &Rng::system()) {
            MailHosts::Hosts(hosts) => hosts,
            MailHosts::NullMx => panic!("null MX"),
        }
    }

    #[test]
    fn hosts_are_sorted_by_preference_without_duplicates() {
        let records = vec![mx(20, "B.example."), mx(10, "a.example."), mx(30, "a.example."), mx(5, ".")];
        assert_eq!(hosts(records), ["a.example", "b.example"]);
    }

    #[test]
    fn the_hosts_file_is_not_used() {
        for (_, options) in [configuration(&[]), configuration(&[answer_all(0)])] {
            assert!(matches!(options.use_hosts_file, ResolveHosts::Never));
        }
    }

    #[test]
    fn equal_preferences_are_tried_in_random_order() {
        let firsts: std::collections::HashSet<String> =
            (0..200).map(|_| hosts(vec![mx(1, "a."), mx(1, "b."), mx(2, "c.")])[0].clone()).collect();
        assert_eq!(firsts, ["a", "b"].map(String::from).into());
    }

    #[test]
    fn the_root_alone_means_no_mail() {
        assert_eq!(order_hosts(vec![mx(0, ".")], &Rng::system()), MailHosts::NullMx);
    }

    #[test]
    fn an_answer_with_too_many_records_is_truncated() {
        let many = (0..500).map(|n| mx(n, &format!("h{n}.example."))).collect();
        assert_eq!(hosts(many).len(), MX_HOSTS_MAX);
        let v4 = vec![IpAddr::from([192, 0, 2, 1]); 100];
        let v6 = vec![IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]); 100];
        let both = join_families(Ok(v4), Ok(v6)).unwrap();
        assert_eq!(both.len(), ADDRESSES_MAX);
        assert!(both.iter().any(IpAddr::is_ipv6) && both[0].is_ipv4());
    }

    #[test]
    fn a_failed_lookup_of_one_family_is_not_a_missing_domain() {
        let failed = || Err(DnsError::Temporary("SERVFAIL".into()));
        let absent = || Err(DnsError::NoRecords);
        let unknown = || Err(DnsError::NoSuchDomain);
        assert_eq!(join_families(failed(), unknown()), failed());
        assert_eq!(join_families(absent(), failed()), failed());
        assert_eq!(join_families(absent(), unknown()), absent());
        assert_eq!(join_families(unknown(), unknown()), unknown());
        let found = vec![IpAddr::from([192, 0, 2, 1])];
        assert_eq!(join_families(Ok(found.clone()), failed()), Ok(found));
    }

    /// A server that answers every query with a response code and no records.
    fn answer_all(code: u8) -> SocketAddr {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((len, peer)) = socket.recv_from(&mut packet) {
                // RFC 1035 §4.1.1: QR is the first bit of the flags, the response code the last four.
                packet[2] |= 0x80;
                packet[3] = code;
                let _ = socket.send_to(&packet[..len], peer);
            }
        });
        address
    }

    #[tokio::test]
    async fn negative_answers_are_distinguished() {
        let domain = DomainName::parse("example.com").unwrap();
        let ask =
            async |code| Resolver::new(&[answer_all(code)], Rng::system()).unwrap().mail_hosts(&domain).await;
        assert_eq!(ask(0).await, Ok(MailHosts::Hosts(vec!["example.com".into()])));
        assert_eq!(ask(3).await, Err(DnsError::NoSuchDomain));
        assert!(matches!(ask(2).await, Err(DnsError::Temporary(_))));
    }

    #[tokio::test]
    async fn an_ip_address_needs_no_lookup_and_an_invalid_name_is_not_sent() {
        let resolver = Resolver::new(&[answer_all(0)], Rng::system()).unwrap();
        assert_eq!(resolver.addresses("::1").await, Ok(vec!["::1".parse().unwrap()]));
        assert_eq!(resolver.addresses("not a name").await, Err(DnsError::NoSuchDomain));
        assert_eq!(resolver.without_cache().texts("example.com").await, Err(DnsError::NoRecords));
    }
}
