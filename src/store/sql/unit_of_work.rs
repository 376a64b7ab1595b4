//! The transaction of the writer's jobs, with the state that they share.

use std::ops::Deref;

use super::bounds::Bounds;
use super::commit_outcome::InsertedRow;
use super::outbox::backlog::Backlogs;
use super::secret_encryption::Sealer;
use crate::mail::DomainName;
use crate::model::TenantId;
use crate::store::database::Connection;
use crate::store::memory::{
    DirectoryChange, DirectoryChanges, EventClock, SuppressionTimes, TouchedWebhooks, UsageAccumulator,
    UsageParts, WebhookSubscriptions,
};

/// One transaction of the writer.
pub(super) struct Tx<'a> {
    pub(super) connection: &'a Connection,
    /// The number of its lane: lanes write usage in rows of their own.
    pub(super) slot: i64,
    /// Generates ids of events.
    pub(super) clock: &'a EventClock,
    /// Encrypts secrets.
    pub(super) sealer: &'a Sealer,
    /// Usage and events of the jobs.
    pub(super) usage: UsageAccumulator,
    /// Rows of usage that exist.
    pub(super) usage_parts: &'a UsageParts,
    /// Changes by the jobs that invalidate caches of the directory.
    pub(super) directory_changes: DirectoryChanges,
    /// Subscriptions of webhooks.
    pub(super) subscriptions: &'a WebhookSubscriptions,
    /// Webhooks that get deliveries.
    pub(super) touched_webhooks: TouchedWebhooks,
    /// Pending deliveries of webhooks.
    pub(super) backlogs: Backlogs,
    /// When addresses were suppressed.
    pub(super) suppression_times: &'a SuppressionTimes,
    pub(super) bounds: &'a Bounds,
    /// By which the transaction is found after a commit without an answer.
    pub(super) inserted_row: InsertedRow,
}

impl Tx<'_> {
    /// The settings, keys, domains or DKIM keys of a tenant changed, or those of the platform.
    pub(super) fn note_change_of_owner(&self, owner: Option<TenantId>) {
        self.directory_changes.push(DirectoryChange::Owner(owner));
    }

    /// It changed who has verified this domain, or what that covers.
    pub(super) fn note_change_of_name(&self, name: &DomainName) {
        self.directory_changes.push(DirectoryChange::Name(name.clone()));
    }
}

impl Deref for Tx<'_> {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.connection
    }
}
