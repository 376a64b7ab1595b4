//! Whose turn it is and where, as far as sites let us: fairness between tenants, under the limits and back-offs of lanes.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::claim::Claim;
use super::queue_key::{NextHop, QueueKey};
use crate::clock::Instant;
use crate::model::{TenantId, Weight};
use crate::policy::concurrency_limiter::{Allowance, ConcurrencyLimiter, Rule, SiteBackoff};
use crate::policy::fair_queue::{FairQueue, Job, Turn, reserved_in_lane};
use crate::policy::site_feedback::SiteFeedback;

/// Lanes of which something is known. Above it, those that are not in use are forgotten.
const LANES_MAX: usize = 20_000;
/// Unused for so long, a lane starts anew.
const LANE_IDLE_MAX: Duration = Duration::from_secs(30 * 60);
/// Deliveries that wait for one lane before no more are claimed for it, save those of tenants that have none.
const CROWD: usize = 512;

/// Claims that wait for a slot, and what their lanes take.
pub struct Dispatcher {
    fairness: FairQueue<TenantId, QueueKey, Claim>,
    shapers: HashMap<QueueKey, ConcurrencyLimiter>,
    /// When lanes open again for which something waits.
    reopenings: BTreeMap<(Instant, u64), QueueKey>,
    reopenings_noted: u64,
    default_rule: Rule,
}

/// What follows from a try for others.
#[derive(Default)]
pub struct Learned {
    /// Claims that waited for a lane that is left alone now: dropping them gives them back.
    pub evicted: Vec<Claim>,
    /// Why the lane is left alone, if it was not before.
    pub backoff: Option<SiteBackoff>,
    /// Whether the lane may have more slots.
    pub grew: bool,
}

/// How a lane does.
pub struct LaneState {
    /// Which.
    pub lane: QueueKey,
    /// Connections that it may have.
    pub limit: usize,
    /// Those that it has.
    pub in_use: usize,
    /// Deliveries that are claimed and wait for one.
    pub waiting: usize,
    /// While it is left alone.
    pub backoff: Option<SiteBackoff>,
}

impl Dispatcher {
    /// Nothing waits. `default_rule` holds for lanes that no rule is made for.
    pub fn new(connections_max: usize, default_rule: Rule) -> Self {
        Self {
            fairness: FairQueue::new(connections_max),
            shapers: HashMap::new(),
            reopenings: BTreeMap::new(),
            reopenings_noted: 0,
            default_rule,
        }
    }

    /// Lines up a claim of a tenant of this weight. It is given back if the lane is left alone or
    /// crowded: nobody knew where it belongs when it was claimed, and it would keep others from being claimed.
    pub fn push(&mut self, lane: QueueKey, weight: Weight, claim: Claim, now: Instant) {
        let tenant = claim.batch.message.tenant_id;
        if !self.has_room(&lane, &tenant, (0, 0), now) {
            return;
        }
        if !self.shapers.contains_key(&lane) {
            if self.shapers.len() >= LANES_MAX {
                self.forget_idle(Duration::ZERO, now);
            }
            let rule = self.rule_of(&lane);
            self.shapers.insert(lane.clone(), ConcurrencyLimiter::new(rule, now));
        }
        self.fairness.push(Job {
            tenant,
            weight,
            lane,
            cost: u32::try_from(claim.batch.deliveries.len()).unwrap_or(u32::MAX),
            work: claim,
        });
    }

    fn rule_of(&self, lane: &QueueKey) -> Rule {
        match &lane.next_hop {
            NextHop::Mx(site, _) => site.rule.clone(),
            NextHop::TenantSmartHost(..) => self.default_rule.clone(),
            // Nobody else's opinion is asked for.
            NextHop::Sandbox(_) | NextHop::Hosts(_) => Rule { trusted: true, ..self.default_rule.clone() },
        }
    }

