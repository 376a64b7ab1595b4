//! A connection to another server: opening it, sending messages over it, ending it. The client machines say what to
//! write and what a reply means; here are the bytes, the time and TLS.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::client::TlsStream;

use super::happy_eyeballs::{HEAD_START, Race, race};
use super::source::Source;
use super::tls::{self, ClientTls, Trust};
use super::tls_policy::TlsVerifiedFor;
use super::transcript::Transcript;
use crate::config::Timeouts;
use crate::mail::{Content, EnhancedStatus};
use crate::model::{BounceClass, TlsFailure, TlsMinimum};
use crate::policy::tls::{NO_TLS, NOT_TRUSTED, ReportedPolicy, Requirement};
use crate::smtp::Reply;
use crate::smtp::client::{
    Capabilities, DotStuffer, Handshake, HandshakeError, HandshakeOptions, Login, Next, Outcome, Phase,
    ReplyReader, Request, StartTls, Step, Transaction,
};

/// Octets of a message that are made ready and written at one time.
const BLOCK_OCTETS: usize = 64 * 1024;
/// What a write buffer may keep between messages.
const SPARE_OCTETS: usize = BLOCK_OCTETS + 4096;

/// Says that it was not one step that took too long.
pub const OUT_OF_TIME: &str = "the time for one try was used up";
/// A server that takes the message more slowly than this holds a connection that others need.
const OCTETS_PER_SECOND_MIN: u64 = 16 * 1024;

/// When a try that begins now ends, all hosts and recipients together: each step of one dialogue may take its whole
/// time once (RFC 5321 §4.5.3.2; 24 minutes unless configured), and a large message adds to it. Without it a server
/// that answers each of a hundred recipients just in time holds a connection for hours.
pub fn end_of_try(timeouts: &Timeouts, message_octets: u64) -> Instant {
    let Timeouts { connect, greeting, starttls, command, data, .. } = timeouts;
    let dialogue = *connect + *greeting + *starttls + 3 * *command + *data;
    Instant::now() + dialogue + Duration::from_secs(message_octets / OCTETS_PER_SECOND_MIN)
}

/// How to open a connection.
#[derive(Debug, Clone)]
pub struct ConnectPlan {
    /// The name in the certificate and in reports.
    pub host: String,
    /// Where we come from.
    pub source: Arc<Source>,
    /// TLS from the first octet.
    pub implicit_tls: bool,
    /// TLS by command.
    pub starttls: StartTls,
    /// Whose certificate is taken.
    pub trust: Trust,
    /// The rule that says so, for people.
    pub tls_policy: String,
    /// As what the session is counted for its domain, if it is.
    pub reported: Option<ReportedPolicy>,
    /// Our name in EHLO.
    pub ehlo_name: String,
    /// Our account.
    pub login: Option<Login>,
}

/// A host that answered.
pub struct Reached {
    /// Where it is.
    pub address: SocketAddr,
    /// The way to it.
    pub stream: TcpStream,
    /// Kept as long as the connection.
    pub permit: OwnedSemaphorePermit,
}

impl ConnectPlan {
    /// Who is to be spoken to, before anything was said.
    pub fn peer(&self, address: Option<IpAddr>) -> Arc<Peer> {
        Arc::new(Peer { tls_policy: Some(self.tls_policy.clone()), ..Peer::at(&self.host, address) })
    }
}

/// What ended a dialogue before its time.
#[derive(Debug, Clone)]
pub struct DeliveryError {
    /// Where in the dialogue.
    pub phase: Phase,
    /// What the server said, if it was the server.
    pub reply: Option<Reply>,
    /// In words, for people.
    pub text: String,
    /// What kind of trouble, where it was not the server that said so.
    pub class: BounceClass,
    /// Whether it was the TLS handshake that failed.
    pub in_handshake: bool,
    /// Whether it was our account that is refused, or cannot be used, whatever the message.
    pub is_login: bool,
    /// Whether the server has no TLS, or none that proves who it is: another time would change nothing.
    pub lacks_tls: bool,
    /// What reports on TLS call it, if it is about TLS.
    pub tls_failure: Option<TlsFailure>,
    /// Our word for it, where there is one and the server gave none.
    pub status: Option<EnhancedStatus>,
}

