//! Work that blocks or computes for long, away from the threads of the runtime. A simulation does it on the one thread that it
//! has, so that each run does everything in the same order. Imports nothing.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::task::{JoinError, spawn_blocking};

/// Set in a process that simulates: draws how long work takes.
static DURATIONS: OnceLock<fn() -> Duration> = OnceLock::new();

/// Does all further work of this process on the thread that awaits it. Work then takes the time that `duration` draws, on the
/// clock of the runtime.
pub fn simulate(duration: fn() -> Duration) {
    // A second call would not change what runs already.
    let _ = DURATIONS.set(duration);
}

/// How long the next piece of work takes in a simulation; `None` in a process that does not simulate.
pub(crate) fn simulated_duration() -> Option<Duration> {
    DURATIONS.get().map(|duration| duration())
}

/// Whether this process simulates, so that it must not start threads.
pub(crate) fn is_simulated() -> bool {
    DURATIONS.get().is_some()
}

/// Runs work that blocks or computes for long.
///
/// # Errors
/// The work panicked.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    match simulated_duration() {
        None => spawn_blocking(work).await,
        Some(duration) => {
            tokio::time::sleep(duration).await;
            Ok(work())
        }
    }
}
