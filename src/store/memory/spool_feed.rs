//! Committed changes for the queue manager, in the order of commits.
//!
//! The store does not call the queue manager: after a commit it adds the change here. The queue manager takes all changes
//! before each decision, so it always decides on the committed state.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::due_floors::DueFloors;
use crate::mail::Timestamp;
use crate::model::{DeliveryId, QueueFilter, TenantId};
use crate::store::NewMessage;

/// Memory of a recipient beside the content: its claim, delivery and queue entry.
const RECIPIENT_OCTETS: usize = 1024;

/// One committed change.
#[derive(Debug)]
pub enum SpoolChange {
    /// A message was accepted and its content is still in memory.
    Accepted(AcceptedMessage),
    /// Deliveries of a tenant are due from a time on.
    Due {
        /// Their tenant.
        tenant_id: TenantId,
        /// The earliest time.
        at: Timestamp,
    },
    /// Results of claimed deliveries were written.
    Recorded(Vec<RecordedDelivery>),
    /// Claimed deliveries were cancelled.
    Cancelled(Vec<DeliveryId>),
    /// The tenant was suspended.
    TenantSuspended(TenantId),
    /// The suspension of the tenant ended.
    TenantResumed {
        /// The tenant.
        tenant_id: TenantId,
        /// The time.
        at: Timestamp,
    },
    /// At the opening of the store: a suspension or pause of the tenant ended at this time.
    TenantWasResumed {
        /// The tenant.
        tenant_id: TenantId,
        /// The time.
        at_us: i64,
    },
    /// Other processes may have all deliveries that were claimed by a lease.
    ClaimsLost {
        /// The number of the lease. Later ones are higher.
        epoch: i64,
    },
    /// The deliveries that this process has claimed, as the database shows them. Some may be older than earlier changes.
    Claimed(Vec<DeliveryId>),
    /// The tenant and all its objects were deleted.
    TenantRemoved(TenantId),
    /// A part of the queue was paused.
    Paused {
        /// The part.
        part: QueueFilter,
        /// The end in microseconds; [`crate::store::OPEN_ENDED_PAUSE_US`] for a pause without an end.
        until_us: i64,
    },
    /// An operator ended the pause of a part.
    PauseLifted {
        /// The part.
        part: QueueFilter,
        /// The time.
        at: Timestamp,
    },
}

/// A committed message that can be delivered without reading it from the store.
#[derive(Debug)]
pub struct AcceptedMessage {
    /// The message.
    pub new: Arc<NewMessage>,
    /// Its reserved memory, released on drop.
    pub memory: HotQueuePermit,
    /// The lease by which its deliveries are claimed.
    pub epoch: i64,
}

/// A delivery whose result was written.
#[derive(Debug, Clone, Copy)]
pub struct RecordedDelivery {
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// The next attempt, if there will be one.
    pub next_attempt_at: Option<Timestamp>,
}

/// Reserved memory for an accepted message that waits for delivery.
#[derive(Debug)]
pub struct HotQueuePermit {
    used: Arc<AtomicU64>,
    octets: u64,
}

impl Drop for HotQueuePermit {
    fn drop(&mut self) {
        self.used.fetch_sub(self.octets, Ordering::AcqRel);
    }
}

/// Committed changes, from the store to the one queue manager of the process.
#[derive(Debug)]
pub struct SpoolFeed {
    pending: Mutex<Pending>,
    changed: Notify,
    used_octets: Arc<AtomicU64>,
    octets_max: u64,
    /// Whether this process delivers, that is, reads the feed.
    is_read: bool,
    /// From which time on tenants may have due deliveries, as far as the feed tells.
    floors: DueFloors,
}

#[derive(Debug, Default)]
struct Pending {
    changes: Vec<SpoolChange>,
    /// The earliest due time of each tenant, so that its size does not depend on the number of messages.
    due: HashMap<TenantId, Timestamp>,
}

impl SpoolFeed {
    pub(in crate::store) fn new(octets_max: u64, is_read: bool) -> Self {
        Self {
            pending: Mutex::default(),
            changed: Notify::new(),
            used_octets: Arc::default(),
            octets_max,
            is_read,
            floors: DueFloors::default(),
        }
    }

    /// Takes all changes since the last call, in the order of the commits.
    pub fn take(&self) -> Vec<SpoolChange> {
        let Pending { mut changes, due } = mem::take(&mut *self.pending.lock());
        changes.extend(due.into_iter().map(|(tenant_id, at)| SpoolChange::Due { tenant_id, at }));
        changes
    }

    /// Completes when there may be changes, or [`SpoolFeed::wake`] was called.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Lets [`SpoolFeed::changed`] complete.
    pub fn wake(&self) {
        self.changed.notify_one();
    }

    /// Adds a committed change.
    pub(in crate::store) fn send(&self, change: SpoolChange) {
        if !self.is_read {
            return;
        }
        let mut pending = self.pending.lock();
        match change {
            SpoolChange::Due { tenant_id, at } => {
                self.floors.note(tenant_id, at.as_microsecond());
                let earliest = pending.due.entry(tenant_id).or_insert(at);
                *earliest = at.min(*earliest);
            }
            change => pending.changes.push(change),
        }
        drop(pending);
        self.wake();
    }

    /// Where looks for due deliveries begin.
    pub(in crate::store) fn floors(&self) -> &DueFloors {
        &self.floors
    }

    /// Reserves memory for a message until it is delivered; `None` if there is not enough.
    pub(in crate::store) fn reserve(&self, new: &NewMessage) -> Option<HotQueuePermit> {
        let metadata = new.message.annotations.metadata.as_json().map_or(0, str::len);
        let octets = (new.content.len() + metadata + new.recipients.len() * RECIPIENT_OCTETS) as u64;
        let fits = |used: u64| used.checked_add(octets).filter(|&sum| self.is_read && sum <= self.octets_max);
        self.used_octets.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        Some(HotQueuePermit { used: Arc::clone(&self.used_octets), octets })
    }
}
