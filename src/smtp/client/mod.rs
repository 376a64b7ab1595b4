//! The client role of SMTP (RFC 5321), as state machines without I/O.
//!
//! [`Handshake`] prepares a new connection for mail. [`Transaction`] sends one message to several recipients and
//! yields one reply for each. [`DotStuffer`] converts the message to wire form, and [`ReplyReader`] parses replies.
//! The caller does I/O, timeouts and TLS.
//!
//! A transaction separates writing from reading: the envelope of the next message may be written after the content of
//! this one, before its last reply is read (RFC 2920 §3.1). Imports `mail`, `model` and [`super::Reply`].

mod capabilities;
mod dot_stuffing;
mod handshake;
mod login;
mod reply_reader;
mod request;
mod scram;
mod transaction;

pub use self::dot_stuffing::DotStuffer;
pub use self::handshake::{Command, Handshake, HandshakeError, HandshakeOptions, StartTls, Step};
pub use self::login::Login;
pub use capabilities::Capabilities;
pub use reply_reader::{ReplyError, ReplyReader};
pub use request::{Outcome, Request, Target};
pub use scram::ScramError;
pub use transaction::{Next, Transaction};

/// A phase of the dialogue. It decides the meaning and the timeout of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// DNS lookup and TCP connection.
    Connect,
    /// The 220 greeting.
    Greeting,
    /// EHLO or HELO.
    Hello,
    /// STARTTLS and the handshake.
    StartTls,
    /// AUTH.
    Auth,
    /// MAIL, and RSET before it.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The content, up to the reply to the final dot.
    Content,
}

impl Phase {
    /// The phase in log and error texts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connecting",
            Self::Greeting => "the greeting",
            Self::Hello => "EHLO",
            Self::StartTls => "STARTTLS",
            Self::Auth => "AUTH",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Content => "the message",
        }
    }
}
