//! The new process, as the old one sees it.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use super::HeldListener;
use super::message::{HandoverError, Message, receive, send, send_listeners};

/// Longer than the new process takes to read its configuration, also on a busy machine.
const PREPARATION_MAX: Duration = Duration::from_secs(120);
/// What the system adds to the name of a running program whose file was replaced or removed (proc_pid_exe(5)).
const DELETED_SUFFIX: &[u8] = b" (deleted)";
/// A migration that takes longer must be agreed to.
pub const SUDDEN_PAUSE_SECONDS_MAX: u64 = 5;

/// The program that is started for an upgrade.
#[derive(Debug, Clone)]
pub struct Program {
    /// The file of the running program, as it was named at the start: after the file has been replaced, `/proc/self/exe`
    /// still leads to the old one.
    file: PathBuf,
    /// The configuration file.
    config: PathBuf,
}

impl Program {
    /// The program that runs in this process, with its configuration file.
    pub fn of_this_process(config: &Path) -> std::io::Result<Self> {
        Ok(Self { file: without_suffix(std::env::current_exe()?), config: config.to_owned() })
    }

    #[cfg(test)]
    pub(super) fn named(file: &str) -> Self {
        Self { file: file.into(), config: "x".into() }
    }

    /// Starts the new process. Returns it, and our end of the socket that it has as its standard input.
    pub fn start(&self) -> Result<(Child, UnixStream), String> {
        let start = || -> std::io::Result<(Child, UnixStream)> {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_read_timeout(Some(PREPARATION_MAX))?;
            ours.set_write_timeout(Some(PREPARATION_MAX))?;
            let child = Command::new(&self.file)
                .args(["serve", "--take-over", "--config"])
                .arg(&self.config)
                .stdin(OwnedFd::from(theirs))
                .spawn()?;
            Ok((child, ours))
        };
        start().map_err(|error| format!("cannot start {}: {error}", self.file.display()))
    }
}

/// A new process that is prepared: it waits for the store.
#[derive(Debug)]
pub struct Successor {
    child: Child,
    stream: UnixStream,
    version: String,
    migration_seconds: u64,
}

impl Successor {
    /// Sends the listeners and waits until the new process is prepared. Blocks. After an error the process has ended.
    pub(super) fn prepare(
        mut child: Child,
        stream: UnixStream,
        listeners: &[HeldListener],
        data_dir: PathBuf,
    ) -> Result<Self, String> {
        let prepared = send_listeners(&stream, listeners, data_dir).and_then(|()| receive(&stream));
        let fault = match prepared {
            Ok(Message::Prepared { version, migration_seconds }) => {
                return Ok(Self { child, stream, version, migration_seconds });
            }
            Ok(_) => HandoverError::Form,
            Err(fault) => fault,
        };
        drop(stream);
        let status = end(&mut child);
        Err(match fault {
            HandoverError::Ended => format!("the new process has ended ({status}); see the log"),
            fault => fault.to_string(),
        })
    }

    /// The id of the process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// The version of the program.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// About how many seconds the migration of the database takes.
    pub fn migration_seconds(&self) -> u64 {
        self.migration_seconds
    }

    /// Refuses a long pause that nobody agreed to.
    pub(super) fn require_short_pause(&self, accept_pause: bool) -> Result<(), String> {
        require_short_pause(self.migration_seconds, accept_pause)
    }

    /// Ends the new process, because it is not to take over.
    pub(super) fn refuse(mut self, reason: &str) {
        // It may have ended by itself.
        let _ = send(&self.stream, &Message::refused(reason));
        end(&mut self.child);
    }

    /// Says that this process stops now.
    pub(super) fn announce_stop(&self) -> Result<(), HandoverError> {
        send(&self.stream, &Message::Stopping)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Says that the store is closed.
    pub fn release_store(&self) -> Result<(), HandoverError> {
        send(&self.stream, &Message::Released)
    }
}

/// The name of a program's file, also if the file was replaced after the start. A file may really be named like that.
fn without_suffix(file: PathBuf) -> PathBuf {
    match file.as_os_str().as_bytes().strip_suffix(DELETED_SUFFIX) {
        Some(name) if !file.exists() => OsStr::from_bytes(name).into(),
        _ => file,
    }
}

/// Ends the process, unless it has ended by itself, and returns its status. It has changed nothing.
fn end(child: &mut Child) -> String {
    // The status of a process that is ending stays.
    let _ = child.kill();
    child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
}

fn require_short_pause(migration_seconds: u64, accept_pause: bool) -> Result<(), String> {
    if migration_seconds <= SUDDEN_PAUSE_SECONDS_MAX || accept_pause {
        return Ok(());
    }
    Err(format!(
        "the migration of the database takes about {migration_seconds} s, in which no mail is accepted; \
         run pillarbox upgrade --accept-pause, or restart at a quiet time"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_migration_is_announced_and_refused() {
        assert_eq!(require_short_pause(SUDDEN_PAUSE_SECONDS_MAX, false), Ok(()));
        let refused = require_short_pause(SUDDEN_PAUSE_SECONDS_MAX + 1, false).unwrap_err();
        assert!(refused.contains("about 6 s") && refused.contains("--accept-pause"), "{refused}");
        assert_eq!(require_short_pause(600, true), Ok(()));
    }

    #[test]
    fn a_program_that_was_replaced_after_the_start_keeps_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("pillarbox");
        let marked = directory.path().join("pillarbox (deleted)");
        assert_eq!(without_suffix(name.clone()), name);
        assert_eq!(without_suffix(marked.clone()), name);
        std::fs::write(&marked, "").unwrap();
        assert_eq!(without_suffix(marked.clone()), marked);
    }

    #[test]
    fn a_program_that_is_not_there_and_one_that_ends_are_reported() {
        let absent = Program::named("/nonexistent/pillarbox");
        assert!(absent.start().unwrap_err().contains("cannot start /nonexistent/pillarbox"));
        let (child, stream) = Program::named("/bin/false").start().unwrap();
        let ended = Successor::prepare(child, stream, &[], "/data".into()).unwrap_err();
        assert_eq!(ended, "the new process has ended (exit status: 1); see the log");
    }
}
