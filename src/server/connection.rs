//! One SMTP connection: passes octets between the stream and the session.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::min_rate;
use super::session_services::{Peer, SessionServices};
use super::stream::Stream;
use super::{Security, Server, refusal_replies};
use crate::limits::memory_budget::MemoryReservation;
use crate::net;
use crate::smtp::{Input, LineReader, Next, Question, Session, Step, Verdict};
use crate::telemetry::FLOOD;
use crate::tls;

/// Read buffer for commands: fits a pipelined group, and keeps ten thousand idle connections small.
const COMMAND_READ_OCTETS: usize = 512;
/// Read buffer for content: one TLS record.
const BODY_READ_OCTETS: usize = 16 * 1024;
/// Replies to pipelined commands are flushed above this size.
const OUTPUT_OCTETS_MAX: usize = 16 * 1024;
/// Timeout of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a TLS handshake goes on at a stop, so that the client gets 421.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(2);
/// How long the server waits for the client to read the last reply and close.
const LINGER: Duration = Duration::from_secs(1);
/// Memory reserved for a message of undeclared size, and the most reserved for a declared size.
const BODY_OCTETS_EXPECTED: u64 = 16 * 1024;
const BODY_OCTETS_EXPECTED_MAX: u64 = 1024 * 1024;

pub struct Connection {
    server: Arc<Server>,
    stream: Stream,
    session: Session,
    lines: LineReader,
    /// Received, not yet processed.
    input: BytesMut,
    /// Written by the session, not yet sent.
    output: Vec<u8>,
    services: SessionServices,
    /// The memory of the message being received.
    memory: Option<MemoryReservation>,
    /// The transfer of the message being received.
    transfer: min_rate::TransferProgress,
    session_deadline: Instant,
    login_deadline: Instant,
    /// See [`ConnectionSlot::evicted`](crate::limits::connection_limiter::ConnectionSlot::evicted).
    evicted: CancellationToken,
    stop: CancellationToken,
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("TLS handshake failed: {0}")]
    Handshake(String),
    #[error("connection broke: {}", tls::explain_client_error(.0))]
    Broken(#[from] io::Error),
}

/// The result of waiting for octets.
enum Received {
    Octets,
    Eof,
    Idle,
    NoLogin,
    Evicted,
    TooSlow,
    Stopping,
}

impl From<Received> for Input<'_> {
    /// The input for the session if no octets arrived.
    fn from(ended: Received) -> Self {
        match ended {
            Received::Octets | Received::Eof => Self::Eof,
            Received::Idle => Self::Idle,
            Received::NoLogin => Self::NoLogin,
            Received::Evicted => Self::Evicted,
            Received::TooSlow => Self::TooSlow,
            Received::Stopping => Self::ShuttingDown,
        }
    }
}

impl Connection {
    pub fn new(server: Arc<Server>, stream: net::Stream, peer: Peer, stop: CancellationToken) -> Self {
        let now = Instant::now();
        Self {
            stream: Stream::Plain(stream),
            session: Session::new(server.session.clone(), false),
            lines: LineReader::default(),
            input: BytesMut::new(),
            output: Vec::new(),
            evicted: peer.slot.evicted(),
            services: SessionServices::new(server.clone(), peer, stop.clone()),
            memory: None,
            transfer: min_rate::TransferProgress::default(),
            session_deadline: now + server.session_timeout,
            login_deadline: now + server.login_timeout,
            stop,
            server,
        }
    }

