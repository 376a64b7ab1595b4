//! The server role, for submission (RFC 6409).

#[cfg(test)]
mod dialogue_tests;
mod extension;
mod mail_transaction;
pub mod replies;
mod session;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod testing;

pub use session::{Input, Next, Question, Session, SessionSettings, Step, Verdict};
