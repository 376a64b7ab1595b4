//! The SMTP protocol as values, in both roles. No I/O, no clock, no tokio: bytes come in, steps come out.
//!
//! The server's side, for submission (RFC 6409), from the outside in:
//! * [`Session`]: the whole state of one connection. `step` takes an [`Input`] and says what is [`Next`].
//! * [`LineReader`]: where a command line ends (RFC 5321 §2.3.8).
//! * `command`: verbs and arguments, shaped like the ABNF of RFC 5321 §4.1; `parameters` those of MAIL and RCPT.
//! * `sasl`: AUTH PLAIN, LOGIN and SCRAM-SHA-256 (RFC 4954).
//! * `data`: where a message ends, and its bytes without the transparency dots (RFC 5321 §4.5.2).
//! * [`proxy`]: what a load balancer says in front of all this.
//! * `extension`: what EHLO offers.
//! * `replies`: each reply of our own, once, by its number.
//!
//! The client's side is [`client`]. Imports `mail` only.

pub mod client;
mod command;
mod data;
mod line;
mod parameters;
pub mod proxy;
mod reply;
mod sasl;
pub mod server;

pub use command::{CommandError, Verb};
pub use data::{BareNewline, DataLimits, DataProgress, Decoder, Fault, Framing};
pub use line::{LINE_OCTETS_MAX, LineError, LineReader};
pub use reply::Reply;
pub use sasl::{ChannelBinding, Credentials, Parameters as ScramParameters, Proof as ScramProof};
pub use server::{Input, Next, Question, Session, SessionSettings, Step, Verdict};
