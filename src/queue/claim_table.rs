//! The state of unfinished deliveries in memory: claims, the hot queue, pauses, and when each tenant may have due rows.
//!
//! A claim that ends during a pass is remembered until the end of the pass, because the pass may have read older rows. So no
//! delivery is handed out twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::batches::batches_of;
use super::claim_pass::{Admits, ClaimLimits};
use super::due_index::DueIndex;
use super::hot_queue::HotQueue;
use super::pauses::Pauses;
use crate::mail::{Host, Timestamp};
use crate::model::{DeliveryId, Environment, QueueFilter, TenantId, Weight};
use crate::policy::deficit_round_robin::DeficitRoundRobin;
use crate::store::{
    AcceptedMessage, Batch, DueCursor, DueRow, HotQueuePermit, OpenDelivery, PausedRow, SpoolChange, is_held,
};

/// If a tenant may have due rows, one part of this many of its limit is not available to fresh mail, which would otherwise
/// take all capacity before the next pass.
pub(super) const LEFT_TO_DUE: usize = 4;

/// Maximum of tenants in one round that have nothing to claim; the others come first in the next round.
const TENANTS_MAX: usize = 4096;

/// The claims of this process, and the state that decides on them.
#[derive(Default)]
pub(super) struct ClaimTable {
    claims: HashMap<DeliveryId, ClaimState>,
    /// Number of deliveries that the relay has, by tenant.
    handed_out: HashMap<TenantId, usize>,
    /// Their sum.
    handed_out_count: usize,
    pub(super) hot: HotQueue,
    /// Tenants with mail in the hot queue or, during a pass, with due rows: decides the order of claims.
    round_robin: DeficitRoundRobin<TenantId>,
    pub(super) pauses: Pauses,
    pub(super) due: DueIndex,
    /// Tenants whose due rows the current pass scans.
    in_pass: HashSet<TenantId>,
    /// Positions of unfinished scans of due rows.
    cursors: HashMap<TenantId, DueCursor>,
    /// Claims that ended since the current pass began.
    ended_in_pass: Option<HashSet<DeliveryId>>,
    /// Deliveries that this process has claimed in the database, and not here, at the last comparison.
    unclaimed_here: HashSet<DeliveryId>,
    /// Claims that ended without a result: the store must learn of them.
    pub(super) given_back: Vec<DeliveryId>,
    /// The last lease that this process has lost.
    lost_epoch: Option<i64>,
    /// Whether the last pass left deliveries because of a limit.
    pub(super) has_leftovers: bool,
}

/// A delivery that the relay has or that waits in the hot queue.
struct ClaimState {
    tenant: TenantId,
    is_handed_out: bool,
    /// The reserved memory, until the last claim of the message ends.
    _memory: Option<Arc<HotQueuePermit>>,
}

/// Which waiters a change wakes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wakes {
    /// Deliveries may be due earlier than the last pass returned.
    pub(super) work: bool,
    /// The hot queue may have mail.
    pub(super) fresh: bool,
}

/// The conditions for due rows.
pub(super) struct Choice<'a> {
    pub(super) tenant: TenantId,
    pub(super) now_us: i64,
    pub(super) admits: &'a dyn Admits,
}

/// The decision on a due row.
pub(super) enum Chosen {
    Claimed,
    /// It is claimed, or its claim ended during the pass.
    Taken,
    /// The filter does not admit it.
    Refused,
    /// Its destination is paused.
    Paused(PausedRow),
}

