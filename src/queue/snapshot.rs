//! The snapshot of the queue manager: sites, reasons why mail waits, counts.

use std::collections::HashMap;
use std::sync::Arc;

use super::dispatch::{ConnectionCounts, QueueState};
use super::manager::QueueManager;
use super::queue_key::{NextHop, QueueKey};
use super::site::{Site, Sites};
use super::wait_reasons::{SiteStatus, WaitRecord};
use crate::clock::{Clock, Instant};
use crate::mail::{DomainName, Host, Timestamp};
use crate::model::{QueueFilter, WaitReason};
use crate::policy::site_limiter::SiteBackoff;

/// Maximum of domains of one site in the snapshot.
const DOMAINS_SHOWN_MAX: usize = 100;
/// Maximum of domains of one site for which a back-off is recorded.
const DOMAINS_POSTED_MAX: usize = 1000;

/// The state of the queue in memory at one moment.
#[derive(Debug, Clone, Default)]
pub struct QueueSnapshot {
    /// Every site with connections, waiting claims or a back-off, by name.
    pub sites: Vec<SiteStatus>,
    /// Recorded reasons why parts of the queue wait, in no order.
    pub reasons: Vec<(QueueFilter, WaitRecord)>,
    /// Claimed deliveries, being delivered or waiting.
    pub claimed: usize,
}

impl QueueManager {
    /// The state of the queue in memory.
    pub fn snapshot(&self, now: Timestamp) -> QueueSnapshot {
        let states = self.dispatcher().queue_states(self.clock().instant());
        let mx_sites = states.iter().filter_map(|state| match &state.queue_key.next_hop {
            NextHop::Mx(site, _) => Some(site),
            _ => None,
        });
        let domains = self.sites().domains(&mx_sites.collect::<Vec<_>>(), DOMAINS_SHOWN_MAX);
        let mut sites: Vec<SiteStatus> =
            states.iter().map(|state| describe(state, &domains, self.clock())).collect();
        sites.sort_by(|a, b| a.name.cmp(&b.name));
        QueueSnapshot { sites, reasons: self.wait_reasons().records(now), claimed: self.lock().claims() }
    }

    /// Open connections and back-offs: a scrape of the metrics does not copy the names of a snapshot.
    pub fn connection_counts(&self) -> ConnectionCounts {
        self.dispatcher().counts(self.clock().instant())
    }

    /// Ends the back-offs that affect a part of the queue.
    pub fn end_backoffs(&self, part: &QueueFilter) {
        let site = part.destination.as_ref().map(|destination| self.sites().find(destination));
        let is_meant = |queue_key: &QueueKey| match (&queue_key.next_hop, &site) {
            (NextHop::Mx(..), None) => true,
            (NextHop::Mx(other, _), Some(site)) => site.as_ref() == Some(other),
            (NextHop::Sandbox(tenant) | NextHop::TenantSmartHost(tenant, _), _) => {
                part.tenant_id.is_none_or(|meant| meant == *tenant)
            }
            (NextHop::Hosts(_), _) => true,
        };
        // That of another site costs a try at most.
        let mut announced = self.dispatcher().forget_all_announced(self.clock().instant());
        if let Some(site) = &site {
            let key = site.as_ref().map(|site| site.key());
            announced.retain(|announced| key.as_ref().is_some_and(|key| announced.has_key(key)));
        }
        let own = self.lift_backoffs(is_meant);
        self.announce_ends(announced, &own);
    }

    /// Ends the back-offs of some destination queues; returns their keys.
    pub(super) fn lift_backoffs(&self, is_meant: impl Fn(&QueueKey) -> bool) -> Vec<QueueKey> {
        let lifted = self.dispatcher().end_backoffs(is_meant);
        for subject in lifted.iter().flat_map(|queue_key| subjects(queue_key, self.sites())) {
            self.wait_reasons().lift(&subject, WaitReason::SiteBackoff);
        }
        self.wake();
        lifted
    }

    /// Records the back-off for the parts of the queue that it affects.
    pub(super) fn post_backoff(&self, queue_key: &QueueKey, backoff: &SiteBackoff) {
        for subject in subjects(queue_key, self.sites()) {
            self.post_for(subject, queue_key, backoff);
        }
    }

    /// Records the back-off of a site for a domain that was found to belong to it.
    pub(super) fn post_if_backed_off(&self, domain: &DomainName, queue_key: &QueueKey) {
        let backoff = self.dispatcher().backoff(queue_key, self.clock().instant());
        if let Some(backoff) = backoff {
            self.post_for(QueueFilter::destination(Host::Domain(domain.clone())), queue_key, &backoff);
        }
    }

    fn post_for(&self, subject: QueueFilter, queue_key: &QueueKey, backoff: &SiteBackoff) {
        let now = self.clock().now();
        let record = WaitRecord {
            reason: WaitReason::SiteBackoff,
            detail: format!("{} backs off after: {}", name_of(queue_key), backoff.reason),
            since: now,
            until: Some(time_of(backoff.until, self.clock())),
        };
        self.wait_reasons().post(subject, record, now);
    }
}

/// The name of a destination queue in the API and logs.
pub fn name_of(queue_key: &QueueKey) -> String {
    match &queue_key.next_hop {
        NextHop::Mx(site, _) => site.name.clone(),
        NextHop::Sandbox(_) => "sandbox".into(),
        NextHop::Hosts(route) => route.to_string(),
        NextHop::TenantSmartHost(_, smart_host) => smart_host.host.clone(),
    }
}

/// The parts of the queue whose mail is in a destination queue.
fn subjects(queue_key: &QueueKey, sites: &Sites) -> Vec<QueueFilter> {
    match &queue_key.next_hop {
        NextHop::Mx(site, _) => {
            let domains = sites.domains_of(site, DOMAINS_POSTED_MAX).into_iter();
            domains.map(|domain| QueueFilter::destination(Host::Domain(domain))).collect()
        }
        NextHop::Sandbox(tenant) | NextHop::TenantSmartHost(tenant, _) => vec![QueueFilter::tenant(*tenant)],
        // Hosts of the operator have no back-off.
        NextHop::Hosts(_) => Vec::new(),
    }
}

fn time_of(moment: Instant, clock: &Clock) -> Timestamp {
    let left = moment.saturating_duration_since(clock.instant());
    clock.now().checked_add(left).unwrap_or(Timestamp::MAX)
}

fn describe(state: &QueueState, domains: &HashMap<Arc<Site>, Vec<String>>, clock: &Clock) -> SiteStatus {
    let (tenant_id, domains) = match &state.queue_key.next_hop {
        NextHop::Sandbox(tenant) | NextHop::TenantSmartHost(tenant, _) => (Some(*tenant), None),
        NextHop::Hosts(_) => (None, None),
        NextHop::Mx(site, _) => (None, domains.get(site)),
    };
    SiteStatus {
        name: name_of(&state.queue_key),
        tenant_id,
        domains: domains.cloned().unwrap_or_default(),
        connections_max: state.limit,
        connections: state.in_use,
        waiting: state.waiting,
        backoff_until: state.backoff.as_ref().map(|backoff| time_of(backoff.until, clock)),
        reason: state.backoff.as_ref().map(|backoff| backoff.reason.clone()),
    }
}