    /// Takes a slot and the claim whose turn it is.
    pub fn take(&mut self, now: Instant) -> Option<Turn<TenantId, QueueKey, Claim>> {
        let Self { fairness, shapers, reopenings, reopenings_noted, .. } = self;
        let turn = fairness.take_turn(|lane, in_use| {
            match shapers.get(lane).map_or(Allowance::UpTo(1), |shaper| shaper.allowance(in_use, now)) {
                Allowance::UpTo(connections) => connections,
                Allowance::NotBefore(until) => {
                    *reopenings_noted += 1;
                    reopenings.insert((until, *reopenings_noted), lane.clone());
                    0
                }
            }
        })?;
        self.begin_message(&turn.lane, now);
        Some(turn)
    }

    /// The next claim for a slot that a worker has.
    pub fn keep(&mut self, lane: &QueueKey, holder: &TenantId, now: Instant) -> Option<(TenantId, Claim)> {
        let shaper = self.shapers.get(lane)?;
        let connections = match shaper.allowance(self.fairness.slots_taken(lane), now) {
            // A limit on beginning connections is none on keeping them.
            Allowance::UpTo(_) => shaper.limit(),
            Allowance::NotBefore(_) => 0,
        };
        let kept = self.fairness.keep_turn(lane, holder, connections)?;
        self.begin_message(lane, now);
        Some(kept)
    }

    fn begin_message(&mut self, lane: &QueueKey, now: Instant) {
        if let Some(shaper) = self.shapers.get_mut(lane) {
            shaper.begin_message(now);
        }
    }

    /// A worker is about to open a connection.
    pub fn begin_connection(&mut self, lane: &QueueKey, now: Instant) {
        if let Some(shaper) = self.shapers.get_mut(lane) {
            shaper.begin_connection(now);
        }
    }

    /// Gives a slot back.
    pub fn free(&mut self, lane: &QueueKey, holder: &TenantId) {
        self.fairness.free(lane, holder);
    }

    /// Idle connections of a lane that a tenant leaves to others: none if it has but this slot there.
    pub fn left_to_others(&self, lane: &QueueKey, tenant: &TenantId) -> usize {
        match self.shapers.get(lane) {
            Some(shaper) if self.fairness.slots_of(lane, tenant) > 1 => reserved_in_lane(shaper.limit()),
            _ => 0,
        }
    }

    /// Messages that one connection of a lane may carry.
    pub fn messages_per_connection_max(&self, lane: &QueueKey) -> u32 {
        let rule = self.shapers.get(lane).map_or(&self.default_rule, ConcurrencyLimiter::rule);
        rule.messages_per_connection_max
    }

    /// Learns from a try that began at `began`.
    pub fn learn(&mut self, lane: &QueueKey, lesson: &SiteFeedback, began: Instant, now: Instant) -> Learned {
        let Some(shaper) = self.shapers.get_mut(lane) else { return Learned::default() };
        let limit_before = shaper.limit();
        // What is kept free for others shows nothing of what the site can take.
        let in_use = self.fairness.slots_taken(lane) + reserved_in_lane(limit_before);
        if shaper.record_feedback(lesson, began, in_use, now) {
            let backoff = shaper.backoff(now).cloned();
            return Learned { evicted: self.fairness.evict(lane), backoff, grew: false };
        }
        let grew = shaper.limit() > limit_before;
        if grew {
            self.fairness.reopen(lane);
        }
        Learned { grew, ..Learned::default() }
    }

    /// When the next lane opens for which something waits.
    pub fn next_reopening(&self) -> Option<Instant> {
        self.reopenings.first_key_value().map(|((at, _), _)| *at)
    }

    /// Lets lanes take part whose time has come.
    pub fn reopen(&mut self, now: Instant) {
        while let Some(entry) = self.reopenings.first_entry().filter(|entry| entry.key().0 <= now) {
            let lane = entry.remove();
            self.fairness.reopen(&lane);
        }
    }

