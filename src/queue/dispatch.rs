//! Chooses the next claim to deliver: fair between tenants, under the limits and back-offs of destination queues.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::announced_backoffs::{AnnouncedBackoffs, AnnouncedSite};
use super::claim::Claim;
use super::queue_key::{NextHop, QueueKey};
use crate::clock::Instant;
use crate::model::{DeliveryId, TenantId, Weight};
use crate::policy::fair_queue::{FairQueue, Grant, Job, reserved_in_queue};
use crate::policy::site_feedback::SiteFeedback;
use crate::policy::site_limiter::{Allowance, Rule, SiteBackoff, SiteLimiter};

/// Maximum of destination queues with a limiter. Above it, the limiters of unused ones are removed.
const QUEUES_MAX: usize = 20_000;
/// The limiter of a destination queue that was unused for this long is removed.
const QUEUE_IDLE_MAX: Duration = Duration::from_secs(30 * 60);
/// Above this many waiting deliveries in a destination queue, only tenants without any there get more.
const CROWDED_AT: usize = 512;

/// Claims that wait for a slot, and the limiters of their destination queues.
pub struct Dispatcher {
    fairness: FairQueue<TenantId, QueueKey, Claim>,
    limiters: HashMap<QueueKey, SiteLimiter>,
    /// When destination queues with waiting claims may send again.
    reopenings: BTreeMap<(Instant, u64), QueueKey>,
    reopenings_noted: u64,
    default_rule: Rule,
    /// The nodes that share the limits of sites.
    nodes: u32,
    /// Back-offs that other nodes have announced.
    announced: AnnouncedBackoffs,
}

/// The effect of the feedback of an attempt on other claims.
#[derive(Default)]
pub struct FeedbackEffect {
    /// Claims that waited for a destination queue that now backs off; dropping them releases them.
    pub evicted: Vec<Claim>,
    /// The back-off, if it is new.
    pub backoff: Option<SiteBackoff>,
    /// Whether the connection limit grew.
    pub grew: bool,
}

/// The state of a destination queue.
pub struct QueueState {
    /// Its key.
    pub queue_key: QueueKey,
    /// Its connection limit.
    pub limit: usize,
    /// Its connections.
    pub in_use: usize,
    /// Claimed deliveries that wait for a connection.
    pub waiting: usize,
    /// The active back-off.
    pub backoff: Option<SiteBackoff>,
}

/// How many connections and back-offs there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionCounts {
    /// Open connections to other servers.
    pub connections: usize,
    /// Destination queues that back off.
    pub backoffs: usize,
}

impl Dispatcher {
    /// Without waiting claims. `default_rule` applies to destination queues without a rule.
    pub fn new(connections_max: usize, default_rule: Rule) -> Self {
        Self {
            fairness: FairQueue::new(connections_max),
            limiters: HashMap::new(),
            reopenings: BTreeMap::new(),
            reopenings_noted: 0,
            default_rule,
            nodes: 1,
            announced: AnnouncedBackoffs::default(),
        }
    }

    /// Shares the limits of sites with other nodes. `nodes` is their number, with this one.
    pub fn share_among(&mut self, nodes: u32) {
        if self.nodes == nodes {
            return;
        }
        self.nodes = nodes;
        for (queue_key, limiter) in &mut self.limiters {
            limiter.share_among(nodes);
            self.fairness.reopen(queue_key);
        }
    }

    /// Adds a claim of a tenant with this weight. Releases it if the destination queue backs off or has no capacity: its
    /// destination queue was unknown when it was claimed, and it would keep other mail from being claimed.
    pub fn push(&mut self, queue_key: QueueKey, weight: Weight, claim: Claim, now: Instant) {
        let tenant = claim.batch.message.tenant_id;
        if !self.has_capacity(&queue_key, &tenant, (0, 0), now) {
            return;
        }
        if !self.limiters.contains_key(&queue_key) {
            if self.limiters.len() >= QUEUES_MAX {
                self.forget_idle(Duration::ZERO, now);
            }
            let mut limiter = SiteLimiter::new(self.rule_of(&queue_key), now);
            limiter.share_among(self.nodes);
            self.limiters.insert(queue_key.clone(), limiter);
        }
        self.fairness.push(Job {
            tenant,
            weight,
            key: queue_key,
            cost: u32::try_from(claim.batch.deliveries.len()).unwrap_or(u32::MAX),
            work: claim,
        });
    }

    fn rule_of(&self, queue_key: &QueueKey) -> Rule {
        match &queue_key.next_hop {
            NextHop::Mx(site, _) => site.rule.clone(),
            NextHop::TenantSmartHost(..) => self.default_rule.clone(),
            // Hosts of the operator have no back-off. The sandbox of each node is its own.
            NextHop::Hosts(_) => Rule { trusted: true, ..self.default_rule.clone() },
            NextHop::Sandbox(_) => Rule { trusted: true, per_node: true, ..self.default_rule.clone() },
        }
    }

