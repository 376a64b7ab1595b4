//! Submission over SMTP: sockets in front of [`crate::smtp::Session`]. Bytes are moved here and questions carried to
//! intake; what a command means is decided in `smtp`, what mail may pass in `policy`.

mod connection;
mod min_rate;
mod refusal_replies;
mod session_services;
mod stream;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::min_rate::MinRate;
use self::session_services::Peer;
use crate::config;
use crate::limits::auth_limiter::AuthLimiter;
use crate::limits::connection_limiter::{ConnectionLimiter, ConnectionSlot, Full, Limits};
use crate::limits::memory_budget::MemoryBudget;
use crate::mail::{DomainName, Timestamp};
use crate::smtp::server::replies;
use crate::smtp::{self, BareNewline, DataLimits, Reply, proxy};
use crate::submission::SubmissionService;
use crate::tls::SharedServerConfig;
use connection::Connection;

/// Octets of a line of content that are passed on; RFC 5321 §4.5.3.1.6 lets a sender have 1000.
const CONTENT_LINE_OCTETS_MAX: usize = 64 * 1024;

/// How long accepting rests after an error that another try would only repeat, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a proxy may take to say whom it speaks for; it knows that before it connects.
const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

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
    session: Arc<smtp::SessionSettings>,
    idle_timeout: Duration,
    session_timeout: Duration,
    intake: Arc<SubmissionService>,
    tls: SharedServerConfig,
    bans: Arc<AuthLimiter>,
    admission: Arc<ConnectionLimiter>,
    room: Arc<MemoryBudget>,
    pace: MinRate,
    proxies: Vec<IpNet>,
}

/// What a server works with.
pub struct ServerDependencies {
    /// Where mail goes.
    pub intake: Arc<SubmissionService>,
    /// The certificate.
    pub tls: SharedServerConfig,
    /// Who may not log in.
    pub bans: Arc<AuthLimiter>,
}

impl Server {
    /// A server under this name with these limits.
    pub fn new(hostname: DomainName, limits: &config::Smtp, parts: ServerDependencies) -> Self {
        let ServerDependencies { intake, tls, bans } = parts;
        Self {
            session: Arc::new(describe(hostname, limits)),
            idle_timeout: limits.idle_timeout,
            session_timeout: limits.session_timeout,
            intake,
            tls,
            bans,
            pace: MinRate { rate_min: limits.data_rate_min.0, grace: limits.data_rate_grace },
            proxies: limits.proxy_protocol_from.clone(),
            admission: ConnectionLimiter::new(Limits {
                total_max: limits.connections_max,
                per_address_max: limits.connections_per_address_max,
                per_tenant_max: limits.connections_per_tenant_max,
            }),
            room: MemoryBudget::new(limits.inbound_buffer_max.0),
        }
    }

    /// How many connections are open.
    pub fn connections(&self) -> Arc<ConnectionLimiter> {
        self.admission.clone()
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
                    let task = self.clone().converse(stream, peer, place, security, stop.clone());
                    let span = tracing::info_span!("smtp", %peer, client = tracing::field::Empty);
                    connections.spawn(task.instrument(span));
                }
                Err(error) => pause_after(error, &stop).await,
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    /// Takes a place for the connection, or tells the client that there is none.
    fn admit(&self, stream: &TcpStream, peer: SocketAddr, security: Security) -> Option<ConnectionSlot> {
        let refusal = match self.admission.enter() {
            // Whom a proxy speaks for is not known yet.
            Ok(place) if self.is_proxy(peer.ip()) => return Some(place),
            Ok(mut place) => match self.welcome(&mut place, peer.ip()) {
                Ok(()) => return Some(place),
                Err(refusal) => refusal,
            },
            Err(Full) => replies::too_many_connections_421(),
        };
        tracing::warn!(%peer, reply = %refusal.lines.concat(), "not admitted");
        turn_away(stream, &refusal, security);
        None
    }

    /// Whether the client at this address may have one connection more.
    fn welcome(&self, place: &mut ConnectionSlot, client: IpAddr) -> Result<(), Reply> {
        if let Some(until) = self.bans.find(client, Timestamp::now()) {
            return Err(replies::banned_421(until));
        }
        place.set_address(client).map_err(|Full| replies::too_many_from_address_421())
    }

    fn is_proxy(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.proxies.iter().any(|network| network.contains(&peer))
    }

    async fn converse(
        self: Arc<Self>,
        mut stream: TcpStream,
        peer: SocketAddr,
        mut place: ConnectionSlot,
        security: Security,
        stop: CancellationToken,
    ) {
        // Replies are small and waited for (RFC 2920 leaves it to the transport to be quick).
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let mut client = peer.ip().to_canonical();
        if self.is_proxy(client) {
            let told = tokio::select! {
                told = timeout(PROXY_HEADER_TIMEOUT, read_proxy_header(&mut stream)) => told,
                () = stop.cancelled() => return,
            };
            match told.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(told) => client = told.unwrap_or(client).to_canonical(),
                Err(error) => return tracing::warn!(%error, "no PROXY header"),
            }
            tracing::Span::current().record("client", tracing::field::display(client));
            if let Err(refusal) = self.welcome(&mut place, client) {
                tracing::warn!(reply = %refusal.lines.concat(), "not admitted");
                return turn_away(&stream, &refusal, security);
            }
        }
        let connection = Connection::new(self, stream, Peer { client, place }, stop);
        if let Err(error) = connection.run(security).await {
            tracing::debug!(%error, "connection broke");
        }
    }
}

/// Tells the client in clear why it is not heard; where TLS comes first, it sees the connection close.
fn turn_away(stream: &TcpStream, refusal: &Reply, security: Security) {
    if security == Security::Starttls {
        let mut text = Vec::new();
        refusal.write_to(&mut text);
        // A fresh socket has room for a line; whoever does not get it sees the connection close all the same.
        let _ = socket2::SockRef::from(stream).send(&text);
    }
}

/// Reads a header to its end and not beyond, for what follows may be for TLS. Answers the client's address, if it is
/// another than the proxy's.
async fn read_proxy_header(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let mut header = Vec::new();
    loop {
        match proxy::parse(&header).map_err(io::Error::other)? {
            proxy::ProxyProgress::Complete { client, .. } => return Ok(client),
            proxy::ProxyProgress::Missing(octets) => {
                let read = header.len();
                header.resize(read + octets, 0);
                stream.read_exact(&mut header[read..]).await?;
            }
        }
    }
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

fn describe(hostname: DomainName, limits: &config::Smtp) -> smtp::SessionSettings {
    smtp::SessionSettings {
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
        commands_without_message_max: limits.commands_without_message_max,
        starttls: true,
    }
}
