//! Shares connections fairly: work of many tenants for many destinations.
//!
//! Tenants take turns whatever their backlog, and so do the destinations of one tenant: deficit round robin
//! ([`super::deficit_round_robin`]), where work costs its number of deliveries, and the weight of a tenant is its
//! share of a round. A *destination queue* is the unit of a connection limit: a site, or a smart host with its login. A *slot* is
//! the right to one connection: [`FairQueue::grant_slot`] grants it, [`FairQueue::reuse_slot`] keeps it for more work,
//! [`FairQueue::free`] returns it. The caller passes the slot limit of a queue at each call.
//!
//! Some slots are reserved for tenants without any. Of the rest, a tenant gets another slot only while it has less
//! than three times the free ones. So one tenant alone has at most three quarters of them, and a new tenant finds a
//! free one however long others hold theirs. Likewise, a queue with many slots reserves a few for tenants without any
//! in it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;

use super::deficit_round_robin::DeficitRoundRobin;
use super::slot_counts::SlotCounts;
use crate::model::Weight;

/// A tenant gets no more slots once it has this many times the free ones.
const SLOTS_PER_FREE: usize = 3;
/// One slot of this many is reserved for tenants without any, overall and in a queue.
const SLOTS_PER_RESERVED: usize = 16;
/// Upper bound of reserved slots in a queue: a free slot is unused capacity of a host.
const RESERVED_IN_QUEUE_MAX: usize = 4;

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

/// The work and slots of one destination queue.
#[derive(Debug)]
struct DestinationQueue<T, J> {
    slots: SlotCounts<T>,
    backlogs: HashMap<T, Backlog<J>>,
    /// Tenants with work in this queue.
    round_robin: DeficitRoundRobin<T>,
    /// Tenants whose turn came while the queue had no slot for them; they return when one is free.
    blocked: Vec<T>,
}

