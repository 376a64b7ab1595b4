//! What people see of the queue manager: sites, reasons to wait, counts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::dispatch::{ConnectionCounts, QueueState};
use super::manager::QueueManager;
use super::queue_key::{NextHop, QueueKey};
use super::site::{Site, Sites};
use super::wait_reasons::{SiteStatus, WaitRecord};
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
    /// Deliveries that are claimed, whether they are being delivered or wait.
    pub claimed: usize,
}

impl QueueManager {
    /// What waits in memory and why.
    pub fn snapshot(&self, now: Timestamp) -> QueueSnapshot {
        let states = self.dispatcher().queue_states(Instant::now());
        let mx_sites = states.iter().filter_map(|state| match &state.queue_key.next_hop {
            NextHop::Mx(site, _) => Some(site),
            _ => None,
        });
        let domains = self.sites().domains(&mx_sites.collect::<Vec<_>>(), DOMAINS_SHOWN_MAX);
        let mut sites: Vec<SiteStatus> = states.iter().map(|state| describe(state, &domains)).collect();
        sites.sort_by(|a, b| a.name.cmp(&b.name));
        QueueSnapshot { sites, reasons: self.wait_reasons().records(now), claimed: self.lock().claims() }
    }

    /// Open connections and back-offs: a scrape of the metrics does not copy the names of a snapshot.
    pub fn connection_counts(&self) -> ConnectionCounts {
        self.dispatcher().counts(Instant::now())
    }

    /// Ends the back-offs of sites in the way of a part of the queue, before their time.
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
        let lifted = self.dispatcher().end_backoffs(is_meant);
        for subject in lifted.iter().flat_map(|queue_key| subjects(queue_key, self.sites())) {
            self.wait_reasons().lift(&subject, WaitReason::SiteBackoff);
        }
        self.wake();
    }

    /// Tells people what is held back, and why.
    pub(super) fn post_backoff(&self, queue_key: &QueueKey, backoff: &SiteBackoff) {
        for subject in subjects(queue_key, self.sites()) {
            self.post_for(subject, queue_key, backoff);
        }
    }

    /// The same for a domain that is found to be at a site that is left alone.
    pub(super) fn post_if_backed_off(&self, domain: &DomainName, queue_key: &QueueKey) {
        let backoff = self.dispatcher().backoff(queue_key, Instant::now());
        if let Some(backoff) = backoff {
            self.post_for(QueueFilter::destination(Host::Domain(domain.clone())), queue_key, &backoff);
        }
    }

    fn post_for(&self, subject: QueueFilter, queue_key: &QueueKey, backoff: &SiteBackoff) {
        let now = Timestamp::now();
        let record = WaitRecord {
            reason: WaitReason::SiteBackoff,
            detail: format!("{} is left alone for a time after: {}", name_of(queue_key), backoff.reason),
            since: now,
            until: Some(time_of(backoff.until)),
        };
        self.wait_reasons().post(subject, record, now);
    }
}

/// What people see of a destination queue.
pub fn name_of(queue_key: &QueueKey) -> String {
    match &queue_key.next_hop {
        NextHop::Mx(site, _) => site.name.clone(),
        NextHop::Sandbox(_) => "sandbox".into(),
        NextHop::Hosts(route) => route.to_string(),
        NextHop::TenantSmartHost(_, smart_host) => smart_host.host.clone(),
    }
}

/// Whose mail a destination queue carries.
fn subjects(queue_key: &QueueKey, sites: &Sites) -> Vec<QueueFilter> {
    match &queue_key.next_hop {
        NextHop::Mx(site, _) => {
            let domains = sites.domains_of(site, DOMAINS_POSTED_MAX).into_iter();
            domains.map(|domain| QueueFilter::destination(Host::Domain(domain))).collect()
        }
        NextHop::Sandbox(tenant) | NextHop::TenantSmartHost(tenant, _) => vec![QueueFilter::tenant(*tenant)],
        // The platform's own choice, which is never left alone.
        NextHop::Hosts(_) => Vec::new(),
    }
}

fn time_of(moment: Instant) -> Timestamp {
    let left = moment.saturating_duration_since(Instant::now());
    Timestamp::now().checked_add(left).unwrap_or(Timestamp::MAX)
}

fn describe(state: &QueueState, domains: &HashMap<Arc<Site>, Vec<String>>) -> SiteStatus {
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
        backoff_until: state.backoff.as_ref().map(|backoff| time_of(backoff.until)),
        reason: state.backoff.as_ref().map(|backoff| backoff.reason.clone()),
    }
}
