//! Writes what came of tries, beside the connections and not in their way: what waits is written together.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::RelayContext;
use crate::model::DeliveryId;
use crate::store::{RecordBatch, Spool, StoreError};

/// Batches that wait to be written; above it workers wait. Each may carry a report with a message in it.
pub const WAITING_MAX: usize = 256;
/// KiB of reports that are being written at the same time, or wait because they could not be; above it nothing more is taken.
const REPORTS_KIB_MAX: u32 = 256 * 1024;
/// Batches written in one transaction.
const TOGETHER_MAX: usize = 128;
const RETRY_DELAY_MIN: Duration = Duration::from_millis(500);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);
/// Failures to write after which a stopping relay gives up.
const LAST_TRIES: u32 = 3;

/// Writes until nobody sends any more and everything is written.
pub async fn run(core: Arc<RelayContext>, mut waiting: mpsc::Receiver<RecordBatch>) {
    let mut separate = JoinSet::new();
    let mut round = Vec::with_capacity(TOGETHER_MAX);
    let reports_kib = Arc::new(Semaphore::new(REPORTS_KIB_MAX as usize));
    while waiting.recv_many(&mut round, TOGETHER_MAX).await > 0 {
        let mut together = RecordBatch::default();
        for batch in round.drain(..) {
            // A record carries one report: those with one are written each by itself, all at the same time.
            if let Some(report) = &batch.report {
                let kib =
                    u32::try_from(report.content.len() / 1024 + 1).unwrap_or(u32::MAX).min(REPORTS_KIB_MAX);
                let held = reports_kib.clone().acquire_many_owned(kib).await;
                let writing = write(core.clone(), batch);
                separate.spawn(async move {
                    let _held = held;
                    writing.await;
                });
            } else {
                together.records.extend(batch.records);
            }
        }
        if !together.records.is_empty() {
            let written = core.store.record(together.clone()).await;
            match written {
                Ok(()) => {}
                // What fails must not hold up what comes after it.
                Err(error) => {
                    warn(&error);
                    separate.spawn(write(core.clone(), together));
                }
            }
        }
        while separate.try_join_next().is_some() {}
    }
    while separate.join_next().await.is_some() {}
}

/// Tries until it is written: what a server took and we forgot would be sent a second time.
async fn write(core: Arc<RelayContext>, batch: RecordBatch) {
    let mut delay = RETRY_DELAY_MIN;
    let mut last_tries = 0;
    loop {
        let error = match core.store.record(batch.clone()).await {
            Ok(()) => break,
            Err(error) => error,
        };
        warn(&error);
        last_tries += u32::from(core.stop.is_cancelled());
        if matches!(error, StoreError::Closed) || last_tries >= LAST_TRIES {
            for record in &batch.records {
                tracing::error!(msg = %record.message_id, delivery = %record.delivery_id, state = %record.state,
                    "an outcome could not be written; the message may be delivered again");
            }
            let ids: Vec<DeliveryId> = batch.records.iter().map(|record| record.delivery_id).collect();
            core.queue.release(ids);
            break;
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(RETRY_DELAY_MAX);
    }
}

fn warn(error: &StoreError) {
    tracing::warn!(%error, "cannot write what came of a delivery; trying again");
}
