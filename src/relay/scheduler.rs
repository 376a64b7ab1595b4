//! Claims what is due, as far as there is room in memory, and hands it to workers in fair turns.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant as Moment};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::Core;
use super::admission::Admission;
use super::lookup::{self, Unplaced};
use super::route::{Course, Placed};
use super::worker::{self, Claim, Slot};
use crate::mail::{Host, Timestamp};
use crate::policy::fairness::Turn;
use crate::store::{ClaimRoom, RecordBatch, Spool, StoreError};

/// Deliveries that are claimed at one time.
const WINDOW: usize = 4096;
/// Of one tenant: the rest stays for others, whatever one has waiting.
const WINDOW_PER_TENANT: usize = WINDOW / 4;
/// After a failure of the store.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two claims while more is due than there is room for: each should find a little room and not one place.
const BREATH: Duration = Duration::from_millis(5);
/// Between two looks for connections idle for too long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// A clock set back must not make the relay sleep for ever.
const SLEEP_MAX: Duration = Duration::from_secs(10 * 60);

/// When to claim again.
enum Next {
    /// At this time, or when the store says that there is work.
    At(Instant),
    /// More is due than there was room for.
    Soon,
}

/// Runs until the relay is stopped.
pub async fn run(core: &Arc<Core>, recordings: &mpsc::Sender<RecordBatch>) {
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        let claimed = claim(core).await;
        hand_out(core, recordings);
        let claim_at = match claimed {
            Ok(Next::At(at)) => at,
            Ok(Next::Soon) => {
                tokio::time::sleep(BREATH).await;
                Instant::now() + PAUSE
            }
            Err(error) => {
                tracing::warn!(%error, "cannot claim due mail; trying again");
                // What was given back would wake us at once.
                tokio::time::sleep(PAUSE).await;
                Instant::now()
            }
        };
        loop {
            let reopening = core.turns().next_reopening();
            let reopening = reopening.map_or_else(|| Instant::now() + SLEEP_MAX, Instant::from_std);
            tokio::select! {
                () = core.stop.cancelled() => return,
                () = core.store.wait_for_work() => break,
                () = sleep_until(claim_at) => break,
                () = core.wake.notified() => hand_out(core, recordings),
                () = sleep_until(reopening) => hand_out(core, recordings),
                _ = sweep.tick() => tidy(core),
            }
        }
    }
}

/// Claims as much as there is room for.
async fn claim(core: &Arc<Core>) -> Result<Next, StoreError> {
    let now = Timestamp::now();
    // Also without any room: only so does the store know whom to wake when there is some.
    let deliveries_max = WINDOW.saturating_sub(core.in_flight.load(Ordering::Acquire));
    let room = ClaimRoom {
        deliveries_max,
        per_tenant_max: tenant_share_of(deliveries_max),
        admits: Admission::begin(core),
    };
    let claimed = core.store.claim_due(now, &room).await?;
    // Claims first, so that all of them are given back if one fails.
    let claims: Vec<Claim> =
        claimed.batches.into_iter().map(|batch| Claim::new(core.clone(), batch)).collect();
    for claim in claims {
        // Without its tenant a batch is about to be deleted; dropping it gives it back.
        if let Some(placed) = core.router.place(&claim.batch).await? {
            line_up(core, placed, claim);
        }
    }
    Ok(match claimed.next_due_at {
        None => Next::At(Instant::now() + SLEEP_MAX),
        Some(due) if due <= now => Next::Soon,
        Some(due) => {
            let wait = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
            Next::At(Instant::now() + wait.min(SLEEP_MAX))
        }
    })
}

/// Half of the room at most: tenants whose mail waits long, at slow destinations or at a slow smart host of their own,
/// never fill it for those who come next.
fn tenant_share_of(deliveries_free: usize) -> usize {
    WINDOW_PER_TENANT.min(deliveries_free.div_ceil(2))
}

/// Puts a claim into its lane, or where lanes are found.
fn line_up(core: &Core, placed: Placed, claim: Claim) {
    let Placed { course, weight } = placed;
    let lane = match course {
        Course::Lane(lane) => lane,
        Course::Mx(course) => match (core.sites.find(&claim.batch.destination), &claim.batch.destination) {
            (Some(site), _) => course.lane_to(site),
            (None, Host::Domain(domain)) => {
                let domain = domain.clone();
                return core.lookups.push(domain, Unplaced { course, weight, claim });
            }
            (None, destination) => course.lane_to(core.sites.provisional(destination)),
        },
    };
    let refused = core.turns().push(lane, weight, claim, Moment::now());
    drop(refused);
}

/// Gives each piece of work that has a free slot to a worker of its own, and what has no lane yet to the look-ups.
fn hand_out(core: &Arc<Core>, recordings: &mpsc::Sender<RecordBatch>) {
    lookup::begin(core);
    core.turns().reopen(Moment::now());
    loop {
        let turn = core.turns().take(Moment::now());
        let Some(Turn { tenant, lane, job }) = turn else { return };
        let slot = Slot::new(core.clone(), lane, tenant);
        core.tasks.spawn(worker::run(core.clone(), recordings.clone(), slot, job));
    }
}

fn tidy(core: &Core) {
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
}
