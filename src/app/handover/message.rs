//! The messages of the hand-over: records of one length, each with at most one listener.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::HeldListener;

/// Each record has this length, filled with spaces: a listener travels with the first octet of its record. A path has at most
/// 4096 octets.
const RECORD_OCTETS: usize = 8192;
/// More listeners than a configuration has.
const LISTENERS_MAX: usize = 256;
/// Characters of a reason.
const REASON_MAX: usize = 1000;

/// A message between the two processes, or between `pillarbox upgrade` and the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Message {
    /// `pillarbox upgrade` asks which version serves.
    Hello,
    /// This version serves.
    Version {
        /// Like `0.1.0`.
        version: String,
        /// The id of the process.
        process: u32,
    },
    /// `pillarbox upgrade` asks the server to start a new process and to hand over to it.
    Upgrade {
        /// Whether a long migration of the database is agreed to.
        accept_pause: bool,
    },
    /// A listener of the old process.
    Listener {
        /// Like `smtp.submission`.
        option: String,
        /// As the configuration has it.
        address: SocketAddr,
    },
    /// All listeners were sent.
    Listeners {
        /// The directory that the old process serves.
        data_dir: PathBuf,
    },
    /// The new process can serve as soon as it has the store.
    Prepared {
        /// Its version.
        version: String,
        /// About how many seconds the migration of the database takes.
        migration_seconds: u64,
    },
    /// The old process stops. If its connection ends from now on, the store is free.
    Stopping,
    /// The store is closed.
    Released,
    /// There is no upgrade; the old process goes on.
    Refused {
        /// For people.
        reason: String,
    },
}

impl Message {
    /// A refusal whose reason fits into a record.
    pub fn refused(reason: &str) -> Self {
        Self::Refused { reason: reason.chars().take(REASON_MAX).collect() }
    }
}

/// Why a message did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The other process has closed its end.
    #[error("the other process has ended")]
    Ended,
    /// The other process is alive, but sends nothing.
    #[error("the other process does not answer in time")]
    Timeout,
    /// The connection.
    #[error("the connection to the other process failed: {0}")]
    Io(std::io::Error),
    /// Not one of our messages.
    #[error("the other process is too different for an upgrade; restart the server instead")]
    Form,
    /// The other process says no.
    #[error("{0}")]
    Refused(String),
    /// The control socket belongs to another user.
    #[error("only root and the user of the server may ask it for an upgrade")]
    NotAllowed,
    /// No process listens at the control socket.
    #[error(
        "no server runs with this data directory; start it, or name its configuration file with --config"
    )]
    NoServer,
}

impl From<std::io::Error> for HandoverError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Self::Ended,
            // The system has no error of its own for the time limit of a socket (socket(7), SO_RCVTIMEO).
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Io(error),
        }
    }
}

/// Sends a message.
///
/// # Errors
/// [`HandoverError`].
pub fn send(stream: &UnixStream, message: &Message) -> Result<(), HandoverError> {
    send_with(stream, message, None)
}

