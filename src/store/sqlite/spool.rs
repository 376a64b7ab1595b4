//! Messages on their way: accepting, claiming, recording what became of them.

mod batches;
pub(super) mod claim;
mod claim_table;
mod damage;
mod due_index;
mod enqueue;
mod free_space;
mod hot_queue;
mod pauses;
mod record;
pub(super) mod submission_key;

use std::sync::Arc;

pub(super) use self::claim_table::{ClaimTable, Cursor, Parked, tenants_waiting};
pub(super) use self::free_space::FreeSpace;
pub(super) use self::pauses::PARKED_US;

use self::enqueue::{EnqueueJob, Stored};
use self::record::RecordJob;
use super::blob_store::{self, Kept};
use super::checksum::Checksum;
use super::sql_types::count;
use super::{Access, Store};
use crate::mail::{Content, Timestamp};
use crate::model::{DeliveryId, Environment, MessageId, TenantId};
use crate::store::{
    Batch, ClaimRoom, Claimed, NewMessage, QueueDepth, RecordBatch, Result, Spool, StoreError, StoredContent,
    SubmissionKey,
};

pub(super) const COUNT_OPEN: &str = "SELECT count(*) FROM delivery WHERE next_attempt_us IS NOT NULL";

impl Spool for Store {
    async fn enqueue(&self, new: NewMessage) -> Result<MessageId> {
        self.refuse_unless_serving()?;
        if self.free_space.is_short() {
            return Err(StoreError::DiskFull);
        }
        let incoming = self.prepare(new).await?;
        self.writer.run(incoming, EnqueueJob::write, EnqueueJob::conclude).await
    }

    async fn submitted_before(
        &self,
        tenant: TenantId,
        environment: Environment,
        key: &SubmissionKey,
        now: Timestamp,
    ) -> Result<Option<MessageId>> {
        let key = key.clone();
        self.read(move |connection| submission_key::find(connection, (tenant, environment), &key, now)).await
    }

    async fn claim_due(&self, now: Timestamp, room: &ClaimRoom) -> Result<Claimed> {
        self.refuse_unless_serving()?;
        let pass = ClaimTable::begin_pass(&self.memory, now, room).await;
        let mut granted = if pass.needs_database() {
            self.read(move |connection| pass.run(Some(connection))).await?
        } else {
            pass.run(None)?
        };
        self.park(granted.take_parked()).await;
        Ok(granted.accept())
    }

    fn claim_fresh(&self, room: &ClaimRoom) -> Result<Vec<Batch>> {
        self.refuse_unless_serving()?;
        Ok(self.memory.hand_out_ready(room))
    }

    async fn wait_for_fresh(&self) {
        self.memory.wait_for_fresh().await;
    }

    async fn wait_for_work(&self) {
        self.memory.wait_for_work().await;
    }

    async fn content(&self, id: MessageId) -> Result<Option<Content>> {
        let files = Arc::clone(&self.bodies);
        let read = self.read(move |connection| blob_store::read(connection, &files, id)).await;
        if let Err(StoreError::Damaged { message, fault }) = &read {
            self.tell_damage(*message, fault);
        }
        read
    }

    async fn stored_content(&self, id: MessageId) -> Result<Option<StoredContent>> {
        let checksum = match self.read(move |connection| blob_store::find(connection, id)).await? {
            None => return Ok(None),
            Some(Kept::Row { octets }) => return Ok(Some(StoredContent::Row { octets })),
            Some(Kept::File { checksum }) => checksum,
        };
        let files = Arc::clone(&self.bodies);
        let opened = tokio::task::spawn_blocking(move || files.open(id, checksum)).await;
        let opened = opened.map_err(|error| StoreError::Failed(error.to_string()))?;
        if let Err(StoreError::Damaged { message, fault }) = &opened {
            self.tell_damage(*message, fault);
        }
        opened.map(Some)
    }

    async fn record(&self, batch: RecordBatch) -> Result<()> {
        self.refuse_unless_serving()?;
        let report = match batch.report {
            Some(report) => Some(self.prepare(report).await?),
            None => None,
        };
        let outcome = RecordJob { memory: Arc::clone(&self.memory), records: batch.records, report };
        self.writer.run(outcome, RecordJob::write, RecordJob::conclude).await
    }

    fn release(&self, ids: &[DeliveryId]) {
        self.memory.release(ids);
    }

    async fn depth(&self) -> Result<QueueDepth> {
        let claimed = self.memory.claims() as u64;
        let open = self
            .read(|connection| {
                Ok(connection.prepare_cached(COUNT_OPEN)?.query_row([], |row| count(row, 0))?)
            })
            .await?;
        Ok(QueueDepth { open, claimed })
    }
}

impl Store {
    pub(super) fn refuse_unless_serving(&self) -> Result<()> {
        match self.access {
            Access::Serve => Ok(()),
            Access::Manage => {
                Err(StoreError::Failed("the data directory is open for management only".into()))
            }
        }
    }

    /// Tells the operator at each read, and the tenant by an event at the first one.
    fn tell_damage(&self, message_id: MessageId, fault: &str) {
        tracing::error!(%message_id, fault, "the content of a message is damaged and is not sent: restore it from a backup, or cancel the message");
        let fault = fault.to_owned();
        if !self.writer.leave(move |tx| damage::append_event(tx, message_id, &fault, Timestamp::now())) {
            tracing::warn!(%message_id, "the event of the damage was not noted: too much is waiting to be written");
        }
    }

    /// Brings a large body to disk and claims the deliveries for the hand-over in memory, before the commit
    /// can show them to anyone.
    async fn prepare(&self, new: NewMessage) -> Result<EnqueueJob> {
        let new = Arc::new(new);
        let stored = if self.bodies.is_large(&new.content) {
            let (files, new) = (Arc::clone(&self.bodies), Arc::clone(&new));
            let store = move || {
                let checksum = Checksum::of(&new.content);
                files.write(new.message.id, &new.content).map(|file| Stored { file: Some(file), checksum })
            };
            let stored = tokio::task::spawn_blocking(store).await;
            stored.map_err(|error| StoreError::Failed(error.to_string()))??
        } else {
            Stored { file: None, checksum: Checksum::of(&new.content) }
        };
        Ok(EnqueueJob::new(&self.memory, new, stored))
    }
}
