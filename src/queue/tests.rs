//! The queue manager over a real store.

mod claims;
mod deliveries;
mod steering;

use std::ops::Deref;
use std::sync::Arc;

use super::{ClaimRoom, Claimed, QueueDepth, QueueManager};
use crate::clock::Clock;
use crate::config;
use crate::mail::{Host, ReversePath, SignedDuration, Timestamp};
use crate::model::{DeliveryId, DeliveryState, Environment, QueueFilter, TenantId};
use crate::rng::Rng;
use crate::store::contract::{
    SqliteHarness, TestBed, ids, later, new_message, new_suppression, now, outcomes,
};
use crate::store::*;

/// A store in a directory of its own, and its queue manager.
struct Bed {
    bed: TestBed<SqliteHarness>,
    queue: Arc<QueueManager>,
}

impl Deref for Bed {
    type Target = TestBed<SqliteHarness>;
    fn deref(&self) -> &TestBed<SqliteHarness> {
        &self.bed
    }
}

impl Bed {
    fn over(bed: TestBed<SqliteHarness>) -> Self {
        let queue = Arc::new(QueueManager::new(
            Arc::clone(&bed.store),
            &config::Relay::default(),
            Clock::system(),
            Rng::system(),
        ));
        Self { bed, queue }
    }

    async fn new() -> Self {
        Self::over(TestBed::new().await)
    }

    async fn with_hot_queue(octets: u64) -> Self {
        Self::over(TestBed::with_hot_queue(octets).await)
    }

    /// Without a hot queue: everything is claimed from the database.
    async fn without_hand_over() -> Self {
        Self::over(TestBed::without_hand_over().await)
    }

    /// As after a crash: nothing is closed, what memory knew is gone.
    async fn restart(self) -> Self {
        let Self { bed, queue } = self;
        drop(queue);
        Self::over(bed.restart().await)
    }

    async fn claim(&self, at: Timestamp) -> Claimed {
        self.queue.claim_due(at, &plenty()).await.unwrap()
    }
}

fn plenty() -> ClaimRoom {
    ClaimRoom { deliveries_max: 1000, per_tenant_max: 1000, admits: Arc::new(|_: &Host| true) }
}
