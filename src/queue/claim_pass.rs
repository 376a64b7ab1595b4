//! One pass over due mail: the hot queue, and pages of due rows from the store. Tenants share the capacity. The rows that a
//! pass reads are bounded, however deep the queue is.

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem;
use std::sync::Arc;

use super::batches::Batches;
use super::claim::GivenBack;
use super::claim_table::{Choice, Chosen, ClaimTable};
use super::manager::QueueManager;
use super::node_share::NodeShare;
use crate::mail::{Host, Timestamp};
use crate::model::{DeliveryId, TenantId};
use crate::store::{Batch, DueCursor, DuePage, DueRange, DueRow, PausedRow, Result, Spool};

/// Minimum of due rows in a page of one tenant, because some are skipped.
const PAGE_ROWS_MIN: usize = 32;
/// Maximum of due rows in a page.
const PAGE_ROWS_MAX: usize = 1024;
/// Maximum of due rows that a pass examines for one tenant; the next pass continues there.
const SCAN_ROWS_MAX: usize = 8192;
/// Maximum of rows examined under one lock.
const ROWS_PER_LOCK: usize = 512;
/// A pass ends after this many due rows of paused destinations.
const PAUSED_ROWS_MAX: usize = 8192;

/// The limits of a claim, see [`QueueManager::claim_due`].
#[derive(Clone)]
pub struct ClaimLimits {
    /// Maximum of deliveries.
    pub deliveries_max: usize,
    /// Maximum of claimed deliveries of one tenant, including those of earlier claims.
    pub per_tenant_max: usize,
    /// Which deliveries may be claimed.
    pub admits: Arc<dyn Admits>,
}

/// Decides which due deliveries may be claimed.
pub trait Admits: Send + Sync {
    /// Whether these deliveries of a tenant to a destination may be claimed. If so, the caller claims them.
    fn admits(&self, tenant: TenantId, destination: &Host, deliveries: usize) -> bool;
}

/// Decides by destination only.
impl<F: Fn(&Host) -> bool + Send + Sync> Admits for F {
    fn admits(&self, _: TenantId, destination: &Host, _: usize) -> bool {
        self(destination)
    }
}

/// The result of a claim.
#[derive(Debug, Default)]
pub struct Claimed {
    /// The claimed batches, until they are recorded or released.
    pub batches: Vec<Batch>,
    /// The earliest time at which more may be due; now or past if a limit was reached.
    pub next_due_at: Option<Timestamp>,
}

/// A pass in progress. If it is dropped unfinished, it releases its claims.
pub(super) struct ClaimPass<'a> {
    manager: &'a QueueManager,
    now: Timestamp,
    limits: &'a ClaimLimits,
    share: NodeShare,
    capacity_left: usize,
    rows_until_yield: usize,
    scans: HashMap<TenantId, Scan>,
    /// Batches from the hot queue.
    batches: Vec<Batch>,
    /// Claimed rows that must be read from the store.
    claimed: Vec<DeliveryId>,
    /// Due rows of paused destinations.
    paused_rows: Vec<PausedRow>,
}

/// The scan of a tenant's due rows.
struct Scan {
    /// Rows that were read but not examined.
    page: VecDeque<DueRow>,
    page_is_last: bool,
    behind: Option<DueCursor>,
    /// Where it began, if not at the first row: the rows up to there are examined last.
    began_behind: Option<DueCursor>,
    has_wrapped: bool,
    is_complete: bool,
    skipped: bool,
    /// Whether there are rows that another node may claim, and this one later.
    has_rows_of_others: bool,
    rows_left: usize,
    /// When the tenant's next row is due.
    next_due_us: Option<i64>,
}

impl<'a> ClaimPass<'a> {
    pub(super) fn begin(manager: &'a QueueManager, now: Timestamp, limits: &'a ClaimLimits) -> Self {
        let due = manager.lock().begin_pass(now.as_microsecond(), limits);
        Self {
            manager,
            now,
            limits,
            share: NodeShare::at(manager.store().nodes(), now.as_microsecond()),
            capacity_left: limits.deliveries_max,
            rows_until_yield: 0,
            scans: due.into_iter().map(|(tenant, cursor)| (tenant, Scan::new(cursor))).collect(),
            batches: Vec::new(),
            claimed: Vec::new(),
            paused_rows: Vec::new(),
        }
    }

    /// Claims as much as the limits allow.
    pub(super) async fn run(mut self) -> Result<Claimed> {
        loop {
            self.read_pages().await?;
            while self.choose() {
                tokio::task::yield_now().await;
            }
            if self.capacity_left == 0 || self.ranges().is_empty() {
                break;
            }
        }
        self.postpone_paused().await;
        self.read_claimed().await?;
        Ok(self.finish())
    }

