//! The client's side of SMTP (RFC 5321) as machines without I/O.
//!
//! [`Opening`] takes a fresh connection to the point where mail can be sent, [`Transaction`] sends one message to
//! several recipients and ends with one outcome for each, [`Stuffing`] puts a message into its wire form and
//! [`ReplyReader`] turns bytes into replies. The shell reads, writes, keeps the time and does the TLS handshake.
//!
//! What a transaction writes and what it reads are apart: the envelope of the next message may be written behind the
//! body of this one, before this one's last reply is read (RFC 2920 §3.1). Imports `mail` and [`super::Reply`].

mod capabilities;
mod dot_stuffing;
mod handshake;
mod reply_reader;
mod scram;
mod transaction;

pub use self::dot_stuffing::Stuffing;
pub use self::handshake::{Command, Login, Opening, OpeningError, OpeningOptions, StartTls, Step};
pub use capabilities::Capabilities;
pub use reply_reader::{ReplyError, ReplyReader};
pub use scram::ScramError;
pub use transaction::{Next, Outcome, Request, Target, Transaction};

/// Which part of the dialogue something belongs to. Decides what a reply means and how long to wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Finding the host and reaching it.
    Connect,
    /// The server's first reply.
    Greeting,
    /// EHLO or HELO.
    Hello,
    /// STARTTLS and the handshake.
    StartTls,
    /// AUTH.
    Auth,
    /// MAIL, and the RSET before it.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The message, up to the reply to its final dot.
    Content,
}

impl Phase {
    /// How people call it.
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
