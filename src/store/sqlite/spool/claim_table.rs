//! What is known of the spool in memory only: which deliveries are claimed, which fresh messages wait for the
//! relay with their bytes, and when there may be work in the database.
//!
//! A delivery is claimed before the commit that shows it to readers, and a claim that ends while a pass
//! reads is remembered until the pass is over. So no row that a pass sees can be handed out twice.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use tokio::sync::{Notify, OwnedMutexGuard};

use super::claim::Pass;
use super::due_index::DueIndex;
use super::hot_queue::HotQueue;
use super::pauses::{PARKED_US, Pauses};
use crate::mail::{Host, Timestamp};
use crate::model::{DeliveryId, QueueFilter, TenantId, TenantStatus};
use crate::store::sqlite::lock;
use crate::store::sqlite::queue::pauses;
use crate::store::{Admits, Batch, ClaimRoom, Message, NewMessage};

/// What a recipient takes in memory beside the content: its claim, its delivery and its place in a queue.
const RECIPIENT_OCTETS: usize = 1024;

/// Such a part of what a tenant may have handed out is not for fresh mail where the database may have something due:
/// fresh mail comes at any time and would take whatever comes free before the next pass.
const LEFT_TO_DUE: usize = 4;

pub(in crate::store::sqlite) struct ClaimTable {
    state: Mutex<State>,
    work: Notify,
    fresh: Notify,
    /// Held during a pass.
    pass: Arc<tokio::sync::Mutex<()>>,
    handover_octets_max: u64,
}

#[derive(Default)]
struct State {
    claims: HashMap<DeliveryId, Claim>,
    /// Deliveries that the relay has, for each tenant that has any.
    handed_out: HashMap<TenantId, usize>,
    ready: HotQueue,
    /// Octets behind claims.
    held_octets: u64,
    holds: Pauses,
    agenda: DueIndex,
    /// How far the scan of a tenant's due rows has come, where it did not reach the end.
    cursors: HashMap<TenantId, Cursor>,
    /// Claims that ended since the running pass began.
    ended_in_pass: Option<HashSet<DeliveryId>>,
    /// Whether the last pass left something behind only for lack of room.
    has_leftovers: bool,
}

/// A delivery that is the relay's, or waits for it in memory.
struct Claim {
    tenant: TenantId,
    is_handed_out: bool,
    /// What stays in memory until the last claim of its message ends.
    held: Option<Arc<HeldOctets>>,
}

struct HeldOctets(u64);

/// A place among a tenant's due rows: behind this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store::sqlite) struct Cursor {
    pub(in crate::store::sqlite) next_attempt_us: i64,
    pub(in crate::store::sqlite) id: DeliveryId,
}

/// A due row, as far as the choice needs it.
pub(super) struct DueRow {
    pub(super) at: Cursor,
    pub(super) destination: Host,
}

/// What became of a page of due rows.
#[derive(Default)]
pub(super) struct Choice {
    pub(super) claimed: Vec<DeliveryId>,
    /// The last row that was looked at.
    pub(super) last: Option<Cursor>,
    /// Whether a row was passed over because it may not be claimed now.
    pub(super) skipped: bool,
    /// Rows that are to be set aside because their destination is paused.
    pub(super) parked: Vec<Parked>,
}

/// A due row whose next try is put off to the end of a pause.
pub(in crate::store::sqlite) struct Parked {
    pub(in crate::store::sqlite) tenant: TenantId,
    pub(in crate::store::sqlite) at: Cursor,
    pub(in crate::store::sqlite) until_us: i64,
}

/// What a pass may choose of a page.
pub(super) struct Wanted<'a> {
    pub(super) tenant: TenantId,
    pub(super) now_us: i64,
    pub(super) deliveries_max: usize,
    pub(super) admits: &'a dyn Admits,
}

impl State {
    fn end_claim(&mut self, id: DeliveryId) -> Option<TenantId> {
        let claim = self.claims.remove(&id)?;
        if let Some(octets) = claim.held.and_then(Arc::into_inner) {
            self.held_octets -= octets.0;
        }
        if claim.is_handed_out
            && let Some(count) = self.handed_out.get_mut(&claim.tenant)
        {
            *count -= 1;
            if *count == 0 {
                self.handed_out.remove(&claim.tenant);
            }
        }
        if let Some(ended) = &mut self.ended_in_pass {
            ended.insert(id);
        }
        Some(claim.tenant)
    }

