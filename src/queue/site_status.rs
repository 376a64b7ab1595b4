//! What people see of the queue manager: sites, reasons to wait, counts.

use std::collections::HashMap;
use std::sync::Arc;

use super::dispatch::LaneState;
use super::manager::QueueManager;
use super::queue_key::{NextHop, QueueKey};
use super::site::{Site, Sites};
use super::wait_reasons::{SiteStatus, WaitRecord};
use crate::clock::{Clock, Instant};
use crate::mail::{DomainName, Host, Timestamp};
use crate::model::{QueueFilter, WaitReason};
use crate::policy::concurrency_limiter::SiteBackoff;

/// Domains of one site that are named.
const DOMAINS_SHOWN_MAX: usize = 100;
/// Domains of one site that a back-off is posted for.
const DOMAINS_POSTED_MAX: usize = 1000;

/// What waits in memory and why, at one moment.
#[derive(Debug, Clone, Default)]
pub struct QueueSnapshot {
    /// Every site that is in use, waited for, or left alone, by name.
    pub sites: Vec<SiteStatus>,
    /// Why parts of the queue wait, where only the relay knows it, in no order.
    pub reasons: Vec<(QueueFilter, WaitRecord)>,
    /// Open connections to other servers.
    pub connections: usize,
    /// Deliveries that are claimed, whether they are being delivered or wait.
    pub claimed: usize,
}

impl QueueManager {
    /// What waits in memory and why.
    pub fn snapshot(&self, now: Timestamp) -> QueueSnapshot {
        let lanes = self.dispatcher().lanes(self.clock().instant());
        let of_lanes = lanes.iter().filter_map(|state| match &state.lane.next_hop {
            NextHop::Mx(site, _) => Some(site),
            _ => None,
        });
        let domains = self.sites().domains(&of_lanes.collect::<Vec<_>>(), DOMAINS_SHOWN_MAX);
        let mut sites: Vec<SiteStatus> =
            lanes.iter().map(|lane| describe(lane, &domains, self.clock())).collect();
        sites.sort_by(|a, b| a.name.cmp(&b.name));
        QueueSnapshot {
            connections: sites.iter().map(|site| site.connections).sum(),
            sites,
            reasons: self.wait_reasons().notices(now),
            claimed: self.lock().claims(),
        }
    }

    /// Ends the back-offs of sites in the way of a part of the queue, before their time.
    pub fn end_backoffs(&self, part: &QueueFilter) {
        let site = part.destination.as_ref().map(|destination| self.sites().find(destination));
        let is_meant = |lane: &QueueKey| match (&lane.next_hop, &site) {
            (NextHop::Mx(..), None) => true,
            (NextHop::Mx(other, _), Some(site)) => site.as_ref() == Some(other),
            (NextHop::Sandbox(tenant) | NextHop::TenantSmartHost(tenant, _), _) => {
                part.tenant_id.is_none_or(|meant| meant == *tenant)
            }
            (NextHop::Hosts(_), _) => true,
        };
        let lifted = self.dispatcher().end_backoffs(is_meant);
        for subject in lifted.iter().flat_map(|lane| subjects(lane, self.sites())) {
            self.wait_reasons().lift(&subject, WaitReason::SiteBackoff);
        }
        self.wake();
    }

    /// Tells people what is held back, and why.
    pub(super) fn post_backoff(&self, lane: &QueueKey, backoff: &SiteBackoff) {
        for subject in subjects(lane, self.sites()) {
            self.post_for(subject, lane, backoff);
        }
    }

    /// The same for a domain that is found to be at a site that is left alone.
    pub(super) fn post_if_backed_off(&self, domain: &DomainName, lane: &QueueKey) {
        let backoff = self.dispatcher().backoff(lane, self.clock().instant());
        if let Some(backoff) = backoff {
            self.post_for(QueueFilter::destination(Host::Domain(domain.clone())), lane, &backoff);
        }
    }

    fn post_for(&self, subject: QueueFilter, lane: &QueueKey, backoff: &SiteBackoff) {
        let now = self.clock().now();
        let record = WaitRecord {
            reason: WaitReason::SiteBackoff,
            detail: format!("{} is left alone for a time after: {}", name_of(lane), backoff.reason),
            since: now,
            until: Some(time_of(backoff.until, self.clock())),
        };
        self.wait_reasons().post(subject, record, now);
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
        // The platform's own choice, which is never left alone.
        NextHop::Hosts(_) => Vec::new(),
    }
}

fn time_of(moment: Instant, clock: &Clock) -> Timestamp {
    let left = moment.saturating_duration_since(clock.instant());
    clock.now().checked_add(left).unwrap_or(Timestamp::MAX)
}

fn describe(state: &LaneState, domains: &HashMap<Arc<Site>, Vec<String>>, clock: &Clock) -> SiteStatus {
    let (tenant_id, domains) = match &state.lane.next_hop {
        NextHop::Sandbox(tenant) | NextHop::TenantSmartHost(tenant, _) => (Some(*tenant), None),
        NextHop::Hosts(_) => (None, None),
        NextHop::Mx(site, _) => (None, domains.get(site)),
    };
    SiteStatus {
        name: name_of(&state.lane),
        tenant_id,
        domains: domains.cloned().unwrap_or_default(),
        connections_max: state.limit,
        connections: state.in_use,
        waiting: state.waiting,
        held_until: state.backoff.as_ref().map(|backoff| time_of(backoff.until, clock)),
        reason: state.backoff.as_ref().map(|backoff| backoff.reason.clone()),
    }
}
