//! Errors of the configuration.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

/// Why the configuration cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}; choose another one with --config")]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The file is not TOML, or a key is unknown or has the wrong type. The message names line and key.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, key and reason.
        message: String,
    },
    /// A value is out of range, or two values contradict each other.
    #[error("{path}: {key}: {message}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The dotted key.
        key: &'static str,
        /// What is required instead.
        message: String,
    },
}

/// An invalid value.
pub(super) struct InvalidOption {
    /// The dotted key.
    pub key: &'static str,
    /// What is required instead.
    pub message: Cow<'static, str>,
}

impl InvalidOption {
    pub fn new(key: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { key, message: message.into() }
    }
}

/// The first of these options that is zero.
pub(super) fn require_positive_durations(options: &[(&'static str, Duration)]) -> Option<InvalidOption> {
    let zero = options.iter().find(|(_, value)| value.is_zero())?;
    Some(InvalidOption::new(zero.0, "must be longer than 0s"))
}

/// The first of these options that is zero.
pub(super) fn require_at_least_one(options: &[(&'static str, u64)]) -> Option<InvalidOption> {
    let zero = options.iter().find(|(_, value)| *value == 0)?;
    Some(InvalidOption::new(zero.0, "must be at least 1"))
}
