//! Opens connections: TCP, TLS, EHLO and AUTH, up to the point where mail can be sent.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::connection::{Connection, Opened};
use super::delivery_error::DeliveryError;
use super::happy_eyeballs::{CONNECTION_ATTEMPT_DELAY, RaceResult, race};
use super::peer::Peer;
use super::smtp_stream::{SmtpStream, Socket};
use super::source::Source;
use super::tls::client::{self, ClientTls, Trust};
use super::transcript::Transcript;
use crate::blocking;
use crate::config::Timeouts;
use crate::model::TlsFailure;
use crate::net::{self, Network};
use crate::policy::tls::{NOT_TRUSTED, ReportedPolicy};
use crate::rng::Rng;
use crate::smtp::client::{Handshake, HandshakeOptions, Login, Phase, StartTls, Step};

/// The parameters of a connection to a host.
#[derive(Debug, Clone)]
pub struct ConnectPlan {
    /// The name in the certificate and in reports.
    pub host: String,
    /// The source address.
    pub source: Arc<Source>,
    /// Whether TLS starts with the first octet.
    pub implicit_tls: bool,
    /// Whether STARTTLS is used.
    pub starttls: StartTls,
    /// Which certificates are accepted.
    pub trust: Trust,
    /// The TLS policy that applies, and why, as text.
    pub tls_policy: String,
    /// How the session is counted in TLS reports; `None` if it is not counted.
    pub reported: Option<ReportedPolicy>,
    /// The name in EHLO.
    pub ehlo_name: String,
    /// The account.
    pub login: Option<Login>,
}

impl ConnectPlan {
    /// The plan after a failed handshake of opportunistic TLS: first with any certificate, then without TLS.
    pub fn weaker(&self) -> Self {
        match self.trust {
            Trust::Any => Self { starttls: StartTls::Never, reported: None, ..self.clone() },
            Trust::Verified | Trust::Dane(_) => Self { trust: Trust::Any, reported: None, ..self.clone() },
        }
    }

    /// The host before the first reply, and the own address if there was a connection.
    pub fn peer(&self, address: Option<IpAddr>, source: Option<IpAddr>) -> Arc<Peer> {
        let tls_policy = Some(self.tls_policy.clone());
        Arc::new(Peer { source, tls_policy, ..Peer::at(&self.host, address) })
    }
}

/// A TCP connection to a host.
pub struct TcpConnected {
    /// The address that was dialled.
    pub address: SocketAddr,
    /// The stream.
    pub stream: net::Stream,
    /// The permit for the connection; released when the connection closes.
    pub permit: OwnedSemaphorePermit,
}

impl TcpConnected {
    /// The own address.
    pub fn source(&self) -> Option<IpAddr> {
        self.stream.local_addr().ok().map(|own| own.ip())
    }
}

/// Opens connections.
pub struct Dialer {
    /// TLS settings.
    pub tls: ClientTls,
    /// The timeout of each step.
    pub timeouts: Arc<Timeouts>,
    /// Where connections go.
    pub network: Network,
    /// For nonces.
    pub rng: Rng,
}

impl Dialer {
    /// Connects to the first address of a host that answers.
    pub async fn connect(&self, addresses: &[SocketAddr], source: &Arc<Source>) -> RaceResult<net::Stream> {
        let limit = self.timeouts.connect;
        let connect = |address| {
            let (network, source) = (self.network.clone(), source.clone());
            async move { timeout(limit, connect(&network, address, &source)).await? }
        };
        race(addresses, CONNECTION_ATTEMPT_DELAY, connect).await
    }

