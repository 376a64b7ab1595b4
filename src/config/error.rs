//! Why the configuration could not be loaded.

use std::path::PathBuf;
use std::time::Duration;

/// Why the configuration could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}; name the right one with --config")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not TOML, or a key is unknown or of the wrong type; the text names line and key.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, key and reason.
        message: String,
    },
    /// A value is well formed, but not allowed.
    #[error("{path}: {key}: {message}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The dotted key.
        key: &'static str,
        /// What to write instead.
        message: String,
    },
}

/// A value that is not allowed.
pub(super) struct Fault {
    /// Its dotted key.
    pub key: &'static str,
    /// What to write instead.
    pub message: &'static str,
}

impl Fault {
    pub fn new(key: &'static str, message: &'static str) -> Self {
        Self { key, message }
    }
}

/// The first of these durations that is zero.
pub(super) fn longer_than_nothing(options: &[(&'static str, Duration)]) -> Option<Fault> {
    let zero = options.iter().find(|(_, value)| value.is_zero())?;
    Some(Fault::new(zero.0, "must be longer than 0s"))
}

/// The first of these options that is zero.
pub(super) fn at_least_one(options: &[(&'static str, u64)]) -> Option<Fault> {
    let zero = options.iter().find(|(_, value)| *value == 0)?;
    Some(Fault::new(zero.0, "must be at least 1"))
}
