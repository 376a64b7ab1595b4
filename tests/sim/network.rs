//! The simulated network: hosts at addresses, a DNS, latency and faults.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::rr::rdata::{A, MX, TXT};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use pillarbox::net::{BoxFuture, SimulatedAnswer, SimulatedNetwork, SimulatedStream, Stream};
use tokio::time::sleep;

use crate::chance::Chance;
use crate::fake_mx::FakeMx;
use crate::hook::Hook;
use crate::pipe::{self, End, Fate};
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
    reach: Mutex<BTreeMap<SocketAddr, Reach>>,
    records: BTreeMap<(String, RecordType), Vec<RData>>,
    /// Domains whose name servers fail.
    failing: Mutex<BTreeSet<String>>,
    opened: Mutex<Vec<Opened>>,
}

impl Network {
    pub fn new(chance: Chance) -> Self {
        Self {
            chance,
            has_faults: AtomicBool::new(true),
            hosts: BTreeMap::new(),
            hooks: BTreeMap::new(),
            reach: Mutex::default(),
            records: BTreeMap::new(),
            failing: Mutex::default(),
            opened: Mutex::default(),
        }
    }

    pub fn add_host(&mut self, name: &str, mx: FakeMx) {
        let IpAddr::V4(ip) = mx.address.ip() else { unreachable!("hosts have IPv4") };
        self.record(name, RData::A(A(ip)));
        self.hosts.insert(mx.address, mx);
    }

    pub fn add_hook(&mut self, name: &str, hook: Hook) {
        let IpAddr::V4(ip) = hook.address.ip() else { unreachable!("hosts have IPv4") };
        self.record(name, RData::A(A(ip)));
        self.hooks.insert(hook.address, Arc::new(hook));
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

    fn record(&mut self, name: &str, data: RData) {
        self.records.entry((name.to_owned(), data.record_type())).or_default().push(data);
    }

    pub fn hosts(&self) -> impl Iterator<Item = &FakeMx> {
        self.hosts.values()
    }

    pub fn set_reach(&self, host: SocketAddr, reach: Reach) {
        self.reach.lock().unwrap().insert(host, reach);
    }

    pub fn set_failing(&self, domain: &str, fails: bool) {
        let mut failing = self.failing.lock().unwrap();
        if fails {
            failing.insert(domain.to_owned());
        } else {
            failing.remove(domain);
        }
    }

    /// The numbers of the connections of a host that broke.
    pub fn broken_connections(&self, host: SocketAddr) -> BTreeSet<usize> {
        let opened = self.opened.lock().unwrap();
        let broken = opened.iter().filter(|one| one.host == host && one.is_broken.load(Ordering::Relaxed));
        broken.map(|one| one.number).collect()
    }

    /// From now on, everything works.
    pub fn mend(&self) {
        self.has_faults.store(false, Ordering::Relaxed);
        self.restore();
    }

    /// All hosts are reached, and all name servers answer.
    pub fn restore(&self) {
        self.reach.lock().unwrap().clear();
        self.failing.lock().unwrap().clear();
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
        if !self.hosts.contains_key(&address) && !self.hooks.contains_key(&address) {
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
        let (number, session) = self.hosts[&address].open(Wire::of(far), SERVER.ip());
        self.opened.lock().unwrap().push(Opened { host: address, number, is_broken });
        tokio::spawn(session);
        near
    }

    fn answer(&self, name: &Name, kind: RecordType) -> SimulatedAnswer {
        let name = name.to_ascii().trim_end_matches('.').to_lowercase();
        let is_failing = |domain: &String| name == *domain || name.ends_with(&format!(".{domain}"));
        if self.failing.lock().unwrap().iter().any(is_failing) {
            return SimulatedAnswer::Failed;
        }
        if self.has_faults.load(Ordering::Relaxed) && self.chance.percent(1.0) {
            return SimulatedAnswer::Failed;
        }
        if let Some(records) = self.records.get(&(name.clone(), kind)) {
            return SimulatedAnswer::Records(records.clone());
        }
        let exists =
            self.records.keys().any(|(known, _)| *known == name || known.ends_with(&format!(".{name}")));
        if exists { SimulatedAnswer::Records(Vec::new()) } else { SimulatedAnswer::NoSuchDomain }
    }
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