    /// Does the TLS handshake, EHLO and AUTH on a new TCP connection.
    ///
    /// # Errors
    /// TLS or a reply does not allow sending mail, or the connection was lost.
    pub async fn open(
        &self,
        plan: &ConnectPlan,
        connected: TcpConnected,
        transcript: &mut Transcript,
    ) -> Result<Connection, DeliveryError> {
        let source = connected.source();
        let TcpConnected { address, stream, permit } = connected;
        transcript.remark(&format!("connected to {} [{address}]", plan.host));
        let (mut tls, mut channel) = (None, None);
        let socket = if plan.implicit_tls {
            let stream = self.handshake(plan, address, stream).await?;
            tls = Some(describe_tls(&stream, transcript));
            channel = client::channel_binding(&stream);
            Socket::Tls(Box::new(stream))
        } else {
            Socket::Plain(stream)
        };
        let mut stream = SmtpStream::new(socket, self.timeouts.clone());
        let (mut handshake, mut step) = Handshake::begin(HandshakeOptions {
            ehlo_name: plan.ehlo_name.clone(),
            starttls: plan.starttls,
            secured: plan.implicit_tls,
            local: address.ip().is_loopback(),
            channel,
            nonce: format!("{:032x}", self.rng.random::<u128>()),
            login: plan.login.clone(),
        });
        loop {
            step = match step {
                Step::Exchange(command, phase) => {
                    if let Some(command) = command {
                        transcript.handshake_sent(phase, &command.to_string());
                        stream.write(command.wire(), phase).await?;
                    }
                    let reply = stream.read_reply(phase).await?;
                    transcript.handshake_received(phase, &reply);
                    let leftover = stream.has_leftover();
                    if handshake.is_challenge(&reply) {
                        let respond = move || {
                            let step = handshake.reply(reply, leftover);
                            (handshake, step)
                        };
                        let responded = blocking::run(respond).await;
                        let (next, step) =
                            responded.map_err(|error| DeliveryError::new(phase, error.to_string()))?;
                        handshake = next;
                        step
                    } else {
                        handshake.reply(reply, leftover)
                    }
                }
                Step::UpgradeTls => {
                    let Socket::Plain(plain) = stream.socket else {
                        return Err(DeliveryError::new(Phase::StartTls, "STARTTLS inside TLS"));
                    };
                    let secured = self.handshake(plan, address, plain).await?;
                    tls = Some(describe_tls(&secured, transcript));
                    let channel = client::channel_binding(&secured);
                    stream.socket = Socket::Tls(Box::new(secured));
                    handshake.secured(channel)
                }
                Step::Ready(capabilities) => {
                    let trust = tls.is_some().then(|| plan.trust.clone());
                    let (tls_policy, offers_dsn) = (Some(plan.tls_policy.clone()), capabilities.dsn);
                    let at = Peer::at(&plan.host, Some(address.ip()));
                    let peer = Peer { source, tls, tls_policy, offers_dsn, ..at };
                    let opened = Opened { peer, address, stream, capabilities, trust, permit };
                    return Ok(Connection::new(opened));
                }
                Step::Failed(error) => {
                    stream.quit(transcript).await;
                    return Err(error.into());
                }
            };
        }
    }

    async fn handshake(
        &self,
        plan: &ConnectPlan,
        address: SocketAddr,
        stream: net::Stream,
    ) -> Result<TlsStream<net::Stream>, DeliveryError> {
        let name = match &plan.trust {
            // RFC 7672 §8.1: the server name sent is the TLSA base domain.
            Trust::Dane(set) => &set.base,
            Trust::Verified | Trust::Any => &plan.host,
        };
        let handshake = self.tls.connect(&plan.trust, name, stream);
        let (text, lacks_tls, failure) = match timeout(self.timeouts.starttls, handshake).await {
            Ok(Ok(stream)) => return Ok(stream),
            // The TLS library reports its own errors as invalid data; a lost connection has another kind.
            Ok(Err(error)) => {
                let lacks_tls = error.kind() == std::io::ErrorKind::InvalidData;
                (client::explain(&error), lacks_tls, client::failure_of(&error))
            }
            Err(_) => ("time-out".to_owned(), false, TlsFailure::ValidationFailure),
        };
        let code = if lacks_tls { "tls_not_trusted" } else { "tls_handshake_lost" };
        let text = format!("[{code}] the TLS handshake with {} [{}] failed: {text}", plan.host, address);
        let status = Some(NOT_TRUSTED);
        let error = DeliveryError::new(Phase::StartTls, text);
        Err(DeliveryError { in_handshake: true, lacks_tls, status, tls_failure: Some(failure), ..error })
    }
}

async fn connect(network: &Network, address: SocketAddr, source: &Source) -> std::io::Result<net::Stream> {
    if let Some(simulation) = network.simulation() {
        return Ok(net::Stream::Simulated(simulation.connect(address).await?));
    }
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    if let Some(own) = source.address_towards(address.ip()) {
        socket.bind(SocketAddr::new(own, 0))?;
    }
    // Each group of commands and each block of a message is one write, so Nagle's algorithm would only delay them.
    socket.set_nodelay(true)?;
    Ok(socket.connect(address).await?.into())
}

fn describe_tls(stream: &TlsStream<net::Stream>, transcript: &mut Transcript) -> String {
    let description = client::describe(stream);
    transcript.remark(&format!("TLS: {description}"));
    description
}
