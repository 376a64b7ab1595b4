//! Erases recipients: what waits for them is cancelled before their rows are changed.

use std::sync::Arc;

use super::QueueManager;
use crate::mail::Timestamp;
use crate::store::{Erasures, Result, StoreError};

impl QueueManager {
    /// Applies the erasures that are not complete. One with a delivery in progress stays incomplete. Returns the number of the
    /// others.
    ///
    /// # Errors
    /// The store's.
    pub async fn erase_recipients(self: &Arc<Self>, now: Timestamp) -> Result<usize> {
        let manager = Arc::clone(self);
        // Runs to its end even if the caller is dropped.
        let done = tokio::spawn(async move { manager.erase_now(now).await });
        done.await.map_err(|error| StoreError::Failed(error.to_string()))?
    }

    async fn erase_now(&self, now: Timestamp) -> Result<usize> {
        for (message, ids) in self.store().deliveries_to_cancel().await? {
            self.cancel_some(message, Some(&ids), now).await?;
        }
        self.store().apply_erasures(now).await
    }
}
