//! The simulated network: hosts at addresses, a DNS, latency and faults.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::rr::rdata::tlsa::{CertUsage, Matching, Selector};
use hickory_resolver::proto::rr::rdata::{A, MX, TLSA, TXT};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use pillarbox::net::{BoxFuture, SimulatedAnswer, SimulatedNetwork, SimulatedStream, Stream};
use tokio::time::sleep;

use crate::chance::Chance;
use crate::fake_mx::{FakeMx, Transaction};
use crate::hook::Hook;
use crate::pipe::{self, End, Fate};
use crate::policy_host::PolicyHost;
use crate::wire::Wire;

/// The address of the server.
pub const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(20, 1, 0, 1)), 0);
/// Longer than everything waits for a connection.
const NEVER: Duration = Duration::from_secs(3600);

/// How a host takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Up,
    Refuses,
    DoesNotAnswer,
}

/// A connection to a host that was opened.
struct Opened {
    host: SocketAddr,
    /// Its number at the host.
    number: usize,
    is_broken: Arc<AtomicBool>,
}

pub struct Network {
    chance: Chance,
    /// False once everything works.
    has_faults: AtomicBool,
    hosts: BTreeMap<SocketAddr, FakeMx>,
    hooks: BTreeMap<SocketAddr, Arc<Hook>>,
    policy_hosts: BTreeMap<SocketAddr, Arc<PolicyHost>>,
    reach: Mutex<BTreeMap<SocketAddr, Reach>>,
    /// Answers for hosts that are impersonated.
    impostor: FakeMx,
    impersonated: Mutex<BTreeSet<SocketAddr>>,
    records: BTreeMap<(String, RecordType), Vec<RData>>,
    /// Domains whose records have signatures.
    signed: BTreeSet<String>,
    /// Texts that people have published.
    published: Mutex<BTreeMap<String, Vec<RData>>>,
    /// Domains whose published texts are gone.
    hidden: Mutex<BTreeSet<String>>,
    /// Domains whose name servers fail.
    failing: Mutex<BTreeSet<String>>,
    opened: Mutex<Vec<Opened>>,
}

impl Network {
    pub fn new(chance: Chance, impostor: FakeMx) -> Self {
        Self {
            chance,
            has_faults: AtomicBool::new(true),
            hosts: BTreeMap::new(),
            hooks: BTreeMap::new(),
            policy_hosts: BTreeMap::new(),
            reach: Mutex::default(),
            impostor,
            impersonated: Mutex::default(),
            records: BTreeMap::new(),
            signed: BTreeSet::new(),
            published: Mutex::default(),
            hidden: Mutex::default(),
            failing: Mutex::default(),
            opened: Mutex::default(),
        }
    }

    pub fn add_host(&mut self, name: &str, mx: FakeMx) {
        self.add_address(name, mx.address);
        self.hosts.insert(mx.address, mx);
    }

    pub fn add_hook(&mut self, name: &str, hook: Hook) {
        self.add_address(name, hook.address);
        self.hooks.insert(hook.address, Arc::new(hook));
    }

    pub fn add_policy_host(&mut self, name: &str, host: PolicyHost) {
        self.add_address(name, host.address);
        self.policy_hosts.insert(host.address, Arc::new(host));
    }

    fn add_address(&mut self, name: &str, address: SocketAddr) {
        let IpAddr::V4(ip) = address.ip() else { unreachable!("hosts have IPv4") };
        self.record(name, RData::A(A(ip)));
    }

    /// That of each tenant, in their order.
    pub fn hooks(&self) -> Vec<Arc<Hook>> {
        self.hooks.values().cloned().collect()
    }

    pub fn add_mx(&mut self, domain: &str, preference: u16, host: &str) {
        self.record(domain, RData::MX(MX::new(preference, absolute(host))));
    }

    pub fn add_text(&mut self, name: &str, text: &str) {
        self.record(name, RData::TXT(TXT::new(vec![text.to_owned()])));
    }

