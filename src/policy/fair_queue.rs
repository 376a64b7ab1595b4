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

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;

use super::deficit_round_robin::DeficitRoundRobin;
use super::slot_counts::SlotCounts;
use crate::model::Weight;

/// A tenant gets no more slots once it has this many times the free ones.
const SLOTS_PER_FREE: usize = 3;
/// One slot of this many is reserved for tenants without any, overall and in a lane.
const SLOTS_PER_RESERVED: usize = 16;
/// Upper bound of reserved slots in a lane: a free slot is unused capacity of a host.
const RESERVED_IN_LANE_MAX: usize = 4;

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

/// The work and slots of one lane.
#[derive(Debug)]
struct Lane<T, J> {
    slots: SlotCounts<T>,
    queues: HashMap<T, Queue<J>>,
    /// Tenants with work in this lane.
    turns: DeficitRoundRobin<T>,
    /// Tenants whose turn came while the lane had no slot for them; they return when one is free.
    parked: Vec<T>,
}

/// The work of a tenant in a lane, at least one job.
#[derive(Debug)]
struct Queue<J> {
    jobs: VecDeque<(u32, J)>,
    /// Deliveries in `jobs`.
    waiting: usize,
    weight: Weight,
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
        let queue = entry.queues.entry(tenant.clone()).or_insert_with(|| Queue::new(weight));
        queue.weight = weight;
        queue.waiting += cost as usize;
        queue.jobs.push_back((cost, work));
        if queue.jobs.len() == 1 {
            entry.turns.join(tenant.clone());
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
        let queue = entry.queues.get_mut(tenant)?;
        let (cost, job) = queue.jobs.pop_front()?;
        queue.waiting -= cost as usize;
        let (weight, is_empty) = (queue.weight, queue.jobs.is_empty());
        entry.turns.charge(tenant, cost, weight);
        self.turns.charge(tenant, cost, weight);
        if let Some(round) = self.tenants.get_mut(tenant) {
            round.charge(lane, cost, Weight::default());
        }
        if is_empty {
            entry.turns.leave(tenant);
            entry.queues.remove(tenant);
            entry.parked.retain(|other| other != tenant);
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
        if self.lanes.get(lane).is_some_and(|entry| entry.slots.taken() == 0 && entry.queues.is_empty()) {
            self.lanes.remove(lane);
        }
    }

    /// Waiting deliveries of a lane: in total, and of the tenant.
    pub fn waiting(&self, lane: &L, tenant: &T) -> (usize, usize) {
        let Some(entry) = self.lanes.get(lane) else { return (0, 0) };
        (entry.waiting(), entry.queues.get(tenant).map_or(0, |queue| queue.waiting))
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
        let mut jobs = Vec::new();
        let mut tenants = Vec::new();
        for (tenant, queue) in entry.queues.drain() {
            jobs.extend(queue.jobs.into_iter().map(|(_, job)| job));
            entry.turns.leave(&tenant);
            tenants.push(tenant);
        }
        entry.parked.clear();
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

/// Slots of a lane reserved for tenants without any in it.
pub fn reserved_in_lane(slots_max: usize) -> usize {
    (slots_max / SLOTS_PER_RESERVED).min(RESERVED_IN_LANE_MAX)
}

/// Whether a tenant with `has` slots in a lane may get one of its `free` ones.
fn may_take_in_lane(has: usize, free: usize, slots_max: usize) -> bool {
    if has == 0 { free > 0 } else { free > reserved_in_lane(slots_max) }
}

impl<T: Clone + Eq + Hash, J> Lane<T, J> {
    fn new() -> Self {
        Self {
            slots: SlotCounts::default(),
            queues: HashMap::new(),
            turns: DeficitRoundRobin::default(),
            parked: Vec::new(),
        }
    }

    fn has_slot_for(&self, tenant: &T, slots_max: usize) -> bool {
        let free = slots_max.saturating_sub(self.slots.taken());
        may_take_in_lane(self.slots.of(tenant), free, slots_max)
    }

    fn waiting(&self) -> usize {
        self.queues.values().map(|queue| queue.waiting).sum()
    }
}

impl<J> Queue<J> {
    fn new(weight: Weight) -> Self {
        Self { jobs: VecDeque::new(), waiting: 0, weight }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// A queue in which each lane has this many slots.
    struct Fair {
        fair: FairQueue<u8, u8, u32>,
        per_lane: usize,
    }

    impl Fair {
        fn push(&mut self, tenant: u8, lane: u8, work: u32) {
            self.fair.push(Job { tenant, weight: Weight::default(), lane, cost: 1, work });
        }

        fn take_turn(&mut self) -> Option<Turn<u8, u8, u32>> {
            let per_lane = self.per_lane;
            self.fair.take_turn(|_, _| per_lane)
        }

        fn keep_turn(&mut self, lane: &u8, holder: &u8) -> Option<(u8, u32)> {
            self.fair.keep_turn(lane, holder, self.per_lane)
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

    fn fairness(total: usize, per_lane: usize) -> Fair {
        Fair { fair: FairQueue::new(total), per_lane }
    }

    /// Lane and work of the next turn.
    fn turn(fair: &mut Fair) -> Option<(u8, u32)> {
        fair.take_turn().map(|turn| (turn.lane, turn.job))
    }

    #[test]
    fn tenants_take_turns_whatever_their_backlog() {
        let mut fair = fairness(100, 100);
        (0..50).for_each(|job| fair.push(1, 1, job));
        fair.push(2, 1, 100);
        fair.push(3, 2, 101);
        let firsts: Vec<u32> = (0..4).map(|_| turn(&mut fair).unwrap().1).collect();
        assert_eq!(firsts, [0, 100, 101, 1]);
    }

    #[test]
    fn a_kept_slot_serves_its_tenants_in_turns_too() {
        let mut fair = fairness(100, 1);
        (0..50).for_each(|job| fair.push(1, 1, job));
        assert_eq!(turn(&mut fair), Some((1, 0)));
        fair.push(2, 1, 100);
        assert_eq!(turn(&mut fair), None);
        assert_eq!(fair.keep_turn(&1, &1), Some((2, 100)));
        assert_eq!(fair.keep_turn(&1, &2), Some((1, 1)));
    }

    #[test]
    fn a_new_tenant_finds_a_slot_in_a_crowded_lane_and_returns_it() {
        let mut fair = fairness(500, 20);
        (0..100).for_each(|job| fair.push(1, 1, job));
        assert_eq!(std::iter::from_fn(|| fair.take_turn()).count(), 19);
        fair.push(2, 1, 1000);
        assert_eq!(turn(&mut fair), Some((1, 1000)));
        fair.push(3, 1, 1001);
        assert_eq!(turn(&mut fair), None, "all twenty are taken");
        assert_eq!(fair.keep_turn(&1, &1), Some((3, 1001)), "whoever frees the first");
        assert_eq!(fair.keep_turn(&1, &2), None, "the one with nineteen gets none of two");
        fair.free(&1, &2);
        assert_eq!(turn(&mut fair), None);
        assert_eq!(fair.keep_turn(&1, &3), Some((1, 19)), "of its own nineteen one is another's");
        assert_eq!(fair.keep_turn(&1, &1), Some((1, 20)));
    }

    #[test]
    fn a_full_destination_does_not_block_another() {
        let mut fair = fairness(100, 1);
        fair.push(1, 1, 0);
        fair.push(1, 1, 1);
        fair.push(1, 2, 2);
        assert_eq!([turn(&mut fair), turn(&mut fair), turn(&mut fair)], [Some((1, 0)), Some((2, 2)), None]);
        fair.free(&1, &1);
        assert_eq!(turn(&mut fair), Some((1, 1)));
    }

    #[test]
    fn a_slot_is_returned_when_others_have_none() {
        let mut fair = fairness(1, 1);
        (0..50).for_each(|job| fair.push(1, 1, job));
        assert_eq!(turn(&mut fair), Some((1, 0)));
        assert_eq!(fair.keep_turn(&1, &1), Some((1, 1)));
        fair.push(2, 2, 100);
        assert_eq!(fair.keep_turn(&1, &1), None);
        fair.free(&1, &1);
        let both = [(); 2].map(|()| {
            let turn = fair.take_turn().unwrap();
            fair.free(&turn.lane, &turn.tenant);
            turn.lane
        });
        assert!(both.contains(&2), "{both:?}");
    }

    #[test]
    fn a_new_tenant_finds_a_slot_however_long_others_hold_theirs() {
        let mut fair = fairness(500, 20);
        for (tenant, slots_expected) in [(1, 352), (2, 88), (3, 22), (4, 6)] {
            (0..10_000u32).for_each(|n| fair.push(tenant, (n % 250) as u8, n));
            let slots = std::iter::from_fn(|| fair.take_turn()).count();
            assert_eq!(slots, slots_expected);
        }
        fair.push(9, 255, 0);
        assert_eq!(turn(&mut fair), Some((255, 0)));
    }

    #[test]
    fn a_tenant_above_its_share_yields_its_slot() {
        let mut fair = fairness(16, 16);
        (0..50).for_each(|job| fair.push(1, 1, job));
        assert_eq!(std::iter::from_fn(|| fair.take_turn()).count(), 12);
        (0..50).for_each(|job| fair.push(2, 2, job));
        assert_eq!(std::iter::from_fn(|| fair.take_turn()).count(), 3);
        // Until no tenant is above its share.
        for _ in 0..20 {
            if fair.keep_turn(&1, &1).is_none() {
                fair.free(&1, &1);
                while fair.take_turn().is_some() {}
            }
        }
        assert_eq!((fair.slots.of(&1), fair.slots.of(&2)), (7, 6));
        assert!(fair.keep_turn(&1, &1).is_some());
    }

    #[test]
    fn a_weight_is_a_share_of_a_crowded_lane_and_a_batch_costs_its_deliveries() {
        let mut fair = fairness(100, 1);
        for (tenant, weight, cost) in [(1, 10u32, 1), (2, 40, 1), (3, 10, 5)] {
            (0..500).for_each(|work| {
                fair.fair.push(Job { tenant, weight: weight.try_into().unwrap(), lane: 1, cost, work })
            });
        }
        let mut holder = fair.take_turn().unwrap().tenant;
        let mut jobs = [0; 4];
        for _ in 0..260 {
            holder = fair.keep_turn(&1, &holder).unwrap().0;
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
        assert_eq!(turn(&mut fair), None);
        fair.per_lane = 1;
        assert_eq!(turn(&mut fair), None, "nobody said that it may have opened");
        fair.reopen(&1);
        assert_eq!(turn(&mut fair), Some((1, 0)));
        fair.per_lane = 0;
        assert_eq!(fair.keep_turn(&1, &1), None, "a slot too many goes back");
        assert_eq!(fair.waiting(&1, &2), (1, 1));
        assert_eq!(fair.evict(&1), [1]);
        fair.free(&1, &1);
        assert!(fair.lanes().next().is_none());
    }

    #[derive(Debug, Clone)]
    enum Act {
        Push(u8, u8),
        Next,
        Keep(usize),
        Free(usize),
        /// The slot limit of each lane from now on.
        Limit(usize),
        Evict(u8),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0u8..4, 0u8..4).prop_map(|(tenant, lane)| Act::Push(tenant, lane)),
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
                    Act::Push(tenant, lane) => {
                        fair.push(tenant, lane, pushed);
                        pushed += 1;
                    }
                    Act::Next => {
                        if let Some(Turn { tenant, lane, job }) = fair.take_turn() {
                            prop_assert!(out.insert(job));
                            slots.push((lane, tenant));
                        }
                    }
                    Act::Keep(n) if !slots.is_empty() => {
                        let n = n % slots.len();
                        let (lane, holder) = slots[n];
                        if let Some((tenant, job)) = fair.keep_turn(&lane, &holder) {
                            prop_assert!(out.insert(job));
                            slots[n] = (lane, tenant);
                        }
                    }
                    Act::Free(n) if !slots.is_empty() => {
                        let (lane, tenant) = slots.swap_remove(n % slots.len());
                        fair.free(&lane, &tenant);
                    }
                    Act::Keep(_) | Act::Free(_) => {}
                    Act::Limit(limit) => {
                        fair.per_lane = limit;
                        (0..4).for_each(|lane| fair.reopen(&lane));
                    }
                    Act::Evict(lane) => out.extend(fair.evict(&lane)),
                }
                let most = |key: fn(&(u8, u8)) -> u8| {
                    (0..5).map(|name| slots.iter().filter(|slot| key(slot) == name).count()).max()
                };
                // Three of five slots leave one for the next tenant and one to share.
                prop_assert!(slots.len() <= 5 && most(|s| s.0) <= Some(2) && most(|s| s.1) <= Some(3));
                let waiting: usize = fair.lanes().map(|(_, _, waiting)| waiting).sum();
                prop_assert_eq!(waiting, pushed as usize - out.len());
            }
            // As slots become free, all work is returned.
            fair.per_lane = 2;
            (0..4).for_each(|lane| fair.reopen(&lane));
            for (lane, tenant) in slots {
                fair.free(&lane, &tenant);
            }
            while let Some(Turn { tenant, lane, job }) = fair.take_turn() {
                prop_assert!(out.insert(job));
                fair.free(&lane, &tenant);
            }
            prop_assert_eq!(out.len(), pushed as usize);
            prop_assert!(fair.lanes.is_empty() && fair.tenants.is_empty() && fair.turns.is_empty());
            prop_assert!(fair.at_share.is_empty() && fair.slots.taken() == 0);
        }

        #[test]
        fn no_tenant_waits_behind_a_backlog(backlogs in prop::collection::vec(1u32..200, 1..6), lanes in 1u8..5) {
            let mut fair = fairness(3, 2);
            for (tenant, &backlog) in backlogs.iter().enumerate() {
                (0..backlog).for_each(|n| fair.push(tenant as u8, (n % u32::from(lanes)) as u8, 0));
            }
            fair.push(99, 0, 1);
            // Every other tenant has at most one turn before, in the round and in each lane.
            let turns_max = (backlogs.len() + 1) * (usize::from(lanes) + 1);
            let served = (0..turns_max).any(|_| {
                let Turn { tenant, lane, job } = fair.take_turn().unwrap();
                fair.free(&lane, &tenant);
                job == 1
            });
            prop_assert!(served);
        }

        #[test]
        fn all_waiting_work_can_be_removed(pushes in prop::collection::vec((0u8..4, 0u8..4), 0..50)) {
            let mut fair = fairness(5, 2);
            for (job, (tenant, lane)) in pushes.iter().enumerate() {
                fair.push(*tenant, *lane, job as u32);
            }
            let mut out: Vec<u32> = std::iter::from_fn(|| fair.take_turn()).map(|turn| turn.job).collect();
            out.extend(fair.drain());
            out.sort_unstable();
            prop_assert_eq!(out, (0..pushes.len() as u32).collect::<Vec<_>>());
            prop_assert!(fair.lanes().all(|(_, _, waiting)| waiting == 0));
        }
    }
}
