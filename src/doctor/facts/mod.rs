//! What the doctor has seen. Each fact says whether it was seen, so that no check is right without it. The files of this
//! module gather them: none of them fails, and each look has a deadline.

mod acme;
mod blocklists;
mod dialogue;
mod domain;
mod gatherer;
mod listeners;
mod lookups;
mod machine;
mod name;
mod network;
mod ports;
mod postgres;
mod state;
mod submission;
mod system;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::acme::AcmeState;
use crate::mail::{DomainName, SignedDuration, Timestamp};
use crate::model::DkimAlgorithm;
use crate::store::DatabaseStatus;
use crate::tls::Inspection;

pub use domain::gather as gather_domain;
pub use gatherer::Gatherer;
pub use listeners::Listening;
pub use lookups::Lookups;
use lookups::{FACT_TIMEOUT, blocking, unlimited};
pub use name::SMART_HOST;
pub use state::Server;

const NO_SERVER: &str = "the running server was not asked";
/// With PostgreSQL, no mail is in the data directory.
const NOT_IN_SQLITE: &str = "the database is in PostgreSQL";

/// A fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen<T> {
    /// It is this.
    Value(T),
    /// There is none: the DNS says that there is no such record.
    Nothing,
    /// The look failed.
    Failed(String),
    /// Nobody looked, and why.
    NotAsked(&'static str),
}

/// All facts about a server.
#[derive(Debug, Clone)]
pub struct Facts {
    pub at: Timestamp,
    pub times: Times,
    pub hostname: DomainName,
    pub config: ConfigFacts,
    /// The addresses that the Internet sees.
    pub own_addresses: Seen<Vec<IpAddr>>,
    pub hostname_addresses: Seen<Vec<IpAddr>>,
    pub sources: Vec<SourceFacts>,
    pub host_spf: Seen<SpfFacts>,
    /// `None` if tenants include the host name.
    pub included_spf: Option<(DomainName, Seen<SpfFacts>)>,
    pub egress: Seen<EgressFacts>,
    pub blocklists: Seen<Vec<BlocklistFacts>>,
    pub dns: DnsFacts,
    pub tls: TlsFacts,
    /// `Nothing` if another program gets the certificate.
    pub acme: Seen<AcmeFacts>,
    pub handshakes: HandshakeFacts,
    pub submission: Seen<SubmissionFacts>,
    pub machine: MachineFacts,
    pub state: StateFacts,
    /// What is wrong with the database.
    pub database_faults: Seen<Vec<String>>,
    /// The database in PostgreSQL.
    pub postgres: Seen<DatabaseStatus>,
}

/// How long the looks took, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    pub names: u64,
    pub spf: u64,
    pub egress: u64,
    pub blocklists: u64,
    pub name_servers: u64,
    pub certificate: u64,
    pub handshakes: u64,
    pub submission: u64,
    pub machine: u64,
    pub ports: u64,
    pub state: u64,
    pub database: u64,
    pub postgres: u64,
}

/// The configuration.
#[derive(Debug, Clone)]
pub struct ConfigFacts {
    /// The file; `None` for a running server.
    pub file: Option<String>,
    pub api_listen: Vec<SocketAddr>,
    pub is_api_tls: bool,
    pub is_public_url_https: bool,
    pub ports: Seen<Vec<PortFacts>>,
}

/// An address of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortFacts {
    pub option: &'static str,
    pub address: SocketAddr,
    pub state: PortState,
}

/// Whether the server can listen there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortState {
    Free,
    /// A running Pillarbox has it.
    Ours,
    /// Another program has it, or a running Pillarbox that does not greet in clear.
    Taken,
    /// This user may not listen there.
    Forbidden,
    /// It cannot be bound for another reason.
    Unusable(String),
}

/// An address that mail leaves from.
#[derive(Debug, Clone)]
pub struct SourceFacts {
    pub address: IpAddr,
    pub ehlo: DomainName,
    pub ehlo_addresses: Seen<Vec<IpAddr>>,
    /// Its reverse names, each with the addresses that it leads to.
    pub reverse: Seen<Vec<(String, Seen<Vec<IpAddr>>)>>,
}

/// An SPF record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpfFacts {
    pub records: Vec<String>,
    /// The own addresses that it does not permit.
    pub refused: Vec<IpAddr>,
    pub lookups: u32,
    pub void_lookups: u32,
}

