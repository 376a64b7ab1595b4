//! Whose turn it is: work of many tenants for many destinations, and how many connections each may have.
//!
//! Tenants take turns, whatever their backlog, and so do the destinations of one tenant. A *lane* is what the limit
//! of connections holds for: a destination, or a smart host with its account. A connection is a *slot*: it is given
//! out with [`Fairness::take_turn`], may be kept with [`Fairness::keep_turn`], and goes back with [`Fairness::free`].
//!
//! A tenant gets no slot while it has as many as are free. So one alone has at most half of them, two a third each,
//! and whoever comes next finds one free, however long the others hold theirs.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;

/// How many slots there are.
#[derive(Debug, Clone, Copy)]
pub struct SlotLimits {
    /// Of all lanes.
    pub total: usize,
    /// Of one lane.
    pub per_lane: usize,
}

/// Work that waits, in turns. `T` names a tenant, `L` a lane, `J` is a piece of work.
#[derive(Debug)]
pub struct Fairness<T, L, J> {
    limits: SlotLimits,
    slots_taken: usize,
    waiting: usize,
    lanes: HashMap<L, Lane<T, J>>,
    tenants: HashMap<T, VecDeque<L>>,
    /// Tenants whose entry in `tenants` is not empty, each once, the next one first, save those in `sated`.
    turns: VecDeque<T>,
    /// Tenants whose turn came while they had their share of slots: they get back into `turns` when slots come free.
    sated: HashSet<T>,
    /// Slots of each tenant that has any.
    slots_of: HashMap<T, usize>,
}

/// Work, and whose slot it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn<T, L, J> {
    /// Who has the slot.
    pub tenant: T,
    /// Where.
    pub lane: L,
    /// What to do.
    pub job: J,
}

/// What waits for one destination.
#[derive(Debug)]
struct Lane<T, J> {
    slots_taken: usize,
    queues: HashMap<T, Queue<J>>,
    /// Tenants whose queue is not empty, each once, the next one first.
    turns: VecDeque<T>,
    /// Tenants whose turn came while the lane was full: they get back into the round when a slot is free.
    parked: Vec<T>,
}

#[derive(Debug)]
struct Queue<J> {
    jobs: VecDeque<J>,
    /// Whether the tenant's round has the lane, or the lane has it parked.
    listed: bool,
}

impl<T: Clone + Eq + Hash, L: Clone + Eq + Hash, J> Fairness<T, L, J> {
    /// Nothing waits, every slot is free.
    pub fn new(limits: SlotLimits) -> Self {
        Self {
            limits,
            slots_taken: 0,
            waiting: 0,
            lanes: HashMap::new(),
            tenants: HashMap::new(),
            turns: VecDeque::new(),
            sated: HashSet::new(),
            slots_of: HashMap::new(),
        }
    }

    /// Adds work behind the tenant's other work for the lane.
    pub fn push(&mut self, tenant: T, lane: L, job: J) {
        self.waiting += 1;
        let entry = self.lanes.entry(lane.clone()).or_insert_with(Lane::new);
        let queue = entry
            .queues
            .entry(tenant.clone())
            .or_insert_with(|| Queue { jobs: VecDeque::new(), listed: false });
        if queue.jobs.is_empty() {
            entry.turns.push_back(tenant.clone());
        }
        queue.jobs.push_back(job);
        if !queue.listed {
            queue.listed = true;
            self.list(tenant, lane);
        }
    }

    fn list(&mut self, tenant: T, lane: L) {
        let round = self.tenants.entry(tenant.clone()).or_default();
        if round.is_empty() {
            self.turns.push_back(tenant);
        }
        round.push_back(lane);
    }

    /// Takes a slot and the work whose turn it is; `None` if no slot is free for anything that waits.
    pub fn take_turn(&mut self) -> Option<Turn<T, L, J>> {
        if self.slots_taken >= self.limits.total {
            return None;
        }
        let (tenant, lane) = self.next_turn()?;
        let (job, more) = self.take(&lane, &tenant)?;
        self.slots_taken += 1;
        self.lanes.get_mut(&lane)?.slots_taken += 1;
        *self.slots_of.entry(tenant.clone()).or_default() += 1;
        if more {
            self.list(tenant.clone(), lane.clone());
        } else {
            self.unlist(&lane, &tenant);
        }
        Some(Turn { tenant, lane, job })
    }

