//! Counts of the queue, pauses, retries and cancellation.

mod cancel;
mod flush;
pub(super) mod pauses;
mod restored;
mod stats;

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::mpsc;

use self::pauses::EndedPause;
pub(super) use self::stats::StatsCache;

use super::{Store, Tx};
use crate::mail::{Host, Timestamp};
use crate::model::{DeliveryId, MessageId, QueueFilter, TenantId};
use crate::store::memory::Announcement;
use crate::store::{
    AnnouncedCancellation, Conflict, OpenDeliveries, Pause, Queue, QueueOverview, QueueRequest, ReleaseMode,
    Restoration, Result, SpoolChange, StoreError,
};

/// Maximum of deliveries that one job changes, so that others can commit in between.
const STEP_ROWS_MAX: usize = 500;

impl Queue for Store {
    async fn overview(
        &self,
        request: QueueRequest,
        in_flight: HashSet<DeliveryId>,
        now: Timestamp,
    ) -> Result<QueueOverview> {
        let stats = self.queue_stats(&request.part, in_flight, now).await?;
        self.read_slow(move |connection| stats::page(connection, &stats, &request)).await
    }

    async fn pause(&self, pause: Pause) -> Result<Pause> {
        let feed = Arc::clone(&self.feed);
        let until_us = pauses::end_us(&pause);
        let (of_job, part) = (pause.clone(), pause.part.clone());
        let after = move |shortened: Option<EndedPause>| {
            feed.send(SpoolChange::Paused { part, until_us });
            shortened
        };
        let work = move |tx: &Tx<'_>| {
            let shortened = pauses::write(tx, &of_job)?;
            tx.announce(&Announcement::Paused { part: of_job.part.clone(), until_us })?;
            Ok(shortened)
        };
        let shortened = self.write_then(work, after).await?;
        // Deliveries that were moved to a later end are due now, so that they are moved to the new one.
        if let Some(former) = shortened {
            self.end_pause(former, pause.since).await?;
        }
        Ok(pause)
    }

    async fn resume(&self, part: QueueFilter, now: Timestamp) -> Result<bool> {
        let feed = Arc::clone(&self.feed);
        let of_job = part.clone();
        let after = move |lifted: Option<EndedPause>| {
            feed.send(SpoolChange::PauseLifted { part, at: now });
            lifted
        };
        let work = move |tx: &Tx<'_>| {
            let lifted = pauses::lift(tx, &of_job, now)?;
            if lifted.is_some() {
                tx.announce(&Announcement::PauseLifted { part: of_job.clone(), at: now })?;
            }
            Ok(lifted)
        };
        let lifted = self.write_then(work, after).await?;
        let Some(lifted) = lifted else { return Ok(false) };
        self.end_pause(lifted, now).await?;
        Ok(true)
    }

    async fn pauses(&self, now: Timestamp) -> Result<Vec<Pause>> {
        self.read(move |connection| pauses::read(connection, now)).await
    }

    async fn expire_pauses(&self, now: Timestamp) -> Result<()> {
        for ended in self.read(pauses::read_ended).await? {
            self.end_pause(ended, now).await?;
        }
        self.write(move |tx| pauses::delete_expired(tx, now)).await
    }

    async fn restoration(&self) -> Result<Option<Restoration>> {
        self.read(restored::read).await
    }

    async fn release_restored(&self, part: QueueFilter, mode: ReleaseMode, now: Timestamp) -> Result<u64> {
        // What waits for an erased recipient is cancelled first.
        let tenant = part.tenant_id;
        if self.read(move |connection| super::erasures::is_any_pending(connection, tenant)).await? {
            return Err(StoreError::Conflict(Conflict::ErasurePending));
        }
        let mut released = 0;
        for tenant in self.tenants_waiting(&part).await? {
            released += self.release_restored_of(tenant, part.destination.clone(), mode, now).await?;
        }
        self.write(restored::end_if_released).await?;
        Ok(released)
    }

    async fn flush(&self, part: QueueFilter, now: Timestamp) -> Result<u64> {
        let tenants = self.tenants_waiting(&part).await?;
        let mut flushed = 0;
        for tenant in tenants {
            flushed += self
                .make_range_due(flush::Range::deferred(tenant, part.destination.clone(), now), now)
                .await?;
        }
        Ok(flushed)
    }

    async fn open_deliveries(&self, message: MessageId) -> Result<OpenDeliveries> {
        let epoch = self.lease.epoch();
        self.read(move |connection| cancel::open_deliveries(connection, message, epoch)).await
    }

    async fn make_due(
        &self,
        tenant: TenantId,
        ids: Vec<DeliveryId>,
        now: Timestamp,
    ) -> Result<Vec<DeliveryId>> {
        let feed = Arc::clone(&self.feed);
        let after = move |changed: Vec<DeliveryId>| {
            feed.send(SpoolChange::Due { tenant_id: tenant, at: now });
            changed
        };
        self.write_then(move |tx| flush::Which::Deferred.make_due(tx, &ids, now), after).await
    }

    async fn cancel(
        &self,
        message: MessageId,
        ids: Vec<DeliveryId>,
        now: Timestamp,
    ) -> Result<Vec<DeliveryId>> {
        let feed = Arc::clone(&self.feed);
        let after = move |cancelled: Vec<DeliveryId>| {
            feed.send(SpoolChange::Cancelled(cancelled.clone()));
            cancelled
        };
        self.write_then(move |tx| cancel::cancel(tx, message, &ids, now), after).await
    }

    async fn announce_cancellation(&self, asked: AnnouncedCancellation) -> Result<()> {
        if !self.lease.is_shared() {
            return Ok(());
        }
        self.write(move |tx| Ok(tx.announce(&Announcement::Cancel(asked.clone()))?)).await
    }

    fn take_cancellation_feed(&self) -> Option<mpsc::Receiver<AnnouncedCancellation>> {
        self.cancellation_feed.lock().take()
    }
}