    /// Serves the client until either side closes the connection.
    pub async fn run(mut self, security: Security) -> Result<(), ConnectionError> {
        if security == Security::Implicit {
            self.session = Session::new(self.server.session.clone(), true);
            Box::pin(self.tls_handshake()).await?;
        }
        let mut step = self.session.step(Input::Start);
        loop {
            self.input.advance(step.consumed.min(self.input.len()));
            if let Some(reply) = &step.reply {
                reply.write_to(&mut self.output);
            }
            if self.output.len() > OUTPUT_OCTETS_MAX {
                self.flush().await?;
            }
            step = match step.next {
                Next::ReadLine => self.read_line().await?,
                Next::ReadBody => self.read_body().await?,
                Next::Ask(question) => {
                    // Boxed: the largest future sets the size of every connection task, and most connections are
                    // idle.
                    let verdict = Box::pin(self.answer(question)).await;
                    self.session.step(Input::Answer(verdict))
                }
                Next::UpgradeTls => Box::pin(self.upgrade()).await?,
                Next::Close => return Ok(Box::pin(self.close()).await?),
            };
        }
    }

    async fn read_line(&mut self) -> io::Result<Step> {
        // Between BDAT chunks the message keeps its memory and its transfer time.
        if !self.session.is_receiving() {
            self.memory = None;
            self.transfer = min_rate::TransferProgress::default();
        }
        loop {
            let (consumed, line) = self.lines.next(&self.input);
            let step = line.map(|line| match line {
                Ok(line) => {
                    self.session.set_time(self.server.clock.now());
                    self.session.step(Input::Line(line))
                }
                Err(error) => self.session.step(Input::LineError(error)),
            });
            self.input.advance(consumed);
            if let Some(step) = step {
                return Ok(step);
            }
            match self.receive(COMMAND_READ_OCTETS).await? {
                Received::Octets => {}
                ended => return Ok(self.session.step(ended.into())),
            }
        }
    }

    async fn read_body(&mut self) -> io::Result<Step> {
        if self.input.is_empty() {
            match self.receive(BODY_READ_OCTETS).await? {
                Received::Octets => {}
                ended => return Ok(self.session.step(ended.into())),
            }
        }
        let step = self.session.step(Input::Body(&self.input));
        if !self.reserve_memory(self.session.body_memory_octets() as u64) {
            self.input.advance(step.consumed);
            let reply = refusal_replies::reply(&refusal_replies::overloaded(), None);
            return Ok(self.session.step(Input::BodyRefused(reply)));
        }
        Ok(step)
    }

    fn reserve_memory(&mut self, octets: u64) -> bool {
        let reserve = || self.server.memory.reserve(self.services.tenant_id());
        self.memory.get_or_insert_with(reserve).grow_to(octets)
    }

    async fn answer(&mut self, question: Question) -> Verdict {
        match question {
            Question::StartData { octets_declared } => {
                let kept = self.services.keep_octets_max();
                let expected = octets_declared.unwrap_or(BODY_OCTETS_EXPECTED).min(BODY_OCTETS_EXPECTED_MAX);
                if self.reserve_memory(kept.map_or(expected, |kept| expected.min(kept))) {
                    kept.map_or(Verdict::Granted, Verdict::GrantedKeeping)
                } else {
                    Verdict::Refused(refusal_replies::reply(&refusal_replies::overloaded(), None))
                }
            }
            question => self.services.handle(question, self.session.helo()).await,
        }
    }

    /// RFC 3207 §4.2, §6: octets received after STARTTLS and before the handshake may be injected and are discarded.
    async fn upgrade(&mut self) -> Result<Step, ConnectionError> {
        self.flush().await?;
        if !self.input.is_empty() {
            tracing::warn!(octets = self.input.len(), "discarded plain-text data after STARTTLS");
        }
        self.input = BytesMut::new();
        self.lines.reset();
        self.tls_handshake().await?;
        Ok(self.session.step(Input::TlsDone))
    }