    fn slots_free(&self) -> usize {
        self.limits.total.saturating_sub(self.slots_taken)
    }

    fn slots_of(&self, tenant: &T) -> usize {
        self.slots_of.get(tenant).copied().unwrap_or(0)
    }

    /// Turns the round until a lane with work and a free slot comes up, and takes it out of the round.
    fn next_turn(&mut self) -> Option<(T, L)> {
        while let Some(tenant) = self.turns.pop_front() {
            if self.slots_of(&tenant) >= self.slots_free() {
                self.sated.insert(tenant);
                continue;
            }
            let round = self.tenants.get_mut(&tenant)?;
            let lane = round.pop_front()?;
            if round.is_empty() {
                self.tenants.remove(&tenant);
            } else {
                self.turns.push_back(tenant.clone());
            }
            let per_lane = self.limits.per_lane;
            match self.lanes.get_mut(&lane) {
                Some(entry) if !entry.has_work_of(&tenant) => self.unlist(&lane, &tenant),
                Some(entry) if entry.slots_taken >= per_lane => entry.parked.push(tenant),
                Some(_) => return Some((tenant, lane)),
                None => {}
            }
        }
        None
    }

    /// The next work for a slot that this tenant has in this lane, in turns of the lane's tenants: the slot is then
    /// the answered tenant's. `None` if nothing waits there, or if the slot should go back because work elsewhere has
    /// no slot: then [`Fairness::free`] it.
    pub fn keep_turn(&mut self, lane: &L, holder: &T) -> Option<(T, J)> {
        let (held, free) = (self.slots_of(holder), self.slots_free());
        let needed = if free == 0 {
            self.someone_else_waits(lane)
        } else {
            held > free + 1 && self.another_waits(holder)
        };
        if needed {
            return None;
        }
        // As if the slot were free already.
        let entitled = |tenant: &&T| *tenant == holder || self.slots_of(tenant) < free + 1;
        let tenant = self.lanes.get(lane)?.turns.iter().find(entitled)?.clone();
        let (job, _) = self.take(lane, &tenant)?;
        if tenant != *holder {
            self.give_back(holder);
            *self.slots_of.entry(tenant.clone()).or_default() += 1;
            self.wake_sated();
        }
        Some((tenant, job))
    }

    /// Whether a tenant other than this one has something in the round.
    fn another_waits(&self, holder: &T) -> bool {
        self.turns.iter().chain(&self.sated).any(|tenant| tenant != holder)
    }

    fn give_back(&mut self, holder: &T) {
        if let Some(slots) = self.slots_of.get_mut(holder) {
            *slots -= 1;
            if *slots == 0 {
                self.slots_of.remove(holder);
            }
        }
    }

    /// Those that may have a slot again take turns again.
    fn wake_sated(&mut self) {
        let free = self.slots_free();
        let Self { sated, slots_of, turns, .. } = self;
        sated.retain(|tenant| {
            let stays = slots_of.get(tenant).copied().unwrap_or(0) >= free;
            if !stays {
                turns.push_back(tenant.clone());
            }
            stays
        });
    }

    /// Whether the round has another lane. It may prove full or empty: then a slot goes round once for nothing.
    fn someone_else_waits(&self, lane: &L) -> bool {
        self.tenants.values().any(|round| round.iter().any(|other| other != lane))
    }

    /// Takes the tenant's first work off the lane and puts the tenant to the end of the lane's turns.
    fn take(&mut self, lane: &L, tenant: &T) -> Option<(J, bool)> {
        let entry = self.lanes.get_mut(lane)?;
        let queue = entry.queues.get_mut(tenant)?;
        let job = queue.jobs.pop_front()?;
        let more = !queue.jobs.is_empty();
        if let Some(place) = entry.turns.iter().position(|other| other == tenant) {
            entry.turns.remove(place);
        }
        if more {
            entry.turns.push_back(tenant.clone());
        }
        self.waiting -= 1;
        Some((job, more))
    }

