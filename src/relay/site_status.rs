//! How the relay does, site by site, for people who ask why something waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::RelayContext;
use super::dispatch::{Dispatcher, LaneState};
use super::route::{NextHop, QueueKey};
use super::site::{Site, Sites};
use crate::mail::{DomainName, Host, Timestamp};
use crate::model::{QueueFilter, WaitReason};
use crate::policy::concurrency_limiter::SiteBackoff;
use crate::queue::wait_reasons::{SiteStatus, WaitRecord, WaitRegistry};

/// Domains of one site that are named.
const DOMAINS_SHOWN_MAX: usize = 100;
/// Domains of one site that a hold is posted for.
const DOMAINS_POSTED_MAX: usize = 1000;

/// Tells and changes what the relay holds against sites, while it runs. Cheap to clone.
#[derive(Clone)]
pub struct SiteControl {
    pub(super) turns: Arc<Mutex<Dispatcher>>,
    pub(super) sites: Arc<Sites>,
    pub(super) wake: Arc<Notify>,
    pub(super) waiting: Arc<WaitRegistry>,
}

impl SiteControl {
    fn turns(&self) -> MutexGuard<'_, Dispatcher> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl crate::queue::wait_reasons::Sites for SiteControl {
    fn statuses(&self) -> Vec<SiteStatus> {
        let lanes = self.turns().lanes(Instant::now());
        let domains = self.sites.domains();
        let mut statuses: Vec<SiteStatus> = lanes.iter().map(|lane| describe(lane, &domains)).collect();
        statuses.sort_by(|a, b| a.name.cmp(&b.name));
        statuses
    }

    fn release(&self, part: &QueueFilter) {
        let site = part.destination.as_ref().map(|destination| self.sites.find(destination));
        let is_meant = |lane: &QueueKey| match (&lane.next_hop, &site) {
            (NextHop::Mx(..), None) => true,
            (NextHop::Mx(other, _), Some(site)) => site.as_ref() == Some(other),
            (NextHop::Sandbox(tenant) | NextHop::TenantSmartHost(tenant, _), _) => {
                part.tenant_id.is_none_or(|meant| meant == *tenant)
            }
            (NextHop::Hosts(_), _) => true,
        };
        let lifted = self.turns().lift_holds(is_meant);
        for subject in lifted.iter().flat_map(|lane| subjects(lane, &self.sites)) {
            self.waiting.lift(&subject, WaitReason::SiteBackoff);
        }
        self.wake.notify_one();
    }
}

/// What people see of a lane.
pub fn name_of(lane: &QueueKey) -> String {
    match &lane.next_hop {
        NextHop::Mx(site, _) => site.name.clone(),
        NextHop::Sandbox(_) => "sandbox".into(),
        NextHop::Hosts(route) => route.to_string(),
        NextHop::TenantSmartHost(_, smart_host) => smart_host.host.clone(),
    }
}

/// Whose mail a lane carries.
fn subjects(lane: &QueueKey, sites: &Sites) -> Vec<QueueFilter> {
    match &lane.next_hop {
        NextHop::Mx(site, _) => {
            let domains = sites.domains_of(site, DOMAINS_POSTED_MAX).into_iter();
            domains.map(|domain| QueueFilter::destination(Host::Domain(domain))).collect()
        }
        NextHop::Sandbox(tenant) | NextHop::TenantSmartHost(tenant, _) => vec![QueueFilter::tenant(*tenant)],
        // The platform's own choice, which is never on hold.
        NextHop::Hosts(_) => Vec::new(),
    }
}

/// Tells people what is held back, and why.
pub fn post(core: &RelayContext, lane: &QueueKey, hold: &SiteBackoff) {
    for subject in subjects(lane, &core.sites) {
        post_for(core, subject, lane, hold);
    }
}

/// The same for a domain that is found to be at a site on hold.
pub fn post_if_held(core: &RelayContext, domain: &DomainName, lane: &QueueKey) {
    let hold = core.turns().hold(lane, Instant::now());
    if let Some(hold) = hold {
        post_for(core, QueueFilter::destination(Host::Domain(domain.clone())), lane, &hold);
    }
}

fn post_for(core: &RelayContext, subject: QueueFilter, lane: &QueueKey, hold: &SiteBackoff) {
    let now = Timestamp::now();
    let notice = WaitRecord {
        reason: WaitReason::SiteBackoff,
        detail: format!("{} is left alone for a time after: {}", name_of(lane), hold.reason),
        since: now,
        until: Some(time_of(hold.until)),
    };
    core.waiting.post(subject, notice, now);
}

fn time_of(moment: Instant) -> Timestamp {
    let left = moment.saturating_duration_since(Instant::now());
    Timestamp::now().checked_add(left).unwrap_or(Timestamp::MAX)
}

fn describe(state: &LaneState, domains: &HashMap<Arc<Site>, Vec<DomainName>>) -> SiteStatus {
    let tenant_id = match &state.lane.next_hop {
        NextHop::Sandbox(tenant) | NextHop::TenantSmartHost(tenant, _) => Some(*tenant),
        NextHop::Mx(..) | NextHop::Hosts(_) => None,
    };
    let mut domains: Vec<String> = match &state.lane.next_hop {
        NextHop::Mx(site, _) => domains.get(site).into_iter().flatten().map(ToString::to_string).collect(),
        _ => Vec::new(),
    };
    domains.sort();
    domains.truncate(DOMAINS_SHOWN_MAX);
    SiteStatus {
        name: name_of(&state.lane),
        tenant_id,
        domains,
        connections_max: state.limit,
        connections: state.in_use,
        waiting: state.waiting,
        held_until: state.hold.as_ref().map(|hold| time_of(hold.until)),
        reason: state.hold.as_ref().map(|hold| hold.reason.clone()),
    }
}
