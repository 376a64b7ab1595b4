//! Persistence: the only module with SQL. Callers use fifteen traits and plain structs.
//!
//! * [`AcmeAccounts`]: accounts at certificate authorities.
//! * [`Audit`]: what people changed.
//! * [`Bundles`]: one tenant as objects, to move it.
//! * [`Directory`]: tenants, domains, keys, suppressions and templates.
//! * [`Erasures`]: what is stored about one recipient, and its erasure.
//! * [`Inboxes`]: addresses for trial mail, and its counts.
//! * [`Spool`]: messages and deliveries: enqueue, read what is due, record results.
//! * [`Queue`]: counts of waiting mail, pauses, retries and cancellation.
//! * [`Journal`]: events, messages and attempts for the API; search and retention.
//! * [`Ledger`]: usage of tenants.
//! * [`Outbox`]: webhooks and their pending deliveries.
//! * [`StsPolicies`]: cached MTA-STS policies of destinations.
//! * [`Reports`]: what other servers send back about messages, and the keys of the addresses that it comes to.
//! * [`SignIns`]: who is signed in to the pages.
//! * [`TlsResults`]: counts of TLS sessions until they are reported (RFC 8460).
//!
//! In SQLite, one process owns a spool. Only its queue manager knows what is claimed, so a claim writes nothing, and after a
//! crash every unfinished delivery is due. In PostgreSQL, a claim names the node that has it, until its lease ends. Imports `mail`, `model`, `durable_file`, `histogram` and
//! `limits`.

#[cfg(test)]
pub(crate) mod contract;
mod database;
mod error;
mod free_space;
mod memory;
mod options;
mod records;
mod requester;
mod response_recorder;
mod sql;
mod traits;

use crate::mail::SignedDuration;

pub use error::{Conflict, Result, StoreError};
pub use memory::{
    AcceptedMessage, HotQueuePermit, Lease, LeaseState, Nodes, RecordedDelivery, SpoolChange, SpoolFeed,
};
pub use options::{Access, OpenError, StoreOptions};
pub use records::*;
pub use requester::Requester;
use requester::is_in_scope;
pub use response_recorder::{IdempotentRequest, ResponseRecorder};
pub use sql::{
    BackupError, Bounds, CopiedDatabase, CopiedStore, CopyOptions, CopyProgress, CopyStep, DATABASE_FILE,
    DatabaseReport, NewLife, PendingMigrations, PostgresOptions, PreparedDatabase, SqliteOptions, Store,
    StoreCopyError, StoreCopyProgress, body_path, check_database, check_master_key, copy_database,
    copy_store, database_status, fingerprint_in_database, has_data, hold_bodies, lock_data_dir,
    master_key_fingerprint, pending_migrations, prepare_restored, quick_check,
};
pub use traits::{
    AcmeAccounts, Audit, Bundles, Directory, Erasures, Inboxes, Journal, Ledger, Outbox, Queue, Reports,
    SignIns, Spool, StsPolicies, TlsResults,
};

/// Lifetime of a [`SubmissionKey`].
pub const SUBMISSION_KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(24);
/// Lifetime of an [`IdempotentResponse`].
pub const IDEMPOTENT_RESPONSE_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// Maximum of pauses.
pub const PAUSES_MAX: u64 = 1000;
/// How long the keys of report addresses are accepted after the next rotation.
pub const TOKEN_OVERLAP: SignedDuration = SignedDuration::from_hours(60 * 24);
/// How long an address is suppressed that a suspicious site said is gone.
pub const PROVISIONAL_SUPPRESSION_LIFETIME: SignedDuration = SignedDuration::from_hours(48);
/// Reports that are recorded about one delivery or message in a day (UTC).
pub const REPORTS_OF_DAY_MAX: u64 = 16;
/// Reports that are recorded about one delivery or message.
pub const REPORTS_TOTAL_MAX: u64 = 64;
/// Stored reports that belong to no tenant; beyond it, the oldest are deleted.
pub const UNATTRIBUTED_REPORTS_MAX: usize = 10_000;
/// Maximum of stored octets of a report.
pub const REPORT_RAW_OCTETS_MAX: usize = 64 * 1024;

/// Maximum of stored MTA-STS policies; beyond it, those that expire first are deleted.
pub const STS_POLICIES_MAX: usize = 10_000;
/// Maximum of rows of TLS results for all domains and days; beyond it, new kinds are not counted.
pub const TLS_RESULTS_MAX: usize = 100_000;

/// Maximum of objects on a page.
pub const PAGE_OBJECTS_MAX: usize = 100;
/// Maximum of octets in the rows of a page. A page with one row may be larger.
pub const PAGE_OCTETS_MAX: usize = 2 * 1024 * 1024;

/// Retention of hourly usage. Daily usage is retained as long as the tenant.
pub const USAGE_HOURS_LIFETIME: SignedDuration = SignedDuration::from_hours(90 * 24);
/// How long usage by key and domain is kept.
pub const USAGE_PARTS_LIFETIME: SignedDuration = SignedDuration::from_hours(400 * 24);
/// How long the daily usage of a deleted tenant is kept, for its last bill.
pub const DELETED_USAGE_LIFETIME: SignedDuration = SignedDuration::from_hours(90 * 24);