    /// The tenant's round has the lane no longer.
    fn unlist(&mut self, lane: &L, tenant: &T) {
        if let Some(entry) = self.lanes.get_mut(lane) {
            match entry.queues.get_mut(tenant) {
                Some(queue) if !queue.jobs.is_empty() => queue.listed = false,
                _ => drop(entry.queues.remove(tenant)),
            }
            self.forget_if_unused(lane);
        }
    }

    /// Gives back a slot that the tenant has in the lane.
    pub fn free(&mut self, lane: &L, holder: &T) {
        let Some(entry) = self.lanes.get_mut(lane) else { return };
        entry.slots_taken = entry.slots_taken.saturating_sub(1);
        self.slots_taken = self.slots_taken.saturating_sub(1);
        let parked = std::mem::take(&mut entry.parked);
        self.give_back(holder);
        self.wake_sated();
        for tenant in parked {
            self.list(tenant, lane.clone());
        }
        self.forget_if_unused(lane);
    }

    fn forget_if_unused(&mut self, lane: &L) {
        if self.lanes.get(lane).is_some_and(|entry| entry.slots_taken == 0 && entry.queues.is_empty()) {
            self.lanes.remove(lane);
        }
    }

    /// How much waits.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Lanes where at least so much waits.
    pub fn crowded(&self, waiting_min: usize) -> impl Iterator<Item = &L> {
        self.lanes.iter().filter(move |(_, lane)| lane.waiting() >= waiting_min).map(|(name, _)| name)
    }

    /// Takes out everything that waits; slots stay taken.
    pub fn drain(&mut self) -> Vec<J> {
        self.waiting = 0;
        self.turns.clear();
        self.sated.clear();
        self.tenants.clear();
        let mut jobs = Vec::new();
        self.lanes.retain(|_, lane| {
            jobs.extend(lane.queues.drain().flat_map(|(_, queue)| queue.jobs));
            lane.turns.clear();
            lane.parked.clear();
            lane.slots_taken > 0
        });
        jobs
    }
}

impl<T: Eq + Hash, J> Lane<T, J> {
    fn new() -> Self {
        Self { slots_taken: 0, queues: HashMap::new(), turns: VecDeque::new(), parked: Vec::new() }
    }

    fn has_work_of(&self, tenant: &T) -> bool {
        self.queues.get(tenant).is_some_and(|queue| !queue.jobs.is_empty())
    }

