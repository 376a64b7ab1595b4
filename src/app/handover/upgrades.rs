//! Upgrades of the running server: who may ask, one at a time, and what becomes of the new process.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::{JoinHandle, spawn_blocking};

use super::HeldListener;
use super::control::{Control, UpgradeRequest};
use super::successor::{Program, Successor};

/// Why a stop ends an upgrade.
pub const SERVER_STOPS: &str = "the server stops";

/// The requests for upgrades, and the one that is going on.
pub struct Upgrades {
    /// `None` if the socket cannot be opened; a signal still asks.
    control: Option<Control>,
    program: std::io::Result<Program>,
    listeners: Arc<Vec<HeldListener>>,
    data_dir: PathBuf,
    attempt: Option<Attempt>,
}

/// A new process that is being prepared.
struct Attempt {
    preparing: JoinHandle<Result<Successor, String>>,
    /// To end it early.
    stream: UnixStream,
    request: Option<UpgradeRequest>,
}

/// A prepared process to hand over to. It knows that this process stops.
pub struct Handover {
    /// The new process.
    pub successor: Successor,
    /// Of `pillarbox upgrade`, if no signal asked; its connection ends with this process.
    request: Option<UpgradeRequest>,
}

impl Upgrades {
    /// Opens the control socket. `listeners` are those of the running server.
    pub fn open(config: &Path, data_dir: &Path, listeners: Arc<Vec<HeldListener>>) -> Self {
        let control = Control::open(data_dir).inspect_err(|error| {
            tracing::warn!(%error, "the control socket in data_dir cannot be opened, so `pillarbox upgrade` does not work");
        });
        Self {
            control: control.ok(),
            program: Program::of_this_process(config),
            listeners,
            data_dir: data_dir.to_owned(),
            attempt: None,
        }
    }

    /// Waits for requests and starts new processes. Completes when one is prepared and this process is to stop.
    pub async fn prepared(&mut self) -> Handover {
        loop {
            let Self { control, attempt, .. } = self;
            let request = async {
                match control {
                    Some(control) => control.next().await,
                    None => std::future::pending().await,
                }
            };
            let prepared = async {
                match attempt {
                    Some(attempt) => (&mut attempt.preparing).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                request = request => self.begin(Some(request)),
                prepared = prepared => {
                    let prepared = prepared.unwrap_or_else(|error| Err(error.to_string()));
                    let request = self.attempt.take().and_then(|attempt| attempt.request);
                    match Self::decide(prepared, &request) {
                        Ok(successor) => return Handover { successor, request },
                        Err(reason) => refuse(request.as_ref(), &reason),
                    }
                }
            }
        }
    }

    /// Starts a new process.
    pub fn begin(&mut self, request: Option<UpgradeRequest>) {
        match self.start() {
            Ok(attempt) => self.attempt = Some(Attempt { request, ..attempt }),
            Err(reason) => refuse(request.as_ref(), &reason),
        }
    }

    fn start(&self) -> Result<Attempt, String> {
        require_replaceable(std::process::id())?;
        if self.attempt.is_some() {
            return Err("another upgrade is going on".to_owned());
        }
        let program = self.program.as_ref().map_err(|error| format!("the program is not found: {error}"))?;
        let (child, stream) = program.start()?;
        tracing::info!(process = child.id(), "a new process prepares to take over");
        let ours = stream.try_clone().map_err(|error| error.to_string())?;
        let (listeners, data_dir) = (self.listeners.clone(), self.data_dir.clone());
        let preparing = spawn_blocking(move || Successor::prepare(child, ours, &listeners, data_dir));
        Ok(Attempt { preparing, stream, request: None })
    }

    /// Tells a prepared process that this one stops, unless it is refused.
    fn decide(
        prepared: Result<Successor, String>,
        request: &Option<UpgradeRequest>,
    ) -> Result<Successor, String> {
        let successor = prepared?;
        let accept_pause = request.as_ref().is_some_and(|request| request.accept_pause);
        let decided = successor
            .require_short_pause(accept_pause)
            .and_then(|()| successor.announce_stop().map_err(|error| error.to_string()));
        if let Err(reason) = decided {
            successor.refuse(&reason);
            return Err(reason);
        }
        if let Some(request) = request {
            request.announce(successor.version(), successor.migration_seconds());
        }
        Ok(successor)
    }

    /// The server stops for another reason: nobody takes over.
    pub fn end(self) {
        if let Some(Attempt { stream, request, .. }) = self.attempt {
            // The new process ends when its standard input does. An error means that it has ended.
            let _ = stream.shutdown(Shutdown::Both);
            if let Some(request) = request {
                request.refuse(SERVER_STOPS);
            }
        }
    }
}

impl Handover {
    /// Nobody takes over: ends the new process, and says why.
    pub fn refuse(self, reason: &str) {
        self.successor.refuse(reason);
        if let Some(request) = self.request {
            request.refuse(reason);
        }
    }
}

fn refuse(request: Option<&UpgradeRequest>, reason: &str) {
    tracing::error!("no upgrade, this process goes on: {reason}");
    if let Some(request) = request {
        request.refuse(reason);
    }
}

/// A container ends with its first process.
fn require_replaceable(process: u32) -> Result<(), String> {
    if process == 1 {
        return Err("this is process 1 of a container, which ends with it; replace the container".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn process_one_refuses() {
        assert!(require_replaceable(1).unwrap_err().contains("replace the container"));
        assert_eq!(require_replaceable(2), Ok(()));
    }

    #[tokio::test]
    async fn one_upgrade_at_a_time_and_the_next_after_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let mut upgrades = Upgrades::open(Path::new("x"), directory.path(), Arc::default());
        upgrades.program = Ok(Program::named("/bin/false"));
        upgrades.begin(None);
        assert_eq!(upgrades.start().err().as_deref(), Some("another upgrade is going on"));
        let failed = async {
            while upgrades.attempt.is_some() {
                // Completes only when a process is prepared.
                assert!(timeout(Duration::from_millis(10), upgrades.prepared()).await.is_err());
            }
        };
        timeout(Duration::from_secs(20), failed).await.unwrap();
        assert!(upgrades.start().is_ok());
    }
}
