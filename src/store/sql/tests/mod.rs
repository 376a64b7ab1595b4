//! What is SQLite's own: the files, the lock, the master key, the disk.

mod bodies;
mod erasures;
mod migrations;
mod opening;
mod removal;
mod suppressed_addresses;
mod writer;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use zeroize::Zeroizing;

use super::*;
use crate::mail::{ReversePath, Timestamp};
use crate::model::{
    DeliveryState, DkimKeyState, Environment, EventKind, KeySecret, MessageKind, RefusalCode, ReportId,
    ReportKind, RequestId, Stage, TenantId, TenantStatus, Verification,
};
use crate::store::contract::{
    AUDIT_ENTRIES_MAX, Harness, KEEP, SUPPRESSIONS_MAX, TestBed, address, ids, later, new_dkim_key,
    new_domain, new_key, new_message, new_report, new_suppression, new_template, new_tenant, new_webhook,
    now, outcomes, returned,
};
use crate::store::database;
use crate::store::{
    Conflict, Consequence, Directory, EventFilter, IdempotentResponse, Journal, Ledger, MessageFilter,
    NewEvent, NewMessage, NewSmartHost, Outbox, PageRequest, Rejection, Reports, RetentionPolicy, Spool,
    Store, SubmissionKey,
};

/// A data directory of its own.
pub(crate) struct SqliteHarness {
    dir: TempDir,
}

impl Harness for SqliteHarness {
    const HOT_QUEUE_OCTETS: u64 = 1024 * 1024;

    async fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    async fn open(&self, hot_queue_bytes_max: u64) -> Store {
        Store::open(SqliteOptions { hot_queue_bytes_max, ..options(self.dir.path()) }).await.unwrap()
    }
}

impl SqliteHarness {
    /// The directory, which outlives the store.
    pub(crate) fn into_dir(self) -> TempDir {
        self.dir
    }
}

pub(super) type Bed = TestBed<SqliteHarness>;

impl Bed {
    pub(super) fn with(change: impl FnOnce(&mut SqliteOptions)) -> Self {
        let harness = SqliteHarness { dir: tempfile::tempdir().unwrap() };
        let mut options = options(harness.dir.path());
        change(&mut options);
        Self::of(harness, open(options).unwrap())
    }

    pub(super) fn path(&self) -> &Path {
        self.harness.dir.path()
    }

    pub(super) fn engine(&self) -> &Store {
        &self.store
    }
}

/// What [`Store::open`] does on a thread for blocking work.
pub(super) fn open(options: SqliteOptions) -> std::result::Result<Store, OpenError> {
    super::sqlite::open::open(options)
}

pub(super) fn options(dir: &Path) -> SqliteOptions {
    SqliteOptions { inline_body_bytes_max: 4096, bounds: BOUNDS, ..SqliteOptions::at(dir) }
}

/// Small enough to be reached.
pub(in crate::store) const BOUNDS: Bounds = Bounds {
    slice_time: Duration::ZERO,
    slice_rows_min: 3,
    slice_rows_max: 100,
    page_events_examined_max: 50,
    page_messages_examined_max: 20,
    few_candidates_max: 5,
    retention_rows_examined_max: 20,
    body_directories_examined_max: 8,
    webhook_pending_max: 20,
    webhook_octets_max: 40 * 1024,
    suppressions_max: SUPPRESSIONS_MAX,
    unattributed_reports_max: 3,
    audit_entries_max: AUDIT_ENTRIES_MAX,
};

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// Waits until the store knows all suppressed addresses, which it reads with queries and a job after it was opened.
pub(super) async fn wait_until_known(store: &Store) {
    let known = async {
        while store.suppressed_addresses.may_contain("nobody@none.example") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), known).await.unwrap();
}

fn contains(octets: &[u8], part: &[u8]) -> bool {
    octets.windows(part.len()).any(|window| window == part)
}

/// How SQLite goes about a query.
pub(super) fn plan_of(connection: &database::Connection, sql: &str) -> String {
    let database::Connection::Sqlite(connection) = connection else { unreachable!("SQLite is open") };
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let mut steps = statement.raw_query();
    let mut plan = String::new();
    while let Some(step) = steps.next().unwrap() {
        plan += &step.get::<_, String>(3).unwrap();
        plan += "; ";
    }
    plan
}

