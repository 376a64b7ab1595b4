//! The end of a stop that does not end: whatever blocks the server's threads, its process is gone by the deadline.

use std::convert::Infallible;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::serve::StopSignals;

/// How long the last message may take: it may be the log that blocks.
const MESSAGE_TIMEOUT: Duration = Duration::from_millis(200);

/// Watches stops from a thread and a runtime of its own, which nothing of the server can hold up.
pub(super) struct StopGuard {
    stopping: CancellationToken,
}

impl StopGuard {
    /// Watches for the signals that stop the server.
    pub(super) fn start(deadline: Duration) -> anyhow::Result<Self> {
        let stopping = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the guard of stops")?;
        let mut signals = {
            let _context = runtime.enter();
            StopSignals::listen()?
        };
        let stopped_otherwise = stopping.clone();
        let watch = async move {
            tokio::select! {
                () = signals.wait() => {}
                () = stopped_otherwise.cancelled() => {}
            }
            tokio::time::sleep(deadline).await;
        };
        let watch = move || -> Infallible {
            runtime.block_on(watch);
            end_process(deadline)
        };
        thread::Builder::new().name("stop-guard".into()).spawn(watch).context("cannot start a thread")?;
        Ok(Self { stopping })
    }

    /// The server stops for another reason than a signal.
    pub(super) fn begin_stop(&self) {
        self.stopping.cancel();
    }
}

/// As safe as a crash: what was acknowledged is on disk.
fn end_process(deadline: Duration) -> ! {
    thread::spawn(move || {
        eprintln!(
            "pillarbox: the stop took longer than {deadline:?}, so the process ends now; no accepted mail is lost"
        );
    });
    thread::sleep(MESSAGE_TIMEOUT);
    std::process::exit(1)
}
