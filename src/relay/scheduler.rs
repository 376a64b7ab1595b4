//! Claims what is due, as far as there is room in memory, and hands it to workers in fair turns.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::Core;
use super::route::{Lane, Way};
use super::worker::{self, Claim, Slot};
use crate::mail::{Host, Timestamp};
use crate::policy::fairness::Turn;
use crate::store::{ClaimRoom, RecordBatch, Spool, StoreError};

/// Deliveries that are claimed at one time.
const WINDOW: usize = 4096;
/// Of one tenant: the rest stays for others, whatever one has waiting.
const WINDOW_PER_TENANT: usize = WINDOW / 4;
/// Batches that wait for one destination before no more are claimed for it.
const CROWD: usize = 256;
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
            tokio::select! {
                () = core.stop.cancelled() => return,
                () = core.store.wait_for_work() => break,
                () = sleep_until(claim_at) => break,
                _ = sweep.tick() => end_idle(core),
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
        saturated: crowded_destinations(core),
    };
    let claimed = core.store.claim_due(now, &room).await?;
    // Claims first, so that all of them are given back if one fails.
    let claims: Vec<Claim> =
        claimed.batches.into_iter().map(|batch| Claim::new(core.clone(), batch)).collect();
    for claim in claims {
        // Without its tenant a batch is about to be deleted; dropping it gives it back.
        if let Some(lane) = core.router.lane_of(&claim.batch).await? {
            let tenant = claim.batch.message.tenant_id;
            core.fairness().push(tenant, lane, claim);
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

fn crowded_destinations(core: &Core) -> Vec<Host> {
    let mx = |lane: &Lane| match &lane.way {
        Way::Mx(host, _) => Some(host.clone()),
        Way::Sandbox(_) | Way::Hosts(_) | Way::TenantSmartHost(..) => None,
    };
    core.fairness().crowded(CROWD).filter_map(mx).collect()
}

/// Gives each piece of work that has a free slot to a worker of its own.
fn hand_out(core: &Arc<Core>, recordings: &mpsc::Sender<RecordBatch>) {
    loop {
        let turn = core.fairness().take_turn();
        let Some(Turn { tenant, lane, job }) = turn else { return };
        let slot = Slot::new(core.clone(), lane, tenant);
        core.tasks.spawn(worker::run(core.clone(), recordings.clone(), slot, job));
    }
}

fn end_idle(core: &Core) {
    for connection in core.pool.take_expired() {
        core.tasks.spawn(connection.quit());
    }
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