impl DeliveryError {
    /// Something that happened to us: to TLS, or else to the connection.
    pub fn new(phase: Phase, text: impl Into<String>) -> Self {
        let class = if phase == Phase::StartTls { BounceClass::Tls } else { BounceClass::Network };
        Self {
            phase,
            reply: None,
            text: text.into(),
            class,
            in_handshake: false,
            is_login: false,
            lacks_tls: false,
            tls_failure: None,
            status: None,
        }
    }

    /// The same of another kind.
    pub fn of(self, class: BounceClass) -> Self {
        Self { class, ..self }
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The MX or smart host; empty if none was reached.
    pub host: String,
    /// Its address.
    pub address: Option<IpAddr>,
    /// Like `TLSv1.3 TLS13_AES_256_GCM_SHA384`; `None` in clear.
    pub tls: Option<String>,
    /// Which TLS policy held, and on what ground.
    pub tls_policy: Option<String>,
    /// Whether it gives the reports that senders ask for (RFC 3461).
    pub offers_dsn: bool,
}

impl Peer {
    /// Somebody who was not spoken to.
    pub fn at(host: &str, address: Option<IpAddr>) -> Self {
        Self { host: host.to_owned(), address, ..Self::default() }
    }
}

/// What came of sending one message.
#[derive(Debug)]
pub struct Sent {
    /// One for each recipient; `None` where the connection ended first.
    pub outcomes: Vec<Option<Outcome>>,
    /// Why it did.
    pub trouble: Option<DeliveryError>,
    /// Whether the server had begun to answer.
    pub progressed: bool,
    /// Whether the server may have the message although it did not say so.
    pub in_doubt: bool,
}

impl Sent {
    /// The server was of no use already before anything was said.
    fn nothing(recipients: usize) -> Self {
        let trouble = DeliveryError::new(Phase::Mail, "the server had ended the dialogue or spoke unasked");
        Self {
            outcomes: std::iter::repeat_with(|| None).take(recipients).collect(),
            trouble: Some(trouble),
            progressed: false,
            in_doubt: false,
        }
    }
}

enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// An open connection that takes messages.
pub struct Connection {
    /// Who is at the other end.
    pub peer: Arc<Peer>,
    /// The address that was dialled.
    pub address: SocketAddr,
    /// Messages sent over it.
    pub messages: u32,
    /// For whose mail it was found fit since it was opened.
    pub fitness: Option<TlsVerifiedFor>,
    wire: SmtpStream,
    capabilities: Capabilities,
    /// The server has a transaction open that must be ended first.
    needs_reset: bool,
    /// By what the server has proved its name; `None` in clear.
    trust: Option<Trust>,
    /// Whether it can take another message.
    usable: bool,
    _permit: OwnedSemaphorePermit,
}

/// The socket with its buffers and its patience.
struct SmtpStream {
    socket: Socket,
    reader: ReplyReader,
    out: Vec<u8>,
    timeouts: Arc<Timeouts>,
    /// When a try ends that has not come to the final dot.
    deadline: Option<Instant>,
}

/// What every connection needs to be opened.
pub struct Dialer {
    /// TLS settings.
    pub tls: ClientTls,
    /// How long to wait for what.
    pub timeouts: Arc<Timeouts>,
}

impl Dialer {
    /// Takes a connection that was just made up to where mail can be sent.
    ///
    /// # Errors
    /// What stood in the way.
    pub async fn open(
        &self,
        dial: &ConnectPlan,
        Reached { address, stream, permit }: Reached,
        transcript: &mut Transcript,
    ) -> Result<Connection, DeliveryError> {
        transcript.remark(&format!("connected to {} [{address}]", dial.host));
        let (mut description, mut channel) = (None, None);
        let socket = if dial.implicit_tls {
            let stream = self.secure(dial, address, stream).await?;
            description = Some(note_tls(&stream, transcript));
            channel = tls::channel_binding(&stream);
            Socket::Tls(Box::new(stream))
        } else {
            Socket::Plain(stream)
        };
        let timeouts = self.timeouts.clone();
        let mut wire =
            SmtpStream { socket, reader: ReplyReader::new(), out: Vec::new(), timeouts, deadline: None };
        let (mut opening, mut step) = Handshake::begin(HandshakeOptions {
            ehlo_name: dial.ehlo_name.clone(),
            starttls: dial.starttls,
            secured: dial.implicit_tls,
            local: address.ip().is_loopback(),
            channel,
            nonce: format!("{:032x}", rand::random::<u128>()),
            login: dial.login.clone(),
        });
        loop {
            step = match step {
                Step::Exchange(command, phase) => {
                    if let Some(command) = command {
                        transcript.opening_sent(phase, &command.to_string());
                        wire.write(command.wire(), phase).await?;
                    }
                    let reply = wire.read_reply(phase).await?;
                    transcript.opening_received(phase, &reply);
                    opening.reply(reply, wire.reader.has_leftover())
                }
                Step::UpgradeTls => {
                    let Socket::Plain(stream) = wire.socket else {
                        return Err(DeliveryError::new(Phase::StartTls, "TLS inside TLS"));
                    };
                    let stream = self.secure(dial, address, stream).await?;
                    description = Some(note_tls(&stream, transcript));
                    let channel = tls::channel_binding(&stream);
                    wire.socket = Socket::Tls(Box::new(stream));
                    opening.secured(channel)
                }
                Step::Ready(capabilities) => {
                    let offers_dsn = capabilities.dsn;
                    let is_secured = description.is_some();
                    let (host, ip) = (dial.host.clone(), Some(address.ip()));
                    let tls_policy = Some(dial.tls_policy.clone());
                    let peer = Peer { host, address: ip, tls: description, tls_policy, offers_dsn };
                    return Ok(Connection {
                        peer: Arc::new(peer),
                        address,
                        messages: 0,
                        fitness: None,
                        wire,
                        capabilities,
                        trust: is_secured.then(|| dial.trust.clone()),
                        needs_reset: false,
                        usable: true,
                        _permit: permit,
                    });
                }
                Step::Failed(error) => {
                    wire.quit(transcript).await;
                    return Err(describe_failure(error));
                }
            };
        }
    }