    fn advance(&mut self, tenant: TenantId, at: i64) -> bool {
        let begin = self.holds.begin_of(tenant);
        begin.is_some_and(|begin| at != PARKED_US && self.agenda.advance(tenant, at.max(begin)))
    }

    /// Hands out what a tenant has ready.
    fn take_ready(&mut self, tenant: TenantId, deliveries_max: usize, admits: &dyn Admits) -> Vec<Batch> {
        let batches = self.ready.take(tenant, deliveries_max, admits);
        for delivery in batches.iter().flat_map(|batch| &batch.deliveries) {
            if let Some(claim) = self.claims.get_mut(&delivery.id) {
                claim.is_handed_out = true;
            }
        }
        let count = batches.iter().map(|batch| batch.deliveries.len()).sum::<usize>();
        if count > 0 {
            *self.handed_out.entry(tenant).or_default() += count;
        }
        batches
    }

    /// Takes a tenant's fresh messages, all or those for a destination, back to the database.
    fn withdraw(&mut self, tenant: TenantId, destination: Option<&Host>) {
        let withdrawn = match destination {
            Some(host) => self.ready.remove_destination(tenant, host),
            None => self.ready.remove(tenant),
        };
        for id in withdrawn {
            self.end_claim(id);
        }
    }
}

impl ClaimTable {
    /// Learns from the database who is suspended and who has work.
    pub(in crate::store::sqlite) fn open(
        connection: &Connection,
        handover_octets_max: u64,
    ) -> rusqlite::Result<Self> {
        let mut state = State::default();
        let mut tenants = connection.prepare(
            "SELECT id, status, resumed_us FROM tenant WHERE status = ?1 OR resumed_us IS NOT NULL",
        )?;
        let mut rows = tenants.query([TenantStatus::Suspended])?;
        while let Some(row) = rows.next()? {
            let tenant = row.get(0)?;
            if row.get::<_, TenantStatus>(1)? == TenantStatus::Suspended {
                state.holds.suspend(tenant);
            }
            if let Some(at) = row.get(2)? {
                state.holds.note_resumed(tenant, at);
            }
        }
        for (part, until_us) in pauses::read_unlifted(connection)? {
            state.holds.hold(&part, until_us);
        }
        for tenant in tenants_waiting(connection)? {
            state.advance(tenant, i64::MIN);
        }
        Ok(Self {
            state: Mutex::new(state),
            work: Notify::new(),
            fresh: Notify::new(),
            pass: Arc::default(),
            handover_octets_max,
        })
    }

    pub(super) async fn wait_for_fresh(&self) {
        self.fresh.notified().await;
    }

    pub(super) async fn wait_for_work(&self) {
        self.work.notified().await;
    }

    /// Deliveries that are claimed, whether the relay has them or not.
    pub(super) fn claims(&self) -> usize {
        lock(&self.state).claims.len()
    }

    /// Claims the deliveries of a message that is about to be committed, if its content may stay in memory.
    pub(super) fn claim_fresh(&self, new: &NewMessage) -> bool {
        let tenant = new.message.tenant_id;
        let octets = octets_of(new);
        let mut state = lock(&self.state);
        let now_us = new.message.created_at.as_microsecond();
        if state.holds.holds_tenant(tenant, now_us) || state.held_octets + octets > self.handover_octets_max {
            return false;
        }
        state.held_octets += octets;
        let held = Arc::new(HeldOctets(octets));
        for (id, _) in &new.recipients {
            let claim = Claim { tenant, is_handed_out: false, held: Some(Arc::clone(&held)) };
            state.claims.insert(*id, claim);
        }
        true
    }

    /// Lines up a committed message whose deliveries were claimed before; what is held waits in the database.
    pub(super) fn make_ready(&self, message: &Message, batches: Vec<Batch>) {
        let (tenant, now_us) = (message.tenant_id, message.created_at.as_microsecond());
        let mut state = lock(&self.state);
        let is_tenant_held = state.holds.holds_tenant(tenant, now_us);
        let mut is_left_to_database = false;
        for batch in batches {
            if is_tenant_held || state.holds.end_at(tenant, &batch.destination, now_us).is_some() {
                for delivery in &batch.deliveries {
                    state.end_claim(delivery.id);
                }
                is_left_to_database |= state.advance(tenant, now_us);
            } else {
                state.ready.push(tenant, batch);
            }
        }
        drop(state);
        self.fresh.notify_one();
        if is_left_to_database {
            self.work.notify_one();
        }
    }

