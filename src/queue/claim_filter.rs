//! What may be claimed: nothing for a lane that is left alone, and of a crowded one only for tenants that have little waiting there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::claim_pass::Admits;
use super::manager::QueueManager;
use super::queue_key::{QueueKey, RouteDecision};
use super::scheduler::DeliveryAgents;
use crate::mail::Host;
use crate::model::TenantId;

/// One claim's view: what it admits counts for the rest of it.
pub struct ClaimFilter<A> {
    queue: Arc<QueueManager>,
    agents: Arc<A>,
    admitted: Mutex<Admitted>,
}

#[derive(Default)]
struct Admitted {
    by_lane: HashMap<QueueKey, usize>,
    by_tenant: HashMap<(QueueKey, TenantId), usize>,
}

impl<A: DeliveryAgents> ClaimFilter<A> {
    /// For a claim that begins now.
    pub fn begin(queue: &Arc<QueueManager>, agents: &Arc<A>) -> Arc<dyn Admits> {
        Arc::new(Self { queue: queue.clone(), agents: agents.clone(), admitted: Mutex::default() })
    }

    fn lane_of(&self, tenant: TenantId, destination: &Host) -> Option<(QueueKey, (usize, usize))> {
        let queue = &self.queue;
        let course = match self.agents.known_route(tenant, destination)? {
            RouteDecision::Known(lane) => return Some((lane, (0, 0))),
            RouteDecision::Mx(course) => course,
        };
        let known = queue.sites().find(destination);
        let waiting = match (&known, destination) {
            (None, Host::Domain(domain)) => queue.lookups.waiting(domain, &tenant),
            _ => (0, 0),
        };
        let site = known.unwrap_or_else(|| queue.sites().provisional(destination));
        Some((course.queue_to(site), waiting))
    }
}

impl<A: DeliveryAgents> Admits for ClaimFilter<A> {
    fn admits(&self, tenant: TenantId, destination: &Host, deliveries: usize) -> bool {
        // What is suspended is known to the claim table. A tenant that is not remembered may have a way of its own: once it
        // is placed, its lane decides.
        let Some((lane, unplaced)) = self.lane_of(tenant, destination) else { return true };
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (lane, tenant);
        let of_lane = admitted.by_lane.get(&key.0).copied().unwrap_or(0);
        let of_tenant = admitted.by_tenant.get(&key).copied().unwrap_or(0);
        let more = (unplaced.0 + of_lane, unplaced.1 + of_tenant);
        if !self.queue.dispatcher().has_room(&key.0, &tenant, more, self.queue.clock().instant()) {
            return false;
        }
        *admitted.by_lane.entry(key.0.clone()).or_default() += deliveries;
        *admitted.by_tenant.entry(key).or_default() += deliveries;
        true
    }
}