/// A mail host that was connected to.
#[derive(Debug, Clone)]
pub struct EgressFacts {
    pub host: String,
    /// The greeting and the reply to EHLO, which is empty if the greeting refuses; or why there is none.
    pub result: Result<(String, String), String>,
    /// The address that its reply names.
    pub seen: Option<IpAddr>,
}

/// A DNS block list.
#[derive(Debug, Clone)]
pub struct BlocklistFacts {
    pub list: DomainName,
    pub answer: Seen<Blocklist>,
}

/// What a DNS block list says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocklist {
    /// It works, and has some of the addresses, each with what the list says about it.
    Answers { asked: Vec<Ipv4Addr>, listed: Vec<(Ipv4Addr, String)> },
    /// Its own test entries are wrong, and which.
    Broken(&'static str),
    /// It does not answer the name servers of this server.
    Refuses,
}

/// The name servers.
#[derive(Debug, Clone)]
pub struct DnsFacts {
    pub resolvers: Vec<ResolverFacts>,
    pub is_dnssec_used: bool,
    pub is_dnssec_passed: Seen<bool>,
}

/// A name server.
#[derive(Debug, Clone)]
pub struct ResolverFacts {
    pub address: SocketAddr,
    pub answered_in: Seen<Duration>,
}

/// The state of a running server.
#[derive(Debug, Clone)]
pub struct StateFacts {
    /// When the oldest due delivery was due, and the last reply to such.
    pub oldest_due: Seen<(Timestamp, String)>,
    pub held_sites: Seen<Vec<HeldSite>>,
    pub failing_webhooks: Seen<Vec<Failing>>,
    pub failing_domains: Seen<Vec<Failing>>,
    pub refused_smart_hosts: Seen<Vec<Failing>>,
    /// The time of its contents.
    pub last_backup: Seen<Timestamp>,
    /// How old it may be.
    pub backup_age_max: SignedDuration,
}

/// A site in back-off.
#[derive(Debug, Clone)]
pub struct HeldSite {
    pub name: String,
    /// A domain whose mail goes there.
    pub domain: Option<String>,
    pub until: Timestamp,
    pub reply: String,
}

/// An object that fails.
#[derive(Debug, Clone)]
pub struct Failing {
    pub name: String,
    pub id: String,
    /// A predicate: `has failed since …`.
    pub reason: String,
}

impl StateFacts {
    /// Of a server that does not run.
    fn not_asked(reason: &'static str, last_backup: Seen<Timestamp>, backup_age_max: SignedDuration) -> Self {
        Self {
            last_backup,
            backup_age_max,
            oldest_due: Seen::NotAsked(reason),
            held_sites: Seen::NotAsked(reason),
            failing_webhooks: Seen::NotAsked(reason),
            failing_domains: Seen::NotAsked(reason),
            refused_smart_hosts: Seen::NotAsked(reason),
        }
    }
}

/// The certificate.
#[derive(Debug, Clone)]
pub struct TlsFacts {
    pub file: String,
    /// Whether the server makes its own, because the configuration names none.
    pub is_self_signed: bool,
    /// Whether the server is to get it from an authority.
    pub is_by_acme: bool,
    pub certificate: Seen<Inspection>,
}

/// The renewal of the certificate.
#[derive(Debug, Clone, Default)]
pub struct AcmeFacts {
    pub state: AcmeState,
    /// What the last order needed.
    pub records: Vec<AcmeRecordFacts>,
}

/// A record that proves a name.
#[derive(Debug, Clone)]
pub struct AcmeRecordFacts {
    pub name: String,
    pub value: String,
    pub is_published: Seen<bool>,
}

/// The listeners of the running server.
#[derive(Debug, Clone)]
pub struct HandshakeFacts {
    pub starttls: Seen<Vec<Handshake>>,
    pub implicit: Seen<Vec<Handshake>>,
}

/// A handshake with a listener.
#[derive(Debug, Clone)]
pub struct Handshake {
    pub address: SocketAddr,
    /// Whether AUTH was offered in clear, or why there was no handshake.
    pub result: Result<bool, String>,
}

