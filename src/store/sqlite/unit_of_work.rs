//! The transaction of the writer's jobs, with the state that they share.

use std::ops::Deref;

use rusqlite::Connection;

use super::bounds::Bounds;
use super::secret_encryption::Sealer;
use crate::store::memory::{EventClock, UsageAccumulator, WebhookSubscriptions};

/// One transaction of the writer.
pub(super) struct Tx<'a> {
    pub(super) connection: &'a Connection,
    /// Generates ids of events.
    pub(super) clock: &'a EventClock,
    /// Encrypts secrets.
    pub(super) sealer: &'a Sealer,
    /// Usage and events of the jobs.
    pub(super) usage: UsageAccumulator,
    /// Subscriptions of webhooks.
    pub(super) subscriptions: &'a WebhookSubscriptions,
    pub(super) bounds: &'a Bounds,
}

impl Deref for Tx<'_> {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.connection
    }
}
