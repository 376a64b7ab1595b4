//! Claimed batches and slots of destination queues in the hands of the relay. Dropping one returns it through a channel,
//! without a lock.

use std::sync::{Arc, mpsc};

use super::queue_key::{QueueKey, RouteDecision};
use crate::model::{DeliveryId, TenantId};
use crate::store::{Batch, Delivery, SpoolFeed};

/// Returned claims. Their number is bounded by that of claims.
#[derive(Debug, Default)]
pub(super) struct GivenBack {
    /// Claims to end.
    pub(super) deliveries: Vec<DeliveryId>,
    /// Tenants with an unfinished scan of due deliveries.
    pub(super) unscanned: Vec<TenantId>,
}

/// Returns claims to the queue manager.
#[derive(Clone)]
pub(super) struct Releaser {
    pub(super) sender: mpsc::Sender<GivenBack>,
    pub(super) feed: Arc<SpoolFeed>,
}

impl Releaser {
    pub(super) fn give_back(&self, given_back: GivenBack) {
        // Without a receiver, the queue manager has ended.
        let _sent = self.sender.send(given_back);
        self.feed.wake();
    }
}

/// A claimed batch. Dropping it without [`Claim::settle`] releases it unchanged.
pub struct Claim {
    /// The claimed deliveries.
    pub batch: Batch,
    /// Its route.
    pub(super) route: Option<ClaimRoute>,
    /// The lease under which it was claimed. With a later one, other processes may have it.
    pub(super) epoch: i64,
    releaser: Releaser,
    settled: bool,
}

/// The route of a claim, and the version of the directory at the decision.
#[derive(Debug, Clone)]
pub(super) struct ClaimRoute {
    pub(super) decision: RouteDecision,
    pub(super) directory_version: u64,
}

impl Claim {
    pub(super) fn new(batch: Batch, epoch: i64, releaser: Releaser) -> Self {
        Self { batch, route: None, epoch, releaser, settled: false }
    }

    /// Its deliveries.
    pub(super) fn ids(&self) -> impl Iterator<Item = DeliveryId> {
        self.batch.deliveries.iter().map(|delivery| delivery.id)
    }

    /// Its results were sent to the store, whose commit ends the claim.
    pub fn settle(mut self) {
        self.settled = true;
    }

    /// Moves the selected deliveries to another claim, which may be empty.
    pub fn split_off(&mut self, is_meant: impl Fn(&Delivery) -> bool) -> Self {
        let deliveries = self.batch.deliveries.extract_if(.., |delivery| is_meant(delivery)).collect();
        let batch = Batch {
            message: self.batch.message.clone(),
            destination: self.batch.destination.clone(),
            deliveries,
            content: self.batch.content.clone(),
        };
        Self {
            batch,
            route: self.route.clone(),
            epoch: self.epoch,
            releaser: self.releaser.clone(),
            settled: false,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.settled || self.batch.deliveries.is_empty() {
            return;
        }
        let deliveries = self.ids().collect();
        self.releaser.give_back(GivenBack { deliveries, unscanned: Vec::new() });
    }
}

/// A slot of a destination queue: the permit for one connection. Returned on drop.
pub struct Slot {
    /// The destination queue.
    pub queue_key: QueueKey,
    /// The tenant.
    pub holder: TenantId,
    pub(super) freed: mpsc::Sender<(QueueKey, TenantId)>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Without a receiver, the queue manager has ended.
        let _sent = self.freed.send((self.queue_key.clone(), self.holder));
    }
}
