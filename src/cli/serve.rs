//! `pillarbox serve`.

use std::path::Path;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ConfigFile;
use super::shutdown_watchdog::ShutdownWatchdog;
use crate::app::Running;
use crate::config::Config;
use crate::telemetry::{self, LogControl};

/// The stack of each runtime thread.
const STACK_OCTETS: usize = 2 * 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = &arguments.file.config;
    let config = Config::load(path)?;
    let log = telemetry::start(&config.log);
    run_server(async {
        let signals = Signals::listen()?;
        let running = Running::start(&config).await.with_context(|| path.display().to_string())?;
        serve(running, signals, &Reload { path, config: &config, log: &log }).await
    })
}

/// Runs a server to its end. It has closed the store then, so the function does not wait for the other threads: a thread
/// that computes or waits for a disk cannot be interrupted.
pub(super) fn run_server(server: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let ended = runtime.block_on(server);
    runtime.shutdown_background();
    ended
}

pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // Without a value here, `RUST_MIN_STACK` in the environment would decide. The parsers that these threads run nest at most
    // 128 deep; deeper recursion runs in threads of its own.
    tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(STACK_OCTETS)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// What SIGHUP reloads.
pub(super) struct Reload<'a> {
    pub path: &'a Path,
    pub config: &'a Config,
    pub log: &'a LogControl,
}

/// The signals that the server handles. They are caught before the server starts, so that an early one is not lost.
pub(super) struct Signals {
    stop: StopSignals,
    hangup: Signal,
}

impl Signals {
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self { stop: StopSignals::listen()?, hangup: listen(SignalKind::hangup())? })
    }
}

/// The signals that stop the server.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Waits for the first of them.
    pub(super) async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn listen(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("cannot catch signals")
}

/// Serves until a signal or a failure, then shuts down.
pub(super) async fn serve(
    mut running: Running,
    mut signals: Signals,
    reload: &Reload<'_>,
) -> anyhow::Result<()> {
    let watchdog = ShutdownWatchdog::start(reload.config.shutdown_deadline)?;
    notify(&[sd_notify::NotifyState::Ready]);
    let failure = loop {
        tokio::select! {
            () = signals.stop.wait() => break None,
            _ = signals.hangup.recv() => {
                reload.run(&running);
                notify(&[sd_notify::NotifyState::Ready]);
            }
            failure = running.wait_for_failure() => break Some(failure),
        }
    };
    watchdog.begin_shutdown();
    notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping");
    let stopped = running.stop().await;
    if let Some(failure) = failure {
        anyhow::bail!("{failure}; see the log");
    }
    stopped.context("the server stopped before all work had finished; no accepted mail is lost")?;
    tracing::info!("stopped");
    Ok(())
}

impl Reload<'_> {
    fn run(&self, running: &Running) {
        match running.reload_certificate() {
            Ok(()) => tracing::info!("certificate reloaded"),
            Err(error) => tracing::error!(%error, "cannot reload the certificate; the old one stays in use"),
        }
        match Config::load(self.path) {
            Err(error) => {
                tracing::error!(%error, "cannot reload the configuration; the old one stays in use")
            }
            Ok(new) => {
                self.log.change(&new.log);
                if new != (Config { log: new.log.clone(), ..self.config.clone() }) {
                    tracing::warn!(
                        "the configuration file has changed; options other than log.level need a restart"
                    );
                }
            }
        }
    }
}

/// Notifies systemd. Without systemd this does nothing.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}