    /// Grants a slot to the next claim.
    pub fn grant(&mut self, now: Instant) -> Option<Grant<TenantId, QueueKey, Claim>> {
        let Self { fairness, limiters, reopenings, reopenings_noted, .. } = self;
        let grant = fairness.grant_slot(|queue_key, in_use| {
            match limiters.get(queue_key).map_or(Allowance::UpTo(1), |limiter| limiter.allowance(in_use, now))
            {
                Allowance::UpTo(connections) => connections,
                Allowance::NotBefore(until) => {
                    *reopenings_noted += 1;
                    reopenings.insert((until, *reopenings_noted), queue_key.clone());
                    0
                }
            }
        })?;
        self.begin_message(&grant.key, now);
        Some(grant)
    }

    /// The next claim for a worker's slot.
    pub fn reuse(
        &mut self,
        queue_key: &QueueKey,
        holder: &TenantId,
        now: Instant,
    ) -> Option<(TenantId, Claim)> {
        let limiter = self.limiters.get(queue_key)?;
        let connections = match limiter.allowance(self.fairness.slots_taken(queue_key), now) {
            // A limit on new connections does not apply to open ones.
            Allowance::UpTo(_) => limiter.limit(),
            Allowance::NotBefore(_) => 0,
        };
        let next = self.fairness.reuse_slot(queue_key, holder, connections)?;
        self.begin_message(queue_key, now);
        Some(next)
    }

    /// Counts a transaction.
    pub fn begin_message(&mut self, queue_key: &QueueKey, now: Instant) {
        if let Some(limiter) = self.limiters.get_mut(queue_key) {
            limiter.begin_message(now);
        }
    }

    /// Counts a new connection.
    pub fn begin_connection(&mut self, queue_key: &QueueKey, now: Instant) {
        if let Some(limiter) = self.limiters.get_mut(queue_key) {
            limiter.begin_connection(now);
        }
    }

    /// Returns a slot.
    pub fn free(&mut self, queue_key: &QueueKey, holder: &TenantId) {
        self.fairness.free(queue_key, holder);
    }

    /// Idle connections of a destination queue reserved for other tenants: none if the tenant has only this slot there.
    pub fn left_to_others(&self, queue_key: &QueueKey, tenant: &TenantId) -> usize {
        match self.limiters.get(queue_key) {
            Some(limiter) if self.fairness.slots_of(queue_key, tenant) > 1 => {
                reserved_in_queue(limiter.limit())
            }
            _ => 0,
        }
    }

    /// Maximum of messages over one connection of a destination queue.
    pub fn messages_per_connection_max(&self, queue_key: &QueueKey) -> u32 {
        let rule = self.limiters.get(queue_key).map_or(&self.default_rule, SiteLimiter::rule);
        rule.messages_per_connection_max
    }

    /// Applies the feedback of an attempt that began at `began`.
    pub fn apply_feedback(
        &mut self,
        queue_key: &QueueKey,
        feedback: &SiteFeedback,
        began: Instant,
        now: Instant,
    ) -> FeedbackEffect {
        let Some(limiter) = self.limiters.get_mut(queue_key) else { return FeedbackEffect::default() };
        let limit_before = limiter.limit();
        // Reserved slots count as used: that they are free does not mean that the site could accept less.
        let in_use = self.fairness.slots_taken(queue_key) + reserved_in_queue(limit_before);
        if limiter.record_feedback(feedback, began, in_use, now) {
            let backoff = limiter.backoff(now).cloned();
            return FeedbackEffect { evicted: self.fairness.evict(queue_key), backoff, grew: false };
        }
        let grew = limiter.limit() > limit_before;
        if grew {
            self.fairness.reopen(queue_key);
        }
        FeedbackEffect { grew, ..FeedbackEffect::default() }
    }

    /// Applies a back-off that another node has announced. Returns the effect on each destination queue of the site.
    pub fn join_backoff(
        &mut self,
        site: AnnouncedSite,
        backoff: &SiteBackoff,
        now: Instant,
    ) -> Vec<(QueueKey, FeedbackEffect)> {
        let mut effects = Vec::new();
        for (queue_key, limiter) in &mut self.limiters {
            if site.includes(queue_key) && limiter.join_backoff(backoff.clone(), now) {
                let evicted = self.fairness.evict(queue_key);
                let effect = FeedbackEffect { evicted, backoff: Some(backoff.clone()), grew: false };
                effects.push((queue_key.clone(), effect));
            }
        }
        self.announced.add(site, backoff.clone(), now);
        effects
    }

    /// Forgets the back-off of a site that another node has announced.
    pub fn forget_announced(&mut self, site: &AnnouncedSite) {
        self.announced.forget(site);
    }

    /// Forgets the back-offs that other nodes have announced. Returns the sites of those that were active.
    pub fn forget_all_announced(&mut self, now: Instant) -> Vec<AnnouncedSite> {
        self.announced.forget_all(now)
    }

    /// When the next destination queue with waiting claims may send again.
    pub fn next_reopening(&self) -> Option<Instant> {
        self.reopenings.first_key_value().map(|((at, _), _)| *at)
    }

    /// Reopens the destination queues that may send again.
    pub fn reopen(&mut self, now: Instant) {
        while let Some(entry) = self.reopenings.first_entry().filter(|entry| entry.key().0 <= now) {
            let queue_key = entry.remove();
            self.fairness.reopen(&queue_key);
        }
    }