/// A message that was submitted to the own server.
#[derive(Debug, Clone)]
pub struct SubmissionFacts {
    /// The domain in From.
    pub domain: DomainName,
    /// Whether its signature is valid with the record in the DNS, or why it was not accepted.
    pub result: Result<Seen<bool>, String>,
}

/// The machine.
#[derive(Debug, Clone)]
pub struct MachineFacts {
    pub data_dir: String,
    /// Free and whole octets of its file system.
    pub space: Seen<(u64, u64)>,
    /// The octets that must be free for mail to be accepted.
    pub free_min: u64,
    /// p50 and p99 of synced writes.
    pub sync: Seen<(Duration, Duration)>,
    pub file_system: Seen<&'static str>,
    pub master_key: String,
    pub master_key_mode: Seen<KeyMode>,
    pub master_key_opens: Seen<()>,
    pub is_master_key_beside_data: bool,
    /// The hard limit of open files.
    pub files: Seen<u64>,
    pub files_needed: u64,
    /// The octets of memory that the process may use, and those that its buffers may fill.
    pub memory: Seen<u64>,
    pub memory_needed: u64,
    pub is_clock_synchronized: Seen<bool>,
}

/// The permissions of the file with the master key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyMode {
    /// Without the bits that are allowed.
    pub mode: u32,
    /// Whether root owns it, so that the server may read it by its group.
    pub is_of_root: bool,
}

/// The facts about a sending domain.
#[derive(Debug, Clone)]
pub struct DomainFacts {
    pub name: DomainName,
    /// How long the looks took, in milliseconds.
    pub duration_ms: u64,
    /// The name and the value of its record, and what is there.
    pub ownership: (String, String, Seen<Vec<String>>),
    /// Whether the platform verified it, so that the record does not decide.
    pub is_manual: bool,
    pub keys: Vec<DkimFacts>,
    pub spf: Seen<SpfFacts>,
    /// The addresses that mail leaves from, as far as they are known.
    pub own_addresses: Seen<Vec<IpAddr>>,
    /// The name that its record should include.
    pub spf_include: DomainName,
    /// Whether the record itself includes this name.
    pub includes_us: bool,
    /// The record to publish: the found ones with our include.
    pub spf_wanted: String,
    /// The domain whose DMARC records apply, and the records.
    pub dmarc: Seen<(DomainName, Vec<String>)>,
    /// The domains in `rua`, and whether each agreed to get the reports.
    pub report_consents: Vec<(DomainName, Seen<bool>)>,
    pub reverse_path: DomainName,
    pub mail_exchanges: Seen<MailExchange>,
    /// A verified domain above, of another tenant.
    pub taken_above: Option<DomainName>,
}

/// Where mail to a domain goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MailExchange {
    /// To these hosts.
    Hosts(Vec<String>),
    /// Nowhere: a null MX (RFC 7505).
    NullMx,
    /// Here: it is a return host that was seen to lead to this server.
    Here,
}

/// A DKIM key.
#[derive(Debug, Clone)]
pub struct DkimFacts {
    pub selector: String,
    pub record_name: String,
    pub record: String,
    pub algorithm: DkimAlgorithm,
    /// The length of an RSA key, if it can be read.
    pub rsa_bits: Option<usize>,
    pub is_signing: bool,
    pub found: Seen<Vec<String>>,
    /// Whether an own signature is valid with the found record.
    pub verifies: Seen<bool>,
}

impl<T> Seen<T> {
    /// The value, or `None` for nothing.
    ///
    /// # Errors
    /// Why nothing was seen.
    pub fn get(&self) -> Result<Option<&T>, String> {
        match self {
            Self::Value(value) => Ok(Some(value)),
            Self::Nothing => Ok(None),
            Self::Failed(reason) => Err(format!("could not be looked at: {reason}")),
            Self::NotAsked(reason) => Err((*reason).to_owned()),
        }
    }

    /// The value, if it was seen.
    pub fn value(&self) -> Option<&T> {
        if let Self::Value(value) = self { Some(value) } else { None }
    }

    /// The same without a value; a value has become nothing.
    fn absent<U>(self) -> Seen<U> {
        match self {
            Self::Value(_) | Self::Nothing => Seen::Nothing,
            Self::Failed(reason) => Seen::Failed(reason),
            Self::NotAsked(reason) => Seen::NotAsked(reason),
        }
    }
}
