//! The transaction of the writer's jobs, with the state that they share.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Deref;

use super::bounds::Bounds;
use super::commit_outcome::InsertedRow;
use super::outbox::backlog::{Backlogs, KnownBacklogs};
use super::outbox::results::WebhookResults;
use super::postgres::announcements;
use super::secret_encryption::Sealer;
use super::spool::queue_rows::HeldDelivery;
use crate::mail::{DomainName, Timestamp};
use crate::model::{DeliveryId, TenantId, WebhookId};
use crate::store::database::{self, Connection, Engine, WriterLock};
use crate::store::memory::{
    Announcement, DirectoryChange, DirectoryChanges, EventClock, NodeLease, SuppressedAddresses,
    SuppressionTimes, TouchedWebhooks, UsageAccumulator, UsageParts, WebhookSubscriptions,
};

/// One transaction of the writer.
pub(super) struct Tx<'a> {
    pub(super) connection: &'a Connection,
    /// The slot of its lane: lanes write usage in rows of their own.
    pub(super) slot: i64,
    /// What runs at the same time.
    pub(super) lock: WriterLock,
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
    pub(super) known_backlogs: &'a KnownBacklogs,
    /// Webhooks that have too many, which a later job disables.
    pub(super) full_webhooks: RefCell<Vec<(WebhookId, Timestamp)>>,
    /// When addresses were suppressed.
    pub(super) suppression_times: &'a SuppressionTimes,
    /// Which addresses are suppressed.
    pub(super) suppressed_addresses: &'a SuppressedAddresses,
    pub(super) bounds: &'a Bounds,
    /// By which the transaction is found after a commit without an answer.
    pub(super) inserted_row: InsertedRow,
    /// The right to change claims in the database.
    pub(super) lease: &'a NodeLease,
    /// Whether a job has announced a change to other processes.
    pub(super) has_announced: Cell<bool>,
    /// In PostgreSQL, those deliveries of the jobs that no other node has; they are locked.
    pub(super) held: RefCell<HashMap<DeliveryId, HeldDelivery>>,
    /// The same of the deliveries of webhooks.
    pub(super) webhook_results: WebhookResults,
}

impl Tx<'_> {
    /// Announces a change to the other processes that serve the database.
    pub(super) fn announce(&self, announcement: &Announcement) -> database::Result<()> {
        if self.engine() == Engine::Sqlite {
            return Ok(());
        }
        // Numbers of announcements are in the order of commits only then.
        debug_assert_eq!(self.lock, WriterLock::Exclusive, "{announcement:?}");
        self.has_announced.set(true);
        announcements::post(self, announcement)
    }

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
