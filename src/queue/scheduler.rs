//! Claims what is due, as far as there is room in memory, and hands it to delivery agents in fair turns.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::claim::{Claim, ClaimRoute, Slot};
use super::claim_filter::ClaimFilter;
use super::claim_pass::ClaimRoom;
use super::manager::QueueManager;
use super::queue_key::{QueueKey, RouteDecision, Routed};
use super::site_resolution::UnresolvedClaim;
use super::site_status::name_of;
use crate::clock::Instant;
use crate::mail::{DomainName, Host};
use crate::model::TenantId;
use crate::policy::fair_queue::Turn;
use crate::policy::site_feedback::SiteFeedback;
use crate::store::{Batch, Directory, StoreError};

/// Deliveries that are claimed at one time.
const WINDOW: usize = 4096;
/// Of one tenant: the rest stays for others, whatever one has waiting.
const WINDOW_PER_TENANT: usize = WINDOW / 4;
/// After a failure of the store.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two claims while more is due than there is room for: each should find a little room and not one place.
const POLL_BACKOFF_MIN: Duration = Duration::from_millis(5);
/// So long a crowded lane surely has enough to do.
const POLL_BACKOFF_MAX: Duration = Duration::from_millis(80);
/// As many times longer than a look into the database is the wait for the next one.
const POLL_BACKOFF_PER_LOOK: u32 = 3;
/// Between two looks for connections idle for too long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// A clock set back must not make the relay sleep for ever.
const SLEEP_MAX: Duration = Duration::from_secs(10 * 60);

/// When to claim again.
enum Next {
    /// At this time, or when the queue manager says that there is work.
    At(Instant),
    /// More is due than there was room for; so many batches were claimed.
    Soon {
        /// Of them.
        found: usize,
    },
}

/// What the queue manager needs of those who deliver.
pub trait DeliveryAgents: Send + Sync + 'static {
    /// Where a batch goes; `None` if its tenant is gone or suspended.
    fn route(&self, batch: &Batch) -> impl Future<Output = Result<Option<Routed>, StoreError>> + Send;
    /// The same for a tenant's live mail, as far as it is known without a look into the store.
    fn known_route(&self, tenant: TenantId, destination: &Host) -> Option<RouteDecision>;
    /// The mail hosts of a domain; `None` if the DNS has no answer.
    fn mail_hosts(&self, domain: &DomainName) -> impl Future<Output = Option<Vec<String>>> + Send;
    /// Runs a task that ends with the agents.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);
    /// Begins to deliver, and goes on with what [`QueueManager::keep_turn`] and [`QueueManager::take_turn`] give.
    fn deliver(&self, slot: Slot, claim: Claim);
    /// Ends connections that were idle for too long.
    fn end_idle_connections(&self);
}

/// One run of the queue manager.
pub(super) struct Scheduler<'a, A> {
    pub(super) queue: &'a Arc<QueueManager>,
    pub(super) agents: &'a Arc<A>,
    pub(super) stop: &'a CancellationToken,
}

impl QueueManager {
    /// Hands out what is due until `stop`. What waits then is given back.
    pub async fn run<A: DeliveryAgents>(self: &Arc<Self>, agents: &Arc<A>, stop: &CancellationToken) {
        let scheduler = Scheduler { queue: self, agents, stop };
        tokio::join!(scheduler.claim_what_is_due(), scheduler.attend());
        self.give_back_waiting();
    }

    /// Gives back the claims that wait for a slot or for the site of their destination.
    pub fn give_back_waiting(&self) {
        // Dropping a claim gives it back.
        self.dispatcher().drain();
        self.lookups.drain();
    }

    /// Tells the scheduler that something may have its turn that could not before.
    pub fn wake(&self) {
        self.turn.notify_one();
    }

    /// The next claim that has a free slot.
    pub fn take_turn(&self) -> Option<(Slot, Claim)> {
        let turn = self.dispatcher().take(self.clock().instant());
        let Turn { tenant, lane, job } = turn?;
        Some((Slot { lane, holder: tenant, freed: self.freed.clone() }, job))
    }

    /// The next claim for a slot that an agent has.
    pub fn keep_turn(&self, slot: &mut Slot) -> Option<Claim> {
        let (holder, claim) = self.dispatcher().keep(&slot.lane, &slot.holder, self.clock().instant())?;
        slot.holder = holder;
        Some(claim)
    }