    async fn tls_handshake(&mut self) -> Result<(), ConnectionError> {
        let config = self.server.tls.load_full();
        let limit = Instant::now() + HANDSHAKE_TIMEOUT.min(self.server.idle_timeout);
        let handshake = timeout_at(limit.min(self.login_deadline), self.stream.secure(config));
        let stop = &self.stop;
        let stopped = async {
            stop.cancelled().await;
            sleep(HANDSHAKE_GRACE).await;
        };
        let secured = tokio::select! {
            secured = handshake => secured
                .map_err(|_| ConnectionError::Handshake("timed out".to_owned()))?
                .map_err(|error| ConnectionError::Handshake(tls::explain_client_error(&error)))?,
            () = stopped => return Err(ConnectionError::Handshake("the server stops".to_owned())),
        };
        // Without a channel binding, the session does not offer PLUS.
        self.session.bind_channel(secured.channel.filter(|_| self.server.scram_plus));
        self.services.set_tls(secured.description);
        Ok(())
    }

    /// Sends the output, then waits for octets. No complete line is left in the input at this point, so replies to a
    /// pipelined group are sent together (RFC 2920 §3.2).
    async fn receive(&mut self, octets: usize) -> io::Result<Received> {
        self.flush().await?;
        let in_body = octets == BODY_READ_OCTETS;
        if self.input.is_empty() && self.input.capacity() > octets {
            self.input = BytesMut::new();
        }
        self.input.reserve(octets);
        let now = Instant::now();
        let receiving = self.session.is_receiving();
        let (deadline, ended) = self.read_deadline(now, receiving);
        // Checked first: a client that always has data ready would win every `select!` below.
        if now >= deadline {
            return Ok(ended);
        }
        if !in_body && self.stop.is_cancelled() {
            return Ok(Received::Stopping);
        }
        tokio::select! {
            biased;
            read = self.stream.read(&mut self.input) => {
                let octets = read?;
                if receiving {
                    self.transfer.add(octets, now.elapsed());
                }
                Ok(if octets == 0 { Received::Eof } else { Received::Octets })
            }
            () = self.stop.cancelled(), if !in_body => Ok(Received::Stopping),
            () = self.evicted.cancelled() => {
                tracing::warn!(target: FLOOD, "closed the oldest connection without a login: {}.connections_max", self.server.table());
                Ok(Received::Evicted)
            }
            () = sleep_until(deadline) => Ok(ended),
        }
    }

    /// Until when to wait for octets, and the result if none arrive.
    fn read_deadline(&self, now: Instant, receiving: bool) -> (Instant, Received) {
        let idle = (now + self.server.idle_timeout).min(self.session_deadline);
        if !self.services.is_admitted() && self.login_deadline < idle {
            return (self.login_deadline, Received::NoLogin);
        }
        let slow = self.server.min_rate.time_left(&self.transfer).map(|left| now + left);
        match slow.filter(|&slow| receiving && slow < idle) {
            Some(slow) => (slow, Received::TooSlow),
            None => (idle, Received::Idle),
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let idle = Instant::now() + self.server.idle_timeout;
        // The time of the last reply to a client that has not logged in comes after its deadline.
        let limit = if self.services.is_admitted() { idle } else { idle.min(self.login_deadline + LINGER) };
        timeout_at(limit, self.stream.write(&self.output)).await??;
        self.output.clear();
        if self.output.capacity() > OUTPUT_OCTETS_MAX {
            self.output = Vec::new();
        }
        Ok(())
    }

    /// Sends the last reply and waits briefly for the client to close: closing a socket with unread octets sends RST,
    /// which can overtake the reply.
    async fn close(mut self) -> io::Result<()> {
        if self.output.is_empty() {
            // The client may not read the end of the TLS session.
            return timeout(LINGER, self.stream.finish()).await.unwrap_or(Ok(()));
        }
        self.flush().await?;
        let drain = async {
            self.stream.finish().await?;
            loop {
                self.input.clear();
                self.input.reserve(COMMAND_READ_OCTETS);
                if self.stream.read(&mut self.input).await? == 0 {
                    return Ok(());
                }
            }
        };
        timeout(LINGER, drain).await.unwrap_or(Ok(()))
    }
}