    /// Connects to the address of a host that answers first. Owns what it needs, so that several can run.
    pub async fn reach(&self, addresses: &[SocketAddr], source: &Arc<Source>) -> Race<TcpStream> {
        let patience = self.timeouts.connect;
        race(addresses, HEAD_START, |address| connect(address, source.clone(), patience)).await
    }

    async fn secure(
        &self,
        dial: &ConnectPlan,
        address: SocketAddr,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, DeliveryError> {
        let name = match &dial.trust {
            // RFC 7672 §8.1: the server is asked for the name that the records stand at.
            Trust::Dane(set) => &set.base,
            Trust::Verified | Trust::Any => &dial.host,
        };
        let handshake = self.tls.connect(&dial.trust, name, stream);
        let (text, lacks_tls, failure) = match timeout(self.timeouts.starttls, handshake).await {
            Ok(Ok(stream)) => return Ok(stream),
            // What TLS itself objects to comes as invalid data, a lost connection as something else.
            Ok(Err(error)) => {
                let lacks_tls = error.kind() == std::io::ErrorKind::InvalidData;
                (tls::explain(&error), lacks_tls, tls::failure_of(&error))
            }
            Err(_) => ("time-out".to_owned(), false, TlsFailure::ValidationFailure),
        };
        let code = if lacks_tls { "tls_not_trusted" } else { "tls_handshake_lost" };
        let text = format!("[{code}] the TLS handshake with {} [{}] failed: {text}", dial.host, address);
        let status = Some(NOT_TRUSTED);
        let trouble = DeliveryError::new(Phase::StartTls, text);
        Err(DeliveryError { in_handshake: true, lacks_tls, status, tls_failure: Some(failure), ..trouble })
    }
}

async fn connect(address: SocketAddr, source: Arc<Source>, patience: Duration) -> std::io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    if let Some(own) = source.address_towards(address.ip()) {
        socket.bind(SocketAddr::new(own, 0))?;
    }
    // A group of commands and the message are whole writes already; waiting to fill packets only delays them.
    socket.set_nodelay(true)?;
    timeout(patience, socket.connect(address)).await?
}

fn note_tls(stream: &TlsStream<TcpStream>, transcript: &mut Transcript) -> String {
    let description = tls::describe(stream);
    transcript.remark(&format!("TLS: {description}"));
    description
}

fn describe_failure(error: HandshakeError) -> DeliveryError {
    let mut trouble = DeliveryError::new(error.phase(), error.text().into_owned());
    if matches!(error, HandshakeError::NoTls) {
        trouble.lacks_tls = true;
        trouble.tls_failure = Some(TlsFailure::StarttlsNotSupported);
        trouble.status = Some(NO_TLS);
        trouble.text = format!("[tls_not_offered] {}", trouble.text);
    }
    // RFC 4954 §6: 4xx is about the server's moment, 5xx about the account.
    trouble.is_login = match &error {
        HandshakeError::Refused(Phase::Auth, reply) => reply.code / 100 == 5,
        HandshakeError::NoMechanism | HandshakeError::Scram(_) => true,
        _ => false,
    };
    match error {
        HandshakeError::Refused(_, reply) => trouble.reply = Some(reply),
        HandshakeError::NoMechanism | HandshakeError::Scram(_) => trouble.class = BounceClass::Authentication,
        HandshakeError::LoginInClear => trouble.class = BounceClass::Tls,
        HandshakeError::NoTls | HandshakeError::Injection => {}
    }
    trouble
}

impl Connection {
    /// Sends one message to its recipients.
    pub async fn send(
        &mut self,
        request: &Request<'_>,
        content: &Content,
        transcript: &mut Transcript,
    ) -> Sent {
        if self.messages > 0 && self.wire.has_unasked().await {
            self.usable = false;
            return Sent::nothing(request.recipients.len());
        }
        self.messages += 1;
        let request = Request { reset: self.needs_reset, ..*request };
        let mut transaction = Transaction::new(&self.capabilities, &request);
        let trouble = self.wire.run(&mut transaction, content, transcript).await.err();
        self.needs_reset = transaction.needs_reset();
        self.usable = trouble.is_none() && !transaction.is_unusable() && !self.wire.has_unasked().await;
        Sent {
            trouble,
            progressed: transaction.has_progressed(),
            in_doubt: transaction.awaits_final_reply(),
            outcomes: transaction.into_outcomes(),
        }
    }

