//! Messages and deliveries: enqueue, read what is due, record results.

mod damage;
pub(super) mod due_rows;
pub(super) mod enqueue;
pub(super) mod queue_rows;
pub(super) mod record;
pub(super) mod submission_key;

use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio::sync::{mpsc, watch};

use self::damage::DamagedDelivery;
use self::due_rows::DueRows;
use self::enqueue::{EnqueueBatch, EnqueueJob, Stored};
use self::record::RecordJob;
use super::blob_store::{self, BodyLocation, BodyPlacement};
use super::body_pieces::BodyPieces;
use super::checksum::Checksum;
use super::postgres::announcements;
use super::sql_types::count;
use super::unit_of_work::Tx;
use super::writer::HotJob;
use super::{Access, Store};
use crate::blocking;
use crate::limits::auth_limiter::BanChange;
use crate::mail::{Content, Timestamp};
use crate::model::{DeliveryId, Environment, MessageId, TenantId};
use crate::store::memory::Announcement;
use crate::store::{
    AnnouncedBackoff, ContentFile, Delivery, DuePage, DueRange, Lease, LeaseState, Message, NewMessage,
    Nodes, PausedRow, RecordBatch, Result, Spool, SpoolFeed, StoreError, StoredContent, SubmissionKey,
};

pub(super) const COUNT_OPEN: &str = "SELECT count(*) FROM queue";

/// Maximum of octets of bodies that one job writes into the database, because all other jobs wait for its commit. Other
/// bodies of the job are written to files before.
const INLINE_OCTETS_OF_JOB_MAX: u64 = 2 * 1024 * 1024;

/// Maximum of deliveries that one job moves, so that others can commit in between.
const POSTPONED_ROWS_MAX: usize = 500;

impl Spool for Store {
    fn feed(&self) -> Arc<SpoolFeed> {
        Arc::clone(&self.feed)
    }

    async fn enqueue(&self, new: NewMessage) -> Result<MessageId> {
        let stored = self.enqueue_all(vec![new]).await?;
        stored.first().copied().ok_or_else(|| StoreError::Failed("the message was not enqueued".into()))
    }

    async fn enqueue_all(&self, news: Vec<NewMessage>) -> Result<Vec<MessageId>> {
        self.refuse_unless_serving()?;
        self.free_space.check()?;
        // Files are written before, so that other jobs do not wait for them.
        let mut inline_octets = 0;
        let jobs = news.into_iter().map(|new| {
            let octets = new.content.len() as u64;
            let is_inline =
                !self.bodies.is_large(&new.content) && inline_octets + octets <= INLINE_OCTETS_OF_JOB_MAX;
            inline_octets += if is_inline { octets } else { 0 };
            self.prepare(new, is_inline)
        });
        let batch = EnqueueBatch { jobs: try_join_all(jobs).await? };
        self.write_hot(batch.as_hot_job(), batch, EnqueueBatch::write, EnqueueBatch::conclude).await
    }

    async fn find_submission(
        &self,
        tenant: TenantId,
        environment: Environment,
        key: &SubmissionKey,
        now: Timestamp,
    ) -> Result<Option<MessageId>> {
        let key = key.clone();
        self.read(move |connection| submission_key::find(connection, (tenant, environment), &key, now)).await
    }

    async fn due_pages(&self, ranges: Vec<DueRange>, now: Timestamp) -> Result<Vec<DuePage>> {
        self.refuse_unless_serving()?;
        let feed = self.lease.is_shared().then(|| Arc::clone(&self.feed));
        let read = self.read(move |connection| {
            let floors = feed.as_ref().map(|feed| feed.floors());
            let mut look = DueRows { connection, floors, now, damaged: Vec::new() };
            let pages = ranges.iter().map(|range| look.page(range)).collect::<Result<_>>()?;
            Ok((pages, look.damaged))
        });
        let (pages, damaged) = read.await?;
        self.quarantine(damaged, now);
        Ok(pages)
    }

