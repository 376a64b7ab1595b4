//! One lane of the fair queue: what waits in it, by tenant, and its slots.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::model::Weight;
use crate::policy::deficit_round_robin::DeficitRoundRobin;
use crate::policy::slot_counts::SlotCounts;

/// One slot of this many is reserved for tenants without any, overall and in a lane.
pub(super) const SLOTS_PER_RESERVED: usize = 16;
/// Upper bound of reserved slots in a lane: a free slot is unused capacity of a host.
const RESERVED_IN_LANE_MAX: usize = 4;

/// The work and slots of one lane.
#[derive(Debug)]
pub(super) struct Lane<T, J> {
    pub(super) slots: SlotCounts<T>,
    queues: HashMap<T, Queue<J>>,
    /// Tenants with work in this lane.
    pub(super) turns: DeficitRoundRobin<T>,
    /// Tenants whose turn came while the lane had no slot for them; they return when one is free.
    pub(super) parked: Vec<T>,
}

/// Work that was taken out of a lane.
pub(super) struct Taken<J> {
    pub(super) cost: u32,
    pub(super) weight: Weight,
    pub(super) job: J,
    /// Whether the tenant has no more in the lane.
    pub(super) is_last: bool,
}

/// The work of a tenant in a lane, at least one job.
#[derive(Debug)]
struct Queue<J> {
    jobs: VecDeque<(u32, J)>,
    /// Deliveries in `jobs`.
    waiting: usize,
    weight: Weight,
}

/// Slots of a lane reserved for tenants without any in it.
pub fn reserved_in_lane(slots_max: usize) -> usize {
    (slots_max / SLOTS_PER_RESERVED).min(RESERVED_IN_LANE_MAX)
}

/// Whether a tenant with `has` slots in a lane may get one of its `free` ones.
pub(super) fn may_take_in_lane(has: usize, free: usize, slots_max: usize) -> bool {
    if has == 0 { free > 0 } else { free > reserved_in_lane(slots_max) }
}

impl<T: Clone + Eq + Hash, J> Lane<T, J> {
    /// A lane without work.
    pub(super) fn new() -> Self {
        Self {
            slots: SlotCounts::default(),
            queues: HashMap::new(),
            turns: DeficitRoundRobin::default(),
            parked: Vec::new(),
        }
    }

    /// Adds work of a tenant; true if it is the tenant's only work in the lane.
    pub(super) fn push(&mut self, tenant: &T, weight: Weight, (cost, job): (u32, J)) -> bool {
        let queue = self.queues.entry(tenant.clone()).or_insert_with(|| Queue::new(weight));
        queue.weight = weight;
        queue.waiting += cost as usize;
        queue.jobs.push_back((cost, job));
        let is_only = queue.jobs.len() == 1;
        if is_only {
            self.turns.join(tenant.clone());
        }
        is_only
    }

    /// Takes the tenant's first work and charges its account in the lane.
    pub(super) fn pop(&mut self, tenant: &T) -> Option<Taken<J>> {
        let queue = self.queues.get_mut(tenant)?;
        let (cost, job) = queue.jobs.pop_front()?;
        queue.waiting -= cost as usize;
        let (weight, is_last) = (queue.weight, queue.jobs.is_empty());
        self.turns.charge(tenant, cost, weight);
        if is_last {
            self.turns.leave(tenant);
            self.queues.remove(tenant);
            self.parked.retain(|other| other != tenant);
        }
        Some(Taken { cost, weight, job, is_last })
    }

    /// Takes all work; the tenants that it was of, and the work.
    pub(super) fn drain(&mut self) -> (Vec<T>, Vec<J>) {
        let (mut tenants, mut jobs) = (Vec::new(), Vec::new());
        for (tenant, queue) in self.queues.drain() {
            jobs.extend(queue.jobs.into_iter().map(|(_, job)| job));
            self.turns.leave(&tenant);
            tenants.push(tenant);
        }
        self.parked.clear();
        (tenants, jobs)
    }

    /// Whether nothing waits and no slot is in use.
    pub(super) fn is_unused(&self) -> bool {
        self.slots.taken() == 0 && self.queues.is_empty()
    }

    /// Whether the tenant may get a slot.
    pub(super) fn has_slot_for(&self, tenant: &T, slots_max: usize) -> bool {
        let free = slots_max.saturating_sub(self.slots.taken());
        may_take_in_lane(self.slots.of(tenant), free, slots_max)
    }

    /// Waiting deliveries.
    pub(super) fn waiting(&self) -> usize {
        self.queues.values().map(|queue| queue.waiting).sum()
    }

    /// Waiting deliveries of a tenant.
    pub(super) fn waiting_of(&self, tenant: &T) -> usize {
        self.queues.get(tenant).map_or(0, |queue| queue.waiting)
    }
}

impl<J> Queue<J> {
    fn new(weight: Weight) -> Self {
        Self { jobs: VecDeque::new(), waiting: 0, weight }
    }
}