    /// A TLSA record with a whole certificate (RFC 6698: usage 3, selector 0, matching type 0).
    pub fn add_tlsa(&mut self, name: &str, certificate: &[u8]) {
        let data = TLSA::new(CertUsage::DaneEe, Selector::Full, Matching::Raw, certificate.to_vec());
        self.record(name, RData::TLSA(data));
    }

    pub fn sign(&mut self, domain: &str) {
        self.signed.insert(domain.to_owned());
    }

    fn record(&mut self, name: &str, data: RData) {
        self.records.entry((name.to_owned(), data.record_type())).or_default().push(data);
    }

    pub fn hosts(&self) -> impl Iterator<Item = &FakeMx> {
        self.hosts.values().chain([&self.impostor])
    }

    pub fn set_reach(&self, host: SocketAddr, reach: Reach) {
        self.reach.lock().unwrap().insert(host, reach);
    }

    /// Another host answers at the address of this one.
    pub fn set_impersonated(&self, host: SocketAddr, is_impersonated: bool) {
        set(&self.impersonated, host, is_impersonated);
    }

    pub fn set_failing(&self, domain: &str, fails: bool) {
        set(&self.failing, domain.to_owned(), fails);
    }

    /// Adds a text, unless it is there.
    pub fn publish(&self, name: &str, text: &str) {
        let data = RData::TXT(TXT::new(vec![text.to_owned()]));
        let mut published = self.published.lock().unwrap();
        let texts = published.entry(name.to_lowercase()).or_default();
        if !texts.contains(&data) {
            texts.push(data);
        }
    }

    /// Takes the published texts of a domain away, or brings them back.
    pub fn hide(&self, domain: &str, is_hidden: bool) {
        set(&self.hidden, domain.to_owned(), is_hidden);
    }

    fn published(&self, name: &str) -> Option<Vec<RData>> {
        let is_hidden = self.hidden.lock().unwrap().iter().any(|domain| is_under(name, domain));
        if is_hidden { None } else { self.published.lock().unwrap().get(name).cloned() }
    }

    /// The numbers of the connections of a host that broke.
    pub fn broken_connections(&self, host: SocketAddr) -> BTreeSet<usize> {
        let opened = self.opened.lock().unwrap();
        let broken = opened.iter().filter(|one| one.host == host && one.is_broken.load(Ordering::Relaxed));
        broken.map(|one| one.number).collect()
    }

    /// Whether a host has a message for a recipient.
    pub fn has_taken(&self, id: &str, recipient: &str) -> bool {
        let is_it = |transaction: &Transaction| {
            let content = String::from_utf8_lossy(&transaction.content);
            transaction.recipients.iter().any(|one| one == recipient) && content.contains(id)
        };
        self.hosts.values().any(|host| host.transactions().iter().any(is_it))
    }

    /// From now on, everything works.
    pub fn mend(&self) {
        self.has_faults.store(false, Ordering::Relaxed);
        self.restore();
    }

    /// All hosts are reached, all name servers answer, and all records are there.
    pub fn restore(&self) {
        self.reach.lock().unwrap().clear();
        self.failing.lock().unwrap().clear();
        self.hidden.lock().unwrap().clear();
        self.impersonated.lock().unwrap().clear();
    }

    fn latency(&self) -> Duration {
        Duration::from_millis(1 + self.chance.below(60) as u64)
    }

    fn fate(&self) -> Fate {
        if !self.has_faults.load(Ordering::Relaxed) || self.chance.percent(94.0) {
            return Fate::Whole;
        }
        let writes = self.chance.below(40) as u32;
        if self.chance.percent(70.0) { Fate::Reset(writes) } else { Fate::Silence(writes) }
    }

    /// The two ends of a connection of a client to the server, the client's first.
    pub fn connect_client(&self, client: IpAddr) -> (End, Stream) {
        let client = SocketAddr::new(client, 40_000);
        let (near, far, _) = pipe::connect(client, SERVER, self.fate(), self.latency());
        (near, Stream::Simulated(Box::new(far)))
    }

