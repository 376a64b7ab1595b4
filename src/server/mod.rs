//! Submission over SMTP, and the listener for reports of other servers: sockets around [`crate::smtp::Session`]. This
//! module passes octets to the session, and questions of the session to `submission` or `returns`. `smtp` interprets
//! commands.

mod connection;
mod inbound_session;
mod min_rate;
mod refusal_replies;
mod session_services;
mod stream;
mod submission_session;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::min_rate::MinRate;
use self::session_services::Peer;
use crate::accept_loop;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::limits::auth_limiter::{AuthLimiter, AuthLimiterSettings};
use crate::limits::connection_limiter::{ConnectionLimiter, ConnectionSlot, LimitReached, Limits};
use crate::limits::memory_budget::MemoryBudget;
use crate::limits::network_limiter::NetworkLimiter;
use crate::mail::DomainName;
use crate::net;
use crate::returns::ReturnsService;
use crate::smtp::server::replies;
use crate::smtp::{self, BareNewline, DataLimits, Profile, Reply, proxy};
use crate::submission::SubmissionService;
use crate::telemetry::FLOOD;
use crate::tls::SharedServerConfig;
use connection::Connection;

/// Maximum octets of a content line; RFC 5321 §4.5.3.1.6 allows senders 1000.
const CONTENT_LINE_OCTETS_MAX: usize = 64 * 1024;

/// Timeout of the PROXY header, which a proxy knows before it connects.
const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last reply may take to a client whose slot another connection has taken.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// How much larger than `smtp.message_size_max` a report may be: it may return a whole message.
const REPORT_OCTETS_MORE: u64 = 2 * 1024 * 1024;
/// How long another server may take until it names a recipient that is accepted.
const RECIPIENT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long another server may stay connected.
const INBOUND_SESSION_TIMEOUT: Duration = Duration::from_secs(600);
/// Errors in a session of another server.
const INBOUND_ERRORS_MAX: u32 = 5;
/// Refused recipients, in a session and from a network within the window, before the network is banned.
const REFUSED_RECIPIENTS_MAX: u32 = 20;
const REFUSED_RECIPIENTS_WINDOW: Duration = Duration::from_secs(600);
const REFUSED_RECIPIENTS_BAN: Duration = Duration::from_secs(900);
/// Messages of a network in a minute to addresses that anybody may write to: postmaster, abuse and feedback loops.
const LETTERS_PER_MINUTE_MAX: u32 = 60;

/// When the connections of a listener use TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// After STARTTLS (RFC 3207); before it a client can neither authenticate nor send.
    Starttls,
    /// From the first octet (RFC 8314 §3.3).
    Implicit,
}

/// Who decides the questions of the sessions.
#[derive(Clone)]
enum Backend {
    Submission(Arc<SubmissionService>),
    Inbound(Arc<ReturnsService>),
}

/// The state shared by all listeners of one purpose.
pub struct Server {
    session: Arc<smtp::SessionSettings>,
    idle_timeout: Duration,
    login_timeout: Duration,
    session_timeout: Duration,
    backend: Backend,
    tls: SharedServerConfig,
    bans: Arc<AuthLimiter>,
    /// Counts reports to addresses without a token.
    letters: NetworkLimiter,
    clock: Clock,
    connection_limiter: Arc<ConnectionLimiter>,
    memory: Arc<MemoryBudget>,
    min_rate: MinRate,
    proxies: Vec<IpNet>,
    scram_plus: bool,
}

/// Why a connection is rejected.
struct Rejection {
    /// For the log.
    reason: String,
    reply: Reply,
}

/// The services of submission.
pub struct SubmissionDependencies {
    /// Accepts mail.
    pub submission: Arc<SubmissionService>,
    /// The certificate.
    pub tls: SharedServerConfig,
    /// Limits failed logins.
    pub bans: Arc<AuthLimiter>,
    /// The wall clock.
    pub clock: Clock,
}

/// The services that take reports.
pub struct InboundDependencies {
    /// Records reports.
    pub returns: Arc<ReturnsService>,
    /// The certificate.
    pub tls: SharedServerConfig,
    /// The wall clock.
    pub clock: Clock,
}

