//! One pass over what is due: first what is ready in memory, then rows of the database, the room split evenly
//! between the tenants that have something. What a pass reads is bounded, however deep the queue is.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use rusqlite::{Connection, params};
use tokio::sync::OwnedMutexGuard;

use super::batches::Batches;
use super::claim_table::{ClaimTable, Cursor, DueRow, Parked, Wanted};
use crate::mail::Timestamp;
use crate::model::{DeliveryId, MessageId, TenantId};
use crate::store::sqlite::journal::{deliveries, messages};
use crate::store::{Admits, ClaimRoom, Claimed, Delivery, Message, Result};

/// Due rows read at a time.
const PAGE_ROWS: usize = 256;
/// Due rows that a pass looks at for one tenant; the next pass goes on from there.
const SCAN_ROWS_MAX: usize = 8192;
/// Due rows of paused destinations after which a pass looks for no more.
const PARKED_ROWS_MAX: usize = 8192;

pub(in crate::store::sqlite) const DUE_ROWS: &str = "
    SELECT next_attempt_us, id, destination FROM delivery
    WHERE tenant_id = ?1 AND next_attempt_us IS NOT NULL
        AND (next_attempt_us, id) > (?2, ?3) AND (next_attempt_us, id) <= (?4, ?5)
    ORDER BY next_attempt_us, id LIMIT ?6";
pub(in crate::store::sqlite) const FIRST_AFTER: &str =
    "SELECT min(next_attempt_us) FROM delivery WHERE tenant_id = ?1 AND next_attempt_us > ?2";

/// A pass that was planned. Dropped unfinished, it leaves everything to the next one.
pub(super) struct Pass {
    memory: Arc<ClaimTable>,
    now_us: i64,
    room: usize,
    admits: Arc<dyn Admits>,
    tenants: Vec<Candidate>,
    granted: Granted,
    is_over: bool,
}

/// A tenant that may have something to hand out.
struct Candidate {
    tenant: TenantId,
    allowance: usize,
    scan: Option<Scan>,
}

/// How far the look at a tenant's due rows has come.
struct Scan {
    behind: Option<Cursor>,
    /// Where it began, if not at the front: the rows up to there are looked at last.
    began_behind: Option<Cursor>,
    has_wrapped: bool,
    is_complete: bool,
    skipped: bool,
    rows_left: usize,
}

/// What was claimed. Dropped before the caller has it, it is released.
pub(super) struct Granted {
    memory: Arc<ClaimTable>,
    /// The next pass begins when it is known whether the caller took what was claimed.
    _turn: Option<OwnedMutexGuard<()>>,
    batches: Batches,
    messages: HashMap<MessageId, Arc<Message>>,
    /// Claimed rows that are still to be read.
    unread: Vec<DeliveryId>,
    /// Rows that were due at a paused destination.
    parked: Vec<Parked>,
    next_due_at: Option<Timestamp>,
}

impl Granted {
    fn new(memory: &Arc<ClaimTable>, turn: Option<OwnedMutexGuard<()>>) -> Self {
        Self {
            memory: Arc::clone(memory),
            _turn: turn,
            batches: Batches::default(),
            messages: HashMap::new(),
            unread: Vec::new(),
            parked: Vec::new(),
            next_due_at: None,
        }
    }

    pub(super) fn accept(mut self) -> Claimed {
        Claimed { batches: self.batches.take(), next_due_at: self.next_due_at }
    }

    /// What is to be set aside before anybody else may look.
    pub(super) fn take_parked(&mut self) -> Vec<Parked> {
        mem::take(&mut self.parked)
    }

    /// Reads the rows that were claimed.
    fn read_claimed(&mut self, connection: &Connection, mut claimed: Vec<DeliveryId>) -> Result<()> {
        claimed.reverse();
        self.unread = claimed;
        while let Some(&id) = self.unread.last() {
            match self.read(connection, id)? {
                Some((message, delivery)) => self.batches.add(&message, delivery, None),
                // Deleted since the page was read.
                None => self.memory.forget([id].into_iter()),
            }
            self.unread.pop();
        }
        Ok(())
    }

