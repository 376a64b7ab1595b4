//! Whose turn it is and where, as far as sites let us: fairness between tenants, under the limits and back-offs of destination queues.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::claim::Claim;
use super::queue_key::{NextHop, QueueKey};
use crate::model::{TenantId, Weight};
use crate::policy::concurrency_limiter::{Allowance, ConcurrencyLimiter, Rule, SiteBackoff};
use crate::policy::fair_queue::{FairQueue, Grant, Job, reserved_in_queue};
use crate::policy::site_feedback::SiteFeedback;

/// Lanes of which something is known. Above it, those that are not in use are forgotten.
const QUEUES_MAX: usize = 20_000;
/// Unused for so long, a destination queue starts anew.
const QUEUE_IDLE_MAX: Duration = Duration::from_secs(30 * 60);
/// Deliveries that wait for one destination queue before no more are claimed for it, save those of tenants that have none.
const CROWDED_AT: usize = 512;

/// Claims that wait for a slot, and what their destination queues take.
pub struct Dispatcher {
    fairness: FairQueue<TenantId, QueueKey, Claim>,
    limiters: HashMap<QueueKey, ConcurrencyLimiter>,
    /// When destination queues open again for which something waits.
    reopenings: BTreeMap<(Instant, u64), QueueKey>,
    reopenings_noted: u64,
    default_rule: Rule,
}

/// What follows from a try for others.
#[derive(Default)]
pub struct FeedbackEffect {
    /// Claims that waited for a destination queue that is left alone now: dropping them gives them back.
    pub evicted: Vec<Claim>,
    /// Why the destination queue is left alone, if it was not before.
    pub backoff: Option<SiteBackoff>,
    /// Whether the destination queue may have more slots.
    pub grew: bool,
}

/// How a destination queue does.
pub struct QueueState {
    /// Which.
    pub queue_key: QueueKey,
    /// Connections that it may have.
    pub limit: usize,
    /// Those that it has.
    pub in_use: usize,
    /// Deliveries that are claimed and wait for one.
    pub waiting: usize,
    /// While it is left alone.
    pub backoff: Option<SiteBackoff>,
}

/// How many connections and back-offs there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionCounts {
    /// Open connections to other servers.
    pub connections: usize,
    /// Lanes that are left alone for a time.
    pub backoffs: usize,
}

impl Dispatcher {
    /// Nothing waits. `default_rule` holds for destination queues that no rule is made for.
    pub fn new(connections_max: usize, default_rule: Rule) -> Self {
        Self {
            fairness: FairQueue::new(connections_max),
            limiters: HashMap::new(),
            reopenings: BTreeMap::new(),
            reopenings_noted: 0,
            default_rule,
        }
    }

    /// Lines up a claim of a tenant of this weight. It is given back if the destination queue is left alone or
    /// crowded: nobody knew where it belongs when it was claimed, and it would keep others from being claimed.
    pub fn push(&mut self, queue_key: QueueKey, weight: Weight, claim: Claim, now: Instant) {
        let tenant = claim.batch.message.tenant_id;
        if !self.has_capacity(&queue_key, &tenant, (0, 0), now) {
            return;
        }
        if !self.limiters.contains_key(&queue_key) {
            if self.limiters.len() >= QUEUES_MAX {
                self.forget_idle(Duration::ZERO, now);
            }
            let rule = self.rule_of(&queue_key);
            self.limiters.insert(queue_key.clone(), ConcurrencyLimiter::new(rule, now));
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
            // Nobody else's opinion is asked for.
            NextHop::Sandbox(_) | NextHop::Hosts(_) => Rule { trusted: true, ..self.default_rule.clone() },
        }
    }

    /// Takes a slot and the claim whose turn it is.
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

    /// The next claim for a slot that a worker has.
    pub fn reuse(
        &mut self,
        queue_key: &QueueKey,
        holder: &TenantId,
        now: Instant,
    ) -> Option<(TenantId, Claim)> {
        let limiter = self.limiters.get(queue_key)?;
        let connections = match limiter.allowance(self.fairness.slots_taken(queue_key), now) {
            // A limit on beginning connections is none on keeping them.
            Allowance::UpTo(_) => limiter.limit(),
            Allowance::NotBefore(_) => 0,
        };
        let next = self.fairness.reuse_slot(queue_key, holder, connections)?;
        self.begin_message(queue_key, now);
        Some(next)
    }

    fn begin_message(&mut self, queue_key: &QueueKey, now: Instant) {
        if let Some(limiter) = self.limiters.get_mut(queue_key) {
            limiter.begin_message(now);
        }
    }