    /// The ranges to read next.
    fn ranges(&self) -> Vec<DueRange> {
        if self.capacity_left == 0 || self.paused_rows.len() >= PAUSED_ROWS_MAX {
            return Vec::new();
        }
        let share = self.capacity_left / self.scans.len().max(1);
        let rows_max = (2 * share * self.share.nodes()).clamp(PAGE_ROWS_MIN, PAGE_ROWS_MAX);
        let table = self.manager.lock();
        let wanting = self.scans.iter().filter(|&(&tenant, scan)| {
            scan.page.is_empty() && !scan.is_over() && table.allowance_of(tenant, self.limits) > 0
        });
        wanting.map(|(&tenant, scan)| scan.range(tenant, rows_max)).collect()
    }

    async fn read_pages(&mut self) -> Result<()> {
        let ranges = self.ranges();
        if ranges.is_empty() {
            return Ok(());
        }
        let tenants: Vec<TenantId> = ranges.iter().map(|range| range.tenant_id).collect();
        let pages = self.manager.store().due_pages(ranges, self.now).await?;
        for (tenant, page) in tenants.into_iter().zip(pages) {
            if let Some(scan) = self.scans.get_mut(&tenant) {
                scan.add(page);
            }
        }
        Ok(())
    }

    /// Claims rows that were read, in fair order of tenants. True if the lock should be released before it continues.
    fn choose(&mut self) -> bool {
        self.rows_until_yield = ROWS_PER_LOCK;
        let (manager, capacity_left) = (self.manager, self.capacity_left);
        self.capacity_left -= manager.lock().serve_round_robin(capacity_left, |table, tenant, share| {
            if self.rows_until_yield == 0 {
                return None;
            }
            let wanted = share.min(table.allowance_of(tenant, self.limits));
            Some(self.serve(table, tenant, wanted))
        });
        self.capacity_left > 0 && self.rows_until_yield == 0
    }

    /// Claims for one tenant. If it has both, half comes from the hot queue, so that neither starves the other. The odd one
    /// is random, because any fixed order could be in step with the order of tenants.
    fn serve(&mut self, table: &mut ClaimTable, tenant: TenantId, wanted: usize) -> usize {
        let has_rows = self.scans.get(&tenant).is_some_and(|scan| !scan.page.is_empty());
        let from_hot =
            if has_rows { (wanted + usize::from(self.manager.rng().random::<bool>())) / 2 } else { wanted };
        let mut taken = self.take_hot(table, tenant, from_hot);
        if has_rows {
            taken += self.take_due(table, tenant, wanted - taken);
            taken += self.take_hot(table, tenant, wanted - taken);
        }
        taken
    }

    fn take_hot(&mut self, table: &mut ClaimTable, tenant: TenantId, wanted: usize) -> usize {
        let batches = table.take_hot(tenant, wanted, &*self.limits.admits);
        let count = batches.iter().map(|batch| batch.deliveries.len()).sum();
        self.batches.extend(batches);
        count
    }

    fn take_due(&mut self, table: &mut ClaimTable, tenant: TenantId, wanted: usize) -> usize {
        let Some(scan) = self.scans.get_mut(&tenant) else { return 0 };
        let choice = Choice { tenant, now_us: self.now.as_microsecond(), admits: &*self.limits.admits };
        let mut taken = 0;
        while taken < wanted
            && self.rows_until_yield > 0
            && self.paused_rows.len() < PAUSED_ROWS_MAX
            && let Some(row) = scan.next_row()
        {
            self.rows_until_yield -= 1;
            let id = row.at.id;
            if !self.share.has(id) {
                scan.has_rows_of_others = true;
                continue;
            }
            match table.choose(&choice, row) {
                Chosen::Claimed => {
                    self.claimed.push(id);
                    taken += 1;
                }
                Chosen::Taken => {}
                Chosen::Refused => scan.skipped = true,
                Chosen::Paused(row) => self.paused_rows.push(row),
            }
        }
        taken
    }

    /// Moves paused deliveries to the end of their pause. If that fails, they are found when the pause ends or is lifted.
    async fn postpone_paused(&mut self) {
        if self.paused_rows.is_empty() {
            return;
        }
        let rows = mem::take(&mut self.paused_rows);
        let ends: HashSet<(TenantId, i64)> = rows.iter().map(|row| (row.tenant_id, row.until_us)).collect();
        let still_due = match self.manager.store().postpone_paused(rows).await {
            Ok(tenants) => tenants,
            Err(error) => {
                tracing::warn!(%error, "the next attempt of mail for a paused destination could not be moved to the end of the pause");
                Vec::new()
            }
        };
        let mut table = self.manager.lock();
        for (tenant, until_us) in ends {
            table.advance(tenant, until_us);
        }
        for tenant in still_due {
            table.advance(tenant, i64::MIN);
        }
    }

