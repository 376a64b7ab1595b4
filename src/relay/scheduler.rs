//! Claims what is due, as far as there is room in memory, and hands it to workers in fair turns.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant as Moment};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::RelayContext;
use super::claim_filter::ClaimFilter;
use super::route::{RouteDecision, Routed};
use super::site_resolution::{self, UnresolvedClaim};
use super::worker::{self, Claim, Slot};
use crate::mail::{Host, Timestamp};
use crate::policy::fair_queue::Turn;
use crate::store::{Batch, ClaimRoom, RecordBatch, Spool, StoreError};

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
    /// At this time, or when the store says that there is work.
    At(Instant),
    /// More is due than there was room for; so many batches were claimed.
    Soon {
        /// Of them.
        found: usize,
    },
}

/// Runs until the relay is stopped.
pub async fn run(core: &Arc<RelayContext>, recordings: &mpsc::Sender<RecordBatch>) {
    tokio::join!(claim_what_is_due(core, recordings), attend(core, recordings));
}

/// Hands out what was accepted just now, and what has found a slot: nothing of it waits for a look into the database.
async fn attend(core: &Arc<RelayContext>, recordings: &mpsc::Sender<RecordBatch>) {
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        let reopening = core.turns().next_reopening();
        let reopening = reopening.map_or_else(|| Instant::now() + SLEEP_MAX, Instant::from_std);
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = core.store.wait_for_fresh() => claim_fresh(core).await,
            () = core.wake.notified() => {}
            () = sleep_until(reopening) => {}
            _ = sweep.tick() => tidy(core),
        }
        hand_out(core, recordings);
    }
}

async fn claim_what_is_due(core: &Arc<RelayContext>, recordings: &mpsc::Sender<RecordBatch>) {
    let mut poll_backoff = POLL_BACKOFF_MIN;
    loop {
        let began = Moment::now();
        let claimed = claim_due(core).await;
        hand_out(core, recordings);
        let claim_at = match claimed {
            Ok(Next::At(at)) => at,
            Ok(Next::Soon { found }) => {
                poll_backoff = poll_backoff_after(poll_backoff, began.elapsed(), found);
                // What comes free meanwhile would have us look again at once.
                pause(core, poll_backoff).await;
                Instant::now() + PAUSE
            }
            Err(error) => {
                tracing::warn!(%error, "cannot claim due mail; trying again");
                // What was given back would wake us at once.
                pause(core, PAUSE).await;
                Instant::now()
            }
        };
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = core.store.wait_for_work() => {}
            () = sleep_until(claim_at) => {}
        }
    }
}

async fn pause(core: &RelayContext, length: Duration) {
    tokio::select! {
        () = core.stop.cancelled() => {}
        () = tokio::time::sleep(length) => {}
    }
}

/// How long to wait after a look that took so long: most of the time nobody looks, and where nothing was found each wait is
/// longer than the one before.
fn poll_backoff_after(last: Duration, took: Duration, found: usize) -> Duration {
    let longer = if found == 0 { 2 * last } else { POLL_BACKOFF_MIN };
    longer.max(POLL_BACKOFF_PER_LOOK * took).min(POLL_BACKOFF_MAX)
}

fn room(core: &Arc<RelayContext>) -> ClaimRoom {
    let deliveries_max = WINDOW.saturating_sub(core.in_flight.load(Ordering::Acquire));
    ClaimRoom {
        deliveries_max,
        per_tenant_max: tenant_share_of(deliveries_max),
        admits: ClaimFilter::begin(core),
    }
}

async fn claim_fresh(core: &Arc<RelayContext>) {
    let claimed = match core.store.claim_fresh(&room(core)) {
        Ok(batches) => line_up_all(core, batches).await,
        Err(error) => Err(error),
    };
    if let Err(error) = claimed {
        tracing::warn!(%error, "fresh mail could not be placed; it is claimed again");
    }
}

/// Claims as much as there is room for.
async fn claim_due(core: &Arc<RelayContext>) -> Result<Next, StoreError> {
    let now = Timestamp::now();
    // Also without any room: only so does the store know whom to wake when there is some.
    let claimed = core.store.claim_due(now, &room(core)).await?;
    let found = claimed.batches.len();
    line_up_all(core, claimed.batches).await?;
    Ok(match claimed.next_due_at {
        None => Next::At(Instant::now() + SLEEP_MAX),
        Some(due) if due <= now => Next::Soon { found },
        Some(due) => {
            let wait = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
            Next::At(Instant::now() + wait.min(SLEEP_MAX))
        }
    })
}

async fn line_up_all(core: &Arc<RelayContext>, batches: Vec<Batch>) -> Result<(), StoreError> {
    // Claims first, so that all of them are given back if one fails.
    let claims: Vec<Claim> = batches.into_iter().map(|batch| Claim::new(core.clone(), batch)).collect();
    for claim in claims {
        // Without its tenant a batch is about to be deleted; dropping it gives it back.
        if let Some(placed) = core.router.route_batch(&claim.batch).await? {
            line_up(core, placed, claim);
        }
    }
    Ok(())
}

/// Half of the room at most: tenants whose mail waits long, at slow destinations or at a slow smart host of their own,
/// never fill it for those who come next.
fn tenant_share_of(deliveries_free: usize) -> usize {
    WINDOW_PER_TENANT.min(deliveries_free.div_ceil(2))
}

/// Puts a claim into its lane, or where lanes are found.
fn line_up(core: &RelayContext, placed: Routed, claim: Claim) {
    let Routed { decision: course, weight } = placed;
    let lane = match course {
        RouteDecision::Known(lane) => lane,
        RouteDecision::Mx(course) => {
            match (core.sites.find(&claim.batch.destination), &claim.batch.destination) {
                (Some(site), _) => course.queue_to(site),
                (None, Host::Domain(domain)) => {
                    let domain = domain.clone();
                    return core.lookups.push(domain, UnresolvedClaim { course, weight, claim });
                }
                (None, destination) => course.queue_to(core.sites.provisional(destination)),
            }
        }
    };
    let refused = core.turns().push(lane, weight, claim, Moment::now());
    drop(refused);
}

/// Gives each piece of work that has a free slot to a worker of its own, and what has no lane yet to the look-ups.
fn hand_out(core: &Arc<RelayContext>, recordings: &mpsc::Sender<RecordBatch>) {
    site_resolution::begin(core);
    core.turns().reopen(Moment::now());
    loop {
        let turn = core.turns().take(Moment::now());
        let Some(Turn { tenant, lane, job }) = turn else { return };
        let slot = Slot::new(core.clone(), lane, tenant);
        core.tasks.spawn(worker::run(core.clone(), recordings.clone(), slot, job));
    }
}

fn tidy(core: &RelayContext) {
    for connection in core.pool.take_expired() {
        core.tasks.spawn(connection.quit());
    }
    core.turns().sweep(Moment::now());
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