impl Server {
    /// A server for submission with this host name and these limits.
    pub fn submission(hostname: DomainName, limits: &config::Smtp, services: SubmissionDependencies) -> Self {
        let SubmissionDependencies { submission, tls, bans, clock } = services;
        Self {
            session: Arc::new(submission_settings(hostname, limits)),
            idle_timeout: limits.idle_timeout,
            login_timeout: limits.login_timeout,
            session_timeout: limits.session_timeout,
            backend: Backend::Submission(submission),
            tls,
            bans,
            letters: NetworkLimiter::new(LETTERS_PER_MINUTE_MAX),
            clock,
            min_rate: MinRate { rate_min: limits.data_rate_min.0, grace: limits.data_rate_grace },
            proxies: limits.proxy_protocol_from.clone(),
            scram_plus: limits.scram_plus,
            connection_limiter: ConnectionLimiter::new(Limits {
                total_max: limits.connections_max,
                per_address_max: limits.connections_per_address_max,
                per_tenant_max: limits.connections_per_tenant_max,
            }),
            memory: MemoryBudget::new(limits.inbound_buffer_max.0),
        }
    }

    /// A server for reports of other servers. Its bans are its own, so they cannot lock out a tenant.
    pub fn inbound(config: &Config, services: InboundDependencies) -> Self {
        let InboundDependencies { returns, tls, clock } = services;
        let Config { smtp, inbound, .. } = config;
        let bans = AuthLimiterSettings {
            failures: "refused recipients of reports",
            failures_max: REFUSED_RECIPIENTS_MAX,
            window: REFUSED_RECIPIENTS_WINDOW,
            ban: REFUSED_RECIPIENTS_BAN,
            exempt: smtp.login_ban_exempt.clone(),
        };
        Self {
            session: Arc::new(inbound_settings(config.hostname.clone(), smtp)),
            idle_timeout: smtp.idle_timeout,
            login_timeout: RECIPIENT_TIMEOUT,
            session_timeout: INBOUND_SESSION_TIMEOUT,
            backend: Backend::Inbound(returns),
            tls,
            bans: Arc::new(AuthLimiter::new(bans)),
            letters: NetworkLimiter::new(LETTERS_PER_MINUTE_MAX),
            clock,
            min_rate: MinRate { rate_min: smtp.data_rate_min.0, grace: smtp.data_rate_grace },
            proxies: smtp.proxy_protocol_from.clone(),
            scram_plus: false,
            connection_limiter: ConnectionLimiter::new(Limits {
                total_max: inbound.connections_max,
                per_address_max: inbound.connections_per_address_max,
                // Each recipient of a message has a token, so those of one tenant must leave slots free.
                per_tenant_max: inbound.connections_max.div_ceil(4),
            }),
            memory: MemoryBudget::new(inbound.buffer_max.0),
        }
    }

