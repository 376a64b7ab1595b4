//! What outlives the process: the time, the other servers, the people who use the server, and what they know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pillarbox::clock::Clock;
use pillarbox::config::Config;
use pillarbox::mail::Timestamp;

use crate::chance::Chance;
use crate::fake_mx::{FakeMx, Fault, Offer, Phase};
use crate::hook::Hook;
use crate::network::Network;
use crate::trace::Trace;

pub const TENANTS: usize = 3;
/// Destinations with mail servers.
pub const SITES: usize = 6;
pub const HOUR: Duration = Duration::from_secs(3600);
/// How long the server tries, which the simulation makes short.
pub const LIFETIME: Duration = Duration::from_secs(3 * 3600);

/// What a run does.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub seed: u64,
    /// How long clients, operators and faults are active.
    pub active: Duration,
    pub crashes: bool,
    pub operators: bool,
    pub faults: bool,
}

/// A tenant with a domain and a key.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub number: usize,
    pub id: String,
    pub domain: String,
    pub key_id: String,
    pub secret: String,
}

impl Tenant {
    /// A word in each of its messages and in none of the others.
    pub fn mark(&self) -> String {
        mark(self.number)
    }
}

pub fn mark(tenant: usize) -> String {
    format!("of-tenant-{tenant}-")
}

/// A message that a client sends, possibly more than once.
#[derive(Debug, Clone)]
pub struct Mail {
    pub token: String,
    pub recipients: Vec<String>,
    pub body: String,
}

/// An address that a tenant may not send to any more.
#[derive(Debug, Clone)]
pub struct Suppressed {
    pub tenant: usize,
    pub address: String,
    pub since: Timestamp,
}

/// What the people know.
#[derive(Default)]
pub struct Ledger {
    /// Acknowledged messages by id: tenant, recipients.
    pub acknowledged: BTreeMap<String, (usize, Vec<String>)>,
    /// The message of each `Idempotency-Key`.
    pub keys: BTreeMap<String, String>,
    pub suppressed: Vec<Suppressed>,
    /// Deliveries that were recorded as delivered when the process was not running.
    pub recorded: BTreeSet<(String, String)>,
    /// Transactions that were looked at, by host.
    pub seen: BTreeMap<SocketAddr, usize>,
    /// The last transaction of a message to a recipient: whether the server must have learnt of it, and in which life.
    pub taken: BTreeMap<(String, String), (bool, usize)>,
    pub next_token: usize,
    pub refused: usize,
    pub duplicates: usize,
}

pub struct World {
    pub options: Options,
    pub chance: Chance,
    pub config: Config,
    pub network: Arc<Network>,
    pub trace: Trace,
    pub platform_secret: String,
    /// Of the life that goes on, or of the last one.
    pub clock: Mutex<Clock>,
    pub begin: Timestamp,
    pub tenants: Mutex<Vec<Tenant>>,
    pub ledger: Mutex<Ledger>,
    pub violations: Mutex<Vec<String>>,
    /// The number of the life of the process.
    pub life: Mutex<usize>,
}

impl World {
    pub fn now(&self) -> Timestamp {
        self.clock.lock().unwrap().now()
    }

    pub fn note(&self, line: impl AsRef<str>) {
        self.trace.note(self.now(), line.as_ref());
    }

    /// Notes that something must not be.
    pub fn violate(&self, line: String) {
        self.note(format!("VIOLATION {line}"));
        self.violations.lock().unwrap().push(line);
    }

    pub fn has_failed(&self) -> bool {
        !self.violations.lock().unwrap().is_empty()
    }

    /// Whether clients, operators and faults are active.
    pub fn is_active(&self) -> bool {
        self.now().duration_since(self.begin).unsigned_abs() < self.options.active
    }

    pub fn compose(&self, tenant: &Tenant) -> Mail {
        let number = {
            let mut ledger = self.ledger.lock().unwrap();
            ledger.next_token += 1;
            ledger.next_token
        };
        let chance = &self.chance;
        let mut recipients = BTreeSet::new();
        for _ in 0..=chance.below(3) {
            let name = match chance.below(20) {
                0 => "nobody".to_owned(),
                1 => "full".to_owned(),
                _ => format!("user{}", chance.below(12)),
            };
            recipients.insert(format!("{name}@{}", site(chance.below(SITES + 2))));
        }
        let lines = if chance.percent(10.0) { 400 } else { chance.below(20) };
        let body = "A line of the message, with a dot at the begin of the next.\r\n.\r\n".repeat(lines + 1);
        Mail {
            token: format!("{}{number}", tenant.mark()),
            recipients: recipients.into_iter().collect(),
            body,
        }
    }
}

/// A destination. The last two have no mail server.
pub fn site(number: usize) -> String {
    format!("site{number}.example")
}

/// The host of a tenant's webhook.
pub fn hook(tenant: usize) -> String {
    format!("hook{tenant}.example")
}

pub fn tenant_domain(number: usize) -> String {
    format!("tenant{number}.example")
}

fn address(number: usize, host: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(20, 2, number as u8, host as u8)), 25)
}

/// The other servers.
pub fn build_network(chance: &Chance) -> Network {
    let mut network = Network::new(chance.clone());
    for number in 0..SITES {
        for host in 1..=1 + number % 2 {
            let mx = FakeMx::offline(address(number, host), offer(number));
            mx.script(Phase::Rcpt, "nobody@", usize::MAX, Fault::Reply("550 5.1.1 no such user"));
            mx.script(Phase::Rcpt, "full@", usize::MAX, Fault::Reply("452 4.2.2 mailbox full"));
            let name = format!("mx{host}.{}", site(number));
            network.add_host(&name, mx);
            network.add_mx(&site(number), 10, &name);
        }
    }
    // This one exists and has no mail server; the next one does not exist.
    network.add_text(&format!("www.{}", site(SITES)), "nothing");
    for number in 0..TENANTS {
        let name = format!("mx.{}", tenant_domain(number));
        network.add_host(&name, FakeMx::offline(address(100 + number, 1), offer(0)));
        network.add_mx(&tenant_domain(number), 10, &name);
        let mut address = address(200 + number, 1);
        address.set_port(80);
        network.add_hook(&hook(number), Hook::new(address, chance.clone()));
    }
    network
}

fn offer(number: usize) -> Offer {
    let extensions = if number == 3 { Vec::new() } else { Offer::default().extensions };
    Offer { extensions, ..Offer::default() }
}

pub fn config(directory: &Path) -> Config {
    let text = format!(
        r#"
        hostname = "relay.example"
        data_dir = "{data}"
        shutdown_deadline = "30s"
        [smtp]
        submission = []
        submissions = []
        [api]
        listen = []
        tls = false
        [store]
        free_disk_min = "1MiB"
        inline_body_max = "8KiB"
        read_connections = 2
        [webhooks]
        plain_http_hosts = ["hook0.example", "hook1.example", "hook2.example"]
        [relay]
        name_servers = ["127.0.0.1:9"]
        message_lifetime = "{lifetime}s"
        "#,
        data = directory.join("data").display(),
        lifetime = LIFETIME.as_secs(),
    );
    Config::parse(&text, Path::new("simulation.toml")).unwrap()
}