    async fn take(&self, ids: Vec<DeliveryId>, now: Timestamp) -> Result<Vec<(Arc<Message>, Delivery)>> {
        self.refuse_unless_serving()?;
        let ids = if self.lease.is_shared() {
            let ids = self.lease.claimable(ids);
            let claim = |ids: &Vec<DeliveryId>, tx: &Tx<'_>| queue_rows::claim(tx, ids);
            self.write_hot(HotJob::default(), ids, claim, |_, claimed| claimed).await?
        } else {
            ids
        };
        let read = self.read(move |connection| {
            let mut damaged = Vec::new();
            Ok((due_rows::take(connection, &ids, &mut damaged)?, damaged))
        });
        let (taken, damaged) = read.await?;
        self.quarantine(damaged, now);
        Ok(taken)
    }

    fn release(&self, ids: Vec<DeliveryId>) {
        self.lease.give_back(ids);
    }

    fn lease(&self) -> Lease {
        self.lease.current()
    }

    fn watch_lease(&self) -> watch::Receiver<Lease> {
        self.lease.watch()
    }

    fn nodes(&self) -> Nodes {
        self.lease.nodes()
    }

    async fn announce_ban(&self, change: BanChange) -> Result<()> {
        if !self.lease.is_shared() {
            return Ok(());
        }
        self.write(move |tx| Ok(tx.announce(&Announcement::Ban(change))?)).await
    }

    async fn announced_bans(&self) -> Result<Vec<BanChange>> {
        if !self.lease.is_shared() {
            return Ok(Vec::new());
        }
        self.read(|connection| Ok(announcements::read_bans(connection)?)).await
    }

    fn take_ban_feed(&self) -> Option<mpsc::Receiver<BanChange>> {
        self.ban_feed.lock().take()
    }

    async fn announce_backoffs(&self, backoffs: Vec<AnnouncedBackoff>) -> Result<()> {
        if !self.lease.is_shared() {
            return Ok(());
        }
        let announce = move |tx: &Tx<'_>| {
            for backoff in &backoffs {
                tx.announce(&Announcement::Backoff(backoff.clone()))?;
            }
            Ok(())
        };
        self.write(announce).await
    }

    fn take_backoff_feed(&self) -> Option<mpsc::Receiver<AnnouncedBackoff>> {
        self.backoff_feed.lock().take()
    }

    async fn postpone_paused(&self, rows: Vec<PausedRow>) -> Result<Vec<TenantId>> {
        let mut due = Vec::new();
        for step in rows.chunks(POSTPONED_ROWS_MAX) {
            let step = step.to_vec();
            due.extend(self.write(move |tx| super::queue::pauses::postpone_paused(tx, &step)).await?);
        }
        Ok(due)
    }

    async fn content(&self, id: MessageId, now: Timestamp) -> Result<Option<Content>> {
        let files = Arc::clone(&self.bodies);
        let read = self.read(move |connection| blob_store::read(connection, &files, id)).await;
        self.report_damage(&read, now);
        read
    }

    async fn stored_content(&self, id: MessageId, now: Timestamp) -> Result<Option<StoredContent>> {
        let files = Arc::clone(&self.bodies);
        let found = self.read(move |connection| match blob_store::find(connection, id)? {
            None => Ok(None),
            Some(BodyLocation::Row { octets }) => Ok(Some(StoredContent::Row { octets })),
            Some(BodyLocation::File { .. }) => Ok(Some(StoredContent::File { octets: files.octets(id)? })),
        });
        let found = found.await;
        self.report_damage(&found, now);
        found
    }

    async fn open_content(&self, id: MessageId, now: Timestamp) -> Result<Option<ContentFile>> {
        let Some(BodyLocation::File { checksum }) =
            self.read(move |connection| blob_store::find(connection, id)).await?
        else {
            return Ok(None);
        };
        let files = Arc::clone(&self.bodies);
        let opened = blocking::run(move || files.open(id, checksum)).await;
        let opened = opened.map_err(|error| StoreError::Failed(error.to_string()))?;
        self.report_damage(&opened, now);
        opened.map(Some)
    }

    async fn record(&self, batch: RecordBatch) -> Result<()> {
        self.refuse_unless_serving()?;
        let report = self.prepare_dsn(batch.report).await?;
        let outcome = RecordJob { feed: Arc::clone(&self.feed), records: batch.records, report };
        match outcome.as_hot_job() {
            Ok(hot) => self.writer.run_hot(hot, outcome, RecordJob::write, RecordJob::conclude).await,
            Err(results) => {
                self.writer.run_holding(results, outcome, RecordJob::write, RecordJob::conclude).await
            }
        }
    }

    async fn count_open(&self) -> Result<u64> {
        self.read(|connection| {
            Ok(connection.prepare_cached(COUNT_OPEN)?.query_row([], |row| count(row, 0))?)
        })
        .await
    }
}

