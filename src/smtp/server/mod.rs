//! The server role of SMTP, for submission (RFC 6409) and for reports of other servers: the session, its EHLO response and its replies.

#[cfg(test)]
mod dialogue_tests;
mod extension;
mod mail_transaction;
pub mod replies;
mod session;
#[cfg(test)]
mod session_tests;
mod settings;
#[cfg(test)]
mod testing;

pub use session::{Input, Next, Question, Session, Step, Verdict};
pub use settings::{Profile, SessionSettings};
