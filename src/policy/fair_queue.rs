//! Shares connections fairly: work of many tenants for many destinations.
//!
//! Tenants take turns whatever their backlog, and so do the destinations of one tenant: deficit round robin
//! ([`super::deficit_round_robin`]), where work costs its number of deliveries, and the weight of a tenant is its
//! share of a round. A *lane* is the unit of a connection limit: a site, or a smart host with its login. A *slot* is
//! the right to one connection: [`FairQueue::take_turn`] grants it, [`FairQueue::keep_turn`] keeps it for more work,
//! [`FairQueue::free`] returns it. The caller passes the slot limit of a lane at each call.
//!
//! Some slots are reserved for tenants without any. Of the rest, a tenant gets another slot only while it has less
//! than three times the free ones. So one tenant alone has at most three quarters of them, and a new tenant finds a
//! free one however long others hold theirs. Likewise, a lane with many slots reserves a few for tenants without any
//! in it.

mod lane;

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

pub use self::lane::reserved_in_lane;
use self::lane::{Lane, SLOTS_PER_RESERVED, Taken, may_take_in_lane};
use super::deficit_round_robin::DeficitRoundRobin;
use super::slot_counts::SlotCounts;
use crate::model::Weight;

/// A tenant gets no more slots once it has this many times the free ones.
const SLOTS_PER_FREE: usize = 3;

/// Waiting work. `T` names a tenant, `L` a lane, `J` is a unit of work.
#[derive(Debug)]
pub struct FairQueue<T, L, J> {
    slots_max: usize,
    slots: SlotCounts<T>,
    lanes: HashMap<L, Lane<T, J>>,
    /// For each tenant the lanes with work, except those that have it parked.
    tenants: HashMap<T, DeficitRoundRobin<L>>,
    /// The tenants in `tenants`, except those in `at_share`.
    turns: DeficitRoundRobin<T>,
    /// Tenants that have their share of slots; they return to `turns` when slots become free.
    at_share: HashSet<T>,
}

/// Work for a tenant and lane.
#[derive(Debug)]
pub struct Job<T, L, J> {
    /// The tenant.
    pub tenant: T,
    /// The tenant's weight against other tenants.
    pub weight: Weight,
    /// The lane.
    pub lane: L,
    /// The number of deliveries.
    pub cost: u32,
    /// The work.
    pub work: J,
}

/// Work with the slot granted for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn<T, L, J> {
    /// The tenant that holds the slot.
    pub tenant: T,
    /// The lane.
    pub lane: L,
    /// The work.
    pub job: J,
}

impl<T: Clone + Eq + Hash, L: Clone + Eq + Hash, J> FairQueue<T, L, J> {
    /// An empty queue with this many slots.
    pub fn new(slots_max: usize) -> Self {
        Self {
            slots_max,
            slots: SlotCounts::default(),
            lanes: HashMap::new(),
            tenants: HashMap::new(),
            turns: DeficitRoundRobin::default(),
            at_share: HashSet::new(),
        }
    }

    /// Adds work after the tenant's other work for the lane.
    pub fn push(&mut self, job: Job<T, L, J>) {
        let Job { tenant, weight, lane, cost, work } = job;
        let entry = self.lanes.entry(lane.clone()).or_insert_with(Lane::new);
        if entry.push(&tenant, weight, (cost, work)) {
            self.join_rounds(tenant, lane);
        }
    }

    fn join_rounds(&mut self, tenant: T, lane: L) {
        if !self.at_share.contains(&tenant) {
            self.turns.join(tenant.clone());
        }
        self.tenants.entry(tenant).or_default().join(lane);
    }