    fn read(&mut self, connection: &Connection, id: DeliveryId) -> Result<Option<(Arc<Message>, Delivery)>> {
        let Some(mut delivery) = deliveries::find(connection, id)? else { return Ok(None) };
        let message = match self.messages.get(&delivery.message_id) {
            Some(message) => Arc::clone(message),
            None => {
                let Some(message) = messages::find(connection, delivery.message_id)? else { return Ok(None) };
                let message = Arc::new(message);
                self.messages.insert(message.id, Arc::clone(&message));
                message
            }
        };
        if let Some(at) = delivery.next_attempt_at {
            let due_us = self.memory.effective_due(message.tenant_id, at.as_microsecond());
            delivery.next_attempt_at = Timestamp::from_microsecond(due_us).ok();
        }
        Ok(Some((message, delivery)))
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        let left = self.batches.take().into_iter().flat_map(|batch| batch.deliveries);
        let left: Vec<_> = left.map(|delivery| delivery.id).chain(mem::take(&mut self.unread)).collect();
        if !left.is_empty() {
            self.memory.release(&left);
        }
    }
}

impl Pass {
    pub(super) fn new(
        memory: Arc<ClaimTable>,
        turn: OwnedMutexGuard<()>,
        now_us: i64,
        room: &ClaimRoom,
    ) -> Self {
        let granted = Granted::new(&memory, Some(turn));
        Self {
            memory,
            now_us,
            room: room.deliveries_max,
            admits: Arc::clone(&room.admits),
            tenants: Vec::new(),
            granted,
            is_over: false,
        }
    }

    pub(super) fn add_ready(&mut self, tenant: TenantId, allowance: usize) {
        self.tenants.push(Candidate { tenant, allowance, scan: None });
    }

    /// A tenant that may have due rows, read from behind `cursor`.
    pub(super) fn add_due(&mut self, tenant: TenantId, allowance: usize, cursor: Option<Cursor>) {
        let scan = Scan::new(cursor);
        match self.tenants.iter_mut().find(|candidate| candidate.tenant == tenant) {
            Some(candidate) => candidate.scan = Some(scan),
            None => self.tenants.push(Candidate { tenant, allowance, scan: Some(scan) }),
        }
    }

    pub(super) fn needs_database(&self) -> bool {
        self.tenants.iter().any(|candidate| candidate.scan.is_some())
    }

    /// Claims what there is room for. Without a connection only what is ready in memory.
    pub(super) fn run(mut self, connection: Option<&Connection>) -> Result<Granted> {
        let mut hungry: Vec<usize> = (0..self.tenants.len()).collect();
        // What some tenants leave of their share is shared again between the others.
        while self.room > 0 && !hungry.is_empty() {
            let share = (self.room / hungry.len()).max(1);
            let mut still_hungry = Vec::new();
            for index in hungry {
                let wanted = share.min(self.room).min(self.tenants[index].allowance);
                let taken = self.serve(index, wanted, connection)?;
                self.room -= taken;
                self.tenants[index].allowance -= taken;
                if taken == wanted && self.tenants[index].allowance > 0 {
                    still_hungry.push(index);
                }
            }
            hungry = still_hungry;
        }
        self.note_scans(connection)?;
        self.is_over = true;
        let next_us = self.memory.end_pass(self.now_us);
        self.granted.next_due_at =
            next_us.map(|at| Timestamp::from_microsecond(at).unwrap_or(Timestamp::MIN));
        Ok(mem::replace(&mut self.granted, Granted::new(&self.memory, None)))
    }

    /// Takes for one tenant; where it has both, half of it from memory, so that neither starves the other. The odd one
    /// goes by lot: whose turn it is among tenants could keep step with any order.
    fn serve(&mut self, index: usize, wanted: usize, connection: Option<&Connection>) -> Result<usize> {
        let has_scan = self.tenants[index].scan.as_ref().is_some_and(|scan| !scan.is_over());
        let from_memory = if has_scan { (wanted + usize::from(rand::random::<bool>())) / 2 } else { wanted };
        let mut taken = self.take_ready(index, from_memory);
        if let Some(connection) = connection
            && has_scan
        {
            taken += self.take_due(index, wanted - taken, connection)?;
            taken += self.take_ready(index, wanted - taken);
        }
        Ok(taken)
    }