/// The work of a tenant in a queue, at least one job.
#[derive(Debug)]
struct Backlog<J> {
    jobs: VecDeque<(u32, J)>,
    /// Deliveries in `jobs`.
    waiting: usize,
    weight: Weight,
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
        let backlog = queue.backlogs.entry(tenant.clone()).or_insert_with(|| Backlog::new(weight));
        backlog.weight = weight;
        backlog.waiting += cost as usize;
        backlog.jobs.push_back((cost, work));
        if backlog.jobs.len() == 1 {
            queue.round_robin.join(tenant.clone());
            self.join_rounds(tenant, key);
        }
    }

    fn join_rounds(&mut self, tenant: T, key: K) {
        if !self.at_share.contains(&tenant) {
            self.round_robin.join(tenant.clone());
        }
        self.tenants.entry(tenant).or_default().join(key);
    }

    /// Grants a slot and returns the work whose turn it is; `None` if no slot is free for any waiting work.
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

    /// The next work in the queue for a slot that `holder` has in it, by turns of the queue's tenants; the slot passes
    /// to the returned tenant. `None` if no work waits in the queue, if the queue is above `slots_max`, or if other
    /// work needs the slot: then call [`FairQueue::free`].
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
            self.round_robin.join(tenant);
        }
    }

    /// Whether another queue has work. That queue may be full; then the slot is given back once without use.
    fn other_queue_waits(&self, key: &K) -> bool {
        self.tenants.values().any(|round| round.in_order().any(|other| other != key))
    }

    /// Removes the tenant's first work from the queue and charges both accounts.
    fn take(&mut self, key: &K, tenant: &T) -> Option<J> {
        let queue = self.queues.get_mut(key)?;
        let backlog = queue.backlogs.get_mut(tenant)?;
        let (cost, job) = backlog.jobs.pop_front()?;
        backlog.waiting -= cost as usize;
        let (weight, is_empty) = (backlog.weight, backlog.jobs.is_empty());
        queue.round_robin.charge(tenant, cost, weight);
        self.round_robin.charge(tenant, cost, weight);
        if let Some(round) = self.tenants.get_mut(tenant) {
            round.charge(key, cost, Weight::default());
        }
        if is_empty {
            queue.round_robin.leave(tenant);
            queue.backlogs.remove(tenant);
            queue.blocked.retain(|other| other != tenant);
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
        if self.queues.get(key).is_some_and(|queue| queue.slots.taken() == 0 && queue.backlogs.is_empty()) {
            self.queues.remove(key);
        }
    }

    /// Waiting deliveries of a queue: in total, and of the tenant.
    pub fn waiting(&self, key: &K, tenant: &T) -> (usize, usize) {
        let Some(queue) = self.queues.get(key) else { return (0, 0) };
        (queue.waiting(), queue.backlogs.get(tenant).map_or(0, |backlog| backlog.waiting))
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

    /// Removes all work of a queue; its slots stay in use.
    pub fn evict(&mut self, key: &K) -> Vec<J> {
        let Some(queue) = self.queues.get_mut(key) else { return Vec::new() };
        let mut jobs = Vec::new();
        let mut tenants = Vec::new();
        for (tenant, backlog) in queue.backlogs.drain() {
            jobs.extend(backlog.jobs.into_iter().map(|(_, job)| job));
            queue.round_robin.leave(&tenant);
            tenants.push(tenant);
        }
        queue.blocked.clear();
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

/// Slots of a queue reserved for tenants without any in it.
pub fn reserved_in_queue(slots_max: usize) -> usize {
    (slots_max / SLOTS_PER_RESERVED).min(RESERVED_IN_QUEUE_MAX)
}

/// Whether a tenant with `has` slots in a queue may get one of its `free` ones.
fn may_take_in_queue(has: usize, free: usize, slots_max: usize) -> bool {
    if has == 0 { free > 0 } else { free > reserved_in_queue(slots_max) }
}

impl<T: Clone + Eq + Hash, J> DestinationQueue<T, J> {
    fn new() -> Self {
        Self {
            slots: SlotCounts::default(),
            backlogs: HashMap::new(),
            round_robin: DeficitRoundRobin::default(),
            blocked: Vec::new(),
        }
    }

    fn has_slot_for(&self, tenant: &T, slots_max: usize) -> bool {
        let free = slots_max.saturating_sub(self.slots.taken());
        may_take_in_queue(self.slots.of(tenant), free, slots_max)
    }

    fn waiting(&self) -> usize {
        self.backlogs.values().map(|backlog| backlog.waiting).sum()
    }
}

impl<J> Backlog<J> {
    fn new(weight: Weight) -> Self {
        Self { jobs: VecDeque::new(), waiting: 0, weight }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Work in which each destination queue has this many slots.
    struct Fair {
        fair: FairQueue<u8, u8, u32>,
        per_queue: usize,
    }

    impl Fair {
        fn push(&mut self, tenant: u8, key: u8, work: u32) {
            self.fair.push(Job { tenant, weight: Weight::default(), key, cost: 1, work });
        }

        fn grant_slot(&mut self) -> Option<Grant<u8, u8, u32>> {
            let per_queue = self.per_queue;
            self.fair.grant_slot(|_, _| per_queue)
        }

        fn reuse_slot(&mut self, key: &u8, holder: &u8) -> Option<(u8, u32)> {
            self.fair.reuse_slot(key, holder, self.per_queue)
        }
    }

    impl std::ops::Deref for Fair {
        type Target = FairQueue<u8, u8, u32>;
        fn deref(&self) -> &Self::Target {
            &self.fair
        }
    }

    impl std::ops::DerefMut for Fair {
        fn deref_mut(&mut self) -> &mut Self::Target {
            &mut self.fair
        }
    }

    fn fairness(total: usize, per_queue: usize) -> Fair {
        Fair { fair: FairQueue::new(total), per_queue }
    }

    /// Destination queue and work of the next grant.
    fn grant(fair: &mut Fair) -> Option<(u8, u32)> {
        fair.grant_slot().map(|grant| (grant.key, grant.job))
    }

    #[test]
    fn tenants_take_turns_whatever_their_backlog() {
        let mut fair = fairness(100, 100);
        (0..50).for_each(|job| fair.push(1, 1, job));
        fair.push(2, 1, 100);
        fair.push(3, 2, 101);
        let firsts: Vec<u32> = (0..4).map(|_| grant(&mut fair).unwrap().1).collect();
        assert_eq!(firsts, [0, 100, 101, 1]);
    }

    #[test]
    fn a_kept_slot_serves_its_tenants_in_turns_too() {
        let mut fair = fairness(100, 1);
        (0..50).for_each(|job| fair.push(1, 1, job));
        assert_eq!(grant(&mut fair), Some((1, 0)));
        fair.push(2, 1, 100);
        assert_eq!(grant(&mut fair), None);
        assert_eq!(fair.reuse_slot(&1, &1), Some((2, 100)));
        assert_eq!(fair.reuse_slot(&1, &2), Some((1, 1)));
    }

    #[test]
    fn a_new_tenant_finds_a_slot_in_a_crowded_lane_and_returns_it() {
        let mut fair = fairness(500, 20);
        (0..100).for_each(|job| fair.push(1, 1, job));
        assert_eq!(std::iter::from_fn(|| fair.grant_slot()).count(), 19);
        fair.push(2, 1, 1000);
        assert_eq!(grant(&mut fair), Some((1, 1000)));
        fair.push(3, 1, 1001);
        assert_eq!(grant(&mut fair), None, "all twenty are taken");
        assert_eq!(fair.reuse_slot(&1, &1), Some((3, 1001)), "whoever frees the first");
        assert_eq!(fair.reuse_slot(&1, &2), None, "the one with nineteen gets none of two");
        fair.free(&1, &2);
        assert_eq!(grant(&mut fair), None);
        assert_eq!(fair.reuse_slot(&1, &3), Some((1, 19)), "of its own nineteen one is another's");
        assert_eq!(fair.reuse_slot(&1, &1), Some((1, 20)));
    }

    #[test]
    fn a_full_destination_does_not_block_another() {
        let mut fair = fairness(100, 1);
        fair.push(1, 1, 0);
        fair.push(1, 1, 1);
        fair.push(1, 2, 2);
        assert_eq!(
            [grant(&mut fair), grant(&mut fair), grant(&mut fair)],
            [Some((1, 0)), Some((2, 2)), None]
        );
        fair.free(&1, &1);
        assert_eq!(grant(&mut fair), Some((1, 1)));
    }

    #[test]
    fn a_slot_is_returned_when_others_have_none() {
        let mut fair = fairness(1, 1);
        (0..50).for_each(|job| fair.push(1, 1, job));
        assert_eq!(grant(&mut fair), Some((1, 0)));
        assert_eq!(fair.reuse_slot(&1, &1), Some((1, 1)));
        fair.push(2, 2, 100);
        assert_eq!(fair.reuse_slot(&1, &1), None);
        fair.free(&1, &1);
        let both = [(); 2].map(|()| {
            let grant = fair.grant_slot().unwrap();
            fair.free(&grant.key, &grant.tenant);
            grant.key
        });
        assert!(both.contains(&2), "{both:?}");
    }

    #[test]
    fn a_new_tenant_finds_a_slot_however_long_others_hold_theirs() {
        let mut fair = fairness(500, 20);
        for (tenant, slots_expected) in [(1, 352), (2, 88), (3, 22), (4, 6)] {
            (0..10_000u32).for_each(|n| fair.push(tenant, (n % 250) as u8, n));
            let slots = std::iter::from_fn(|| fair.grant_slot()).count();
            assert_eq!(slots, slots_expected);
        }
        fair.push(9, 255, 0);
        assert_eq!(grant(&mut fair), Some((255, 0)));
    }

    #[test]
    fn a_tenant_above_its_share_yields_its_slot() {
        let mut fair = fairness(16, 16);
        (0..50).for_each(|job| fair.push(1, 1, job));
        assert_eq!(std::iter::from_fn(|| fair.grant_slot()).count(), 12);
        (0..50).for_each(|job| fair.push(2, 2, job));
        assert_eq!(std::iter::from_fn(|| fair.grant_slot()).count(), 3);
        // Until no tenant is above its share.
        for _ in 0..20 {
            if fair.reuse_slot(&1, &1).is_none() {
                fair.free(&1, &1);
                while fair.grant_slot().is_some() {}
            }
        }
        assert_eq!((fair.slots.of(&1), fair.slots.of(&2)), (7, 6));
        assert!(fair.reuse_slot(&1, &1).is_some());
    }

    #[test]
    fn a_weight_is_a_share_of_a_crowded_lane_and_a_batch_costs_its_deliveries() {
        let mut fair = fairness(100, 1);
        for (tenant, weight, cost) in [(1, 10u32, 1), (2, 40, 1), (3, 10, 5)] {
            (0..500).for_each(|work| {
                fair.fair.push(Job { tenant, weight: weight.try_into().unwrap(), key: 1, cost, work })
            });
        }
        let mut holder = fair.grant_slot().unwrap().tenant;
        let mut jobs = [0; 4];
        for _ in 0..260 {
            holder = fair.reuse_slot(&1, &holder).unwrap().0;
            jobs[usize::from(holder)] += 1;
        }
        assert!((48..=52).contains(&jobs[1]) && (198..=202).contains(&jobs[2]), "{jobs:?}");
        assert!((9..=11).contains(&jobs[3]), "{jobs:?}");
    }

    #[test]
    fn a_lane_that_is_closed_waits_until_it_opens() {
        let mut fair = fairness(100, 0);
        fair.push(1, 1, 0);
        fair.push(2, 1, 1);
        assert_eq!(grant(&mut fair), None);
        fair.per_queue = 1;
        assert_eq!(grant(&mut fair), None, "nobody said that it may have opened");
        fair.reopen(&1);
        assert_eq!(grant(&mut fair), Some((1, 0)));
        fair.per_queue = 0;
        assert_eq!(fair.reuse_slot(&1, &1), None, "a slot too many goes back");
        assert_eq!(fair.waiting(&1, &2), (1, 1));
        assert_eq!(fair.evict(&1), [1]);
        fair.free(&1, &1);
        assert!(fair.queues().next().is_none());
    }

    #[derive(Debug, Clone)]
    enum Act {
        Push(u8, u8),
        Next,
        Keep(usize),
        Free(usize),
        /// The slot limit of each queue from now on.
        Limit(usize),
        Evict(u8),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0u8..4, 0u8..4).prop_map(|(tenant, key)| Act::Push(tenant, key)),
            Just(Act::Next),
            any::<usize>().prop_map(Act::Keep),
            any::<usize>().prop_map(Act::Free),
            (0usize..3).prop_map(Act::Limit),
            (0u8..4).prop_map(Act::Evict),
        ]
    }

    proptest! {
        #[test]
        fn no_limit_is_exceeded_and_no_work_is_lost(acts in prop::collection::vec(act(), 0..200)) {
            let mut fair = fairness(5, 2);
            let (mut pushed, mut out) = (0u32, BTreeSet::new());
            // Lane and tenant of each slot.
            let mut slots: Vec<(u8, u8)> = Vec::new();
            for act in acts {
                match act {
                    Act::Push(tenant, key) => {
                        fair.push(tenant, key, pushed);
                        pushed += 1;
                    }
                    Act::Next => {
                        if let Some(Grant { tenant, key, job }) = fair.grant_slot() {
                            prop_assert!(out.insert(job));
                            slots.push((key, tenant));
                        }
                    }
                    Act::Keep(n) if !slots.is_empty() => {
                        let n = n % slots.len();
                        let (key, holder) = slots[n];
                        if let Some((tenant, job)) = fair.reuse_slot(&key, &holder) {
                            prop_assert!(out.insert(job));
                            slots[n] = (key, tenant);
                        }
                    }
                    Act::Free(n) if !slots.is_empty() => {
                        let (key, tenant) = slots.swap_remove(n % slots.len());
                        fair.free(&key, &tenant);
                    }
                    Act::Keep(_) | Act::Free(_) => {}
                    Act::Limit(limit) => {
                        fair.per_queue = limit;
                        (0..4).for_each(|key| fair.reopen(&key));
                    }
                    Act::Evict(key) => out.extend(fair.evict(&key)),
                }
                let most = |key: fn(&(u8, u8)) -> u8| {
                    (0..5).map(|name| slots.iter().filter(|slot| key(slot) == name).count()).max()
                };
                // Three of five slots leave one for the next tenant and one to share.
                prop_assert!(slots.len() <= 5 && most(|s| s.0) <= Some(2) && most(|s| s.1) <= Some(3));
                let waiting: usize = fair.queues().map(|(_, _, waiting)| waiting).sum();
                prop_assert_eq!(waiting, pushed as usize - out.len());
            }
            // As slots become free, all work is returned.
            fair.per_queue = 2;
            (0..4).for_each(|key| fair.reopen(&key));
            for (key, tenant) in slots {
                fair.free(&key, &tenant);
            }
            while let Some(Grant { tenant, key, job }) = fair.grant_slot() {
                prop_assert!(out.insert(job));
                fair.free(&key, &tenant);
            }
            prop_assert_eq!(out.len(), pushed as usize);
            prop_assert!(fair.queues.is_empty() && fair.tenants.is_empty() && fair.round_robin.is_empty());
            prop_assert!(fair.at_share.is_empty() && fair.slots.taken() == 0);
        }

        #[test]
        fn no_tenant_waits_behind_a_backlog(backlogs in prop::collection::vec(1u32..200, 1..6), queues in 1u8..5) {
            let mut fair = fairness(3, 2);
            for (tenant, &backlog) in backlogs.iter().enumerate() {
                (0..backlog).for_each(|n| fair.push(tenant as u8, (n % u32::from(queues)) as u8, 0));
            }
            fair.push(99, 0, 1);
            // Every other tenant has at most one turn before, in the round and in each queue.
            let turns_max = (backlogs.len() + 1) * (usize::from(queues) + 1);
            let served = (0..turns_max).any(|_| {
                let Grant { tenant, key, job } = fair.grant_slot().unwrap();
                fair.free(&key, &tenant);
                job == 1
            });
            prop_assert!(served);
        }

        #[test]
        fn all_waiting_work_can_be_removed(pushes in prop::collection::vec((0u8..4, 0u8..4), 0..50)) {
            let mut fair = fairness(5, 2);
            for (job, (tenant, key)) in pushes.iter().enumerate() {
                fair.push(*tenant, *key, job as u32);
            }
            let mut out: Vec<u32> = std::iter::from_fn(|| fair.grant_slot()).map(|grant| grant.job).collect();
            out.extend(fair.drain());
            out.sort_unstable();
            prop_assert_eq!(out, (0..pushes.len() as u32).collect::<Vec<_>>());
            prop_assert!(fair.queues().all(|(_, _, waiting)| waiting == 0));
        }
    }
}