impl ClaimTable {
    /// Applies a committed change.
    pub(super) fn apply(&mut self, change: SpoolChange) -> Wakes {
        let mut wakes = Wakes::default();
        match change {
            SpoolChange::Accepted(accepted) => wakes = self.accept(accepted),
            SpoolChange::Due { tenant_id, at } => wakes.work = self.advance(tenant_id, at.as_microsecond()),
            SpoolChange::Recorded(recorded) => {
                wakes.work = self.has_leftovers;
                for delivery in recorded {
                    self.end_claim(delivery.delivery_id);
                    if let Some(at) = delivery.next_attempt_at {
                        wakes.work |= self.advance(delivery.tenant_id, at.as_microsecond());
                    }
                }
            }
            SpoolChange::Cancelled(ids) => self.forget(ids.into_iter()),
            SpoolChange::TenantSuspended(tenant) => self.suspend(tenant),
            SpoolChange::TenantResumed { tenant_id, at } => {
                if self.pauses.end_suspension(tenant_id, at.as_microsecond()) {
                    self.advance(tenant_id, i64::MIN);
                    wakes.work = true;
                }
            }
            SpoolChange::TenantWasResumed { tenant_id, at_us } => self.pauses.note_resumed(tenant_id, at_us),
            SpoolChange::Claimed(ids) => self.compare_claims(ids),
            SpoolChange::ClaimsLost { epoch } => {
                self.lost_epoch = Some(epoch);
                for tenant in self.hot.tenants() {
                    self.withdraw(tenant, |_, _| true);
                }
            }
            SpoolChange::TenantRemoved(tenant) => {
                self.suspend(tenant);
                self.pauses.forget_tenant(tenant);
                self.cursors.remove(&tenant);
            }
            SpoolChange::Paused { part, until_us } => {
                self.pause(&part, until_us);
                wakes.work = true;
            }
            SpoolChange::PauseLifted { part, at } => {
                self.pauses.lift(&part, at.as_microsecond());
                if let (Some(tenant), None) = (part.tenant_id, &part.destination) {
                    self.advance(tenant, i64::MIN);
                }
                wakes.work = true;
            }
        }
        wakes
    }

    /// Claims the deliveries of an accepted message for the hot queue; paused ones wait in the database.
    fn accept(&mut self, accepted: AcceptedMessage) -> Wakes {
        let AcceptedMessage { new, memory, epoch } = accepted;
        let (tenant, now_us) = (new.message.tenant_id, new.message.created_at.as_microsecond());
        if self.lost_epoch.is_some_and(|lost| epoch <= lost) {
            // The outcome of its commit was known only after the lease had ended: another node may have it.
            return Wakes { work: self.advance(tenant, now_us), fresh: false };
        }
        let of = (tenant, new.message.environment);
        let memory = Arc::new(memory);
        let mut wakes = Wakes { fresh: true, work: false };
        for mut batch in batches_of(&new) {
            if self.pauses.hold(of, &batch.destination, now_us) {
                self.given_back.extend(batch.deliveries.iter().map(|delivery| delivery.id));
                wakes.work |= self.advance(tenant, now_us);
                continue;
            }
            // A pass may have claimed the row.
            batch.deliveries.retain(|delivery| !self.is_taken(delivery.id));
            if batch.deliveries.is_empty() {
                continue;
            }
            for delivery in &batch.deliveries {
                let memory = Some(Arc::clone(&memory));
                self.claims.insert(delivery.id, ClaimState { tenant, is_handed_out: false, _memory: memory });
            }
            self.hot.push(tenant, batch);
            self.round_robin.join(tenant);
        }
        wakes
    }

    /// Gives back what this process has claimed in the database, but not here, at two comparisons: a commit that was not
    /// answered was one after all. Each other claim begins or ends within seconds in both places.
    fn compare_claims(&mut self, in_database: Vec<DeliveryId>) {
        let unclaimed: HashSet<_> =
            in_database.into_iter().filter(|id| !self.claims.contains_key(id)).collect();
        self.given_back.extend(unclaimed.intersection(&self.unclaimed_here));
        self.unclaimed_here = unclaimed;
    }

    fn suspend(&mut self, tenant: TenantId) {
        self.pauses.suspend(tenant);
        self.due.remove(tenant);
        self.withdraw(tenant, |_, _| true);
    }

