//! Committed changes that the queue manager has to know of, in the order of the commits.
//!
//! The store calls nobody: after a commit it puts the change here. The one reader takes out what is here before each
//! of its decisions, so that it never decides on less than what was committed.

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::lock;
use crate::mail::Timestamp;
use crate::model::{DeliveryId, QueueFilter, TenantId};
use crate::store::NewMessage;

/// What a recipient takes in memory beside the content: its claim, its delivery and its place in a queue.
const RECIPIENT_OCTETS: usize = 1024;

/// One committed change.
#[derive(Debug)]
pub enum SpoolChange {
    /// A message was accepted and its bytes are still in memory.
    Accepted(AcceptedMessage),
    /// Deliveries of a tenant are due from a time on.
    Due {
        /// Whose they are.
        tenant_id: TenantId,
        /// The earliest time.
        at: Timestamp,
    },
    /// Results of claimed deliveries were written.
    Recorded(Vec<RecordedDelivery>),
    /// Claimed deliveries were cancelled.
    Cancelled(Vec<DeliveryId>),
    /// Nothing of the tenant may be sent.
    TenantSuspended(TenantId),
    /// A suspended tenant may send again.
    TenantResumed {
        /// Which tenant.
        tenant_id: TenantId,
        /// When.
        at: Timestamp,
    },
    /// The store was opened, and a suspension or pause of the tenant had ended at this time.
    TenantWasResumed {
        /// Which tenant.
        tenant_id: TenantId,
        /// When.
        at_us: i64,
    },
    /// The tenant and everything of it was deleted.
    TenantRemoved(TenantId),
    /// A part of the queue was paused.
    Paused {
        /// Which part.
        part: QueueFilter,
        /// The end in microseconds; [`crate::store::OPEN_ENDED_PAUSE_US`] without one.
        until_us: i64,
    },
    /// The pause of a part was ended by somebody.
    PauseLifted {
        /// Which part.
        part: QueueFilter,
        /// When.
        at: Timestamp,
    },
}

/// A committed message that can be delivered without a read.
#[derive(Debug)]
pub struct AcceptedMessage {
    /// What was written.
    pub new: Arc<NewMessage>,
    /// The memory that it takes; given back when this is dropped.
    pub memory: HotQueuePermit,
}

/// A delivery whose result was written.
#[derive(Debug, Clone, Copy)]
pub struct RecordedDelivery {
    /// Which delivery.
    pub delivery_id: DeliveryId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// The next attempt, if there will be one.
    pub next_attempt_at: Option<Timestamp>,
}

/// Octets of the memory for accepted messages that wait for delivery.
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
    /// Whether this process delivers; else nobody reads.
    is_read: bool,
}

#[derive(Debug, Default)]
struct Pending {
    changes: Vec<SpoolChange>,
    /// The earliest due time of each tenant: bounded by the tenants, however much is accepted.
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
        }
    }

    /// Takes all changes since the last call, in the order of the commits.
    pub fn take(&self) -> Vec<SpoolChange> {
        let Pending { mut changes, due } = mem::take(&mut *lock(&self.pending));
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

    /// Adds a change that is committed.
    pub(in crate::store) fn send(&self, change: SpoolChange) {
        if !self.is_read {
            return;
        }
        let mut pending = lock(&self.pending);
        match change {
            SpoolChange::Due { tenant_id, at } => {
                let earliest = pending.due.entry(tenant_id).or_insert(at);
                *earliest = at.min(*earliest);
            }
            change => pending.changes.push(change),
        }
        drop(pending);
        self.wake();
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