    /// Hands out what is ready, evenly. A pass that runs meanwhile takes these for claimed, as they are.
    pub(super) fn hand_out_ready(&self, room: &ClaimRoom) -> Vec<Batch> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let tenants = state.ready.next_tenants(room.deliveries_max);
        let share = room.deliveries_max / tenants.len().max(1);
        let mut batches = Vec::new();
        for tenant in tenants {
            let left_to_due = if state.agenda.has(tenant) { room.per_tenant_max / LEFT_TO_DUE } else { 0 };
            let wanted = share.min(allowance_of(state, tenant, room).saturating_sub(left_to_due));
            batches.extend(state.take_ready(tenant, wanted, &*room.admits));
        }
        let has_leftovers = !state.ready.is_empty();
        state.has_leftovers |= has_leftovers;
        drop(guard);
        if has_leftovers {
            // A pass tries again, for nobody tells when what is not admitted now will be.
            self.work.notify_one();
        }
        batches
    }

    /// Claims of deliveries that are not in the database are void.
    pub(in crate::store::sqlite) fn forget(&self, ids: impl Iterator<Item = DeliveryId>) {
        let mut state = lock(&self.state);
        for id in ids {
            state.end_claim(id);
        }
    }

    /// The database has work of a tenant from `at` on.
    pub(in crate::store::sqlite) fn note_due(&self, tenant: TenantId, at: Timestamp) {
        let is_first = lock(&self.state).advance(tenant, at.as_microsecond());
        if is_first {
            self.work.notify_one();
        }
    }

    /// Ends claims whose outcome is in the database: with the time of the next attempt if there is one.
    pub(super) fn end(&self, ended: impl Iterator<Item = (DeliveryId, TenantId, Option<i64>)>) {
        let mut state = lock(&self.state);
        let mut wakes = state.has_leftovers;
        for (id, tenant, next_attempt_us) in ended {
            state.end_claim(id);
            if let Some(at) = next_attempt_us {
                wakes |= state.advance(tenant, at);
            }
        }
        drop(state);
        if wakes {
            self.work.notify_one();
        }
    }

    /// Ends claims whose deliveries are due as they were.
    pub(in crate::store::sqlite) fn release(&self, ids: &[DeliveryId]) {
        let mut state = lock(&self.state);
        for id in ids {
            if let Some(tenant) = state.end_claim(*id) {
                state.advance(tenant, i64::MIN);
            }
        }
        drop(state);
        self.work.notify_one();
    }

    /// Nothing of the tenant is handed out until it is resumed.
    pub(in crate::store::sqlite) fn suspend(&self, tenant: TenantId) {
        let mut state = lock(&self.state);
        state.holds.suspend(tenant);
        state.agenda.remove(tenant);
        state.withdraw(tenant, None);
    }

    /// What the tenant has in the database may be claimed again.
    pub(in crate::store::sqlite) fn resume(&self, tenant: TenantId, now: Timestamp) {
        let mut state = lock(&self.state);
        if state.holds.end_suspension(tenant, now.as_microsecond()) {
            state.advance(tenant, i64::MIN);
            drop(state);
            self.work.notify_one();
        }
    }

    /// The tenant is gone. Claims that the relay has end with their records.
    pub(in crate::store::sqlite) fn forget_tenant(&self, tenant: TenantId) {
        self.suspend(tenant);
        let mut state = lock(&self.state);
        state.holds.forget_tenant(tenant);
        state.cursors.remove(&tenant);
    }

    /// Nothing of the part is handed out before a time.
    pub(in crate::store::sqlite) fn hold(&self, part: &QueueFilter, until_us: i64) {
        let mut state = lock(&self.state);
        state.holds.hold(part, until_us);
        match (part.tenant_id, &part.destination) {
            (Some(tenant), None) => {
                state.agenda.remove(tenant);
                state.withdraw(tenant, None);
                state.advance(tenant, until_us);
            }
            (tenant, Some(host)) => {
                let tenants = tenant.map_or_else(|| state.ready.tenants_with(host), |tenant| vec![tenant]);
                for tenant in tenants {
                    state.withdraw(tenant, Some(host));
                    state.advance(tenant, i64::MIN);
                }
            }
            (None, None) => {}
        }
        drop(state);
        self.work.notify_one();
    }

    /// The pause of the part is over. What was set aside is not due by that yet.
    pub(in crate::store::sqlite) fn lift(&self, part: &QueueFilter, now: Timestamp) {
        let mut state = lock(&self.state);
        state.holds.lift(part, now.as_microsecond());
        if let (Some(tenant), None) = (part.tenant_id, &part.destination) {
            state.advance(tenant, i64::MIN);
        }
        drop(state);
        self.work.notify_one();
    }

    /// Whether a tenant's mail for a destination is held.
    pub(in crate::store::sqlite) fn is_paused(&self, tenant: TenantId, host: &Host, now: Timestamp) -> bool {
        let state = lock(&self.state);
        let now_us = now.as_microsecond();
        state.holds.end_at(tenant, host, now_us).is_some() || state.holds.holds_tenant(tenant, now_us)
    }

    /// Waits until the pass that runs, if any, has set aside what it found: the next one knows of earlier changes.
    pub(in crate::store::sqlite) async fn wait_for_pass(&self) {
        drop(self.pass.lock().await);
    }

    /// The deliveries that the relay has.
    pub(in crate::store::sqlite) fn handed_out(&self) -> HashSet<DeliveryId> {
        let state = lock(&self.state);
        let mut ids = HashSet::with_capacity(state.handed_out.values().sum());
        if state.handed_out.is_empty() {
            return ids;
        }
        ids.extend(state.claims.iter().filter(|(_, claim)| claim.is_handed_out).map(|(id, _)| *id));
        ids
    }

    /// Which of these deliveries the relay has.
    pub(in crate::store::sqlite) fn handed_out_of(&self, ids: &[DeliveryId]) -> HashSet<DeliveryId> {
        let state = lock(&self.state);
        let is_handed_out = |id: &DeliveryId| state.claims.get(id).is_some_and(|claim| claim.is_handed_out);
        ids.iter().copied().filter(is_handed_out).collect()
    }

    /// Claims deliveries for a change of their rows, those that wait in memory too; answers which. The relay has the
    /// others, or is about to. The claims end with [`ClaimTable::end`] or [`ClaimTable::release`].
    pub(in crate::store::sqlite) fn take_back(
        &self,
        tenant: TenantId,
        deliveries: &[(DeliveryId, Host)],
    ) -> HashSet<DeliveryId> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let mut taken = HashSet::new();
        let mut waiting: HashMap<&Host, HashSet<DeliveryId>> = HashMap::new();
        for (id, host) in deliveries {
            match state.claims.get(id) {
                None => {
                    let claim = Claim { tenant, is_handed_out: false, held: None };
                    state.claims.insert(*id, claim);
                    taken.insert(*id);
                }
                Some(claim) if !claim.is_handed_out => {
                    waiting.entry(host).or_default().insert(*id);
                }
                Some(_) => {}
            }
        }
        for (host, ids) in waiting {
            taken.extend(state.ready.remove_deliveries(tenant, host, &ids));
        }
        taken
    }
}

