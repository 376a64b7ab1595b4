//! Decides the questions of a session, with the services that the server is for.

use std::net::IpAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::inbound_session::InboundSession;
use super::submission_session::SubmissionSession;
use super::{Backend, Server};
use crate::limits::connection_limiter::ConnectionSlot;
use crate::model::TenantId;
use crate::smtp::{Question, Verdict};

/// The client of a connection.
pub struct Peer {
    /// The client's address, for limits and for networks of keys.
    pub client: IpAddr,
    /// The admission of the connection.
    pub slot: ConnectionSlot,
}

/// The services of one session, and the state of its client.
pub enum SessionServices {
    /// A client that submits mail.
    Submission(SubmissionSession),
    /// A server that sends reports.
    Inbound(InboundSession),
}

impl SessionServices {
    pub fn new(server: Arc<Server>, peer: Peer, stop: CancellationToken) -> Self {
        match server.backend.clone() {
            Backend::Submission(submission) => {
                Self::Submission(SubmissionSession::new(server, submission, peer, stop))
            }
            Backend::Inbound(returns) => Self::Inbound(InboundSession::new(server, returns, peer, stop)),
        }
    }

    /// Call after a TLS handshake. Discards an earlier authentication (RFC 3207 §4.2).
    pub fn set_tls(&mut self, secured: String) {
        match self {
            Self::Submission(session) => session.set_tls(secured),
            Self::Inbound(_) => {}
        }
    }

    /// Decides one question. `helo` is the EHLO name of the client.
    pub async fn handle(&mut self, question: Question, helo: &str) -> Verdict {
        match self {
            Self::Submission(session) => session.handle(question, helo).await,
            Self::Inbound(session) => session.handle(question, helo).await,
        }
    }

    /// The authenticated tenant, or the tenant of the message that the next report is about.
    pub fn tenant_id(&self) -> Option<TenantId> {
        match self {
            Self::Submission(session) => session.tenant_id(),
            Self::Inbound(session) => session.tenant_id(),
        }
    }

    /// Whether the client has logged in, or named a recipient that is accepted.
    pub fn is_admitted(&self) -> bool {
        match self {
            Self::Submission(session) => session.tenant_id().is_some(),
            Self::Inbound(session) => session.is_admitted(),
        }
    }

    /// How much of the next message is kept; `None` is all of it.
    pub fn keep_octets_max(&self) -> Option<u64> {
        match self {
            Self::Submission(_) => None,
            Self::Inbound(session) => Some(session.keep_octets_max()),
        }
    }
}
