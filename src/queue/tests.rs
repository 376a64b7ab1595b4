//! The queue manager over a real store.

mod claims;
mod deliveries;
mod steering;

use std::ops::Deref;
use std::sync::Arc;

use super::{ClaimRoom, Claimed, QueueDepth, QueueManager};
use crate::config;
use crate::mail::{Host, ReversePath, SignedDuration, Timestamp};
use crate::model::{DeliveryId, DeliveryState, Environment, QueueFilter, TenantId};
use crate::store::contract::{self, ids, later, new_message, new_suppression, now, outcomes};
use crate::store::*;

/// A store in a directory of its own, and its queue manager.
struct Bed {
    bed: contract::Bed,
    queue: Arc<QueueManager>,
}

impl Deref for Bed {
    type Target = contract::Bed;
    fn deref(&self) -> &contract::Bed {
        &self.bed
    }
}

impl Bed {
    fn over(bed: contract::Bed) -> Self {
        let queue = Arc::new(QueueManager::new(Arc::clone(&bed.store), &config::Relay::default()));
        Self { bed, queue }
    }

    fn new() -> Self {
        Self::over(contract::Bed::new())
    }

    fn with(change: impl FnOnce(&mut StoreOptions)) -> Self {
        Self::over(contract::Bed::with(change))
    }

    /// Without a hot queue: everything is claimed from the database.
    fn without_hand_over() -> Self {
        Self::over(contract::Bed::without_hand_over())
    }

    /// As after a crash: nothing is closed, what memory knew is gone.
    fn restart(self) -> Self {
        let Self { bed, queue } = self;
        drop(queue);
        Self::over(bed.restart())
    }

    async fn claim(&self, at: Timestamp) -> Claimed {
        self.queue.claim_due(at, &plenty()).await.unwrap()
    }
}

fn plenty() -> ClaimRoom {
    ClaimRoom { deliveries_max: 1000, per_tenant_max: 1000, admits: Arc::new(|_: &Host| true) }
}
