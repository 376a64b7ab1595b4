//! Messages on their way: accepting, claiming, recording what became of them.

mod batches;
pub(super) mod claim;
mod claim_table;
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

use self::enqueue::EnqueueJob;
use self::record::RecordJob;
use super::sql_types::count;
use super::{Access, SqliteStore, blob_store};
use crate::mail::{Content, Timestamp};
use crate::model::{DeliveryId, Environment, MessageId, TenantId};
use crate::store::{
    Batch, ClaimRoom, Claimed, NewMessage, QueueDepth, RecordBatch, Result, Spool, StoreError, SubmissionKey,
};

pub(super) const COUNT_OPEN: &str = "SELECT count(*) FROM delivery WHERE next_attempt_us IS NOT NULL";

impl Spool for SqliteStore {
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
        self.read(move |connection| blob_store::read(connection, &files, id)).await
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

impl SqliteStore {
    fn refuse_unless_serving(&self) -> Result<()> {
        match self.access {
            Access::Serve => Ok(()),
            Access::Manage => {
                Err(StoreError::Failed("the data directory is open for management only".into()))
            }
        }
    }

    /// Brings a large body to disk and claims the deliveries for the hand-over in memory, before the commit
    /// can show them to anyone.
    async fn prepare(&self, new: NewMessage) -> Result<EnqueueJob> {
        let new = Arc::new(new);
        let mut file = None;
        if self.bodies.is_large(&new.content) {
            let (files, new) = (Arc::clone(&self.bodies), Arc::clone(&new));
            let written =
                tokio::task::spawn_blocking(move || files.write(new.message.id, &new.content)).await;
            file = Some(written.map_err(|error| StoreError::Failed(error.to_string()))??);
        }
        Ok(EnqueueJob::new(&self.memory, new, file))
    }
}