    fn pause(&mut self, part: &QueueFilter, until_us: i64) {
        self.pauses.pause(part, until_us);
        match (part.tenant_id, &part.destination) {
            (Some(tenant), None) => {
                self.due.remove(tenant);
                self.withdraw(tenant, |environment, _| environment == Environment::Live);
                self.advance(tenant, until_us);
            }
            (tenant, Some(host)) => {
                let tenants = tenant.map_or_else(|| self.hot.tenants_with(host), |tenant| vec![tenant]);
                for tenant in tenants {
                    self.withdraw(tenant, |environment, of| environment == Environment::Live && of == host);
                    self.advance(tenant, i64::MIN);
                }
            }
            (None, None) => {
                for tenant in self.hot.tenants() {
                    self.withdraw(tenant, |environment, _| environment == Environment::Live);
                    self.advance(tenant, i64::MIN);
                }
            }
        }
    }

    /// Removes mail of a tenant from the hot queue; it is in the database too.
    fn withdraw(&mut self, tenant: TenantId, is_meant: impl Fn(Environment, &Host) -> bool) {
        for id in self.hot.remove(tenant, is_meant) {
            self.end_claim(id);
            self.given_back.push(id);
        }
    }

    /// Records that a tenant may have due rows from `at` on. True if that is earlier than all known times.
    pub(super) fn advance(&mut self, tenant: TenantId, at: i64) -> bool {
        let begin = self.pauses.earliest_of(tenant);
        begin.is_some_and(|begin| !is_held(at) && self.due.advance(tenant, at.max(begin)))
    }

    fn is_taken(&self, id: DeliveryId) -> bool {
        self.claims.contains_key(&id) || self.ended_in_pass.as_ref().is_some_and(|ended| ended.contains(&id))
    }

    fn end_claim(&mut self, id: DeliveryId) -> Option<TenantId> {
        let claim = self.claims.remove(&id)?;
        if claim.is_handed_out {
            self.count_returned(claim.tenant);
        }
        if let Some(ended) = &mut self.ended_in_pass {
            ended.insert(id);
        }
        Some(claim.tenant)
    }

    /// Counts a delivery that the relay has no more.
    fn count_returned(&mut self, tenant: TenantId) {
        let Some(count) = self.handed_out.get_mut(&tenant) else { return };
        *count -= 1;
        self.handed_out_count -= 1;
        if *count == 0 {
            self.handed_out.remove(&tenant);
        }
    }

    /// Takes back a delivery that the relay has not begun, and keeps it claimed. False if its claim has ended.
    pub(super) fn take_back_waiting(&mut self, id: DeliveryId) -> bool {
        let Some(claim) = self.claims.get_mut(&id).filter(|claim| claim.is_handed_out) else { return false };
        claim.is_handed_out = false;
        let tenant = claim.tenant;
        self.count_returned(tenant);
        true
    }

    /// Ends claims; the deliveries are due as before.
    pub(super) fn release(&mut self, ids: &[DeliveryId]) {
        for id in ids {
            if let Some(tenant) = self.end_claim(*id) {
                self.given_back.push(*id);
                self.advance(tenant, i64::MIN);
            }
        }
    }

    /// Ends claims of deliveries that were deleted.
    pub(super) fn forget(&mut self, ids: impl Iterator<Item = DeliveryId>) {
        for id in ids {
            self.end_claim(id);
        }
    }

    /// Hands out mail of a tenant from the hot queue.
    pub(super) fn take_hot(
        &mut self,
        tenant: TenantId,
        deliveries_max: usize,
        admits: &dyn Admits,
    ) -> Vec<Batch> {
        if deliveries_max == 0 {
            return Vec::new();
        }
        let batches = self.hot.take(tenant, deliveries_max, admits);
        for delivery in batches.iter().flat_map(|batch| &batch.deliveries) {
            if let Some(claim) = self.claims.get_mut(&delivery.id) {
                claim.is_handed_out = true;
            }
        }
        let count = batches.iter().map(|batch| batch.deliveries.len()).sum::<usize>();
        if count > 0 {
            *self.handed_out.entry(tenant).or_default() += count;
            self.handed_out_count += count;
        }
        batches
    }

