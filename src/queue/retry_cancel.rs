//! Retry and cancellation of one message. Where another node has its deliveries in memory, that node is asked to cancel them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::QueueManager;
use crate::mail::{SignedDuration, Timestamp};
use crate::model::{DeliveryId, DeliveryState, MessageId, TenantId};
use crate::store::{
    AnnouncedCancellation, Journal, OpenDelivery, Queue, Result, RetryCancelResult, Spool, StoreError,
};

/// How long the other nodes have for a cancellation before its caller gets an answer. They read announcements each second.
const OTHER_NODES_TIMEOUT: Duration = Duration::from_millis(1500);
/// A node ignores an announced cancellation of this age: its caller has the answer and may have decided otherwise since. A node
/// reads the announcements of some minutes when it starts. The time is longer than the clocks of nodes may differ.
const ANNOUNCED_AGE_MAX: SignedDuration = SignedDuration::from_secs(10);
/// Between two looks at what they have done.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What a cancellation on this node did.
#[derive(Debug, Default)]
pub(super) struct Cancellation {
    changed: Vec<DeliveryId>,
    /// The relay of this node tries them.
    in_flight: Vec<DeliveryId>,
    /// Another node has them, or they have just ended.
    pub(super) elsewhere: Vec<DeliveryId>,
}

impl QueueManager {
    /// Makes the deferred deliveries of a message due now.
    ///
    /// # Errors
    /// The store's.
    pub async fn retry(&self, message: MessageId, now: Timestamp) -> Result<RetryCancelResult> {
        let open = self.store().open_deliveries(message).await?;
        let Some(tenant) = open.tenant_id else { return Ok(RetryCancelResult::default()) };
        let (in_flight, others): (Vec<_>, Vec<_>) = {
            let table = self.lock();
            open.deliveries.into_iter().partition(|one| one.is_elsewhere || table.is_handed_out(one.id))
        };
        let ids = others.into_iter().map(|one| one.id).collect();
        let changed = self.store().make_due(tenant, ids, now).await?;
        Ok(RetryCancelResult { changed, in_flight: in_flight.into_iter().map(|one| one.id).collect() })
    }

    /// Cancels the open deliveries of a message that no relay tries, each with its event.
    ///
    /// # Errors
    /// The store's.
    pub async fn cancel(self: &Arc<Self>, message: MessageId, now: Timestamp) -> Result<RetryCancelResult> {
        let manager = Arc::clone(self);
        // The cancellation runs to its end even if the caller is dropped.
        let done = tokio::spawn(async move {
            let mut done = manager.cancel_here(message, None, now).await?;
            let elsewhere = std::mem::take(&mut done.elsewhere);
            let cancelled = match manager.cancel_elsewhere(message, &elsewhere).await {
                Ok(cancelled) => cancelled,
                Err(error) => {
                    tracing::warn!(%error, %message, "other nodes were not asked to cancel what they have of a message");
                    HashSet::new()
                }
            };
            let (changed, in_flight): (Vec<_>, Vec<_>) =
                elsewhere.into_iter().partition(|id| cancelled.contains(id));
            done.changed.extend(changed);
            done.in_flight.extend(in_flight);
            Ok(RetryCancelResult { changed: done.changed, in_flight: done.in_flight })
        });
        done.await.map_err(|error| StoreError::Failed(error.to_string()))?
    }

    /// Cancels what this node has of the deliveries that another one was asked to cancel.
    ///
    /// # Errors
    /// The store's.
    pub async fn apply_announced_cancellation(&self, asked: AnnouncedCancellation) -> Result<()> {
        let now = self.clock().now();
        if now.duration_since(asked.at) < ANNOUNCED_AGE_MAX {
            self.cancel_here(asked.message_id, Some(&asked.deliveries), now).await?;
        }
        Ok(())
    }

    /// Asks the other nodes to cancel deliveries of a message. False if there is nobody or nothing to ask for.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn announce_cancellation(
        &self,
        message: MessageId,
        deliveries: &[DeliveryId],
    ) -> Result<bool> {
        if deliveries.is_empty() || self.store().nodes().count < 2 {
            return Ok(false);
        }
        let deliveries = deliveries.to_vec();
        let asked = AnnouncedCancellation { at: self.clock().now(), message_id: message, deliveries };
        self.store().announce_cancellation(asked).await?;
        Ok(true)
    }

    /// Cancels open deliveries of a message, or only those among `wanted`, of which the relay has begun no attempt and that
    /// no other node has. They are claimed first, so that the relay cannot get them.
    pub(super) async fn cancel_here(
        &self,
        message: MessageId,
        wanted: Option<&[DeliveryId]>,
        now: Timestamp,
    ) -> Result<Cancellation> {
        let mut open = self.store().open_deliveries(message).await?;
        let Some(tenant) = open.tenant_id else { return Ok(Cancellation::default()) };
        open.deliveries.retain(|one| wanted.is_none_or(|wanted| wanted.contains(&one.id)));
        let taken = self.take_back(tenant, &open.deliveries);
        let ids = open.deliveries.into_iter().map(|one| one.id);
        let (claimed, in_flight): (Vec<_>, Vec<_>) = ids.partition(|id| taken.contains(id));
        let cancelled = self.store().cancel(message, claimed.clone(), now).await;
        // Claims of cancelled deliveries have ended; this releases the others.
        self.release(claimed.clone());
        let changed = cancelled?;
        let elsewhere = claimed.into_iter().filter(|id| !changed.contains(id)).collect();
        Ok(Cancellation { changed, in_flight, elsewhere })
    }

    /// Claims deliveries of which no attempt has begun; returns them.
    fn take_back(&self, tenant: TenantId, open: &[OpenDelivery]) -> HashSet<DeliveryId> {
        let waiting = self.dispatcher().withdraw(&tenant, &open.iter().map(|one| one.id).collect());
        let mut table = self.lock();
        let mut taken = table.take_back(tenant, open);
        for claim in waiting {
            taken.extend(claim.ids().filter(|&id| table.take_back_waiting(id)));
            claim.settle();
        }
        taken
    }

    /// Asks the other nodes to cancel deliveries, and waits for it. Returns those that were cancelled in time.
    async fn cancel_elsewhere(
        &self,
        message: MessageId,
        asked: &[DeliveryId],
    ) -> Result<HashSet<DeliveryId>> {
        if !self.announce_cancellation(message, asked).await? {
            return Ok(HashSet::new());
        }
        let end = self.clock().instant() + OTHER_NODES_TIMEOUT;
        loop {
            let mut deliveries = self.store().deliveries(message).await?;
            deliveries.retain(|delivery| asked.contains(&delivery.id));
            if self.clock().instant() >= end || !deliveries.iter().any(|delivery| delivery.state.is_open()) {
                let cancelled =
                    deliveries.into_iter().filter(|delivery| delivery.state == DeliveryState::Cancelled);
                return Ok(cancelled.map(|delivery| delivery.id).collect());
            }
            self.clock().sleep(LOOK_INTERVAL).await;
        }
    }
}
