//! Writes the results of attempts to the store in a task of its own. Waiting results are written as a group.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::model::DeliveryId;
use crate::queue::QueueManager;
use crate::store::{RecordBatch, Spool, StoreError};
use crate::telemetry::FLOOD;

/// Maximum of batches that wait to be written; at this limit workers wait. Each batch may contain a DSN.
pub const WAITING_MAX: usize = 256;
/// KiB of DSNs that are being written or wait for a retry; at this limit no more batches are read from the channel.
const DSN_KIB_MAX: u32 = 256 * 1024;
/// Batches written in one transaction.
const GROUP_MAX: usize = 128;
/// Records after which a transaction gets no more batches, because other commits wait for it.
const GROUP_RECORDS_MAX: usize = 500;
const RETRY_DELAY_MIN: Duration = Duration::from_millis(500);
/// What is not written is delivered again if the process dies, so results must not wait long once the store is back.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(2);
/// Failed writes after which a stopping relay gives up.
const TRIES_AT_STOP: u32 = 3;

/// Writes results.
#[derive(Clone)]
pub struct ResultWriter {
    /// The queue manager, which gets back the claims of results that cannot be written.
    pub queue: Arc<QueueManager>,
    /// After the stop, the retries of a write are limited.
    pub stop: CancellationToken,
}

impl ResultWriter {
    /// Writes until the channel is closed and everything is written.
    pub async fn run(self, mut waiting: mpsc::Receiver<RecordBatch>) {
        let mut separate = JoinSet::new();
        let mut batches = Vec::with_capacity(GROUP_MAX);
        let dsn_kib = Arc::new(Semaphore::new(DSN_KIB_MAX as usize));
        while waiting.recv_many(&mut batches, GROUP_MAX).await > 0 {
            let mut group = Vec::new();
            for batch in batches.drain(..) {
                // A store record carries one DSN, so batches with a DSN are written one by one, concurrently.
                if let Some(report) = &batch.report {
                    let kib =
                        u32::try_from(report.content.len() / 1024 + 1).unwrap_or(u32::MAX).min(DSN_KIB_MAX);
                    let permit = dsn_kib.clone().acquire_many_owned(kib).await;
                    let writing = self.clone().write(batch);
                    separate.spawn(async move {
                        let _permit = permit;
                        writing.await;
                    });
                } else {
                    group.push(batch);
                    if group.iter().map(|batch| batch.records.len()).sum::<usize>() >= GROUP_RECORDS_MAX {
                        self.write_group(std::mem::take(&mut group), &mut separate).await;
                    }
                }
            }
            self.write_group(group, &mut separate).await;
            while separate.try_join_next().is_some() {}
        }
        while separate.join_next().await.is_some() {}
    }

    /// Writes batches in one transaction. If that fails, each is written by itself: one that cannot be written must not hold
    /// back the others, nor the batches after them.
    async fn write_group(&self, group: Vec<RecordBatch>, separate: &mut JoinSet<()>) {
        let records: Vec<_> = group.iter().flat_map(|batch| batch.records.iter().cloned()).collect();
        if records.is_empty() {
            return;
        }
        if let Err(error) = self.queue.store().record(RecordBatch { records, report: None }).await {
            warn(&error);
            for batch in group {
                separate.spawn(self.clone().write(batch));
            }
        }
    }

    /// Writes a batch, with retries: if the result of an accepted message were lost, the message would be sent twice.
    async fn write(self, batch: RecordBatch) {
        let mut delay = RETRY_DELAY_MIN;
        let mut tries_at_stop = 0;
        loop {
            let error = match self.queue.store().record(batch.clone()).await {
                Ok(()) => break,
                Err(error) => error,
            };
            warn(&error);
            tries_at_stop += u32::from(self.stop.is_cancelled());
            if matches!(error, StoreError::Closed) || tries_at_stop >= TRIES_AT_STOP {
                for record in &batch.records {
                    tracing::error!(msg = %record.message_id, delivery = %record.delivery_id, state = %record.state,
                        "cannot write the result of an attempt; the message may be delivered twice");
                }
                let ids: Vec<DeliveryId> = batch.records.iter().map(|record| record.delivery_id).collect();
                self.queue.release(ids);
                break;
            }
            self.queue.clock().sleep(delay).await;
            delay = (delay * 2).min(RETRY_DELAY_MAX);
        }
    }
}

fn warn(error: &StoreError) {
    tracing::warn!(target: FLOOD, "cannot write the results of attempts, trying again: {error}");
}