    /// Claims a due row if possible.
    pub(super) fn choose(&mut self, choice: &Choice<'_>, row: DueRow) -> Chosen {
        let &Choice { tenant, now_us, admits } = choice;
        let DueRow { at, destination } = row;
        if self.is_taken(at.id) {
            return Chosen::Taken;
        }
        if let Some(until_us) = self.pauses.end_of(tenant, &destination, now_us) {
            return Chosen::Paused(PausedRow { tenant_id: tenant, destination, at, until_us });
        }
        if !admits.admits(tenant, &destination, 1) {
            return Chosen::Refused;
        }
        self.claims.insert(at.id, ClaimState { tenant, is_handed_out: true, _memory: None });
        *self.handed_out.entry(tenant).or_default() += 1;
        self.handed_out_count += 1;
        Chosen::Claimed
    }

    /// The number of further deliveries of a tenant that may be handed out.
    pub(super) fn allowance_of(&self, tenant: TenantId, limits: &ClaimLimits) -> usize {
        limits.per_tenant_max.saturating_sub(self.handed_out_of(tenant))
    }

    /// Begins a pass: returns the tenants that may have due rows, with the positions of their unfinished scans.
    pub(super) fn begin_pass(
        &mut self,
        now_us: i64,
        limits: &ClaimLimits,
    ) -> Vec<(TenantId, Option<DueCursor>)> {
        self.ended_in_pass = Some(HashSet::new());
        if self.pauses.end_of_everything(now_us).is_some() {
            return Vec::new();
        }
        let due = self.due.due(now_us).filter(|&tenant| self.allowance_of(tenant, limits) > 0);
        // More tenants than deliveries cannot be served; the others come first in the next pass.
        let due: Vec<_> = due.take(limits.deliveries_max).collect();
        due.into_iter()
            .map(|tenant| {
                self.due.remove(tenant);
                self.round_robin.join(tenant);
                self.in_pass.insert(tenant);
                (tenant, self.cursors.get(&tenant).copied())
            })
            .collect()
    }

    /// Records the position of a tenant's scan and when it may have due rows.
    pub(super) fn note_scan(&mut self, tenant: TenantId, cursor: Option<DueCursor>, next_us: Option<i64>) {
        match cursor {
            Some(cursor) => self.cursors.insert(tenant, cursor),
            None => self.cursors.remove(&tenant),
        };
        self.in_pass.remove(&tenant);
        self.rejoin(tenant);
        if let Some(at) = next_us {
            self.advance(tenant, at);
        }
    }

    /// Serves tenants by deficit round robin, at most `capacity` deliveries; returns how many were taken. `serve` returns how
    /// much of its share a tenant took, or `None` to stop; a tenant that took less than its share has no more.
    pub(super) fn serve_round_robin(
        &mut self,
        capacity: usize,
        mut serve: impl FnMut(&mut Self, TenantId, usize) -> Option<usize>,
    ) -> usize {
        let (mut capacity_left, mut resting) = (capacity, Vec::new());
        while capacity_left > 0
            && resting.len() < TENANTS_MAX
            && let Some(&tenant) = self.round_robin.first()
        {
            let share = (capacity_left / self.round_robin.len().max(1)).max(1);
            let Some(taken) = serve(self, tenant, share) else { break };
            capacity_left -= taken;
            if taken > 0 {
                self.round_robin.charge(&tenant, u32::try_from(taken).unwrap_or(u32::MAX), Weight::default());
            }
            if taken < share {
                self.round_robin.leave(&tenant);
                resting.push(tenant);
            }
        }
        for tenant in resting {
            self.rejoin(tenant);
        }
        capacity - capacity_left
    }

