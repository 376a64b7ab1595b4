//! The open files that a configuration needs.

use super::Config;

/// Files for the log, listeners, DNS, bodies, downloads of messages, and the connections with which the server itself reads
/// its database.
const OTHERS: usize = 384;
/// Files of one database connection: the database, its log and the index of the log.
const FILES_PER_READER: usize = 3;

impl Config {
    /// All open files that the limits of connections need.
    pub fn open_files(&self) -> usize {
        let lowered = [
            self.smtp.connections_max,
            self.api.connections_max,
            self.relay.connections_max,
            self.webhooks.requests_max,
        ];
        lowered.into_iter().fold(self.reserved_files(), usize::saturating_add)
    }

    /// Those of what is not lowered if there are too few.
    pub fn reserved_files(&self) -> usize {
        let inbound = if self.inbound.is_enabled() { self.inbound.connections_max } else { 0 };
        let public = if self.public.listen.is_empty() { 0 } else { self.public.connections_max };
        OTHERS + FILES_PER_READER * self.store.read_connections as usize + inbound + public
    }
}