    /// An agent opens a connection.
    pub fn begin_connection(&self, lane: &QueueKey) {
        self.dispatcher().begin_connection(lane, self.clock().instant());
    }

    /// Idle connections of a lane that a tenant leaves to others.
    pub fn left_to_others(&self, lane: &QueueKey, tenant: &TenantId) -> usize {
        self.dispatcher().left_to_others(lane, tenant)
    }

    /// Messages that one connection of a lane may carry.
    pub fn messages_per_connection_max(&self, lane: &QueueKey) -> u32 {
        self.dispatcher().messages_per_connection_max(lane)
    }

    /// What one attempt says of its site changes what the site gets; what waits for a site that is left alone now is
    /// given back untried.
    pub fn learn(&self, lane: &QueueKey, feedback: &SiteFeedback, began: Instant) {
        let learned = self.dispatcher().learn(lane, feedback, began, self.clock().instant());
        if let Some(backoff) = &learned.backoff {
            self.post_backoff(lane, backoff);
            let seconds = backoff.until.saturating_duration_since(self.clock().instant()).as_secs() + 1;
            tracing::warn!(site = %name_of(lane), seconds, reason = %backoff.reason, waiting = learned.evicted.len(),
                "the site is left alone for a time");
        }
        if learned.grew {
            self.wake();
        }
    }

    /// Whether a claim still goes where it was lined up for: by the version of the directory. Only if that has
    /// changed, `route` is asked.
    pub async fn is_in_place(
        &self,
        claim: &Claim,
        route: impl Future<Output = Result<Option<Routed>, StoreError>>,
    ) -> bool {
        let Some(known) = &claim.route else { return false };
        if known.directory_version == self.store().directory_version() {
            return true;
        }
        match route.await {
            Ok(Some(routed)) => routed.decision == known.decision,
            Ok(None) => false,
            // What was right when it was lined up is good enough where the store cannot be asked.
            Err(_) => true,
        }
    }
}

