//! One pass over what is due: what is in the hot queue, and pages of due rows of the store, the room split between the
//! tenants that have something. What a pass reads is bounded, however deep the queue is.

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem;
use std::sync::Arc;

use super::batches::Batches;
use super::claim::GivenBack;
use super::claim_table::{Choice, Chosen, ClaimTable};
use super::manager::QueueManager;
use crate::mail::{Host, Timestamp};
use crate::model::{DeliveryId, TenantId};
use crate::store::{Batch, DueCursor, DuePage, DueRange, DueRow, ParkedRow, Result, Spool};

/// Due rows read at a time for one tenant: at least so many, for some are passed over.
const PAGE_ROWS_MIN: usize = 32;
/// At most so many.
const PAGE_ROWS_MAX: usize = 1024;
/// Due rows that a pass looks at for one tenant; the next pass goes on from there.
const SCAN_ROWS_MAX: usize = 8192;
/// Rows that are looked at before others may have the lock.
const ROWS_IN_TURN: usize = 512;
/// Due rows of paused destinations after which a pass looks for no more.
const PARKED_ROWS_MAX: usize = 8192;

/// How much the caller of [`QueueManager::claim_due`] can take.
#[derive(Clone)]
pub struct ClaimRoom {
    /// Deliveries in all.
    pub deliveries_max: usize,
    /// Deliveries of one tenant that may be claimed at any time, those from earlier claims included.
    pub per_tenant_max: usize,
    /// What is passed over.
    pub admits: Arc<dyn Admits>,
}

/// Says what of all that is due may be claimed.
pub trait Admits: Send + Sync {
    /// Whether so many deliveries of a tenant to a destination may be claimed: they are if so.
    fn admits(&self, tenant: TenantId, destination: &Host, deliveries: usize) -> bool;
}

/// Passes over what a function of the destination says.
impl<F: Fn(&Host) -> bool + Send + Sync> Admits for F {
    fn admits(&self, _: TenantId, destination: &Host, _: usize) -> bool {
        self(destination)
    }
}

/// What was claimed.
#[derive(Debug, Default)]
pub struct Claimed {
    /// The caller's until they are recorded or released.
    pub batches: Vec<Batch>,
    /// The earliest time at which there will be more; now or past if only the room was too small.
    pub next_due_at: Option<Timestamp>,
}

/// A pass that runs. Dropped unfinished, it leaves everything to the next one.
pub(super) struct ClaimPass<'a> {
    manager: &'a QueueManager,
    now: Timestamp,
    room: &'a ClaimRoom,
    room_left: usize,
    rows_in_turn: usize,
    scans: HashMap<TenantId, Scan>,
    /// Batches of the hot queue.
    batches: Vec<Batch>,
    /// Claimed rows that are still to be read.
    claimed: Vec<DeliveryId>,
    /// Rows that were due at a paused destination.
    parked: Vec<ParkedRow>,
}

/// How far the look at a tenant's due rows has come.
struct Scan {
    /// Rows that were read and not looked at yet.
    page: VecDeque<DueRow>,
    page_is_last: bool,
    behind: Option<DueCursor>,
    /// Where it began, if not at the front: the rows up to there are looked at last.
    began_behind: Option<DueCursor>,
    has_wrapped: bool,
    is_complete: bool,
    skipped: bool,
    rows_left: usize,
    /// When the tenant's next row falls due.
    next_due_us: Option<i64>,
}

impl<'a> ClaimPass<'a> {
    pub(super) fn begin(manager: &'a QueueManager, now: Timestamp, room: &'a ClaimRoom) -> Self {
        let due = manager.lock().begin_pass(now.as_microsecond(), room);
        Self {
            manager,
            now,
            room,
            room_left: room.deliveries_max,
            rows_in_turn: 0,
            scans: due.into_iter().map(|(tenant, cursor)| (tenant, Scan::new(cursor))).collect(),
            batches: Vec::new(),
            claimed: Vec::new(),
            parked: Vec::new(),
        }
    }

