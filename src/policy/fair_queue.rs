//! Shares connections fairly: work of many tenants for many destinations.
//!
//! Tenants are served in rounds, independently of their backlogs, and so are the destinations of one tenant: deficit
//! round robin ([`super::deficit_round_robin`]). Work costs its number of deliveries, and the weight of a tenant is its
//! share of a round. A *destination queue* is the unit of a connection limit: a site, or a smart host with its login. A
//! *slot* is the right to one connection: [`FairQueue::grant_slot`] grants it, [`FairQueue::reuse_slot`] keeps it for
//! more work, [`FairQueue::free`] returns it. The caller passes the slot limit of a queue at each call.
//!
//! Some slots are reserved for tenants without any. Of the rest, a tenant gets another slot only while it has less than
//! three times the free ones. So one tenant alone has at most three quarters of them, and a new tenant finds a free one
//! even if the others keep theirs for long. Likewise, a queue with many slots reserves a few for tenants without any in
//! it.

mod destination_queue;

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

pub use self::destination_queue::reserved_in_queue;
use self::destination_queue::{DestinationQueue, SLOTS_PER_RESERVED, TakenJob, may_take_in_queue};
use super::deficit_round_robin::DeficitRoundRobin;
use super::slot_counts::SlotCounts;
use crate::model::Weight;

/// A tenant gets no more slots once it has this many times the free ones.
const SLOTS_PER_FREE: usize = 3;

/// Waiting work. `T` names a tenant, `K` a destination queue, `J` is a unit of work.
#[derive(Debug)]
pub struct FairQueue<T, K, J> {
    slots_max: usize,
    slots: SlotCounts<T>,
    queues: HashMap<K, DestinationQueue<T, J>>,
    /// For each tenant the queues with work, except those in which the tenant is `blocked`.
    tenants: HashMap<T, DeficitRoundRobin<K>>,
    /// The tenants in `tenants`, except those in `at_share`.
    round_robin: DeficitRoundRobin<T>,
    /// Tenants that have their share of slots; they return to `round_robin` when slots become free.
    at_share: HashSet<T>,
}

/// Work of a tenant for a destination queue.
#[derive(Debug)]
pub struct Job<T, K, J> {
    /// The tenant.
    pub tenant: T,
    /// The tenant's weight against other tenants.
    pub weight: Weight,
    /// The destination queue.
    pub key: K,
    /// The number of deliveries.
    pub cost: u32,
    /// The work.
    pub work: J,
}

/// Work with the slot granted for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant<T, K, J> {
    /// The tenant that holds the slot.
    pub tenant: T,
    /// The destination queue.
    pub key: K,
    /// The work.
    pub job: J,
}

impl<T: Clone + Eq + Hash, K: Clone + Eq + Hash, J> FairQueue<T, K, J> {
    /// An empty queue with this many slots.
    pub fn new(slots_max: usize) -> Self {
        Self {
            slots_max,
            slots: SlotCounts::default(),
            queues: HashMap::new(),
            tenants: HashMap::new(),
            round_robin: DeficitRoundRobin::default(),
            at_share: HashSet::new(),
        }
    }

    /// Adds work after the tenant's other work for the queue.
    pub fn push(&mut self, job: Job<T, K, J>) {
        let Job { tenant, weight, key, cost, work } = job;
        let queue = self.queues.entry(key.clone()).or_insert_with(DestinationQueue::new);
        if queue.push(&tenant, weight, (cost, work)) {
            self.join_rounds(tenant, key);
        }
    }

    fn join_rounds(&mut self, tenant: T, key: K) {
        if !self.at_share.contains(&tenant) {
            self.round_robin.join(tenant.clone());
        }
        self.tenants.entry(tenant).or_default().join(key);
    }