    /// A worker is about to open a connection.
    pub fn begin_connection(&mut self, queue_key: &QueueKey, now: Instant) {
        if let Some(limiter) = self.limiters.get_mut(queue_key) {
            limiter.begin_connection(now);
        }
    }

    /// Gives a slot back.
    pub fn free(&mut self, queue_key: &QueueKey, holder: &TenantId) {
        self.fairness.free(queue_key, holder);
    }

    /// Idle connections of a destination queue that a tenant leaves to others: none if it has but this slot there.
    pub fn left_to_others(&self, queue_key: &QueueKey, tenant: &TenantId) -> usize {
        match self.limiters.get(queue_key) {
            Some(limiter) if self.fairness.slots_of(queue_key, tenant) > 1 => {
                reserved_in_queue(limiter.limit())
            }
            _ => 0,
        }
    }

    /// Messages that one connection of a destination queue may carry.
    pub fn messages_per_connection_max(&self, queue_key: &QueueKey) -> u32 {
        let rule = self.limiters.get(queue_key).map_or(&self.default_rule, ConcurrencyLimiter::rule);
        rule.messages_per_connection_max
    }

    /// Learns from a try that began at `began`.
    pub fn apply_feedback(
        &mut self,
        queue_key: &QueueKey,
        feedback: &SiteFeedback,
        began: Instant,
        now: Instant,
    ) -> FeedbackEffect {
        let Some(limiter) = self.limiters.get_mut(queue_key) else { return FeedbackEffect::default() };
        let limit_before = limiter.limit();
        // What is kept free for others shows nothing of what the site can take.
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

    /// When the next destination queue opens for which something waits.
    pub fn next_reopening(&self) -> Option<Instant> {
        self.reopenings.first_key_value().map(|((at, _), _)| *at)
    }

    /// Lets destination queues take part whose time has come.
    pub fn reopen(&mut self, now: Instant) {
        while let Some(entry) = self.reopenings.first_entry().filter(|entry| entry.key().0 <= now) {
            let queue_key = entry.remove();
            self.fairness.reopen(&queue_key);
        }
    }

    /// Whether another claim of a tenant for a destination queue finds room, where so many more than are known of wait: of all
    /// tenants, and of this one. Like slots: who has waiting as much as there is room left gets no more.
    pub fn has_capacity(
        &self,
        queue_key: &QueueKey,
        tenant: &TenantId,
        more: (usize, usize),
        now: Instant,
    ) -> bool {
        if self.limiters.get(queue_key).is_some_and(|limiter| limiter.backoff(now).is_some()) {
            return false;
        }
        if !matches!(queue_key.next_hop, NextHop::Mx(..)) {
            return true;
        }
        let (all, own) = self.fairness.waiting(queue_key, tenant);
        may_wait(all + more.0, own + more.1)
    }

    /// Why and how long a destination queue is left alone, if it is.
    pub fn backoff(&self, queue_key: &QueueKey, now: Instant) -> Option<SiteBackoff> {
        self.limiters.get(queue_key)?.backoff(now).cloned()
    }

    /// Ends the back-offs of destination queues that `is_meant`; answers which.
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

    /// Every destination queue that is in use, is waited for, or is left alone.
    pub fn queue_states(&self, now: Instant) -> Vec<QueueState> {
        let state = |queue_key: &QueueKey, in_use: usize, waiting: usize| QueueState {
            queue_key: queue_key.clone(),
            limit: self.limiters.get(queue_key).map_or(0, ConcurrencyLimiter::limit),
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

    /// Forgets destination queues that were not used for long.
    pub fn sweep(&mut self, now: Instant) {
        self.forget_idle(QUEUE_IDLE_MAX, now);
    }

    /// At the limit a back-off does not count: a tenant can write to any number of domains whose hosts are dead.
    fn forget_idle(&mut self, idle_min: Duration, now: Instant) {
        let Self { fairness, limiters, .. } = self;
        let in_use: std::collections::HashSet<&QueueKey> =
            fairness.queues().map(|(queue_key, ..)| queue_key).collect();
        limiters.retain(|queue_key, limiter| {
            let is_idle = match limiter.idle_for(now) {
                Some(idle) => idle >= idle_min,
                None => idle_min.is_zero(),
            };
            !is_idle || in_use.contains(queue_key)
        });
    }

    /// Takes out all claims that wait.
    pub fn drain(&mut self) -> Vec<Claim> {
        self.fairness.drain()
    }
}

/// Whether another one finds room where so many wait, of all tenants and of its own.
fn may_wait(all: usize, own: usize) -> bool {
    if own == 0 { all < 2 * CROWDED_AT } else { own + all < CROWDED_AT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_crowds_a_lane_leaves_room_for_the_first_of_others() {
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
