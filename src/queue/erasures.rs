//! Erases recipients: what waits for them is cancelled before their rows are changed.

use std::sync::Arc;

use super::QueueManager;
use crate::mail::Timestamp;
use crate::store::{Erasures, Result, StoreError};

/// What one pass over the erasures did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErasurePass {
    /// Erasures that are complete.
    pub erasures: usize,
    /// Deliveries that were open before it. One in progress keeps its erasure incomplete.
    pub open_deliveries: usize,
}

impl QueueManager {
    /// Applies the erasures that are not complete.
    ///
    /// # Errors
    /// The store's.
    pub async fn erase_recipients(self: &Arc<Self>, now: Timestamp) -> Result<ErasurePass> {
        let manager = Arc::clone(self);
        // Runs to its end even if the caller is dropped.
        let done = tokio::spawn(async move { manager.erase_now(now).await });
        done.await.map_err(|error| StoreError::Failed(error.to_string()))?
    }

    async fn erase_now(&self, now: Timestamp) -> Result<ErasurePass> {
        let mut open_deliveries = 0;
        for (message, ids) in self.store().deliveries_to_cancel().await? {
            open_deliveries += ids.len();
            let done = self.cancel_here(message, Some(&ids), now).await?;
            // The next pass finds whether they were cancelled.
            self.announce_cancellation(message, &done.elsewhere).await?;
        }
        Ok(ErasurePass { erasures: self.store().apply_erasures(now).await?, open_deliveries })
    }
}
