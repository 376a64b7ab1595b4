#![allow(missing_docs)]
//! The queue as people see and steer it.

use std::ops::AddAssign;

use crate::mail::{Host, Timestamp};
use crate::model::{DeliveryId, QueueFilter, TenantId};

/// A pause that the platform ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    pub part: QueueFilter,
    /// For people.
    pub reason: Option<String>,
    pub since: Timestamp,
    /// `None` until somebody resumes it.
    pub until: Option<Timestamp>,
}

/// Which groups of the queue.
#[derive(Debug, Clone, Default)]
pub struct QueueRequest {
    pub part: QueueFilter,
    /// At most this many groups, 1–100.
    pub limit: usize,
    /// Only groups behind this one.
    pub after: Option<GroupPlace>,
}

/// Where a group stands among all: those with the most deliveries come first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPlace {
    pub open: u64,
    pub tenant_id: TenantId,
    pub destination: Host,
}

/// What waits, as it was at one moment.
#[derive(Debug, Clone)]
pub struct QueueOverview {
    /// When it was counted. A deep queue is not counted anew for everybody who asks.
    pub counted_at: Timestamp,
    pub totals: QueueCounts,
    /// When the oldest delivery in those groups was accepted; `None` if there is none.
    pub oldest_at: Option<Timestamp>,
    /// Groups there are in the part that was asked for.
    pub group_count: u64,
    /// Whether there are more groups than [`QueueOverview::GROUPS_MAX`]: the others are in the totals only.
    pub truncated: bool,
    /// One page of them.
    pub groups: Vec<QueueGroup>,
    /// Whether more follow.
    pub has_more: bool,
}

impl QueueOverview {
    /// Groups told apart in one count.
    pub const GROUPS_MAX: usize = 20_000;
}

/// Deliveries that are not finished.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// In all; what follows are parts of it.
    pub open: u64,
    /// The relay has them.
    pub in_flight: u64,
    /// Due, and nobody has them.
    pub due: u64,
    /// Set aside because their destination is paused.
    pub paused: u64,
    /// Due later.
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

/// A tenant's mail for one destination.
#[derive(Debug, Clone)]
pub struct QueueGroup {
    pub tenant_id: TenantId,
    pub destination: Host,
    pub counts: QueueCounts,
    /// When the oldest delivery was accepted.
    pub oldest_at: Timestamp,
    /// The earliest time at which one is due, also if that is past; `None` if all are set aside.
    pub next_due_at: Option<Timestamp>,
    /// When the first of those that are due later is.
    pub deferred_until: Option<Timestamp>,
    /// Why those are due later, as far as a few of them tell.
    pub deferral_causes: DeferralCauses,
}

/// What a few deliveries that are due later have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeferralCauses {
    /// At least one was tried.
    pub deferred: bool,
    /// At least one was not: it leaves later because its sender wants it.
    pub scheduled: bool,
    /// The most frequent last reply of those that were tried.
    pub last_reply: Option<String>,
}

/// What came of an order about the deliveries of one message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryCancelResult {
    /// Done as ordered.
    pub changed: Vec<DeliveryId>,
    /// The relay has them: too late.
    pub in_flight: Vec<DeliveryId>,
}