/// The plans that the cost of a claim and of looking somebody up rests on.
#[tokio::test]
async fn the_hot_queries_use_their_indexes() {
    let bed = Bed::new().await;
    for (sql, index) in [
        (spool::due_rows::DUE_ROWS, "COVERING INDEX delivery_due"),
        (spool::due_rows::FIRST_AFTER, "delivery_due"),
        (spool::COUNT_OPEN, "delivery_due"),
        (events::OF_MESSAGE, "event_of_message"),
        (retention::OF_DELETED_TENANTS, "event_of_deleted_tenant"),
        (brakes::WITH_BRAKES, "tenant_with_brakes"),
        (retention::EXPIRED_SUPPRESSIONS, "suppression_by_expiry"),
        (directory::keys::DUE_NOTICES, "key_notice_due"),
        (directory::suppressions::OF_TENANT, "suppression_of_tenant"),
        (directory::suppressions::OF_PLATFORM, "suppression_of_"),
        (
            directory::suppressed_addresses::PAGE_OF_ADDRESSES,
            "COVERING INDEX suppression_of_tenant (address>?)",
        ),
        (directory::row_limits::MORE_SUPPRESSIONS, "SEARCH suppression_count USING PRIMARY KEY"),
        (reports::WITH_RETURN_HOST, "domain_by_return_host"),
        (reports::record::OLDEST_UNATTRIBUTED, "SEARCH report USING COVERING INDEX report_row_"),
        (outbox::deliveries::LAST_WAITING, "webhook_delivery_in_order"),
        (outbox::results::POSTPONE_SUCCESSORS, "webhook_delivery_in_order"),
        (suspicious_sites::SINCE, "suppression_at_site (site=? AND refused_us>?)"),
    ] {
        let plan = bed.engine().read(move |connection| Ok(plan_of(connection, sql))).await.unwrap();
        assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
    }
    let finished_to = journal::recipient_history::finished_to(database::Engine::Sqlite);
    let plan = bed.engine().read(move |connection| Ok(plan_of(connection, &finished_to))).await.unwrap();
    // The index is read from its newest place on, and the rows follow.
    assert!(
        plan.contains("M2<; SEARCH p USING INTEGER PRIMARY KEY") && !plan.contains("TEMP B-TREE"),
        "{plan}"
    );
}

async fn reports_left(bed: &Bed) -> Vec<ReportId> {
    let page = PageRequest { limit: 100, ..PageRequest::default() };
    let left = bed.store.list_reports(Default::default(), page).await.unwrap().items;
    left.iter().rev().map(|report| report.id).collect()
}

#[tokio::test]
async fn reports_that_belong_to_no_message_are_limited_and_the_oldest_goes() {
    let bed = Bed::new().await;
    let mut ids = Vec::new();
    for digest in 0..5 {
        ids.push(
            bed.store
                .record_report(returned(ReportKind::Other, None, digest, Consequence::None))
                .await
                .unwrap()
                .id,
        );
    }
    assert_eq!(reports_left(&bed).await, ids[2..]);
    assert!(bed.store.report_raw(None, ids[0]).await.unwrap().is_none());
}

#[tokio::test]
async fn a_page_of_events_goes_on_behind_the_rows_of_a_slice() {
    let bed = Bed::new().await;
    for slug in ["a", "b", "c", "d", "e"] {
        bed.tenant(slug).await;
    }
    for before in [None, Some(String::new())] {
        let ids = async |slice_rows_max| {
            let page = PageRequest { before: before.clone(), limit: 4, ..PageRequest::default() };
            let bounds = Bounds { slice_rows_max, ..BOUNDS };
            let search = events::EventSearch::new(EventFilter::default(), page, bounds);
            let page = bed.engine().read_slices(search).await.unwrap();
            (page.items.iter().map(|event| event.id).collect::<Vec<_>>(), page.next)
        };
        let whole = ids(100).await;
        assert_eq!(whole.0.len(), 4);
        assert_eq!(ids(2).await, whole);
    }
}