    /// Grants a slot and returns the work whose turn it is; `None` if no slot is free for any waiting work.
    /// `slots_max_of` returns the present slot limit of a lane; work for a lane at its limit waits for
    /// [`FairQueue::free`] or [`FairQueue::reopen`].
    pub fn take_turn(&mut self, mut slots_max_of: impl FnMut(&L, usize) -> usize) -> Option<Turn<T, L, J>> {
        if self.slots_free() == 0 {
            return None;
        }
        let (tenant, lane) = self.next_turn(&mut slots_max_of)?;
        let job = self.take(&lane, &tenant)?;
        self.slots.take(tenant.clone());
        self.lanes.get_mut(&lane)?.slots.take(tenant.clone());
        Some(Turn { tenant, lane, job })
    }

    fn slots_free(&self) -> usize {
        self.slots_max.saturating_sub(self.slots.taken())
    }

    /// Whether a tenant with `has` slots may get one of the `free` ones.
    fn may_take(&self, has: usize, free: usize) -> bool {
        let reserve = (self.slots_max / SLOTS_PER_RESERVED).max(1);
        if has == 0 { free > 0 } else { has < SLOTS_PER_FREE * free.saturating_sub(reserve) }
    }

    /// Advances the rounds to a lane with work and a free slot.
    fn next_turn(&mut self, slots_max_of: &mut impl FnMut(&L, usize) -> usize) -> Option<(T, L)> {
        while let Some(tenant) = self.turns.first().cloned() {
            if !self.may_take(self.slots.of(&tenant), self.slots_free()) {
                self.turns.leave(&tenant);
                self.at_share.insert(tenant);
                continue;
            }
            let Some(lane) = self.tenants.get(&tenant).and_then(DeficitRoundRobin::first).cloned() else {
                self.turns.leave(&tenant);
                continue;
            };
            match self.lanes.get_mut(&lane) {
                Some(entry) if !entry.has_slot_for(&tenant, slots_max_of(&lane, entry.slots.taken())) => {
                    entry.parked.push(tenant.clone());
                    self.leave_round(&tenant, &lane);
                }
                Some(_) => return Some((tenant, lane)),
                None => self.leave_round(&tenant, &lane),
            }
        }
        None
    }

    /// Removes the lane from the tenant's round.
    fn leave_round(&mut self, tenant: &T, lane: &L) {
        let Some(round) = self.tenants.get_mut(tenant) else { return };
        round.leave(lane);
        if round.is_empty() {
            self.tenants.remove(tenant);
            self.turns.leave(tenant);
            self.at_share.remove(tenant);
        }
    }

    /// The next work in the lane for a slot that `holder` has in it, by turns of the lane's tenants; the slot passes
    /// to the returned tenant. `None` if no work waits in the lane, if the lane is above `slots_max`, or if other
    /// work needs the slot: then call [`FairQueue::free`].
    pub fn keep_turn(&mut self, lane: &L, holder: &T, slots_max: usize) -> Option<(T, J)> {
        let (held, free) = (self.slots.of(holder), self.slots_free());
        let entry = self.lanes.get(lane)?;
        // Counted as if the slot were free.
        let needed = if free == 0 {
            self.other_lane_waits(lane)
        } else {
            !self.may_take(held.saturating_sub(1), free + 1) && self.other_tenant_waits(holder)
        };
        let in_lane = entry.slots.taken().saturating_sub(1);
        if needed || in_lane >= slots_max {
            return None;
        }
        let entitled = |tenant: &&T| {
            let of_lane = entry.slots.of(tenant).saturating_sub(usize::from(*tenant == holder));
            may_take_in_lane(of_lane, slots_max - in_lane, slots_max)
                && (*tenant == holder || self.may_take(self.slots.of(tenant), free + 1))
        };
        let tenant = entry.turns.in_order().find(entitled)?.clone();
        let job = self.take(lane, &tenant)?;
        if tenant != *holder {
            if let Some(entry) = self.lanes.get_mut(lane) {
                entry.slots.release(holder);
                entry.slots.take(tenant.clone());
            }
            self.slots.release(holder);
            self.slots.take(tenant.clone());
            self.resume_tenants();
        }
        Some((tenant, job))
    }

