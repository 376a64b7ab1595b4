//! Fresh messages that wait in memory for the relay: for each tenant a queue per destination, so that one busy
//! destination holds up nothing but itself.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::mail::Host;
use crate::model::{DeliveryId, Environment, TenantId};
use crate::store::{Admits, Batch, Delivery};

#[derive(Default)]
pub(super) struct HotQueue {
    tenants: HashMap<TenantId, Lane>,
    /// Whose turn it is; each tenant with something ready once.
    turns: VecDeque<TenantId>,
}

/// What one tenant has ready.
#[derive(Default)]
struct Lane {
    queues: HashMap<(Environment, Host), VecDeque<Batch>>,
    /// Whose turn it is; each destination with something ready once.
    turns: VecDeque<(Environment, Host)>,
}

impl HotQueue {
    pub(super) fn push(&mut self, tenant: TenantId, batch: Batch) {
        let turns = &mut self.turns;
        let lane = self.tenants.entry(tenant).or_insert_with(|| {
            turns.push_back(tenant);
            Lane::default()
        });
        let key = (batch.message.environment, batch.destination.clone());
        let queue = lane.queues.entry(key.clone()).or_default();
        if queue.is_empty() {
            lane.turns.push_back(key);
        }
        queue.push_back(batch);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// The tenants with something ready, in turn; at most `limit`. Those who are named go to the end.
    pub(super) fn next_tenants(&mut self, limit: usize) -> Vec<TenantId> {
        let count = limit.min(self.turns.len());
        let next: Vec<_> = self.turns.iter().copied().take(count).collect();
        self.turns.rotate_left(count);
        next
    }

    /// Takes at most `deliveries_max` deliveries of a tenant, none that `admits` passes over.
    pub(super) fn take(
        &mut self,
        tenant: TenantId,
        deliveries_max: usize,
        admits: &dyn Admits,
    ) -> Vec<Batch> {
        let Some(lane) = self.tenants.get_mut(&tenant) else { return Vec::new() };
        let taken = lane.take(tenant, deliveries_max, admits);
        if lane.queues.is_empty() {
            self.remove(tenant);
        }
        taken
    }

    /// Forgets all of a tenant and answers whose deliveries they were.
    pub(super) fn remove(&mut self, tenant: TenantId) -> Vec<DeliveryId> {
        let Some(lane) = self.tenants.remove(&tenant) else { return Vec::new() };
        self.turns.retain(|&other| other != tenant);
        let batches = lane.queues.into_values().flatten();
        batches.flat_map(|batch| batch.deliveries).map(|delivery| delivery.id).collect()
    }

    /// Forgets what a tenant has for a destination and answers which deliveries they were.
    pub(super) fn remove_destination(&mut self, tenant: TenantId, host: &Host) -> Vec<DeliveryId> {
        let Some(lane) = self.tenants.get_mut(&tenant) else { return Vec::new() };
        let removed = lane.remove(host);
        if lane.queues.is_empty() {
            self.remove(tenant);
        }
        removed.into_iter().flat_map(|batch| batch.deliveries).map(|delivery| delivery.id).collect()
    }

    /// Forgets deliveries for a destination and answers which of them waited here.
    pub(super) fn remove_deliveries(
        &mut self,
        tenant: TenantId,
        host: &Host,
        ids: &HashSet<DeliveryId>,
    ) -> Vec<DeliveryId> {
        let Some(lane) = self.tenants.get_mut(&tenant) else { return Vec::new() };
        let removed = lane.remove_deliveries(host, ids);
        if lane.queues.is_empty() {
            self.remove(tenant);
        }
        removed
    }

    /// Who has something for a destination.
    pub(super) fn tenants_with(&self, host: &Host) -> Vec<TenantId> {
        let with = self.tenants.iter().filter(|(_, lane)| lane.has(host));
        with.map(|(tenant, _)| *tenant).collect()
    }
}

impl Lane {
    fn remove(&mut self, host: &Host) -> Vec<Batch> {
        self.turns.retain(|(_, other)| other != host);
        let environments = Environment::ALL.iter().copied();
        environments.filter_map(|of| self.queues.remove(&(of, host.clone()))).flatten().collect()
    }

    fn remove_deliveries(&mut self, host: &Host, ids: &HashSet<DeliveryId>) -> Vec<DeliveryId> {
        let mut removed = Vec::new();
        for &environment in Environment::ALL {
            let key = (environment, host.clone());
            let Some(queue) = self.queues.get_mut(&key) else { continue };
            queue.retain_mut(|batch| {
                let meant = batch.deliveries.extract_if(.., |delivery| ids.contains(&delivery.id));
                removed.extend(meant.map(|delivery| delivery.id));
                !batch.deliveries.is_empty()
            });
            if queue.is_empty() {
                self.queues.remove(&key);
                self.turns.retain(|other| *other != key);
            }
        }
        removed
    }

    fn has(&self, host: &Host) -> bool {
        Environment::ALL.iter().any(|&of| self.queues.contains_key(&(of, host.clone())))
    }

    fn take(&mut self, tenant: TenantId, deliveries_max: usize, admits: &dyn Admits) -> Vec<Batch> {
        let mut taken = Vec::new();
        let (mut room, mut skipped) = (deliveries_max, 0);
        while room > 0 && skipped < self.turns.len() {
            let Some(key) = self.turns.pop_front() else { break };
            let Some(queue) = self.queues.get_mut(&key) else { continue };
            if !queue.front().is_some_and(|first| may_go(first, tenant, room, admits)) {
                self.turns.push_back(key);
                skipped += 1;
                continue;
            }
            skipped = 0;
            if let Some(batch) = take_one(queue, room) {
                room -= batch.deliveries.len();
                taken.push(batch);
            }
            if queue.is_empty() {
                self.queues.remove(&key);
            } else {
                self.turns.push_back(key);
            }
        }
        taken
    }
}

/// Whether a batch, or as much of it as there is room for, may be claimed. Mail of the test environment goes nowhere, so
/// no destination stands in its way.
fn may_go(batch: &Batch, tenant: TenantId, room: usize, admits: &dyn Admits) -> bool {
    batch.message.environment == Environment::Test
        || admits.admits(tenant, &batch.destination, batch.deliveries.len().min(room))
}

/// The first batch, or as much of it as there is room for.
fn take_one(queue: &mut VecDeque<Batch>, room: usize) -> Option<Batch> {
    if queue.front()?.deliveries.len() <= room {
        return queue.pop_front();
    }
    let first = queue.front_mut()?;
    let part: Vec<Delivery> = first.deliveries.drain(..room).collect();
    Some(Batch { deliveries: part, ..first.clone_without_deliveries() })
}

impl Batch {
    fn clone_without_deliveries(&self) -> Self {
        Self {
            message: self.message.clone(),
            destination: self.destination.clone(),
            deliveries: Vec::new(),
            content: self.content.clone(),
        }
    }
}
