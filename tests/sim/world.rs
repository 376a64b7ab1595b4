//! What outlives the process: the time, the other servers, the people who use the server, and what they know.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pillarbox::clock::Clock;
use pillarbox::config::Config;
use pillarbox::mail::Timestamp;

use crate::chance::Chance;
use crate::erasures::ONCE;
use crate::ledger::Ledger;
use crate::network::Network;
use crate::sites::{SITES, ca_file, site};
use crate::trace::Trace;

pub const TENANTS: usize = 3;
pub const HOUR: Duration = Duration::from_secs(3600);
/// How long the server tries, which the simulation makes short.
pub const LIFETIME: Duration = Duration::from_secs(3 * 3600);
/// How much of the mail is scheduled for later, and how much later at least.
const SCHEDULED_PERCENT: f64 = 10.0;
const SCHEDULED_SECONDS_MIN: i64 = 120;

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

/// The number of the tenant whose mark is in a text.
pub fn tenant_of(text: &str) -> Option<usize> {
    (0..TENANTS).find(|tenant| text.contains(&marks(*tenant)))
}

/// A message that a client sends, possibly more than once.
#[derive(Debug, Clone)]
pub struct Mail {
    pub token: String,
    pub recipients: Vec<String>,
    pub body: String,
    /// When it is sent, if it is submitted over HTTP.
    pub send_at: Option<Timestamp>,
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

    /// A time within an hour, in whole seconds.
    fn soon(&self) -> Timestamp {
        let delay = SCHEDULED_SECONDS_MIN + self.chance.below(HOUR.as_secs() as usize) as i64;
        Timestamp::from_second(self.now().as_second() + delay).unwrap()
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
                2 | 3 => format!("{ONCE}{number}"),
                _ => format!("user{}", chance.below(12)),
            };
            recipients.insert(format!("{name}@{}", site(chance.below(SITES + 2))));
        }
        let lines = if chance.percent(10.0) { 400 } else { chance.below(20) };
        let body = "A line of the message, with a dot at the begin of the next.\r\n.\r\n".repeat(lines + 1);
        let send_at = chance.percent(SCHEDULED_PERCENT).then(|| self.soon());
        Mail {
            send_at,
            token: format!("{}{number}", tenant.mark()),
            recipients: recipients.into_iter().collect(),
            body,
        }
    }
}

pub fn tenant_domain(number: usize) -> String {
    format!("tenant{number}.example")
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
        dnssec = "validate"
        message_lifetime = "{lifetime}s"
        ca_file = "{ca_file}"
        "#,
        data = directory.join("data").display(),
        ca_file = ca_file(directory).display(),
        lifetime = LIFETIME.as_secs(),
    );
    Config::parse(&text, Path::new("simulation.toml")).unwrap()
}
