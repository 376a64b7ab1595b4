//! Claims due mail up to the window and gives it to delivery agents.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::claim::{Claim, ClaimRoute, Slot};
use super::claim_filter::ClaimFilter;
use super::claim_pass::ClaimLimits;
use super::manager::QueueManager;
use super::queue_key::{QueueKey, RouteDecision, Routed};
use super::site_resolution::UnresolvedClaim;
use super::snapshot::name_of;
use crate::clock::Instant;
use crate::mail::{DomainName, Host};
use crate::model::TenantId;
use crate::policy::fair_queue::Grant;
use crate::policy::site_feedback::SiteFeedback;
use crate::store::{Batch, Directory, Lease, LeaseState, Spool, StoreError};
use crate::telemetry::FLOOD;

/// Maximum of claimed deliveries.
const WINDOW: usize = 4096;
/// Maximum of claimed deliveries of one tenant.
const WINDOW_PER_TENANT: usize = WINDOW / 4;
/// Wait after a failure of the store.
const PAUSE: Duration = Duration::from_secs(1);
/// Minimal wait between two passes while more is due than fits, so that each pass finds capacity for several deliveries.
const POLL_BACKOFF_MIN: Duration = Duration::from_millis(5);
/// Maximal wait: a crowded destination queue has work for longer.
const POLL_BACKOFF_MAX: Duration = Duration::from_millis(80);
/// The wait is at least this many times the duration of the pass.
const POLL_BACKOFF_PER_LOOK: u32 = 3;
/// Interval between checks for idle connections and queues, while there are some.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Maximal sleep, because the clock may be set back.
const SLEEP_MAX: Duration = Duration::from_secs(10 * 60);

/// When to run the next pass.
enum Next {
    /// At this time, or when there is work.
    At(Instant),
    /// After a short wait: more is due than fits.
    Soon {
        /// Number of claimed batches.
        found: usize,
    },
}

/// The interface of the relay for the queue manager.
pub trait DeliveryAgents: Send + Sync + 'static {
    /// The route of a batch; `None` if its tenant is deleted or suspended.
    fn route(&self, batch: &Batch) -> impl Future<Output = Result<Option<Routed>, StoreError>> + Send;
    /// The route of a tenant's live mail, if it is cached.
    fn known_route(&self, tenant: TenantId, destination: &Host) -> Option<RouteDecision>;
    /// The mail hosts of a domain; `None` if the look-up fails.
    fn mail_hosts(&self, domain: &DomainName) -> impl Future<Output = Option<Vec<String>>> + Send;
    /// Runs a task that ends with the agents.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);
    /// Starts to deliver, and continues with what [`QueueManager::next_claim_for`] and [`QueueManager::next_claim`] give.
    fn deliver(&self, slot: Slot, claim: Claim);
    /// Closes connections that were idle for too long. Returns whether others are idle.
    fn end_idle_connections(&self) -> bool;
    /// Ends all attempts at once, in whatever state they are. Results that are known already are kept.
    fn end_attempts(&self);
}

/// One run of the queue manager.
pub(super) struct Scheduler<'a, A> {
    pub(super) queue: &'a Arc<QueueManager>,
    pub(super) agents: &'a Arc<A>,
    pub(super) stop: &'a CancellationToken,
}

impl QueueManager {
    /// Hands out due mail until `stop`, then releases waiting claims.
    pub async fn run<A: DeliveryAgents>(self: &Arc<Self>, agents: &Arc<A>, stop: &CancellationToken) {
        let scheduler = Scheduler { queue: self, agents, stop };
        tokio::join!(scheduler.claim_what_is_due(), scheduler.attend(), scheduler.follow_lease());
        self.give_back_waiting();
    }

    /// Releases the claims that wait for a slot or for a site look-up.
    pub fn give_back_waiting(&self) {
        // Dropping a claim releases it.
        self.dispatcher().drain();
        self.lookups.drain();
    }

    /// Signals the scheduler that a waiting claim may get a slot.
    pub fn wake(&self) {
        self.scheduler_wakeup.notify_one();
    }

    /// Whether deliveries may begin: other processes cannot have them.
    fn may_deliver(&self) -> bool {
        self.store().lease().state == LeaseState::Fresh
    }

    /// The next claim, with its slot.
    pub fn next_claim(&self) -> Option<(Slot, Claim)> {
        if !self.may_deliver() {
            return None;
        }
        let grant = self.dispatcher().grant(self.clock().instant());
        let Grant { tenant, key: queue_key, job } = grant?;
        Some((Slot { queue_key, holder: tenant, freed: self.freed.clone() }, job))
    }

    /// The next claim for an agent's slot.
    pub fn next_claim_for(&self, slot: &mut Slot) -> Option<Claim> {
        if !self.may_deliver() {
            return None;
        }
        let (holder, claim) =
            self.dispatcher().reuse(&slot.queue_key, &slot.holder, self.clock().instant())?;
        slot.holder = holder;
        Some(claim)
    }