    /// Claims what there is room for.
    pub(super) async fn run(mut self) -> Result<Claimed> {
        loop {
            self.read_pages().await?;
            while self.choose() {
                tokio::task::yield_now().await;
            }
            if self.room_left == 0 || self.ranges().is_empty() {
                break;
            }
        }
        self.park().await;
        self.read_claimed().await?;
        Ok(self.finish())
    }

    /// What has to be read for the pass to go on.
    fn ranges(&self) -> Vec<DueRange> {
        if self.room_left == 0 || self.parked.len() >= PARKED_ROWS_MAX {
            return Vec::new();
        }
        let share = self.room_left / self.scans.len().max(1);
        let rows_max = (2 * share).clamp(PAGE_ROWS_MIN, PAGE_ROWS_MAX);
        let table = self.manager.lock();
        let wanting = self.scans.iter().filter(|&(&tenant, scan)| {
            scan.page.is_empty() && !scan.is_over() && table.allowance_of(tenant, self.room) > 0
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

    /// Claims in turns of the tenants until there is no room or nothing more at hand. True if others should have the lock
    /// before it goes on.
    fn choose(&mut self) -> bool {
        self.rows_in_turn = ROWS_IN_TURN;
        let (manager, room_left) = (self.manager, self.room_left);
        self.room_left -= manager.lock().serve_in_turns(room_left, |table, tenant, share| {
            if self.rows_in_turn == 0 {
                return None;
            }
            let wanted = share.min(table.allowance_of(tenant, self.room));
            Some(self.serve(table, tenant, wanted))
        });
        self.room_left > 0 && self.rows_in_turn == 0
    }

    /// Takes for one tenant; where it has both, half of it from the hot queue, so that neither starves the other. The odd
    /// one goes by lot: whose turn it is among tenants could keep step with any order.
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
        let batches = table.take_hot(tenant, wanted, &*self.room.admits);
        let count = batches.iter().map(|batch| batch.deliveries.len()).sum();
        self.batches.extend(batches);
        count
    }

    fn take_due(&mut self, table: &mut ClaimTable, tenant: TenantId, wanted: usize) -> usize {
        let Some(scan) = self.scans.get_mut(&tenant) else { return 0 };
        let choice = Choice { tenant, now_us: self.now.as_microsecond(), admits: &*self.room.admits };
        let mut taken = 0;
        while taken < wanted
            && self.rows_in_turn > 0
            && self.parked.len() < PARKED_ROWS_MAX
            && let Some(row) = scan.next_row()
        {
            self.rows_in_turn -= 1;
            let id = row.at.id;
            match table.choose(&choice, row) {
                Chosen::Claimed => {
                    self.claimed.push(id);
                    taken += 1;
                }
                Chosen::Taken => {}
                Chosen::Refused => scan.skipped = true,
                Chosen::Paused(row) => self.parked.push(row),
            }
        }
        taken
    }

    /// Puts off what is paused, before anybody else may look. What cannot be written now is found due again.
    async fn park(&mut self) {
        if self.parked.is_empty() {
            return;
        }
        let rows = mem::take(&mut self.parked);
        let ends: HashSet<(TenantId, i64)> = rows.iter().map(|row| (row.tenant_id, row.until_us)).collect();
        let still_due = match self.manager.store().park(rows).await {
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

    /// Reads the rows that were claimed.
    async fn read_claimed(&mut self) -> Result<()> {
        if self.claimed.is_empty() {
            return Ok(());
        }
        let rows = self.manager.store().take(self.claimed.clone()).await?;
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
        // Deleted since its page was read.
        gone.retain(|id| !found.contains(id));
        table.forget(gone.into_iter());
        Ok(())
    }

    fn finish(mut self) -> Claimed {
        let now_us = self.now.as_microsecond();
        let mut table = self.manager.lock();
        for (tenant, scan) in mem::take(&mut self.scans) {
            let next_us = if scan.is_complete && !scan.skipped { scan.next_due_us } else { Some(now_us) };
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

    /// At the end of the rows: once more from the front, if the scan began further behind.
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
