//! Why there is no configuration.

use std::path::PathBuf;
use std::time::Duration;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}; name another one with --config")]
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
    /// A value is well formed and makes no sense.
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

/// A value that makes no sense.
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

/// The first of these options that gives no time.
pub(super) fn longer_than_nothing(options: &[(&'static str, Duration)]) -> Option<Fault> {
    let zero = options.iter().find(|(_, value)| value.is_zero())?;
    Some(Fault::new(zero.0, "must be longer: nothing could be done in no time"))
}

/// The first of these options that is zero.
pub(super) fn at_least_one(options: &[(&'static str, u64)]) -> Option<Fault> {
    let zero = options.iter().find(|(_, value)| *value == 0)?;
    Some(Fault::new(zero.0, "must be at least 1"))
}
