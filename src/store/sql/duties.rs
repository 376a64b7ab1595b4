//! Which node does a job that is done once for all nodes, and what a job waits for.

use tokio::sync::watch;

use super::Store;
use super::unit_of_work::Tx;
use crate::store::database::Engine;
use crate::store::{Duty, LeaseState, Nodes, Result};

/// The advisory locks of PostgreSQL for transactions of duties.
const LOCK_CLASS: u32 = 2;

impl Store {
    /// Whether this node does a job that one node does for all.
    pub fn has_duty(&self, duty: Duty) -> bool {
        let Nodes { count, rank } = self.lease.nodes();
        self.lease.state() == LeaseState::Fresh && duty.rank_among(count) == rank
    }

    /// Whether other processes may write to the database at the same time. What they do is seen only by looking.
    pub fn has_other_writers(&self) -> bool {
        self.engine == Engine::Postgres
    }

    /// Counts changed rows, for tasks that have nothing to do while nothing changes. `None` if others write to the database.
    pub fn watch_changes(&self) -> Option<watch::Receiver<u64>> {
        (!self.has_other_writers()).then(|| self.changes.watch())
    }

    /// The version of the directory; see [`Directory::directory_version`](crate::store::Directory::directory_version). `None`
    /// if others write to the database.
    pub fn watch_directory(&self) -> Option<watch::Receiver<u64>> {
        (!self.has_other_writers()).then(|| self.directory_versions.watch())
    }
}

/// Begins a step of a duty in a transaction that others may run beside. False if another node is doing one: after a change of
/// the nodes two may have the duty.
pub(super) fn try_begin(tx: &Tx<'_>, duty: Duty) -> Result<bool> {
    if tx.engine() == Engine::Sqlite {
        return Ok(true);
    }
    let sql = "SELECT pg_try_advisory_xact_lock(CAST(?1 AS INTEGER), CAST(?2 AS INTEGER))";
    Ok(tx.prepare_cached(sql)?.query_row([LOCK_CLASS, duty.number()], |row| row.get(0))?)
}