/// What a pass does with the memory; one pass runs at a time.
impl ClaimTable {
    /// Waits for the pass before, then plans this one.
    pub(super) async fn begin_pass(memory: &Arc<Self>, now: Timestamp, room: &ClaimRoom) -> Pass {
        let turn = Arc::clone(&memory.pass).lock_owned().await;
        memory.plan(Arc::clone(memory), turn, now, room)
    }

    fn plan(&self, memory: Arc<Self>, turn: OwnedMutexGuard<()>, now: Timestamp, room: &ClaimRoom) -> Pass {
        let now_us = now.as_microsecond();
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.ended_in_pass = Some(HashSet::new());
        let mut pass = Pass::new(memory, turn, now_us, room);
        // More tenants than deliveries cannot be served; the others are first the next time.
        for tenant in state.ready.next_tenants(room.deliveries_max) {
            let allowance = allowance_of(state, tenant, room);
            if allowance > 0 {
                pass.add_ready(tenant, allowance);
            }
        }
        let due: Vec<_> = state
            .agenda
            .due(now_us)
            .map(|tenant| (tenant, allowance_of(state, tenant, room)))
            .filter(|&(_, allowance)| allowance > 0)
            .take(room.deliveries_max)
            .collect();
        for (tenant, allowance) in due {
            state.agenda.remove(tenant);
            pass.add_due(tenant, allowance, state.cursors.get(&tenant).copied());
        }
        pass
    }

