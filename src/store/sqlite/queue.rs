//! The queue for people: counting it, pausing and resuming parts of it, hurrying and cancelling what waits.

mod cancel;
mod flush;
pub(super) mod pauses;
mod stats;

use std::sync::Arc;

pub(super) use self::stats::Surveys;

use super::spool::{PARKED_US, Parked};
use super::{SqliteStore, Tx};
use crate::mail::{Host, Timestamp};
use crate::model::{DeliveryId, MessageId, QueueFilter, TenantId};
use crate::store::{Pause, Queue, QueueOverview, QueueRequest, Result, Steered};

/// Deliveries changed in one job of the writer: others commit in between.
const STEP_ROWS_MAX: usize = 500;

impl Queue for SqliteStore {
    async fn overview(&self, request: QueueRequest, now: Timestamp) -> Result<QueueOverview> {
        let survey = self.survey(&request.part, now).await?;
        self.read_at_leisure(move |connection| stats::page(connection, &survey, &request)).await
    }

    async fn pause(&self, hold: Pause) -> Result<Pause> {
        let memory = Arc::clone(&self.memory);
        let end_us = pauses::end_us(&hold);
        let (of_job, part) = (hold.clone(), hold.part.clone());
        let after = move |earlier_us: Option<i64>| {
            memory.hold(&part, end_us);
            earlier_us
        };
        let earlier_us = self.write_then(move |tx| pauses::write(tx, &of_job), after).await?;
        // What the earlier pause set aside for longer is looked at anew.
        if let Some(earlier_us) = earlier_us.filter(|&earlier_us| earlier_us > end_us) {
            self.memory.wait_for_pass().await;
            self.unpark(&hold.part, earlier_us, hold.since).await?;
        }
        Ok(hold)
    }

    async fn resume(&self, part: QueueFilter, now: Timestamp) -> Result<bool> {
        let memory = Arc::clone(&self.memory);
        let (of_job, of_memory) = (part.clone(), part.clone());
        let after = move |parked_until_us: Option<i64>| {
            memory.lift(&of_memory, now);
            parked_until_us
        };
        let lifted = self.write_then(move |tx| pauses::lift(tx, &of_job, now), after).await?;
        let Some(parked_until_us) = lifted else { return Ok(false) };
        self.end_lifted(part, parked_until_us, now).await?;
        Ok(true)
    }

    async fn holds(&self, now: Timestamp) -> Result<Vec<Pause>> {
        self.read(move |connection| pauses::read(connection, now)).await
    }

    async fn tidy_holds(&self, now: Timestamp) -> Result<()> {
        for (part, parked_until_us) in self.read(pauses::read_lifted).await? {
            self.end_lifted(part, parked_until_us, now).await?;
        }
        self.write(move |tx| pauses::forget_ended(tx, now)).await
    }

    fn is_paused(&self, tenant: TenantId, destination: &Host, now: Timestamp) -> bool {
        self.memory.is_paused(tenant, destination, now)
    }

    async fn flush(&self, part: QueueFilter, now: Timestamp) -> Result<u64> {
        let tenants = self.tenants_waiting(&part).await?;
        let mut flushed = 0;
        for tenant in tenants {
            flushed += self.hurry(flush::Range::deferred(tenant, part.destination.clone(), now), now).await?;
        }
        Ok(flushed)
    }

    async fn retry(&self, message: MessageId, now: Timestamp) -> Result<Steered> {
        let mut open = self.read(move |connection| cancel::open_deliveries(connection, message)).await?;
        let Some(tenant) = open.tenant else { return Ok(Steered::default()) };
        let handed_out = self.memory.handed_out_of(&open.ids());
        let in_flight = open.take_ids(|id| handed_out.contains(&id));
        let ids = open.ids();
        let memory = Arc::clone(&self.memory);
        let after = move |changed: Vec<DeliveryId>| {
            memory.note_due(tenant, now);
            changed
        };
        let changed =
            self.write_then(move |tx| flush::Which::Deferred.make_due(tx, &ids, now), after).await?;
        Ok(Steered { changed, in_flight })
    }

    async fn cancel(&self, message: MessageId, now: Timestamp) -> Result<Steered> {
        let mut open = self.read(move |connection| cancel::open_deliveries(connection, message)).await?;
        let Some(tenant) = open.tenant else { return Ok(Steered::default()) };
        let taken = self.memory.take_back(tenant, &open.deliveries);
        let in_flight = open.take_ids(|id| !taken.contains(&id));
        let taken = cancel::Taken::new(&self.memory, tenant, open.ids());
        let work = move |taken: &cancel::Taken, tx: &Tx<'_>| taken.cancel(tx, message, now);
        let changed = self.writer.run(taken, work, cancel::Taken::conclude).await?;
        Ok(Steered { changed, in_flight })
    }
}

impl SqliteStore {
    /// Puts the next try of rows off to the end of the pause that holds them. What cannot be written now is found due
    /// again by a later pass.
    pub(super) async fn park(&self, parked: Vec<Parked>) {
        let mut parked = parked.into_iter().peekable();
        while parked.peek().is_some() {
            let step: Vec<Parked> = parked.by_ref().take(STEP_ROWS_MAX).collect();
            let ends: Vec<_> = step.iter().map(|row| (row.tenant, row.until_us)).collect();
            if let Err(error) = self.write(move |tx| pauses::park(tx, &step)).await {
                tracing::warn!(%error, "mail for a paused destination could not be set aside");
            }
            for (tenant, until_us) in ends.into_iter().filter(|&(_, until_us)| until_us != PARKED_US) {
                self.memory.note_due(tenant, pauses::time_of(until_us));
            }
        }
    }

    /// Makes due what a pause that was lifted had set aside, then forgets the pause.
    async fn end_lifted(&self, part: QueueFilter, parked_until_us: i64, now: Timestamp) -> Result<()> {
        self.memory.wait_for_pass().await;
        self.unpark(&part, parked_until_us, now).await?;
        self.write(move |tx| pauses::forget(tx, &part)).await
    }

    /// Makes due what a pause had set aside until a time.
    async fn unpark(&self, part: &QueueFilter, parked_until_us: i64, now: Timestamp) -> Result<()> {
        let Some(host) = &part.destination else { return Ok(()) };
        for tenant in self.tenants_waiting(part).await? {
            self.hurry(flush::Range::parked(tenant, host.clone(), parked_until_us), now).await?;
            // Also what was found while it was paused and could not be set aside.
            self.memory.note_due(tenant, now);
        }
        Ok(())
    }

    async fn tenants_waiting(&self, part: &QueueFilter) -> Result<Vec<TenantId>> {
        match part.tenant_id {
            Some(tenant) => Ok(vec![tenant]),
            None => self.read(|connection| Ok(super::spool::tenants_waiting(connection)?)).await,
        }
    }

    /// Makes the rows of a range due, step by step.
    async fn hurry(&self, mut range: flush::Range, now: Timestamp) -> Result<u64> {
        let mut hurried = 0;
        loop {
            let asked = range.clone();
            let page = self.read_at_leisure(move |connection| asked.page(connection, STEP_ROWS_MAX)).await?;
            let Some(last) = page.last() else { return Ok(hurried) };
            range.behind = Some(*last);
            let ids: Vec<DeliveryId> = page.iter().map(|place| place.id).collect();
            let which = range.which;
            let work = move |tx: &Tx<'_>| which.make_due(tx, &ids, now);
            hurried += self.write(work).await?.len() as u64;
            self.memory.note_due(range.tenant, now);
        }
    }
}
