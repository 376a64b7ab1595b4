//! Logs: `tracing` to standard error, as text for people or JSON for programs. A leaf.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{Log, LogFormat};

/// Changes the filter of a running program.
pub struct LogControl(reload::Handle<EnvFilter, Registry>);

/// The filter of `log.level` cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "log.level: `{level}` is not a level (error, warn, info, debug, trace) or list of directives: {reason}"
)]
pub struct LogLevelError {
    level: String,
    reason: String,
}

/// Checks the filter without using it.
pub fn check(log: &Log) -> Result<(), LogLevelError> {
    filter(log).map(|_| ())
}

/// Starts logging. Call once; where a subscriber is set already (tests), that one stays.
pub fn start(log: &Log) -> Result<LogControl, LogLevelError> {
    let (filter, handle) = reload::Layer::new(filter(log)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match log.format {
        LogFormat::Text => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    // An error means that there is a subscriber, which then stays.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Ok(LogControl(handle))
}

impl LogControl {
    /// Uses another filter from now on.
    pub fn change(&self, log: &Log) -> Result<(), LogLevelError> {
        let filter = filter(log)?;
        // It fails only when the subscriber is gone, and then nothing is logged at all.
        let _ = self.0.reload(filter);
        Ok(())
    }
}

fn filter(log: &Log) -> Result<EnvFilter, LogLevelError> {
    EnvFilter::builder()
        .parse(&log.level)
        .map_err(|error| LogLevelError { level: log.level.clone(), reason: error.to_string() })
}
