//! The control socket in the data directory, over which `pillarbox upgrade` asks the server. It is for the user of the server
//! and for root.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};

use super::VERSION;
use super::message::{HandoverError, Message, receive, send};

const SOCKET: &str = "control";
/// How long one side waits for an answer that needs no work.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Connections that are answered at the same time. Further ones wait until one of these ends.
const CONNECTIONS_MAX: usize = 8;
/// Delay after an error of accept, such as too many open files.
const RETRY_DELAY: Duration = Duration::from_millis(100);

fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET)
}

/// A request of `pillarbox upgrade`, which waits for the answer.
#[derive(Debug)]
pub struct UpgradeRequest {
    /// The connection; it ends with this process.
    stream: UnixStream,
    /// Whether a long migration of the database is agreed to.
    pub accept_pause: bool,
}

impl UpgradeRequest {
    /// Says that the old process stops now.
    pub fn announce(&self, version: &str, migration_seconds: u64) {
        self.send(&Message::Prepared { version: version.to_owned(), migration_seconds });
    }

    /// Says why there is no upgrade.
    pub fn refuse(&self, reason: &str) {
        self.send(&Message::refused(reason));
    }

    fn send(&self, message: &Message) {
        if let Err(error) = send(&self.stream, message) {
            tracing::debug!(%error, "the command that asked for the upgrade is gone");
        }
    }
}

/// The socket of the server, which holds the lock of the data directory.
pub struct Control {
    requests: mpsc::Receiver<UpgradeRequest>,
    /// Accepts and answers connections; ends with this value.
    _accepting: JoinSet<()>,
}

impl Control {
    /// Opens the socket, in place of one that an earlier process left.
    pub fn open(data_dir: &Path) -> std::io::Result<Self> {
        let path = socket_path(data_dir);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let (sender, requests) = mpsc::channel(1);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, sender));
        Ok(Self { requests, _accepting: accepting })
    }

    /// The next request.
    pub async fn next(&mut self) -> UpgradeRequest {
        match self.requests.recv().await {
            Some(request) => request,
            // Accepting never ends.
            None => std::future::pending().await,
        }
    }
}

/// Answers each connection in a task of its own, so that a client that sends nothing does not delay an upgrade.
async fn accept(listener: UnixListener, requests: mpsc::Sender<UpgradeRequest>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve(stream, requests.clone()))),
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections to the control socket");
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: tokio::net::UnixStream, requests: mpsc::Sender<UpgradeRequest>) {
    match answer(stream).await {
        // An error means that the server stops.
        Ok(Some(request)) => drop(requests.send(request).await),
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "a connection to the control socket failed"),
    }
}

/// Answers one message, unless it asks for an upgrade.
async fn answer(stream: tokio::net::UnixStream) -> Result<Option<UpgradeRequest>, HandoverError> {
    let peer = stream.peer_cred()?.uid();
    if !may_ask(peer, rustix::process::geteuid().as_raw()) {
        tracing::warn!(uid = peer, "another user connected to the control socket");
        return Ok(None);
    }
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    limit(&stream, ANSWER_MAX)?;
    let answered = spawn_blocking(move || match receive(&stream)? {
        Message::Hello => {
            let version = Message::Version { version: VERSION.to_owned(), process: std::process::id() };
            send(&stream, &version).map(|()| None)
        }
        Message::Upgrade { accept_pause } => Ok(Some(UpgradeRequest { stream, accept_pause })),
        _ => Err(HandoverError::Form),
    });
    answered.await.unwrap_or(Err(HandoverError::Ended))
}

/// The user of the server, and root.
fn may_ask(user: u32, own: u32) -> bool {
    user == own || user == 0
}

fn limit(stream: &UnixStream, time: Duration) -> std::io::Result<()> {
    stream.set_read_timeout(Some(time))?;
    stream.set_write_timeout(Some(time))
}

/// The version that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Like `0.1.0`.
    pub version: String,
    /// The id of the process.
    pub process: u32,
}

fn connect(data_dir: &Path, patience: Duration) -> Result<UnixStream, HandoverError> {
    let stream = UnixStream::connect(socket_path(data_dir)).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => HandoverError::NoServer,
        ErrorKind::PermissionDenied => HandoverError::NotAllowed,
        _ => HandoverError::Io(error),
    })?;
    limit(&stream, patience)?;
    Ok(stream)
}

/// Asks the server of a data directory for its version. Blocks.
///
/// # Errors
/// [`HandoverError::NoServer`], or another.
pub fn ask_for_version(data_dir: &Path) -> Result<Version, HandoverError> {
    let stream = connect(data_dir, ANSWER_MAX)?;
    send(&stream, &Message::Hello)?;
    match receive(&stream)? {
        Message::Version { version, process } => Ok(Version { version, process }),
        _ => Err(HandoverError::Form),
    }
}

