//! Durability: the only place with SQL. Callers see the verbs of eight traits and record structs.
//!
//! * [`Directory`]: tenants, domains, keys, suppressions, templates: what may be sent by whom.
//! * [`Spool`]: messages and deliveries: accepting, reading what is due, recording what became of them.
//! * [`Queue`]: what waits, for people to see and to steer.
//! * [`Journal`]: events and the state of messages for people to read.
//! * [`Ledger`]: how much tenants used.
//! * [`Outbox`]: webhook endpoints and what they are still to be sent.
//! * [`Policies`]: what destinations ask of those who send to them.
//! * [`TlsResults`]: how TLS with their hosts went, until it is reported to them.
//!
//! One process owns a spool. What is claimed is known to its queue manager only, so a claim writes nothing and after a
//! crash everything unfinished is simply due. Imports `mail`, `model` and `durable_file`.

#[cfg(test)]
pub(crate) mod contract;
mod dispatch;
mod error;
mod memory;
mod options;
mod records;
mod sqlite;
mod traits;

use crate::mail::SignedDuration;

pub use dispatch::Store;
pub use error::{Conflict, Result, StoreError};
pub use memory::{AcceptedMessage, HotQueuePermit, RecordedDelivery, SpoolChange, SpoolFeed};
pub use options::{Access, OpenError, StoreOptions};
pub use records::*;
pub use sqlite::{SqliteOptions, SqliteStore, check_master_key};
pub use traits::{Directory, Journal, Ledger, Outbox, Policies, Queue, Spool, TlsResults};

/// How long a [`SubmissionKey`] is remembered.
pub const SUBMISSION_KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(24);
/// How long an [`IdempotentResponse`] is.
pub const IDEMPOTENT_RESPONSE_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// MTA-STS policies that are kept; of more, those that expire first go.
pub const STS_POLICIES_MAX: usize = 10_000;
/// Kinds of TLS sessions that are counted, all domains and days together; of more, the new ones are not.
pub const TLS_RESULTS_MAX: usize = 100_000;

/// Octets of rows that one page is made of; a page ends before it has more, but for its first row.
pub const PAGE_OCTETS_MAX: usize = 2 * 1024 * 1024;

/// How long the hours of usage are kept; the days are kept as long as the tenant.
pub const USAGE_HOURS_LIFETIME: SignedDuration = SignedDuration::from_hours(90 * 24);
