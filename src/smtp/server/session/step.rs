//! The inputs and outputs of a session: inputs, steps, questions and verdicts.

use bytes::Bytes;

use crate::mail::{Address, Envelope, ReversePath};
use crate::model::{MessageId, Refusal, ReportId, Stage};
use crate::smtp::Reply;
use crate::smtp::line::LineError;
use crate::smtp::sasl::{Credentials, Parameters, Proof};

/// An input to the session.
#[derive(Debug)]
pub enum Input<'a> {
    /// The connection is open; with implicit TLS, after the handshake.
    Start,
    /// A line, without its CRLF.
    Line(&'a [u8]),
    /// The input contains no valid line.
    LineError(LineError),
    /// Content octets after 354 or BDAT.
    Body(&'a [u8]),
    /// There is no memory for the content: the session discards it, reads the rest and then sends this reply.
    BodyRefused(Reply),
    /// The verdict on the last question.
    Answer(Verdict),
    /// The handshake after [`Next::UpgradeTls`] succeeded.
    TlsDone,
    /// The client sent nothing for the idle timeout.
    Idle,
    /// The client did not log in, or name a recipient that is accepted, within the login timeout.
    NoLogin,
    /// Another connection needs the slot of this one, whose client has not logged in.
    Evicted,
    /// The content arrives below the minimum rate.
    TooSlow,
    /// The server is shutting down. A session that receives content ignores this; send it again after the content.
    ShuttingDown,
    /// The client closed the connection.
    Eof,
}

/// The output of the session: write the reply, then do `next`.
#[derive(Debug)]
pub struct Step {
    /// The reply to write.
    pub reply: Option<Reply>,
    /// Octets of [`Input::Body`] that were content; commands follow them.
    pub consumed: usize,
    /// What to do after that.
    pub next: Next,
}

/// What the session needs next.
#[derive(Debug)]
pub enum Next {
    /// A line.
    ReadLine,
    /// More content.
    ReadBody,
    /// The verdict on a question, before any other input.
    Ask(Question),
    /// A TLS handshake, after the reply is sent and all input received before is discarded (RFC 3207 §4.2).
    UpgradeTls,
    /// Close the connection after the reply is sent.
    Close,
}

/// A question that the session cannot answer itself.
#[derive(Debug)]
pub enum Question {
    /// Are these credentials valid?
    Authenticate(Credentials),
    /// The SCRAM parameters of a user, as [`Verdict::Scram`].
    FindUser(String),
    /// Is this proof valid for the user of the last [`Question::FindUser`]? Answered with [`Verdict::Proven`].
    CheckProof(Proof),
    /// Is this sender allowed?
    AdmitSender(ReversePath),
    /// Is this recipient allowed?
    AdmitRecipient {
        /// The recipient.
        address: Address,
        /// Whether MAIL had SMTPUTF8.
        smtputf8: bool,
        /// Recipients accepted so far in the transaction.
        earlier: usize,
    },
    /// Is there memory for a message?
    StartData {
        /// The size declared with MAIL or BDAT.
        octets_declared: Option<u64>,
    },
    /// Accept and store this message.
    Accept {
        /// The envelope, as accepted.
        envelope: Box<Envelope>,
        /// Content with CRLF line ends, without NUL, bare CR or bare LF.
        message: Bytes,
        /// Whether `message` is only the beginning, because of [`Verdict::GrantedKeeping`].
        is_truncated: bool,
        /// The `with` keyword for `Received`, such as `ESMTPSA`.
        protocol: &'static str,
    },
    /// The session refuses the command or message. Record the refusal and answer with [`Verdict::Refused`].
    Refuse {
        /// The stage of the transaction.
        stage: Stage,
        /// The reason.
        refusal: Refusal,
    },
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Granted,
    /// Yes, but keep only so many octets at the beginning of the message: an answer to [`Question::StartData`].
    GrantedKeeping(u64),
    /// Yes; the message is stored under this id.
    Queued(MessageId),
    /// Yes; the message is recorded as this report.
    Recorded(ReportId),
    /// The SCRAM parameters of the user.
    Scram(Parameters),
    /// Yes; the server signature for the client.
    Proven(Vec<u8>),
    /// No, with this reply; 421 closes the session.
    Refused(Reply),
}

impl Step {
    pub(super) fn reply(reply: Reply, next: Next) -> Self {
        Self { reply: Some(reply), consumed: 0, next }
    }

    pub(super) fn silent(next: Next) -> Self {
        Self { reply: None, consumed: 0, next }
    }
}
