//! Applies the brakes of tenants: compares their bounces and complaints with the rates of their settings, and pauses their
//! mail. Imports `store` and `policy`.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Rounds};
use crate::mail::Timestamp;
use crate::model::{BrakeAction, BrakeMetric, QueueFilter, Ratio};
use crate::policy::brakes::{ExceededRate, FinishedRecipients, exceeded};
use crate::store::{AppliedBrake, BrakeReading, Duty, Ledger, Pause, Queue, Result, Store};

const INTERVAL: Duration = Duration::from_secs(60);

/// Compares every minute in which something changes, until `stop`.
pub async fn run(store: Arc<Store>, clock: Clock, stop: CancellationToken) {
    let mut rounds = Rounds::new(clock.clone(), INTERVAL, store.watch_changes());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = rounds.next() => {}
        }
        if !store.has_duty(Duty::Brakes) {
            continue;
        }
        if let Err(error) = check_all(&store, clock.now()).await {
            tracing::warn!(%error, "cannot compare the rates of tenants with their brakes; retrying in a minute");
            rounds.again();
        }
    }
}

async fn check_all(store: &Store, now: Timestamp) -> Result<()> {
    for reading in store.brake_readings(now).await? {
        let counts = reading.counts;
        let finished = FinishedRecipients {
            // What bounced later was counted as delivered.
            delivered: counts.delivered.saturating_sub(counts.bounced_late),
            bounced: counts.bounced + counts.bounced_late,
            complained: counts.complained,
        };
        if let Some(rate) = exceeded(&reading.brakes, finished) {
            apply(store, &reading, rate, now).await?;
        }
    }
    Ok(())
}

/// Pauses first: a crash in between repeats the pause, and loses no event.
async fn apply(store: &Store, reading: &BrakeReading, exceeded: ExceededRate, now: Timestamp) -> Result<()> {
    let BrakeReading { tenant_id, brakes, .. } = *reading;
    let ExceededRate { metric, rate, limit, recipients } = exceeded;
    if brakes.action == BrakeAction::Pause {
        let part = QueueFilter { tenant_id: Some(tenant_id), destination: None };
        let reason = Some(reason(&exceeded));
        let earlier = store.pauses(now).await?.into_iter().find(|pause| pause.part == part);
        if earlier.is_none_or(|pause| pause.until.is_some()) {
            store.pause(Pause { part, reason, since: now, until: None }).await?;
        }
    }
    tracing::warn!(
        tenant = %tenant_id, %metric, rate = rate.as_f64(), limit = limit.as_f64(), recipients, action = %brakes.action,
        "a brake of the tenant is applied"
    );
    let (window, action) = (brakes.window, brakes.action);
    let applied = AppliedBrake { tenant_id, metric, rate, limit, recipients, window, action, at: now };
    store.apply_brake(applied).await
}

fn reason(exceeded: &ExceededRate) -> String {
    let what = match exceeded.metric {
        BrakeMetric::BounceRate => "bounces",
        BrakeMetric::ComplaintRate => "complaints",
    };
    let percent = |ratio: Ratio| (ratio.as_f64() * 10_000.0).round() / 100.0;
    format!(
        "brake: {} % {what} of {} recipients, more than {} %",
        percent(exceeded.rate),
        exceeded.recipients,
        percent(exceeded.limit)
    )
}
