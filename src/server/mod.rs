//! Submission over SMTP: sockets in front of [`crate::smtp::Session`]. Bytes are moved here and questions carried to
//! intake; what a command means is decided in `smtp`, what mail may pass in `policy`.

mod admission;
mod answers;
mod connection;
mod inquiry;
mod room;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::config;
use crate::intake::Intake;
use crate::mail::DomainName;
use crate::smtp::{self, BareNewline, DataLimits, replies};
use crate::tls::SharedServerConfig;
use admission::{Admission, Full, Place};
use connection::Connection;
use room::Room;

/// Octets of a line of content that are passed on; RFC 5321 §4.5.3.1.6 lets a sender have 1000.
const CONTENT_LINE_OCTETS_MAX: usize = 64 * 1024;

/// How long accepting rests after an error that another try would only repeat, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// When a connection of a listener turns to TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// When the client says STARTTLS (RFC 3207); before that it can neither log in nor send.
    Starttls,
    /// From the first octet (RFC 8314 §3.3).
    Implicit,
}

/// What all listeners share.
pub struct Server {
    session: Arc<smtp::Settings>,
    idle_timeout: Duration,
    session_timeout: Duration,
    intake: Arc<Intake>,
    tls: SharedServerConfig,
    admission: Arc<Admission>,
    room: Arc<Room>,
}

impl Server {
    /// A server under this name with these limits.
    pub fn new(
        hostname: DomainName,
        limits: &config::Smtp,
        intake: Arc<Intake>,
        tls: SharedServerConfig,
    ) -> Self {
        Self {
            session: Arc::new(describe(hostname, limits)),
            idle_timeout: limits.idle_timeout,
            session_timeout: limits.session_timeout,
            intake,
            tls,
            admission: Admission::new(limits.connections_max, limits.connections_per_address_max),
            room: Room::new(limits.receiving_bytes_max.0),
        }
    }

    /// Accepts connections until `stop`, then waits for those that are open: idle ones are told at once, a message that
    /// is being received may finish.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, security: Security, stop: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let Some(place) = self.admit(&stream, peer, security) else { continue };
                    let task = self.clone().converse(stream, peer, security, stop.clone());
                    let span = tracing::info_span!("smtp", %peer);
                    connections.spawn(hold(place, task).instrument(span));
                }
                Err(error) => pause_after(error, &stop).await,
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    /// Counts the connection, or tells the client in clear that there is no room for it.
    fn admit(&self, stream: &TcpStream, peer: SocketAddr, security: Security) -> Option<Place> {
        let full = match self.admission.admit(peer.ip()) {
            Ok(place) => return Some(place),
            Err(full) => full,
        };
        tracing::warn!(%peer, ?full, "too many connections");
        if security == Security::Starttls {
            let mut text = Vec::new();
            match full {
                Full::Server => replies::too_many_connections_421().write_to(&mut text),
                Full::Address => replies::too_many_from_address_421().write_to(&mut text),
            }
            // A fresh socket has room for a line; whoever does not get it sees the connection close all the same.
            let _ = socket2::SockRef::from(stream).send(&text);
        }
        None
    }

    async fn converse(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        security: Security,
        stop: CancellationToken,
    ) {
        // Replies are small and waited for (RFC 2920 leaves it to the transport to be quick).
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let connection = Connection::new(self, stream, peer.ip().to_canonical(), stop);
        if let Err(error) = connection.run(security).await {
            tracing::debug!(%error, "connection broke");
        }
    }
}

/// Keeps the place for as long as the task runs, and gives it back if the task panics.
async fn hold(place: Place, task: impl Future<Output = ()>) {
    task.await;
    drop(place);
}

async fn pause_after(error: io::Error, stop: &CancellationToken) {
    // The client gave up before we came to it; the next one has nothing to do with that.
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    tracing::error!(%error, "cannot accept connections");
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(ACCEPT_PAUSE) => {}
    }
}

fn describe(hostname: DomainName, limits: &config::Smtp) -> smtp::Settings {
    smtp::Settings {
        hostname,
        data: DataLimits {
            message_octets_max: limits.message_size_max.0,
            line_octets_max: CONTENT_LINE_OCTETS_MAX,
            bare_newline: match limits.bare_newline {
                config::BareNewline::Normalize => BareNewline::Normalize,
                config::BareNewline::Reject => BareNewline::Reject,
            },
        },
        recipients_max: limits.recipients_max,
        errors_max: limits.errors_max,
        starttls: true,
    }
}