    fn waiting(&self) -> usize {
        self.queues.values().map(|queue| queue.jobs.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn fairness(total: usize, per_lane: usize) -> Fairness<u8, u8, u32> {
        Fairness::new(SlotLimits { total, per_lane })
    }

    /// The lane and the work of the next turn.
    fn turn(fair: &mut Fairness<u8, u8, u32>) -> Option<(u8, u32)> {
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
        assert_eq!(fair.keep_turn(&1, &1), Some((1, 1)));
        assert_eq!(fair.keep_turn(&1, &1), Some((2, 100)));
    }

    #[test]
    fn a_full_destination_does_not_stand_in_the_way_of_another() {
        let mut fair = fairness(100, 1);
        fair.push(1, 1, 0);
        fair.push(1, 1, 1);
        fair.push(1, 2, 2);
        assert_eq!([turn(&mut fair), turn(&mut fair), turn(&mut fair)], [Some((1, 0)), Some((2, 2)), None]);
        fair.free(&1, &1);
        assert_eq!(turn(&mut fair), Some((1, 1)));
    }

    #[test]
    fn a_slot_goes_back_when_others_have_none() {
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
    fn whoever_comes_next_finds_a_slot_however_long_others_hold_theirs() {
        let mut fair = fairness(500, 20);
        for (tenant, slots_expected) in [(1, 250), (2, 125), (3, 63)] {
            (0..10_000u32).for_each(|n| fair.push(tenant, (n % 250) as u8, n));
            let slots = std::iter::from_fn(|| fair.take_turn()).count();
            assert_eq!(slots, slots_expected);
        }
        fair.push(9, 255, 0);
        assert_eq!(turn(&mut fair), Some((255, 0)));
    }

    #[test]
    fn who_has_more_than_its_share_lets_another_have_it() {
        let mut fair = fairness(8, 8);
        (0..50).for_each(|job| fair.push(1, 1, job));
        (0..50).for_each(|job| fair.push(2, 2, job));
        let taken = std::iter::from_fn(|| fair.take_turn()).count();
        assert_eq!((taken, fair.slots_of(&1), fair.slots_of(&2)), (6, 3, 3));
        // None has too much: both keep theirs.
        assert_eq!(fair.keep_turn(&1, &1), Some((1, 3)));
        let mut fair = fairness(8, 8);
        (0..50).for_each(|job| fair.push(1, 1, job));
        assert_eq!(std::iter::from_fn(|| fair.take_turn()).count(), 4);
        (0..50).for_each(|job| fair.push(2, 2, job));
        assert_eq!(std::iter::from_fn(|| fair.take_turn()).count(), 2);
        assert_eq!(fair.keep_turn(&1, &1), None);
        fair.free(&1, &1);
        assert_eq!(fair.take_turn().map(|turn| turn.tenant), Some(2));
    }

    #[derive(Debug, Clone)]
    enum Act {
        Push(u8, u8),
        Next,
        Keep(usize),
        Free(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0u8..4, 0u8..4).prop_map(|(tenant, lane)| Act::Push(tenant, lane)),
            Just(Act::Next),
            any::<usize>().prop_map(Act::Keep),
            any::<usize>().prop_map(Act::Free),
        ]
    }

    proptest! {
        #[test]
        fn no_limit_is_passed_and_nothing_is_forgotten(acts in prop::collection::vec(act(), 0..200)) {
            let mut fair = fairness(5, 2);
            let (mut pushed, mut out) = (0u32, BTreeSet::new());
            // The lane and the tenant of each slot.
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
                }
                let most = |key: fn(&(u8, u8)) -> u8| {
                    (0..5).map(|name| slots.iter().filter(|slot| key(slot) == name).count()).max()
                };
                // Half of five, rounded up.
                prop_assert!(slots.len() <= 5 && most(|s| s.0) <= Some(2) && most(|s| s.1) <= Some(3));
                prop_assert_eq!(fair.waiting(), pushed as usize - out.len());
            }
            // With slots coming free, everything comes out.
            for (lane, tenant) in slots {
                fair.free(&lane, &tenant);
            }
            while let Some(Turn { tenant, lane, job }) = fair.take_turn() {
                prop_assert!(out.insert(job));
                fair.free(&lane, &tenant);
            }
            prop_assert_eq!(out.len(), pushed as usize);
            prop_assert!(fair.lanes.is_empty() && fair.tenants.is_empty() && fair.turns.is_empty());
            prop_assert!(fair.sated.is_empty() && fair.slots_of.is_empty());
        }

        #[test]
        fn no_tenant_waits_behind_a_backlog(backlogs in prop::collection::vec(1u32..200, 1..6), lanes in 1u8..5) {
            let mut fair = fairness(3, 2);
            for (tenant, &backlog) in backlogs.iter().enumerate() {
                (0..backlog).for_each(|n| fair.push(tenant as u8, (n % u32::from(lanes)) as u8, 0));
            }
            fair.push(99, 0, 1);
            // Each of the others has its turn at most once before, in the round and in each lane.
            let turns_max = (backlogs.len() + 1) * (usize::from(lanes) + 1);
            let served = (0..turns_max).any(|_| {
                let Turn { tenant, lane, job } = fair.take_turn().unwrap();
                fair.free(&lane, &tenant);
                job == 1
            });
            prop_assert!(served);
        }

        #[test]
        fn what_waits_can_be_taken_out_at_once(pushes in prop::collection::vec((0u8..4, 0u8..4), 0..50)) {
            let mut fair = fairness(5, 2);
            for (job, (tenant, lane)) in pushes.iter().enumerate() {
                fair.push(*tenant, *lane, job as u32);
            }
            let mut out: Vec<u32> = std::iter::from_fn(|| fair.take_turn()).map(|turn| turn.job).collect();
            out.extend(fair.drain());
            out.sort_unstable();
            prop_assert_eq!(out, (0..pushes.len() as u32).collect::<Vec<_>>());
            prop_assert_eq!(fair.waiting(), 0);
        }
    }
}