    /// Counts a transaction in addition to the first one of a claim. The claims after it wait accordingly.
    pub fn begin_message(&self, queue_key: &QueueKey) {
        self.dispatcher().begin_message(queue_key, self.clock().instant());
    }

    /// Counts a new connection.
    pub fn begin_connection(&self, queue_key: &QueueKey) {
        self.dispatcher().begin_connection(queue_key, self.clock().instant());
    }

    /// Idle connections of a destination queue reserved for other tenants.
    pub fn left_to_others(&self, queue_key: &QueueKey, tenant: &TenantId) -> usize {
        self.dispatcher().left_to_others(queue_key, tenant)
    }

    /// Maximum of messages over one connection of a destination queue.
    pub fn messages_per_connection_max(&self, queue_key: &QueueKey) -> u32 {
        self.dispatcher().messages_per_connection_max(queue_key)
    }

    /// Applies the feedback of one attempt to the limits of its site. If the site now backs off, its waiting claims are
    /// released without an attempt.
    pub fn apply_feedback(&self, queue_key: &QueueKey, feedback: &SiteFeedback, began: Instant) {
        let effect = self.dispatcher().apply_feedback(queue_key, feedback, began, self.clock().instant());
        if let Some(backoff) = &effect.backoff {
            self.post_backoff(queue_key, backoff);
            self.announce_backoff(queue_key, feedback, backoff);
            let seconds = backoff.until.saturating_duration_since(self.clock().instant()).as_secs() + 1;
            tracing::warn!(site = %name_of(queue_key), seconds, reason = %backoff.reason, waiting = effect.evicted.len(),
                "the site backs off");
        }
        if effect.grew {
            self.wake();
        }
    }

    /// Whether the claim and its route are still valid. Only if its tenant has changed, `route` is awaited.
    pub async fn is_in_place(
        &self,
        claim: &Claim,
        route: impl Future<Output = Result<Option<Routed>, StoreError>>,
    ) -> bool {
        if !self.may_deliver() || self.store().lease().epoch != claim.epoch {
            return false;
        }
        let Some(known) = &claim.route else { return false };
        let tenant = Some(claim.batch.message.tenant_id);
        if self.store().version_of_owner(tenant) <= known.directory_version {
            return true;
        }
        match route.await {
            Ok(Some(routed)) => routed.decision == known.decision,
            Ok(None) => false,
            // If the store fails, the previous route is used.
            Err(_) => true,
        }
    }
}

