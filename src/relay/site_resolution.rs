//! Finds the sites of destinations that nobody knows yet, beside the scheduler, so that no answer of the DNS is waited
//! for by anything but the mail it is for. Tenants take turns here as well: one that writes to many domains whose name
//! servers are slow leaves look-ups for others.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::route::MxRoute;
use super::worker::Claim;
use super::{RelayContext, site_status};
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
    pub fn push(&self, domain: DomainName, unplaced: UnresolvedClaim) {
        let UnresolvedClaim { weight, claim: Claim { batch, .. }, .. } = &unplaced;
        let (tenant, weight) = (batch.message.tenant_id, *weight);
        let cost = u32::try_from(batch.deliveries.len()).unwrap_or(u32::MAX);
        self.lock().push(Job { tenant, weight, lane: domain, cost, work: unplaced });
    }

    /// Deliveries that wait to hear of a domain: all, and the tenant's.
    pub fn waiting(&self, domain: &DomainName, tenant: &TenantId) -> (usize, usize) {
        self.lock().waiting(domain, tenant)
    }

    /// Takes out all claims that wait, to be dropped outside of any lock.
    pub fn drain(&self) -> Vec<UnresolvedClaim> {
        self.lock().drain()
    }

    fn lock(&self) -> MutexGuard<'_, FairQueue<TenantId, DomainName, UnresolvedClaim>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins as many look-ups as may be under way.
pub fn begin(core: &Arc<RelayContext>) {
    loop {
        let turn = core.lookups.lock().take_turn(|_, _| 1);
        let Some(turn) = turn else { return };
        core.tasks.spawn(find(core.clone(), turn));
    }
}

async fn find(core: Arc<RelayContext>, turn: Turn<TenantId, DomainName, UnresolvedClaim>) {
    let Turn { tenant, lane: domain, job } = turn;
    let site = tokio::select! {
        site = core.sites.look_up(&domain) => site,
        // Dropping the claim gives it back.
        () = core.stop.cancelled() => return,
    };
    let others = {
        let mut lookups = core.lookups.lock();
        lookups.free(&domain, &tenant);
        lookups.evict(&domain)
    };
    let mut lanes = HashSet::new();
    let mut refused = Vec::new();
    {
        let mut turns = core.turns();
        for UnresolvedClaim { course, weight, claim } in std::iter::once(job).chain(others) {
            let lane = course.queue_to(site.clone());
            lanes.insert(lane.clone());
            refused.extend(turns.push(lane, weight, claim, Instant::now()));
        }
    }
    drop(refused);
    lanes.iter().for_each(|lane| site_status::post_if_held(&core, &domain, lane));
    core.wake.notify_one();
}
