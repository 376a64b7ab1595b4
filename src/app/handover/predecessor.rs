//! The old process, as the new one sees it.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::message::{HandoverError, Message, receive, receive_listeners, send};
use super::{HeldListener, VERSION};

/// Longer than the old process takes to send its listeners.
const GREETING_MAX: Duration = Duration::from_secs(30);

/// The old process, at the other end of the standard input.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
    listeners: Vec<HeldListener>,
    data_dir: PathBuf,
}

impl Predecessor {
    /// Receives the listeners. Blocks.
    ///
    /// # Errors
    /// The standard input is not a socket of a server that hands over.
    pub fn greet() -> Result<Self, HandoverError> {
        let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        Self::greet_over(stream)
    }

    fn greet_over(stream: UnixStream) -> Result<Self, HandoverError> {
        stream.set_read_timeout(Some(GREETING_MAX))?;
        let (listeners, data_dir) = receive_listeners(&stream)?;
        stream.set_read_timeout(None)?;
        Ok(Self { stream, listeners, data_dir })
    }

    /// Whether the old process serves this directory.
    pub fn serves(&self, data_dir: &Path) -> bool {
        let canonical = |path: &Path| path.canonicalize().ok();
        data_dir == self.data_dir
            || canonical(data_dir).is_some_and(|dir| canonical(&self.data_dir) == Some(dir))
    }

    /// The listeners.
    pub fn take_listeners(&mut self) -> Vec<HeldListener> {
        std::mem::take(&mut self.listeners)
    }

    /// Says that this process cannot take over.
    pub fn refuse(&self, reason: &str) {
        // If the old process has ended, nobody needs to know.
        let _ = send(&self.stream, &Message::refused(reason));
    }

    /// Says that this process can serve as soon as it has the store.
    ///
    /// # Errors
    /// The old process has ended.
    pub fn announce_readiness(&self, migration_seconds: u64) -> Result<(), HandoverError> {
        send(&self.stream, &Message::Prepared { version: VERSION.to_owned(), migration_seconds })
    }

    /// Waits until the store is free. Blocks; the old process ends by its deadline, so this ends too.
    ///
    /// # Errors
    /// The old process goes on, or ended before it began to stop.
    pub fn wait_for_store(&self) -> Result<(), HandoverError> {
        match receive(&self.stream)? {
            Message::Stopping => {}
            _ => return Err(HandoverError::Form),
        }
        match receive(&self.stream) {
            // A stop that was cut off is as safe as a crash.
            Ok(Message::Released) | Err(HandoverError::Ended) => Ok(()),
            Ok(_) => Err(HandoverError::Form),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::send_listeners;
    use super::*;

    /// Both ends, after the greeting.
    fn greeted() -> (UnixStream, Predecessor) {
        let (old, new) = UnixStream::pair().unwrap();
        send_listeners(&old, &[], "/data".into()).unwrap();
        (old, Predecessor::greet_over(new).unwrap())
    }

    #[test]
    fn the_store_is_free_after_the_release_or_the_end_of_a_process_that_stops() {
        let (old, predecessor) = greeted();
        predecessor.announce_readiness(3).unwrap();
        let prepared = receive(&old).unwrap();
        assert!(matches!(prepared, Message::Prepared { migration_seconds: 3, .. }), "{prepared:?}");
        send(&old, &Message::Stopping).unwrap();
        send(&old, &Message::Released).unwrap();
        predecessor.wait_for_store().unwrap();
        let (old, predecessor) = greeted();
        send(&old, &Message::Stopping).unwrap();
        drop(old);
        predecessor.wait_for_store().unwrap();
    }

    #[test]
    fn the_store_is_not_free_after_a_refusal_or_the_end_of_a_process_that_goes_on() {
        let (old, predecessor) = greeted();
        send(&old, &Message::refused("no")).unwrap();
        assert!(
            matches!(predecessor.wait_for_store(), Err(HandoverError::Refused(reason)) if reason == "no")
        );
        let (old, predecessor) = greeted();
        drop(old);
        assert!(matches!(predecessor.wait_for_store(), Err(HandoverError::Ended)));
    }

    #[test]
    fn the_directory_of_the_old_process_may_have_another_name() {
        let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (old, new) = UnixStream::pair().unwrap();
        send_listeners(&old, &[], directory.path().to_owned()).unwrap();
        let predecessor = Predecessor::greet_over(new).unwrap();
        let link = other.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        assert!(predecessor.serves(directory.path()) && predecessor.serves(&link));
        assert!(!predecessor.serves(other.path()) && !predecessor.serves(Path::new("/nonexistent")));
    }
}