    /// Whether another tenant has work.
    fn other_tenant_waits(&self, holder: &T) -> bool {
        self.tenants.keys().any(|tenant| tenant != holder)
    }

    /// Returns tenants to the round that may have another slot.
    fn resume_tenants(&mut self) {
        let free = self.slots_free();
        let woken: Vec<T> = self
            .at_share
            .iter()
            .filter(|tenant| self.may_take(self.slots.of(tenant), free))
            .cloned()
            .collect();
        for tenant in woken {
            self.at_share.remove(&tenant);
            self.turns.join(tenant);
        }
    }

    /// Whether another lane has work. That lane may be full; then the slot is given back once without use.
    fn other_lane_waits(&self, lane: &L) -> bool {
        self.tenants.values().any(|round| round.in_order().any(|other| other != lane))
    }

    /// Removes the tenant's first work from the lane and charges both accounts.
    fn take(&mut self, lane: &L, tenant: &T) -> Option<J> {
        let entry = self.lanes.get_mut(lane)?;
        let Taken { cost, weight, job, is_last } = entry.pop(tenant)?;
        self.turns.charge(tenant, cost, weight);
        if let Some(round) = self.tenants.get_mut(tenant) {
            round.charge(lane, cost, Weight::default());
        }
        if is_last {
            self.leave_round(tenant, lane);
        }
        Some(job)
    }

    /// Returns a slot that the tenant holds in the lane.
    pub fn free(&mut self, lane: &L, holder: &T) {
        let Some(entry) = self.lanes.get_mut(lane) else { return };
        entry.slots.release(holder);
        self.slots.release(holder);
        self.resume_tenants();
        self.reopen(lane);
        self.forget_if_unused(lane);
    }

    /// Call when the slot limit of a lane may have grown.
    pub fn reopen(&mut self, lane: &L) {
        let Some(entry) = self.lanes.get_mut(lane) else { return };
        for tenant in std::mem::take(&mut entry.parked) {
            self.join_rounds(tenant, lane.clone());
        }
    }

    fn forget_if_unused(&mut self, lane: &L) {
        if self.lanes.get(lane).is_some_and(Lane::is_unused) {
            self.lanes.remove(lane);
        }
    }

    /// Waiting deliveries of a lane: in total, and of the tenant.
    pub fn waiting(&self, lane: &L, tenant: &T) -> (usize, usize) {
        let Some(entry) = self.lanes.get(lane) else { return (0, 0) };
        (entry.waiting(), entry.waiting_of(tenant))
    }

    /// Slots that a tenant holds in a lane.
    pub fn slots_of(&self, lane: &L, tenant: &T) -> usize {
        self.lanes.get(lane).map_or(0, |entry| entry.slots.of(tenant))
    }

    /// Slots in use in a lane.
    pub fn slots_taken(&self, lane: &L) -> usize {
        self.lanes.get(lane).map_or(0, |entry| entry.slots.taken())
    }

    /// Every lane with slots in use or work, with its slots and waiting deliveries.
    pub fn lanes(&self) -> impl Iterator<Item = (&L, usize, usize)> {
        self.lanes.iter().map(|(lane, entry)| (lane, entry.slots.taken(), entry.waiting()))
    }

    /// Removes all work of a lane; its slots stay in use.
    pub fn evict(&mut self, lane: &L) -> Vec<J> {
        let Some(entry) = self.lanes.get_mut(lane) else { return Vec::new() };
        let (tenants, jobs) = entry.drain();
        for tenant in tenants {
            self.leave_round(&tenant, lane);
        }
        self.forget_if_unused(lane);
        jobs
    }

    /// Removes all work; slots stay in use.
    pub fn drain(&mut self) -> Vec<J> {
        let lanes: Vec<L> = self.lanes.keys().cloned().collect();
        lanes.iter().flat_map(|lane| self.evict(lane)).collect()
    }
}

#[cfg(test)]
#[path = "fair_queue_tests.rs"]
mod tests;
