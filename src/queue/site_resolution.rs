//! Finds the sites of destinations that nobody knows yet, beside the scheduler, so that no answer of the DNS is waited
//! for by anything but the mail it is for. Tenants take turns here as well: one that writes to many domains whose name
//! servers are slow leaves look-ups for others.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::claim::Claim;
use super::manager::QueueManager;
use super::queue_key::MxRoute;
use super::scheduler::{DeliveryAgents, Scheduler};
use crate::mail::DomainName;
use crate::model::{TenantId, Weight};
use crate::policy::fair_queue::{FairQueue, Job, Turn};

/// Questions that are under way at one time, one for each domain.
const LOOKUPS_MAX: usize = 128;

/// A claim whose site is not known.
pub struct UnresolvedClaim {
    /// How it goes to its site.
    pub course: MxRoute,
    /// Its tenant's weight.
    pub weight: Weight,
    /// The claim.
    pub claim: Claim,
}

/// Claims whose site is not known.
pub struct SiteResolution(Mutex<FairQueue<TenantId, DomainName, UnresolvedClaim>>);

impl SiteResolution {
    /// Nothing waits.
    pub fn new() -> Self {
        Self(Mutex::new(FairQueue::new(LOOKUPS_MAX)))
    }

    /// Lines up a claim.
    pub fn push(&self, domain: DomainName, unresolved: UnresolvedClaim) {
        let UnresolvedClaim { weight, claim: Claim { batch, .. }, .. } = &unresolved;
        let (tenant, weight) = (batch.message.tenant_id, *weight);
        let cost = u32::try_from(batch.deliveries.len()).unwrap_or(u32::MAX);
        self.lock().push(Job { tenant, weight, lane: domain, cost, work: unresolved });
    }

    /// Deliveries that wait to hear of a domain: all, and the tenant's.
    pub fn waiting(&self, domain: &DomainName, tenant: &TenantId) -> (usize, usize) {
        self.lock().waiting(domain, tenant)
    }

    /// Takes out all claims that wait.
    pub fn drain(&self) -> Vec<UnresolvedClaim> {
        self.lock().drain()
    }

    fn lock(&self) -> MutexGuard<'_, FairQueue<TenantId, DomainName, UnresolvedClaim>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A: DeliveryAgents> Scheduler<'_, A> {
    /// Begins as many look-ups as may be under way.
    pub(super) fn begin_lookups(&self) {
        loop {
            let turn = self.queue.lookups.lock().take_turn(|_, _| 1);
            let Some(turn) = turn else { return };
            let (queue, agents, stop) = (self.queue.clone(), self.agents.clone(), self.stop.clone());
            self.agents.spawn(find(queue, agents, stop, turn));
        }
    }
}

async fn find<A: DeliveryAgents>(
    queue: Arc<QueueManager>,
    agents: Arc<A>,
    stop: CancellationToken,
    turn: Turn<TenantId, DomainName, UnresolvedClaim>,
) {
    let Turn { tenant, lane: domain, job } = turn;
    let hosts = tokio::select! {
        hosts = agents.mail_hosts(&domain) => hosts,
        // Dropping the claim gives it back.
        () = stop.cancelled() => return,
    };
    let site = queue.sites().learn(&domain, hosts);
    let others = {
        let mut lookups = queue.lookups.lock();
        lookups.free(&domain, &tenant);
        lookups.evict(&domain)
    };
    let mut lanes = HashSet::new();
    {
        let mut dispatcher = queue.dispatcher();
        for UnresolvedClaim { course, weight, claim } in std::iter::once(job).chain(others) {
            let lane = course.queue_to(site.clone());
            lanes.insert(lane.clone());
            dispatcher.push(lane, weight, claim, queue.clock().instant());
        }
    }
    lanes.iter().for_each(|lane| queue.post_if_backed_off(&domain, lane));
    queue.wake();
}