    /// The table of the configuration with the limits.
    fn table(&self) -> &'static str {
        match self.backend {
            Backend::Submission(_) => "smtp",
            Backend::Inbound(_) => "inbound",
        }
    }

    /// The limiter that counts open connections.
    pub fn connections(&self) -> Arc<ConnectionLimiter> {
        self.connection_limiter.clone()
    }

    /// Accepts connections until `stop`, then waits for open ones: idle ones are closed at once, a message being
    /// received may complete.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, security: Security, stop: CancellationToken) {
        let connections = TaskTracker::new();
        accept_loop::accept_until(&stop, listener, |stream, peer| {
            if let Some(task) = self.clone().accept(stream.into(), peer, security, stop.clone()) {
                connections.spawn(task);
            }
        })
        .await;
        connections.close();
        connections.wait().await;
    }

    /// Serves one connection, unless it is rejected. Ends idle ones at the stop.
    pub fn accept(
        self: Arc<Self>,
        stream: net::Stream,
        peer: SocketAddr,
        security: Security,
        stop: CancellationToken,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let slot = self.admit(&stream, peer, security)?;
        let span = tracing::info_span!("smtp", %peer, client = tracing::field::Empty);
        Some(self.serve_connection(stream, peer, slot, security, stop).instrument(span))
    }

    /// Admits a connection, or rejects it with a reply.
    fn admit(&self, stream: &net::Stream, peer: SocketAddr, security: Security) -> Option<ConnectionSlot> {
        let refusal = match self.connection_limiter.admit() {
            // The client's address is known after the PROXY header.
            Ok(slot) if self.is_proxy(peer.ip()) => return Some(slot),
            Ok(mut slot) => match self.admit_client(&mut slot, peer.ip()) {
                Ok(()) => return Some(slot),
                Err(refusal) => refusal,
            },
            Err(LimitReached) => Rejection {
                reason: format!("{}.connections_max", self.table()),
                reply: replies::too_many_connections_421(),
            },
        };
        self.reject(stream, peer.ip(), &refusal, security);
        None
    }

    /// Checks bans and connection limits of a client address.
    fn admit_client(&self, slot: &mut ConnectionSlot, client: IpAddr) -> Result<(), Rejection> {
        if let Some(until) = self.bans.banned_until(client, self.clock.now()) {
            let reply = match self.backend {
                Backend::Submission(_) => replies::banned_421(until),
                Backend::Inbound(_) => replies::banned_network_421(until),
            };
            return Err(Rejection { reason: "the address is banned".to_owned(), reply });
        }
        slot.set_address(client).map_err(|LimitReached| Rejection {
            reason: format!("{}.connections_per_address_max", self.table()),
            reply: replies::too_many_from_address_421(),
        })
    }

    /// Logs the rejection, and sends its reply in plain text; with implicit TLS the connection is closed without one.
    fn reject(&self, stream: &net::Stream, client: IpAddr, rejection: &Rejection, security: Security) {
        tracing::warn!(target: FLOOD, %client, "connection rejected: {}", rejection.reason);
        if security == Security::Starttls {
            let mut text = Vec::new();
            rejection.reply.write_to(&mut text);
            // If it fails, the client still sees the connection close.
            let _ = stream.send_now(&text);
        }
    }

    fn is_proxy(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.proxies.iter().any(|network| network.contains(&peer))
    }

    async fn serve_connection(
        self: Arc<Self>,
        mut stream: net::Stream,
        peer: SocketAddr,
        mut slot: ConnectionSlot,
        security: Security,
        stop: CancellationToken,
    ) {
        let mut client = peer.ip().to_canonical();
        if self.is_proxy(client) {
            let header = tokio::select! {
                header = timeout(PROXY_HEADER_TIMEOUT, read_proxy_header(&mut stream)) => header,
                () = stop.cancelled() => return,
            };
            match header.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(header) => client = header.unwrap_or(client).to_canonical(),
                Err(error) => return tracing::warn!(target: FLOOD, %error, "invalid PROXY header"),
            }
            tracing::Span::current().record("client", tracing::field::display(client));
            if let Err(refusal) = self.admit_client(&mut slot, client) {
                return self.reject(&stream, client, &refusal, security);
            }
        }
        let evicted = slot.evicted();
        let connection = Connection::new(self, stream, Peer { client, slot }, stop);
        let end = async {
            evicted.cancelled().await;
            tokio::time::sleep(EVICTION_GRACE).await;
        };
        tokio::select! {
            ended = connection.run(security) => {
                if let Err(error) = ended {
                    tracing::debug!(%client, "{error}");
                }
            }
            () = end => {}
        }
    }
}

/// Reads exactly the PROXY header; the octets after it may be TLS. Returns the address of the client, if the header has
/// one.
async fn read_proxy_header(stream: &mut net::Stream) -> io::Result<Option<IpAddr>> {
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

fn submission_settings(hostname: DomainName, limits: &config::Smtp) -> smtp::SessionSettings {
    smtp::SessionSettings {
        profile: Profile::Submission,
        hostname,
        data: DataLimits {
            message_octets_max: limits.message_size_max.0,
            line_octets_max: CONTENT_LINE_OCTETS_MAX,
            bare_newline: match limits.bare_newline {
                config::BareNewline::Normalize => BareNewline::Normalize,
                config::BareNewline::Reject => BareNewline::Reject,
            },
            keep_octets_max: None,
        },
        recipients_max: limits.recipients_max,
        refused_recipients_max: limits.recipients_max.saturating_mul(2),
        errors_max: limits.errors_max,
        commands_without_message_max: limits.commands_without_message_max,
        starttls: true,
    }
}

fn inbound_settings(hostname: DomainName, limits: &config::Smtp) -> smtp::SessionSettings {
    smtp::SessionSettings {
        profile: Profile::Inbound,
        hostname,
        data: DataLimits {
            message_octets_max: limits.message_size_max.0.saturating_add(REPORT_OCTETS_MORE),
            line_octets_max: CONTENT_LINE_OCTETS_MAX,
            // Old servers send bare newlines. Nothing is passed on, so nothing can be smuggled onwards.
            bare_newline: BareNewline::Normalize,
            keep_octets_max: None,
        },
        recipients_max: 1,
        refused_recipients_max: REFUSED_RECIPIENTS_MAX as usize,
        errors_max: INBOUND_ERRORS_MAX,
        commands_without_message_max: limits.commands_without_message_max,
        starttls: true,
    }
}