    /// Grants a slot for the next work and returns both; `None` if no slot is free for any waiting work.
    /// `slots_max_of` returns the present slot limit of a queue; work for a queue at its limit waits for
    /// [`FairQueue::free`] or [`FairQueue::reopen`].
    pub fn grant_slot(&mut self, mut slots_max_of: impl FnMut(&K, usize) -> usize) -> Option<Grant<T, K, J>> {
        if self.slots_free() == 0 {
            return None;
        }
        let (tenant, key) = self.next_candidate(&mut slots_max_of)?;
        let job = self.take(&key, &tenant)?;
        self.slots.take(tenant.clone());
        self.queues.get_mut(&key)?.slots.take(tenant.clone());
        Some(Grant { tenant, key, job })
    }

    fn slots_free(&self) -> usize {
        self.slots_max.saturating_sub(self.slots.taken())
    }

    /// Whether a tenant with `has` slots may get one of the `free` ones.
    fn may_take(&self, has: usize, free: usize) -> bool {
        let reserve = (self.slots_max / SLOTS_PER_RESERVED).max(1);
        if has == 0 { free > 0 } else { has < SLOTS_PER_FREE * free.saturating_sub(reserve) }
    }

    /// Advances the rounds to a queue with work and a free slot.
    fn next_candidate(&mut self, slots_max_of: &mut impl FnMut(&K, usize) -> usize) -> Option<(T, K)> {
        while let Some(tenant) = self.round_robin.first().cloned() {
            if !self.may_take(self.slots.of(&tenant), self.slots_free()) {
                self.round_robin.leave(&tenant);
                self.at_share.insert(tenant);
                continue;
            }
            let Some(key) = self.tenants.get(&tenant).and_then(DeficitRoundRobin::first).cloned() else {
                self.round_robin.leave(&tenant);
                continue;
            };
            match self.queues.get_mut(&key) {
                Some(queue) if !queue.has_slot_for(&tenant, slots_max_of(&key, queue.slots.taken())) => {
                    queue.blocked.push(tenant.clone());
                    self.leave_round(&tenant, &key);
                }
                Some(_) => return Some((tenant, key)),
                None => self.leave_round(&tenant, &key),
            }
        }
        None
    }

    /// Removes the queue from the tenant's round.
    fn leave_round(&mut self, tenant: &T, key: &K) {
        let Some(round) = self.tenants.get_mut(tenant) else { return };
        round.leave(key);
        if round.is_empty() {
            self.tenants.remove(tenant);
            self.round_robin.leave(tenant);
            self.at_share.remove(tenant);
        }
    }

    /// The next work of the queue for a slot that `holder` has in it, in the rounds of the tenants of the queue. The
    /// slot passes to the returned tenant. `None` if no work waits in the queue, if the queue is above `slots_max`, or
    /// if other work needs the slot: then call [`FairQueue::free`].
    pub fn reuse_slot(&mut self, key: &K, holder: &T, slots_max: usize) -> Option<(T, J)> {
        let (held, free) = (self.slots.of(holder), self.slots_free());
        let queue = self.queues.get(key)?;
        // Counted as if the slot were free.
        let needed = if free == 0 {
            self.other_queue_waits(key)
        } else {
            !self.may_take(held.saturating_sub(1), free + 1) && self.other_tenant_waits(holder)
        };
        let in_queue = queue.slots.taken().saturating_sub(1);
        if needed || in_queue >= slots_max {
            return None;
        }
        let entitled = |tenant: &&T| {
            let of_queue = queue.slots.of(tenant).saturating_sub(usize::from(*tenant == holder));
            may_take_in_queue(of_queue, slots_max - in_queue, slots_max)
                && (*tenant == holder || self.may_take(self.slots.of(tenant), free + 1))
        };
        let tenant = queue.round_robin.in_order().find(entitled)?.clone();
        let job = self.take(key, &tenant)?;
        if tenant != *holder {
            if let Some(queue) = self.queues.get_mut(key) {
                queue.slots.release(holder);
                queue.slots.take(tenant.clone());
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

    /// Returns the tenants that may get another slot to the round.
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
            self.round_robin.join(tenant);
        }
    }

    /// Whether another queue has work. If that queue is full, the slot is returned once without use.
    fn other_queue_waits(&self, key: &K) -> bool {
        self.tenants.values().any(|round| round.in_order().any(|other| other != key))
    }

    /// Removes the tenant's first work from the queue and charges both accounts.
    fn take(&mut self, key: &K, tenant: &T) -> Option<J> {
        let queue = self.queues.get_mut(key)?;
        let TakenJob { cost, weight, job, is_last } = queue.pop(tenant)?;
        self.round_robin.charge(tenant, cost, weight);
        if let Some(round) = self.tenants.get_mut(tenant) {
            round.charge(key, cost, Weight::default());
        }
        if is_last {
            self.leave_round(tenant, key);
        }
        Some(job)
    }

    /// Returns a slot that the tenant holds in the queue.
    pub fn free(&mut self, key: &K, holder: &T) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        queue.slots.release(holder);
        self.slots.release(holder);
        self.resume_tenants();
        self.reopen(key);
        self.forget_if_unused(key);
    }