impl Store {
    /// Makes the deliveries due that a pause had moved to its former end, then forgets that end.
    async fn end_pause(&self, ended: EndedPause, now: Timestamp) -> Result<()> {
        self.make_paused_due(&ended.part, ended.until_us, now).await?;
        self.write(move |tx| pauses::delete_ended(tx, &ended)).await
    }

    /// Makes the deliveries due that a pause had moved to this end.
    async fn make_paused_due(&self, part: &QueueFilter, paused_until_us: i64, now: Timestamp) -> Result<()> {
        let Some(host) = &part.destination else { return Ok(()) };
        for tenant in self.tenants_waiting(part).await? {
            self.make_range_due(flush::Range::paused(tenant, host.clone(), paused_until_us), now).await?;
            // Deliveries that could not be moved to the end of the pause are due as well.
            self.feed.send(SpoolChange::Due { tenant_id: tenant, at: now });
        }
        Ok(())
    }

    /// Releases restored deliveries of a tenant in steps.
    async fn release_restored_of(
        &self,
        tenant: TenantId,
        destination: Option<Host>,
        mode: ReleaseMode,
        now: Timestamp,
    ) -> Result<u64> {
        let (mut released, mut behind) = (0, None);
        loop {
            let range = restored::Range { tenant, destination: destination.clone(), behind };
            let ids = self.read_slow(move |connection| range.page(connection, STEP_ROWS_MAX)).await?;
            let Some(last) = ids.last() else { return Ok(released) };
            behind = Some(*last);
            released += self.write(move |tx| restored::release(tx, &ids, mode, now)).await?;
            self.feed.send(SpoolChange::Due { tenant_id: tenant, at: now });
        }
    }

    async fn tenants_waiting(&self, part: &QueueFilter) -> Result<Vec<TenantId>> {
        match part.tenant_id {
            Some(tenant) => Ok(vec![tenant]),
            None => self.read(|connection| Ok(super::spool::due_rows::tenants_waiting(connection)?)).await,
        }
    }

    /// Makes the deliveries of a range due in steps.
    async fn make_range_due(&self, mut range: flush::Range, now: Timestamp) -> Result<u64> {
        let mut changed = 0;
        loop {
            let asked = range.clone();
            let page = self.read_slow(move |connection| asked.page(connection, STEP_ROWS_MAX)).await?;
            let Some(last) = page.last() else { return Ok(changed) };
            range.behind = Some(*last);
            let ids: Vec<DeliveryId> = page.iter().map(|place| place.id).collect();
            let which = range.which;
            let work = move |tx: &Tx<'_>| which.make_due(tx, &ids, now);
            changed += self.write(work).await?.len() as u64;
            self.feed.send(SpoolChange::Due { tenant_id: range.tenant, at: now });
        }
    }
}