    /// Whether a destination queue has capacity for another claim of a tenant. `more` are deliveries that wait in addition to
    /// those in the queue: of all tenants, and of this one. As with slots, a tenant may have at most as much waiting as the
    /// remaining capacity.
    pub fn has_capacity(
        &self,
        queue_key: &QueueKey,
        tenant: &TenantId,
        more: (usize, usize),
        now: Instant,
    ) -> bool {
        if self.backoff(queue_key, now).is_some() {
            return false;
        }
        if !matches!(queue_key.next_hop, NextHop::Mx(..)) {
            return true;
        }
        let (all, own) = self.fairness.waiting(queue_key, tenant);
        may_wait(all + more.0, own + more.1)
    }

    /// The active back-off of a destination queue.
    pub fn backoff(&self, queue_key: &QueueKey, now: Instant) -> Option<SiteBackoff> {
        match self.limiters.get(queue_key) {
            Some(limiter) => limiter.backoff(now).cloned(),
            None => self.announced.find(queue_key, now).cloned(),
        }
    }

    /// Ends the back-offs of the selected destination queues; returns their keys.
    pub fn end_backoffs(&mut self, is_meant: impl Fn(&QueueKey) -> bool) -> Vec<QueueKey> {
        let mut lifted = Vec::new();
        for (queue_key, limiter) in &mut self.limiters {
            if is_meant(queue_key) && limiter.end_backoff() {
                self.fairness.reopen(queue_key);
                lifted.push(queue_key.clone());
            }
        }
        lifted
    }

    /// Every destination queue with slots in use, waiting claims or a back-off.
    pub fn queue_states(&self, now: Instant) -> Vec<QueueState> {
        let state = |queue_key: &QueueKey, in_use: usize, waiting: usize| QueueState {
            queue_key: queue_key.clone(),
            limit: self.limiters.get(queue_key).map_or(0, SiteLimiter::limit),
            in_use,
            waiting,
            backoff: self.backoff(queue_key, now),
        };
        let mut states: HashMap<&QueueKey, QueueState> = self
            .fairness
            .queues()
            .map(|(queue_key, in_use, waiting)| (queue_key, state(queue_key, in_use, waiting)))
            .collect();
        for (queue_key, _) in self.limiters.iter().filter(|(_, limiter)| limiter.backoff(now).is_some()) {
            states.entry(queue_key).or_insert_with(|| state(queue_key, 0, 0));
        }
        states.into_values().collect()
    }

    /// How many connections and back-offs there are, without the names of the queues.
    pub fn counts(&self, now: Instant) -> ConnectionCounts {
        ConnectionCounts {
            connections: self.fairness.queues().map(|(_, in_use, _)| in_use).sum(),
            backoffs: self.limiters.values().filter(|limiter| limiter.backoff(now).is_some()).count(),
        }
    }

    /// Removes the limiters of destination queues that were unused for long. Returns whether some are left.
    pub fn sweep(&mut self, now: Instant) -> bool {
        self.forget_idle(QUEUE_IDLE_MAX, now);
        !self.limiters.is_empty()
    }

    /// With `idle_min` zero, also those that back off: a tenant can send to any number of domains with dead hosts.
    fn forget_idle(&mut self, idle_min: Duration, now: Instant) {
        let Self { fairness, limiters, .. } = self;
        let in_use: HashSet<&QueueKey> = fairness.queues().map(|(queue_key, ..)| queue_key).collect();
        limiters.retain(|queue_key, limiter| {
            let is_idle = match limiter.idle_for(now) {
                Some(idle) => idle >= idle_min,
                None => idle_min.is_zero(),
            };
            !is_idle || in_use.contains(queue_key)
        });
    }

    /// Removes and returns the waiting claims of a tenant whose deliveries are all among these.
    pub fn withdraw(&mut self, tenant: &TenantId, deliveries: &HashSet<DeliveryId>) -> Vec<Claim> {
        self.fairness.extract_if(tenant, |claim| claim.ids().all(|id| deliveries.contains(&id)))
    }

    /// Removes and returns all waiting claims.
    pub fn drain(&mut self) -> Vec<Claim> {
        self.fairness.drain()
    }
}

/// Whether another delivery may wait, with so many of all tenants and of its own tenant waiting.
fn may_wait(all: usize, own: usize) -> bool {
    if own == 0 { all < 2 * CROWDED_AT } else { own + all < CROWDED_AT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_with_a_backlog_leaves_capacity_for_the_first_deliveries_of_others() {
        let (mut all, mut shares) = (0, Vec::new());
        for _ in 0..50 {
            let mut own = 0;
            while may_wait(all, own) {
                own += 1;
                all += 1;
            }
            shares.push(own);
        }
        assert!(shares[0] >= CROWDED_AT / 4 && shares[1] >= CROWDED_AT / 8, "{shares:?}");
        assert!(shares.iter().all(|&own| own >= 1) && all < 2 * CROWDED_AT, "{shares:?}");
    }
}
