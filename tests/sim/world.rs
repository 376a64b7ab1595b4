//! What outlives the process: the time, the other servers, the people who use the server, and what they know.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pillarbox::clock::Clock;
use pillarbox::config::Config;
use pillarbox::mail::Timestamp;

use crate::chance::Chance;
use crate::fake_mx::{FakeMx, Fault, Offer, Phase};
use crate::hook::Hook;
use crate::identity::Identity;
use crate::ledger::Ledger;
use crate::network::Network;
use crate::policy_host::PolicyHost;
use crate::trace::Trace;

pub const TENANTS: usize = 3;
/// Destinations with mail servers.
pub const SITES: usize = 6;
/// The site that has an MTA-STS policy, and the one whose certificate no authority has signed.
pub const STRICT_SITE: usize = 5;
const UNTRUSTED_SITE: usize = 2;
pub const HOUR: Duration = Duration::from_secs(3600);
/// The host of the addresses that reports come to.
pub const RETURN_HOST: &str = "bounce.relay.example";
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
    /// The means of the times between two of a client's bursts, an operator's actions, a fault and a report.
    pub client_pause: Duration,
    pub operator_pause: Duration,
    pub fault_pause: Duration,
    pub report_pause: Duration,
}

/// A tenant with a domain and a key.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Whose domain and webhook it has.
    pub number: usize,
    /// How many had them before it.
    pub generation: usize,
    pub id: String,
    pub domain: String,
    pub domain_id: String,
    pub key_id: String,
    pub secret: String,
}

impl Tenant {
    /// A word in each of its messages and in none of the others.
    pub fn mark(&self) -> String {
        mark(self.number, self.generation)
    }
}

pub fn mark(tenant: usize, generation: usize) -> String {
    format!("{}{generation}-", marks(tenant))
}

/// What the marks of all tenants with a number have in common.
pub fn marks(tenant: usize) -> String {
    format!("of-tenant-{tenant}-")
}

/// A message that a client sends, possibly more than once.
#[derive(Debug, Clone)]
pub struct Mail {
    pub token: String,
    pub recipients: Vec<String>,
    pub body: String,
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
    /// Tenants with a key that was revoked since.
    pub former: Mutex<Vec<Tenant>>,
    /// Of each number: how many tenants were deleted.
    pub generations: Mutex<[usize; TENANTS]>,
    /// Locked while tenants are created.
    pub furnishing: tokio::sync::Mutex<()>,
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

    /// What a tenant must not see: the mark or the domain of another one.
    pub fn foreign_word(&self, text: &str, tenant: &Tenant) -> Option<String> {
        let own = tenant.mark();
        let ledger = self.ledger.lock().unwrap();
        let others = ledger.ids.keys().filter(|mark| **mark != own).cloned();
        let domains = (0..TENANTS).filter(|other| *other != tenant.number).map(tenant_domain);
        others.chain(domains).find(|word| text.contains(word))
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

/// Whether a host belongs to the strict site.
pub fn is_strict(host: SocketAddr) -> bool {
    host.ip() == address(STRICT_SITE, 1).ip() || host.ip() == address(STRICT_SITE, 2).ip()
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

/// The other servers. Writes the certificates that the server trusts into a directory.
pub fn build_network(chance: &Chance, directory: &Path) -> Network {
    let mut network = Network::new(chance.clone());
    let (trusted, untrusted) = (identity_of(STRICT_SITE), Identity::new(&["x.example"]));
    std::fs::write(ca_file(directory), &trusted.certificate_pem).unwrap();
    add_policy(&mut network, chance, &trusted);
    for number in 0..SITES {
        for (host, name) in (1..).zip(hosts_of(number)) {
            let tls = match number {
                STRICT_SITE => Some(trusted.server_config()),
                UNTRUSTED_SITE => Some(untrusted.server_config()),
                _ => None,
            };
            let mx = FakeMx::offline(address(number, host), Offer { tls, ..offer(number) });
            mx.script(Phase::Rcpt, "nobody@", usize::MAX, Fault::Reply("550 5.1.1 no such user"));
            mx.script(Phase::Rcpt, "full@", usize::MAX, Fault::Reply("452 4.2.2 mailbox full"));
            network.add_host(&name, mx);
            network.add_mx(&site(number), 10, &name);
        }
    }
    // This one exists and has no mail server; the next one does not exist.
    network.add_text(&format!("www.{}", site(SITES)), "nothing");
    network.add_mx(RETURN_HOST, 10, "relay.example");
    network.add_text(RETURN_HOST, "v=spf1 include:relay.example -all");
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

/// A certificate with the names of a site.
fn identity_of(number: usize) -> Identity {
    let names: Vec<String> = hosts_of(number).chain([format!("mta-sts.{}", site(number))]).collect();
    Identity::new(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

fn hosts_of(number: usize) -> impl Iterator<Item = String> {
    (1..=1 + number % 2).map(move |host| format!("mx{host}.{}", site(number)))
}

/// Mail for this site must be encrypted.
fn add_policy(network: &mut Network, chance: &Chance, identity: &Identity) {
    let domain = site(STRICT_SITE);
    let mut address = address(STRICT_SITE, 200);
    address.set_port(443);
    let hosts: Vec<String> = hosts_of(STRICT_SITE).collect();
    let host = PolicyHost::new(address, identity.server_config(), &hosts, chance.clone());
    network.add_policy_host(&format!("mta-sts.{domain}"), host);
    network.add_text(&format!("_mta-sts.{domain}"), "v=STSv1; id=1;");
}

fn ca_file(directory: &Path) -> PathBuf {
    directory.join("trusted.pem")
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
        [inbound]
        listen = ["127.0.0.1:0"]
        [return_path]
        mode = "platform"
        [domains]
        verification_grace = "3h"
        [webhooks]
        plain_http_hosts = ["hook0.example", "hook1.example", "hook2.example"]
        ca_file = "{ca_file}"
        [relay]
        name_servers = ["127.0.0.1:9"]
        dnssec = "off"
        message_lifetime = "{lifetime}s"
        ca_file = "{ca_file}"
        "#,
        data = directory.join("data").display(),
        ca_file = ca_file(directory).display(),
        lifetime = LIFETIME.as_secs(),
    );
    Config::parse(&text, Path::new("simulation.toml")).unwrap()
}
