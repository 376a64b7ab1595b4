//! The table `[store]`.

use std::path::PathBuf;

use bytesize::ByteSize;
use serde::Deserialize;

use super::database_url::DatabaseUrl;
use super::error::{InvalidOption, require_at_least_one};

/// More connections that write would use up those of the server without being faster.
const LANES_MAX: u32 = 16;

/// `[store]`: the database.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// The database in PostgreSQL. Without it, the data is in SQLite, in the data directory.
    pub url: Option<DatabaseUrl>,
    /// The file with the password for PostgreSQL.
    pub password_file: Option<PathBuf>,
    /// The certificate authorities for the server of PostgreSQL, in place of the system's (PEM).
    pub tls_ca_file: Option<PathBuf>,
    /// Whether a server of PostgreSQL may lose or damage data when its machine crashes.
    pub unsafe_database: bool,
    /// Connections to PostgreSQL that commit accepted mail and results at the same time.
    pub lanes: u32,
    /// Database connections for reading.
    pub read_connections: u32,
    /// In SQLite, bodies larger than this are stored in separate files.
    pub inline_body_max: ByteSize,
    /// With SQLite, mail is refused while the file system of the data directory has less free space than this.
    pub free_disk_min: ByteSize,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: None,
            password_file: None,
            tls_ca_file: None,
            unsafe_database: false,
            lanes: 2,
            read_connections: 8,
            inline_body_max: ByteSize::kib(256),
            free_disk_min: ByteSize::mib(256),
        }
    }
}

impl Store {
    pub(super) fn find_invalid(&self) -> Option<InvalidOption> {
        let counts =
            [("store.read_connections", self.read_connections.into()), ("store.lanes", self.lanes.into())];
        require_at_least_one(&counts).or_else(|| self.find_invalid_server())
    }

    fn find_invalid_server(&self) -> Option<InvalidOption> {
        if self.lanes > LANES_MAX {
            return Some(InvalidOption::new("store.lanes", format!("must be at most {LANES_MAX}")));
        }
        let target = match self.url.as_ref().map(DatabaseUrl::parse).transpose() {
            Ok(target) => target,
            Err(error) => return Some(InvalidOption::new("store.url", error.to_string())),
        };
        let is_encrypted = target.as_ref().is_some_and(|target| target.is_encrypted);
        if self.password_file.is_some() && target.is_none() {
            return Some(InvalidOption::new("store.password_file", "needs store.url"));
        }
        if self.tls_ca_file.is_some() && !is_encrypted {
            let message = "needs a store.url whose connections are encrypted; remove it, or sslmode=disable";
            return Some(InvalidOption::new("store.tls_ca_file", message));
        }
        None
    }
}
