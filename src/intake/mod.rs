//! Accepting mail: who is it, may it, then stamp, sign and enqueue in one transaction. Used by SMTP and by the
//! HTTP send API. Imports `mail`, `policy`, `sign` and `store`.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use crate::mail::{Address, Envelope, MessageId, Refusal, RequestId, ReversePath, Stage};
use crate::store::{Key, Store, Tenant};

/// Accepts mail into a store.
pub struct Intake {
    _store: Arc<Store>,
}

/// Who submits: a tenant through one of its keys.
#[derive(Debug, Clone)]
pub struct Submitter {
    /// As it was when the credential was checked; later questions look again.
    pub tenant: Tenant,
    /// Likewise.
    pub key: Key,
    /// Where the client is.
    pub client_address: IpAddr,
}

/// Why a credential was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthenticationError {
    /// Unknown user, wrong password, expired or revoked: told apart in no reply.
    Rejected,
    /// Known and right, but refused for a reason that the client may know.
    Refused(Refusal),
    /// The store cannot be asked now.
    Unavailable,
}

/// A message on its way in, once its envelope was admitted.
#[derive(Debug)]
pub struct Submission {
    /// Who submits it.
    pub submitter: Arc<Submitter>,
    /// As admitted.
    pub envelope: Envelope,
    /// CRLF throughout, no NUL, no lone CR or LF.
    pub message: Bytes,
    /// How it came.
    pub trace: Trace,
}

/// What `Received` says of how a message came (RFC 5321 §4.4).
#[derive(Debug, Clone)]
pub struct Trace {
    /// The name in EHLO or HELO; printable ASCII.
    pub helo: String,
    /// `ESMTPSA`, `SMTP`, `UTF8SMTPSA`, `HTTP` (RFC 3848, RFC 6531 §4.3).
    pub protocol: &'static str,
    /// Like `TLSv1.3 with cipher TLS13_AES_256_GCM_SHA384`.
    pub tls: Option<String>,
}

impl Intake {
    /// Finds the tenant behind a user name (a key's id, or the tenant's slug) and a secret with the scope to submit.
    pub async fn authenticate(
        &self,
        _username: &str,
        _password: &str,
        _client_address: IpAddr,
    ) -> Result<Submitter, AuthenticationError> {
        todo!()
    }

    /// Whether the submitter may send from this path now.
    pub async fn admit_sender(&self, _submitter: &Submitter, _sender: &ReversePath) -> Result<(), Refusal> {
        todo!()
    }

    /// Whether the submitter may send to this address now.
    pub async fn admit_recipient(
        &self,
        _submitter: &Submitter,
        _recipient: &Address,
        _smtputf8: bool,
    ) -> Result<(), Refusal> {
        todo!()
    }

    /// Checks the header, stamps, signs and enqueues. After `Ok` the message is on disk.
    pub async fn accept(&self, _submission: Submission) -> Result<MessageId, Refusal> {
        todo!()
    }

    /// Notes a refusal for the tenant to read; the answer is the reference for the reply.
    pub fn note_rejection(&self, _submitter: &Submitter, _stage: Stage, _refusal: &Refusal) -> RequestId {
        todo!()
    }
}
