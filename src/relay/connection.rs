//! An open connection to a mail host, over which messages are sent one after another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::delivery_error::DeliveryError;
use super::peer::Peer;
use super::smtp_stream::SmtpStream;
use super::tls::client::Trust;
use super::transcript::Transcript;
use crate::clock::{Clock, Deadline, Instant};
use crate::mail::{Content, DomainName};
use crate::model::TlsMinimum;
use crate::policy::tls::Requirement;
use crate::smtp::client::{Capabilities, Outcome, Phase, Request, Transaction};

/// An open connection to a server that accepts mail.
pub struct Connection {
    /// The server.
    pub peer: Arc<Peer>,
    /// The address that was dialled.
    pub address: SocketAddr,
    /// Messages sent over it.
    pub messages: u32,
    /// The domain whose TLS policy the connection met at the last check.
    pub tls_verified_for: Option<TlsVerifiedFor>,
    stream: SmtpStream,
    capabilities: Capabilities,
    /// Whether a transaction is open at the server that needs RSET.
    needs_reset: bool,
    /// How the server proved its name; `None` without TLS.
    trust: Option<Trust>,
    /// Whether another message can be sent.
    usable: bool,
    _permit: OwnedSemaphorePermit,
}

/// The parts of a connection after EHLO and AUTH.
pub struct Opened {
    /// The server.
    pub peer: Peer,
    /// The address that was dialled.
    pub address: SocketAddr,
    /// The stream, after EHLO and AUTH.
    pub stream: SmtpStream,
    /// The extensions that the server offers.
    pub capabilities: Capabilities,
    /// How the server proved its name; `None` without TLS.
    pub trust: Option<Trust>,
    /// The permit for the connection; released when the connection closes.
    pub permit: OwnedSemaphorePermit,
}

/// A domain whose TLS policy the connection met, and when that was checked.
#[derive(Debug)]
pub struct TlsVerifiedFor {
    domain: DomainName,
    since: Instant,
}

/// The result of sending one message.
#[derive(Debug)]
pub struct SendResult {
    /// One for each recipient; `None` if the connection ended first.
    pub outcomes: Vec<Option<Outcome>>,
    /// Why it ended.
    pub error: Option<DeliveryError>,
    /// Whether the server replied to any command.
    pub server_replied: bool,
    /// Whether the server may have accepted the message although its reply was not read.
    pub in_doubt: bool,
}

impl TlsVerifiedFor {
    /// A check at this time.
    pub fn new(domain: DomainName, since: Instant) -> Self {
        Self { domain, since }
    }

    /// Whether the check was for this domain and is more recent than `lifetime`.
    pub fn is_valid_for(&self, domain: &DomainName, lifetime: Duration, clock: &Clock) -> bool {
        self.domain == *domain && clock.elapsed_since(self.since) < lifetime
    }
}

impl SendResult {
    /// The connection was unusable before anything was sent.
    fn not_sent(recipients: usize) -> Self {
        let text = "the server had closed the connection or sent an unsolicited reply";
        Self {
            outcomes: std::iter::repeat_with(|| None).take(recipients).collect(),
            error: Some(DeliveryError::new(Phase::Mail, text)),
            server_replied: false,
            in_doubt: false,
        }
    }
}

impl Connection {
    /// A connection after EHLO and AUTH.
    pub fn new(opened: Opened) -> Self {
        let Opened { peer, address, stream, capabilities, trust, permit } = opened;
        Self {
            peer: Arc::new(peer),
            address,
            messages: 0,
            tls_verified_for: None,
            stream,
            capabilities,
            trust,
            needs_reset: false,
            usable: true,
            _permit: permit,
        }
    }

    /// Sends one message to its recipients.
    pub async fn send(
        &mut self,
        request: &Request<'_>,
        content: &Content,
        transcript: &mut Transcript,
    ) -> SendResult {
        if self.messages > 0 && self.stream.has_unsolicited_input().await {
            self.usable = false;
            return SendResult::not_sent(request.recipients.len());
        }
        self.messages += 1;
        let request = Request { reset: self.needs_reset, ..*request };
        let mut transaction = Transaction::new(&self.capabilities, &request);
        let error = self.stream.run(&mut transaction, content, transcript).await.err();
        self.needs_reset = transaction.needs_reset();
        self.usable =
            error.is_none() && !transaction.is_unusable() && !self.stream.has_unsolicited_input().await;
        SendResult {
            error,
            server_replied: transaction.has_progressed(),
            in_doubt: transaction.awaits_final_reply(),
            outcomes: transaction.into_outcomes(),
        }
    }

    /// Until when the next message must have been sent; see [`SmtpStream::set_deadline`].
    pub fn set_deadline(&mut self, deadline: Deadline) {
        self.stream.set_deadline(deadline);
    }

    /// Whether another message can be sent.
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// Whether a message with REQUIRETLS may be sent over it (RFC 8689 §4.2.1).
    pub fn supports_require_tls(&self) -> bool {
        matches!(self.trust, Some(Trust::Verified | Trust::Dane(_))) && self.capabilities.require_tls
    }

    /// Whether its TLS meets a requirement.
    pub fn meets(&self, requirement: &Requirement) -> bool {
        match &self.trust {
            Some(trust) => trust.meets(requirement),
            None => requirement.strength() == TlsMinimum::Opportunistic,
        }
    }

    /// Sends QUIT if the connection is usable, and closes it.
    pub async fn quit(mut self) {
        if self.usable {
            self.stream.quit(&mut Transcript::default()).await;
        }
    }
}