    /// Until when the next message must have been sent. The wait for what the server says to the whole of it may be
    /// longer: to end that early makes duplicates (RFC 5321 §4.5.3.2.6).
    pub fn set_deadline(&mut self, deadline: Instant) {
        self.wire.deadline = Some(deadline);
    }

    /// Whether it can take another message.
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// Whether a message that requires TLS may go over it (RFC 8689 §4.2.1).
    pub fn keeps_tls(&self) -> bool {
        matches!(self.trust, Some(Trust::Verified | Trust::Dane(_))) && self.capabilities.require_tls
    }

    /// Whether it has of TLS what a policy requires.
    pub fn meets(&self, requirement: &Requirement) -> bool {
        match &self.trust {
            Some(trust) => trust.meets(requirement),
            None => requirement.strength() == TlsMinimum::Opportunistic,
        }
    }

    /// Says good-bye; waits for the answer no longer than the configuration says.
    pub async fn quit(mut self) {
        if self.usable {
            self.wire.quit(&mut Transcript::default()).await;
        }
    }
}

impl SmtpStream {
    async fn run(
        &mut self,
        transaction: &mut Transaction,
        content: &Content,
        transcript: &mut Transcript,
    ) -> Result<(), DeliveryError> {
        loop {
            self.out.clear();
            match transaction.advance(&mut self.out) {
                Next::Reply(phase) => {
                    if !self.out.is_empty() {
                        transcript.sent(&String::from_utf8_lossy(&self.out));
                        let commands = std::mem::take(&mut self.out);
                        self.write(&commands, phase).await?;
                        self.out = commands;
                    }
                    let reply = self.read_reply(phase).await?;
                    transcript.received(&reply);
                    transaction.reply(reply);
                }
                Next::Content => {
                    // It would be taken for the reply to the message.
                    if self.reader.has_leftover() {
                        return Err(DeliveryError::new(
                            Phase::Data,
                            "the server spoke unasked before the message",
                        ));
                    }
                    transcript.remark(&format!("the message, {} octets", content.len()));
                    if let Err(trouble) = self.write_content(content).await {
                        // Servers that refuse in mid-message say why and close: look whether something was said. It
                        // can be nothing good, for the end of the message was not sent.
                        let reply = timeout(Duration::from_secs(1), self.read_reply(Phase::Content)).await;
                        if let Ok(Ok(reply)) = reply {
                            transcript.received(&reply);
                            if reply.code >= 400 {
                                transaction.content_sent();
                                transaction.reply(reply);
                            }
                        }
                        return Err(trouble);
                    }
                    transaction.content_sent();
                }
                Next::Done => return Ok(()),
            }
        }
    }

