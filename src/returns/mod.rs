//! What comes back on port 25: whom it is about, and what follows.
//!
//! * `recipient` decides at RCPT: an address with a valid token, postmaster, or a registered feedback loop,
//! * `forward` sends mail for people on to the operator,
//! * `accept` takes a message that came back and records everything that follows from it,
//! * `attribution` finds the delivery that a complaint is about, `signature` verifies its sender,
//! * `decision` derives what follows; it is pure,
//! * `failure` adds what depends on the site and on earlier deliveries,
//! * `reissue` writes the DSN to the tenant's own reverse path.
//!
//! Imports `mail`, `model`, `smtp`, `policy`, `feedback`, `dns`, `dsn`, `store`, `limits`, `queue` and `submission`.

mod accept;
mod attribution;
mod counters;
mod decision;
mod failure;
mod forward;
mod recipient;
mod reissue;
mod signature;

use std::sync::Arc;
use std::time::Duration;

use self::counters::ReturnCounters;
use crate::clock::Clock;
use crate::dns::Resolver;
use crate::limits::tenant_semaphore::TenantSemaphore;
use crate::limits::versioned_cache::VersionedCache;
use crate::mail::{DomainName, TokenKind};
use crate::model::{Refusal, RefusalCode, TenantId};
use crate::queue::QueueManager;
use crate::store::{Conflict, ReportTarget, Store, StoreError};
use crate::telemetry::FLOOD;

pub use self::counters::ReturnCounts;
pub use self::forward::{Forwarder, check as check_forward};

/// Octets kept of a report, which often returns a whole message.
const DSN_OCTETS_KEPT: u64 = 512 * 1024;
/// Octets kept of a complaint.
const COMPLAINT_OCTETS_KEPT: u64 = 8 * 1024 * 1024;
/// Octets kept of mail for people.
const LETTER_OCTETS_KEPT: u64 = 1024 * 1024;

/// How long the server remembers whether a host is ours.
const HOSTS_CACHED_FOR: Duration = Duration::from_secs(60);
const HOSTS_CACHED_MAX: usize = 10_000;

/// Settings of what comes back.
#[derive(Debug, Clone)]
pub struct ReturnsSettings {
    /// The host name of the server.
    pub hostname: DomainName,
    /// The platform's return host.
    pub host: DomainName,
    /// The default label of return hosts under their domains.
    pub label: String,
    /// Local parts for registered feedback loops, in lower case.
    pub feedback_names: Vec<String>,
    /// DKIM domains of reporters that are believed without a token.
    pub trusted_reporters: Vec<DomainName>,
    /// How long delivery of a DSN is attempted.
    pub dsn_lifetime: Duration,
}

/// The services that are used.
pub struct ReturnsDependencies {
    /// Knows what the tokens name, and records reports.
    pub store: Arc<Store>,
    /// Knows which deliveries are in flight.
    pub queue: Arc<QueueManager>,
    /// Looks up the keys of signatures.
    pub resolver: Resolver,
    /// The clock.
    pub clock: Clock,
    /// Forwards mail for people, if the operator wants it.
    pub forwarder: Option<Forwarder>,
}

/// Takes what comes back.
pub struct ReturnsService {
    store: Arc<Store>,
    queue: Arc<QueueManager>,
    resolver: Resolver,
    clock: Clock,
    forwarder: Option<Forwarder>,
    settings: ReturnsSettings,
    /// One permit for each message whose signature is being verified.
    verifying: TenantSemaphore,
    /// Whether the host of an address without a token is a return host.
    hosts: VersionedCache<DomainName, bool>,
    counters: ReturnCounters,
}

/// Where an accepted recipient leads.
#[derive(Debug, Clone)]
pub enum Mailbox {
    /// The address has a token.
    Target(Box<AdmittedToken>),
    /// A registered feedback loop of the platform.
    Feedback,
    /// People: postmaster and abuse.
    Postmaster,
    /// A probe of our own verification, which sends no message.
    Probe,
}

/// What a proved token names.
#[derive(Debug, Clone)]
pub struct AdmittedToken {
    /// What may be sent to it.
    pub kind: TokenKind,
    /// The delivery or message.
    pub target: ReportTarget,
}

impl Mailbox {
    /// How much of a message is kept. The parts of a DSN that matter come first; the signature of a complaint covers all
    /// of it, and people want to read the whole message.
    pub fn keep_octets_max(&self) -> u64 {
        match self {
            Self::Target(token) if token.kind != TokenKind::Feedback => DSN_OCTETS_KEPT,
            Self::Target(_) | Self::Feedback => COMPLAINT_OCTETS_KEPT,
            Self::Postmaster => LETTER_OCTETS_KEPT,
            Self::Probe => 0,
        }
    }

    /// The tenant of the message that a report is about; `None` without a token.
    pub fn tenant_id(&self) -> Option<TenantId> {
        match self {
            Self::Target(token) => Some(token.target.message.tenant_id),
            Self::Feedback | Self::Postmaster | Self::Probe => None,
        }
    }
}

impl AdmittedToken {
    /// Whether several recipients have the token, so that whom a report is about is not proved.
    pub fn is_shared(&self) -> bool {
        self.target.recipient().is_none()
    }
}

impl ReturnsService {
    /// Creates the service.
    pub fn new(dependencies: ReturnsDependencies, settings: ReturnsSettings) -> Self {
        let ReturnsDependencies { store, queue, resolver, clock, forwarder } = dependencies;
        let hosts = VersionedCache::new(clock.clone(), HOSTS_CACHED_FOR, HOSTS_CACHED_MAX);
        Self {
            store,
            queue,
            resolver,
            clock,
            forwarder,
            settings,
            verifying: TenantSemaphore::new(
                signature::VERIFIED_AT_ONCE_MAX,
                signature::VERIFIED_OF_TENANT_MAX,
            ),
            hosts,
            counters: ReturnCounters::default(),
        }
    }

    /// Counts a refusal that the protocol decided.
    pub fn count_refusal(&self, code: RefusalCode) {
        self.counters.count_refusal(code);
    }

    /// Reports and refusals since the start.
    pub fn counts(&self) -> ReturnCounts {
        self.counters.read()
    }
}

fn storage_refusal(error: StoreError) -> Refusal {
    // Since RCPT, the message was deleted or other sessions were faster.
    match &error {
        StoreError::Conflict(Conflict::NoMessage) => return recipient::address_expired(),
        StoreError::Conflict(Conflict::TooManyReports) => return recipient::too_many_today(),
        _ => {}
    }
    tracing::error!(target: FLOOD, "the store failed: {error}");
    match error {
        StoreError::DiskFull => Refusal::new(
            RefusalCode::DiskLow,
            "the server is low on disk space",
            "try again later; the operator must free disk space",
        ),
        StoreError::Closed => {
            Refusal::new(RefusalCode::ShuttingDown, "the server is shutting down", "try again in a minute")
        }
        _ => Refusal::new(
            RefusalCode::StorageUnavailable,
            "the report cannot be stored because the database is unavailable",
            "try again later",
        ),
    }
}
