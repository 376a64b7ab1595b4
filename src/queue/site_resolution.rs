//! Looks up the sites of unknown destinations in the background, so that a slow DNS delays only the mail for its domain.
//! Fair between tenants: one that sends to many domains with slow name servers leaves look-ups for others.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use super::claim::Claim;
use super::manager::QueueManager;
use super::queue_key::MxRoute;
use super::scheduler::{DeliveryAgents, Scheduler};
use crate::mail::DomainName;
use crate::model::{TenantId, Weight};
use crate::policy::fair_queue::{FairQueue, Grant, Job};

/// Maximum of look-ups in progress, one for each domain.
const LOOKUPS_MAX: usize = 128;

/// A claim whose site is unknown.
pub struct UnresolvedClaim {
    /// Its route to the site.
    pub mx_route: MxRoute,
    /// Its tenant's weight.
    pub weight: Weight,
    /// The claim.
    pub claim: Claim,
}

/// Claims whose site is unknown.
pub struct SiteResolution(Mutex<FairQueue<TenantId, DomainName, UnresolvedClaim>>);

impl SiteResolution {
    /// Without waiting claims.
    pub fn new() -> Self {
        Self(Mutex::new(FairQueue::new(LOOKUPS_MAX)))
    }

    /// Adds a claim.
    pub fn push(&self, domain: DomainName, unresolved: UnresolvedClaim) {
        let UnresolvedClaim { weight, claim: Claim { batch, .. }, .. } = &unresolved;
        let (tenant, weight) = (batch.message.tenant_id, *weight);
        let cost = u32::try_from(batch.deliveries.len()).unwrap_or(u32::MAX);
        self.lock().push(Job { tenant, weight, key: domain, cost, work: unresolved });
    }

    /// Deliveries that wait for the look-up of a domain: of all tenants, and of the tenant.
    pub fn waiting(&self, domain: &DomainName, tenant: &TenantId) -> (usize, usize) {
        self.lock().waiting(domain, tenant)
    }

    /// Removes and returns all waiting claims.
    pub fn drain(&self) -> Vec<UnresolvedClaim> {
        self.lock().drain()
    }

    fn lock(&self) -> MutexGuard<'_, FairQueue<TenantId, DomainName, UnresolvedClaim>> {
        self.0.lock()
    }
}

impl<A: DeliveryAgents> Scheduler<'_, A> {
    /// Starts look-ups up to the maximum.
    pub(super) fn begin_lookups(&self) {
        loop {
            let grant = self.queue.lookups.lock().grant_slot(|_, _| 1);
            let Some(grant) = grant else { return };
            let (queue, agents, stop) = (self.queue.clone(), self.agents.clone(), self.stop.clone());
            self.agents.spawn(find(queue, agents, stop, grant));
        }
    }
}

async fn find<A: DeliveryAgents>(
    queue: Arc<QueueManager>,
    agents: Arc<A>,
    stop: CancellationToken,
    grant: Grant<TenantId, DomainName, UnresolvedClaim>,
) {
    let Grant { tenant, key: domain, job } = grant;
    let hosts = tokio::select! {
        hosts = agents.mail_hosts(&domain) => hosts,
        // Dropping the claim releases it.
        () = stop.cancelled() => return,
    };
    let site = queue.sites().learn(&domain, hosts);
    let others = {
        let mut lookups = queue.lookups.lock();
        lookups.free(&domain, &tenant);
        lookups.evict(&domain)
    };
    let mut queue_keys = HashSet::new();
    {
        let mut dispatcher = queue.dispatcher();
        for UnresolvedClaim { mx_route, weight, claim } in std::iter::once(job).chain(others) {
            let queue_key = mx_route.queue_to(site.clone());
            queue_keys.insert(queue_key.clone());
            dispatcher.push(queue_key, weight, claim, queue.clock().instant());
        }
    }
    queue_keys.iter().for_each(|queue_key| queue.post_if_backed_off(&domain, queue_key));
    queue.wake();
}