    fn take_ready(&mut self, index: usize, wanted: usize) -> usize {
        if wanted == 0 {
            return 0;
        }
        let batches = self.memory.take_ready(self.tenants[index].tenant, wanted, &*self.admits);
        let count = batches.iter().map(|batch| batch.deliveries.len()).sum();
        self.granted.batches.extend(batches);
        count
    }

    fn take_due(&mut self, index: usize, wanted: usize, connection: &Connection) -> Result<usize> {
        let Self { memory, admits, tenants, granted, now_us, .. } = self;
        let candidate = &mut tenants[index];
        let tenant = candidate.tenant;
        let Some(scan) = candidate.scan.as_mut() else { return Ok(0) };
        let mut taken = 0;
        while taken < wanted && !scan.is_over() && granted.parked.len() < PARKED_ROWS_MAX {
            let rows = scan.page(connection, tenant, *now_us)?;
            let end = rows.last().map(|row| row.at);
            let is_last_page = rows.len() < PAGE_ROWS;
            scan.rows_left = scan.rows_left.saturating_sub(rows.len());
            let wanted =
                Wanted { tenant, now_us: *now_us, deliveries_max: wanted - taken, admits: &**admits };
            let choice = memory.choose(&wanted, rows);
            granted.parked.extend(choice.parked);
            scan.skipped |= choice.skipped;
            taken += choice.claimed.len();
            granted.read_claimed(connection, choice.claimed)?;
            scan.behind = choice.last.or(scan.behind);
            if is_last_page && choice.last == end {
                scan.turn_around();
            }
        }
        Ok(taken)
    }

    /// Tells memory where each scan stands.
    fn note_scans(&mut self, connection: Option<&Connection>) -> Result<()> {
        for candidate in &mut self.tenants {
            let (Some(scan), Some(connection)) = (&candidate.scan, connection) else { continue };
            let next_us = if scan.is_complete && !scan.skipped {
                first_after(connection, candidate.tenant, self.now_us)?
            } else {
                Some(self.now_us)
            };
            let cursor = if scan.is_complete { None } else { scan.behind };
            self.memory.note_scan(candidate.tenant, cursor, next_us);
            candidate.scan = None;
        }
        Ok(())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        for candidate in &self.tenants {
            if candidate.scan.is_some() {
                self.memory.note_scan(candidate.tenant, None, Some(self.now_us));
            }
        }
        self.memory.end_pass(self.now_us);
    }
}

impl Scan {
    fn new(cursor: Option<Cursor>) -> Self {
        Self {
            behind: cursor,
            began_behind: cursor,
            has_wrapped: false,
            is_complete: false,
            skipped: false,
            rows_left: SCAN_ROWS_MAX,
        }
    }

    fn is_over(&self) -> bool {
        self.is_complete || self.rows_left == 0
    }

    /// The end of the rows: once more from the front, if the scan began further behind.
    fn turn_around(&mut self) {
        if self.began_behind.is_some() && !self.has_wrapped {
            self.has_wrapped = true;
            self.behind = None;
        } else {
            self.is_complete = true;
        }
    }

    fn page(&self, connection: &Connection, tenant: TenantId, now_us: i64) -> Result<Vec<DueRow>> {
        let behind =
            self.behind.map_or((i64::MIN, String::new()), |at| (at.next_attempt_us, at.id.to_string()));
        let until = match self.began_behind {
            Some(at) if self.has_wrapped => (at.next_attempt_us, at.id.to_string()),
            // Behind every id.
            _ => (now_us, "~".to_owned()),
        };
        let mut statement = connection.prepare_cached(DUE_ROWS)?;
        let bounds = params![tenant, behind.0, behind.1, until.0, until.1, PAGE_ROWS as i64];
        let rows = statement.query_map(bounds, |row| {
            let at = Cursor { next_attempt_us: row.get(0)?, id: row.get(1)? };
            Ok(DueRow { at, destination: row.get(2)? })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

/// When a tenant's next delivery falls due after `now`.
fn first_after(connection: &Connection, tenant: TenantId, now_us: i64) -> Result<Option<i64>> {
    Ok(connection.prepare_cached(FIRST_AFTER)?.query_row(params![tenant, now_us], |row| row.get(0))?)
}
