//! Reads and writes SMTP over a socket, with or without TLS, within the time limits of each step.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::delivery_error::{ATTEMPT_TIMED_OUT, DeliveryError};
use super::transcript::Transcript;
use crate::clock::Deadline;
use crate::config::Timeouts;
use crate::mail::Content;
use crate::model::BounceClass;
use crate::net;
use crate::smtp::Reply;
use crate::smtp::client::{DotStuffer, Next, Phase, ReplyReader, Transaction};

/// Octets of a message that are encoded and written at a time.
const BLOCK_OCTETS: usize = 64 * 1024;
/// Capacity that the write buffer keeps between messages.
const SPARE_OCTETS: usize = BLOCK_OCTETS + 4096;
/// How long to wait for a reply after the message could not be written.
const EARLY_REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// The socket.
pub enum Socket {
    /// Without TLS.
    Plain(net::Stream),
    /// With TLS.
    Tls(Box<TlsStream<net::Stream>>),
}

/// A socket with its buffers and timeouts.
pub struct SmtpStream {
    /// Replaced when STARTTLS succeeds.
    pub socket: Socket,
    reader: ReplyReader,
    out: Vec<u8>,
    timeouts: Arc<Timeouts>,
    /// When the attempt must have sent its message.
    deadline: Option<Deadline>,
}

impl SmtpStream {
    /// A stream on which nothing was read or written.
    pub fn new(socket: Socket, timeouts: Arc<Timeouts>) -> Self {
        Self { socket, reader: ReplyReader::new(), out: Vec::new(), timeouts, deadline: None }
    }

    /// Sets the time by which the next message must have been sent. The reply to the message may take longer: an early
    /// time-out causes duplicates (RFC 5321 §4.5.3.2.6).
    pub fn set_deadline(&mut self, deadline: Deadline) {
        self.deadline = Some(deadline);
    }

    /// Whether octets were received that belong to no reply yet.
    pub fn has_leftover(&self) -> bool {
        self.reader.has_leftover()
    }

    /// Runs one mail transaction.
    ///
    /// # Errors
    /// The connection was lost, a step timed out, or the server broke the protocol.
    pub async fn run(
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
                    // The client would take the reply for the reply to the message.
                    if self.reader.has_leftover() {
                        return Err(DeliveryError::new(
                            Phase::Data,
                            "the server sent an unsolicited reply before the message",
                        ));
                    }
                    transcript.remark(&format!("the message, {} octets", content.len()));
                    if let Err(error) = self.write_content(content).await {
                        self.read_early_refusal(transaction, transcript).await;
                        return Err(error);
                    }
                    transaction.content_sent();
                }
                Next::Done => return Ok(()),
            }
        }
    }

    /// Reads the reply of a server that refuses a message halfway and closes the connection. A 2xx is ignored, because
    /// the end of the message was not sent.
    async fn read_early_refusal(&mut self, transaction: &mut Transaction, transcript: &mut Transcript) {
        let reply = timeout(EARLY_REPLY_TIMEOUT, self.read_reply(Phase::Content)).await;
        if let Ok(Ok(reply)) = reply {
            transcript.received(&reply);
            if reply.code >= 400 {
                transaction.content_sent();
                transaction.reply(reply);
            }
        }
    }

    /// Writes in blocks, which avoids a second copy of a large message; a small one is a single write.
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

    /// Writes all bytes.
    ///
    /// # Errors
    /// The connection was lost or the step timed out.
    pub async fn write(&mut self, bytes: &[u8], phase: Phase) -> Result<(), DeliveryError> {
        let limit = if phase == Phase::Content { self.timeouts.block } else { self.timeouts.command };
        let end = self.deadline_after(limit);
        let written = async {
            match &mut self.socket {
                Socket::Plain(stream) => stream.write_all(bytes).await,
                Socket::Tls(stream) => {
                    stream.write_all(bytes).await?;
                    stream.flush().await
                }
            }
        };
        match end.limit(written).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(DeliveryError::connection_lost(phase, &error.to_string())),
            Err(_) => Err(self.timed_out(end, phase, "while sending at")),
        }
    }

    /// Reads one reply.
    ///
    /// # Errors
    /// The connection was lost, the step timed out, or the received octets are no reply.
    pub async fn read_reply(&mut self, phase: Phase) -> Result<Reply, DeliveryError> {
        let limit = self.timeout_of(phase);
        let end = if phase == Phase::Content { Deadline::after(limit) } else { self.deadline_after(limit) };
        loop {
            match self.reader.next_reply() {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => {}
                Err(error) => {
                    let text = format!("at {}: {error}", phase.as_str());
                    return Err(DeliveryError::new(phase, text).with_class(BounceClass::Protocol));
                }
            }
            match end.limit(self.read_some()).await {
                Ok(Ok(0)) => return Err(DeliveryError::connection_lost(phase, "closed by the server")),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(DeliveryError::connection_lost(phase, &error.to_string())),
                Err(_) => return Err(self.timed_out(end, phase, "while waiting for the reply to")),
            }
        }
    }

    /// When a step with this time limit must end.
    fn deadline_after(&self, limit: Duration) -> Deadline {
        let end = Deadline::after(limit);
        self.deadline.map_or(end, |deadline| deadline.min(end))
    }

    fn timed_out(&self, end: Deadline, phase: Phase, doing: &str) -> DeliveryError {
        let cause = if self.deadline == Some(end) { ATTEMPT_TIMED_OUT } else { "time-out" };
        DeliveryError::new(phase, format!("{cause} {doing} {}", phase.as_str()))
    }

    async fn read_some(&mut self) -> std::io::Result<usize> {
        let buffer = self.reader.buffer();
        match &mut self.socket {
            Socket::Plain(stream) => stream.read_buf(buffer).await,
            Socket::Tls(stream) => stream.read_buf(buffer).await,
        }
    }

    /// Whether the server sent an unsolicited reply or closed the connection. The client would take an unsolicited
    /// reply for the reply to the next command, and so for the result of another message.
    pub async fn has_unsolicited_input(&mut self) -> bool {
        // The runtime notices received data only when it polls the system.
        tokio::task::yield_now().await;
        let readable = tokio::select! {
            biased;
            _ = self.read_some() => true,
            () = std::future::ready(()) => false,
        };
        readable || self.reader.has_leftover()
    }

    /// The time limit of a phase (RFC 5321 §4.5.3.2).
    fn timeout_of(&self, phase: Phase) -> Duration {
        match phase {
            Phase::Connect => self.timeouts.connect,
            Phase::Greeting => self.timeouts.greeting,
            Phase::StartTls => self.timeouts.starttls,
            Phase::Hello | Phase::Auth | Phase::Mail | Phase::Rcpt => self.timeouts.command,
            Phase::Data => self.timeouts.data,
            Phase::Content => self.timeouts.final_dot,
        }
    }

    /// Sends QUIT and waits for the reply, both within `timeouts.quit`.
    pub async fn quit(&mut self, transcript: &mut Transcript) {
        self.deadline = None;
        let limit = self.timeouts.quit;
        let exchange = async {
            if self.write(b"QUIT\r\n", Phase::Hello).await.is_ok() {
                transcript.sent("QUIT");
                if let Ok(reply) = self.read_reply(Phase::Hello).await {
                    transcript.received(&reply);
                }
            }
        };
        let _ = timeout(limit, exchange).await;
    }
}
