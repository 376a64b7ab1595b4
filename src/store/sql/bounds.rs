//! Bounds of the work of a step of the store and of stored rows.

use std::time::Duration;

use crate::store::{AUDIT_ENTRIES_MAX, Limited, UNATTRIBUTED_REPORTS_MAX};

/// Bounds of the work of one step and of the rows of one owner. The default is what a server uses; tests reach smaller
/// ones sooner.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// A slice of a page ends after this time.
    pub slice_time: Duration,
    /// A slice of a page examines at least this many rows, because the next one must find its beginning again.
    pub slice_rows_min: usize,
    /// A slice of a page examines at most this many rows: PostgreSQL sends all rows of a query at once.
    pub slice_rows_max: usize,
    /// Events that one page examines, plus the rest of the last millisecond: nearly always enough to fill it, and a bound on
    /// the cost. An index of events by tenant would cost a write for every message instead.
    pub page_events_examined_max: usize,
    /// Messages that one page examines.
    pub page_messages_examined_max: usize,
    /// Up to this many candidates of a page are examined one by one instead of scanning a longer list.
    pub few_candidates_max: usize,
    /// Bodies, and messages of each tenant, that one step of retention examines: a million open messages may be older than
    /// those to delete.
    pub retention_rows_examined_max: usize,
    /// Body directories that one round examines, so that all thousand are examined within an hour.
    pub body_directories_examined_max: usize,
    /// Pending deliveries of one webhook; one more disables it, so that an unreachable endpoint cannot fill the disk.
    pub webhook_pending_max: u64,
    /// What the pending deliveries to all webhooks of a tenant may take. Each webhook may always take its part of it.
    pub webhook_octets_max: u64,
    /// Suppressions of a tenant in an environment.
    pub suppressions_max: usize,
    /// Reports that belong to no message; the next one replaces the oldest.
    pub unattributed_reports_max: usize,
    /// Entries of the audit log about a tenant; the next one replaces the oldest.
    pub audit_entries_max: i64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            slice_time: Duration::from_millis(20),
            slice_rows_min: 64,
            slice_rows_max: 1_000,
            page_events_examined_max: 20_000,
            page_messages_examined_max: 5_000,
            few_candidates_max: 1_000,
            retention_rows_examined_max: 20_000,
            body_directories_examined_max: 20,
            webhook_pending_max: 200_000,
            webhook_octets_max: 256 * 1024 * 1024,
            suppressions_max: Limited::SUPPRESSIONS_MAX,
            unattributed_reports_max: UNATTRIBUTED_REPORTS_MAX,
            audit_entries_max: AUDIT_ENTRIES_MAX,
        }
    }
}

impl Bounds {
    /// The rows of a kind that a tenant may have.
    pub(super) fn rows_max(&self, what: Limited) -> usize {
        match what {
            Limited::Suppressions(_) => self.suppressions_max,
            other => other.rows_max(),
        }
    }
}
