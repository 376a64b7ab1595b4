//! The table `[store]`.

use bytesize::ByteSize;
use serde::Deserialize;

use super::error::{InvalidOption, require_at_least_one};

/// `[store]`: the database.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Database connections for reading.
    pub read_connections: u32,
    /// Bodies larger than this are stored in separate files.
    pub inline_body_max: ByteSize,
    /// Mail is refused while the file system of the data directory has less free space than this.
    pub free_disk_min: ByteSize,
}

impl Default for Store {
    fn default() -> Self {
        Self { read_connections: 8, inline_body_max: ByteSize::kib(256), free_disk_min: ByteSize::mib(256) }
    }
}

impl Store {
    pub(super) fn find_invalid(&self) -> Option<InvalidOption> {
        require_at_least_one(&[("store.read_connections", self.read_connections.into())])
    }
}