/// An upgrade that happens.
#[derive(Debug)]
pub struct AnnouncedUpgrade {
    /// About how many seconds the migration of the database takes.
    pub migration_seconds: u64,
    stream: UnixStream,
}

/// Asks the server of a data directory to hand over to a new process. Blocks until the new one is prepared.
///
/// # Errors
/// [`HandoverError::Refused`] if the old process goes on; [`HandoverError::NoServer`], or another.
pub fn ask_for_upgrade(
    data_dir: &Path,
    accept_pause: bool,
    patience: Duration,
) -> Result<AnnouncedUpgrade, HandoverError> {
    let stream = connect(data_dir, patience)?;
    send(&stream, &Message::Upgrade { accept_pause })?;
    match receive(&stream)? {
        Message::Prepared { migration_seconds, .. } => Ok(AnnouncedUpgrade { migration_seconds, stream }),
        _ => Err(HandoverError::Form),
    }
}

impl AnnouncedUpgrade {
    /// Waits until the old process has ended. Blocks.
    ///
    /// # Errors
    /// [`HandoverError::Refused`] if nobody takes over, [`HandoverError::Io`] if the old process does not end in time.
    pub fn wait_for_end(self, patience: Duration) -> Result<(), HandoverError> {
        limit(&self.stream, patience)?;
        match receive(&self.stream) {
            Err(HandoverError::Ended) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(HandoverError::Form),
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;

    async fn ask<T: Send + 'static>(
        data_dir: &Path,
        question: impl FnOnce(&Path) -> Result<T, HandoverError> + Send + 'static,
    ) -> Result<T, HandoverError> {
        let data_dir = data_dir.to_owned();
        spawn_blocking(move || question(&data_dir)).await.unwrap()
    }

    #[tokio::test]
    async fn the_socket_answers_in_place_of_one_that_was_left() {
        let directory = tempdir().unwrap();
        let absent = ask(directory.path(), ask_for_version).await;
        assert!(matches!(absent, Err(HandoverError::NoServer)), "{absent:?}");
        drop(std::os::unix::net::UnixListener::bind(socket_path(directory.path())).unwrap());
        let left = ask(directory.path(), ask_for_version).await;
        assert!(matches!(left, Err(HandoverError::NoServer)), "{left:?}");
        let _control = Control::open(directory.path()).unwrap();
        let version = ask(directory.path(), ask_for_version).await.unwrap();
        assert_eq!(version, Version { version: VERSION.to_owned(), process: std::process::id() });
        let mode = std::fs::metadata(socket_path(directory.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_request_is_refused_or_announced_and_then_ends_with_its_connection() {
        let directory = tempdir().unwrap();
        let mut control = Control::open(directory.path()).unwrap();
        let path = directory.path().to_owned();
        let asked =
            tokio::spawn(async move { ask(&path, |dir| ask_for_upgrade(dir, true, ANSWER_MAX)).await });
        let request = control.next().await;
        assert!(request.accept_pause);
        request.refuse("not now");
        let refused = asked.await.unwrap();
        assert!(
            matches!(&refused, Err(HandoverError::Refused(reason)) if reason == "not now"),
            "{refused:?}"
        );
        let path = directory.path().to_owned();
        let asked = tokio::spawn(async move {
            let upgrade = ask(&path, |dir| ask_for_upgrade(dir, false, ANSWER_MAX)).await?;
            let seconds = upgrade.migration_seconds;
            ask(&path, move |_| upgrade.wait_for_end(ANSWER_MAX)).await.map(|()| seconds)
        });
        let request = control.next().await;
        request.announce("0.2.0", 7);
        drop(request);
        assert_eq!(asked.await.unwrap().unwrap(), 7);
    }

    #[tokio::test]
    async fn clients_that_send_nothing_delay_nobody() {
        let directory = tempdir().unwrap();
        let _control = Control::open(directory.path()).unwrap();
        let connect = |_| UnixStream::connect(socket_path(directory.path())).unwrap();
        let _silent: Vec<_> = (1..CONNECTIONS_MAX).map(connect).collect();
        assert_eq!(ask(directory.path(), ask_for_version).await.unwrap().version, VERSION);
    }

    #[test]
    fn another_user_cannot_ask() {
        assert!(may_ask(1000, 1000) && may_ask(0, 1000));
        assert!(!may_ask(1001, 1000) && !may_ask(1001, 0));
    }
}