impl<A: DeliveryAgents> Scheduler<'_, A> {
    /// Hands out what was accepted just now, and what has found a slot: nothing of it waits for a look into the database.
    async fn attend(&self) {
        let queue = self.queue;
        let mut sweep = queue.clock().interval(SWEEP_INTERVAL);
        loop {
            let reopening = queue.dispatcher().next_reopening();
            let reopening = reopening.unwrap_or_else(|| queue.clock().instant() + SLEEP_MAX);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = queue.wait_for_fresh() => self.claim_fresh().await,
                () = queue.turn.notified() => {}
                () = queue.clock().sleep_until(reopening) => {}
                () = sweep.tick() => {
                    self.agents.end_idle_connections();
                    queue.dispatcher().sweep(queue.clock().instant());
                }
            }
            self.hand_out();
        }
    }

    async fn claim_what_is_due(&self) {
        let clock = self.queue.clock();
        let mut poll_backoff = POLL_BACKOFF_MIN;
        loop {
            let began = clock.instant();
            let claimed = self.claim_due().await;
            self.hand_out();
            let claim_at = match claimed {
                Ok(Next::At(at)) => at,
                Ok(Next::Soon { found }) => {
                    poll_backoff = poll_backoff_after(poll_backoff, clock.elapsed_since(began), found);
                    // What comes free meanwhile would have us look again at once.
                    self.pause(poll_backoff).await;
                    clock.instant() + PAUSE
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot claim due mail; trying again");
                    // What was given back would wake us at once.
                    self.pause(PAUSE).await;
                    clock.instant()
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.queue.wait_for_work() => {}
                () = clock.sleep_until(claim_at) => {}
            }
        }
    }

    async fn pause(&self, length: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.queue.clock().sleep(length) => {}
        }
    }

    fn room(&self) -> ClaimRoom {
        let deliveries_max = WINDOW.saturating_sub(self.queue.lock().handed_out_count());
        ClaimRoom {
            deliveries_max,
            per_tenant_max: tenant_share_of(deliveries_max),
            admits: ClaimFilter::begin(self.queue, self.agents),
        }
    }

    async fn claim_fresh(&self) {
        let batches = self.queue.claim_fresh(&self.room());
        if let Err(error) = self.line_up_all(batches).await {
            tracing::warn!(%error, "fresh mail could not be placed; it is claimed again");
        }
    }

    /// Claims as much as there is room for.
    async fn claim_due(&self) -> Result<Next, StoreError> {
        let clock = self.queue.clock();
        let now = clock.now();
        // Also without any room: only so is it known whom to wake when there is some.
        let claimed = self.queue.claim_due(now, &self.room()).await?;
        let found = claimed.batches.len();
        self.line_up_all(claimed.batches).await?;
        Ok(match claimed.next_due_at {
            None => Next::At(clock.instant() + SLEEP_MAX),
            Some(due) if due <= now => Next::Soon { found },
            Some(due) => {
                let wait = Duration::try_from(due.duration_since(clock.now())).unwrap_or_default();
                Next::At(clock.instant() + wait.min(SLEEP_MAX))
            }
        })
    }

    async fn line_up_all(&self, batches: Vec<Batch>) -> Result<(), StoreError> {
        // Claims first, so that all of them are given back if one fails.
        let claims: Vec<Claim> = batches.into_iter().map(|batch| self.queue.claim_of(batch)).collect();
        for claim in claims {
            // Read before the route, so that what changes meanwhile is not taken for known.
            let directory_version = self.queue.store().directory_version();
            // Without its tenant a batch is about to be deleted; dropping it gives it back.
            if let Some(routed) = self.agents.route(&claim.batch).await? {
                self.line_up(routed, directory_version, claim);
            }
        }
        Ok(())
    }

    /// Puts a claim into its lane, or where lanes are found.
    fn line_up(&self, routed: Routed, directory_version: u64, mut claim: Claim) {
        let Routed { decision: course, weight } = routed;
        let sites = self.queue.sites();
        claim.route = Some(ClaimRoute { decision: course.clone(), directory_version });
        let lane = match course {
            RouteDecision::Known(lane) => lane,
            RouteDecision::Mx(course) => {
                match (sites.find(&claim.batch.destination), &claim.batch.destination) {
                    (Some(site), _) => course.queue_to(site),
                    (None, Host::Domain(domain)) => {
                        let domain = domain.clone();
                        return self.queue.lookups.push(domain, UnresolvedClaim { course, weight, claim });
                    }
                    (None, destination) => course.queue_to(sites.provisional(destination)),
                }
            }
        };
        self.queue.dispatcher().push(lane, weight, claim, self.queue.clock().instant());
    }

    /// Gives each piece of work that has a free slot to an agent, and what has no lane yet to the look-ups.
    fn hand_out(&self) {
        self.begin_lookups();
        self.queue.dispatcher().reopen(self.queue.clock().instant());
        while let Some((slot, claim)) = self.queue.take_turn() {
            self.agents.deliver(slot, claim);
        }
    }
}

/// How long to wait after a look that took so long: most of the time nobody looks, and where nothing was found each wait is
/// longer than the one before.
fn poll_backoff_after(last: Duration, took: Duration, found: usize) -> Duration {
    let longer = if found == 0 { 2 * last } else { POLL_BACKOFF_MIN };
    longer.max(POLL_BACKOFF_PER_LOOK * took).min(POLL_BACKOFF_MAX)
}

/// Half of the room at most: tenants whose mail waits long, at slow destinations or at a slow smart host of their own,
/// never fill it for those who come next.
fn tenant_share_of(deliveries_free: usize) -> usize {
    WINDOW_PER_TENANT.min(deliveries_free.div_ceil(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_whose_mail_waits_leave_room_for_the_next() {
        let mut free = WINDOW;
        for _ in 0..8 {
            let share = tenant_share_of(free);
            assert!(share > 0 && share <= WINDOW_PER_TENANT);
            free -= share;
        }
        assert!(free >= 32, "{free}");
    }

    #[test]
    fn looks_into_the_database_become_rare_where_they_find_nothing() {
        let look = Duration::from_millis(1);
        let breaths: Vec<u128> =
            std::iter::successors(Some(POLL_BACKOFF_MIN), |last| Some(poll_backoff_after(*last, look, 0)))
                .take(6)
                .map(|poll_backoff| poll_backoff.as_millis())
                .collect();
        assert_eq!(breaths, [5, 10, 20, 40, 80, 80]);
        assert_eq!(poll_backoff_after(POLL_BACKOFF_MAX, look, 1), POLL_BACKOFF_MIN);
        assert_eq!(poll_backoff_after(POLL_BACKOFF_MIN, 10 * look, 1), 30 * look);
    }
}