    /// The message in blocks, so that no second copy of a large one is made; a small one is one write.
    async fn write_content(&mut self, content: &Content) -> Result<(), DeliveryError> {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let mut stuffing = DotStuffer::new();
        for piece in [&content.prefix, &content.submitted] {
            for block in piece.chunks(BLOCK_OCTETS) {
                stuffing.push(block, &mut out);
                if out.len() >= BLOCK_OCTETS {
                    self.write(&out, Phase::Content).await?;
                    out.clear();
                }
            }
        }
        stuffing.finish(&mut out);
        self.write(&out, Phase::Content).await?;
        out.clear();
        out.shrink_to(SPARE_OCTETS);
        self.out = out;
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8], phase: Phase) -> Result<(), DeliveryError> {
        let limit = if phase == Phase::Content { self.timeouts.block } else { self.timeouts.command };
        let end = self.end_of(limit);
        let written = async {
            match &mut self.socket {
                Socket::Plain(stream) => stream.write_all(bytes).await,
                Socket::Tls(stream) => {
                    stream.write_all(bytes).await?;
                    stream.flush().await
                }
            }
        };
        match timeout_at(end, written).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(lost(phase, &error.to_string())),
            Err(_) => Err(self.too_late(end, phase, "while sending at")),
        }
    }

    async fn read_reply(&mut self, phase: Phase) -> Result<Reply, DeliveryError> {
        let patience = self.patience(phase);
        let deadline =
            if phase == Phase::Content { Instant::now() + patience } else { self.end_of(patience) };
        loop {
            match self.reader.next_reply() {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => {}
                Err(error) => {
                    let text = format!("at {}: {error}", phase.as_str());
                    return Err(DeliveryError::new(phase, text).of(BounceClass::Protocol));
                }
            }
            match timeout_at(deadline, self.read_some()).await {
                Ok(Ok(0)) => return Err(lost(phase, "closed by the server")),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(lost(phase, &error.to_string())),
                Err(_) => return Err(self.too_late(deadline, phase, "while waiting for the reply to")),
            }
        }
    }

    /// When a step ends that may take so long.
    fn end_of(&self, limit: Duration) -> Instant {
        let end = Instant::now() + limit;
        self.deadline.map_or(end, |deadline| deadline.min(end))
    }

    fn too_late(&self, end: Instant, phase: Phase, doing: &str) -> DeliveryError {
        let what = if self.deadline == Some(end) { OUT_OF_TIME } else { "time-out" };
        DeliveryError::new(phase, format!("{what} {doing} {}", phase.as_str()))
    }

    async fn read_some(&mut self) -> std::io::Result<usize> {
        let buffer = self.reader.buffer();
        match &mut self.socket {
            Socket::Plain(stream) => stream.read_buf(buffer).await,
            Socket::Tls(stream) => stream.read_buf(buffer).await,
        }
    }

    /// Whether the server has said more than it was asked, or has closed. A reply too many would be taken for the
    /// answer to the next command, and so for the outcome of another message.
    async fn has_unasked(&mut self) -> bool {
        // What has come is seen only after the runtime has asked the system.
        tokio::task::yield_now().await;
        let readable = tokio::select! {
            biased;
            _ = self.read_some() => true,
            () = std::future::ready(()) => false,
        };
        readable || self.reader.has_leftover()
    }

    /// RFC 5321 §4.5.3.2.
    fn patience(&self, phase: Phase) -> Duration {
        match phase {
            Phase::Connect => self.timeouts.connect,
            Phase::Greeting => self.timeouts.greeting,
            Phase::StartTls => self.timeouts.starttls,
            Phase::Hello | Phase::Auth | Phase::Mail | Phase::Rcpt => self.timeouts.command,
            Phase::Data => self.timeouts.data,
            Phase::Content => self.timeouts.final_dot,
        }
    }

    async fn quit(&mut self, transcript: &mut Transcript) {
        self.deadline = None;
        let limit = self.timeouts.quit;
        let farewell = async {
            if self.write(b"QUIT\r\n", Phase::Hello).await.is_ok() {
                transcript.sent("QUIT");
                if let Ok(reply) = self.read_reply(Phase::Hello).await {
                    transcript.received(&reply);
                }
            }
        };
        let _ = timeout(limit, farewell).await;
    }
}

fn lost(phase: Phase, error: &str) -> DeliveryError {
    DeliveryError::new(phase, format!("connection lost at {}: {error}", phase.as_str()))
}