fn send_with(
    stream: &UnixStream,
    message: &Message,
    listener: Option<&OwnedFd>,
) -> Result<(), HandoverError> {
    let mut record = serde_json::to_vec(message).map_err(|_| HandoverError::Form)?;
    if record.len() > RECORD_OCTETS {
        return Err(HandoverError::Form);
    }
    record.resize(RECORD_OCTETS, b' ');
    let fds = listener.map(|fd| [fd.as_fd()]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let sent = retry_on_intr(|| sendmsg(stream, &[IoSlice::new(&record)], &mut control, SendFlags::NOSIGNAL));
    let sent = sent.map_err(std::io::Error::from)?;
    let mut rest = stream;
    rest.write_all(&record[sent..])?;
    Ok(())
}

/// Receives a message.
///
/// # Errors
/// [`HandoverError`]; also if the message is a refusal.
pub fn receive(stream: &UnixStream) -> Result<Message, HandoverError> {
    receive_with(stream).map(|(message, _)| message)
}

fn receive_with(stream: &UnixStream) -> Result<(Message, Option<OwnedFd>), HandoverError> {
    let mut record = [0; RECORD_OCTETS];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry_on_intr(|| {
        recvmsg(stream, &mut [IoSliceMut::new(&mut record)], &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    let octets = received.map_err(std::io::Error::from)?.bytes;
    if octets == 0 {
        return Err(HandoverError::Ended);
    }
    let mut listener = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            listener = fds.last().or(listener);
        }
    }
    let mut rest = stream;
    rest.read_exact(&mut record[octets..])?;
    let message: Message = serde_json::from_slice(&record).map_err(|_| HandoverError::Form)?;
    match message {
        Message::Refused { reason } => Err(HandoverError::Refused(reason)),
        message => Ok((message, listener)),
    }
}

/// Sends the listeners.
///
/// # Errors
/// [`HandoverError`].
pub fn send_listeners(
    stream: &UnixStream,
    listeners: &[HeldListener],
    data_dir: PathBuf,
) -> Result<(), HandoverError> {
    for HeldListener { option, address, socket } in listeners {
        let message = Message::Listener { option: option.clone(), address: *address };
        send_with(stream, &message, Some(socket))?;
    }
    send(stream, &Message::Listeners { data_dir })
}

/// Receives the listeners, and the directory that their process serves.
///
/// # Errors
/// [`HandoverError`].
pub fn receive_listeners(stream: &UnixStream) -> Result<(Vec<HeldListener>, PathBuf), HandoverError> {
    let mut listeners = Vec::new();
    while listeners.len() <= LISTENERS_MAX {
        match receive_with(stream)? {
            (Message::Listener { option, address }, Some(socket)) => {
                listeners.push(HeldListener { option, address, socket })
            }
            (Message::Listeners { data_dir }, _) => return Ok((listeners, data_dir)),
            _ => break,
        }
    }
    Err(HandoverError::Form)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::path::Path;

    use super::*;
    use crate::app::handover::take;

    fn held(option: &str, listener: TcpListener) -> HeldListener {
        HeldListener {
            option: option.into(),
            address: "127.0.0.1:0".parse().unwrap(),
            socket: listener.into(),
        }
    }

    #[test]
    fn a_listener_that_is_handed_over_keeps_the_connections_that_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut waiting = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (old, new) = UnixStream::pair().unwrap();
        send_listeners(&old, &[held("smtp.submission", listener)], "/data".into()).unwrap();
        drop(old);
        let (mut received, data_dir) = receive_listeners(&new).unwrap();
        assert_eq!(data_dir, Path::new("/data"));
        let address = "127.0.0.1:0".parse().unwrap();
        assert!(take(&mut received, "api.listen", address).is_none());
        let listener = TcpListener::from(take(&mut received, "smtp.submission", address).unwrap());
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.write_all(b"220 ").unwrap();
        let mut greeting = [0; 4];
        waiting.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"220 ");
    }

    #[test]
    fn listeners_with_port_0_are_taken_in_order() {
        let listeners =
            [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
        let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let (old, new) = UnixStream::pair().unwrap();
        send_listeners(&old, &listeners.map(|listener| held("api.listen", listener)), "/data".into())
            .unwrap();
        let (mut received, _) = receive_listeners(&new).unwrap();
        for expected in addresses {
            let socket = take(&mut received, "api.listen", "127.0.0.1:0".parse().unwrap()).unwrap();
            assert_eq!(TcpListener::from(socket).local_addr().unwrap(), expected);
        }
        assert!(received.is_empty());
    }

    #[test]
    fn a_refusal_an_end_and_another_language_are_errors() {
        let (old, mut new) = UnixStream::pair().unwrap();
        send(&old, &Message::refused(&"\u{1}".repeat(5000))).unwrap();
        let refused = receive(&new).unwrap_err();
        assert!(
            matches!(&refused, HandoverError::Refused(reason) if reason.len() == REASON_MAX),
            "{refused}"
        );
        new.write_all(&[b'x'; RECORD_OCTETS]).unwrap();
        assert!(matches!(receive(&old), Err(HandoverError::Form)));
        drop(old);
        assert!(matches!(receive(&new), Err(HandoverError::Ended)));
    }

    #[test]
    fn silence_is_explained_without_the_error_of_the_system() {
        let (_old, new) = UnixStream::pair().unwrap();
        new.set_read_timeout(Some(std::time::Duration::from_millis(1))).unwrap();
        let error = receive(&new).unwrap_err();
        assert_eq!(error.to_string(), "the other process does not answer in time");
    }
}