    /// Reads the claimed rows.
    async fn read_claimed(&mut self) -> Result<()> {
        if self.claimed.is_empty() {
            return Ok(());
        }
        let rows = self.manager.store().take(self.claimed.clone(), self.now).await?;
        self.manager.note_claims(self.claimed.len(), rows.len());
        let mut gone: Vec<DeliveryId> = mem::take(&mut self.claimed);
        let mut table = self.manager.lock();
        let mut batches = Batches::default();
        let found: HashSet<_> = rows.iter().map(|(_, delivery)| delivery.id).collect();
        for (message, mut delivery) in rows {
            if let Some(at) = delivery.next_attempt_at {
                let due_us = table.pauses.effective_due(message.tenant_id, at.as_microsecond());
                delivery.next_attempt_at = Timestamp::from_microsecond(due_us).ok();
            }
            batches.add(&message, delivery, None);
        }
        self.batches.extend(batches.take());
        // They were deleted since their page was read, or another node has claimed them.
        gone.retain(|id| !found.contains(id));
        table.forget(gone.into_iter());
        Ok(())
    }

    fn finish(mut self) -> Claimed {
        let now_us = self.now.as_microsecond();
        let mut table = self.manager.lock();
        for (tenant, scan) in mem::take(&mut self.scans) {
            let next_us = match scan.is_complete && !scan.skipped {
                true => {
                    let later_us = scan.has_rows_of_others.then(|| self.share.ends_us());
                    scan.next_due_us.into_iter().chain(later_us).min()
                }
                false => Some(now_us),
            };
            let cursor = if scan.is_complete { None } else { scan.behind };
            table.note_scan(tenant, cursor, next_us);
        }
        let next_us = table.end_pass(now_us);
        let next_due_at = next_us.map(|at| Timestamp::from_microsecond(at).unwrap_or(Timestamp::MIN));
        Claimed { batches: mem::take(&mut self.batches), next_due_at }
    }
}

impl Drop for ClaimPass<'_> {
    fn drop(&mut self) {
        let of_batches = mem::take(&mut self.batches).into_iter().flat_map(|batch| batch.deliveries);
        let deliveries: Vec<_> =
            of_batches.map(|delivery| delivery.id).chain(mem::take(&mut self.claimed)).collect();
        let unscanned: Vec<_> = self.scans.drain().map(|(tenant, _)| tenant).collect();
        if !deliveries.is_empty() || !unscanned.is_empty() {
            self.manager.give_back(GivenBack { deliveries, unscanned });
        }
    }
}

impl Scan {
    fn new(cursor: Option<DueCursor>) -> Self {
        Self {
            page: VecDeque::new(),
            page_is_last: false,
            behind: cursor,
            began_behind: cursor,
            has_wrapped: false,
            is_complete: false,
            skipped: false,
            has_rows_of_others: false,
            rows_left: SCAN_ROWS_MAX,
            next_due_us: None,
        }
    }

    fn is_over(&self) -> bool {
        self.is_complete || self.rows_left == 0
    }

    fn range(&self, tenant_id: TenantId, rows_max: usize) -> DueRange {
        let until = self.began_behind.filter(|_| self.has_wrapped);
        DueRange { tenant_id, after: self.behind, until, rows_max: rows_max.min(self.rows_left) }
    }

    fn add(&mut self, page: DuePage) {
        self.rows_left = self.rows_left.saturating_sub(page.rows.len());
        self.page = page.rows.into();
        self.page_is_last = page.is_last;
        if page.is_last {
            self.next_due_us = page.next_due_us;
        }
        self.turn_around_at_end();
    }

    fn next_row(&mut self) -> Option<DueRow> {
        let row = self.page.pop_front()?;
        self.behind = Some(row.at);
        self.turn_around_at_end();
        Some(row)
    }

    /// At the last row: continues from the first row, if the scan began after it.
    fn turn_around_at_end(&mut self) {
        if !self.page.is_empty() || !self.page_is_last {
            return;
        }
        self.page_is_last = false;
        if self.began_behind.is_some() && !self.has_wrapped {
            self.has_wrapped = true;
            self.behind = None;
        } else {
            self.is_complete = true;
        }
    }
}
