//! Logging: `tracing` to standard error, as text or JSON.

mod flood_limit;

use std::io::IsTerminal;

use flood_limit::FloodLimit;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{Log, LogFormat};

/// The target of lines that come in floods, such as those about refused connections: of each message, one line a minute is
/// written, and then the number of the others.
pub const FLOOD: &str = flood_limit::TARGET;

/// Changes the log filter at run time.
pub struct LogControl(reload::Handle<EnvFilter, Registry>);

/// Starts logging. Call it once; a subscriber that exists already, as in tests, stays.
pub fn start(log: &Log) -> LogControl {
    let (filter, handle) = reload::Layer::new(log.level.filter());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match log.format {
        LogFormat::Text => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    // An error means that a subscriber exists already.
    let _ = tracing_subscriber::registry().with(filter).with(lines).with(FloodLimit::start()).try_init();
    LogControl(handle)
}

impl LogControl {
    /// Replaces the filter.
    pub fn change(&self, log: &Log) {
        // An error means that the subscriber is gone; then nothing is logged at all.
        let _ = self.0.reload(log.level.filter());
    }
}