impl Store {
    pub(super) fn refuse_unless_serving(&self) -> Result<()> {
        match self.access {
            Access::Serve if self.lease.state() == LeaseState::Fresh => Ok(()),
            Access::Serve => Err(StoreError::NoLease),
            Access::Manage | Access::Initialize => {
                Err(StoreError::Failed("the data directory is open for management only".into()))
            }
        }
    }

    /// Logs damaged content at each read, and appends the tenant's event at the first one.
    fn report_damage<T>(&self, read: &Result<T>, now: Timestamp) {
        let Err(StoreError::Damaged { message: message_id, fault }) = read else { return };
        let message_id = *message_id;
        tracing::error!(%message_id, fault, "the content of a message is damaged and is not sent: restore it from a backup, or cancel the message");
        let fault = fault.clone();
        if !self.writer.leave(move |tx| damage::append_event(tx, message_id, &fault, now)) {
            tracing::warn!(%message_id, "the event of the damage was not recorded: too many writes are pending");
        }
    }

    /// Moves deliveries whose rows cannot be read out of the way of all others.
    fn quarantine(&self, damaged: Vec<DamagedDelivery>, now: Timestamp) {
        if damaged.is_empty() {
            return;
        }
        for DamagedDelivery { id, fault } in &damaged {
            let delivery = String::from_utf8_lossy(id);
            tracing::error!(%delivery, fault, "the row of a delivery or of its message is damaged: it is not attempted until it is repaired and its queue is flushed");
        }
        let quarantine =
            move |tx: &Tx<'_>| damaged.iter().try_for_each(|delivery| damage::quarantine(tx, delivery, now));
        if !self.writer.leave(quarantine) {
            tracing::warn!("damaged deliveries were not quarantined: too many writes are pending");
        }
    }

    /// Prepares a DSN that is enqueued with what it reports.
    pub(super) async fn prepare_dsn(&self, dsn: Option<NewMessage>) -> Result<Option<EnqueueJob>> {
        let Some(dsn) = dsn else { return Ok(None) };
        let is_inline = !self.bodies.is_large(&dsn.content);
        self.prepare(dsn, is_inline).await.map(Some)
    }

    /// Writes a body that does not go into the database to its file, and reserves memory, so that the message can be
    /// delivered without reading it.
    async fn prepare(&self, new: NewMessage, is_inline: bool) -> Result<EnqueueJob> {
        let new = Arc::new(new);
        let stored = if let Some(pieces) = &self.body_pieces {
            self.store_in_rows(pieces, &new).await?
        } else if !is_inline {
            let (files, new) = (Arc::clone(&self.bodies), Arc::clone(&new));
            let store = move || {
                let checksum = Checksum::of(&new.content);
                let placement = BodyPlacement::File;
                let file = files.write(new.message.id, &new.content)?;
                Ok::<_, StoreError>(Stored { file: Some(file), placement, checksum })
            };
            let stored = blocking::run(store).await;
            stored.map_err(|error| StoreError::Failed(error.to_string()))??
        } else {
            let placement = BodyPlacement::Row;
            Stored { file: None, placement, checksum: Checksum::of(&new.content) }
        };
        Ok(EnqueueJob::new(&self.feed, self.lease.epoch(), new, stored))
    }

    /// Writes a large body in pieces.
    async fn store_in_rows(&self, pieces: &BodyPieces, new: &NewMessage) -> Result<Stored> {
        let mut placement = BodyPlacement::Row;
        if BodyPieces::is_large(&new.content) {
            pieces.write(new.message.id, new.content.clone()).await?;
            placement = BodyPlacement::Pieces;
        }
        Ok(Stored { file: None, placement, checksum: Checksum::of(&new.content) })
    }
}
