//! `pillarbox serve`.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ConfigFile;
use super::shutdown_watchdog::ShutdownWatchdog;
use super::take_over::take_over;
use crate::app::handover::{Handover, Predecessor, SERVER_STOPS, Upgrades};
use crate::app::{Listeners, Running};
use crate::config::Config;
use crate::store::{Access, StoreOptions, pending_migrations};
use crate::telemetry::{self, LogControl};

/// The stack of each runtime thread.
const STACK_OCTETS: usize = 2 * 1024 * 1024;
/// How much longer systemd waits for the start during a migration, and how often it is asked to.
const START_EXTENSION: Duration = Duration::from_secs(30);
const START_EXTENSION_INTERVAL: Duration = Duration::from_secs(1);
const SUCCESSOR_ENDED: &str = "the new process has ended";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Takes over from the server at the other end of the standard input, which starts this program so
    #[arg(long, hide = true)]
    take_over: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = &arguments.file.config;
    let predecessor = arguments.take_over.then(Predecessor::greet).transpose();
    let predecessor = predecessor.context("--take-over is for the server itself; run pillarbox upgrade")?;
    let config = Config::load(path).inspect_err(|error| {
        if let Some(predecessor) = &predecessor {
            predecessor.refuse(&error.to_string());
        }
    })?;
    let log = telemetry::start(&config.log);
    run_server(async {
        let mut signals = Signals::listen()?;
        let listeners = match predecessor {
            None => None,
            Some(predecessor) => match take_over(predecessor, &config, &mut signals.stop).await? {
                Some(listeners) => Some(listeners),
                // A signal came first.
                None => return Ok(()),
            },
        };
        let running = start(&config, listeners).await.with_context(|| path.display().to_string())?;
        serve(running, signals, &Reload { path, config: &config, log: &log }).await
    })
}

/// Starts the server. During a migration of the database, systemd waits longer.
async fn start(config: &Config, listeners: Option<Listeners>) -> anyhow::Result<Running> {
    // If it cannot be read, the start itself reports why.
    let is_migrating = match StoreOptions::new(config, Access::Manage) {
        Ok(options) => matches!(pending_migrations(options).await, Ok(Some(_))),
        Err(_) => false,
    };
    let starting = async {
        match listeners {
            None => Running::start(config).await,
            Some(listeners) => Running::take_over(listeners, config).await,
        }
    };
    let mut starting = Box::pin(starting);
    let mut extensions = tokio::time::interval(START_EXTENSION_INTERVAL);
    let extension = u32::try_from(START_EXTENSION.as_micros()).unwrap_or(u32::MAX);
    loop {
        tokio::select! {
            started = &mut starting => return Ok(started?),
            _ = extensions.tick(), if is_migrating => notify(&[NotifyState::ExtendTimeoutUsec(extension)]),
        }
    }
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
    upgrade: Signal,
}

impl Signals {
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            stop: StopSignals::listen()?,
            hangup: listen(SignalKind::hangup())?,
            upgrade: listen(SignalKind::user_defined2())?,
        })
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

    /// Whether one of them has come.
    async fn have_come(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.wait() => true,
            () = std::future::ready(()) => false,
        }
    }
}

fn listen(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("cannot catch signals")
}

/// Why the server stops.
enum Ending {
    Signal,
    Failure(String),
    Handover(Handover),
}

/// Serves until a signal, a failure or a hand-over, then shuts down.
pub(super) async fn serve(
    mut running: Running,
    mut signals: Signals,
    reload: &Reload<'_>,
) -> anyhow::Result<()> {
    let Config { shutdown_deadline, handover_deadline, ref data_dir, .. } = *reload.config;
    let watchdog = ShutdownWatchdog::start(shutdown_deadline)?;
    let mut upgrades = Upgrades::open(reload.path, data_dir, running.held_listeners());
    notify(&[NotifyState::Ready]);
    let ending = loop {
        tokio::select! {
            () = signals.stop.wait() => break Ending::Signal,
            _ = signals.hangup.recv() => {
                reload.run(&running);
                notify(&[NotifyState::Ready]);
            }
            _ = signals.upgrade.recv() => upgrades.begin(None),
            handover = upgrades.prepared() => break Ending::Handover(handover),
            failure = running.wait_for_failure() => break Ending::Failure(failure),
        }
    };
    let failure = match ending {
        Ending::Handover(handover) => {
            drop(upgrades);
            watchdog.begin_shutdown(handover_deadline);
            return hand_over(running, handover, signals.stop, handover_deadline).await;
        }
        Ending::Signal => None,
        Ending::Failure(failure) => Some(failure),
    };
    upgrades.end();
    watchdog.begin_shutdown(shutdown_deadline);
    notify(&[NotifyState::Stopping]);
    tracing::info!("stopping");
    let stopped = running.stop().await;
    if let Some(failure) = failure {
        anyhow::bail!("{failure}; see the log");
    }
    stopped.context("the server stopped before all work had finished; no accepted mail is lost")?;
    tracing::info!("stopped");
    Ok(())
}

/// Finishes the work in progress and leaves the store to the new process.
async fn hand_over(
    running: Running,
    mut handover: Handover,
    mut stop: StopSignals,
    deadline: Duration,
) -> anyhow::Result<()> {
    let (process, version) = (handover.successor.process(), handover.successor.version().to_owned());
    tracing::info!(process, version, "handing over to a new process");
    if let Err(error) = running.stop_within(deadline).await {
        tracing::warn!("{error}, and was cut off; no accepted mail is lost");
    }
    if stop.have_come().await {
        handover.refuse(SERVER_STOPS);
        tracing::info!("stopped");
        return Ok(());
    }
    // The service manager watches this process until here, so that it starts the server again if the new one has ended.
    if !handover.successor.is_running() {
        handover.refuse(SUCCESSOR_ENDED);
        anyhow::bail!("{SUCCESSOR_ENDED}; see the log");
    }
    notify(&[NotifyState::MainPid(process)]);
    handover.successor.release_store().context(SUCCESSOR_ENDED)?;
    tracing::info!(process, version, "handed over");
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
                        "the configuration file has changed; options other than log.level need pillarbox upgrade or a restart"
                    );
                }
            }
        }
    }
}

/// Notifies systemd. Without systemd this does nothing.
fn notify(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}
