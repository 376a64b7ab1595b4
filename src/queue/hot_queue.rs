//! Accepted messages that wait in memory for delivery: a queue for each tenant and destination, so that a busy destination
//! delays no other.

use std::collections::{HashMap, HashSet, VecDeque};

use super::claim_pass::Admits;
use crate::mail::Host;
use crate::model::{DeliveryId, Environment, TenantId};
use crate::store::{Batch, Delivery};

/// Maximum of destinations in a row that the filter refuses in one call, because the claim table is locked. They moved to the
/// end of the rotation, so the next call continues behind them.
const REFUSED_MAX: usize = 64;

#[derive(Default)]
pub(super) struct HotQueue {
    tenants: HashMap<TenantId, TenantQueues>,
}

/// The queues of one tenant.
#[derive(Default)]
struct TenantQueues {
    queues: HashMap<(Environment, Host), VecDeque<Batch>>,
    /// The order of destinations with mail, each once.
    rotation: VecDeque<(Environment, Host)>,
}

impl HotQueue {
    pub(super) fn push(&mut self, tenant: TenantId, batch: Batch) {
        let queues = self.tenants.entry(tenant).or_default();
        let key = (batch.message.environment, batch.destination.clone());
        let queue = queues.queues.entry(key.clone()).or_default();
        if queue.is_empty() {
            queues.rotation.push_back(key);
        }
        queue.push_back(batch);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// Whether a tenant has mail.
    pub(super) fn has(&self, tenant: TenantId) -> bool {
        self.tenants.contains_key(&tenant)
    }

    /// Takes at most `deliveries_max` deliveries of a tenant that `admits` allows.
    pub(super) fn take(
        &mut self,
        tenant: TenantId,
        deliveries_max: usize,
        admits: &dyn Admits,
    ) -> Vec<Batch> {
        let Some(queues) = self.tenants.get_mut(&tenant) else { return Vec::new() };
        let taken = queues.take(tenant, deliveries_max, admits);
        if queues.queues.is_empty() {
            self.tenants.remove(&tenant);
        }
        taken
    }

    /// Removes the queues of a tenant that are meant; returns their deliveries.
    pub(super) fn remove(
        &mut self,
        tenant: TenantId,
        is_meant: impl Fn(Environment, &Host) -> bool,
    ) -> Vec<DeliveryId> {
        let Some(queues) = self.tenants.get_mut(&tenant) else { return Vec::new() };
        let removed = queues.remove(is_meant);
        if queues.queues.is_empty() {
            self.tenants.remove(&tenant);
        }
        removed.into_iter().flat_map(|batch| batch.deliveries).map(|delivery| delivery.id).collect()
    }

    /// Removes deliveries for a destination; returns those that were here.
    pub(super) fn remove_deliveries(
        &mut self,
        tenant: TenantId,
        host: &Host,
        ids: &HashSet<DeliveryId>,
    ) -> Vec<DeliveryId> {
        let Some(queues) = self.tenants.get_mut(&tenant) else { return Vec::new() };
        let removed = queues.remove_deliveries(host, ids);
        if queues.queues.is_empty() {
            self.tenants.remove(&tenant);
        }
        removed
    }

    /// Tenants with mail.
    pub(super) fn tenants(&self) -> Vec<TenantId> {
        self.tenants.keys().copied().collect()
    }

    /// Tenants with mail for a destination.
    pub(super) fn tenants_with(&self, host: &Host) -> Vec<TenantId> {
        let with = self.tenants.iter().filter(|(_, queues)| queues.has(host));
        with.map(|(tenant, _)| *tenant).collect()
    }
}

impl TenantQueues {
    fn remove(&mut self, is_meant: impl Fn(Environment, &Host) -> bool) -> Vec<Batch> {
        self.rotation.retain(|(environment, host)| !is_meant(*environment, host));
        let removed = self.queues.extract_if(|(environment, host), _| is_meant(*environment, host));
        removed.flat_map(|(_, batches)| batches).collect()
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
                self.rotation.retain(|other| *other != key);
            }
        }
        removed
    }

    fn has(&self, host: &Host) -> bool {
        Environment::ALL.iter().any(|&of| self.queues.contains_key(&(of, host.clone())))
    }

    fn take(&mut self, tenant: TenantId, deliveries_max: usize, admits: &dyn Admits) -> Vec<Batch> {
        let mut taken = Vec::new();
        let (mut capacity, mut skipped) = (deliveries_max, 0);
        while capacity > 0 && skipped < self.rotation.len().min(REFUSED_MAX) {
            let Some(key) = self.rotation.pop_front() else { break };
            let Some(queue) = self.queues.get_mut(&key) else { continue };
            if !queue.front().is_some_and(|first| may_go(first, tenant, capacity, admits)) {
                self.rotation.push_back(key);
                skipped += 1;
                continue;
            }
            skipped = 0;
            if let Some(batch) = take_one(queue, capacity) {
                capacity -= batch.deliveries.len();
                taken.push(batch);
            }
            if queue.is_empty() {
                self.queues.remove(&key);
            } else {
                self.rotation.push_back(key);
            }
        }
        taken
    }
}

/// Whether a batch may be claimed, up to the capacity. Mail of the test environment is not sent, so it needs no capacity of
/// a destination.
fn may_go(batch: &Batch, tenant: TenantId, capacity: usize, admits: &dyn Admits) -> bool {
    batch.message.environment == Environment::Test
        || admits.admits(tenant, &batch.destination, batch.deliveries.len().min(capacity))
}

/// Takes the first batch, up to the capacity.
fn take_one(queue: &mut VecDeque<Batch>, capacity: usize) -> Option<Batch> {
    if queue.front()?.deliveries.len() <= capacity {
        return queue.pop_front();
    }
    let first = queue.front_mut()?;
    let part: Vec<Delivery> = first.deliveries.drain(..capacity).collect();
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
