#![allow(missing_docs)]
//! What operators see and change of the queue.

use std::ops::AddAssign;

use crate::mail::{Host, Timestamp};
use crate::model::{DeliveryId, MessageId, QueueFilter, TenantId};

/// A pause of a part of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    pub part: QueueFilter,
    /// A note of the operator.
    pub reason: Option<String>,
    pub since: Timestamp,
    /// `None` if it lasts until it is resumed.
    pub until: Option<Timestamp>,
}

/// Selects groups of the queue.
#[derive(Debug, Clone, Default)]
pub struct QueueRequest {
    pub part: QueueFilter,
    /// At most this many groups, 1–100.
    pub limit: usize,
    /// Only groups after this one.
    pub after: Option<GroupPlace>,
}

/// The restored backup whose deliveries wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restoration {
    /// The time of the backup: mail that was accepted later is not in this database.
    pub taken_at: Timestamp,
    pub restored_at: Timestamp,
    /// Deliveries that were open at the time of the backup.
    pub deliveries: u64,
}

/// What happens to the deliveries of a restored backup when they are released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseMode {
    /// They are due: a recipient may get a message a second time.
    Send,
    /// They end as expired, with an event and without a report to the sender.
    Expire,
}

/// The position of a group: the groups with the most deliveries come first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPlace {
    pub open: u64,
    pub tenant_id: TenantId,
    pub destination: Host,
}

/// The waiting mail at one moment.
#[derive(Debug, Clone)]
pub struct QueueOverview {
    /// Time of the count. A deep queue is not counted for every request.
    pub counted_at: Timestamp,
    pub totals: QueueCounts,
    /// When the oldest delivery in the groups was accepted.
    pub oldest_at: Option<Timestamp>,
    /// Number of groups in the requested part.
    pub group_count: u64,
    /// Whether there are more than [`QueueOverview::GROUPS_MAX`] groups; the others are only in the totals.
    pub truncated: bool,
    /// A page of the groups.
    pub groups: Vec<QueueGroup>,
    /// Whether more follow.
    pub has_more: bool,
}

impl QueueOverview {
    /// Maximum of groups in one count.
    pub const GROUPS_MAX: usize = 20_000;
}

/// Numbers of unfinished deliveries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// All of them; the sum of the following.
    pub open: u64,
    /// The relay has them.
    pub in_flight: u64,
    /// Due and not claimed by the relay.
    pub due: u64,
    /// Waiting for the end of a pause or of the suspension of its tenant, or for the release after a restore.
    pub paused: u64,
    /// Waiting for a later attempt: deferred or scheduled.
    pub deferred: u64,
}

impl AddAssign for QueueCounts {
    fn add_assign(&mut self, more: Self) {
        self.open += more.open;
        self.in_flight += more.in_flight;
        self.due += more.due;
        self.paused += more.paused;
        self.deferred += more.deferred;
    }
}

/// The mail of a tenant for one destination.
#[derive(Debug, Clone)]
pub struct QueueGroup {
    pub tenant_id: TenantId,
    pub destination: Host,
    pub counts: QueueCounts,
    /// Those of the paused ones that wait for the release after a restore.
    pub restored: u64,
    /// When the oldest delivery was accepted.
    pub oldest_at: Timestamp,
    /// The earliest due time, which may be past; `None` if all are paused.
    pub next_due_at: Option<Timestamp>,
    /// The earliest due time of those that wait for a later attempt.
    pub deferred_until: Option<Timestamp>,
    /// Why those wait, according to a sample.
    pub deferral_causes: DeferralCauses,
}

/// Why deliveries wait for a later attempt, according to a sample.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeferralCauses {
    /// At least one waits for a retry.
    pub deferred: bool,
    /// At least one was scheduled by its sender.
    pub scheduled: bool,
    /// The most frequent last reply.
    pub last_reply: Option<String>,
}

/// The result of a retry or cancellation of the deliveries of one message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryCancelResult {
    /// Deliveries that were changed.
    pub changed: Vec<DeliveryId>,
    /// Deliveries that a relay tries or another node has, which were not changed.
    pub in_flight: Vec<DeliveryId>,
}

/// Deliveries of a message that the node is asked to cancel which has them in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnouncedCancellation {
    /// When it was asked for, by the clock of the node that asks.
    pub at: Timestamp,
    pub message_id: MessageId,
    pub deliveries: Vec<DeliveryId>,
}