    /// Adds a tenant to the round robin if it may have mail to claim, else removes it.
    fn rejoin(&mut self, tenant: TenantId) {
        if self.hot.has(tenant) || self.in_pass.contains(&tenant) {
            self.round_robin.join(tenant);
        } else {
            self.round_robin.leave(&tenant);
        }
    }

    /// Ends a pass; returns when more may be due.
    pub(super) fn end_pass(&mut self, now_us: i64) -> Option<i64> {
        self.ended_in_pass = None;
        let ready = (!self.hot.is_empty()).then_some(now_us);
        let due = match self.pauses.end_of_everything(now_us) {
            Some(until_us) if is_held(until_us) => None,
            Some(until_us) => self.due.next().map(|at| at.max(until_us)),
            None => self.due.next(),
        };
        let next = [ready, due].into_iter().flatten().min();
        self.has_leftovers = next.is_some_and(|at| at <= now_us);
        next
    }

    /// Whether mail for a destination is paused, or its tenant suspended.
    pub(super) fn is_paused(&self, of: (TenantId, Environment), host: &Host, now: Timestamp) -> bool {
        self.pauses.hold(of, host, now.as_microsecond())
    }

    /// Number of claimed deliveries, including those in the hot queue.
    pub(super) fn claims(&self) -> usize {
        self.claims.len()
    }

    /// Number of deliveries that the relay has.
    pub(super) fn handed_out_count(&self) -> usize {
        self.handed_out_count
    }

    /// The deliveries that the relay has.
    pub(super) fn handed_out(&self) -> HashSet<DeliveryId> {
        if self.handed_out.is_empty() {
            return HashSet::new();
        }
        self.claims.iter().filter(|(_, claim)| claim.is_handed_out).map(|(id, _)| *id).collect()
    }

    /// Number of deliveries of a tenant that the relay has.
    pub(super) fn handed_out_of(&self, tenant: TenantId) -> usize {
        self.handed_out.get(&tenant).copied().unwrap_or(0)
    }

    /// Whether the relay has a delivery.
    pub(super) fn is_handed_out(&self, id: DeliveryId) -> bool {
        self.claims.get(&id).is_some_and(|claim| claim.is_handed_out)
    }

    /// Claims deliveries for a change of their rows, also those in the hot queue; returns the claimed ones. The relay has the
    /// others.
    pub(super) fn take_back(&mut self, tenant: TenantId, deliveries: &[OpenDelivery]) -> HashSet<DeliveryId> {
        let mut taken = HashSet::new();
        let mut waiting: HashMap<&Host, HashSet<DeliveryId>> = HashMap::new();
        for OpenDelivery { id, destination, .. } in deliveries {
            match self.claims.get(id) {
                None => {
                    let claim = ClaimState { tenant, is_handed_out: false, _memory: None };
                    self.claims.insert(*id, claim);
                    taken.insert(*id);
                }
                Some(claim) if !claim.is_handed_out => {
                    waiting.entry(destination).or_default().insert(*id);
                }
                Some(_) => {}
            }
        }
        for (host, ids) in waiting {
            taken.extend(self.hot.remove_deliveries(tenant, host, &ids));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_only_the_database_knows_is_given_back_when_it_is_found_again() {
        let mut table = ClaimTable::default();
        let [stray, ours, ending] = [(); 3].map(|()| DeliveryId::generate(Timestamp::UNIX_EPOCH));
        let tenant = TenantId::generate(Timestamp::UNIX_EPOCH);
        table.claims.insert(ours, ClaimState { tenant, is_handed_out: false, _memory: None });
        table.apply(SpoolChange::Claimed(vec![stray, ours, ending]));
        assert_eq!(table.given_back, []);
        table.apply(SpoolChange::Claimed(vec![stray, ours]));
        assert_eq!(table.given_back, [stray]);
    }
}