    /// Hands out what a tenant has ready.
    pub(super) fn take_ready(
        &self,
        tenant: TenantId,
        deliveries_max: usize,
        admits: &dyn Admits,
    ) -> Vec<Batch> {
        lock(&self.state).take_ready(tenant, deliveries_max, admits)
    }

    /// Claims of a page of due rows those that are free, until there are enough.
    pub(super) fn choose(&self, wanted: &Wanted<'_>, rows: Vec<DueRow>) -> Choice {
        let &Wanted { tenant, now_us, deliveries_max, admits } = wanted;
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let mut choice = Choice::default();
        for row in rows {
            if choice.claimed.len() == deliveries_max {
                break;
            }
            choice.last = Some(row.at);
            let id = row.at.id;
            let has_ended = state.ended_in_pass.as_ref().is_some_and(|ended| ended.contains(&id));
            if has_ended || state.claims.contains_key(&id) {
                continue;
            }
            if let Some(until_us) = state.holds.end_at(tenant, &row.destination, now_us) {
                choice.parked.push(Parked { tenant, at: row.at, until_us });
                continue;
            }
            if !admits.admits(tenant, &row.destination, 1) {
                choice.skipped = true;
                continue;
            }
            state.claims.insert(id, Claim { tenant, is_handed_out: true, held: None });
            choice.claimed.push(id);
        }
        if !choice.claimed.is_empty() {
            *state.handed_out.entry(tenant).or_default() += choice.claimed.len();
        }
        choice
    }

    /// When what fell due at `due_us` could first be handed out.
    pub(super) fn effective_due(&self, tenant: TenantId, due_us: i64) -> i64 {
        lock(&self.state).holds.effective_due(tenant, due_us)
    }

    /// Where the scan of a tenant stands and when there may be more.
    pub(super) fn note_scan(&self, tenant: TenantId, cursor: Option<Cursor>, next_us: Option<i64>) {
        let mut state = lock(&self.state);
        match cursor {
            Some(cursor) => state.cursors.insert(tenant, cursor),
            None => state.cursors.remove(&tenant),
        };
        if let Some(at) = next_us {
            state.advance(tenant, at);
        }
    }

    /// The pass is over; answers when there will be more.
    pub(super) fn end_pass(&self, now_us: i64) -> Option<i64> {
        let mut state = lock(&self.state);
        state.ended_in_pass = None;
        let ready = (!state.ready.is_empty()).then_some(now_us);
        let next = [ready, state.agenda.next()].into_iter().flatten().min();
        state.has_leftovers = next.is_some_and(|at| at <= now_us);
        next
    }
}

/// What a message takes in memory until the relay is done with it.
fn octets_of(new: &NewMessage) -> u64 {
    let noted = new.message.annotations.metadata.as_json().map_or(0, str::len);
    (new.content.len() + noted + new.recipients.len() * RECIPIENT_OCTETS) as u64
}

/// Who has open deliveries in the database.
pub(in crate::store::sqlite) fn tenants_waiting(connection: &Connection) -> rusqlite::Result<Vec<TenantId>> {
    // From one tenant's first due row to the next's, however many rows each has.
    let mut waiting = connection.prepare_cached(
        "WITH RECURSIVE waiting (tenant_id) AS (
             SELECT min(tenant_id) FROM delivery WHERE next_attempt_us IS NOT NULL
             UNION ALL
             SELECT (SELECT min(tenant_id) FROM delivery
                     WHERE next_attempt_us IS NOT NULL AND tenant_id > waiting.tenant_id)
             FROM waiting WHERE waiting.tenant_id IS NOT NULL)
         SELECT tenant_id FROM waiting WHERE tenant_id IS NOT NULL",
    )?;
    waiting.query_map([], |row| row.get(0))?.collect()
}

/// How many deliveries of a tenant may still be handed out.
fn allowance_of(state: &State, tenant: TenantId, room: &ClaimRoom) -> usize {
    let handed_out = state.handed_out.get(&tenant).copied().unwrap_or(0);
    room.per_tenant_max.saturating_sub(handed_out)
}
