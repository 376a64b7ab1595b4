//! Decides what may be claimed: nothing for a destination queue that backs off, and for a crowded one only mail of tenants
//! with few deliveries waiting there.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::claim_pass::Admits;
use super::manager::QueueManager;
use super::queue_key::{QueueKey, RouteDecision};
use super::scheduler::DeliveryAgents;
use crate::mail::Host;
use crate::model::TenantId;

/// The filter of one claim pass. Admitted deliveries count as waiting for the rest of the pass.
pub struct ClaimFilter<A> {
    queue: Arc<QueueManager>,
    agents: Arc<A>,
    admitted: Mutex<Admitted>,
}

#[derive(Default)]
struct Admitted {
    by_queue: HashMap<QueueKey, usize>,
    by_tenant: HashMap<(QueueKey, TenantId), usize>,
}

impl<A: DeliveryAgents> ClaimFilter<A> {
    /// For a pass that begins now.
    pub fn begin(queue: &Arc<QueueManager>, agents: &Arc<A>) -> Arc<dyn Admits> {
        Arc::new(Self { queue: queue.clone(), agents: agents.clone(), admitted: Mutex::default() })
    }

    fn queue_key_of(&self, tenant: TenantId, destination: &Host) -> Option<(QueueKey, (usize, usize))> {
        let queue = &self.queue;
        let mx_route = match self.agents.known_route(tenant, destination)? {
            RouteDecision::Known(queue_key) => return Some((queue_key, (0, 0))),
            RouteDecision::Mx(mx_route) => mx_route,
        };
        let known = queue.sites().find(destination);
        let waiting = match (&known, destination) {
            (None, Host::Domain(domain)) => queue.lookups.waiting(domain, &tenant),
            _ => (0, 0),
        };
        let site = known.unwrap_or_else(|| queue.sites().provisional(destination));
        Some((mx_route.queue_to(site), waiting))
    }
}

impl<A: DeliveryAgents> Admits for ClaimFilter<A> {
    fn admits(&self, tenant: TenantId, destination: &Host, deliveries: usize) -> bool {
        // The claim table handles suspended tenants. A tenant that is not cached may have a route of its own: then its
        // destination queue decides once it is known.
        let Some((queue_key, unplaced)) = self.queue_key_of(tenant, destination) else { return true };
        let mut admitted = self.admitted.lock();
        let key = (queue_key, tenant);
        let of_queue = admitted.by_queue.get(&key.0).copied().unwrap_or(0);
        let of_tenant = admitted.by_tenant.get(&key).copied().unwrap_or(0);
        let more = (unplaced.0 + of_queue, unplaced.1 + of_tenant);
        if !self.queue.dispatcher().has_capacity(&key.0, &tenant, more, self.queue.clock().instant()) {
            return false;
        }
        *admitted.by_queue.entry(key.0.clone()).or_default() += deliveries;
        *admitted.by_tenant.entry(key).or_default() += deliveries;
        true
    }
}
