//! Ends the process if the shutdown takes longer than the deadline, whatever blocks the threads of the server.

use std::convert::Infallible;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::oneshot;

use super::serve::StopSignals;

/// Time to write the last message: the standard error may be what blocks.
const MESSAGE_TIMEOUT: Duration = Duration::from_millis(200);

/// Measures the shutdown in a thread and a runtime of its own, which the server cannot block.
pub(super) struct ShutdownWatchdog {
    stopping: oneshot::Sender<Duration>,
}

impl ShutdownWatchdog {
    /// Starts to wait for a signal that stops the server.
    pub(super) fn start(deadline: Duration) -> anyhow::Result<Self> {
        let (stopping, stopping_without_signal) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the runtime of the shutdown watchdog")?;
        let mut signals = {
            let _context = runtime.enter();
            StopSignals::listen()?
        };
        let wait = async move {
            let deadline = tokio::select! {
                () = signals.wait() => deadline,
                Ok(deadline) = stopping_without_signal => deadline,
            };
            tokio::time::sleep(deadline).await;
            deadline
        };
        let wait = move || -> Infallible {
            let deadline = runtime.block_on(wait);
            end_process(deadline)
        };
        thread::Builder::new().name("watchdog".into()).spawn(wait).context("cannot start a thread")?;
        Ok(Self { stopping })
    }

    /// Starts a deadline, unless a signal has started one: the server stops for another reason.
    pub(super) fn begin_shutdown(self, deadline: Duration) {
        // An error means that the thread has ended the process.
        let _ = self.stopping.send(deadline);
    }
}

/// As safe as a crash: accepted mail is on disk.
fn end_process(deadline: Duration) -> ! {
    thread::spawn(move || {
        eprintln!(
            "pillarbox: the shutdown took longer than {deadline:?}, so the process ends now; no accepted mail is lost"
        );
    });
    thread::sleep(MESSAGE_TIMEOUT);
    std::process::exit(1)
}
