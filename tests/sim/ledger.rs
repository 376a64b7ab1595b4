//! What the people who use the server know: what it has acknowledged, and what it must keep to since.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use pillarbox::mail::Timestamp;

use crate::erasures::Erasure;

/// A message that was acknowledged.
pub struct Acknowledged {
    pub tenant_id: String,
    pub recipients: Vec<String>,
    /// It must not be sent before.
    pub send_at: Option<Timestamp>,
}

/// An address that a tenant may not send to any more.
#[derive(Debug, Clone)]
pub struct Suppressed {
    pub tenant_id: String,
    pub address: String,
    pub since: Timestamp,
    /// The message that another server has reported as failed; it may have gone another way, so its own delivery goes on.
    pub reported: Option<String>,
}

/// A report of another server that a delivery has failed, to the address that only its message has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FailureReport {
    pub tenant_id: String,
    pub address: String,
}

/// The last transaction of a message to a recipient.
#[derive(Debug, Clone)]
pub struct Taken {
    pub tenant_id: String,
    /// Whether the server must have learnt of it.
    pub is_certain: bool,
    pub in_life: usize,
}

#[derive(Default)]
pub struct Ledger {
    pub acknowledged: BTreeMap<String, Acknowledged>,
    /// The message of each `Idempotency-Key`.
    pub keys: BTreeMap<String, String>,
    pub suppressed: Vec<Suppressed>,
    /// The id of each tenant that there was, by its mark.
    pub ids: BTreeMap<String, String>,
    /// Tenants whose deletion was asked for, by id, and since when it was confirmed. What they had is erased.
    pub deleted: BTreeMap<String, Option<Timestamp>>,
    /// Keys that were revoked.
    pub revoked: BTreeMap<String, Timestamp>,
    /// Failures that were reported, and whether the server has taken the report.
    pub reported: BTreeMap<FailureReport, bool>,
    /// Deliveries that were recorded as delivered when the process was not running.
    pub recorded: BTreeSet<(String, String)>,
    /// Transactions that were looked at, by host.
    pub seen: BTreeMap<SocketAddr, usize>,
    pub taken: BTreeMap<(String, String), Taken>,
    /// Until when the server has known that mail for the strict site must be encrypted, when it did not run.
    pub policy_until: Option<Timestamp>,
    /// By the address of the recipient.
    pub erasures: BTreeMap<String, Erasure>,
    pub next_token: usize,
    pub refused: usize,
    pub duplicates: usize,
}

impl Ledger {
    /// Whether the rows of a tenant may be gone.
    pub fn is_deleted(&self, tenant_id: &str) -> bool {
        self.deleted.contains_key(tenant_id)
    }

    /// The tenant whose mark is in a text.
    pub fn owner_of(&self, text: &str) -> Option<&str> {
        self.ids.iter().find(|(mark, _)| text.contains(mark.as_str())).map(|(_, id)| id.as_str())
    }
}
