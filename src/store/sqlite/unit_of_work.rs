//! The transaction that jobs of the writer run in, and what they share beside the database.

use std::ops::Deref;

use rusqlite::Connection;

use super::secret_encryption::Sealer;
use crate::store::memory::{EventClock, UsageAccumulator, WebhookSubscriptions};

/// One transaction of the writer.
pub(super) struct Tx<'a> {
    pub(super) connection: &'a Connection,
    /// Makes the ids of events.
    pub(super) clock: &'a EventClock,
    /// Seals secrets.
    pub(super) sealer: &'a Sealer,
    /// What the jobs used and which events they appended.
    pub(super) usage: UsageAccumulator,
    /// Which webhooks want which events.
    pub(super) subscriptions: &'a WebhookSubscriptions,
}

impl Deref for Tx<'_> {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.connection
    }
}
