//! Backups of the data directory and bundles of tenants: formats, digests, files. The store copies, checks and changes the
//! database; this module knows where a backup is and what is in it. It blocks. The time is given to it; only the age of abandoned
//! work directories is compared with the clock of the machine, as that of files is. Imports `mail`, `store` and `durable_file`.

mod bundle;
mod contents;
mod create;
mod directory;
mod kept;
mod last_backup;
mod manifest;
mod output;
mod restore;
mod secrets;
mod throttle;
mod verify;

pub use bundle::{
    Bundle, BundleDigest, BundleError, BundleReader, digest_of, header as bundle_header, read as read_bundle,
};
pub use contents::read_manifest;
pub use create::{CreateError, CreateOptions, Created, create};
pub use directory::{BackupPath, PathError, WorkDirectory};
pub use kept::{keep_newest, kept_path, newest_in};
pub use last_backup::LastBackup;
pub use manifest::{FileDigest, Manifest, ManifestError};
pub use restore::{RestoreError, RestoreOptions, RestoreReport, restore};
pub use secrets::{SecretError, SecretIdentity, SecretRecipients, encrypted_secret};
pub use throttle::Pace;
pub use verify::{Fault, VerifyReport, verify};