impl<A: DeliveryAgents> Scheduler<'_, A> {
    /// Hands out fresh mail and claims that got a slot, without waiting for the database.
    async fn attend(&self) {
        let queue = self.queue;
        let mut sweep_at: Option<Instant> = None;
        loop {
            let reopening = queue.dispatcher().next_reopening();
            let now = queue.clock().instant();
            let until = [reopening, sweep_at].into_iter().flatten().min().unwrap_or(now + SLEEP_MAX);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = queue.wait_for_fresh() => self.claim_fresh().await,
                () = queue.scheduler_wakeup.notified() => {}
                () = queue.clock().sleep_until(until) => {}
            }
            self.sweep(&mut sweep_at);
            self.hand_out();
        }
    }

    /// Closes connections and forgets queues that were idle for too long, if the time has come, and sets the next time.
    fn sweep(&self, sweep_at: &mut Option<Instant>) {
        let now = self.queue.clock().instant();
        // Without a time, nothing was left; what has happened since may have left something.
        if *sweep_at.get_or_insert(now + SWEEP_INTERVAL) > now {
            return;
        }
        let has_idle = self.agents.end_idle_connections();
        let has_queues = self.queue.dispatcher().sweep(now);
        *sweep_at = (has_idle || has_queues).then(|| now + SWEEP_INTERVAL);
    }

    /// Ends deliveries before other processes may begin them, and goes on when this one has its lease again.
    async fn follow_lease(&self) {
        let mut lease = self.queue.store().watch_lease();
        let mut epoch = lease.borrow_and_update().epoch;
        loop {
            let changed = tokio::select! {
                () = self.stop.cancelled() => return,
                changed = lease.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            let Lease { state, epoch: new_epoch } = *lease.borrow_and_update();
            if state == LeaseState::Lost || new_epoch != epoch {
                self.queue.give_back_waiting();
                self.agents.end_attempts();
            }
            epoch = new_epoch;
            if state == LeaseState::Fresh {
                self.queue.wake();
                self.queue.feed.wake();
            }
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
                    // Without a fixed wait, each freed slot would cause a pass.
                    self.pause(poll_backoff).await;
                    clock.instant() + PAUSE
                }
                Err(error) => {
                    tracing::warn!(target: FLOOD, "cannot claim due mail, trying again: {error}");
                    // Without a fixed wait, the released claims would cause a pass at once.
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

    fn limits(&self) -> ClaimLimits {
        let deliveries_max = WINDOW.saturating_sub(self.queue.lock().handed_out_count());
        ClaimLimits {
            deliveries_max,
            per_tenant_max: tenant_share_of(deliveries_max),
            admits: ClaimFilter::begin(self.queue, self.agents),
        }
    }

    async fn claim_fresh(&self) {
        let epoch = self.queue.store().lease().epoch;
        let batches = self.queue.claim_fresh(&self.limits());
        if let Err(error) = self.line_up_all(batches, epoch).await {
            tracing::warn!(%error, "fresh mail could not be placed; it is claimed again");
        }
    }

    /// Claims as much as the limits allow.
    async fn claim_due(&self) -> Result<Next, StoreError> {
        let clock = self.queue.clock();
        let now = clock.now();
        let epoch = self.queue.store().lease().epoch;
        // Also without capacity: the pass records that more is due, so that freed capacity causes the next pass.
        let claimed = self.queue.claim_due(now, &self.limits()).await?;
        let found = claimed.batches.len();
        self.line_up_all(claimed.batches, epoch).await?;
        Ok(match claimed.next_due_at {
            None => Next::At(clock.instant() + SLEEP_MAX),
            Some(due) if due <= now => Next::Soon { found },
            Some(due) => {
                let wait = Duration::try_from(due.duration_since(clock.now())).unwrap_or_default();
                Next::At(clock.instant() + wait.min(SLEEP_MAX))
            }
        })
    }

    /// Places batches that were claimed under this lease, which was read before.
    async fn line_up_all(&self, batches: Vec<Batch>, epoch: i64) -> Result<(), StoreError> {
        // Creates all claims first, so that all are released if this future is dropped.
        let claims: Vec<Claim> = batches.into_iter().map(|batch| self.queue.claim_of(batch, epoch)).collect();
        let mut result = Ok(());
        for claim in claims {
            // Read before the route, so that a change meanwhile is not missed.
            let directory_version = self.queue.store().directory_version();
            match self.agents.route(&claim.batch).await {
                Ok(Some(routed)) => self.line_up(routed, directory_version, claim),
                // The tenant is being deleted; dropping the claim releases it.
                Ok(None) => {}
                // The row of one tenant may be damaged, which must not stop the mail of the others.
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Adds a claim to its destination queue, or to the site look-ups.
    fn line_up(&self, routed: Routed, directory_version: u64, mut claim: Claim) {
        let Routed { decision, weight } = routed;
        let sites = self.queue.sites();
        claim.route = Some(ClaimRoute { decision: decision.clone(), directory_version });
        let queue_key = match decision {
            RouteDecision::Known(queue_key) => queue_key,
            RouteDecision::Mx(mx_route) => {
                match (sites.find(&claim.batch.destination), &claim.batch.destination) {
                    (Some(site), _) => mx_route.queue_to(site),
                    (None, Host::Domain(domain)) => {
                        let domain = domain.clone();
                        return self.queue.lookups.push(domain, UnresolvedClaim { mx_route, weight, claim });
                    }
                    (None, destination) => mx_route.queue_to(sites.provisional(destination)),
                }
            }
        };
        self.queue.dispatcher().push(queue_key, weight, claim, self.queue.clock().instant());
    }

    /// Starts site look-ups, and gives each claim with a slot to an agent.
    fn hand_out(&self) {
        self.begin_lookups();
        self.queue.dispatcher().reopen(self.queue.clock().instant());
        while let Some((slot, claim)) = self.queue.next_claim() {
            self.agents.deliver(slot, claim);
        }
    }
}

/// The wait after a pass: passes take a small part of the time, and after passes that found nothing the wait doubles.
fn poll_backoff_after(last: Duration, took: Duration, found: usize) -> Duration {
    let longer = if found == 0 { 2 * last } else { POLL_BACKOFF_MIN };
    longer.max(POLL_BACKOFF_PER_LOOK * took).min(POLL_BACKOFF_MAX)
}

/// At most half of the free window, so that tenants whose mail waits long, at slow destinations or at a slow smart host,
/// leave capacity for others.
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
        let waits: Vec<u128> =
            std::iter::successors(Some(POLL_BACKOFF_MIN), |last| Some(poll_backoff_after(*last, look, 0)))
                .take(6)
                .map(|poll_backoff| poll_backoff.as_millis())
                .collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 80]);
        assert_eq!(poll_backoff_after(POLL_BACKOFF_MAX, look, 1), POLL_BACKOFF_MIN);
        assert_eq!(poll_backoff_after(POLL_BACKOFF_MIN, 10 * look, 1), 30 * look);
    }
}