    /// Call when the slot limit of a queue may have grown.
    pub fn reopen(&mut self, key: &K) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        for tenant in std::mem::take(&mut queue.blocked) {
            self.join_rounds(tenant, key.clone());
        }
    }

    fn forget_if_unused(&mut self, key: &K) {
        if self.queues.get(key).is_some_and(DestinationQueue::is_unused) {
            self.queues.remove(key);
        }
    }

    /// Waiting deliveries of a queue: in total, and of the tenant.
    pub fn waiting(&self, key: &K, tenant: &T) -> (usize, usize) {
        let Some(queue) = self.queues.get(key) else { return (0, 0) };
        (queue.waiting(), queue.waiting_of(tenant))
    }

    /// Slots that a tenant holds in a queue.
    pub fn slots_of(&self, key: &K, tenant: &T) -> usize {
        self.queues.get(key).map_or(0, |queue| queue.slots.of(tenant))
    }

    /// Slots in use in a queue.
    pub fn slots_taken(&self, key: &K) -> usize {
        self.queues.get(key).map_or(0, |queue| queue.slots.taken())
    }

    /// Every queue with slots in use or work, with its slots and waiting deliveries.
    pub fn queues(&self) -> impl Iterator<Item = (&K, usize, usize)> {
        self.queues.iter().map(|(key, queue)| (key, queue.slots.taken(), queue.waiting()))
    }

    /// Removes the work of a tenant that is meant, in all queues; slots stay in use.
    pub fn extract_if(&mut self, tenant: &T, is_meant: impl Fn(&J) -> bool) -> Vec<J> {
        let (mut extracted, mut left) = (Vec::new(), Vec::new());
        for (key, queue) in &mut self.queues {
            let (jobs, is_last) = queue.extract_if(tenant, &is_meant);
            extracted.extend(jobs);
            if is_last {
                left.push(key.clone());
            }
        }
        for key in left {
            self.leave_round(tenant, &key);
            self.forget_if_unused(&key);
        }
        extracted
    }

    /// Removes all work of a queue; its slots stay in use.
    pub fn evict(&mut self, key: &K) -> Vec<J> {
        let Some(queue) = self.queues.get_mut(key) else { return Vec::new() };
        let (tenants, jobs) = queue.drain();
        for tenant in tenants {
            self.leave_round(&tenant, key);
        }
        self.forget_if_unused(key);
        jobs
    }

    /// Removes all work; slots stay in use.
    pub fn drain(&mut self) -> Vec<J> {
        let queues: Vec<K> = self.queues.keys().cloned().collect();
        queues.iter().flat_map(|key| self.evict(key)).collect()
    }
}

#[cfg(test)]
#[path = "fair_queue_tests.rs"]
mod tests;
