//! Errors of commands and their parameters.

use crate::mail::AddressError;

/// Why a line is not a valid command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandError {
    /// Control characters, or not UTF-8.
    Malformed,
    /// Longer than the command may be (RFC 5321 §4.5.3.1.4).
    TooLong,
    /// Unknown verb.
    Unknown,
    /// A verb of SMTP that this server does not implement.
    NotOffered,
    /// An HTTP request line.
    Http,
    /// The arguments do not match this syntax.
    Argument(&'static str),
    /// A parameter of no offered extension (RFC 5321 §4.1.1.11); the text lists the supported ones.
    Parameter(&'static str),
    /// The address in a path is invalid.
    Address(AddressError),
}