    fn reach_of(&self, address: SocketAddr) -> Reach {
        let is_known = self.hosts.contains_key(&address)
            || self.hooks.contains_key(&address)
            || self.policy_hosts.contains_key(&address);
        if !is_known {
            return Reach::Refuses;
        }
        let is_lost = self.has_faults.load(Ordering::Relaxed) && self.chance.percent(1.0);
        if is_lost {
            return Reach::DoesNotAnswer;
        }
        self.reach.lock().unwrap().get(&address).copied().unwrap_or(Reach::Up)
    }

    fn open(&self, address: SocketAddr) -> End {
        let (near, far, is_broken) = pipe::connect(SERVER, address, self.fate(), self.latency());
        if let Some(hook) = self.hooks.get(&address) {
            tokio::spawn(Arc::clone(hook).serve(far, self.has_faults.load(Ordering::Relaxed)));
            return near;
        }
        if let Some(host) = self.policy_hosts.get(&address) {
            tokio::spawn(Arc::clone(host).serve(far, self.has_faults.load(Ordering::Relaxed)));
            return near;
        }
        let is_impersonated = self.impersonated.lock().unwrap().contains(&address);
        let host = if is_impersonated { &self.impostor } else { &self.hosts[&address] };
        let (number, session) = host.open(Wire::of(far), SERVER.ip());
        self.opened.lock().unwrap().push(Opened { host: host.address, number, is_broken });
        tokio::spawn(session);
        near
    }

    fn answer(&self, name: &Name, kind: RecordType) -> SimulatedAnswer {
        let name = name.to_ascii().trim_end_matches('.').to_lowercase();
        if self.failing.lock().unwrap().iter().any(|domain| is_under(&name, domain)) {
            return SimulatedAnswer::Failed;
        }
        if self.has_faults.load(Ordering::Relaxed) && self.chance.percent(1.0) {
            return SimulatedAnswer::Failed;
        }
        let is_signed = self.signed.iter().any(|domain| is_under(&name, domain));
        if let Some(records) = self.published(&name).filter(|_| kind == RecordType::TXT) {
            return SimulatedAnswer::Records { records, is_signed };
        }
        if let Some(records) = self.records.get(&(name.clone(), kind)) {
            return SimulatedAnswer::Records { records: records.clone(), is_signed };
        }
        if self.records.keys().any(|(known, _)| is_under(known, &name)) {
            SimulatedAnswer::Records { records: Vec::new(), is_signed }
        } else {
            SimulatedAnswer::NoSuchDomain
        }
    }
}

fn is_under(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|left| left.is_empty() || left.ends_with('.'))
}

fn set<T: Ord>(set: &Mutex<BTreeSet<T>>, one: T, is_in: bool) {
    let mut set = set.lock().unwrap();
    if is_in {
        set.insert(one)
    } else {
        set.remove(&one)
    };
}

fn absolute(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    name
}

/// The network as the server sees it.
pub struct View(pub Arc<Network>);

impl SimulatedNetwork for View {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn SimulatedStream>>> {
        let network = Arc::clone(&self.0);
        Box::pin(async move {
            sleep(network.latency()).await;
            match network.reach_of(address) {
                Reach::Up => Ok(Box::new(network.open(address)) as Box<dyn SimulatedStream>),
                Reach::Refuses => Err(io::ErrorKind::ConnectionRefused.into()),
                Reach::DoesNotAnswer => {
                    sleep(NEVER).await;
                    Err(io::ErrorKind::TimedOut.into())
                }
            }
        })
    }

    fn look_up(&self, name: Name, kind: RecordType) -> BoxFuture<'static, SimulatedAnswer> {
        let network = Arc::clone(&self.0);
        Box::pin(async move {
            sleep(network.latency()).await;
            network.answer(&name, kind)
        })
    }
}
