//! What the relay holds of the queue: claimed batches and slots of destination queues. Dropping one sends it back and waits for no
//! lock.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use super::queue_key::{QueueKey, RouteDecision};
use crate::model::{DeliveryId, TenantId};
use crate::store::{Batch, Delivery, SpoolFeed};

/// What goes back as it was. It is bounded by what was claimed.
#[derive(Debug, Default)]
pub(super) struct GivenBack {
    /// Claims that end.
    pub(super) deliveries: Vec<DeliveryId>,
    /// Tenants whose due rows were not looked at to the end.
    pub(super) unscanned: Vec<TenantId>,
}

/// The way back to the queue manager.
#[derive(Clone)]
pub(super) struct Releaser {
    pub(super) sender: UnboundedSender<GivenBack>,
    pub(super) feed: Arc<SpoolFeed>,
}

impl Releaser {
    pub(super) fn give_back(&self, given_back: GivenBack) {
        // Without its receiver there is no queue manager that could hand it out again.
        let _sent = self.sender.send(given_back);
        self.feed.wake();
    }
}

/// A claimed batch. Dropped without [`Claim::settle`] it goes back to the queue as it was.
pub struct Claim {
    /// What is claimed.
    pub batch: Batch,
    /// Where it goes.
    pub(super) route: Option<ClaimRoute>,
    releaser: Releaser,
    settled: bool,
}

/// Where a claim goes, and by which version of the directory.
#[derive(Debug, Clone)]
pub(super) struct ClaimRoute {
    pub(super) decision: RouteDecision,
    pub(super) directory_version: u64,
}

impl Claim {
    pub(super) fn new(batch: Batch, releaser: Releaser) -> Self {
        Self { batch, route: None, releaser, settled: false }
    }

    /// Its results are on their way to the store, which ends the claim.
    pub fn settle(mut self) {
        self.settled = true;
    }

    /// Makes a claim of its own of some deliveries; it may be empty.
    pub fn split_off(&mut self, is_meant: impl Fn(&Delivery) -> bool) -> Self {
        let deliveries = self.batch.deliveries.extract_if(.., |delivery| is_meant(delivery)).collect();
        let batch = Batch {
            message: self.batch.message.clone(),
            destination: self.batch.destination.clone(),
            deliveries,
            content: self.batch.content.clone(),
        };
        Self { batch, route: self.route.clone(), releaser: self.releaser.clone(), settled: false }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.settled || self.batch.deliveries.is_empty() {
            return;
        }
        let deliveries = self.batch.deliveries.iter().map(|delivery| delivery.id).collect();
        self.releaser.give_back(GivenBack { deliveries, unscanned: Vec::new() });
    }
}

/// A slot of a destination queue: a connection that may be open. It is free again when it is dropped.
pub struct Slot {
    /// Where.
    pub queue_key: QueueKey,
    /// Whose.
    pub holder: TenantId,
    pub(super) freed: UnboundedSender<(QueueKey, TenantId)>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Without its receiver there is nobody to have a slot.
        let _sent = self.freed.send((self.queue_key.clone(), self.holder));
    }
}