    /// Whether another claim of a tenant for a lane finds room, where so many more than are known of wait: of all
    /// tenants, and of this one. Like slots: who has waiting as much as there is room left gets no more.
    pub fn has_room(&self, lane: &QueueKey, tenant: &TenantId, more: (usize, usize), now: Instant) -> bool {
        if self.shapers.get(lane).is_some_and(|shaper| shaper.backoff(now).is_some()) {
            return false;
        }
        if !matches!(lane.next_hop, NextHop::Mx(..)) {
            return true;
        }
        let (all, own) = self.fairness.waiting(lane, tenant);
        finds_room(all + more.0, own + more.1)
    }

    /// Why and how long a lane is left alone, if it is.
    pub fn backoff(&self, lane: &QueueKey, now: Instant) -> Option<SiteBackoff> {
        self.shapers.get(lane)?.backoff(now).cloned()
    }

    /// Ends the back-offs of lanes that `is_meant`; answers which.
    pub fn end_backoffs(&mut self, is_meant: impl Fn(&QueueKey) -> bool) -> Vec<QueueKey> {
        let mut lifted = Vec::new();
        for (lane, shaper) in &mut self.shapers {
            if is_meant(lane) && shaper.end_backoff() {
                self.fairness.reopen(lane);
                lifted.push(lane.clone());
            }
        }
        lifted
    }

    /// Every lane that is in use, is waited for, or is left alone.
    pub fn lanes(&self, now: Instant) -> Vec<LaneState> {
        let state = |lane: &QueueKey, in_use: usize, waiting: usize| LaneState {
            lane: lane.clone(),
            limit: self.shapers.get(lane).map_or(0, ConcurrencyLimiter::limit),
            in_use,
            waiting,
            backoff: self.backoff(lane, now),
        };
        let mut lanes: HashMap<&QueueKey, LaneState> = self
            .fairness
            .lanes()
            .map(|(lane, in_use, waiting)| (lane, state(lane, in_use, waiting)))
            .collect();
        for (lane, _) in self.shapers.iter().filter(|(_, shaper)| shaper.backoff(now).is_some()) {
            lanes.entry(lane).or_insert_with(|| state(lane, 0, 0));
        }
        lanes.into_values().collect()
    }

    /// Forgets lanes that were not used for long.
    pub fn sweep(&mut self, now: Instant) {
        self.forget_idle(LANE_IDLE_MAX, now);
    }

    /// At the limit a back-off does not count: a tenant can write to any number of domains whose hosts are dead.
    fn forget_idle(&mut self, idle_min: Duration, now: Instant) {
        let Self { fairness, shapers, .. } = self;
        let in_use: std::collections::HashSet<&QueueKey> = fairness.lanes().map(|(lane, ..)| lane).collect();
        shapers.retain(|lane, shaper| {
            let is_idle = match shaper.idle_for(now) {
                Some(idle) => idle >= idle_min,
                None => idle_min.is_zero(),
            };
            !is_idle || in_use.contains(lane)
        });
    }

    /// Takes out all claims that wait.
    pub fn drain(&mut self) -> Vec<Claim> {
        self.fairness.drain()
    }
}

/// Whether another one finds room where so many wait, of all tenants and of its own.
fn finds_room(all: usize, own: usize) -> bool {
    if own == 0 { all < 2 * CROWD } else { own + all < CROWD }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_crowds_a_lane_leaves_room_for_the_first_of_others() {
        let (mut all, mut shares) = (0, Vec::new());
        for _ in 0..50 {
            let mut own = 0;
            while finds_room(all, own) {
                own += 1;
                all += 1;
            }
            shares.push(own);
        }
        assert!(shares[0] >= CROWD / 4 && shares[1] >= CROWD / 8, "{shares:?}");
        assert!(shares.iter().all(|&own| own >= 1) && all < 2 * CROWD, "{shares:?}");
    }
}
