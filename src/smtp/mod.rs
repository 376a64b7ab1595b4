//! The SMTP protocol without I/O, clock and tokio, for both roles.
//!
//! The server role, for submission (RFC 6409) and for reports of other servers:
//! * [`LineReader`]: finds command lines (RFC 5321 §2.3.8).
//! * `command`: verbs and arguments, as in the ABNF of RFC 5321 §4.1; `parameters`: the parameters of MAIL and RCPT.
//! * `sasl`: AUTH PLAIN, LOGIN and SCRAM-SHA-256 (RFC 4954).
//! * `data`: decodes message content and finds its end (RFC 5321 §4.5.2).
//! * [`proxy`]: the PROXY protocol header of a load balancer.
//! * `extension`: the EHLO response.
//! * [`Session`]: the server side of one connection.
//! * `replies`: the replies that the session writes itself.
//!
//! The client role is [`client`]. Imports `mail` and `model`.

pub mod client;
mod command;
mod command_error;
mod data;
mod line;
mod parameters;
pub mod proxy;
mod reply;
mod sasl;
pub mod server;

pub use command::Verb;
pub use command_error::CommandError;
pub use data::{BareNewline, ContentError, DataLimits, DataProgress, Decoder, Framing};
pub use line::{LINE_OCTETS_MAX, LineError, LineReader};
pub use reply::Reply;
pub use sasl::{ChannelBinding, Credentials, Parameters as ScramParameters, Proof as ScramProof};
pub use server::{Input, Next, Profile, Question, Session, SessionSettings, Step, Verdict};
