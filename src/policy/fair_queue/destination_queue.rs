//! One destination queue of the fair queue: its work by tenant, and its slots.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::model::Weight;
use crate::policy::deficit_round_robin::DeficitRoundRobin;
use crate::policy::slot_counts::SlotCounts;

/// One slot of this many is reserved for tenants without any, overall and in a queue.
pub(super) const SLOTS_PER_RESERVED: usize = 16;
/// Upper bound of reserved slots in a queue: a free slot is unused capacity of a host.
const RESERVED_IN_QUEUE_MAX: usize = 4;

/// The work and slots of one queue.
#[derive(Debug)]
pub(super) struct DestinationQueue<T, J> {
    pub(super) slots: SlotCounts<T>,
    backlogs: HashMap<T, Backlog<J>>,
    /// Tenants with work in this queue.
    pub(super) round_robin: DeficitRoundRobin<T>,
    /// Tenants that were next while the queue had no slot for them; they return to the round when a slot is free.
    pub(super) blocked: Vec<T>,
}

/// Work that was taken out of a queue.
pub(super) struct TakenJob<J> {
    pub(super) cost: u32,
    pub(super) weight: Weight,
    pub(super) job: J,
    /// Whether the tenant has no more in the queue.
    pub(super) is_last: bool,
}

/// The work of a tenant in a queue, at least one job.
#[derive(Debug)]
struct Backlog<J> {
    jobs: VecDeque<(u32, J)>,
    /// Deliveries in `jobs`.
    waiting: usize,
    weight: Weight,
}

/// Slots of a queue reserved for tenants without any in it.
pub fn reserved_in_queue(slots_max: usize) -> usize {
    (slots_max / SLOTS_PER_RESERVED).min(RESERVED_IN_QUEUE_MAX)
}

/// Whether a tenant with `has` slots in a queue may get one of its `free` ones.
pub(super) fn may_take_in_queue(has: usize, free: usize, slots_max: usize) -> bool {
    if has == 0 { free > 0 } else { free > reserved_in_queue(slots_max) }
}

impl<T: Clone + Eq + Hash, J> DestinationQueue<T, J> {
    /// A queue without work.
    pub(super) fn new() -> Self {
        Self {
            slots: SlotCounts::default(),
            backlogs: HashMap::new(),
            round_robin: DeficitRoundRobin::default(),
            blocked: Vec::new(),
        }
    }

    /// Adds work of a tenant; true if it is the tenant's only work in the queue.
    pub(super) fn push(&mut self, tenant: &T, weight: Weight, (cost, job): (u32, J)) -> bool {
        let backlog = self.backlogs.entry(tenant.clone()).or_insert_with(|| Backlog::new(weight));
        backlog.weight = weight;
        backlog.waiting += cost as usize;
        backlog.jobs.push_back((cost, job));
        let is_only = backlog.jobs.len() == 1;
        if is_only {
            self.round_robin.join(tenant.clone());
        }
        is_only
    }

    /// Takes the tenant's first work and charges its account in the queue.
    pub(super) fn pop(&mut self, tenant: &T) -> Option<TakenJob<J>> {
        let backlog = self.backlogs.get_mut(tenant)?;
        let (cost, job) = backlog.jobs.pop_front()?;
        backlog.waiting -= cost as usize;
        let (weight, is_last) = (backlog.weight, backlog.jobs.is_empty());
        self.round_robin.charge(tenant, cost, weight);
        if is_last {
            self.forget(tenant);
        }
        Some(TakenJob { cost, weight, job, is_last })
    }

    /// Removes the work of a tenant that is meant. Returns it, and whether the tenant has no more in the queue.
    pub(super) fn extract_if(&mut self, tenant: &T, is_meant: &impl Fn(&J) -> bool) -> (Vec<J>, bool) {
        let Some(backlog) = self.backlogs.get_mut(tenant) else { return (Vec::new(), false) };
        let (meant, left): (VecDeque<_>, VecDeque<_>) =
            backlog.jobs.drain(..).partition(|(_, job)| is_meant(job));
        backlog.jobs = left;
        backlog.waiting -= meant.iter().map(|(cost, _)| *cost as usize).sum::<usize>();
        let is_last = backlog.jobs.is_empty();
        if is_last {
            self.forget(tenant);
        }
        (meant.into_iter().map(|(_, job)| job).collect(), is_last)
    }

    /// Forgets a tenant that has no more work.
    fn forget(&mut self, tenant: &T) {
        self.round_robin.leave(tenant);
        self.backlogs.remove(tenant);
        self.blocked.retain(|other| other != tenant);
    }

    /// Removes all work. Returns the tenants that had work, and the work.
    pub(super) fn drain(&mut self) -> (Vec<T>, Vec<J>) {
        let (mut tenants, mut jobs) = (Vec::new(), Vec::new());
        for (tenant, backlog) in self.backlogs.drain() {
            jobs.extend(backlog.jobs.into_iter().map(|(_, job)| job));
            self.round_robin.leave(&tenant);
            tenants.push(tenant);
        }
        self.blocked.clear();
        (tenants, jobs)
    }

    /// Whether nothing waits and no slot is in use.
    pub(super) fn is_unused(&self) -> bool {
        self.slots.taken() == 0 && self.backlogs.is_empty()
    }

    /// Whether the tenant may get a slot.
    pub(super) fn has_slot_for(&self, tenant: &T, slots_max: usize) -> bool {
        let free = slots_max.saturating_sub(self.slots.taken());
        may_take_in_queue(self.slots.of(tenant), free, slots_max)
    }

    /// Waiting deliveries.
    pub(super) fn waiting(&self) -> usize {
        self.backlogs.values().map(|backlog| backlog.waiting).sum()
    }

    /// Waiting deliveries of a tenant.
    pub(super) fn waiting_of(&self, tenant: &T) -> usize {
        self.backlogs.get(tenant).map_or(0, |backlog| backlog.waiting)
    }
}

impl<J> Backlog<J> {
    fn new(weight: Weight) -> Self {
        Self { jobs: VecDeque::new(), waiting: 0, weight }
    }
}
